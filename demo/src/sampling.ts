/** Draw by class. */

import type { Drawer } from "./drawer";
import { PIXELS } from "./painting";
import { coloursNow, show } from "./pictures";

const DRAWS = 16;
const SEEDS = 2 ** 32;

const byId = <T extends HTMLElement>(id: string): T => document.getElementById(id) as T;

/** The digits, each a button that hands itself to `chosen`. */
export function startSampling(drawer: Drawer, chosen: (ink: Float32Array) => void): void {
  const steps = byId<HTMLInputElement>("steps"), seed = byId<HTMLInputElement>("seed"), { names } = drawer.spec.classes;
  let drawn = new Float32Array(DRAWS * PIXELS).fill(-1);

  const pictures = Array.from({ length: DRAWS }, (_, k) => {
    const canvas = Object.assign(document.createElement("canvas"), { width: 28, height: 28, className: "picture" });
    const button = Object.assign(document.createElement("button"), { type: "button" });
    button.setAttribute("aria-label", `Digit ${k + 1}: restore it`);
    button.append(canvas);
    button.addEventListener("click", () => chosen(drawn.slice(k * PIXELS, (k + 1) * PIXELS)));
    const item = document.createElement("li");
    item.append(button);
    byId("digits").append(item);
    return canvas;
  });
  const classes = [["any", -1] as const, ...names.map((_, k) => [String(k), k] as const)];
  for (const [name, number] of classes) {
    const input = Object.assign(document.createElement("input"), { type: "radio", name: "class", value: String(number) });
    input.checked = number === 3;
    const text = Object.assign(document.createElement("span"), { textContent: name });
    const choice = document.createElement("label");
    choice.append(input, text);
    byId("classes").append(choice);
  }

  function paint(): void {
    const colours = coloursNow();
    pictures.forEach((canvas, k) => show(canvas, drawn.subarray(k * PIXELS, (k + 1) * PIXELS), colours));
  }

  function ask(): void {
    const n = steps.valueAsNumber, from = seed.valueAsNumber;
    byId("steps-shown").textContent = String(n);
    if (!seed.checkValidity() || Number.isNaN(from)) {
      seed.reportValidity();
      return;
    }
    const label = Number(document.querySelector<HTMLInputElement>("#classes input:checked")!.value);
    const named = label < 0 ? "" : ` --label ${names[label]}`;
    byId("command").textContent = `stmd sample --model mnist -n ${DRAWS} --steps ${n} --seed ${from}${named}`;
    drawer.sample("gallery", { seed: from, first: 0, labels: new Array<number>(DRAWS).fill(label) }, n, (found, milliseconds) => {
      drawn = Float32Array.from(found.x);
      byId("sample-time").textContent = `Sixteen digits in ${Math.round(milliseconds)} ms.`;
      paint();
    });
  }

  for (const id of ["steps", "seed", "classes"]) byId(id).addEventListener("input", ask);
  byId("next-seed").addEventListener("click", () => {
    seed.valueAsNumber = ((seed.valueAsNumber || 0) + 1) % SEEDS;
    ask();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);
  paint();
  ask();
}
