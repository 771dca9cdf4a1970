// Walks the dashboard in Chromium as a person would: sign in, look around, find the job that was made, see its log lines and its
// output, cancel and retry another one. Fails on any console error, any page error and any serious finding of axe.
//
//   node walk.mjs BASE PICTURE_JOB CLIP_JOB WAITING_JOB [FOLDER FOR SCREENSHOTS]
import { createRequire } from "node:module";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { chromium } from "playwright-core";

const [base, picture, clip, waiting, shots] = process.argv.slice(2);
const axe = await readFile(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const complaints = [];

const browser = await chromium.launch({
  executablePath: process.env.BACKLOT_CHROMIUM ?? "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
});
// The page's own policy forbids scripts that are not its own, axe included: it is run in an isolated world instead.
const page = await browser.newPage({ viewport: { width: 1280, height: 1000 } });
page.setDefaultTimeout(120_000);
const wrong = "level:error ("; // the browser tells of each request for it that is answered 400, sooner or later
const isWrong = (url) => URL.canParse(url) && new URL(url).searchParams.get("query") === wrong;
page.on("console", (message) => {
  if (message.type() === "error" && !isWrong(message.location().url)) complaints.push(`console: ${message.text()} ${message.location().url}`);
});
page.on("pageerror", (error) => complaints.push(`page: ${error.message}`));

const step = async (name, work) => {
  try {
    await work();
    if (shots) await page.screenshot({ path: join(shots, `${name}.png`), fullPage: true });
    console.log(`ok ${name}`);
  } catch (error) {
    if (shots) await page.screenshot({ path: join(shots, `${name}-failed.png`), fullPage: true }).catch(() => undefined);
    throw new Error(`${name}: ${error.message}\n${complaints.join("\n")}`);
  }
};

const accessible = async (name) => {
  const session = await page.context().newCDPSession(page);
  const { frameTree } = await session.send("Page.getFrameTree");
  const { executionContextId } = await session.send("Page.createIsolatedWorld", { frameId: frameTree.frame.id, worldName: "axe" });
  const said = await session.send("Runtime.evaluate", {
    contextId: executionContextId, awaitPromise: true, returnByValue: true,
    expression: `${axe}; axe.run(document, { resultTypes: ["violations"] }).then((found) => found.violations
      .filter((one) => one.impact === "serious" || one.impact === "critical")
      .map((one) => one.id + ": " + one.nodes.map((node) => node.html.slice(0, 120)).join(" | ")))`,
  });
  if (said.exceptionDetails) throw new Error(`axe: ${JSON.stringify(said.exceptionDetails)}`);
  for (const finding of said.result.value) complaints.push(`axe on ${name}: ${finding}`);
};

try {
  await step("sign-in", async () => {
    await page.goto(base);
    await accessible("sign-in");
    await page.getByLabel("Access key id").fill("test");
    await page.getByLabel("Secret").fill("test");
    await page.getByRole("button", { name: "Sign in" }).click();
    await page.getByRole("heading", { name: "Overview" }).waitFor();
  });
  await step("overview", async () => {
    await page.getByRole("cell", { name: "jobs-dlq" }).waitFor();
    await page.locator(".agent strong").first().waitFor();
    await accessible("overview");
  });
  await step("jobs", async () => {
    await page.getByRole("navigation").getByRole("link", { name: "Jobs" }).click();
    await page.getByLabel("Status").selectOption("succeeded");
    await page.waitForURL(/\/jobs\?status=succeeded$/);
    await page.locator(`a[href="/jobs/${picture}"]`).waitFor();
    await page.locator(`a[href="/jobs/${waiting}"]`).waitFor({ state: "detached" }); // the address changes before the rows do
    await page.reload(); // the filter is in the address
    await page.locator(`a[href="/jobs/${picture}"]`).waitFor();
    await accessible("jobs");
  });
  await step("picture", async () => {
    await page.locator(`a[href="/jobs/${picture}"]`).click();
    await page.locator(".phase.is-infer").first().waitFor();
    await page.locator("figure.curve canvas").first().waitFor(); // however short it was, the machine was looked at
    await page.getByRole("link", { name: "Log lines" }).click(); // one click from the job to its log lines
    await page.locator("#log .line").first().waitFor();
    const image = page.locator("#output img");
    await image.waitFor();
    await page.waitForFunction(() => document.querySelector("#output img")?.naturalWidth > 0);
    await accessible("picture");
  });
  await step("logs", async () => {
    await page.getByRole("navigation").getByRole("link", { name: "Logs" }).click();
    await page.getByLabel("Query").fill(`job:${picture}`);
    await page.getByRole("button", { name: "Search" }).click();
    await page.waitForURL(/\/logs\?query=/);
    await page.getByRole("img", { name: /over time/ }).waitFor();
    await page.locator(".line button").first().click();
    await page.locator(".line dl a", { hasText: picture }).waitFor();
    await accessible("logs");
    const all = await page.locator(".line").count();
    await page.locator(".histogram .reach").last().click(); // one stretch of time
    await page.waitForURL(/to=/);
    await page.waitForFunction((before) => document.querySelectorAll(".line").length <= before, all);
    await page.getByLabel("Query").fill(wrong);
    await page.getByRole("button", { name: "Search" }).click();
    await page.getByRole("alert").filter({ hasText: "^" }).waitFor();
  });
  await step("logs-of-another-day", async () => {
    const sent = await page.evaluate(async () => {
      const line = { message: "written on another day", time: "2020-02-13T12:00:00Z" };
      return (await fetch("/v1/logs?service.name=walk", { method: "POST", body: JSON.stringify(line) })).status;
    });
    if (sent !== 200) throw new Error(`a line was answered ${sent}`);
    await page.goto(`${base}/logs?from=all&query=${encodeURIComponent('"written on another day"')}`);
    const line = await page.locator(".line").first().innerText();
    if (!line.includes("2020")) throw new Error(`a line of another day does not say which: ${line}`);
    if (line.includes("info")) throw new Error(`a line without a level is shown with one: ${line}`);
  });
  await step("logs-live", async () => {
    await page.goto(`${base}/logs?live=1&query=${encodeURIComponent("body:following")}`);
    await page.getByText("Following,").waitFor();
    const sent = await page.evaluate(async () => {
      const lines = Array.from({ length: 3000 }, (_, i) => `line ${i} of those that the page is following`).join("\n");
      const response = await fetch("/v1/logs?service.name=walk", { method: "POST", body: lines });
      return response.status;
    });
    if (sent !== 200) throw new Error(`lines were answered ${sent}`);
    await page.getByText("line 2999 of those").waitFor();
    const shown = await page.locator(".line").count();
    if (shown > 500) throw new Error(`${shown} lines on the page`);
    await accessible("logs-live");
  });
  await step("clip", async () => {
    await page.goto(`${base}/jobs/${clip}`);
    await page.locator("#output video").waitFor();
    await page.waitForFunction(() => (document.querySelector("#output video")?.readyState ?? 0) >= 1);
    const seeked = await page.evaluate(async () => {
      const video = document.querySelector("#output video");
      const done = new Promise((resolve) => video.addEventListener("seeked", resolve, { once: true }));
      video.currentTime = video.duration / 2;
      await done;
      return [video.currentTime, video.duration, video.videoWidth];
    });
    if (!(seeked[0] > 0 && seeked[0] < seeked[1] && seeked[2] > 0)) throw new Error(`no seeking: ${seeked}`);
  });
  await step("cancel-and-retry", async () => {
    await page.goto(`${base}/jobs/${waiting}`);
    await page.getByRole("button", { name: "Cancel" }).click();
    await page.locator("h1 .badge", { hasText: "cancelled" }).waitFor();
    await page.getByRole("button", { name: "Retry" }).click();
    await page.locator("h1 .badge", { hasText: "queued" }).waitFor();
  });
  await step("sign-out", async () => {
    await page.getByRole("button", { name: "Sign out" }).click();
    await page.getByLabel("Secret").waitFor();
  });
  if (complaints.length > 0) throw new Error(complaints.join("\n"));
} finally {
  await browser.close();
}
