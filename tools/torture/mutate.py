"""Damages bytes, texts and nested values, by a seeded generator; knows not what they mean."""

from __future__ import annotations

import copy
import random
import re
from typing import Any

NUMBERS = (0, -1, 1, 2**31 - 1, 2**31, 2**63, 10**30, 0.5, -0.0, 1e308, float("nan"), float("inf"))
VALUES = (None, True, "", "x", "../../etc/passwd", "\0", "é" * 9, [], [[]], {}, {"a": 1}, *NUMBERS)
TEXTS = (
    "-1", "0", "1e400", "99999999999999999999", ".nan", ".inf", "null", "true", "[]", "{}", "''",
    "!!python/object/apply:os.system ['touch PWNED']", "!!python/name:os.system", "&a [*a]", "\t",
    "0x7fffffff", "2026-11-30", "\0", "- ", ": ", "é", "%s%n", "a" * 5000, "[" * 500,
)  # fmt: skip


def data(whole: bytes, rng: random.Random) -> bytes:
    """Some bytes of a file changed, taken out, put in, or its end cut off."""
    out = bytearray(whole)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        if not out:
            break
        # Headers are at the beginning, directories of archives at the end.
        span = rng.choice((64, 512, 4096, len(out)))
        at = rng.randrange(min(span, len(out)))
        at = len(out) - 1 - at if rng.random() < 0.3 else at
        kind = rng.randrange(7)
        if kind == 0:
            out[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            out[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        elif kind == 2:
            del out[at : at + rng.choice((1, 2, 8, 64))]
        elif kind == 3:
            out[at:at] = rng.randbytes(rng.choice((1, 2, 8, 64)))
        elif kind == 4:
            del out[at:]
        elif kind == 5:
            width = rng.choice((2, 4, 8))
            out[at : at + width] = rng.choice(
                (b"\xff" * width, b"\0" * width, (1 << 8 * width - 1).to_bytes(width, "little"))
            )
        else:
            other = rng.randrange(len(out))
            out[at : at + 16] = out[other : other + 16]
    return bytes(out)


def text(whole: str, rng: random.Random) -> bytes:
    """A text with words and numbers replaced, lines doubled, moved or lost; or damaged bytes."""
    if rng.random() < 0.2:
        return data(whole.encode(), rng)
    out = whole
    for _ in range(rng.choice((1, 1, 2, 3))):
        kind = rng.randrange(4)
        found = list(re.finditer(r"[\w.+-]+", out))
        if kind < 2 and found:
            word = rng.choice(found)
            out = out[: word.start()] + rng.choice(TEXTS) + out[word.end() :]
        else:
            lines = out.split("\n")
            at = rng.randrange(len(lines))
            if kind == 2:
                lines.insert(rng.randrange(len(lines)), lines[at])
            else:
                lines[at] = rng.choice(("", "  " + lines[at], lines[at].lstrip(), lines[at] + " :"))
            out = "\n".join(lines)
    return out.encode("utf-8", "replace")


def value(whole: Any, rng: random.Random) -> Any:
    """Nested values with one or a few of them replaced, taken out or doubled; tensors reshaped."""
    out = copy.deepcopy(whole)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        places = list(_places(out))
        if not places:
            return rng.choice(VALUES)
        holder, key = rng.choice(places)
        kind = rng.randrange(5)
        if kind == 0:
            del holder[key]
        elif kind == 1 and isinstance(holder, dict):
            holder[rng.choice(("x", "steps", 3, ""))] = copy.deepcopy(holder[key])
        elif hasattr(holder[key], "dtype"):
            holder[key] = _tensor(holder[key], rng)
        else:
            holder[key] = copy.deepcopy(rng.choice(VALUES))
    return out


def _places(value: Any):
    """(holder, key) of everything within lists and mappings."""
    keys = list(value) if isinstance(value, dict) else range(len(value))
    for key in keys:
        yield value, key
        if isinstance(value[key], dict | list):
            yield from _places(value[key])


def _tensor(tensor: Any, rng: random.Random) -> Any:
    import torch

    kind = rng.randrange(7)
    if kind == 0:
        return tensor.double() if tensor.dtype == torch.float32 else tensor.float()
    if kind == 1:
        return tensor.flatten()
    if kind == 2:
        return torch.cat([tensor.flatten(), tensor.flatten()])
    if kind == 3:
        return tensor.new_zeros(0)
    if kind == 4 and tensor.is_floating_point():
        return torch.full_like(tensor, rng.choice((float("nan"), float("inf"), 1e38)))
    if kind == 5 and tensor.numel():
        return (
            (tensor.flatten() + 1).reshape(tensor.shape)[..., :-1] if tensor.dim() else tensor + 1
        )
    return rng.choice(VALUES)
