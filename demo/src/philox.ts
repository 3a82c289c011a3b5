/**
 * Philox 4x32-10 and its normals: the numbers of `stmd_sdk.Noise`, bit for bit before the rounding of log and cosine.
 *
 * Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3" (SC 2011).
 */

/** A 64-bit key as two unsigned 32-bit words. */
export interface Key {
  readonly low: number;
  readonly high: number;
}

const DRAW = 0;
const FOLD = 1;

/** The upper 32 bits of a product of unsigned 32-bit words; the lower are Math.imul's. */
function high32(a: number, b: number): number {
  const a1 = a >>> 16, a0 = a & 0xffff, b1 = b >>> 16, b0 = b & 0xffff;
  const middle = a1 * b0 + ((a0 * b0) >>> 16);
  const other = a0 * b1 + (middle & 0xffff);
  return (a1 * b1 + Math.floor(middle / 65536) + Math.floor(other / 65536)) >>> 0;
}

/** Four counter words under a key into four random words, written to `out`. */
export function philox(c0: number, c1: number, c2: number, c3: number, key: Key, out: Uint32Array): void {
  let k0 = key.low, k1 = key.high;
  for (let round = 0; round < 10; round++) {
    const h0 = high32(c0, 0xd2511f53), l0 = Math.imul(c0, 0xd2511f53);
    const h1 = high32(c2, 0xcd9e8d57), l1 = Math.imul(c2, 0xcd9e8d57);
    c0 = (h1 ^ c1 ^ k0) >>> 0;
    c1 = l1 >>> 0;
    c2 = (h0 ^ c3 ^ k1) >>> 0;
    c3 = l0 >>> 0;
    k0 = (k0 + 0x9e3779b9) >>> 0;
    k1 = (k1 + 0xbb67ae85) >>> 0;
  }
  out[0] = c0;
  out[1] = c1;
  out[2] = c2;
  out[3] = c3;
}

/** The key of a seed, an integer from 0 to 2⁵³ - 1. */
export function seeded(seed: number): Key {
  if (!Number.isSafeInteger(seed) || seed < 0) throw new RangeError(`a seed is an integer of at least 0, not ${seed}`);
  return { low: seed >>> 0, high: Math.floor(seed / 2 ** 32) >>> 0 };
}

/** The key one level down for each integer of the path. */
export function fold(key: Key, ...path: number[]): Key {
  const out = new Uint32Array(4);
  for (const i of path) {
    philox(i >>> 0, 0, 0, FOLD, key, out);
    key = { low: out[0], high: out[1] };
  }
  return key;
}

const unit = (word: number): number => (word + 0.5) * 2 ** -32;

/** Standard normals of samples `first` to `first + rows - 1`, `count` each, by Box and Muller: [rows × count]. */
export function normals(key: Key, first: number, rows: number, count: number): Float32Array {
  const found = new Float32Array(rows * count);
  const bits = new Uint32Array(4);
  const four = new Float64Array(4);
  for (let row = 0; row < rows; row++) {
    for (let block = 0; block * 4 < count; block++) {
      philox(block, (first + row) >>> 0, 0, DRAW, key, bits);
      for (let half = 0; half < 4; half += 2) {
        const radius = Math.sqrt(-2 * Math.log(unit(bits[half]))), angle = 2 * Math.PI * unit(bits[half + 1]);
        four[half] = radius * Math.cos(angle);
        four[half + 1] = radius * Math.sin(angle);
      }
      const left = Math.min(4, count - block * 4);
      for (let i = 0; i < left; i++) found[row * count + block * 4 + i] = four[i];
    }
  }
  return found;
}
