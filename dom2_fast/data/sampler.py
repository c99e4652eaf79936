"""Minibatches of transitions: every agent draws its own rows, by the weights of its trajectories.

A trajectory is drawn with probability proportional to weight x length, then a step uniformly
inside it: the same distribution as replicating each trajectory `weight` times and drawing rows
uniformly. The drawing itself is `ops.sample_transitions`.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch

from dom2_fast import ops
from dom2_fast.data import reweight
from dom2_fast.data.trajectories import FIELDS, TrajectoryDataset
from dom2_fast.errors import Dom2Error

PerAgent = torch.Tensor | list[torch.Tensor]  # [G, B, ...], or a list where agents' shapes differ


@dataclass(frozen=True)
class Batch:
    """`field[i]` is agent i's `[B, ...]`; a field is one `[G, B, ...]` where the shapes agree."""

    obs: PerAgent  # [G, B, obs]
    act: PerAgent  # [G, B, act]
    reward: PerAgent  # [G, B]
    next_obs: PerAgent  # [G, B, obs]
    done: PerAgent  # [G, B], 0 or 1
    index: torch.Tensor  # int64 [G, B]: the rows drawn
    next_act: PerAgent | None = None  # [G, B, act]: the following row's, of a sampler that has them


class TrajectorySampler:
    """Draws batches from a data set.

    Args:
        data: the transitions.
        weights: a reweighting, its text form (see `reweight.parse`), or weights `[agents, n_traj]`.
        batch_size: rows per agent, >= 1.
        seed: of the sampler's own generator; the same seed gives the same batches on every backend.
        agents: use only the first so many agents. None: all.
        dtype: of the batches.
        device: of the batches. On a GPU the transitions are copied there once, as `dtype`, and
            drawing is one launch; the rows drawn are the same as on the CPU.
        next_acts: batches have `next_act`, and only rows that another one of their trajectory
            follows are drawn: a trajectory by weight x (length - 1), then one of these.
    Raises:
        Dom2Error: weights of a wrong shape, negative, not finite, or all zero for an agent; levels
            that no trajectory of any agent exceeds; `next_acts` where an agent's trajectories with
            a weight have one row each.
    Warns:
        of levels that no trajectory exceeds and of weights that are all the same, see
        `reweight.check`.
    """

    def __init__(
        self,
        data: TrajectoryDataset,
        weights="uniform",
        batch_size: int = 1024,
        seed: int = 0,
        agents: int | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        next_acts: bool = False,
    ):
        if batch_size < 1:
            raise Dom2Error(f"batch_size must be >= 1, not {batch_size}")
        self.data = data
        self.batch_size = batch_size
        self.agents = data.num_agents if agents is None else agents
        if not 1 <= self.agents <= data.num_agents:
            raise Dom2Error(f"agents must be in [1, {data.num_agents}], not {agents}")
        self.dtype, self.next_acts = dtype, next_acts
        self.weights = self._weights(weights)  # [G, n_traj]
        self.generator = torch.Generator().manual_seed(seed)
        shares, starts = self._parts()
        tables = (*ops.alias_table(shares), starts)
        self._tables = [t.to(device) for t in tables]
        fields = [getattr(data, f)[i] for f in FIELDS for i in range(self.agents)]
        if next_acts:
            fields += [data.act[i].roll(-1, 0) for i in range(self.agents)]
        # Flags may be bool or integers in a file; what is drawn is floating point.
        self._fields = [t if t.is_floating_point() else t.float() for t in fields]
        if torch.device(device).type != "cpu":  # the CPU reads the mapped files as they are
            self._fields = [t.to(device, dtype) for t in self._fields]
        self._drawer = ops.drawer(self._fields, *self._tables)

    def _weights(self, weights) -> torch.Tensor:
        data = self.data
        if not isinstance(weights, torch.Tensor):
            rule = reweight.parse(weights, data.task, data.quality, data.part_counts)
            returns = data.returns[: self.agents]
            weights = rule(returns)  # first: it refuses returns that aren't finite
            for message in reweight.check(rule, returns):
                warnings.warn(message, stacklevel=3)
        expected = (self.agents, data.num_trajectories)
        if tuple(weights.shape) != expected:
            raise Dom2Error(f"weights are {list(weights.shape)}, expected {list(expected)}")
        weights = weights.double()
        if not bool(weights.isfinite().all()) or bool((weights < 0).any()):
            raise Dom2Error("weights must be finite and >= 0")
        if bool((weights.sum(1) <= 0).any()):
            raise Dom2Error("weights are zero for all trajectories of an agent: nothing to draw")
        return weights

    def _parts(self) -> tuple[torch.Tensor, torch.Tensor]:
        """What is drawn from, parts of trajectories: shares [G, n], first rows and the end [n + 1].

        A trajectory is one part; with `next_acts` its last row, of share 0, is another.
        """
        starts, lengths = self.data.starts, self.data.lengths
        if not self.next_acts:
            return self.weights * lengths, starts
        last = starts[1:] - 1
        cuts = torch.cat([starts, last]).unique()  # in order; those of one row are no two parts
        begin = cuts[:-1]
        rows = (cuts[1:] - begin) * ~torch.isin(begin, last)
        shares = self.weights[:, torch.searchsorted(last, begin)] * rows
        if bool((shares.sum(1) <= 0).any()):
            raise Dom2Error(
                "the algorithm needs the next action of the log, and an agent's trajectories that "
                "have a weight have one row each: give longer episodes, or other weights"
            )
        return shares, cuts

    def sample(self) -> Batch:
        rng = ops.make_rng(self.generator)
        if self._drawer is not None:
            outs, index = self._drawer.draw(self.batch_size, rng)
        else:
            outs, index = ops.sample_transitions(
                self._fields,
                *self._tables,
                self.batch_size,
                rng,
                check=False,  # the tables are made above, the data set has checked its own starts
            )
        if self.dtype != torch.float32:  # what the op gives
            outs = [self._cast(out) for out in outs]
        *fields, next_act = outs if self.next_acts else (*outs, None)
        return Batch(*fields, index=index, next_act=next_act)

    def _cast(self, out: PerAgent) -> PerAgent:
        return out.to(self.dtype) if isinstance(out, torch.Tensor) else [self._cast(o) for o in out]

    def reward_moments(self) -> list[tuple[float, float]]:
        """Mean and standard deviation of every agent's rewards, as they are drawn."""
        moments = []
        last = self.data.starts[1:] - 1
        for i in range(self.agents):
            share = self.weights[i].repeat_interleave(self.data.lengths)  # [N]
            if self.next_acts:
                share[last] = 0.0
            share = share / share.sum()
            reward = self.data.reward[i].double()
            mean = (share * reward).sum()
            moments.append((float(mean), float((share * (reward - mean).square()).sum().sqrt())))
        return moments

    def state_dict(self) -> dict:
        """Everything that decides which batches come next."""
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: dict) -> None:
        self.generator.set_state(state["generator"])
