/** The page. */

import { byId } from "./dom";
import { startDrawing, type Drawer } from "./drawer";
import { Restoring } from "./restoring";
import { Sampling } from "./sampling";

// A module of one function with v128 instructions: valid where there is WebAssembly SIMD.
const SIMD = [0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11];

function supported(): boolean {
  return typeof WebAssembly === "object" && WebAssembly.validate(Uint8Array.from(SIMD)) && "DecompressionStream" in self;
}

function tell(message: string, failed = false): void {
  const status = byId("status");
  status.textContent = message;
  status.classList.toggle("failed", failed);
}

async function start(): Promise<void> {
  if (!supported()) {
    for (const id of ["main", "status", "about"]) byId(id).hidden = true;
    byId("unsupported").hidden = false;
    return;
  }
  let drawer: Drawer;
  try {
    drawer = await startDrawing((message) => tell(message, true));
  } catch (error) {
    tell(`The model could not be loaded (${String(error)}). Reload the page to try again.`, true);
    return;
  }
  byId("main").inert = false;
  const threads = drawer.threads === 1 ? "one thread" : `${drawer.threads} threads`;
  tell(`Ready: runs on this device, in ${threads}.`);
  const restoring = new Restoring(drawer);
  new Sampling(drawer, (ink) => restoring.restore(ink));
  if ("serviceWorker" in navigator && import.meta.env.PROD) await navigator.serviceWorker.register("./sw.js");
}

void start();
