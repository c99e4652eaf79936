"""The reweightings: classes that give trajectories weights by their returns.

Their short names, text forms and the published presets are in `reweight`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch

from dom2_fast.errors import Dom2Error


class Reweighting:
    """Base of the reweightings below; `str()` of one is what `parse` reads."""

    kind = ""

    def __call__(self, returns: torch.Tensor) -> torch.Tensor:
        """returns: [agents, n_traj], finite. Gives float64 weights >= 0 of the same shape."""
        returns = torch.as_tensor(returns, dtype=torch.float64)
        if returns.ndim != 2 or returns.size(1) == 0:
            raise Dom2Error(f"returns must be [agents, trajectories], not {list(returns.shape)}")
        if not bool(returns.isfinite().all()):
            raise Dom2Error("returns hold NaN or infinite values: check the rewards")
        return torch.stack([self._row(row) for row in returns])

    def _row(self, returns: torch.Tensor) -> torch.Tensor:  # [n_traj] -> [n_traj]
        raise TypeError(f"{type(self).__name__} defines no weights")

    def check(self, returns: torch.Tensor) -> list[str]:
        """What a user should know before training with these weights: [] if they do something.

        returns: [agents, n_traj]. A reweighting that gives all trajectories of an agent the same
        weight, though their returns differ, draws as if there were none.

        Raises:
            Dom2Error: levels that no trajectory of any agent exceeds (see `Thresholds`).
        """
        flat = [i for i, row in enumerate(self(returns)) if bool((row == row[0]).all())]
        flat = [i for i in flat if bool((returns[i] != returns[i][0]).any())]
        if not flat:
            return []
        return [
            f"weights {self} are the same for all trajectories of {_agents(flat, len(returns))}, "
            f"whose {_span(returns[flat])}: they are drawn as with uniform weights"
        ]

    def __str__(self) -> str:
        flat: list[float] = []
        for value in asdict(self).values():  # every reweighting is a dataclass
            flat += value if isinstance(value, tuple) else [value]
        return self.kind + (":" + ",".join(f"{v:g}" for v in flat) if flat else "")


@dataclass(frozen=True)
class Uniform(Reweighting):
    """w = 1: every transition is equally likely."""

    kind = "uniform"

    def _row(self, returns):
        return torch.ones_like(returns)

    def check(self, returns):
        return []  # equal weights are what was asked for


@dataclass(frozen=True)
class Thresholds(Reweighting):
    """w(T) = 1 + #{r in R : return(T) > r}, strictly; a value given twice counts twice.

    Source: DOM2 (arXiv 2307.01472), its data reweighting: one extra copy of every trajectory above
    each threshold.
    """

    values: tuple[float, ...]
    kind = "thresholds"

    def _row(self, returns):
        levels = torch.tensor(self.values, dtype=torch.float64)
        return 1.0 + (returns[:, None] > levels).sum(1)

    def check(self, returns):
        """As the base's, and names levels that no trajectory of any agent exceeds.

        Raises:
            Dom2Error: that is so for all levels.
        """
        best = float(returns.max())
        idle = [value for value in self.values if not best > value]
        if not idle:
            return super().check(returns)
        span = f"the {_span(returns)} over {returns.size(1)} trajectories"
        if len(idle) == len(self.values):
            raise Dom2Error(
                f"no trajectory of any agent exceeds any level of weights {self}: {span}. Check "
                "that episodes are cut right (episode_length, --episode-length) and that the "
                "levels are of this data set, or choose others: quantiles:0.5,0.75,0.875 fit any "
                "data, uniform asks for no reweighting"
            )
        return [
            f"no trajectory exceeds the level(s) {', '.join(f'{v:g}' for v in idle)} of weights "
            f"{self}: {span}; these levels change nothing",
            *super().check(returns),
        ]


@dataclass(frozen=True)
class Quantiles(Reweighting):
    """The same with thresholds at quantiles in [0, 1] of each agent's own returns.

    Source: as `Thresholds`; the first author's later code uses quantiles for mixed data.
    """

    values: tuple[float, ...]
    kind = "quantiles"

    def __post_init__(self):
        if any(not 0.0 <= q <= 1.0 for q in self.values):
            raise Dom2Error(f"quantiles must be in [0, 1], given {list(self.values)}")

    def _row(self, returns):
        levels = torch.quantile(returns, torch.tensor(self.values, dtype=torch.float64))
        return 1.0 + (returns[:, None] > levels).sum(1)


@dataclass(frozen=True)
class Softmax(Reweighting):
    """w ∝ exp(R / temperature), R scaled to [0, 1] by the agent's smallest and largest return.

    The mean weight is 1. Source: return weighting of Hong et al. 2023, "Harnessing Mixed Offline
    Reinforcement Learning Datasets via Trajectory Weighting" (arXiv 2306.13085).
    """

    temperature: float = 0.1
    kind = "softmax"

    def __post_init__(self):
        if not self.temperature > 0.0:
            raise Dom2Error(f"softmax needs a temperature > 0, not {self.temperature}")

    def _row(self, returns):
        span = returns.max() - returns.min()
        scaled = (returns - returns.min()) / (span if span > 0.0 else 1.0)
        return torch.softmax(scaled / self.temperature, 0) * len(returns)


@dataclass(frozen=True)
class Rank(Reweighting):
    """w = (n / rank)^power, rank 1 is the best; equal returns share their mean rank.

    Source: rank-based prioritisation of Schaul et al. 2016 (arXiv 1511.05952), with returns in the
    place of TD errors; its power 0.7 is the default.
    """

    power: float = 0.7
    kind = "rank"

    def __post_init__(self):
        if not self.power >= 0.0:
            raise Dom2Error(f"rank needs a power >= 0, not {self.power}")

    def _row(self, returns):
        _, group, count = torch.unique(-returns, return_inverse=True, return_counts=True)
        last = count.cumsum(0)  # ranks of a group of equals: last - count + 1 .. last
        rank = (last - (count - 1) / 2.0)[group]
        return (len(returns) / rank) ** self.power


@dataclass(frozen=True)
class TopK(Reweighting):
    """w = 1 for the k best trajectories, 0 for the others; among equals the earlier ones win.

    k >= 1 is a number of trajectories, k < 1 a share. Source: "%BC" of Chen et al. 2021 (Decision
    Transformer, arXiv 2106.01345).
    """

    k: float = 0.1
    kind = "top_k"

    def __post_init__(self):
        if not self.k > 0 or (self.k >= 1 and self.k != int(self.k)):
            raise Dom2Error(f"top_k needs a share in (0, 1) or a whole number >= 1, not {self.k}")

    def _row(self, returns):
        n = len(returns)
        count = min(n, max(1, round(self.k * n)) if self.k < 1 else int(self.k))
        weights = torch.zeros_like(returns)
        weights[torch.argsort(returns, descending=True, stable=True)[:count]] = 1.0
        return weights


@dataclass(frozen=True)
class Parts(Reweighting):
    """A rule of its own for each part of a data set, from that part's returns.

    parts: (share of the trajectories, rule), in the order of the data; shares add up to 1. Source:
    the first author's later code (OM2P), which loads mixed data as two sets, each with its own
    thresholds.
    """

    parts: tuple[tuple[float, Reweighting], ...]
    kind = "parts"

    def __post_init__(self):
        shares = [share for share, _ in self.parts]
        if not shares or min(shares) < 0 or abs(sum(shares) - 1) > 1e-4:
            raise Dom2Error(f"the shares of parts must be >= 0 and add up to 1, given {shares}")

    def _pieces(self, returns):  # [..., n_traj] -> (rule, its [..., n]) of parts that aren't empty
        n, total, first = returns.size(-1), 0.0, 0
        for i, (share, rule) in enumerate(self.parts):
            total += share
            last = n if i == len(self.parts) - 1 else round(total * n)
            if last > first:
                yield rule, returns[..., first:last]
            first = last

    def _row(self, returns):
        return torch.cat([rule._row(piece) for rule, piece in self._pieces(returns)])

    def check(self, returns):
        """What each part's rule says of its part.

        Raises:
            Dom2Error: every part has levels, and nobody exceeds any.
        """
        said, failed, pieces = [], [], list(self._pieces(returns))
        for i, (rule, piece) in enumerate(pieces):
            try:
                said += [f"part {i}: {message}" for message in rule.check(piece)]
            except Dom2Error as error:
                failed.append(f"part {i}: {error}")
        if len(failed) == len(pieces):
            raise Dom2Error("; ".join(failed))
        return said + failed

    def __str__(self) -> str:
        return self.kind + ":" + "/".join(f"{share:g}/{rule}" for share, rule in self.parts)


def _span(returns: torch.Tensor) -> str:
    return f"returns go from {float(returns.min()):g} to {float(returns.max()):g}"


def _agents(some: list[int], of: int) -> str:
    if len(some) == of:
        return "every agent"
    return ("agent " if len(some) == 1 else "agents ") + ", ".join(map(str, some))
