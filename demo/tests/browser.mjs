// The built page in a real browser: node tests/browser.mjs URL [FOLDER FOR SCREENSHOTS]. Prints one JSON object.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { chromium } from "playwright-core";

const [url, shots] = process.argv.slice(2);
const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--no-sandbox"], // containers run as root
});
const found = { problems: [], violations: [], milliseconds: {} };
const median = (values) => values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)];

/** A page that notes what it draws, with what goes wrong on it. */
async function open(options, before = async () => {}) {
  const context = await browser.newContext(options);
  const page = await context.newPage();
  const problems = [];
  page.on("pageerror", (error) => problems.push(error.message));
  page.on("console", (message) => {
    if (["error", "warning"].includes(message.type())) problems.push(message.text());
  });
  await page.addInitScript(() => {
    self.drawn = [];
    document.addEventListener("stmd:drawn", ({ detail }) => self.drawn.push({ ...detail, x: Array.from(detail.x) }));
  });
  await before(page);
  await page.goto(url);
  return { context, page, problems };
}

/** All that was drawn for a place since the last look, once its last part is there. */
async function drawn(page, place) {
  // While a stroke goes on only the first few are drawn.
  const there = (at) => self.drawn.some((one) => one.place === at && one.last && (at !== "restored" || one.first > 0));
  await page.waitForFunction(there, place, { timeout: 60_000 });
  return page.evaluate((at) => {
    const parts = self.drawn.filter((one) => one.place === at);
    self.drawn = self.drawn.filter((one) => one.place !== at);
    const all = parts.filter((one) => one.id === parts.at(-1).id);
    return { x: all.flatMap((one) => one.x), milliseconds: all.map((one) => one.milliseconds) };
  }, place);
}

async function look(page, name) {
  await page.evaluate(axe);
  const { violations } = await page.evaluate(() => self.axe.run());
  for (const { id, nodes } of violations) found.violations.push(`${name}: ${id}: ${nodes.map((node) => node.html).join(" ")}`);
  if (shots) await page.screenshot({ path: `${shots}/${name}.png`, fullPage: true });
}

async function desktop() {
  const { context, page, problems } = await open({ viewport: { width: 1200, height: 900 } });
  await drawn(page, "gallery");
  found.digit = (await drawn(page, "easel")).x;
  found.restored = (await drawn(page, "restored")).x;
  await look(page, "desktop");

  // Samples of seed 0 in one and four steps, of one class and of all.
  const of = async (label, steps) => {
    await page.locator("#steps").fill(String(steps));
    await page.locator(`#classes input[value="${label}"]`).check({ force: true });
    await page.waitForTimeout(100);
    await page.evaluate(() => (self.drawn = []));
    await page.locator("#seed").fill("0");
    return (await drawn(page, "gallery")).x.slice(0, 8 * 784);
  };
  found.samples = { 1: await of(3, 1), 4: await of(-1, 4) };
  await of(3, 1);
  const times = [];
  for (let k = 0; k < 7; k++) {
    await page.locator("#next-seed").click();
    times.push(...(await drawn(page, "gallery")).milliseconds);
  }
  found.milliseconds.sixteen_digits = median(times);

  // A seed that is none is said, and draws nothing.
  await page.locator("#seed").fill("-1");
  found.seed_refused = await page.locator("#seed").evaluate((input) => !input.validity.valid);
  await page.waitForTimeout(500);
  found.drawn_of_no_seed = await page.evaluate(() => self.drawn.filter((one) => one.place === "gallery").length);
  await page.locator("#seed").fill("7");
  await drawn(page, "gallery");

  // A stroke of the mouse that hides, while which draws come too.
  await page.locator("#easel").scrollIntoViewIfNeeded();
  const box = await page.locator("#easel").boundingBox();
  const first = [], all = [];
  for (let k = 0; k < 3; k++) {
    await page.evaluate(() => (self.drawn = []));
    await page.mouse.move(box.x + box.width * 0.2, box.y + box.height * (0.4 + 0.1 * k));
    await page.mouse.down();
    await page.mouse.move(box.x + box.width * 0.5, box.y + box.height * (0.4 + 0.1 * k), { steps: 4 });
    if (k === 0) {
      await page.waitForFunction(() => self.drawn.some((one) => one.place === "restored" && one.last));
      found.while_painting = await page.evaluate(() => self.drawn.at(-1).x.length / 784);
      await page.evaluate(() => (self.drawn = []));
    }
    await page.mouse.up();
    const { milliseconds } = await drawn(page, "restored");
    first.push(milliseconds[0]);
    all.push(milliseconds[1]);
  }
  found.milliseconds.first_four_draws = median(first);
  found.milliseconds.sixteen_draws = median(all);
  found.certainty = await page.textContent("#certainty");

  // Keys: ink along a line, then undone.
  const easel = () => page.locator("#easel").evaluate((canvas) => canvas.toDataURL());
  await page.locator("#easel").focus();
  await page.locator("#easel").blur();
  const before = await easel();
  await page.locator("#easel").focus();
  await page.keyboard.press("i");
  for (let k = 0; k < 3; k++) await page.keyboard.press("Shift+ArrowLeft");
  found.brush = await page.locator("#tools input:checked").inputValue();
  await drawn(page, "restored");
  await page.locator("#easel").blur();
  found.painted_by_keys = (await easel()) !== before;
  for (let k = 0; k < 3; k++) await page.locator("#undo").click();
  await drawn(page, "restored");
  found.undone = (await easel()) === before;
  await page.locator("#hide-all").click();
  await drawn(page, "restored");
  found.nothing_known = await page.textContent("#certainty");
  found.isolated = await page.evaluate(() => crossOriginIsolated);

  // Without a network, once the service worker has kept the page.
  await page.evaluate(() => navigator.serviceWorker.ready);
  await context.setOffline(true);
  await page.reload();
  found.offline = (await drawn(page, "gallery")).x.length / 784;
  found.problems.push(...problems);
  await context.close();
}

async function phone() {
  const options = { viewport: { width: 390, height: 844 }, deviceScaleFactor: 2, isMobile: true, hasTouch: true };
  const { context, page, problems } = await open({ ...options, colorScheme: "dark", reducedMotion: "reduce" });
  await drawn(page, "restored");
  await page.locator("#easel").tap({ position: { x: 60, y: 60 } });
  found.touched = (await drawn(page, "restored")).x.length / 784;
  found.wider_than_the_phone = await page.evaluate(() => document.documentElement.scrollWidth > innerWidth);
  await look(page, "phone-dark");
  found.problems.push(...problems);
  await context.close();
}

/** As on a machine of four cores, of which ONNX Runtime takes two threads. */
async function threaded() {
  const four = "Object.defineProperty(navigator, 'hardwareConcurrency', { value: 4 });";
  const { context, page, problems } = await open({}, (page) =>
    page.route("**/worker-*.js", async (route) => {
      const answer = await route.fetch();
      await route.fulfill({ response: answer, body: four + (await answer.text()) });
    }),
  );
  found.threaded = (await drawn(page, "gallery")).x.slice(0, 8 * 784);
  found.threads = await page.textContent("#status");
  found.problems.push(...problems);
  await context.close();
}

async function failing() {
  const old = await open({}, (page) => page.addInitScript(() => (WebAssembly.validate = () => false)));
  await old.page.locator("#unsupported").waitFor({ state: "visible" });
  found.unsupported = await old.page.locator("#main").isHidden();
  await look(old.page, "unsupported");
  found.problems.push(...old.problems);
  await old.context.close();
  const lost = await open({ serviceWorkers: "block" }, (page) => page.route("**/mnist.onnx.gz", (route) => route.abort()));
  await lost.page.locator("#status.failed").waitFor();
  found.lost = await lost.page.textContent("#status");
  await lost.context.close();
}

try {
  await desktop();
  await phone();
  await threaded();
  await failing();
} finally {
  await browser.close();
}
console.log(JSON.stringify(found));
