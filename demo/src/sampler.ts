/** The SDK's two loops over one network: the reverse SDE, and split Gibbs sampling given a masked picture. */

import { fold, normals, seeded, type Key } from "./philox";
import { Schedule } from "./schedule";

/** What a model says of itself, as `npm run models` writes it. */
export interface Spec {
  readonly name: string;
  readonly objective: { readonly kind: string; readonly target: string; readonly output: string; readonly bounded: boolean };
  readonly shape: readonly number[];
  readonly schedule: { readonly kind: string; readonly beta_min: number; readonly beta_max: number };
  readonly sigma_data: number;
  readonly classes: { readonly count: number; readonly names: readonly string[]; readonly null: boolean };
  readonly weights: string;
}

/** x [b, 2, h, w] (z and x_t) and times [b, 4] (τ, τ - r, t and the label) to the network's x_0 [b, 1, h, w]. */
export type Network = (x: Float32Array, times: Float32Array, rows: number) => Promise<Float32Array>;

/** Samples `first` to `first + labels.length - 1` of a seed; -1 is no label. */
export interface Rows {
  readonly seed: number;
  readonly first: number;
  readonly labels: readonly number[];
}

/** y where `mask` is 1, seen through noise of deviation `sigma`: one picture for all rows. */
export interface Measurement {
  readonly mask: Float32Array;
  readonly y: Float32Array;
  readonly sigma: number;
}

const WIDE = 3; // the first coupling over the data's deviation

/** Couplings from 3 σ_d down to `last`, each the same share of the one before. */
export function couplings(sigmaData: number, last: number, levels: number): number[] {
  const first = WIDE * sigmaData;
  const share = (k: number): number => first * (last / first) ** (k / Math.max(levels - 1, 1));
  return [...Array.from({ length: levels - 1 }, (_, k) => share(k)), last];
}

export class Sampler {
  readonly size: number;
  private readonly schedule: Schedule;

  constructor(private readonly network: Network, readonly spec: Spec) {
    const { objective, schedule, shape, classes } = spec;
    const known = objective.kind === "stmd" && objective.output === "x0" && objective.bounded && schedule.kind === "vp";
    if (!known || shape[0] !== 1 || !classes?.null) throw new Error(`the page cannot draw from ${spec.name}`);
    this.schedule = new Schedule(schedule.beta_min, schedule.beta_max);
    this.size = shape.reduce((a, b) => a * b);
  }

  /**
   * The reverse SDE in `steps` inference steps, uniform in t: x_0 ~ p(x_0 | x_t), then x_s ~ q(x_s | x_0, x_t).
   *
   * x_1 has the key fold(0), step k the keys fold(2k - 1) and fold(2k), as in Python. `pause` may end it by throwing.
   */
  async sample(rows: Rows, steps: number, pause: () => Promise<void>): Promise<Float32Array> {
    const key = seeded(rows.seed);
    const x = this.normals(fold(key, 0), rows);
    for (let k = 1; k <= steps; k++) {
      const t = 1 - (k - 1) / steps, s = 1 - k / steps;
      const clean = await this.draw(x, t, fold(key, 2 * k - 1), rows);
      await pause();
      if (k === steps) return clean; // at s = 0 the bridge is x_0
      const { toT, toZero, spread } = this.schedule.bridge(t, s);
      const epsilon = this.normals(fold(key, 2 * k), rows);
      for (let i = 0; i < x.length; i++) x[i] = toT * x[i] + toZero * clean[i] + spread * epsilon[i];
    }
    throw new RangeError("at least one step");
  }

  /**
   * Draws of p(x | y) by split Gibbs sampling, `Sampler.gibbs` of a mask: z ~ p(z | x, y), then x ~ p(x | z), at
   * couplings ρ that fall to σ.
   *
   * Each copy z takes the noise of the one before, turned round (`operators/solve.py`, whose C_ρ is max(σ², ρ²) here).
   */
  async restore(rows: Rows, given: Measurement, levels: number, pause: () => Promise<void>): Promise<Float32Array> {
    const key = seeded(rows.seed), rhos = couplings(this.spec.sigma_data, given.sigma, levels);
    let x = new Float32Array(rows.labels.length * this.size);
    let z = this.copy(x, given, rhos[0], this.normals(fold(key, 0, 0), rows), this.normals(fold(key, 0, 1), rows));
    let before = rhos[0];
    for (const [index, rho] of rhos.entries()) {
      const at = fold(key, index + 1);
      const e = this.normals(fold(at, 1, 0), rows);
      const fresh = this.copy(x, given, before, e, this.normals(fold(at, 1, 1), rows));
      for (let i = 0; i < e.length; i++) e[i] = -(e[i] + (z[i] - fresh[i]) / before);
      z = this.copy(x, given, rho, e, this.normals(fold(at, 1, 2), rows));
      const t = this.schedule.time(rho), alpha = this.schedule.alpha(t);
      x = await this.draw(z.map((value) => alpha * value), t, fold(at, 2), rows);
      before = rho;
      await pause();
    }
    return x;
  }

  /** z = w + ρ² Aᵀ C_ρ⁻¹ (y - A w - n'), w = x + ρ e, of a mask A. */
  private copy(x: Float32Array, given: Measurement, rho: number, e: Float32Array, n: Float32Array): Float32Array<ArrayBuffer> {
    const variance = Math.max(rho ** 2, given.sigma ** 2), spread = Math.sqrt(variance - rho ** 2);
    const z = new Float32Array(x.length), { mask, y } = given;
    for (let i = 0; i < z.length; i++) {
      const w = x[i] + rho * e[i], pixel = i % this.size;
      z[i] = mask[pixel] === 0 ? w : w + (rho ** 2 / variance) * (y[pixel] - w - spread * n[i]);
    }
    return z;
  }

  /** x_0 ~ p(x_0 | x_t) by one evaluation at τ = 1, r = 0: there u = z - y, so that x_0 of y is what the network says. */
  private async draw(x_t: Float32Array, t: number, key: Key, rows: Rows): Promise<Float32Array<ArrayBuffer>> {
    const n = rows.labels.length, z = this.normals(key, rows);
    const x = new Float32Array(2 * x_t.length), times = new Float32Array(4 * n);
    for (let row = 0; row < n; row++) {
      const own = row * this.size, end = own + this.size;
      x.set(z.subarray(own, end), 2 * own);
      x.set(x_t.subarray(own, end), 2 * own + this.size);
      const label = rows.labels[row];
      times.set([1, 1, t, label < 0 ? this.spec.classes.count : label], 4 * row);
    }
    const found = await this.network(x, times, n);
    return Float32Array.from(found, (value) => Math.min(1, Math.max(-1, value)));
  }

  private normals(key: Key, rows: Rows): Float32Array {
    return normals(key, rows.first, rows.labels.length, this.size);
  }
}
