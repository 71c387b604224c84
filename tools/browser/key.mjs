// Checks of the page against a `bitnet serve` that asks for an API key: node key.mjs URL KEY

import { answered, answerText, ask, check, launch, open } from "./lane.mjs";

const [url, key] = process.argv.slice(2);
if (!url || !key) throw new Error("usage: node key.mjs URL KEY");
const browser = await launch();
try {
  const { page, finish } = await open(browser, url, { expected: /401/ });
  await page.getByText("Give the server’s API key in the settings.").first().waitFor();
  check((await page.evaluate(() => document.activeElement.id)) === "key", "the field for the key has no focus");
  await page.fill("#key", key);
  await page.waitForFunction(() => document.getElementById("model").textContent.includes(" · "));
  await page.click("#panel-close");
  await page.click("#new-chat");
  await page.evaluate(() => (document.getElementById("set-max_tokens").value = ""));
  await ask(page, "In the beginning");
  await page.waitForFunction(() => document.querySelector(".answer .text")?.textContent.length > 20);
  await page.click("#send");
  await answered(page);
  check((await answerText(page)).length > 20, "there is no answer");
  const kept = await page.evaluate(() => JSON.stringify(localStorage));
  check(!kept.includes(key), "the key is kept beyond the tab");
  await finish();
  console.log("ok      a server that asks for a key gets it, and the tab forgets it");
} catch (error) {
  console.log(`FAILED  a server that asks for a key: ${error.message}`);
  process.exitCode = 1;
}
await browser.close();
