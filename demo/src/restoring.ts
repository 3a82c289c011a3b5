/** Paint and restore. */

import { certainty, summary } from "./certainty";
import type { Drawer } from "./drawer";
import { Painting, PIXELS, SIDE, type Tool } from "./painting";
import { coloursNow, show, showDeviation, showDraws, showEasel } from "./pictures";
import type { Rows } from "./sampler";

const DRAWS = 16;
const FIRST = 4; // seen soon, before the others are drawn
const LEVELS = 12;
const SIGMA = 0.1;
const SEED = 0; // the same noise for every question: what changes is what was painted

const byId = <T extends HTMLElement>(id: string): T => document.getElementById(id) as T;

/** Draws 0 to 15 of the seed, in the two batches in which they are drawn. */
function batches(label: number, draws: number): Rows[] {
  const of = (first: number, n: number): Rows => ({ seed: SEED, first, labels: new Array<number>(n).fill(label) });
  return draws > FIRST ? [of(0, FIRST), of(FIRST, draws - FIRST)] : [of(0, draws)];
}

export function startRestoring(drawer: Drawer): { restore: (ink: Float32Array) => void } {
  const painting = new Painting(), easel = byId<HTMLCanvasElement>("easel");
  const label = byId<HTMLSelectElement>("restore-label"), x = new Float32Array(DRAWS * PIXELS).fill(-1);
  let fresh = 0, busy = false, waiting = false, down = false, cursor = { x: 14, y: 14, shown: false };

  const tool = (): Tool => document.querySelector<HTMLInputElement>("#tools input:checked")!.value as Tool;
  const width = (): number => byId<HTMLInputElement>("width").valueAsNumber;

  function paintEasel(): void {
    const at = cursor.shown ? cursor.y * SIDE + cursor.x : null;
    showEasel(easel, painting.ink, painting.mask, at, coloursNow());
    byId<HTMLButtonElement>("undo").disabled = !painting.canUndo;
  }

  function paintDraws(): void {
    if (fresh === 0) return;
    const found = summary(x, fresh), most = Math.max(...found.deviation), colours = coloursNow();
    show(byId<HTMLCanvasElement>("mean"), found.mean, colours);
    showDeviation(byId<HTMLCanvasElement>("deviation"), found.deviation, Math.max(most, 0.05), colours);
    showDraws(byId<HTMLCanvasElement>("draws"), x, fresh, colours);
    byId("deviation-caption").textContent = `Deviation, up to ${Math.round(100 * most)} % of full ink`;
    if (fresh === DRAWS || down) byId("certainty").textContent = certainty(found, painting.ink, painting.mask, SIGMA);
  }

  /** Ask for draws: all of them, or, while a stroke goes on, the first few, one question after the other. */
  function ask(): void {
    if (down && busy) {
      waiting = true;
      return;
    }
    const y = painting.ink.map((value, pixel) => value * painting.mask[pixel]);
    const given = { mask: painting.mask.slice(), y, sigma: SIGMA };
    busy = true;
    drawer.restore(batches(Number(label.value), down ? FIRST : DRAWS), given, LEVELS, (drawn, milliseconds) => {
      x.set(drawn.x, drawn.first * PIXELS);
      fresh = drawn.first + drawn.x.length / PIXELS;
      busy = !drawn.last;
      const rest = fresh < DRAWS ? `${fresh} of ${DRAWS} draws` : "Sixteen draws";
      byId("draws-caption").textContent = `${rest}, ${Math.round(milliseconds)} ms`;
      paintDraws();
      if (down && waiting) {
        waiting = false;
        ask();
      }
    });
  }

  function changed(): void {
    paintEasel();
    ask();
  }

  const point = (event: PointerEvent): [number, number] => {
    const box = easel.getBoundingClientRect();
    return [((event.clientX - box.left) / box.width) * SIDE, ((event.clientY - box.top) / box.height) * SIDE];
  };
  let last: [number, number] = [0, 0];

  easel.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    easel.setPointerCapture(event.pointerId);
    down = true;
    cursor.shown = false;
    painting.begin();
    last = point(event);
    painting.stroke(tool(), width(), ...last, ...last);
    changed();
  });
  easel.addEventListener("pointermove", (event) => {
    if (!down) return;
    const now = point(event);
    painting.stroke(tool(), width(), ...last, ...now);
    last = now;
    changed();
  });
  for (const end of ["pointerup", "pointercancel"]) {
    easel.addEventListener(end, () => {
      if (!down) return;
      down = waiting = false;
      ask();
    });
  }

  const moves: Record<string, [number, number]> = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  const brushes: Record<string, Tool> = { h: "hide", i: "ink", p: "paper" };
  easel.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const move = moves[event.key], brush = brushes[event.key.toLowerCase()];
    if (brush) {
      document.querySelector<HTMLInputElement>(`#tools input[value=${brush}]`)!.checked = true;
    } else if (move || event.key === " ") {
      event.preventDefault();
      const before = cursor;
      const inside = (at: number): number => Math.min(SIDE - 1, Math.max(0, at));
      cursor = { x: inside(before.x + (move?.[0] ?? 0)), y: inside(before.y + (move?.[1] ?? 0)), shown: true };
      if (event.key !== " " && !event.shiftKey) return paintEasel();
      painting.begin();
      painting.stroke(tool(), width(), before.x + 0.5, before.y + 0.5, cursor.x + 0.5, cursor.y + 0.5);
      changed();
    }
  });
  easel.addEventListener("blur", () => {
    cursor.shown = false;
    paintEasel();
  });

  const blank = new Float32Array(PIXELS).fill(-1), known = new Float32Array(PIXELS).fill(1), nothing = new Float32Array(PIXELS);
  const whole = (ink: Float32Array, mask: Float32Array): void => {
    painting.replace(ink, mask);
    changed();
  };
  byId("undo").addEventListener("click", () => {
    painting.undo();
    changed();
  });
  byId("hide-all").addEventListener("click", () => whole(painting.ink, nothing));
  byId("blank").addEventListener("click", () => whole(blank, known));
  byId("another").addEventListener("click", () => {
    const seed = Math.floor(Math.random() * 2 ** 32), digit = Math.floor(Math.random() * 10);
    drawer.sample("easel", { seed, first: 0, labels: [digit] }, 4, (drawn) => whole(drawn.x, painting.mask));
  });
  label.append(new Option("any digit", "-1"), ...drawer.spec.classes.names.map((name, k) => new Option(`a ${name}`, String(k))));
  label.addEventListener("change", ask);
  byId("sigma").textContent = String(SIGMA);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    paintEasel();
    paintDraws();
  });

  const right = known.map((_, pixel) => (pixel % SIDE < SIDE / 2 ? 1 : 0));
  paintEasel();
  drawer.sample("easel", { seed: 4, first: 3, labels: [3] }, 4, (drawn) => whole(drawn.x, right));
  return { restore: (ink) => whole(ink, painting.mask.some((one) => one === 1) ? painting.mask : right) };
}
