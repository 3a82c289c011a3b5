"""Philox against Random123's known answers, and its normals against the normal distribution."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from stmd_sdk.diffusion import philox

# Random123's kat_vectors for philox4x32 with 10 rounds: counter, key, answer.
KNOWN = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]
LIBRARIES = {
    "python": int,
    "numpy": lambda word: np.full((2, 3), word, np.int64),
    "torch": lambda word: torch.full((2, 3), word, dtype=torch.int64),
}


def _words(text):
    return tuple(int(word, 16) for word in text.split())


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN)
def test_gives_random123s_known_answers(library, counter, key, answer):
    make = LIBRARIES[library]
    words = philox.philox(tuple(make(word) for word in _words(counter)), _words(key))
    for word, known in zip(words, _words(answer), strict=True):
        assert np.all(np.asarray(word) == known)


def test_a_sample_index_fills_two_counter_words():
    low, high, block, key = 0x89ABCDEF, 0x01234567, 5, 0xFEDCBA9876543210
    words = philox.words(key, np.array([[high << 32 | low]]), np.array([[block]]))
    expected = philox.philox((block, low, high, philox.DRAW), (key & philox.MASK, key >> 32))
    assert tuple(word.item() for word in words) == expected


def test_a_folded_key_is_two_words_that_no_draw_uses():
    key, i = 0x0123456789ABCDEF, 0x1122334455667788
    low, high, *_ = philox.philox((0x55667788, 0x11223344, 0, 1), (0x89ABCDEF, 0x01234567))
    assert philox.fold(key, i) == high << 32 | low
    assert philox.DRAW != philox.FOLD


@pytest.mark.parametrize("xp", [np, torch])
def test_uniforms_are_centred_on_the_32_bit_grid(xp):
    words = xp.asarray([0, 2**31, 2**32 - 1])
    uniforms = philox.uniforms(words, xp)
    assert uniforms.tolist() == [2.0**-33, 0.5 + 2.0**-33, 1 - 2.0**-33]


def test_normals_are_box_and_mullers():
    words = tuple(np.array([[word]]) for word in (1, 2**30, 2**31, 3))
    u_0, u_1, u_2, u_3 = (float(philox.uniforms(word, np)[0, 0]) for word in words)
    expected = [
        math.sqrt(-2 * math.log(u)) * wave(2 * math.pi * angle)
        for u, angle in ((u_0, u_1), (u_2, u_3))
        for wave in (math.cos, math.sin)
    ]
    assert np.allclose([float(normal[0, 0]) for normal in philox.normals(words, np)], expected, rtol=1e-14)


def test_normals_are_normal_and_uniforms_uniform():
    words = philox.words(12345, np.arange(64)[:, None], np.arange(1024)[None])
    for normal in philox.normals(words, np):
        assert stats.kstest(normal.ravel(), "norm").pvalue > 1e-3
        assert stats.kstest((normal**2).ravel(), "chi2", (1,)).pvalue > 1e-3
    for word in words:
        assert stats.kstest(philox.uniforms(word, np).ravel(), "uniform").pvalue > 1e-3


def test_numpy_and_torch_agree_to_the_last_bit_of_float32():
    words = philox.words(7, np.arange(32)[:, None], np.arange(512)[None])
    same = philox.words(7, torch.arange(32)[:, None], torch.arange(512)[None])
    for ours, theirs in zip(words, same, strict=True):
        assert np.array_equal(ours, theirs.numpy())
    for ours, theirs in zip(philox.normals(words, np), philox.normals(same, torch), strict=True):
        assert np.array_equal(ours.astype(np.float32), theirs.float().numpy())
        assert np.abs(ours - theirs.numpy()).max() < 1e-14
