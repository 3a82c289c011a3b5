/** Draws beside the page, which stays free to be painted on. A newer question of a place ends the older one. */

import type { Answer, Ask, Place } from "./messages";
import { openNetwork } from "./network";
import { Sampler } from "./sampler";

class Superseded extends Error {}

const newest: Record<Place, number> = { easel: 0, gallery: 0, restored: 0 };
const channel = new MessageChannel();
const breathing: (() => void)[] = [];
let sampler: Sampler;

const answer = (message: Answer): void => self.postMessage(message);

/** Let messages in, without the four milliseconds that a browser adds to timers. */
function breath(): Promise<void> {
  return new Promise((resolve) => {
    breathing.push(resolve);
    channel.port2.postMessage(null);
  });
}

channel.port1.onmessage = () => breathing.shift()?.();

async function open(base: string): Promise<void> {
  const { network, spec, threads } = await openNetwork(new URL(base));
  sampler = new Sampler(network, spec);
  // The first evaluation of a batch is slower; let it be none that a person waits for.
  const labels = new Array<number>(16).fill(-1);
  await sampler.sample({ seed: 0, first: 0, labels }, 1, breath);
  answer({ kind: "opened", spec, threads });
}

async function draw(ask: Exclude<Ask, { kind: "open" }>): Promise<void> {
  const pause = async (): Promise<void> => {
    await breath();
    if (ask.id !== newest[ask.place]) throw new Superseded();
  };
  await pause();
  if (ask.kind === "sample") {
    const x = await sampler.sample(ask.rows, ask.steps, pause);
    answer({ kind: "drawn", id: ask.id, first: ask.rows.first, x, last: true });
    return;
  }
  for (const [index, rows] of ask.batches.entries()) {
    const x = await sampler.restore(rows, ask.given, ask.levels, pause);
    answer({ kind: "drawn", id: ask.id, first: rows.first, x, last: index + 1 === ask.batches.length });
  }
}

self.onmessage = ({ data }: MessageEvent<Ask>): void => {
  const id = data.kind === "open" ? 0 : data.id;
  if (data.kind !== "open") newest[data.place] = data.id;
  const done = data.kind === "open" ? open(data.base) : draw(data);
  done.catch((error: unknown) => {
    if (!(error instanceof Superseded)) answer({ kind: "failed", id, message: String(error) });
  });
};
