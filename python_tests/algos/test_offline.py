"""What every algorithm promises: checkpoints, acting from one, names of metrics, old files."""

import gzip
import json
from pathlib import Path

import pytest
import torch
from small_data import arrays, dataset
from tolerances import OLD_ACT_32, OLD_RUN_32

from dom2_fast import algos, checkpoint
from dom2_fast import config as configs
from dom2_fast.algos import critics, offline
from dom2_fast.data.trajectories import TrajectoryDataset
from dom2_fast.errors import Dom2Error
from dom2_fast.policies.frozen import load_policy

OLD = Path(__file__).resolve().parents[1] / "old"
ALGORITHMS = list(algos.ALGORITHMS)


def small(name: str, **changes):
    cls = algos.algorithm(name)
    known = {f.name for f in configs.fields(cls.config_class)}
    sizes = {
        "weights": "uniform",
        "batch_size": 8,
        "hidden": 8,
        "depth": 1,
        "steps": 2,
        "critic_hidden": 8,
        "q_warmup": 1,
        "ema_start": 0,
        "candidates": 1,
        "plan_every": 2,
    }
    return cls.config_class(**({k: v for k, v in sizes.items() if k in known} | changes))


def made(name: str, data=None, **changes):
    data = dataset(trajectories=6) if data is None else data
    return algos.algorithm(name)(small(name, **changes), data)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_metrics_and_stages_are_the_named_ones(name):
    seen = set()
    for changes in ({"q_action": "chain"}, {"q_action": "best"}) if name == "dom2" else ({},):
        agents = made(name, **changes)
        for _ in range(4):
            seen |= set(agents.update())
    assert seen == set(agents.metric_names)
    assert set(agents.stage.seconds) == set(agents.stages)
    assert all(seconds > 0 for seconds in agents.stage.seconds.values())
    settings = {f.name for f in configs.fields(agents.config_class)}
    assert any(setting in agents.advice for setting in settings)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_resume_is_bit_equal(name, tmp_path):
    data = dataset(trajectories=6)
    agents = made(name, data)
    agents.fit(3)
    agents.save(tmp_path / "a.pt")
    again = algos.algorithm(name).load(tmp_path / "a.pt", data)
    assert again.fit(3) == agents.fit(3)
    for one, other in zip(agents.learnt().values(), again.learnt().values(), strict=True):
        for a, b in zip(one.parameters(), other.parameters(), strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_learnt_holds_all_that_an_update_changes(name):
    agents = made(name)
    before = {k: [p.detach().clone() for p in m.parameters()] for k, m in agents.learnt().items()}
    agents.fit(4)
    for key, module in agents.learnt().items():
        for a, b in zip(before[key], module.parameters(), strict=True):
            assert not torch.equal(a, b), key
    assert set(agents.learnt()) <= set(agents.state_dict()["parts"])


@pytest.mark.parametrize("name", ALGORITHMS)
def test_acting_from_a_checkpoint_builds_no_optimiser_and_no_critic(name, tmp_path, monkeypatch):
    agents = made(name)
    agents.fit(3)
    agents.save(tmp_path / "a.pt")
    state = checkpoint.load(tmp_path / "a.pt")
    obs = torch.rand(2, 5, 3)
    want = agents.policies.act(obs, torch.Generator().manual_seed(1))

    def refuse(*args, **kwargs):
        raise AssertionError("not needed to act")

    monkeypatch.setattr(torch.optim, "Adam", refuse)
    monkeypatch.setattr(critics.networks, "MLPCritic", refuse)
    monkeypatch.setattr(offline, "TrajectorySampler", refuse)
    drawn = torch.random.get_rng_state()
    policies = algos.algorithm(name).acting(state)
    assert torch.equal(torch.random.get_rng_state(), drawn)
    assert torch.equal(policies.act(obs, torch.Generator().manual_seed(1)), want)
    assert policies.num_agents == len(policies) == 2
    assert policies.obs_dims == [3, 3]


@pytest.mark.parametrize("name", ["dom2", "diffusion_ql", "sfbc"])
@pytest.mark.parametrize("act_with_target", [True, False])
def test_acting_with_candidates_has_the_critic(name, act_with_target):
    agents = made(name, candidates=5, act_with_target=act_with_target)
    agents.fit(3)
    policies = agents.acting(agents.state_dict())
    obs = torch.rand(2, 5, 3)
    one, other = (p.act(obs, torch.Generator().manual_seed(1)) for p in (agents.policies, policies))
    assert torch.equal(one, other)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_frozen_and_exported_policies_act_alike_and_stay_as_they_are(name, tmp_path):
    agents = made(name)
    agents.fit(2)
    # Many rows, because an untrained net puts most actions on their bounds.
    policies, obs = agents.policies, torch.rand(2, 1000, 3)
    frozen = policies.frozen()
    policies.export(tmp_path / "p.safetensors")
    loaded = load_policy(tmp_path / "p.safetensors")
    want, *others = (
        p.act(obs, torch.Generator().manual_seed(1)) for p in (policies, frozen, loaded)
    )
    for other in others:
        torch.testing.assert_close(other, want, rtol=0, atol=OLD_ACT_32)
    assert frozen.obs_dims == policies.obs_dims
    agents.fit(20)
    again = frozen.act(obs, torch.Generator().manual_seed(1))
    assert torch.equal(again, others[0])
    assert not torch.equal(agents.policies.act(obs, torch.Generator().manual_seed(1)), want)


@pytest.mark.parametrize("name", ["dom2", "diffusion_ql", "sfbc"])
def test_frozen_candidates_are_chosen_by_a_critic_that_stays(name):
    agents = made(name, candidates=6)
    agents.fit(2)
    policies, obs = agents.policies, torch.rand(2, 50, 3)
    frozen = policies.frozen()
    want = policies.act(obs, torch.Generator().manual_seed(1))
    for given in (obs, list(obs)):
        act = frozen.act(given, torch.Generator().manual_seed(1))
        torch.testing.assert_close(act, want, rtol=0, atol=OLD_ACT_32)
    agents.fit(20)
    assert torch.equal(frozen.act(obs, torch.Generator().manual_seed(1)), act)
    assert frozen.frozen() is frozen
    assert (frozen.obs_dims, frozen.num_agents) == (policies.obs_dims, 2)
    with pytest.raises(Dom2Error, match=r"2 agents take \[2, E, 3\]"):
        frozen.act(obs[:1])


@pytest.mark.parametrize("name", ["dom2", "td3_bc"])
def test_one_agent_s_policy_has_all_options_of_the_stack(name):
    agents = made(name, precision="bf16", backend="reference")
    alone = agents.policies[1]
    assert (alone.precision, alone.backend, alone.groups) == ("bf16", "reference", None)
    own = agents.policies.policy
    if name == "dom2":
        assert (alone.solver, alone.steps, alone.clip_x0) == (own.solver, own.steps, own.clip_x0)
    else:
        obs = torch.rand(2, 5, 3)
        torch.testing.assert_close(alone.act(obs[1]), agents.policies.act(obs)[1])


def test_acting_without_the_target_lowers_once(monkeypatch):
    agents = made("bc", act_with_target=False)
    assert agents.policies.policy is agents.policies.policy
    obs = torch.rand(2, 1000, 3)  # many, because an untrained net puts most actions on their bounds
    old = agents.policies.act(obs, torch.Generator().manual_seed(1))
    agents.fit(1)  # it follows the training
    assert not torch.equal(old, agents.policies.act(obs, torch.Generator().manual_seed(1)))


def test_acting_takes_a_list_and_refuses_other_observations():
    policies = made("bc").policies
    obs = torch.rand(2, 5, 3)
    one, other = (policies.act(o, torch.Generator().manual_seed(1)) for o in (obs, list(obs)))
    assert one.shape == (2, 5, 2)
    assert torch.equal(one, other)
    lists = [[obs[0]], [obs[0], obs[1, :4]], [obs[0], obs[1, :, :2]]]
    for wrong in (obs[:1], obs[..., :2], obs[0], *lists):
        with pytest.raises(Dom2Error, match=r"2 agents take \[2, E, 3\]"):
            policies.act(wrong)


def test_settings_are_not_changed_by_loading():
    agents = made("bc")
    state = agents.state_dict()
    state["config"]["device"] = "cuda"
    kept = json.dumps(state["config"])
    loaded = algos.algorithm("bc").from_state(state)
    assert loaded.config.device == "cpu"  # nothing is trained
    assert json.dumps(state["config"]) == kept


@pytest.mark.parametrize("name", ALGORITHMS)
def test_unequal_episode_lengths(name):
    """Drawn as often as weight x length says, and learnt from, whatever the lengths.

    Where the next action is needed the last row of each episode isn't drawn.
    """
    rows = arrays(trajectories=4, length=5)
    lengths = [1, 9, 3, 7]
    for field in ("obs", "next_obs"):  # each row follows the one before inside its episode only
        for j in range(2):
            rows[field][j][:] = 0.1 * j + 0.01
    data = TrajectoryDataset.from_arrays(**rows, lengths=lengths)
    config = small(name, batch_size=4000)
    agents = algos.algorithm(name)(config, data)
    index = agents.sampler.sample().index
    shares = torch.stack([(index >= a).float().mean(1) for a in data.starts[:-1]])
    drawn = torch.tensor(lengths) - int(agents.next_acts)
    expected = 1 - (drawn.cumsum(0) - drawn) / drawn.sum()
    sd = (expected * (1 - expected) / 4000).sqrt()
    assert bool(((shares - expected[:, None]).abs() <= 4 * sd[:, None]).all())
    metrics = agents.fit(3)
    assert all(v == v and abs(v) < 1e6 for v in metrics.values())


@pytest.mark.parametrize("name", ["dom2", "bc"])
def test_checkpoints_of_before_the_rooms_load(name, tmp_path):
    """See python_tests/old/make.py."""
    file = tmp_path / "old.pt"
    file.write_bytes(gzip.decompress((OLD / f"{name}.pt.gz").read_bytes()))
    kept = json.loads((OLD / "acts.json").read_text())
    cls = algos.algorithm(name)
    policies = cls.acting(checkpoint.load(file, algo=name, env="simple_spread"))
    obs, x_T = torch.tensor(kept["obs"]), torch.tensor(kept["x_T"])
    act = policies.policy.sample(obs, x_T=x_T)
    torch.testing.assert_close(act, torch.tensor(kept[name]), rtol=0, atol=OLD_ACT_32)
    data = dataset(trajectories=6, meta={"task": "simple_spread", "quality": "medium"})
    agents = cls.load(file, data)
    assert agents.step == 300
    assert agents.fit(2) == pytest.approx(kept[f"{name}_next"], **OLD_RUN_32)


def test_order_of_settings_is_that_of_old_config_files(tmp_path):
    for name in ("dom2", "bc"):
        file = tmp_path / f"{name}.pt"
        file.write_bytes(gzip.decompress((OLD / f"{name}.pt.gz").read_bytes()))
        old = list(checkpoint.load(file)["config"])
        new = [f.name for f in configs.fields(algos.algorithm(name).config_class)]
        assert [setting for setting in new if setting in old] == old
