// Bundles src/main.tsx and its style into dist/assets under names that carry their hash, and writes dist/index.html.
import { build } from "esbuild";
import { copyFile, mkdir, readFile, rm, writeFile } from "node:fs/promises";
import { basename } from "node:path";

await rm("dist", { recursive: true, force: true });
const result = await build({
  entryPoints: ["src/main.tsx"],
  bundle: true,
  minify: true,
  format: "esm",
  target: "es2022",
  jsx: "automatic",
  jsxImportSource: "preact",
  outdir: "dist/assets",
  entryNames: "[name]-[hash]",
  metafile: true,
  logLevel: "warning",
});
const made = Object.keys(result.metafile.outputs);
const script = basename(made.find((path) => path.endsWith(".js")));
const style = basename(made.find((path) => path.endsWith(".css")));
const page = await readFile("src/index.html", "utf8");
await mkdir("dist", { recursive: true });
await copyFile("src/icon.svg", "dist/icon.svg");
await writeFile("dist/index.html", page.replace("{{script}}", `/assets/${script}`).replace("{{style}}", `/assets/${style}`));
