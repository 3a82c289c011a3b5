/** What draws say of a hidden part, as numbers and in words. */

import { PIXELS, SIDE } from "./painting";

export interface Summary {
  /** In [-1, 1]. */
  readonly mean: Float32Array;
  /** Standard deviation of each pixel, in shares of full ink: 0 to about 0.5. */
  readonly deviation: Float32Array;
  readonly draws: number;
}

const AGREED = 0.1; // of full ink
const MISFIT = 2.5; // of σ, beyond which a picture is unlike what the model can draw

/** Mean and deviation of the first `draws` pictures of x. */
export function summary(x: Float32Array, draws: number): Summary {
  const mean = new Float32Array(PIXELS), deviation = new Float32Array(PIXELS);
  for (let pixel = 0; pixel < PIXELS; pixel++) {
    let total = 0, squares = 0;
    for (let k = 0; k < draws; k++) total += x[k * PIXELS + pixel];
    mean[pixel] = total / draws;
    for (let k = 0; k < draws; k++) squares += (x[k * PIXELS + pixel] - mean[pixel]) ** 2;
    deviation[pixel] = Math.sqrt(squares / Math.max(1, draws - 1)) / 2;
  }
  return { mean, deviation, draws };
}

const COUNTS: Record<number, string> = { 4: "four", 16: "sixteen" };

/** In a sentence or two: how far the draws agree about what is hidden, and where they do not. */
export function certainty(found: Summary, ink: Float32Array, mask: Float32Array, sigma: number): string {
  const hidden = mask.reduce((count, known) => count + (known === 0 ? 1 : 0), 0);
  const count = COUNTS[found.draws] ?? String(found.draws);
  if (hidden === 0) return "Nothing is hidden, so there is nothing to guess: all draws repeat the picture.";
  if (hidden === PIXELS) return `Nothing is known: these are ${count} digits of the model's own, as it would draw them unasked.`;
  let doubtful = 0, most = 0, weight = 0, across = 0, down = 0, misfit = 0;
  for (let pixel = 0; pixel < PIXELS; pixel++) {
    const one = found.deviation[pixel];
    if (mask[pixel] === 1) misfit += (found.mean[pixel] - ink[pixel]) ** 2;
    if (mask[pixel] === 1 || one <= AGREED) continue;
    doubtful += 1;
    most = Math.max(most, one);
    weight += one;
    across += one * ((pixel % SIDE) + 0.5);
    down += one * (Math.floor(pixel / SIDE) + 0.5);
  }
  const strange = Math.sqrt(misfit / (PIXELS - hidden)) > MISFIT * sigma;
  const doubt = strange ? " What is painted is unlike the digits that the model knows: trust it less here." : "";
  if (doubtful === 0) {
    return `The model is sure: the ${count} draws agree on all ${hidden} hidden pixels to a tenth of full ink.${doubt}`;
  }
  const share = doubtful / hidden;
  const verdict = share < 0.1 ? "The model is nearly sure" : share < 0.3 ? "The model is sure of most of it" : "The model does not know";
  const where = place(across / weight, down / weight);
  return (
    `${verdict}: the ${count} draws agree on ${hidden - doubtful} of the ${hidden} hidden pixels to a tenth of full ink, ` +
    `and disagree about ${doubtful}, ${where}, by up to ${Math.round(100 * most)} % of full ink.${doubt}`
  );
}

/** Where a point of the picture is, in words. */
function place(x: number, y: number): string {
  const third = (at: number): number => Math.min(2, Math.floor((3 * at) / SIDE));
  const down = ["upper", "", "lower"][third(y)], across = ["left", "", "right"][third(x)];
  if (!down && !across) return "around the middle";
  if (!across) return `around the ${down} middle`;
  return down ? `around the ${down} ${across}` : `around the middle of the ${across} side`;
}
