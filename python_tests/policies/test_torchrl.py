"""Policies as tensordict's modules: agents where TorchRL has them, rollouts in its environments."""

import sys

import pytest
import torch
from policy_problems import OBS, A, G, generator, net, policy, rand, stack

import dom2_fast as d2
from dom2_fast import envs
from dom2_fast.errors import Dom2Error
from dom2_fast.policies import torchrl as adapter

F32 = torch.float32


def of_stack():
    return policy(stack(F32)).frozen()


def needs_tensordict():
    return pytest.importorskip("tensordict", reason="pip install 'dom2-fast[torchrl]'")


def test_without_tensordict_the_error_names_the_command(monkeypatch):
    for name in ("tensordict", "tensordict.nn"):
        monkeypatch.setitem(sys.modules, name, None)
    adapter._base.cache_clear()
    with pytest.raises(Dom2Error, match=r"pip install 'dom2-fast\[torchrl\]'"):
        adapter.actor(of_stack())


@pytest.mark.parametrize("batch", [(), (4,), (2, 3)])
def test_agents_are_the_last_dimension_but_one(batch):
    td = needs_tensordict()
    p, obs = of_stack(), rand(*batch, G, OBS, dtype=F32)
    data = td.TensorDict({"agents": {"observation": obs}}, batch_size=batch)
    actor = adapter.actor(p, generator=generator())
    assert actor.in_keys == [("agents", "observation")]
    assert actor.out_keys == [("agents", "action")]
    out = actor(data)
    assert out is data and out["agents", "action"].shape == (*batch, G, A)
    rows = obs.reshape(-1, G, OBS).transpose(0, 1).contiguous()
    want = p.act(rows, generator=generator()).transpose(0, 1).reshape(*batch, G, A)
    assert torch.equal(out["agents", "action"], want)


def test_another_order_reaches_each_agents_own_network():
    td = needs_tensordict()
    p, obs, order = of_stack(), rand(5, G, OBS, dtype=F32), [2, 0, 1]
    acts = []
    for given, how in ((obs, None), (obs[:, order], order)):
        data = td.TensorDict({"agents": {"observation": given}}, batch_size=[5])
        acts.append(adapter.actor(p, order=how, generator=generator())(data)["agents", "action"])
    assert torch.equal(acts[0][:, order], acts[1])
    for wrong in ([0, 1], [0, 1, 1], [1, 2, 3]):
        with pytest.raises(Dom2Error, match="order has each agent's number once, 0 to 2"):
            adapter.actor(p, order=wrong)


def test_a_single_policy_has_no_dimension_of_agents():
    td = needs_tensordict()
    p = policy(net(F32)).frozen()
    data = td.TensorDict({"observation": rand(4, OBS)}, batch_size=[4])
    actor = adapter.actor(p, group=None)
    out = actor(data)
    assert out["action"].shape == (4, A) and out["action"].dtype == torch.float64
    with pytest.raises(Dom2Error, match="of a stack"):
        adapter.actor(p, order=[0])
    own = adapter.actor(p, obs_key=("next", "seen"), act_key="done_then")
    data = td.TensorDict({"next": {"seen": rand(4, OBS)}}, batch_size=[4])
    assert own(data)["done_then"].shape == (4, A)


def test_what_does_not_fit_is_refused():
    td = needs_tensordict()
    actor = adapter.actor(of_stack())
    data = td.TensorDict({"agents": {"observation": rand(4, G + 1, OBS)}}, batch_size=[4])
    with pytest.raises(Dom2Error, match=r"shape \[4, 4, 5\]; the policy takes \[\*batch, 3, O\]"):
        actor(data)
    with pytest.raises(Dom2Error, match="a policy has act"):
        adapter.actor(object())


def test_a_rollout_in_torchrl():
    needs_tensordict()
    pytest.importorskip("torchrl", reason="pip install 'dom2-fast[torchrl]'")
    from torchrl.envs import PettingZooWrapper

    env = PettingZooWrapper(
        envs.parallel_env("simple_spread"), group_map={"agents": ["agent_0", "agent_1", "agent_2"]}
    )
    env.set_seed(0)
    p = d2.pretrained("simple_spread/expert")
    rollout = env.rollout(100, policy=adapter.actor(p, generator=generator(3)))
    assert rollout.batch_size == (25,)
    again = generator(3)
    obs = rollout["agents", "observation"]  # [25, 3, 18]
    for t in range(25):
        want = p.act(obs[t].unsqueeze(1).contiguous(), generator=again)[:, 0]
        assert torch.equal(rollout["agents", "action"][t], want)
    score = float(rollout["next", "agents", "reward"].sum(0).mean())
    assert envs.normalised_score(score, "simple_spread") > 50  # uniform actions: 0, an expert: 100
