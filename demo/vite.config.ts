import { createHash } from "node:crypto";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join, relative } from "node:path";
import { defineConfig, type Plugin } from "vite";

/** Threads need shared memory, which a page has only behind these two headers. */
const isolated = { "Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp" };

/** Tells the service worker which files there are, and by their digest which version of the page they make. */
function listed(folder: string): Plugin {
  return {
    name: "listed",
    closeBundle(error?: Error) {
      if (error) return;
      const files = readdirSync(folder, { recursive: true, withFileTypes: true })
        .filter((entry) => entry.isFile() && entry.name !== "sw.js")
        .map((entry) => relative(folder, join(entry.parentPath, entry.name)).replaceAll("\\", "/"))
        .sort();
      const digest = createHash("sha256");
      for (const file of files) digest.update(file).update(readFileSync(join(folder, file)));
      const path = join(folder, "sw.js");
      const text = readFileSync(path, "utf8")
        .replace('"VERSION"', JSON.stringify(digest.digest("hex").slice(0, 16)))
        .replace('["FILES"]', JSON.stringify(["./", ...files.filter((file) => file !== "index.html")]));
      writeFileSync(path, text);
    },
  };
}

export default defineConfig({
  base: "./",
  build: { target: "es2022", modulePreload: false },
  // ONNX Runtime's own script stays a file beside the page: its threads load it again.
  resolve: { conditions: ["onnxruntime-web-use-extern-wasm", "module", "browser", "development|production"] },
  worker: { format: "es" },
  server: { host: "127.0.0.1", headers: isolated },
  preview: { host: "127.0.0.1", headers: isolated },
  plugins: [listed("dist")],
});
