/** From numbers to canvases, in the colours of the page. */

import { PIXELS, SIDE } from "./painting";

type Colour = readonly [number, number, number];

export interface Colours {
  readonly ink: Colour;
  readonly paper: Colour;
  readonly hidden: Colour;
  readonly accent: Colour;
}

/** The page's colours now, light or dark. */
export function coloursNow(): Colours {
  const style = getComputedStyle(document.documentElement);
  const read = (name: string): Colour => {
    const hex = style.getPropertyValue(name).trim().slice(1);
    return [0, 2, 4].map((at) => parseInt(hex.slice(at, at + 2), 16)) as unknown as Colour;
  };
  return { ink: read("--ink"), paper: read("--paper"), hidden: read("--hidden"), accent: read("--accent") };
}

function mixed(a: Colour, b: Colour, share: number): Colour {
  const at = Math.min(1, Math.max(0, share));
  return a.map((value, i) => value + (b[i] - value) * at) as unknown as Colour;
}

function put(canvas: HTMLCanvasElement, left: number, top: number, colour: (pixel: number) => Colour, alpha = 1): void {
  const context = canvas.getContext("2d")!;
  const image = context.createImageData(SIDE, SIDE);
  for (let pixel = 0; pixel < PIXELS; pixel++) {
    const [r, g, b] = colour(pixel);
    image.data.set([r, g, b, 255 * alpha], 4 * pixel);
  }
  context.putImageData(image, left, top);
}

/** A picture in [-1, 1]. */
export function show(canvas: HTMLCanvasElement, x: Float32Array, colours: Colours): void {
  put(canvas, 0, 0, (pixel) => mixed(colours.paper, colours.ink, (x[pixel] + 1) / 2));
}

/** The easel: what is hidden has a colour of its own, with stripes for those who tell no colours apart. */
export function showEasel(
  canvas: HTMLCanvasElement, ink: Float32Array, mask: Float32Array, cursor: number | null, colours: Colours,
): void {
  put(canvas, 0, 0, (pixel) => {
    if (pixel === cursor) return colours.accent;
    if (mask[pixel] === 1) return mixed(colours.paper, colours.ink, (ink[pixel] + 1) / 2);
    const striped = ((pixel % SIDE) + Math.floor(pixel / SIDE)) % 4 === 0;
    return striped ? mixed(colours.hidden, colours.accent, 0.25) : colours.hidden;
  });
}

/** Deviations, in shares of full ink, from paper to the accent at `most`. */
export function showDeviation(canvas: HTMLCanvasElement, deviation: Float32Array, most: number, colours: Colours): void {
  put(canvas, 0, 0, (pixel) => mixed(colours.paper, colours.accent, deviation[pixel] / most));
}

/** Sixteen pictures in four rows; those from `fresh` on are of an earlier question, and pale. */
export function showDraws(canvas: HTMLCanvasElement, x: Float32Array, fresh: number, colours: Colours): void {
  const pitch = SIDE + 2;
  for (let k = 0; k * PIXELS < x.length; k++) {
    const own = x.subarray(k * PIXELS, (k + 1) * PIXELS), left = 1 + (k % 4) * pitch, top = 1 + Math.floor(k / 4) * pitch;
    put(canvas, left, top, (pixel) => mixed(colours.paper, colours.ink, (own[pixel] + 1) / 2), k < fresh ? 1 : 0.3);
  }
}
