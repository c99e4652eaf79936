"""Prey networks: the bundled ones, OMAR's two file formats, and damaged files."""

import numpy as np
import pytest
import tolerances
import torch

from dom2_fast import envs
from dom2_fast.envs.particle.prey import PreyPolicy, signed
from dom2_fast.errors import Dom2Error

TASKS = ("simple_tag", "simple_world")


def omar_actor(obs_dim, seed=0):
    """OMAR's actor with random weights and running statistics, in evaluation mode."""
    torch.manual_seed(seed)
    actor = torch.nn.Module()
    actor.in_fn = torch.nn.BatchNorm1d(obs_dim)
    actor.in_fn.weight.data.uniform_(0.5, 1.5)
    actor.in_fn.bias.data.normal_()
    actor.in_fn.running_mean.normal_()
    actor.in_fn.running_var.uniform_(0.5, 2)
    actor.fc1 = torch.nn.Linear(obs_dim, 64)
    actor.fc2 = torch.nn.Linear(64, 64)
    actor.fc3 = torch.nn.Linear(64, 2)

    def forward(obs):
        hidden = actor.fc2(actor.fc1(actor.in_fn(obs)).relu()).relu()
        return actor.fc3(hidden).tanh()

    return actor.double().eval(), forward


def save_pt(path, actor):
    """A file with the structure of OMAR's published ones, in torch's legacy format."""
    content = {
        "init_dict": {"gamma": 0.95, "alg_types": ["maddpg"] * 3 + ["ddpg"], "hidden_dim": 64},
        "agent_params": [{"policy": {}}] * 3
        + [{"policy": actor.float().state_dict(), "policy_optimizer": {"state": {}}}],
    }
    torch.save(content, path, _use_new_zipfile_serialization=False)


def save_npz(path, actor):
    np.savez(path, **{k: v.numpy() for k, v in actor.state_dict().items()})


@pytest.mark.parametrize("save", [save_pt, save_npz])
def test_files_in_omars_format_act_as_the_network_does(tmp_path, save):
    actor, forward = omar_actor(14)
    obs = torch.randn(9, 14, dtype=torch.float64)
    path = tmp_path / ("prey.pt" if save is save_pt else "prey.npz")
    save(path, actor)
    expected = forward(obs) if save is save_npz else forward(obs.float()).double()
    prey = PreyPolicy.open(envs.tasks.get("simple_tag"), path, torch.float64, "cpu")
    # A float32 file holds rounded weights; the tanh of sums of 64 terms keeps about 64 roundings.
    atol = tolerances.NETWORK64 if save is save_npz else tolerances.NETWORK32
    torch.testing.assert_close(prey(obs), expected, rtol=0, atol=atol)


@pytest.mark.parametrize("task", TASKS)
def test_reference_prey_drives_the_last_agent(task, reference_dir):
    path = reference_dir / f"prey_{task}.npz"
    inside = envs.make(task, 5, seed=1, dtype=torch.float64, prey=path)
    outside = envs.make(task, 5, seed=1, dtype=torch.float64, prey="external")
    prey = PreyPolicy.open(outside.spec, path, torch.float64, "cpu")
    a, b = inside.reset(), outside.reset()
    assert len(a) == inside.num_agents == 3 and len(b) == outside.num_agents == 4
    generator = torch.Generator().manual_seed(0)
    for _ in range(25):
        act = torch.rand(3, 5, 2, generator=generator, dtype=torch.float64) * 2 - 1
        a, reward_a, _ = inside.step(act)
        b, reward_b, _ = outside.step(torch.cat([act, prey(b[-1])[None]]))
        assert torch.equal(a, torch.stack(b[:3]))
        assert torch.equal(reward_a, reward_b[:3])


@pytest.mark.parametrize("task", TASKS)
def test_bundled_prey_plays(task):
    env = envs.make(task, 3)
    env.reset()
    before = env.state()[:, 3, :2]
    for _ in range(10):
        env.step(torch.zeros(3, 3, 2))
    assert (env.state()[:, 3, :2] - before).norm(dim=-1).min() > 0.05


def test_missing_and_damaged_files_are_explained(tmp_path):
    def refused(path, message, task="simple_tag"):
        with pytest.raises(Dom2Error, match=message):
            envs.make(task, prey=path)

    actor, _ = omar_actor(14)
    good = tmp_path / "good.npz"
    save_npz(good, actor)
    envs.make("simple_tag", prey=good)
    refused(tmp_path / "absent.npz", "no prey file")
    refused(good, "sees 14 numbers.*simple_world sees 22.*another task", task="simple_world")
    cut = tmp_path / "cut.npz"
    cut.write_bytes(good.read_bytes()[:500])
    refused(cut, "can't be read")
    cut_pt = tmp_path / "cut.pt"
    save_pt(tmp_path / "good.pt", actor)
    cut_pt.write_bytes((tmp_path / "good.pt").read_bytes()[:500])
    refused(cut_pt, "can't be read")
    other = tmp_path / "other.pt"
    torch.save({"weights": torch.zeros(3)}, other)
    refused(other, "agent_params")
    arrays = dict(np.load(good))
    np.savez(tmp_path / "lacks.npz", **{k: v for k, v in arrays.items() if k != "fc3.bias"})
    refused(tmp_path / "lacks.npz", "lacks fc3.bias")
    ours = signed(arrays, 2, [-4.0, 128.0, 185.0], 0.5)
    np.savez(tmp_path / "ours.npz", **ours)
    assert envs.make("simple_tag", prey=tmp_path / "ours.npz").prey.strength["lead"] == 185
    np.savez(tmp_path / "half.npz", **{k: v for k, v in ours.items() if k != "force"})
    refused(tmp_path / "half.npz", "lacks force")
    np.savez(tmp_path / "strong.npz", **ours | {"force": np.float32(2)})
    refused(tmp_path / "strong.npz", "force is above 0")
    arrays["fc2.bias"] = arrays["fc2.bias"] * np.nan
    np.savez(tmp_path / "nan.npz", **arrays)
    refused(tmp_path / "nan.npz", "NaN")


def test_a_pickle_that_runs_code_is_refused(tmp_path):
    class Harmful:
        def __reduce__(self):
            return (print, ("ran",))

    path = tmp_path / "harmful.pt"
    torch.save({"agent_params": [Harmful()]}, path)
    with pytest.raises(Dom2Error, match="can't be read"):
        envs.make("simple_tag", prey=path)
