/** The worker as the page sees it: questions that a newer one of their kind ends, answered in parts. */

import type { Answer, Ask, Drawn, Place } from "./messages";
import type { Measurement, Rows, Spec } from "./sampler";

type Part = (drawn: Drawn, milliseconds: number) => void;

export interface Drawer {
  readonly spec: Spec;
  readonly threads: number;
  /** Draws of the model; `done` is not called where a newer question of the place came. */
  sample(place: Place, rows: Rows, steps: number, done: Part): void;
  /** Draws given a masked picture, batch after batch. */
  restore(batches: readonly Rows[], given: Measurement, levels: number, part: Part): void;
}

/** Load the model; `failed` is told what goes wrong later. */
export function startDrawing(failed: (message: string) => void): Promise<Drawer> {
  const worker = new Worker(new URL("./worker.ts", import.meta.url), { type: "module" });
  const waiting = new Map<number, { place: Place; since: number; part: Part }>();
  let count = 0;

  const ask = (place: Place, rest: (id: number) => Ask, part: Part): void => {
    count += 1;
    for (const [id, one] of waiting) if (one.place === place) waiting.delete(id);
    waiting.set(count, { place, since: performance.now(), part });
    worker.postMessage(rest(count));
  };

  const heard = (answer: Drawn): void => {
    const one = waiting.get(answer.id);
    if (!one) return;
    if (answer.last) waiting.delete(answer.id);
    const milliseconds = performance.now() - one.since;
    one.part(answer, milliseconds);
    // For whoever measures the page, or wants the numbers behind a picture.
    document.dispatchEvent(new CustomEvent("stmd:drawn", { detail: { ...answer, place: one.place, milliseconds } }));
  };

  return new Promise((resolve, reject) => {
    worker.onerror = (event) => reject(new Error(event.message || "its worker does not start"));
    worker.onmessage = ({ data }: MessageEvent<Answer>) => {
      if (data.kind === "drawn") heard(data);
      else if (data.kind === "failed") data.id === 0 ? reject(new Error(data.message)) : failed(data.message);
      else {
        resolve({
          spec: data.spec,
          threads: data.threads,
          sample: (place, rows, steps, done) => ask(place, (id) => ({ kind: "sample", id, place, rows, steps }), done),
          restore: (batches, given, levels, part) =>
            ask("restored", (id) => ({ kind: "restore", id, place: "restored", batches, given, levels }), part),
        });
      }
    };
    worker.postMessage({ kind: "open", base: new URL("./", location.href).href } satisfies Ask);
  });
}
