/** The model as ONNX Runtime Web runs it, from files beside the page. */

import * as ort from "onnxruntime-web/wasm";
import type { Network, Spec } from "./sampler";

const RUNTIME = "ort-wasm-simd-threaded";

/** A file's bytes, unpacked if they are packed: some servers and browsers unpack .gz files on the way. */
async function bytesOf(url: URL): Promise<ArrayBuffer> {
  const answer = await fetch(url);
  if (!answer.ok) throw new Error(`${url.pathname}: ${answer.status} ${answer.statusText}`);
  const bytes = await answer.arrayBuffer();
  const [a, b] = new Uint8Array(bytes, 0, 2);
  if (a !== 0x1f || b !== 0x8b) return bytes;
  const unpacked = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(unpacked).arrayBuffer();
}

export interface Opened {
  readonly network: Network;
  readonly spec: Spec;
  readonly threads: number;
}

/** Open the model below `base`. Threads are ONNX Runtime's own choice, one where the page's headers allow no more. */
export async function openNetwork(base: URL): Promise<Opened> {
  const at = (path: string): URL => new URL(path, base);
  const [wasm, model, spec] = await Promise.all([
    bytesOf(at(`runtime/${RUNTIME}.wasm.gz`)),
    bytesOf(at("models/mnist.onnx.gz")),
    fetch(at("models/mnist.json")).then((answer) => answer.json() as Promise<Spec>),
  ]);
  ort.env.wasm.wasmBinary = wasm;
  ort.env.wasm.wasmPaths = { mjs: at(`runtime/${RUNTIME}.mjs`).href };
  const session = await ort.InferenceSession.create(model, { executionProviders: ["wasm"] });
  const [, height, width] = spec.shape;

  let last: Promise<unknown> = Promise.resolve(); // the session evaluates one batch at a time
  const evaluate: Network = async (x, times, rows) => {
    const given = {
      x: new ort.Tensor("float32", x, [rows, 2, height, width]),
      times: new ort.Tensor("float32", times, [rows, 4]),
    };
    const { u } = await session.run(given);
    return u.data as Float32Array;
  };
  const network: Network = (...batch) => {
    const found = last.then(() => evaluate(...batch));
    last = found.catch(() => {});
    return found;
  };
  return { network, spec, threads: ort.env.wasm.numThreads ?? 1 };
}
