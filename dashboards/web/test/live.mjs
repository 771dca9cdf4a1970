// Follows the log in Chromium while a thousand records a second arrive, and tells as JSON how the page fared: how long after the last one was
// sent it stood there, how long the page was busy at once and in all, how many lines it holds, and what it says of its rate and its drops.
//
//   node live.mjs BASE SECONDS
import { chromium } from "playwright-core";

const [base, seconds] = [process.argv[2], Number(process.argv[3])];
const batch = 100; // every 100 ms
const browser = await chromium.launch({
  executablePath: process.env.BACKLOT_CHROMIUM ?? "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
});
try {
  const page = await browser.newPage({ viewport: { width: 1280, height: 1000 } });
  page.setDefaultTimeout(120_000);
  const complaints = [];
  page.on("pageerror", (error) => complaints.push(error.message));
  await page.goto(base);
  await page.getByLabel("Access key id").fill("test");
  await page.getByLabel("Secret").fill("test");
  await page.getByRole("button", { name: "Sign in" }).click();
  await page.getByRole("heading", { name: "Overview" }).waitFor();
  await page.goto(`${base}/logs?live=1&query=${encodeURIComponent("body:steady")}`);
  await page.getByText("Following,").waitFor();
  await page.evaluate(() => {
    window.busy = [];
    window.rate = 0; // the highest that was shown, whenever that was
    setInterval(() => {
      const shown = document.body.textContent.match(/Following, (\d+) a second/)?.[1];
      window.rate = Math.max(window.rate, Number(shown ?? 0));
    }, 50);
    new PerformanceObserver((list) => window.busy.push(...list.getEntries().map((entry) => entry.duration))).observe({ entryTypes: ["longtask"] });
  });

  const began = performance.now();
  for (let at = 0; at < seconds * 10; at += 1) {
    await new Promise((resolve) => setTimeout(resolve, Math.max(0, began + at * 100 - performance.now())));
    const lines = Array.from({ length: batch }, (_, i) => `steady record ${at * batch + i} of those that are followed`).join("\n");
    const authorization = `Basic ${Buffer.from("test:test").toString("base64")}`;
    const response = await fetch(`${base}/v1/logs?service.name=live`, { method: "POST", body: lines, headers: { authorization } });
    if (response.status !== 200) throw new Error(`lines were answered ${response.status}`);
  }
  const sent = performance.now();
  await page.getByText(`steady record ${seconds * 10 * batch - 1} of`).waitFor();
  const behind_ms = Math.round(performance.now() - sent);
  const { busy, rate } = await page.evaluate(() => ({ busy: window.busy, rate: window.rate }));
  const said = (await page.getByRole("status").allTextContents()).join("\n");
  console.log(JSON.stringify({
    behind_ms, rate, took_ms: Math.round(sent - began), complaints,
    busy_ms_max: Math.round(Math.max(0, ...busy)), busy_ms: Math.round(busy.reduce((sum, ms) => sum + ms, 0)),
    lines: await page.locator(".line").count(),
    dropped: Number((said.match(/([\d.,\s]+) came too fast/)?.[1] ?? "0").replace(/\D/g, "")),
  }));
} finally {
  await browser.close();
}
