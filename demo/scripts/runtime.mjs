// ONNX Runtime's script and its WebAssembly into public/runtime: packed, so that the page is small whatever serves it.
import { copyFileSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";

const demo = join(dirname(fileURLToPath(import.meta.url)), "..");
const from = join(demo, "node_modules/onnxruntime-web/dist");
const to = join(demo, "public/runtime");
const name = "ort-wasm-simd-threaded";

mkdirSync(to, { recursive: true });
copyFileSync(join(from, `${name}.mjs`), join(to, `${name}.mjs`));
writeFileSync(join(to, `${name}.wasm.gz`), gzipSync(readFileSync(join(from, `${name}.wasm`)), { level: 9 }));
