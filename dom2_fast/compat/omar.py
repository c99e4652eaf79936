"""OMAR's `ReplayBuffer` (Pan et al. 2022): the same arrays, drawn and gathered in one call."""

from __future__ import annotations

import numpy as np
import torch

from dom2_fast import ops
from dom2_fast.data.formats.omar import FILES, file_of
from dom2_fast.errors import Dom2Error


class ReplayBuffer:
    """Transitions of several agents, float64 arrays `obs_buffs[i]` [max_steps, obs_dims[i]] etc.

    is_mamujoco adds states of the widths state_dims. A sample takes the same rows for every agent,
    each row once at most. Draws are keyed by torch's generator, not by NumPy's.
    Raises Dom2Error for sizes that don't fit together.
    """

    def __init__(
        self, max_steps, num_agents, obs_dims, ac_dims, is_mamujoco=False, state_dims=None
    ):
        widths = {"obs_dims": obs_dims, "ac_dims": ac_dims}
        if is_mamujoco:
            widths["state_dims"] = [] if state_dims is None else state_dims
        for name, sizes in widths.items():
            if len(sizes) != num_agents:
                raise Dom2Error(f"{name} has {len(sizes)} entries for {num_agents} agents")
        self.max_steps, self.num_agents, self.is_mamujoco = max_steps, num_agents, is_mamujoco
        self.obs_buffs = [np.zeros((max_steps, d)) for d in obs_dims]
        self.ac_buffs = [np.zeros((max_steps, d)) for d in ac_dims]
        self.rew_buffs = [np.zeros(max_steps) for _ in obs_dims]
        self.next_obs_buffs = [np.zeros((max_steps, d)) for d in obs_dims]
        self.done_buffs = [np.zeros(max_steps) for _ in obs_dims]
        if is_mamujoco:
            self.state_buffs = [np.zeros((max_steps, d)) for d in state_dims]
            self.next_state_buffs = [np.zeros((max_steps, d)) for d in state_dims]
        self.filled_i = 0  # rows that hold something
        self.curr_i = 0  # where the next row would go

    def __len__(self):
        return self.filled_i

    def _lists(self) -> list[list[np.ndarray]]:
        """The arrays in the order of `sample`'s result."""
        if self.is_mamujoco:
            return [
                self.state_buffs,
                self.obs_buffs,
                self.ac_buffs,
                self.rew_buffs,
                self.next_state_buffs,
                self.next_obs_buffs,
                self.done_buffs,
            ]
        return [self.obs_buffs, self.ac_buffs, self.rew_buffs, self.next_obs_buffs, self.done_buffs]

    def sample(self, N, to_gpu=False):
        """(obs, acs, rews, next_obs, dones), each a list of float32 tensors [N, ...] per agent.

        With is_mamujoco (states, obs, acs, rews, next_states, next_obs, dones). N rows without
        repetition, uniform over the filled ones. to_gpu moves them to the CUDA device.
        Raises Dom2Error for more rows than there are.
        """
        if not 1 <= N <= self.filled_i:
            raise Dom2Error(f"{N} rows asked of a buffer that holds {self.filled_i}")
        lists = self._lists()
        fields = [torch.from_numpy(a)[: self.filled_i] for field in lists for a in field]
        # All distinct, N rows are a uniform sample without repetition; drawn anew where not. That
        # is seldom for few rows of many; else an order of all rows costs no more.
        if self.filled_i < N * N:
            index = torch.randperm(self.filled_i)[:N]
            rows = [f[index].float() for f in fields]
        else:
            rows = self._distinct(fields, N)
        if to_gpu:
            rows = [r.cuda() for r in rows]
        n = self.num_agents
        return tuple(rows[k : k + n] for k in range(0, len(rows), n))

    def _distinct(self, fields, count: int) -> list[torch.Tensor]:
        one = torch.zeros(1, 1, dtype=torch.int64)
        starts = torch.tensor([0, self.filled_i])
        while True:
            outs, index = ops.sample_transitions(
                fields, one + 2**32, one, starts, count, ops.make_rng(), check=False
            )
            if len(index.unique()) == count:
                return [out[0] for out in outs]

    def load_batch_data(self, dir):
        """Reads obs_<i>.npy, acs_<i>.npy, rews_<i>.npy, next_obs_<i>.npy and dones_<i>.npy.

        With is_mamujoco states_<i>.npy and next_states_<i>.npy, too. Raises Dom2Error for missing
        files and for shapes that don't fit, before anything is changed.
        """
        names = list(FILES.values())
        if self.is_mamujoco:
            names = ["states", *names[:3], "next_states", *names[3:]]
        arrays, rows = [], None
        for name, buffers in zip(names, self._lists(), strict=True):
            for i, buffer in enumerate(buffers):
                path = file_of(dir, name, i)
                if not path.is_file():
                    raise Dom2Error(f"{path} is missing; a batch has {names} of every agent")
                array = np.load(path, mmap_mode="r")
                rows = len(array) if rows is None else rows
                if array.shape != (rows, *buffer.shape[1:]) or rows > self.max_steps:
                    want = ["rows", *buffer.shape[1:]]
                    raise Dom2Error(
                        f"{path} has shape {list(array.shape)}; {want} with {rows} rows, the same "
                        f"in every file and at most {self.max_steps}, is needed"
                    )
                arrays.append((buffer, array))
        for buffer, array in arrays:
            buffer[:rows] = array
        self.filled_i = rows
        self.curr_i = 0 if self.curr_i == self.max_steps else rows
