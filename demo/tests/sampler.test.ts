import { expect, test } from "vitest";
import { fold, normals, philox, seeded } from "../src/philox";
import { couplings, Sampler, type Network, type Spec } from "../src/sampler";
import { Schedule } from "../src/schedule";
import vectors from "./vectors.json";

const spec = { ...vectors.spec, weights: "" } as Spec;
const schedule = new Schedule(spec.schedule.beta_min, spec.schedule.beta_max);
const size = 28 * 28;
const given = {
  mask: Float32Array.from(vectors.measurement.mask),
  y: Float32Array.from(vectors.measurement.y),
  sigma: vectors.measurement.sigma,
};
const onward = async (): Promise<void> => {};

/** x_0 = 0.5 z - 0.4 t x_t + 0.02 label, as in vectors.py. */
const formula: Network = async (x, times, rows) =>
  Float32Array.from({ length: rows * size }, (_, i) => {
    const row = Math.floor(i / size), pixel = i % size, t = times[4 * row + 2], label = times[4 * row + 3];
    return 0.5 * x[2 * row * size + pixel] - 0.4 * t * x[(2 * row + 1) * size + pixel] + 0.02 * label;
  });
const sampler = new Sampler(formula, spec);

/** Nine pixels of each picture, and its mean. */
function told(x: Float32Array): number[][] {
  return Array.from({ length: x.length / size }, (_, row) => {
    const one = x.subarray(row * size, (row + 1) * size);
    const pixels = Array.from(one).filter((_, i) => i % 97 === 0);
    return [...pixels, one.reduce((a, b) => a + b, 0) / size];
  });
}

function expectNear(found: number[][], expected: number[][], most: number): void {
  expect(found.length).toBe(expected.length);
  const gaps = expected.flatMap((row, i) => row.map((value, k) => Math.abs(value - found[i][k])));
  expect(Math.max(...gaps)).toBeLessThan(most); // NaN is not less
}

test("Philox's words are Python's, bit for bit", () => {
  for (const { seed, path, first, rows, count, words } of vectors.normals) {
    const key = fold(seeded(seed), ...path), out = new Uint32Array(4);
    for (let row = 0; row < rows; row++) {
      const found: number[] = [];
      for (let block = 0; block * 4 < count; block++) {
        philox(block, (first + row) >>> 0, 0, 0, key, out);
        found.push(...out);
      }
      expect(found.slice(0, count)).toEqual(words[row]);
    }
  }
});

test("normals are Python's to the last bit of float32", () => {
  for (const { seed, path, first, rows, count, normals: expected } of vectors.normals) {
    const found = normals(fold(seeded(seed), ...path), first, rows, count);
    expectNear([Array.from(found)], [expected.flat()], 2 ** -22);
  }
});

test("a seed that is no whole number, or negative, is refused", () => {
  for (const seed of [-1, 0.5, Number.NaN, 2 ** 53]) expect(() => seeded(seed)).toThrow(RangeError);
});

test("times, signal and bridges are the schedule's", () => {
  for (const [ratio, time] of vectors.schedule.times) expect(schedule.time(ratio)).toBeCloseTo(time, 12);
  for (const [t, alpha] of vectors.schedule.alphas) expect(schedule.alpha(t)).toBeCloseTo(alpha, 12);
  for (const [t, s, toZero, toT, spread] of vectors.schedule.bridges) {
    const found = schedule.bridge(t, s);
    expectNear([[found.toZero, found.toT, found.spread]], [[toZero, toT, spread]], 1e-12);
  }
  const found = couplings(spec.sigma_data, given.sigma, vectors.measurement.levels);
  expectNear([found], [vectors.couplings], 1e-12);
});

test.each(Object.entries(vectors.samples))("%s inference steps draw Python's samples", async (steps, expected) => {
  const rows = { seed: 7, first: 2, labels: [3, 0, 9] };
  expectNear(told(await sampler.sample(rows, Number(steps), onward)), expected, 1e-5);
});

test("without labels the class is the one of none", async () => {
  const rows = { seed: 7, first: 2, labels: [-1, -1, -1] };
  expectNear(told(await sampler.sample(rows, 2, onward)), vectors.unlabelled, 1e-5);
});

test.each(Object.entries(vectors.restored))("draws given a masked picture are Python's, of label %s", async (label, expected) => {
  const own = label === "None" ? -1 : Number(label);
  const rows = { seed: 7, first: 2, labels: [own, own, own] };
  expectNear(told(await sampler.restore(rows, given, vectors.measurement.levels, onward)), expected, 1e-5);
});

test("a draw is the same alone and among others", async () => {
  const alone = await sampler.restore({ seed: 7, first: 4, labels: [4] }, given, 3, onward);
  const all = await sampler.restore({ seed: 7, first: 2, labels: [4, 4, 4] }, given, 3, onward);
  expect(alone).toEqual(all.slice(2 * size));
});

test("what pauses between evaluations can end a run", async () => {
  let evaluations = 0;
  const counted = new Sampler((...all) => (evaluations++, formula(...all)), spec);
  const stop = async (): Promise<void> => {
    if (evaluations === 2) throw new Error("enough");
  };
  await expect(counted.restore({ seed: 0, first: 0, labels: [-1] }, given, 9, stop)).rejects.toThrow("enough");
  expect(evaluations).toBe(2);
});

test("a model of another kind is refused", () => {
  const other = { ...spec, objective: { ...spec.objective, kind: "ddpm" } };
  expect(() => new Sampler(formula, other)).toThrow("cannot draw");
});
