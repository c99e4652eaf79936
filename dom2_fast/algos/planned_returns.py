"""What SfBC's critics learn: the return that follows every row of the data, with planning.

    R_t = r_t + gamma R_{t+1}                                    (of the log: Monte Carlo)
    R_t = max(r_t + gamma R_{t+1}, V(o_t))                       (`own`: SfBC's code)
    R_t = r_t + gamma max(R_{t+1}, V(o_{t+1}))                   (`next`: CleanDiffuser's SfBC)

Nothing follows the last row of a trajectory, whether it is a terminal state or a time limit.
"""

from __future__ import annotations

import torch

from dom2_fast.data.trajectories import TrajectoryDataset

SD_FLOOR = 0.1  # of the returns, as in SfBC's code


def backward(
    reward: torch.Tensor,
    starts: torch.Tensor,
    gamma: float,
    values: torch.Tensor | None = None,
    floor: str = "own",
) -> torch.Tensor:
    """R of every row, [G, N], from reward and values V (None: Monte Carlo) of the same shape.

    starts: int64 [n_traj + 1], as a data set's. floor: "own" or "next", what V bounds from below.
    """
    ends, lengths = starts[1:], starts[1:] - starts[:-1]
    returns = torch.empty_like(reward)
    follows = reward.new_zeros(len(reward), len(ends))  # what the next row is worth
    for back in range(1, int(lengths.max()) + 1):
        some = lengths >= back
        rows = ends[some] - back
        value = reward[:, rows] + gamma * follows[:, some]
        if values is not None and floor == "own":
            value = torch.maximum(value, values[:, rows])
        returns[:, rows] = value
        if values is not None and floor == "next":
            value = torch.maximum(value, values[:, rows])
        follows[:, some] = value
    return returns


class PlannedReturns:
    """The standardised returns that the critics of G agents regress to.

    `targets` [G, N] = (R - mean) / max(sd, 0.1), with each agent's own `mean` and `sd`, [G, 1],
    over all rows, unweighted. A checkpoint holds them once they are planned, 4 bytes per row and
    agent; before that they are made anew from the data.
    """

    def __init__(
        self, data: TrajectoryDataset, agents: int, gamma: float, dtype: torch.dtype, device
    ):
        self._gamma, self._starts = gamma, data.starts
        self._like = {"dtype": dtype, "device": device}
        self._reward = torch.stack([data.reward[j].double() for j in range(agents)])  # on the CPU
        self.planned = False
        self._set(self._backward())

    def _backward(self, values=None, floor="own") -> torch.Tensor:
        return backward(self._reward, self._starts, self._gamma, values, floor)

    def _set(self, returns: torch.Tensor) -> None:
        mean = returns.mean(1, keepdim=True)
        sd = returns.std(1, keepdim=True, unbiased=False).clamp(min=SD_FLOOR)
        self.targets = ((returns - mean) / sd).to(**self._like)
        self.mean, self.sd = mean, sd  # float64, on the CPU

    def plan(self, values: torch.Tensor, floor: str) -> float:
        """New returns from standardised V [G, N]; gives the share of rows that V bounds.

        floor: see the top of this file.
        """
        values = values.double().cpu() * self.sd + self.mean
        returns = self._backward(values, floor)
        self._set(returns)
        self.planned = True
        return float((values >= returns).double().mean())

    def state_dict(self) -> dict:
        kept = {"targets": self.targets, "mean": self.mean, "sd": self.sd} if self.planned else {}
        return {"planned": self.planned, **kept}

    def load_state_dict(self, state: dict) -> None:
        self.planned = state["planned"]
        if not self.planned:
            self._set(self._backward())
            return
        self.targets = state["targets"].to(**self._like)
        self.mean, self.sd = state["mean"], state["sd"]
