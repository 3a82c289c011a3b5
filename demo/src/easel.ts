/** The canvas that is painted on, by pointer, finger or keys. */

import { byId } from "./dom";
import { Painting, SIDE, type Tool } from "./painting";
import { coloursNow, showEasel } from "./pictures";

type Point = readonly [number, number];

const MOVES: Record<string, Point> = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const BRUSHES: Record<string, Tool> = { h: "hide", i: "ink", p: "paper" };

const inside = (at: number): number => Math.min(SIDE - 1, Math.max(0, at));

export class Easel {
  readonly painting = new Painting();
  /** Whether a stroke goes on. */
  down = false;
  private readonly canvas = byId<HTMLCanvasElement>("easel");
  private cursor: Point = [SIDE / 2, SIDE / 2];
  private cursorShown = false;
  private last: Point = [0, 0];

  /** `changed` is called after each change of the painting, and at the end of a stroke. */
  constructor(private readonly changed: () => void) {
    this.canvas.addEventListener("pointerdown", (event) => this.begin(event));
    this.canvas.addEventListener("pointermove", (event) => this.down && this.go(this.pointed(event)));
    for (const end of ["pointerup", "pointercancel"]) this.canvas.addEventListener(end, () => this.down && this.end());
    this.canvas.addEventListener("keydown", (event) => this.pressed(event));
    this.canvas.addEventListener("blur", () => this.showCursor(false));
    this.paint();
  }

  /** Another picture, what is known of it, in the painting's place; undo brings that back. */
  replace(ink: Float32Array, mask: Float32Array): void {
    this.painting.replace(ink, mask);
    this.paint();
    this.changed();
  }

  undo(): void {
    this.painting.undo();
    this.paint();
    this.changed();
  }

  /** Show it, in the page's colours. */
  paint(): void {
    const { ink, mask, canUndo } = this.painting, [x, y] = this.cursor;
    showEasel(this.canvas, ink, mask, this.cursorShown ? y * SIDE + x : null, coloursNow());
    byId<HTMLButtonElement>("undo").disabled = !canUndo;
  }

  private begin(event: PointerEvent): void {
    if (event.button !== 0) return;
    this.canvas.setPointerCapture(event.pointerId);
    this.down = true;
    this.cursorShown = false;
    this.painting.begin();
    this.last = this.pointed(event);
    this.go(this.last);
  }

  private go(to: Point): void {
    const tool = document.querySelector<HTMLInputElement>("#tools input:checked")!.value as Tool;
    this.painting.stroke(tool, byId<HTMLInputElement>("width").valueAsNumber, ...this.last, ...to);
    this.last = to;
    this.paint();
    this.changed();
  }

  private end(): void {
    this.down = false;
    this.changed();
  }

  private pointed(event: PointerEvent): Point {
    const box = this.canvas.getBoundingClientRect();
    return [((event.clientX - box.left) / box.width) * SIDE, ((event.clientY - box.top) / box.height) * SIDE];
  }

  /** Arrows move the cursor, with Shift they paint on the way; Space paints where it is; letters choose the brush. */
  private pressed(event: KeyboardEvent): void {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const move = MOVES[event.key], brush = BRUSHES[event.key.toLowerCase()];
    if (brush) document.querySelector<HTMLInputElement>(`#tools input[value=${brush}]`)!.checked = true;
    if (!move && event.key !== " ") return;
    event.preventDefault();
    const [x, y] = this.cursor, [dx, dy] = move ?? [0, 0];
    this.cursor = [inside(x + dx), inside(y + dy)];
    this.showCursor(true);
    if (move && !event.shiftKey) return;
    this.painting.begin();
    this.last = [x + 0.5, y + 0.5];
    this.go([this.cursor[0] + 0.5, this.cursor[1] + 0.5]);
  }

  private showCursor(shown: boolean): void {
    this.cursorShown = shown;
    this.paint();
  }
}
