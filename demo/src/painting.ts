/** What has been painted: ink in [-1, 1] where the paper shows, and where it is hidden. */

export const SIDE = 28;
export const PIXELS = SIDE * SIDE;

export type Tool = "hide" | "ink" | "paper";

export interface Painted {
  readonly ink: Float32Array;
  /** 1 where the picture is known, 0 where it is hidden. */
  readonly mask: Float32Array;
}

const STEPS_BACK = 50;

export class Painting {
  private now: Painted = { ink: new Float32Array(PIXELS).fill(-1), mask: new Float32Array(PIXELS).fill(1) };
  private readonly earlier: Painted[] = [];

  get ink(): Float32Array {
    return this.now.ink;
  }

  get mask(): Float32Array {
    return this.now.mask;
  }

  get canUndo(): boolean {
    return this.earlier.length > 0;
  }

  /** Remember what is there, to come back to. */
  begin(): void {
    this.earlier.push({ ink: this.ink.slice(), mask: this.mask.slice() });
    if (this.earlier.length > STEPS_BACK) this.earlier.shift();
  }

  undo(): void {
    this.now = this.earlier.pop() ?? this.now;
  }

  replace(ink: Float32Array, mask: Float32Array): void {
    this.begin();
    this.now = { ink: ink.slice(), mask: mask.slice() };
  }

  /** A stroke of a brush of `width` pixels from one point to another, in pixels from the upper left corner. */
  stroke(tool: Tool, width: number, x0: number, y0: number, x1: number, y1: number): void {
    const dx = x1 - x0, dy = y1 - y0, length = dx * dx + dy * dy;
    for (let pixel = 0; pixel < PIXELS; pixel++) {
      const x = (pixel % SIDE) + 0.5, y = Math.floor(pixel / SIDE) + 0.5;
      const along = length === 0 ? 0 : Math.min(1, Math.max(0, ((x - x0) * dx + (y - y0) * dy) / length));
      const distance = Math.hypot(x - x0 - along * dx, y - y0 - along * dy);
      const covered = Math.min(1, Math.max(0, width / 2 + 0.5 - distance)); // the edge is as soft as scanned ink
      if (covered === 0) continue;
      if (tool === "hide") {
        if (covered >= 0.5) this.mask[pixel] = 0;
        continue;
      }
      // What was hidden is paper before it is painted on: nothing else is known of it.
      const before = this.mask[pixel] === 0 ? -1 : this.ink[pixel];
      this.ink[pixel] = tool === "ink" ? Math.max(before, 2 * covered - 1) : Math.min(before, 1 - 2 * covered);
      this.mask[pixel] = 1;
    }
  }
}
