"""Philox against the published test vectors, and what is drawn from its words."""

import math

import pytest
import torch

from dom2_fast.ops import philox


def rng(seed, offset=0):
    return torch.tensor([seed, offset], dtype=torch.int64)


def signed(value):
    """A 64-bit pattern as the int64 that has it."""
    return value - 2**64 if value >= 2**63 else value


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [  # Random123 1.09, tests/kat_vectors: philox4x32 10
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        (
            (0xFFFFFFFF,) * 4,
            (0xFFFFFFFF,) * 2,
            (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
        ),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_published_vectors(counter, key, words):
    block = torch.tensor([signed(counter[0] | counter[1] << 32)])
    seed = signed(key[0] | key[1] << 32)
    got = philox.blocks(rng(seed, counter[3]), counter[2], block)
    assert got.tolist() == [list(words)]


def test_a_row_takes_whole_blocks():
    words = philox.words(rng(5), 1, rows=3, width=5)
    blocks = philox.blocks(rng(5), 1, torch.arange(6))
    assert words.shape == (3, 5)
    assert words[1].tolist() == [*blocks[2].tolist(), blocks[3, 0].item()]


def test_normals_follow_box_muller():
    z = philox.normals(rng(5), 0, 2, 3, dtype=torch.float64)
    w = philox.words(rng(5), 0, 2, 4).double()
    u = [(v + 0.5) / 2**32 for v in w[1].tolist()]
    radius = [math.sqrt(-2 * math.log(u[0])), math.sqrt(-2 * math.log(u[2]))]
    want = [
        radius[0] * math.cos(2 * math.pi * u[1]),
        radius[0] * math.sin(2 * math.pi * u[1]),
        radius[1] * math.cos(2 * math.pi * u[3]),
    ]
    assert z[1].tolist() == pytest.approx(want, rel=1e-12)


def test_normals_are_normal():
    n = 100_000
    z = philox.normals(rng(1), 0, n // 4, 4, dtype=torch.float64).flatten()
    # Four standard errors of the mean, the variance and the fourth moment of n normal draws.
    assert abs(z.mean().item()) < 4 / math.sqrt(n)
    assert abs(z.var().item() - 1) < 4 * math.sqrt(2 / n)
    assert abs((z**4).mean().item() - 3) < 4 * math.sqrt(96 / n)


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5])
def test_keep_mask_drops_a_share_of_p(p):
    n = 40_000
    mask = philox.keep_mask(rng(2), philox.DROPOUT, n // 4, 4, p)
    dropped = n - int(mask.sum())
    assert abs(dropped - p * n) <= 4 * math.sqrt(p * (1 - p) * n)


def test_streams_offsets_and_seeds_differ():
    draws = [
        philox.words(rng(1), 0, 1, 4),
        philox.words(rng(1), 1, 1, 4),
        philox.words(rng(1, 1), 0, 1, 4),
        philox.words(rng(2), 0, 1, 4),
        philox.words(rng(1 << 32), 0, 1, 4),
    ]
    assert len({tuple(d.flatten().tolist()) for d in draws}) == len(draws)
