"""Small made-up data sets for the tests of data, algorithms and training."""

import numpy as np

from dom2_fast.data.trajectories import TrajectoryDataset


def arrays(trajectories=4, length=5, obs_dims=(3, 3), act_dim=2, seed=0, dtype=np.float32) -> dict:
    """Random transitions whose next_obs follow within each trajectory; one array per agent."""
    rng = np.random.default_rng(seed)
    out = {"obs": [], "act": [], "reward": [], "next_obs": []}
    for width in obs_dims:
        path = rng.normal(size=(trajectories, length + 1, width)).astype(dtype)
        out["obs"].append(path[:, :-1].reshape(-1, width).copy())
        out["next_obs"].append(path[:, 1:].reshape(-1, width).copy())
        out["act"].append(rng.uniform(-1, 1, (trajectories * length, act_dim)).astype(dtype))
        out["reward"].append(rng.normal(size=trajectories * length).astype(dtype))
    return out


def dataset(trajectories=4, length=5, meta=None, **kwargs) -> TrajectoryDataset:
    return TrajectoryDataset.from_arrays(
        **arrays(trajectories, length, **kwargs), episode_length=length, meta=meta
    )


def half_cheetah(returns=(1700.0, 1870.0, 1990.0)) -> dict:
    """Arrays of the shape of OMAR's HalfCheetah data: 1,000 steps, two agents, one shared reward.

    returns: one per episode; those of the "medium" data go from some hundreds to about 2,100.
    """
    given = arrays(trajectories=len(returns), length=1000, obs_dims=(6, 6), act_dim=3)
    shared = np.repeat(np.asarray(returns) / 1000, 1000).astype(np.float64)
    return {**given, "reward": [shared, shared.copy()]}
