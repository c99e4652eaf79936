"""Do a run's critics know what its policies earn? Q against played episodes, agent by agent.

What docs/tuning.md reads off it: critics that promise more than is earned are exploited; an agent
that earns more among agents that act at random, while all together earn less, meets the others at
the same place, which no decentralised critic of random data has seen.
"""

from __future__ import annotations

import torch

from dom2_fast import algos, checkpoint, envs
from dom2_fast.algos.critics import discount
from dom2_fast.errors import Dom2Error, whole_number
from dom2_fast.runs import evaluation
from dom2_fast.runs.run_config import load_data

GRID = 7  # values of each action component that the critics are asked about
GRID_MOST = 400  # actions on that grid; wider actions aren't asked for
SPREAD = 8  # samples per observation that the spread of actions is taken from


def diagnose_run(
    run, *, episodes: int = 500, seed: int = evaluation.SEED, data: str | None = None, **options
) -> dict:
    """`diagnose` of a run's latest checkpoint, in its own environment.

    Args:
        run: a run folder. data: its data set, where it isn't where it was.
        episodes, seed, options: as `diagnose` takes them.
    Raises:
        Dom2Error: no checkpoint or no data; an algorithm without Q1; see `diagnose`.
    """
    state = checkpoint.load(run)
    where = data or state.get("run", {}).get("data_path")
    if where is None:
        raise Dom2Error(f"the checkpoint in {run} doesn't say what data it learnt from: give data")
    origin = state.get("run", {})
    learnt_from = load_data(where, origin.get("episode_length"), origin.get("subset", {}))
    agents = algos.algorithm(state["algo"]).from_state(state, learnt_from)
    return diagnose(agents, episodes=episodes, seed=seed, **options)


@torch.no_grad()
def diagnose(agents, *, episodes: int = 500, seed: int = evaluation.SEED, **options) -> dict:
    """Plays the policies together, and each one among agents that act uniformly.

    Args:
        agents: trained agents with data and twin critics (`agents.critics`).
        episodes: played at once, of each kind.
        seed: of starts and noise.
        options: of the environment.
    Returns:
        of each agent a list entry: `q` (mean Q1 of the first action), `return` (what these episodes
        brought: discounted, in the critics' rewards, with min_k Q_k of the last observation where
        the time limit cut them), `correlation` (of both over episodes), `td_data` and `td_played`
        (root mean square of Q1 - y on the data and on the played steps), `spread` (deviation of an
        observation's sampled actions), `edge` (share of played action components at a bound),
        `alone` (its raw return among uniform agents); and of all: `together`, their raw score;
        `greedy`, the raw score of acting by the best of a grid of actions by Q1 (7 values of each
        component, so 49 of a plane), where that takes 400 actions at most; `hits`, pairs of agents
        in contact per step, where the environment counts them (`contacts`).
    Raises:
        Dom2Error: agents without critics or without an environment; an unknown option;
            episodes that end before their time limit.
    """
    critics = getattr(agents, "critics", None)
    if not hasattr(critics, "rate"):
        raise Dom2Error(
            f"{agents.name} has no critic Q1(o, a) to be looked at: choose a run of dom2, td3_bc, "
            "itd3, cql or omar"
        )
    if agents.env is None:
        raise Dom2Error("no environment is known that these agents can be played in")
    whole_number("episodes", episodes, 1)
    spec = envs.resolve(agents.env)
    world = spec.make(episodes, seed=seed, **options)
    policies = agents.policies
    generator = torch.Generator().manual_seed(seed)
    steps, contacts = [], []
    for step in envs.play(world, lambda obs: policies.act(obs, generator=generator), seed):
        steps.append(step)
        if hasattr(world, "contacts"):
            contacts.append(world.contacts())
    if not torch.stack([step.alive for step in steps]).all():
        raise Dom2Error(
            f"episodes of {agents.env} end before their time limit; only those that don't can be "
            "held against the critics"
        )
    score = world.score(sum(step.reward.double() for step in steps))
    found = _against_returns(agents, steps, policies, generator)
    found["alone"] = [_alone(policies, world, agent, seed) for agent in range(agents.num_agents)]
    if contacts:
        found["hits"] = torch.stack(contacts).double().mean().item()
    if GRID**world.act_dim <= GRID_MOST:
        found["greedy"] = _greedy(agents, world, seed)
    return found | {"together": score.mean().item(), "episodes": episodes}


def _against_returns(agents, steps, policies, generator) -> dict[str, list[float]]:
    critics, c = agents.critics, agents.config
    like = next(critics.net.parameters())

    def q1(act, obs):
        return critics.rate(act.to(like), agents.seen(obs.to(like)))

    def lower(act, obs):
        both = torch.cat([agents.seen(obs.to(like))] * 2)
        acts = torch.cat([critics.seen(act.to(like))] * 2)
        return torch.minimum(*critics.q(acts, both).squeeze(-1).chunk(2))

    def earned(step):
        return c.reward_scale * (step.reward.to(like) - critics.reward.shift) / critics.reward.sd

    total, errors, after = 0.0, [], None
    for step in reversed(steps):
        if after is None:
            act = policies.act(step.next_obs, generator=generator)
            after = lower(act, step.next_obs)
            total = after
        total = earned(step) + c.gamma * total
        errors.append(q1(step.act, step.obs) - (earned(step) + c.gamma * after))
        after = lower(step.act, step.obs)
    first = q1(steps[0].act, steps[0].obs)
    batch = agents.sampler.sample()  # of its own generator: the training of `agents` is over
    next_act = policies.act(batch.next_obs, generator=generator)
    y = critics.reward(batch) + discount(c, batch) * lower(next_act, batch.next_obs)
    on_data = q1(batch.act, batch.obs) - y
    starts = steps[0].obs.repeat_interleave(SPREAD, 1)
    samples = policies.policy.act(starts.to(like), generator=generator)
    samples = samples.view(*first.shape, SPREAD, -1)
    played = torch.stack([step.act for step in steps])  # [T, G, E, A]
    pairs = zip(first, total, strict=True)
    return {
        "q": first.mean(1).tolist(),
        "return": total.mean(1).tolist(),
        "correlation": [torch.corrcoef(torch.stack(pair))[0, 1].item() for pair in pairs],
        "td_data": on_data.square().mean(1).sqrt().tolist(),
        "td_played": torch.stack(errors).square().mean((0, 2)).sqrt().tolist(),
        "spread": samples.std(2, unbiased=False).mean((1, 2)).tolist(),
        "edge": (played.abs() >= 1.0).float().mean((0, 2, 3)).tolist(),
    }


def _greedy(agents, world, seed: int) -> float:
    """The raw score of the best action on the grid, by each agent's Q1."""
    like = next(agents.critics.net.parameters())
    values = torch.linspace(-1, 1, GRID).to(like)
    grid = torch.cartesian_prod(*[values] * world.act_dim).view(-1, world.act_dim)

    def act(obs):
        rows = obs.to(like)
        acts = grid.expand(*rows.shape[:2], *grid.shape)
        best = agents.critics.rate(acts, agents.seen(rows)).argmax(-1)
        return grid[best].to(obs)

    return world.score(envs.reward_sums(world, act, seed)).mean().item()


def _alone(policies, world, agent: int, seed: int) -> float:
    generator = torch.Generator().manual_seed(seed)

    def act(obs):
        chosen = policies.act(obs, generator=generator)
        others = torch.rand(chosen.shape, generator=generator) * 2 - 1
        others[agent] = chosen[agent]
        return others

    return envs.reward_sums(world, act, seed)[agent].mean().item()
