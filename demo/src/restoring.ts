/** Paint and restore. */

import { certainty, summary } from "./certainty";
import { byId } from "./dom";
import type { Drawer } from "./drawer";
import { Easel } from "./easel";
import type { Drawn } from "./messages";
import { PIXELS, SIDE } from "./painting";
import { coloursNow, show, showDeviation, showDraws } from "./pictures";
import type { Rows } from "./sampler";

const DRAWS = 16;
const FIRST = 4; // seen soon, before the others are drawn
const LEVELS = 12;
const SIGMA = 0.1;
const SEED = 0; // the same noise for every question: what changes is what was painted

const BLANK = new Float32Array(PIXELS).fill(-1);
const KNOWN = new Float32Array(PIXELS).fill(1);
const NOTHING = new Float32Array(PIXELS);
const LEFT = KNOWN.map((_, pixel) => (pixel % SIDE < SIDE / 2 ? 1 : 0));

/** Draws 0 to `draws` - 1 of the seed, in the batches in which they are drawn. */
function batches(label: number, draws: number): Rows[] {
  const of = (first: number, n: number): Rows => ({ seed: SEED, first, labels: new Array<number>(n).fill(label) });
  return draws > FIRST ? [of(0, FIRST), of(FIRST, draws - FIRST)] : [of(0, draws)];
}

export class Restoring {
  private readonly easel = new Easel(() => this.ask());
  private readonly label = byId<HTMLSelectElement>("restore-label");
  private readonly x = new Float32Array(DRAWS * PIXELS).fill(-1);
  /** How many of x are draws of the newest question. */
  private fresh = 0;
  /** Whether the first few draws of a stroke that goes on are being drawn, and whether it has gone on since. */
  private glancing = false;
  private outdated = false;

  constructor(private readonly drawer: Drawer) {
    const { names } = drawer.spec.classes;
    this.label.append(new Option("any digit", "-1"), ...names.map((name, k) => new Option(`a ${name}`, String(k))));
    this.label.addEventListener("change", () => this.ask());
    byId("undo").addEventListener("click", () => this.easel.undo());
    byId("hide-all").addEventListener("click", () => this.easel.replace(this.easel.painting.ink, NOTHING));
    byId("blank").addEventListener("click", () => this.easel.replace(BLANK, KNOWN));
    byId("another").addEventListener("click", () => {
      const random = (n: number): number => Math.floor(Math.random() * n);
      this.begin({ seed: random(2 ** 32), first: 0, labels: [random(10)] }, this.easel.painting.mask);
    });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
      this.easel.paint();
      if (this.fresh > 0) this.paint();
    });
    byId("sigma").textContent = String(SIGMA);
    this.begin({ seed: 4, first: 3, labels: [3] }, LEFT);
  }

  /** Put a digit on the easel, as far as it is known there. */
  restore(ink: Float32Array): void {
    const { mask } = this.easel.painting;
    this.easel.replace(ink, mask.includes(1) ? mask : LEFT);
  }

  private begin(digit: Rows, mask: Float32Array): void {
    this.drawer.sample("easel", digit, 4, (drawn) => this.easel.replace(drawn.x, mask));
  }

  /** Ask for draws: all of them or, while a stroke goes on, the first few, one question after the other. */
  private ask(): void {
    const { down, painting } = this.easel;
    if (down && this.glancing) {
      this.outdated = true; // a question that is put at every move would never be answered
      return;
    }
    this.glancing = down;
    this.outdated = false;
    const y = painting.ink.map((value, pixel) => value * painting.mask[pixel]);
    const given = { mask: painting.mask.slice(), y, sigma: SIGMA };
    const rows = batches(Number(this.label.value), down ? FIRST : DRAWS);
    this.drawer.restore(rows, given, LEVELS, (drawn, milliseconds) => this.heard(drawn, milliseconds));
  }

  private heard(drawn: Drawn, milliseconds: number): void {
    this.x.set(drawn.x, drawn.first * PIXELS);
    this.fresh = drawn.first + drawn.x.length / PIXELS;
    const count = this.fresh < DRAWS ? `${this.fresh} of ${DRAWS} draws` : "Sixteen draws";
    byId("draws-caption").textContent = `${count}, ${Math.round(milliseconds)} ms`;
    this.paint();
    if (!this.glancing) return;
    this.glancing = false;
    if (this.outdated) this.ask();
  }

  private paint(): void {
    const found = summary(this.x, this.fresh), most = Math.max(...found.deviation), colours = coloursNow();
    const { ink, mask } = this.easel.painting;
    show(byId<HTMLCanvasElement>("mean"), found.mean, colours);
    showDeviation(byId<HTMLCanvasElement>("deviation"), found.deviation, Math.max(most, 0.05), colours);
    showDraws(byId<HTMLCanvasElement>("draws"), this.x, this.fresh, colours);
    byId("deviation-caption").textContent = `Deviation, up to ${Math.round(100 * most)} % of full ink`;
    // Four draws on the way to sixteen are not worth a sentence of their own, which would be read out twice.
    if (this.fresh === DRAWS || this.easel.down) byId("certainty").textContent = certainty(found, ink, mask, SIGMA);
  }
}
