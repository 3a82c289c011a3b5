/** What the page asks of its worker, and what the worker answers. */

import type { Measurement, Rows, Spec } from "./sampler";

/** Where the answer will be shown: a newer question of a place ends the older one. */
export type Place = "easel" | "gallery" | "restored";

export type Ask =
  | { readonly kind: "open"; readonly base: string }
  | { readonly kind: "sample"; readonly id: number; readonly place: Place; readonly rows: Rows; readonly steps: number }
  | {
      readonly kind: "restore";
      readonly id: number;
      readonly place: Place;
      /** Each drawn to its end before the next begins. */
      readonly batches: readonly Rows[];
      readonly given: Measurement;
      readonly levels: number;
    };

export type Answer =
  | { readonly kind: "opened"; readonly spec: Spec; readonly threads: number }
  | { readonly kind: "drawn"; readonly id: number; readonly first: number; readonly x: Float32Array; readonly last: boolean }
  | { readonly kind: "failed"; readonly id: number; readonly message: string };

export type Drawn = Extract<Answer, { kind: "drawn" }>;
