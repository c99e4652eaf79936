"""`faithful`: OMAR's networks and settings, step for step against PyTorch's own batch norm."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from plain_faithful import Actor, PlainFaithful, Twin
from small_data import dataset
from tolerances import OLD_ACT_32, SAME_FORMULA_64, assert_as_good_as_torch

from dom2_fast import algos, checkpoint
from dom2_fast import config as configs
from dom2_fast.algos import batch_norm, faithful
from dom2_fast.errors import Dom2Error
from dom2_fast.ops import backend
from dom2_fast.policies.frozen import load_policy

STEPS = 3
NAMES = ("itd3", "cql", "omar")
CASES = [
    ("itd3", "simple_spread", "random"),
    ("cql", "simple_spread", "medium"),
    ("omar", "simple_tag", "medium"),
    ("omar", "HalfCheetah-v2", "medium"),
]


def data_of(task="simple_spread", kind="expert", **how):
    meta = {"task": task, "quality": kind}
    return dataset(trajectories=6, meta=meta, **{"obs_dims": (5, 5), **how})


def made(name, data=None, **settings):
    cls = algos.algorithm(name)
    config = cls.config_class(faithful=True, **settings)
    return cls(config, data_of() if data is None else data)


def linears(module, dtype):
    """Copies of a network's linear layers."""
    found = []
    for m in module.modules():
        if isinstance(m, torch.nn.Linear):
            copy = torch.nn.Linear(m.in_features, m.out_features, dtype=dtype)
            copy.weight.data.copy_(m.weight.data)
            copy.bias.data.copy_(m.bias.data)
            found.append(copy)
    return found


def plain_agents(agents, name, dtype):
    actors = [Actor(linears(m, dtype)).to(dtype) for m in agents.net.unstack()]
    q = [linears(m, dtype) for m in agents.critics.net.unstack()]
    G = len(actors)
    critics = [Twin(q[j], q[G + j]).to(dtype) for j in range(G)]
    return [PlainFaithful(a, q, agents.config, name) for a, q in zip(actors, critics, strict=True)]


def learn(name, task, kind, which, np_dtype, dtypes):
    """Our agents after STEPS updates, plain ones of each dtype, all from the same draws."""
    data = data_of(task, kind, dtype=np_dtype)
    agents, twin = (made(name, data, backend=which) for _ in range(2))
    c, groups = agents.config, [plain_agents(agents, name, dtype) for dtype in dtypes]
    curves = [[] for _ in range(1 + len(groups))]
    for _ in range(STEPS):
        batch = twin.sampler.sample()
        g = torch.Generator()
        g.set_state(agents.generator.get_state())
        (*rows, A), like = batch.act.shape, {"dtype": batch.act.dtype}
        uniform = torch.rand((*rows, 10, A), generator=g, **like) * 2 - 1
        own, rounds, samples = (
            getattr(c, k, 0) for k in ("cql_policy_actions", "search_rounds", "search_samples")
        )
        counts = [own] * (2 if own else 0) + [samples] * rounds
        noise = [torch.empty((*rows, n, A), **like).normal_(generator=g) for n in counts]
        curves[0].append(float(agents.update()["loss/actor"]))
        for group, curve, dtype in zip(groups, curves[1:], dtypes, strict=True):
            losses = []
            for j, agent in enumerate(group):
                fields = (batch.obs, batch.act, batch.reward, batch.next_obs, uniform)
                z = [n[j].to(dtype) for n in noise]
                z = z[len(z) - rounds :], z[: len(z) - rounds]
                losses.append(agent.update(*(f[j].to(dtype) for f in fields), *z))
            curve.append(sum(losses) / len(group))
    return agents, groups, [torch.tensor(c, dtype=torch.float64) for c in curves]


def theirs(agents):
    """All parameters of plain agents, an agent at a time, in one vector: ours in that order."""
    found = []
    for a in agents:
        for net in (a.actor, a.actor_bar, a.critic, a.critic_bar):
            found += [p.detach().flatten() for p in net.parameters()]
    return torch.cat(found)


def ours(agents):
    found = []
    twins, G = agents.critics, agents.num_agents
    actors = zip(agents.learner.unstack(), agents.target_net.unstack(), strict=True)
    critics = [net.unstack() for net in (twins.net, twins.target_net)]
    for j, pair in enumerate(actors):
        for actor in pair:
            found += [actor.scale, actor.shift, *actor.inner.parameters()]
        for nets in critics:
            one, two = ({k: p for k, p in nets[k].named_parameters()} for k in (j, G + j))
            shared = [one.pop("scale"), one.pop("shift")]
            for p in shared:
                assert torch.equal(p, two.pop("scale" if p is shared[0] else "shift"))
            found += [*shared, *one.values(), *two.values()]
    return torch.cat([p.detach().flatten() for p in found])


@pytest.mark.parametrize(("name", "task", "kind"), CASES)
def test_updates_equal_pytorch_s(name, task, kind, in_float64):
    agents, (group,), (one, other) = learn(
        name, task, kind, "reference", np.float64, [torch.float64]
    )
    torch.testing.assert_close(one, other, **SAME_FORMULA_64)
    torch.testing.assert_close(ours(agents), theirs(group), **SAME_FORMULA_64)
    obs = torch.rand(2, 7, 5)
    act = torch.stack([a.actor.eval()(o) for a, o in zip(group, obs, strict=True)])
    torch.testing.assert_close(agents.policies.act(obs), act.detach(), **SAME_FORMULA_64)


@pytest.mark.skipif(not backend.available(), reason="no compiled extension")
@pytest.mark.parametrize(("name", "task", "kind"), CASES[:3])
def test_kernels_learn_what_pytorch_learns(name, task, kind):
    dtypes = [torch.float32, torch.float64]
    agents, (plain32, plain64), curves = learn(name, task, kind, "native", np.float32, dtypes)
    assert_as_good_as_torch(*curves, what="loss/actor")
    assert_as_good_as_torch(ours(agents), theirs(plain32), theirs(plain64), what="parameters")


def test_whiten_is_batch_norm_s_first_half():
    x = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    for j in range(2):
        plain = torch.nn.BatchNorm1d(5)(x[j].flatten(0, 1)).view(3, 4, 5)
        torch.testing.assert_close(batch_norm.whiten(x)[j], plain.detach())


@pytest.mark.parametrize("name", NAMES)
def test_resume_is_bit_equal_and_settles_nothing_anew(name, tmp_path):
    data = data_of()
    agents = made(name, data)
    agents.fit(2)
    agents.save(tmp_path / "a.pt")
    again = algos.algorithm(name).load(tmp_path / "a.pt", data)
    assert again.config == agents.config
    assert again.fit(2) == agents.fit(2)
    for one, other in zip(agents._parts().values(), again._parts().values(), strict=True):
        if isinstance(one, torch.nn.Module):
            for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True):
                assert torch.equal(a, b)


@pytest.mark.parametrize("name", NAMES)
def test_acting_frozen_and_exported(name, tmp_path):
    agents = made(name)
    agents.fit(2)
    obs = torch.rand(2, 50, 5)
    want = agents.policies.act(obs)
    agents.save(tmp_path / "a.pt")
    assert torch.equal(
        algos.algorithm(name).acting(checkpoint.load(tmp_path / "a.pt")).act(obs), want
    )
    agents.policies.export(tmp_path / "p.safetensors")
    for policy in (agents.policies.frozen(), load_policy(tmp_path / "p.safetensors")):
        torch.testing.assert_close(policy.act(obs), want, rtol=0, atol=OLD_ACT_32)
    agents.fit(1)
    assert not torch.equal(agents.policies.act(obs), want)


def test_agents_do_not_influence_each_other():
    nets = []
    for factor in (1.0, 10.0):
        data = data_of()
        for field in ("obs", "reward", "next_obs"):
            getattr(data, field)[1] = getattr(data, field)[1] * factor
        agents = made("omar", data)
        agents.fit(2)
        nets.append(ours(agents).view(2, -1))
    assert torch.equal(nets[0][0], nets[1][0])
    assert not torch.equal(nets[0][1], nets[1][1])


@pytest.mark.parametrize(
    ("task", "kind", "wanted"),
    [
        ("simple_spread", "random", (0.5, 1.0, 6000)),
        ("simple_tag", "medium", (5.0, 0.7, 2000)),
        ("simple_tag", "medium-replay", (0.5, 0.9, 1000)),
        ("simple_world", "medium", (0.5, 0.1, 1000)),
    ],
)
def test_settings_are_those_of_the_data_set(task, kind, wanted):
    agents = made("omar", data_of(task, kind))
    c = agents.config
    assert (c.zeta, c.coe, agents.usual_steps) == wanted
    assert (c.batch_size, c.hidden, c.lr, c.critic_lr) == (1024, 64, 0.01, 0.01)
    assert (c.weights, c.standardise_obs, c.search_samples, c.elites) == ("uniform", False, 10, 0)
    assert made("itd3", data_of(task, kind)).usual_steps == wanted[2]


def test_half_cheetah_has_settings_of_its_own():
    c = made("omar", data_of("HalfCheetah-v2", "expert")).config
    assert (c.zeta, c.coe, c.batch_size, c.hidden, c.lr) == (5.0, 0.5, 256, 256, 3e-4)
    assert (c.cql_policy_actions, c.search_rounds, c.search_samples, c.elites) == (10, 2, 20, 5)


def test_what_is_free_stays_free():
    agents = made("omar", weights="top_k:0.5", seed=3, mask_done=True)
    c = agents.config
    assert (c.weights, c.seed, c.mask_done) == ("top_k:0.5", 3, True)
    assert made("cql", lr=0.01).config.lr == 0.01  # OMAR's own may be named


def test_settings_that_contradict_are_refused():
    with pytest.raises(Dom2Error, match=r"contradict: hidden = 256 \(OMAR's: 64\), lr = 0.001"):
        made("omar", hidden=256, lr=0.001)
    default = algos.algorithm("cql").config_class()
    with pytest.raises(Dom2Error, match="zeta"):  # named, even if it is the default
        made("cql", zeta=default.zeta)


def test_a_copy_is_no_choice():
    cls = algos.algorithm("cql")
    config = replace(cls.config_class(faithful=True), seed=2)
    assert cls(config, data_of()).config.zeta == 5.0
    whole = configs.to_dict(cls.config_class()) | {"faithful": True}
    assert cls(configs.from_dict(cls.config_class, whole), data_of()).config.lr == 0.01
    whole["lr"] = 0.5
    with pytest.raises(Dom2Error, match=r"lr = 0.5 \(OMAR's: 0.01\)"):
        cls(configs.from_dict(cls.config_class, whole), data_of())


def test_data_that_omar_does_not_know():
    with pytest.raises(Dom2Error, match="no settings for the task walk, only for simple_spread"):
        made("itd3", data_of("walk"))
    mixed = data_of("simple_tag", "medium-expert")
    with pytest.raises(Dom2Error, match="no zeta and coe for simple_tag data of kind medium-exp"):
        made("omar", mixed)
    agents = made("omar", mixed, zeta=2.0, coe=0.5)
    assert (agents.config.zeta, agents.config.coe, agents.usual_steps) == (2.0, 0.5, 2000)
    assert made("itd3", mixed).usual_steps == 2000
    assert faithful.updates("simple_world", None) == 1000
