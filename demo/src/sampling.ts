/** Draw by class. */

import { byId } from "./dom";
import type { Drawer } from "./drawer";
import { PIXELS } from "./painting";
import { coloursNow, show } from "./pictures";

const DRAWS = 16;
const SEEDS = 2 ** 32;
const FIRST_CLASS = 3;

/** The digits, each a button that hands itself to `chosen`. */
export class Sampling {
  private readonly steps = byId<HTMLInputElement>("steps");
  private readonly seed = byId<HTMLInputElement>("seed");
  private readonly pictures: HTMLCanvasElement[];
  private x = new Float32Array(DRAWS * PIXELS).fill(-1);

  constructor(private readonly drawer: Drawer, chosen: (ink: Float32Array) => void) {
    this.pictures = Array.from({ length: DRAWS }, (_, k) => this.picture(k, chosen));
    byId("classes").append(choice("any", -1), ...drawer.spec.classes.names.map((_, k) => choice(String(k), k)));
    for (const id of ["steps", "seed", "classes"]) byId(id).addEventListener("input", () => this.ask());
    byId("next-seed").addEventListener("click", () => {
      this.seed.valueAsNumber = ((this.seed.valueAsNumber || 0) + 1) % SEEDS;
      this.ask();
    });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.paint());
    this.paint();
    this.ask();
  }

  private picture(k: number, chosen: (ink: Float32Array) => void): HTMLCanvasElement {
    const canvas = Object.assign(document.createElement("canvas"), { width: 28, height: 28, className: "picture" });
    const button = Object.assign(document.createElement("button"), { type: "button" });
    button.setAttribute("aria-label", `Digit ${k + 1}: restore it`);
    button.append(canvas);
    button.addEventListener("click", () => chosen(this.x.slice(k * PIXELS, (k + 1) * PIXELS)));
    const item = document.createElement("li");
    item.append(button);
    byId("digits").append(item);
    return canvas;
  }

  private ask(): void {
    const steps = this.steps.valueAsNumber, seed = this.seed.valueAsNumber;
    byId("steps-shown").textContent = String(steps);
    if (!this.seed.checkValidity() || Number.isNaN(seed)) {
      this.seed.reportValidity();
      return;
    }
    const label = Number(document.querySelector<HTMLInputElement>("#classes input:checked")!.value);
    const named = label < 0 ? "" : ` --label ${this.drawer.spec.classes.names[label]}`;
    byId("command").textContent = `stmd sample --model mnist -n ${DRAWS} --steps ${steps} --seed ${seed}${named}`;
    const rows = { seed, first: 0, labels: new Array<number>(DRAWS).fill(label) };
    this.drawer.sample("gallery", rows, steps, (drawn, milliseconds) => {
      this.x = Float32Array.from(drawn.x);
      byId("sample-time").textContent = `Sixteen digits in ${Math.round(milliseconds)} ms.`;
      this.paint();
    });
  }

  private paint(): void {
    const colours = coloursNow();
    this.pictures.forEach((canvas, k) => show(canvas, this.x.subarray(k * PIXELS, (k + 1) * PIXELS), colours));
  }
}

/** One class to choose. */
function choice(name: string, label: number): HTMLLabelElement {
  const input = Object.assign(document.createElement("input"), { type: "radio", name: "class", value: String(label) });
  input.checked = label === FIRST_CLASS;
  const text = Object.assign(document.createElement("span"), { textContent: name });
  const element = document.createElement("label");
  element.append(input, text);
  return element;
}
