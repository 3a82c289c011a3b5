// The page's model, exported by stmd-export from the bundled `mnist` of the Python environment, and what it says of itself.
import { spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";

const to = join(dirname(fileURLToPath(import.meta.url)), "../public/models");
const folder = mkdtempSync(join(tmpdir(), "stmd-demo-"));
try {
  const options = ["--ckpt", "mnist", "--onnx", "--batch", "1:4:16", "--quiet", "--out", folder];
  const done = spawnSync("stmd-export", options, { stdio: "inherit" });
  if (done.status !== 0) throw new Error('stmd-export failed: is the environment of pip install -e ".[export,onnx]" active?');
  const facts = JSON.parse(readFileSync(join(folder, "mnist.onnx.json"), "utf8"));
  const { name, objective, shape, schedule, sigma_data, classes } = facts.spec;
  const spec = { name, objective, shape, schedule, sigma_data, classes, weights: facts.artefact.weights };
  mkdirSync(to, { recursive: true });
  writeFileSync(join(to, "mnist.json"), JSON.stringify(spec));
  writeFileSync(join(to, "mnist.onnx.gz"), gzipSync(readFileSync(join(folder, "mnist.onnx")), { level: 9 }));
} finally {
  rmSync(folder, { recursive: true });
}
