"""ITD3, MA-CQL and OMAR against plain PyTorch, step for step; OMAR's search on a quadratic."""

import numpy as np
import pytest
import torch
from plain_omar import PlainOMAR
from small_data import dataset
from test_td3_bc import plain_net
from tolerances import SAME_FORMULA_64, assert_as_good_as_torch

from dom2_fast import algos
from dom2_fast.algos.omar import OMARConfig, search
from dom2_fast.errors import Dom2Error
from dom2_fast.ops import backend

STEPS = 8
# Of few ReLU units none may see the action; then all actions are equally good, and rounding picks.
WIDE = {"critic_hidden": 32}
HALF_CHEETAH = {"search_rounds": 2, "search_samples": 20, "elites": 5, "coe": 0.7} | WIDE
OWN = {"cql_policy_actions": 10}
KINDS = {
    "itd3": ("itd3", {}),
    "cql": ("cql", {}),
    "omar": ("omar", {}),
    "cql_with_policy_actions": ("cql", OWN),
    "omar_of_half_cheetah": ("omar", HALF_CHEETAH | OWN),
}
SMALL = {"weights": "uniform", "batch_size": 16, "hidden": 12, "critic_hidden": 10}


def learn(kind, which, np_dtype, dtypes):
    """Our agents after STEPS updates, plain ones of each dtype, all from the same draws."""
    name, settings = KINDS[kind]
    cls = algos.algorithm(name)
    data = dataset(trajectories=6, obs_dims=(5, 5, 5), dtype=np_dtype)
    c = cls.config_class(**{**SMALL, "backend": which, **settings})
    agents, twin = (cls(c, data) for _ in range(2))
    groups = []
    for dtype in dtypes:
        actors = [plain_net(m, True, data, j, dtype) for j, m in enumerate(agents.net.unstack())]
        q = [
            plain_net(m, False, data, k % 3, dtype)
            for k, m in enumerate(agents.critics.net.unstack())
        ]
        groups.append([PlainOMAR(actors[j], q[j], q[3 + j], c, name) for j in range(3)])
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
                losses.append(agent.update(*(r[j].to(dtype) for r in fields), *z))
            curve.append(sum(losses) / 3)
    return agents, groups, [torch.tensor(c, dtype=torch.float64) for c in curves]


def flat(nets) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for net in nets for p in net.parameters()])


def parameters(agents, group):
    ours = [agents.net, agents.critics.net, agents.target_net, agents.critics.target_net]
    theirs = []
    for names in (["actor"], ["q1", "q2"], ["actor_bar"], ["q1_bar", "q2_bar"]):
        nets = [getattr(a, name) for name in names for a in group]
        per_net = [list(n.parameters()) for n in nets]
        theirs += [torch.stack(ps).flatten() for ps in zip(*per_net, strict=True)]
    return flat(ours), torch.cat(theirs).detach()


@pytest.mark.parametrize("kind", KINDS)
def test_updates_equal_the_plain_ones(kind, in_float64):
    agents, (group,), (ours, theirs) = learn(kind, "reference", np.float64, [torch.float64])
    torch.testing.assert_close(ours, theirs, **SAME_FORMULA_64)
    torch.testing.assert_close(*parameters(agents, group), **SAME_FORMULA_64)


@pytest.mark.skipif(not backend.available(), reason="no compiled extension")
@pytest.mark.parametrize("kind", KINDS)
def test_kernels_learn_what_plain_pytorch_learns(kind):
    dtypes = [torch.float32, torch.float64]
    agents, (plain32, plain64), curves = learn(kind, "native", np.float32, dtypes)
    assert_as_good_as_torch(*curves, what="loss/actor")
    native, torch32 = parameters(agents, plain32)
    assert_as_good_as_torch(native, torch32, parameters(agents, plain64)[1], what="parameters")


@pytest.mark.parametrize("elites", [0, 5])
def test_search_finds_the_top_of_a_quadratic(elites):
    """Nearer than the best of as many uniform actions as one round has; never worse than pi(o).

    Of n points, uniform on an area of 4, the nearest is 0.5 / sqrt(n / 4) away on average.
    """
    top = torch.tensor([0.4, -0.3])
    rate = lambda a: -200 * (a - top).square().sum(-1)  # noqa: E731
    c = OMARConfig(search_rounds=8, search_samples=20, elites=elites)
    own = torch.zeros(2, 16, 2)
    best, q = search(rate, own, rate(own), c, torch.Generator().manual_seed(0))
    torch.testing.assert_close(q, rate(best))
    assert (q >= rate(own)).all()
    assert float((best - top).norm(dim=-1).mean()) < 0.5 / (c.search_samples / 4) ** 0.5
    at_top = top.expand(2, 16, 2), rate(top.expand(2, 16, 2))
    same, _ = search(rate, *at_top, c, torch.Generator().manual_seed(0))
    assert (rate(same) >= rate(top)).all()


def plain_search(rate, own, c, noise):
    """The search for one observation, action by action; noise [rounds, samples, A]."""
    mu, sigma, kept = torch.zeros_like(own), torch.full_like(own, c.search_sigma), []
    for draws in noise:
        pool = [(mu + sigma * z).clamp(-1, 1) for z in draws] + kept
        q = torch.stack([rate(a) for a in pool])
        if c.elites:
            order = sorted(range(len(pool)), key=lambda k: -float(q[k]))[: c.elites]
            kept = [pool[k] for k in order]
            mu, sigma = torch.stack(kept).mean(0), torch.stack(kept).std(0)
        else:
            w = q.exp() / q.exp().sum()
            mu = sum(w[k] * a for k, a in enumerate(pool))
            sigma = (sum((a - mu) ** 2 for a in pool) / len(pool)).sqrt()
        sigma = sigma.clamp(min=1e-6)
    return max([*pool, own], key=lambda a: float(rate(a)))


@pytest.mark.parametrize("elites", [0, 5])
def test_search_is_the_plain_one(elites):
    top = torch.tensor([0.4, -0.3], dtype=torch.float64)
    rate = lambda a: -3 * (a - top).square().sum(-1)  # noqa: E731
    c = OMARConfig(search_rounds=4, search_samples=7, elites=elites)
    own = torch.rand(2, 3, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    best, _ = search(rate, own, rate(own), c, torch.Generator().manual_seed(0))
    g = torch.Generator().manual_seed(0)
    noise = [own.new_empty(2, 3, 7, 2).normal_(generator=g) for _ in range(c.search_rounds)]
    noise = torch.stack(noise, 2)  # [G, B, rounds, samples, A]
    plain = [[plain_search(rate, own[j, b], c, noise[j, b]) for b in range(3)] for j in range(2)]
    torch.testing.assert_close(best, torch.stack([torch.stack(row) for row in plain]))


def test_bad_settings():
    with pytest.raises(Dom2Error, match="elites must be 0 or 2"):
        OMARConfig(elites=1)
    with pytest.raises(Dom2Error, match="coe must be in"):
        OMARConfig(coe=1.5)


def test_log_density_of_the_policy_s_own_actions():
    """That of the unclipped noise, in logarithms: OMAR's code has the density itself there."""
    agents = algos.algorithm("cql")(
        algos.algorithm("cql").config_class(**SMALL, **OWN), dataset(trajectories=6)
    )
    obs = torch.rand(2, 400, 3)
    acts, log_density = agents.own_actions(obs)
    act = agents.policy.act(obs).unsqueeze(2)
    inside = (acts.abs() < 1).all(3)
    normal = torch.distributions.Normal(0.0, 0.2)
    torch.testing.assert_close(
        log_density[inside], normal.log_prob(acts - act).sum(3)[inside], rtol=1e-4, atol=1e-4
    )
    assert float((acts - act).std()) == pytest.approx(0.2, rel=0.05)
    assert acts.abs().max() <= 1
