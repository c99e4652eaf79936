"""Evaluation: 1,000 episodes of simple_spread with a DOM2 policy of three agents.

`native` is `dom2_fast.evaluate`, all episodes at once, bootstrap interval included. The others play
one episode after the other through PettingZoo's parallel interface with the eager policy, an
observation at a time: `mpe2` is the public package (its own rules: the work is alike, the returns
are not), `pettingzoo` this package's physics behind the same interface. They play EPISODES only;
their times are scaled up, which the results say ("scaled").
"""

import contextlib
import io

import numpy as np
import pytest
import torch
from conftest import close, missing
from peer_torch import Sampler, per_agent

from dom2_fast import envs, networks
from dom2_fast.algos.acting import Policies
from dom2_fast.policies.diffusion import DiffusionPolicy
from dom2_fast.runs.evaluation import evaluate

TASK, TOTAL, EPISODES = "simple_spread", 1000, 5


def episode(env, act, prepare, seed: int) -> float:
    """Plays one; gives the return averaged over the agents."""
    obs, _ = env.reset(seed=seed)
    total = 0.0
    while env.agents:
        obs, reward, *_ = env.step(prepare(act(obs)))
        total += sum(reward.values()) / len(reward)
    return total


def five_forces(actions: dict) -> dict:
    """Our two forces as mpe2 takes them: nothing, left, right, down, up."""
    rows = {}
    for name, (x, y) in actions.items():
        rows[name] = np.array([0, max(-x, 0), max(x, 0), max(-y, 0), max(y, 0)], np.float32)
    return rows


def eager_actor(sampler, names):
    """Each agent's own call of its own network, as decentralised policies act."""

    @torch.no_grad()
    def act(obs):
        found = {}
        for name, one in zip(names, sampler, strict=True):
            row = torch.from_numpy(obs[name])[None, None]
            found[name] = one(row, torch.randn(1, 1, 2))[0, 0].numpy()
        return found

    return act


def same_physics() -> None:
    """The PettingZoo face steps as the batched environment does."""
    batched, zoo = envs.make(TASK, dtype=torch.float64), envs.parallel_env(TASK)
    start = envs.make(TASK, seed=5, dtype=torch.float64)
    start.reset()
    batched.reset(state=start.state())
    zoo.reset(options={"state": start.state()[0]})
    g = torch.Generator().manual_seed(0)
    for _ in range(batched.episode_length):
        act = torch.rand(3, 1, 2, generator=g, dtype=torch.float64) * 2 - 1
        obs, reward, _ = batched.step(act)
        rows = dict(zip(zoo.possible_agents, act[:, 0].numpy(), strict=True))
        theirs, their_reward, *_ = zoo.step(rows)
        close(torch.from_numpy(np.stack(list(theirs.values()))), obs[:, 0].float())
        close(torch.tensor(list(their_reward.values())), reward[:, 0].float())


def contenders(kinds) -> dict:
    torch.manual_seed(0)
    stacked = networks.stack([networks.MLPNoiseNet(18, 2, hidden=128) for _ in range(3)]).eval()
    policy = DiffusionPolicy(stacked, steps=5, backend="native", act_low=-1e4, act_high=1e4)
    obs, x_T = torch.randn(3, 1, 18), torch.randn(3, 1, 2)
    close(policy.sample(obs, x_T), Sampler(per_agent(stacked), bound=1e4)(obs, x_T))
    same_physics()
    policy = DiffusionPolicy(stacked, steps=5, backend="native")
    samplers = [Sampler(net) for net in stacked.unstack()]
    for one in samplers:
        one.net = per_agent(networks.stack([one.net])).eval()
    policies = Policies(policy)

    def loop(env, prepare):
        act = eager_actor(samplers, env.possible_agents)
        return lambda: [episode(env, act, prepare, seed) for seed in range(EPISODES)]

    found = {"native": lambda: evaluate(policies, TASK, episodes=TOTAL)}
    if "pettingzoo" in kinds:
        found["pettingzoo"] = loop(envs.parallel_env(TASK), lambda actions: actions)
    if "mpe2" in kinds:
        found["mpe2"] = missing("mpe2") or loop(public_env(), five_forces)
    return {kind: found[kind] for kind in kinds}


def public_env():
    with contextlib.redirect_stdout(io.StringIO()):  # pygame's greeting
        from mpe2 import simple_spread_v3
    return simple_spread_v3.parallel_env(max_cycles=25, continuous_actions=True)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["native", "pettingzoo", "mpe2"])
def bench_evaluate(race, threads, kind):
    scale = dict.fromkeys(("pettingzoo", "mpe2"), TOTAL / EPISODES)
    race(f"evaluate {TASK}, {TOTAL} episodes, {threads} threads", contenders, scale)
