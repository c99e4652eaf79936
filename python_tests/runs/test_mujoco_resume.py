"""Exact resume where evaluations are long: episodes of 1,000 steps of halfcheetah_2x3."""

import pytest
import torch
from test_train import assert_same_state, metrics

from dom2_fast import checkpoint
from dom2_fast.algos.td3_bc import TD3BCConfig
from dom2_fast.behaviours.collect import collect
from dom2_fast.envs.mujoco import physics
from dom2_fast.runs.train import train

pytest.importorskip("mujoco", reason="needs the extra mujoco")
TASK = "halfcheetah_2x3"


def test_a_run_killed_in_the_middle_of_an_evaluation_and_resumed_is_bit_equal(
    tmp_path, monkeypatch
):
    """The process dies in the second evaluation's 400th step; the last checkpoint is older."""
    data = collect(TASK, "random", episodes=2, out=tmp_path / "data").path
    config = TD3BCConfig(hidden=8, critic_hidden=8, batch_size=8)
    often = {"progress": False, "tensorboard": False, "log_every": 2, "save_every": 2}
    often |= {"eval_every": 3, "eval_episodes": 1}
    train(config, data, tmp_path / "whole", 6, **often)
    step, calls = physics.MujocoEnv.step, []

    def dying(self, act):
        calls.append(None)
        if len(calls) == 1400:
            raise RuntimeError("power cut")
        return step(self, act)

    with monkeypatch.context() as patch:
        patch.setattr(physics.MujocoEnv, "step", dying)
        with pytest.raises(RuntimeError, match="power cut"):
            train(config, data, tmp_path / "killed", 6, **often)
    assert checkpoint.load(tmp_path / "killed")["step"] == 4
    train(None, None, tmp_path / "killed", resume=True, **often)
    for name in ("checkpoint.pt", "best.pt"):
        whole, killed = (
            torch.load(tmp_path / run / name, weights_only=True) for run in ("whole", "killed")
        )
        assert_same_state(whole, killed)
    assert metrics(tmp_path / "whole") == metrics(tmp_path / "killed")
    assert len([row for row in metrics(tmp_path / "whole") if "eval/return" in row]) == 2
