"""How much of its space a data set covers: different cells of a grid, as a share of its rows.

Source: SACo and OACo of Formanek et al. 2024 ("Putting Data at the Centre of Offline Multi-Agent
Reinforcement Learning", arXiv 2409.12001): the share of pairs of state and joint action, or of
one agent's observation and action, that are unique. Rounded to four decimals as there, continuous
actions never meet again and the share is 1 for all of OMAR's data; here the grid is coarse.
"""

from __future__ import annotations

import numpy as np

from dom2_fast import known_tasks
from dom2_fast.data import checks
from dom2_fast.data.trajectories import TrajectoryDataset
from dom2_fast.errors import Dom2Error

GRID = (0.1, 0.25)  # cells of positions (else: of all observations), of actions


def coverage(data: TrajectoryDataset, grid: tuple[float, float] = GRID) -> dict:
    """Different cells of the data's rows on a grid.

    A cell is floor(x / size) of every number: of each agent's own position where the task says
    which columns of the observations that is (the particle tasks), else of its whole observation;
    and of the actions. Cells are counted by 64-bit hashes: two of a million meet by chance with a
    probability of 3e-8. Takes 16 bytes a row beside the data.

    Args:
        data: the transitions.
        grid: sizes of a cell in positions (or observations) and in actions, > 0.
    Returns: `grid`, `columns` (which of each agent's observations count), `rows`; `joint` and
        `agents` (a list) of positions and actions, `joint_states` and `agent_states` of positions
        alone: each has `cells`, how many different ones, and `share` of the rows. With several
        agents the joint share is close to 1 for most data, the others tell data sets apart.
    Raises:
        Dom2Error: a size that is not a number > 0.
    """
    for size in grid:
        if not (np.isfinite(size) and size > 0):
            raise Dom2Error(f"a cell of the grid must have a size > 0, given {tuple(grid)}")
    position = known_tasks.position_columns(data.task)
    own, states = [], []
    for obs, act in zip(data.obs, data.act, strict=True):
        chosen = obs.numpy() if position is None else obs.numpy()[:, slice(*position)]
        states.append(_Rows([(chosen, grid[0])]))
        own.append(_Rows([*states[-1].columns, (act.numpy(), grid[1])]))
    if position is None:
        columns = "all of each agent's observation"
    else:
        columns = (
            f"each agent's own position, {position[0]} to {position[1] - 1} of its observation"
        )
    return {
        "grid": {"positions" if position else "observations": grid[0], "actions": grid[1]},
        "columns": columns,
        "rows": len(data),
        "joint": _together(own).count(),
        "agents": [rows.count() for rows in own],
        "joint_states": _together(states).count(),
        "agent_states": [rows.count() for rows in states],
    }


class _Rows:
    """Columns of the same rows, each with the size of its cells."""

    def __init__(self, columns: list[tuple[np.ndarray, float]]):
        self.columns = columns

    def count(self) -> dict:
        rows = len(self.columns[0][0])
        keys = np.empty(rows, np.uint64)
        for first in range(0, rows, checks.CHUNK):
            keys[first : first + checks.CHUNK] = self._keys(first, first + checks.CHUNK)
        keys.sort()
        cells = int((keys[1:] != keys[:-1]).sum()) + 1
        return {"cells": cells, "share": cells / rows}

    def _keys(self, first: int, last: int) -> np.ndarray:
        """A hash of each row's cells, uint64: one round of splitmix64 for each number."""
        key: np.ndarray | None = None
        for array, size in self.columns:
            cells = np.floor(array[first:last] / size).astype(np.int64).view(np.uint64)
            for column in cells.T:
                key = _mixed(column if key is None else column + key)
        return key


def _together(agents: list[_Rows]) -> _Rows:
    return _Rows([column for rows in agents for column in rows.columns])


def _mixed(x: np.ndarray) -> np.ndarray:
    x = x + np.uint64(0x9E3779B97F4A7C15)  # arrays wrap around, as the hash wants it
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
