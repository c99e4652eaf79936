"""Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3") in plain torch.

Defines the integers that every backend draws. One call of the generator maps a counter of four
32-bit words and a key of two to four words. Here:

    key     = seed, low word first
    counter = (block, low word), (block, high word), stream, offset

`stream` separates uses within one op: 0 for x_T, 1 + s for the noise of step s,
DROPOUT + s * sites + site for a dropout mask, SAMPLE for a transition draw. A row-wise array
[rows, width] takes its element (r, j) from word j % 4 of block r * ceil(width / 4) + j // 4, so no
block straddles two rows.
"""

from __future__ import annotations

import math

import torch

DROPOUT = 0x40000000
SAMPLE = 0x20000000
_MASK = 0xFFFFFFFF
_MUL = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)


def _mul_hi_lo(a: int, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    product = a * b  # wraps modulo 2**64; both halves are still right after masking
    return (product >> 32) & _MASK, product & _MASK


def blocks(rng: torch.Tensor, stream: int, index: torch.Tensor) -> torch.Tensor:
    """Four words for each block number.

    rng: int64 [2], (seed, offset). index: int64 [...], block numbers >= 0.
    Returns int64 [..., 4] with values in [0, 2**32), on index's device.
    """
    seed, offset = (int(v) for v in rng.tolist())
    key = [seed & _MASK, (seed >> 32) & _MASK]
    c = [index & _MASK, (index >> 32) & _MASK]
    c += [torch.full_like(index, stream & _MASK), torch.full_like(index, offset & _MASK)]
    for _ in range(10):
        hi0, lo0 = _mul_hi_lo(_MUL[0], c[0])
        hi1, lo1 = _mul_hi_lo(_MUL[1], c[2])
        c = [hi1 ^ c[1] ^ key[0], lo1, hi0 ^ c[3] ^ key[1], lo0]
        key = [(k + w) & _MASK for k, w in zip(key, _WEYL, strict=True)]
    return torch.stack(c, -1)


def words(rng: torch.Tensor, stream: int, rows: int, width: int, device=None) -> torch.Tensor:
    """int64 [rows, width], values in [0, 2**32): the words of a row-wise array."""
    per_row = -(-width // 4)
    index = torch.arange(rows * per_row, device=device, dtype=torch.int64)
    return blocks(rng, stream, index).reshape(rows, per_row * 4)[:, :width]


def normals(rng: torch.Tensor, stream: int, rows: int, width: int, *, dtype, device=None):
    """[rows, width] standard normals by Box-Muller from word pairs (0, 1) and (2, 3) of a block.

    With u = (word + 0.5) / 2**32: radius sqrt(-2 log u_0), angle 2 pi u_1; cosine first, then sine.
    Evaluated in float64 whatever the dtype asked for.
    """
    padded = -(-width // 4) * 4
    w = words(rng, stream, rows, padded, device).double()
    u = (w.reshape(rows, padded // 2, 2) + 0.5) * 2.0**-32
    radius = torch.sqrt(-2.0 * torch.log(u[..., 0]))
    angle = (2.0 * math.pi) * u[..., 1]
    z = torch.stack([radius * torch.cos(angle), radius * torch.sin(angle)], -1)
    return z.reshape(rows, padded)[:, :width].to(dtype)


def keep_mask(rng: torch.Tensor, stream: int, rows: int, width: int, p: float, device=None):
    """Bool [rows, width]: True where dropout keeps. A word < round(p * 2**32) is dropped."""
    return words(rng, stream, rows, width, device) >= round(p * 2.0**32)
