"""Philox 4x32-10, the counter-based generator, its normals and fresh seeds: the only randomness of this project.

A counter-based generator is a pure function of (key, counter), so any element of any stream can be computed
alone, in any order, on any device. Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as
1, 2, 3" (SC 2011). Written with operators alone, it serves Python integers, NumPy arrays and PyTorch tensors;
64-bit integers hold the 32-bit words. This module does not import PyTorch.
"""

from __future__ import annotations

import math
import secrets
from typing import Any

__all__ = ["classes", "fold", "fresh_seed", "normals", "philox", "uniforms", "words"]

Words = Any
"""Integers, NumPy int64 arrays or torch int64 tensors: whatever has the operators."""

MASK = 0xFFFFFFFF
MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
WEYL = 0x9E3779B9, 0xBB67AE85
ROUNDS = 10

# The last counter word separates the uses of one key.
DRAW, FOLD, CLASS = 0, 1, 2


def fresh_seed() -> int:
    """A seed from the operating system's entropy, short enough to be typed again."""
    return secrets.randbelow(2**31)


def philox(counter: tuple[Words, Words, Words, Words], key: tuple[Words, Words]) -> tuple[Words, ...]:
    """Encrypt four 32-bit counter words under two 32-bit key words into four random words."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(ROUNDS):
        # The 64-bit product wraps as a signed number; its words are right all the same once masked.
        product_0, product_1 = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            ((product_1 >> 32) & MASK) ^ c1 ^ k0,
            product_1 & MASK,
            ((product_0 >> 32) & MASK) ^ c3 ^ k1,
            product_0 & MASK,
        )
        k0, k1 = (k0 + WEYL[0]) & MASK, (k1 + WEYL[1]) & MASK
    return c0, c1, c2, c3


def fold(key: Words, i: Words) -> Words:
    """A new 64-bit key from a key and an integer, or from each of an array: the path of a stream, one fold a level."""
    low, high, _, _ = philox((i & MASK, (i >> 32) & MASK, 0, FOLD), (key & MASK, (key >> 32) & MASK))
    return low | high << 32


def words(key: Words, indices: Words, blocks: Words) -> tuple[Words, ...]:
    """Random words of the given sample indices: four arrays of shape [samples, blocks].

    ``indices`` has shape [samples, 1] and ``blocks`` [1, blocks]; both are int64 arrays of one library. An array of
    keys [keys, 1, 1] gives [keys, samples, blocks].
    """
    counter = blocks + indices * 0, indices & MASK, (indices >> 32) & MASK, DRAW
    # The upper word is masked as well: of an int64 that stands for 64 bits the shift drags the sign along.
    return philox(counter, (key & MASK, (key >> 32) & MASK))


def classes(key: Words, indices: Words, count: int) -> Words:
    """A class of 0 to ``count`` - 1, all as likely, for each of the sample indices [samples]."""
    counter = indices & MASK, (indices >> 32) & MASK, 0, CLASS
    return philox(counter, (key & MASK, (key >> 32) & MASK))[0] * count >> 32


def uniforms(bits: Words, xp: Any) -> Any:
    """32-bit words to float64 in the open interval (0, 1)."""
    return (xp.asarray(bits, dtype=xp.float64) + 0.5) * 2.0**-32


def normals(bits: tuple[Words, ...], xp: Any) -> tuple[Any, Any, Any, Any]:
    """Four words to four standard normals by Box and Muller's transform, in float64.

    Double precision makes the float32 result independent of the library's last bit of log, cos and sin.
    ``xp`` is ``numpy`` or ``torch``.
    """
    u_0, u_1, u_2, u_3 = (uniforms(word, xp) for word in bits)
    radius_0, radius_2 = xp.sqrt(-2.0 * xp.log(u_0)), xp.sqrt(-2.0 * xp.log(u_2))
    angle_1, angle_3 = (2.0 * math.pi) * u_1, (2.0 * math.pi) * u_3
    return (
        radius_0 * xp.cos(angle_1),
        radius_0 * xp.sin(angle_1),
        radius_2 * xp.cos(angle_3),
        radius_2 * xp.sin(angle_3),
    )
