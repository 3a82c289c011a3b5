/** The variance-preserving schedule x_t | x_0 ~ N(α_t x_0, σ_t² I), as `stmd_sdk.diffusion.vp` has it. */
export class Schedule {
  constructor(readonly betaMin: number, readonly betaMax: number) {}

  /** log(α_t / α_s). */
  logRatio(t: number, s: number): number {
    return -0.25 * (this.betaMax - this.betaMin) * (t - s) * (t + s) - 0.5 * this.betaMin * (t - s);
  }

  alpha(t: number): number {
    return Math.exp(this.logRatio(t, 0));
  }

  /** σ_t² = 1 - α_t². */
  variance(t: number): number {
    return -Math.expm1(2 * this.logRatio(t, 0));
  }

  /** The time at which σ_t / α_t = `ratio`, 1 at most. */
  time(ratio: number): number {
    const slope = 0.25 * (this.betaMax - this.betaMin), level = 0.5 * this.betaMin;
    const c = 0.5 * Math.log1p(ratio ** 2);
    return Math.min(1, (2 * c) / (level + Math.sqrt(level ** 2 + 4 * slope * c)));
  }

  /** The bridge q(x_s | x_0, x_t) = N(toT x_t + toZero x_0, spread² I). */
  bridge(t: number, s: number): { toT: number; toZero: number; spread: number } {
    const log = this.logRatio(t, s), v = -Math.expm1(2 * log);
    const at = this.variance(t), left = this.variance(s);
    return { toT: Math.exp(log) * (left / at), toZero: this.alpha(s) * (v / at), spread: Math.sqrt(left * (v / at)) };
  }
}
