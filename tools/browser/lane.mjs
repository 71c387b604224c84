// What every check shares: a browser, pages that note what must not happen, and assertions that say what was seen.

import fs from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";

const here = path.dirname(fileURLToPath(import.meta.url));
const axe = fs.readFileSync(path.join(here, "node_modules/axe-core/axe.min.js"), "utf8");
const CANDIDATES = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"];

export const fixture = path.join(here, "conversation.json");

export async function launch() {
  const executablePath = process.env.CHROMIUM || CANDIDATES.find((file) => fs.existsSync(file));
  if (!executablePath) throw new Error("there is no Chromium; install Debian's package chromium, or set CHROMIUM");
  return chromium.launch({ executablePath, args: ["--no-sandbox"] });
}

export function check(holds, what) {
  if (!holds) throw new Error(what);
}

// A page on `url` in a fresh profile. `finish()` fails on console errors but those
// `expected`, on exceptions, and on requests to other hosts.
export async function open(browser, url, { width = 1280, scheme = "light", touch = false, expected = null } = {}) {
  const context = await browser.newContext({
    viewport: { width, height: width < 500 ? 740 : 900 },
    colorScheme: scheme,
    hasTouch: touch,
    permissions: ["clipboard-read", "clipboard-write"],
  });
  const page = await context.newPage();
  const bad = [];
  const own = new URL(url).host;
  page.on("console", (message) => {
    if (["error", "warning"].includes(message.type()) && !expected?.test(message.text())) bad.push(`console: ${message.text()}`);
  });
  page.on("pageerror", (error) => bad.push(`exception: ${error}`));
  page.on("dialog", (dialog) => bad.push(`a dialog opened: ${dialog.message()}`));
  context.on("request", (request) => {
    const at = new URL(request.url());
    if (!["data:", "blob:"].includes(at.protocol) && at.host !== own) bad.push(`request to ${at.host}`);
  });
  const response = await page.goto(url);
  await page.waitForFunction(() => !document.getElementById("model").textContent.endsWith("…"));
  const finish = async () => {
    await context.close();
    check(!bad.length, bad.join("; "));
  };
  return { page, context, response, finish };
}

// Violations that axe-core finds in what is shown now.
export async function accessible(page, state) {
  if (!(await page.evaluate(() => "axe" in window))) await page.evaluate(axe);
  const { violations } = await page.evaluate(() => window.axe.run());
  const told = violations.map((v) => `${v.id}: ${v.nodes.map((node) => node.target.join(" ")).join(", ")}`);
  check(!told.length, `axe-core, ${state}: ${told.join("; ")}`);
}

export const answerText = (page) => page.locator(".answer .text").last().innerText();
export const busy = (page) => page.locator(".answer.busy").count();

export async function ask(page, text) {
  await page.fill("#question", text);
  await page.press("#question", "Enter");
  await page.waitForSelector(".answer");
}

export async function answered(page) {
  await page.waitForSelector(".answer.busy", { state: "detached", timeout: 120_000 });
}

export async function setting(page, name, value) {
  const open = await page.evaluate(() => document.getElementById("app").classList.contains("panel-open"));
  if (!open) await page.click("#panel-open");
  await page.click("#tab-settings");
  await page.fill(`#${name}`, String(value));
  if (!open) await page.click("#panel-close");
}
