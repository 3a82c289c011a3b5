import { expect, test } from "vitest";
import { certainty, summary } from "../src/certainty";
import { Painting, PIXELS, SIDE } from "../src/painting";

const at = (x: number, y: number): number => y * SIDE + x;
const SIGMA = 0.1;
const paper = new Float32Array(PIXELS).fill(-1);

/** Sixteen pictures of paper, half of which have ink at the given pixels. */
function divided(pixels: number[]): Float32Array {
  const x = new Float32Array(16 * PIXELS).fill(-1);
  for (let k = 0; k < 16; k += 2) for (const pixel of pixels) x[k * PIXELS + pixel] = 1;
  return x;
}

const square = (left: number, top: number, side: number): number[] =>
  Array.from({ length: side * side }, (_, i) => at(left + (i % side), top + Math.floor(i / side)));

function hiding(pixels: number[]): Float32Array {
  const mask = new Float32Array(PIXELS).fill(1);
  for (const pixel of pixels) mask[pixel] = 0;
  return mask;
}

test("ink makes known and black what it covers, and nothing else", () => {
  const painting = new Painting();
  painting.stroke("hide", 6, 14, 14, 14, 14);
  const hidden = painting.mask.filter((known) => known === 0).length;
  expect(hidden).toBe(32); // 4 x 8 centres of pixels are within 3 of a corner of four
  painting.stroke("ink", 2, 14, 14, 14, 14);
  expect(painting.mask[at(14, 14)]).toBe(1);
  expect(painting.ink[at(14, 14)]).toBeGreaterThan(0.5);
  expect(painting.mask[at(11, 13)]).toBe(0);
  expect(painting.ink[at(2, 2)]).toBe(-1);
});

test("what is painted over what was hidden is not mixed with what had been there", () => {
  const painting = new Painting();
  painting.stroke("ink", 6, 14, 14, 14, 14);
  painting.stroke("hide", 6, 14, 14, 14, 14);
  painting.stroke("paper", 1, 14.5, 14.5, 14.5, 14.5);
  expect(painting.ink[at(14, 14)]).toBe(-1);
});

test("a stroke in parts is the stroke", () => {
  const whole = new Painting(), parts = new Painting();
  whole.stroke("ink", 3, 4, 5, 20, 21);
  for (let k = 0; k < 4; k++) parts.stroke("ink", 3, 4 + 4 * k, 5 + 4 * k, 8 + 4 * k, 9 + 4 * k);
  for (let pixel = 0; pixel < PIXELS; pixel++) expect(parts.ink[pixel]).toBeCloseTo(whole.ink[pixel], 5);
});

test("undo goes back a stroke at a time, and no further than the beginning", () => {
  const painting = new Painting();
  painting.begin();
  painting.stroke("ink", 3, 5, 5, 5, 5);
  const one = painting.ink.slice();
  painting.begin();
  painting.stroke("paper", 8, 5, 5, 5, 5);
  painting.undo();
  expect(painting.ink).toEqual(one);
  painting.undo();
  painting.undo();
  expect(painting.ink).toEqual(paper);
  expect(painting.canUndo).toBe(false);
});

test("mean and deviation are those of the draws, in shares of full ink", () => {
  const { mean, deviation } = summary(divided([at(3, 3)]), 16);
  expect(mean[at(3, 3)]).toBeCloseTo(0, 6);
  expect(deviation[at(3, 3)]).toBeCloseTo(Math.sqrt(16 / 15) / 2, 6); // ±½ of full ink, unbiased
  expect(deviation[at(4, 4)]).toBe(0);
});

test.each([
  [2, 2, "upper left"],
  [22, 22, "lower right"],
  [12, 12, "around the middle,"],
  [22, 12, "middle of the right side"],
])("the sentence counts and places the doubt (%i, %i)", (left, top, where) => {
  const mask = hiding([...square(left, top, 3), ...square(5, 18, 5)]);
  const said = certainty(summary(divided(square(left, top, 3)), 16), paper, mask, SIGMA);
  expect(said).toContain("the sixteen draws agree on 25 of the 34 hidden pixels");
  expect(said).toContain("disagree about 9");
  expect(said).toContain(where);
  expect(said).toContain("by up to 52 % of full ink");
});

test("it is sure where draws agree, says nothing where nothing is hidden, and doubts strange pictures", () => {
  const same = summary(new Float32Array(16 * PIXELS).fill(-1), 16);
  expect(certainty(same, paper, hiding(square(3, 3, 4)), SIGMA)).toMatch(/^The model is sure: .* all 16 hidden pixels .*ink\.$/);
  expect(certainty(same, paper, new Float32Array(PIXELS).fill(1), SIGMA)).toContain("Nothing is hidden");
  expect(certainty(same, paper, new Float32Array(PIXELS), SIGMA)).toContain("Nothing is known");
  const strange = paper.map((_, pixel) => (pixel % 2 === 0 ? 1 : -1));
  expect(certainty(same, strange, hiding(square(3, 3, 4)), SIGMA)).toContain("trust it less");
});
