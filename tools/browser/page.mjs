// Checks of the page against a running `bitnet serve`: node page.mjs URL FOLDER-FOR-SCREENSHOTS
//
// One line per check; the first that fails ends the run with exit code 1 and a screenshot of the moment.

import fs from "node:fs";
import path from "node:path";
import { accessible, answered, answerText, ask, busy, check, fixture, launch, open, setting } from "./lane.mjs";

const [url, shots] = process.argv.slice(2);
if (!url || !shots) throw new Error("usage: node page.mjs URL FOLDER");
fs.mkdirSync(shots, { recursive: true });

const checks = {
  "the page comes with a strict policy and from one host": async ({ response }) => {
    const policy = response.headers()["content-security-policy"] ?? "";
    check(policy.includes("default-src 'none'"), `the policy is '${policy}'`);
    check(!policy.includes("unsafe"), `the policy is '${policy}'`);
    const size = await fetched(response.url());
    check(size < 200_000, `the page and its parts are ${size} bytes`);
  },

  "words appear as they stream": async ({ page }) => {
    await setting(page, "set-max_tokens", 2000);
    await setting(page, "set-temperature", 0);
    await page.evaluate(() => {
      window.seen = new Set();
      const look = () => {
        const text = document.querySelector(".answer .text")?.textContent;
        if (text && document.querySelector(".answer.busy")) window.seen.add(text.length);
      };
      new MutationObserver(look).observe(document.getElementById("log"), { childList: true, subtree: true, characterData: true });
    });
    await ask(page, "In the beginning");
    await answered(page);
    const seen = await page.evaluate(() => Array.from(window.seen));
    check(seen.length >= 5, `the answer had the lengths ${seen} while it was made`);
    check(seen.every((length, i) => i === 0 || length > seen[i - 1]), `the lengths were ${seen}`);
    const facts = await page.locator(".answer .meta").innerText();
    check(/tokens\/s/.test(facts) && /first after/.test(facts), `the facts are '${facts}'`);
  },

  "answering again at temperature 0 gives the same words": async ({ page }) => {
    const before = await answerText(page);
    await page.hover(".answer");
    await page.click('[aria-label="Answer again"]');
    await page.waitForSelector(".answer.busy");
    await answered(page);
    check((await answerText(page)) === before, "the answers differ");
    check((await page.locator(".message").count()) === 2, "an answer was added instead of replaced");
  },

  "copy puts the answer into the clipboard": async ({ page }) => {
    await page.hover(".answer");
    await page.click('[aria-label="Copy the answer"]');
    const copied = await page.evaluate(() => navigator.clipboard.readText());
    const kept = await page.evaluate(() => JSON.parse(localStorage.getItem(`bitforge.chat.${location.hash.slice(1)}`)));
    check(copied === kept.messages[1].text, `copied '${copied}'`);
  },

  "editing a question drops what followed it": async ({ page }) => {
    await page.hover(".user");
    await page.click('[aria-label="Edit this message"]');
    await page.fill(".editing", "And God said");
    await page.press(".editing", "Enter");
    await page.waitForFunction(() => document.querySelector(".user .text")?.textContent === "And God said");
    await answered(page);
    check((await page.locator(".message").count()) === 2, "the old messages are still there");
  },

  "stop stops, and what was said stays": async ({ page }) => {
    await setting(page, "set-max_tokens", 100000);
    await page.click("#new-chat");
    await ask(page, "And it came to pass");
    await page.waitForFunction(() => document.querySelector(".answer .text")?.textContent.length > 20);
    await page.click("#send");
    await answered(page);
    const text = await answerText(page);
    check(text.length > 20, "the answer is gone");
    check(await page.getByText("You stopped this answer.").isVisible(), "nothing says that it was stopped");
    await page.waitForTimeout(400);
    check((await answerText(page)) === text, "the answer went on");
  },

  "Escape stops too": async ({ page }) => {
    await ask(page, "And after that");
    await page.waitForFunction(() => document.querySelectorAll(".answer")[1]?.textContent.length > 20);
    await page.keyboard.press("Escape");
    await answered(page);
    check((await page.getByText("You stopped this answer.").count()) === 2, "it was not stopped");
  },

  "another conversation can be read while one is answered": async ({ page }) => {
    await ask(page, "And the people");
    await page.waitForFunction(() => document.querySelectorAll(".answer")[2]?.textContent.length > 20);
    await page.locator(".entry", { hasText: "And God said" }).click();
    check((await page.locator(".user .text").first().innerText()) === "And God said", "the other one is not shown");
    check((await page.locator(".running").count()) === 1, "the list does not show what is running");
    check((await busy(page)) === 0, "the other conversation looks busy");
    await page.locator(".entry", { hasText: "And it came to pass" }).click();
    check((await busy(page)) === 1, "the answer is not shown as running");
    await page.keyboard.press("Escape");
    await answered(page);
  },

  "conversations survive a reload": async ({ page }) => {
    const read = () => page.evaluate(() => [
      Array.from(document.querySelectorAll(".entry"), (node) => node.textContent),
      Array.from(document.querySelectorAll(".message .text"), (node) => node.textContent),
      document.getElementById("set-temperature").value,
    ]);
    const before = await read();
    await page.reload();
    await page.waitForSelector(".message");
    const after = await read();
    check(JSON.stringify(after) === JSON.stringify(before), `${JSON.stringify(before)} became ${JSON.stringify(after)}`);
    check(before[0].length === 2 && before[1].length === 6, `there were ${before[0].length} conversations`);
  },

  "an answer that a reload cuts off is kept as far as it came": async ({ page }) => {
    await page.click("#new-chat");
    await ask(page, "Now these are the names");
    await page.waitForFunction(() => document.querySelector(".answer .text")?.textContent.length > 40);
    await page.reload();
    await page.waitForSelector(".answer");
    check((await answerText(page)).length > 20, "the answer is gone");
    check(await page.getByText("The page was closed").isVisible(), "nothing says that it is not whole");
  },

  "imported conversations are shown as text, whatever they hold": async ({ page }) => {
    await page.setInputFiles("#import-file", fixture);
    await page.locator(".entry", { hasText: "What are ternary" }).click();
    const found = await page.evaluate(() => {
      const count = (selector) => document.querySelectorAll(`.answer .text :is(${selector})`).length;
      return {
        dangerous: count("script, img, iframe, [onerror], [href^=javascript]"),
        marks: ["strong", "em", "del", "h2", "ol > li", "ul ul, ol ul", "pre code", "table td", "blockquote", "a[href^=https]", ".hl-k"].map(count),
        text: document.querySelector(".answer .text").textContent,
      };
    });
    check(found.dangerous === 0, `${found.dangerous} elements that could act`);
    check(found.marks.every((n) => n > 0), `elements of each kind: ${found.marks}`);
    check(found.text.includes("and here."), "the parentheses of an address are not its own");
    check(found.text.includes("<script>alert(1)</script> <img src=x onerror=alert(1)>"), "the markup is not text");
  },

  "export and import give the same conversations": async ({ page, browser }) => {
    const [download] = await Promise.all([page.waitForEvent("download"), page.click("#export")]);
    const file = await download.path();
    const exported = JSON.parse(fs.readFileSync(file, "utf8"));
    check(exported.conversations.length === 5, `${exported.conversations.length} conversations were exported`);
    const other = await open(browser, url);
    await other.page.setInputFiles("#import-file", file);
    await other.page.waitForSelector(".entry");
    const [again] = await Promise.all([other.page.waitForEvent("download"), other.page.click("#export")]);
    const text = fs.readFileSync(await again.path(), "utf8");
    check(text === fs.readFileSync(file, "utf8"), "the files differ");
    await other.page.setInputFiles("#import-file", { name: "a.json", mimeType: "application/json", buffer: Buffer.from("[1") });
    await other.page.getByText("the file is not JSON").waitFor();
    await other.finish();
  },

  "rename, find and delete": async ({ page }) => {
    await page.click("#rename");
    await page.fill("#ask-text", "Trits");
    await page.press("#ask-text", "Enter");
    await page.locator(".entry", { hasText: "Trits" }).waitFor();
    await page.fill("#filter", "tri");
    check((await page.locator(".entry").count()) === 1, "the list is not filtered");
    await page.hover(".entry");
    await page.click('[aria-label="Delete “Trits”"]');
    await page.click("#ask-yes");
    await page.getByText("Nothing found.").waitFor();
    await page.fill("#filter", "");
    await page.waitForFunction(() => document.querySelectorAll(".entry").length === 4);
  },

  "the panel shows backend, kernels and receipt": async ({ page }) => {
    await page.click("#panel-open");
    await page.click("#tab-engine");
    const props = await page.evaluate(() => fetch("props").then((response) => response.json()));
    const shown = await page.locator("#engine").innerText();
    for (const heading of ["Model", "Backend", "Kernel set", "Kernel of each operation", "Receipt"]) {
      check(shown.includes(heading), `the panel has no ${heading}: ${shown.slice(0, 300)}`);
    }
    check(shown.includes(props.selection_line) && shown.includes(props.backend_line), "a selection line is not shown");
    check((await page.locator("#engine .kernels tbody tr").count()) >= props.kernels.length, "a kernel is not shown");
    await page.click("#panel-close");
  },

  "all of it by keyboard": async ({ page }) => {
    await page.reload();
    await page.waitForSelector("#question");
    await page.keyboard.press("Tab");
    check((await page.evaluate(() => document.activeElement.className)) === "skip", "the first stop is not the skip link");
    await page.keyboard.press("Enter");
    await page.keyboard.type("By the waters");
    await setting(page, "set-max_tokens", 8);
    await page.focus("#question");
    await page.keyboard.press("Enter");
    await page.waitForSelector(".answer");
    await answered(page);
    await page.keyboard.press("ArrowUp");
    check((await page.evaluate(() => document.activeElement.className)) === "editing", "ArrowUp does not edit");
    await page.keyboard.press("Escape");
    const said = await page.locator("#said").textContent();
    check(said === "The answer is complete", `a screen reader heard '${said}'`);
    await page.keyboard.press("Control+Shift+O");
    check((await page.locator(".welcome").count()) === 1, "there is no new conversation");
  },
};

// Bytes of the page and of everything that it loads.
async function fetched(base) {
  const seen = new Set();
  let bytes = 0;
  const load = async (address) => {
    if (seen.has(address)) return;
    seen.add(address);
    const body = await (await fetch(address)).text();
    bytes += Buffer.byteLength(body);
    const parts = body.matchAll(/(?:src|href)="([\w./-]+\.(?:js|css|svg))"|from "(\.\/[\w.-]+)"/g);
    for (const part of parts) await load(new URL(part[1] ?? part[2], address).href);
  };
  await load(base);
  check(seen.size > 5, `only ${seen.size} parts were found`);
  return bytes;
}

// Every state at every width in both themes: no overflow, nothing for axe-core to find, a screenshot.
async function layouts(browser) {
  for (const scheme of ["light", "dark"]) {
    for (const width of [360, 768, 1440]) {
      const { page, finish } = await open(browser, url, { width, scheme, touch: width === 360 });
      let number = 0;
      const state = async (name) => {
        await page.waitForTimeout(300);
        const wide = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
        check(wide <= 0, `${scheme} ${width} ${name}: ${wide} px too wide`);
        await accessible(page, `${scheme} ${width} ${name}`);
        number += 1;
        await page.screenshot({ path: path.join(shots, `${width}-${scheme}-${number}-${name}.png`) });
      };
      await state("welcome");
      await page.setInputFiles("#import-file", fixture);
      await page.locator(".entry").first().waitFor({ state: "attached" });
      await page.evaluate(() => document.querySelector(".entry").click());
      await page.locator("#banner button").click();
      await page.evaluate(() => (document.getElementById("scroll").scrollTop = 0));
      await state("markdown");
      if (width === 360) {
        await page.click("#chats-open");
        await state("conversations");
        await page.click("#chats-close");
      }
      await page.click("#panel-open");
      await state("settings");
      await page.click("#tab-engine");
      await state("engine");
      await page.click("#panel-close");
      await page.evaluate(() => document.getElementById("new-chat").click());
      await setting(page, "set-max_tokens", 100000);
      await ask(page, "In the beginning God created the heaven and the earth.");
      await page.waitForFunction(() => document.querySelector(".answer .text")?.textContent.length > 60);
      await state("streaming");
      if (await busy(page)) await page.click("#send");
      await answered(page);
      await state("answered");
      await finish();
    }
  }
}

const browser = await launch();
let session = null;
let failed = null;
const run = async (name, check) => {
  if (failed) return;
  try {
    await check();
    console.log(`ok      ${name}`);
  } catch (error) {
    failed = error;
    console.log(`FAILED  ${name}: ${error.message}`);
    await session?.page.screenshot({ path: path.join(shots, "failed.png") }).catch(() => {});
  }
};
await run("the page opens", async () => (session = await open(browser, url)));
for (const [name, act] of Object.entries(checks)) await run(name, () => act({ ...session, browser }));
await run("no console error, no exception, no request to another host", () => session.finish());
await run("layout, contrast and names at 360, 768 and 1440 px in both themes", () => layouts(browser));
await browser.close();
process.exitCode = failed ? 1 : 0;
