"""Philox on tensors whose key is a tensor too: what a captured graph draws with, another key's numbers at each replay.

On a CUDA device each function is one kernel, where PyTorch's operators would launch some two hundred; elsewhere they
are :mod:`philox` on PyTorch's operators. Keys are 64 bits, as int64.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from . import philox

__all__ = ["device_normals", "device_uniforms", "fold_key", "key_of"]

# Two of the four words that the counter (front, back), low words first, is encrypted to: the first or the second half.
WORDS = """
template <typename T> T philox_half(T front, T back, T key, T half) {
  unsigned int c0 = front, c1 = front >> 32, c2 = back, c3 = back >> 32, k0 = key, k1 = key >> 32;
  for (int round = 0; round < 10; ++round) {
    const unsigned long long p0 = 0xD2511F53ull * c0, p1 = 0xCD9E8D57ull * c2;
    c0 = (unsigned int)(p1 >> 32) ^ c1 ^ k0;
    c1 = (unsigned int)p1;
    c2 = (unsigned int)(p0 >> 32) ^ c3 ^ k1;
    c3 = (unsigned int)p0;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return half ? c2 | (T)c3 << 32 : c0 | (T)c1 << 32;
}
"""
# The two words beside number ``position`` of a sample, as ``philox.words`` has them.
PAIR = (
    WORDS
    + """
template <typename T> T philox_pair(T position, T index, T key) {
  const T low = index & 0xFFFFFFFFll, high = (index >> 32) & 0xFFFFFFFFll;
  return philox_half<T>(position >> 2 | low << 32, high, key, (position >> 1) & 1);
}
"""
)
FOLD = (
    WORDS
    + """
template <typename T> T philox_fold(T i, T key) {
  return philox_half<T>(i, (T)1 << 32, key, (T)0);
}
"""
)
UNIFORM = (
    PAIR
    + """
template <typename T> T philox_uniform(T position, T index, T key) {
  const T pair = philox_pair<T>(position, index, key);
  const unsigned int word = position & 1 ? pair >> 32 : pair;
  return __double_as_longlong((word + 0.5) * 0x1p-32);
}
"""
)
NORMAL = (
    PAIR
    + """
template <typename T> T philox_normal(T position, T index, T key) {
  const T pair = philox_pair<T>(position, index, key);
  const double u = ((unsigned int)pair + 0.5) * 0x1p-32, v = ((unsigned int)(pair >> 32) + 0.5) * 0x1p-32;
  const double radius = ::sqrt(-2.0 * ::log(u)), angle = 6.283185307179586 * v;
  return __double_as_longlong(radius * (position & 1 ? ::sin(angle) : ::cos(angle)));
}
"""
)


@cache
def _kernel(source: str) -> Any:
    """A function of broadcast int64 tensors, compiled at its first call."""
    return torch.cuda.jiterator._create_jit_fn(source)  # pyright: ignore[reportPrivateUsage]


def key_of(key: int | Int[Tensor, "*keys"], device: torch.device) -> Int[Tensor, "*keys"]:
    """A key as a tensor on the device; a number is written there by a launch, without a copy."""
    if isinstance(key, int):
        return torch.full((), key - 2**64 if key >= 2**63 else key, dtype=torch.int64, device=device)
    return key


def fold_key(key: Int[Tensor, "*keys"], i: int | Int[Tensor, "*keys"]) -> Int[Tensor, "*keys"]:
    """A new key from a key and an integer: :func:`philox.fold`."""
    if key.is_cuda:
        return _kernel(FOLD)(key_of(i, key.device), key)
    return philox.fold(key, i)


def _numbers(source: str, key: Int[Tensor, "*keys"], indices: Int[Tensor, " b"], count: int) -> Float[Tensor, "*b n"]:
    """The first ``count`` numbers of each sample on a CUDA device: [*keys, b, count], float64."""
    positions = torch.arange(count, device=indices.device)
    return _kernel(source)(positions, indices[:, None], key[..., None, None]).view(torch.float64)


def device_uniforms(key: Int[Tensor, "*keys"], indices: Int[Tensor, " b"], count: int) -> Float[Tensor, "*b n"]:
    """Uniform numbers in (0, 1) of each key and sample: [*keys, b, count], float64."""
    if indices.is_cuda:
        return _numbers(UNIFORM, key, indices, count)
    return _rows(tuple(philox.uniforms(word, torch) for word in _words(key, indices, count)), count)


def device_normals(key: Int[Tensor, "*keys"], indices: Int[Tensor, " b"], count: int) -> Float[Tensor, "*b n"]:
    """Standard normal numbers of each key and sample: [*keys, b, count], float64."""
    if indices.is_cuda:
        return _numbers(NORMAL, key, indices, count)
    return _rows(philox.normals(_words(key, indices, count), torch), count)


def _words(key: Tensor, indices: Tensor, count: int) -> Any:
    blocks = torch.arange(-(-count // 4), device=indices.device)
    return philox.words(key[..., None, None], indices[:, None], blocks)


def _rows(columns: tuple[Tensor, ...], count: int) -> Tensor:
    return torch.stack(columns, dim=-1).flatten(-2)[..., :count]
