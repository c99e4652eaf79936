"""Weights of trajectories by their returns: DOM2's replication, and the usual alternatives.

A reweighting is a callable `returns [agents, n_traj] -> weights [agents, n_traj]`; each agent's
weights depend on its own returns alone. A trajectory is then drawn with probability proportional to
weight x length (see `sampler`). Every algorithm can use every reweighting.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from dom2_fast.data.weights import (
    Parts,
    Quantiles,
    Rank,
    Reweighting,
    Softmax,
    Thresholds,
    TopK,
    Uniform,
)
from dom2_fast.errors import Dom2Error

_REPLAY = ("quantiles", (0.5, 0.75, 0.875, 0.875))
# R_th of the first author's later public code (OM2P utils/buffer.py, `load_batch_data_adaptive`);
# DOM2's own appendix may differ. "random" is not reweighted there.
PRESETS: dict[tuple[str, str], tuple[str, tuple[float, ...]]] = {
    ("simple_spread", "expert"): ("thresholds", (525, 550, 575, 600, 625)),
    ("simple_spread", "medium"): ("thresholds", (200, 250, 300, 350, 400, 450, 500, 550)),
    ("simple_spread", "medium-replay"): _REPLAY,
    ("simple_tag", "expert"): ("thresholds", (200, 250, 300, 350, 400)),
    ("simple_tag", "medium"): ("thresholds", (100, 150, 200, 250, 300)),
    ("simple_tag", "medium-replay"): _REPLAY,
    ("simple_world", "expert"): ("thresholds", (75, 100, 125, 150, 175)),
    ("simple_world", "medium"): _REPLAY,
    ("simple_world", "medium-replay"): _REPLAY,
    ("HalfCheetah-v2", "expert"): ("thresholds", (3800, 3850, 3900, 3950, 4000)),
    ("HalfCheetah-v2", "medium"): ("thresholds", (1800, 1850, 1900, 1950, 2000)),
    ("HalfCheetah-v2", "medium-replay"): ("thresholds", (100, 300, 500, 1000, 1500)),
    # Nobody published levels for these data: quantiles fit any, as for the replay data.
    ("spread_6_landmarks", "expert"): _REPLAY,
    ("spread_6_landmarks", "medium"): _REPLAY,
    ("spread_6_landmarks", "medium-replay"): _REPLAY,
    ("halfcheetah_2x3", "expert"): _REPLAY,
    ("halfcheetah_2x3", "medium"): _REPLAY,
    ("halfcheetah_2x3", "medium-replay"): _REPLAY,
    ("xor", "expert"): ("uniform", ()),  # all episodes have the same return
    ("xor", "random"): ("uniform", ()),
}  # fmt: skip
_TASKS = (
    *("simple_spread", "simple_tag", "simple_world", "spread_6_landmarks"),
    *("HalfCheetah-v2", "halfcheetah_2x3"),
)
PRESETS |= {
    (t, quality): ("uniform", ()) for t in _TASKS for quality in ("random", "random-medium")
}
# Mixed data: the levels of its first 90 % and of the rest, as OM2P has them. On the spread tasks
# those are quantiles of each part; elsewhere each part has the levels it has alone.
MIXED = {
    (task, "medium-expert"): (_REPLAY, _REPLAY)
    if "spread" in task
    else (PRESETS[task, "medium"], PRESETS[task, "expert"])
    for task in _TASKS
}
_SHARES = (0.9, 0.1)
# By kind of data, chosen on seed 0 of the particle tasks (docs/tuning.md); other kinds: the preset.
TUNED = {
    "medium-expert": "top_k:0.2",
    "medium-replay": "top_k:0.3",
    "random-medium": "top_k:0.2",
    "random": "quantiles:0.5,0.75,0.875,0.9375",
}


def check(rule: Reweighting, returns: torch.Tensor) -> list[str]:
    """What to tell the user about weights of such returns [agents, n_traj]; [] is nothing.

    Raises:
        Dom2Error: the weights are levels that no trajectory of any agent exceeds.
    """
    return rule.check(torch.as_tensor(returns, dtype=torch.float64))


def uniform() -> Uniform:
    """Every trajectory weighs 1."""
    return Uniform()


def thresholds(values: Sequence[float]) -> Thresholds:
    """A trajectory weighs 1 + how many of the values its return exceeds."""
    return Thresholds(_numbers("thresholds", values))


def quantiles(values: Sequence[float]) -> Quantiles:
    """As `thresholds`, at these quantiles, in [0, 1], of the data's own returns."""
    return Quantiles(_numbers("quantiles", values))


def softmax(temperature: float = 0.1) -> Softmax:
    """As `Softmax`: exp(return / temperature), returns scaled to [0, 1]."""
    return Softmax(float(temperature))


def rank(power: float = 0.7) -> Rank:
    """As `Rank`: (n / rank)^power, rank 1 is the best."""
    return Rank(float(power))


def top_k(k: float = 0.1) -> TopK:
    """As `TopK`: the k best trajectories alone; k < 1 is a share."""
    return TopK(float(k))


def parts(shares: Sequence[float], rules: Sequence[Reweighting | str]) -> Parts:
    """Rules for the parts of a data set, in its order; `shares` of its trajectories add up to 1."""
    if len(shares) != len(rules):
        raise Dom2Error(f"parts need a share for each rule, given {len(shares)} and {len(rules)}")
    rules = [parse(rule) for rule in rules]
    if any(isinstance(rule, Parts) for rule in rules):
        raise Dom2Error("parts can't be inside of parts: give one list of all")
    return Parts(tuple(zip(_numbers("parts", shares), rules, strict=True)))


def preset(task: str, quality: str, counts: Sequence[int] | None = None) -> Reweighting:
    """The published thresholds of a data set (see PRESETS and MIXED).

    counts: trajectories of each part of mixed data, where it says so; None: 90 and 10 %.
    """
    if (task, quality) in MIXED:
        shares = _SHARES if counts is None else [count / sum(counts) for count in counts]
        return parts(shares, [_text(*rule) for rule in MIXED[task, quality]])
    if (task, quality) not in PRESETS:
        known = ", ".join(f"{t}/{q}" for t, q in (*PRESETS, *MIXED))
        raise Dom2Error(
            f"no thresholds are known for {task}/{quality}: choose one of {known}, or give them, "
            "for example thresholds:200,250,300 or quantiles:0.5,0.75,0.875"
        )
    return parse(_text(*PRESETS[task, quality]))


def tuned(task: str, quality: str, counts: Sequence[int] | None = None) -> Reweighting:
    """What DOM2 is best with on a kind of data, see TUNED; the preset where nothing is known.

    Arguments and errors as of `preset`.
    """
    if quality in TUNED:
        return parse(TUNED[quality])
    return preset(task, quality, counts)


def _text(kind: str, values: Sequence[float]) -> str:
    return kind + (":" + ",".join(map(str, values)) if values else "")


_KINDS = {f.__name__: f for f in (uniform, thresholds, quantiles, softmax, rank, top_k)}
BY_DATA = {"preset": preset, "tuned": tuned}  # what the data set's name says
_FORMS = (
    "preset, tuned, preset:TASK/QUALITY, uniform, thresholds:200,250,300, quantiles:0.5,0.75, "
    "softmax:0.1, rank:0.7, top_k:0.1, top_k:500 or parts:0.9/thresholds:200,250/0.1/uniform"
)


def parse(
    spec, task: str | None = None, quality: str | None = None, counts: Sequence[int] | None = None
) -> Reweighting:
    """A reweighting from what a command line or a YAML file holds.

    Args:
        spec: a string (`KIND` or `KIND:numbers`, see the error message for all forms), a mapping
            with one key (`{"thresholds": [200, 250]}`), or a reweighting, which is returned.
        task, quality, counts: the data set's, used by "tuned" and "preset" (counts: as there).
    Raises:
        Dom2Error: the kind or a number can't be used; "preset" for a data set without one.
    """
    if isinstance(spec, Reweighting):
        return spec
    if isinstance(spec, Mapping):
        if len(spec) != 1:
            raise Dom2Error(f"weights must have one kind, given {sorted(spec)}; accepted: {_FORMS}")
        kind, values = next(iter(spec.items()))
        values = [] if values is None else values
        values = list(values) if isinstance(values, Sequence | set) else [values]
        text = str(kind) + ":" * bool(values)
        text += ("/" if kind == "parts" else ",").join(map(str, values))
        return parse(text, task, quality, counts)
    if not isinstance(spec, str):
        raise Dom2Error(f"weights can't be {spec!r}; accepted: {_FORMS}")
    kind, _, rest = spec.strip().partition(":")
    if kind in BY_DATA:
        if rest:
            counts = counts if rest == f"{task}/{quality}" else None
            task, _, quality = rest.partition("/")
        if not task or not quality:
            raise Dom2Error(
                f"weights {kind!r} needs the data set's task and quality, and this one doesn't say "
                f"them: use {kind}:TASK/QUALITY (for example {kind}:simple_spread/medium), or one "
                f"of: {_FORMS}"
            )
        return BY_DATA[kind](task, quality, counts)
    if kind == "parts":
        pieces = rest.split("/")
        return parts(_floats(spec, pieces[::2]), pieces[1::2])
    if kind not in _KINDS:
        raise Dom2Error(f"weights {spec!r} are unknown; accepted: {_FORMS}")
    numbers = _floats(spec, rest.split(",")) if rest.strip() else []
    if kind in ("thresholds", "quantiles"):
        return _KINDS[kind](numbers)
    most = 0 if kind == "uniform" else 1
    if len(numbers) > most:
        raise Dom2Error(f"weights {spec!r}: {kind} takes {most} number(s); accepted: {_FORMS}")
    return _KINDS[kind](*numbers)


def _floats(spec: str, texts: Sequence[str]) -> list[float]:
    try:
        return [float(text) for text in texts]
    except ValueError:
        shown = ",".join(texts)
        raise Dom2Error(
            f"weights {spec!r}: {shown!r} are not numbers; accepted: {_FORMS}"
        ) from None


def _numbers(kind: str, values) -> tuple[float, ...]:
    try:
        out = tuple(float(v) for v in values)
    except (TypeError, ValueError):
        raise Dom2Error(f"{kind} needs a list of numbers, not {values!r}") from None
    if not out or any(v != v for v in out):
        raise Dom2Error(f"{kind} needs at least one number (and no NaN), given {list(out)}")
    return out
