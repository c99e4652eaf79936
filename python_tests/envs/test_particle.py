"""The batched physics against OMAR's recorded episodes, hand-computed cases and its own rules."""

import math

import numpy as np
import pytest
import tolerances
import torch

from dom2_fast import envs
from dom2_fast.errors import Dom2Error

OMAR_TASKS = ("simple_spread", "simple_tag", "simple_world")
# Mean uniform-action returns of the published random datasets (40,000 episodes each; og-marl card).
PUBLISHED_RANDOM = {"simple_spread": 159.57, "simple_tag": -4.13, "simple_world": -6.83}
PUBLISHED_SD = {"simple_spread": 60.46, "simple_tag": 10.81, "simple_world": 5.74}


def state_of(task, **at):
    """A state [1, N, 4] with everything far apart and at rest, but entities given as e0=(x, y)."""
    n = envs.tasks.get(task).entities
    state = torch.zeros(1, n, 4, dtype=torch.float64)
    state[0, :, 0] = torch.arange(n) * 10.0 + 50
    for name, xy in at.items():
        state[0, int(name[1:]), : len(xy)] = torch.tensor(xy, dtype=torch.float64)
    return state


def uniform(env, generator):
    u = torch.rand(env.num_envs, env.num_agents, 2, generator=generator, dtype=torch.float64)
    return (u * 2 - 1).to(env.dtype).transpose(0, 1)  # [G, E, 2]


def joined(obs):
    """All agents' observations side by side, [E, sum of widths]."""
    return torch.cat(list(obs), -1)


def play(env, steps=25, seed=0):
    """All observations, rewards and the last state of random play."""
    generator = torch.Generator().manual_seed(seed)
    seen = [joined(env.reset())]
    for _ in range(steps):
        obs, reward, _ = env.step(uniform(env, generator))
        seen += [joined(obs), reward.T]
    return torch.cat(seen, -1), env.state()


@pytest.mark.parametrize("task", OMAR_TASKS)
def test_recorded_episodes_are_reproduced(task, reference_dir):
    recorded = np.load(reference_dir / "omar_mpe_rollouts.npz")
    init, act, obs, rew = (
        torch.from_numpy(recorded[f"{task}__{k}"]) for k in ("init", "act", "obs", "rew")
    )
    env = envs.make(task, num_envs=len(init), dtype=torch.float64, prey="external")
    tol = dict(rtol=0, atol=tolerances.RECORDED_EPISODE)
    torch.testing.assert_close(joined(env.reset(state=init)), obs[:, 0], **tol)
    for t in range(25):
        seen, reward, done = env.step(act[:, t].transpose(0, 1))
        torch.testing.assert_close(joined(seen), obs[:, t + 1], **tol)
        torch.testing.assert_close(reward.T, rew[:, t], **tol)
        assert done.tolist() == [t == 24] * len(init)


@pytest.mark.parametrize("task", OMAR_TASKS)
def test_uniform_actions_give_the_published_returns(task, reference_dir):
    prey = "bundled" if task == "simple_spread" else reference_dir / f"prey_{task}.npz"
    env = envs.make(task, num_envs=4000, seed=0, prey=prey)
    generator = torch.Generator().manual_seed(1)
    env.reset()
    total = sum(env.step(uniform(env, generator))[1].double() for _ in range(25))
    score = envs.episode_score(total, task)
    error = math.hypot(score.std().item() / math.sqrt(4000), PUBLISHED_SD[task] / math.sqrt(40000))
    assert abs(score.mean().item() - PUBLISHED_RANDOM[task]) < tolerances.SIGMAS * error


def test_spread_step_by_hand():
    env = envs.make("simple_spread", dtype=torch.float64)
    # Agents 0 and 1 at rest, 4 apart; agent 0 pushed with (1, -0.5); landmark 3 half a unit from 1.
    state = state_of("simple_spread", e0=(0, 0), e1=(4, 0), e3=(4, 0.5))
    env.reset(state=state)
    act = torch.zeros(3, 1, 2, dtype=torch.float64)
    act[0, 0] = torch.tensor([1.0, -0.5])
    obs, reward, _ = env.step(act)
    # v = 5 u * 0.1, then x = v * 0.1
    expected = torch.tensor([0.5, -0.25, 0.05, -0.025], dtype=torch.float64)
    torch.testing.assert_close(obs[0][0, :4], expected)
    torch.testing.assert_close(obs[0][0, 4:6], torch.tensor([3.95, 0.525], dtype=torch.float64))
    assert obs[0][0, -4:].eq(0).all()
    far = [1 / (x - 70) for x in (90, 100)]  # the other two landmarks, from agent 2 at 70
    torch.testing.assert_close(reward, torch.full((3, 1), 2 + sum(far), dtype=torch.float64))


def test_velocity_is_damped_before_the_force_acts():
    env = envs.make("simple_spread", dtype=torch.float64)
    env.reset(state=state_of("simple_spread", e0=(0, 0, 2.0, 0)))
    obs, _, _ = env.step(torch.zeros(3, 1, 2))
    expected = torch.tensor([1.5, 0, 0.15, 0], dtype=torch.float64)
    torch.testing.assert_close(obs[0][0, :4], expected)


def test_contact_pushes_both_agents_apart():
    env = envs.make("simple_spread", dtype=torch.float64)
    env.reset(state=state_of("simple_spread", e0=(0, 0), e1=(0.2, 0)))
    obs, _, _ = env.step(torch.zeros(3, 1, 2))
    # 100 * log(1 + exp((0.3 - 0.2) / k)) * k is 10 to 1e-42; times dt it is the velocity.
    torch.testing.assert_close(obs[0][0, 0], torch.tensor(-1.0, dtype=torch.float64))
    torch.testing.assert_close(obs[1][0, 0], torch.tensor(1.0, dtype=torch.float64))


def test_each_colliding_agent_pays_for_it():
    env = envs.make("simple_spread", dtype=torch.float64)
    # Moving towards each other at 0.0001 of distance, agents 0 and 1 overlap after the step.
    env.reset(state=state_of("simple_spread", e0=(0, 0, 1.0, 0), e1=(0.2999, 0, -1.0, 0)))
    paid = env.step(torch.zeros(3, 1, 2))[1]
    assert paid[2, 0] - paid[0, 0] == 5 and paid[0, 0] == paid[1, 0]
    # At rest the contact has pushed them apart before the reward is counted.
    env.reset(state=state_of("simple_spread", e0=(0, 0), e1=(0.29, 0)))
    free = env.step(torch.zeros(3, 1, 2))[1]
    assert free[0, 0] == free[2, 0]


def test_agents_in_one_place_stay_finite():
    env = envs.make("simple_spread", dtype=torch.float64)
    env.reset(state=state_of("simple_spread", e0=(0, 0), e1=(0, 0), e3=(0, 0)))
    obs, reward, _ = env.step(torch.zeros(3, 1, 2))
    assert joined(obs).isfinite().all() and reward.isfinite().all()
    assert reward[0, 0] < reward[2, 0]


def test_predators_and_prey_by_hand():
    env = envs.make("simple_tag", dtype=torch.float64, prey="external")
    assert env.obs_dims == [16, 16, 16, 14] and env.num_agents == 4
    env.reset(state=state_of("simple_tag", e0=(0, 0), e1=(0, 3), e2=(0, 4), e3=(0.5, 0), e4=(5, 5)))
    act = torch.zeros(4, 1, 2, dtype=torch.float64)
    act[0, 0, 0] = 1.0
    act[3, 0, 0] = -1.0
    obs, reward, _ = env.step(act)
    # Forces are 9 and 16; speeds 0.9 and 1.6, the latter cut to 1.3.
    torch.testing.assert_close(obs[0][0, 0], torch.tensor(0.9, dtype=torch.float64))
    torch.testing.assert_close(obs[3][0, 0], torch.tensor(-1.3, dtype=torch.float64))
    torch.testing.assert_close(obs[0][0, -2:], obs[3][0, :2])
    gap = 0.37 - 0.09  # further than 0.125: no contact
    dist = gap + math.hypot(0.37, 3) + math.hypot(0.37, 4)
    shared = torch.tensor(-0.1 * dist, dtype=torch.float64)
    torch.testing.assert_close(reward[:, 0], torch.stack([shared, shared, shared, -shared]))


@pytest.mark.parametrize("task", envs.TASKS)
def test_same_seed_same_episodes_other_seed_others(task):
    first, _ = play(envs.make(task, 5, seed=3, prey="external"))
    again, _ = play(envs.make(task, 5, seed=3, prey="external"))
    other, _ = play(envs.make(task, 5, seed=4, prey="external"))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("task", envs.TASKS)
def test_state_round_trip(task):
    env = envs.make(task, 4, seed=1, dtype=torch.float64, prey="external")
    play(env, steps=7)
    state = env.state()
    other = envs.make(task, 4, seed=9, dtype=torch.float64, prey="external")
    seen = other.reset(state=state)
    assert [tuple(o.shape) for o in seen] == [(4, d) for d in other.obs_dims]
    act = uniform(env, torch.Generator().manual_seed(2))
    for a, b in zip(env.step(act)[0], other.step(act)[0], strict=True):
        assert torch.equal(a, b)
    state.zero_()  # a copy: changing it changes nothing
    assert env.state().abs().sum() > 0


@pytest.mark.parametrize("task", envs.TASKS)
def test_reset_with_a_seed_starts_as_a_new_environment_does(task):
    env = envs.make(task, 5, seed=3, shift="speed")
    play(env, steps=2)
    again, speeds = env.reset(seed=8), env.max_speed
    other = envs.make(task, 5, seed=8, shift="speed")
    assert torch.equal(again, other.reset()) and torch.equal(speeds, other.max_speed)
    assert again.shape == (3, 5, env.obs_dims[0]) and again.is_contiguous()
    assert not torch.equal(env.reset(), again)


def test_dtypes_start_from_the_same_draw():
    single = envs.make("simple_tag", 6, seed=2, prey="external").reset()
    double = envs.make("simple_tag", 6, seed=2, prey="external", dtype=torch.float64).reset()
    for a, b in zip(single, double, strict=True):
        assert a.dtype == torch.float32 and b.dtype == torch.float64
        torch.testing.assert_close(a.double(), b, rtol=0, atol=4 * tolerances.EPS32)


def test_starts_are_drawn_where_the_task_says():
    for task in envs.TASKS:
        env = envs.make(task, 2000, seed=0, prey="external")
        env.reset()
        state, n = env.state(), envs.tasks.get(task).agents
        assert state[..., 2:].abs().max() == 0
        agents, marks = state[:, :n, :2].abs().max().item(), state[:, n:, :2].abs().max().item()
        limits = {"simple_spread": (1, 1), "spread_6_landmarks": (0.1, 1)}.get(task, (1, 0.9))
        assert 0.95 * limits[0] < agents <= limits[0]
        assert 0.95 * limits[1] < marks <= limits[1] + tolerances.EPS32


def test_six_landmarks_reward_and_removed_landmarks():
    state = state_of("spread_6_landmarks", e0=(0, 0), e1=(20, 0), e2=(40, 0))
    for i, x in enumerate((0.5, 1.0, 20.5, 21.0, 40.5, 41.0)):
        state[0, 3 + i, :2] = torch.tensor([x, 0])
    plain = envs.make("spread_6_landmarks", dtype=torch.float64)
    shifted = envs.make("spread_6_landmarks", dtype=torch.float64, shift="landmarks")
    still = torch.zeros(3, 1, 2)
    assert torch.equal(plain.reset(state=state), shifted.reset(state=state))
    assert plain.obs_dims == [24, 24, 24]
    assert plain.step(still)[1].T.tolist() == [[6.0] * 3]  # 1 / 0.5 for each agent
    assert shifted.removed_landmarks == (0, 2, 4)
    assert shifted.step(still)[1].T.tolist() == [[3.0] * 3]  # 1 / 1.0, the nearer ones are gone
    one = envs.make(
        "spread_6_landmarks", dtype=torch.float64, shift="landmarks", removed_landmarks=(5,)
    )
    one.reset(state=state)
    assert one.step(still)[1].T.tolist() == [[6.0] * 3]


def test_a_solution_is_a_set_of_landmarks_each_touched_by_one_agent():
    def at(*places, **options):
        env = envs.make("spread_6_landmarks", dtype=torch.float64, **options)
        marks = {f"e{3 + i}": (float(i), 0.0) for i in range(6)}
        agents = {f"e{i}": (x, 0.0) for i, x in enumerate(places)}
        env.reset(state=state_of("spread_6_landmarks", **agents, **marks))
        label, solved = env.solution()
        return label.item(), solved.item()

    assert at(0.1, 1.1, 4.9) == (0b100011, True) == at(4.9, 0.1, 1.1)  # whoever is at which
    assert at(0.1, 1.16, 4.9) == (0b100011, False)  # radii are 0.1 and 0.05
    assert at(0.1, -0.1, 4.9) == (0b100001, False)  # two at one landmark
    shifted = {"shift": "landmarks", "removed_landmarks": [5]}
    assert at(0.1, 1.1, 4.9, **shifted) == (0b100011, False)  # landmark 5 pays nothing
    assert at(0.1, 1.1, 2.1, **shifted) == (0b000111, True)
    for task in ("simple_spread", "simple_tag"):
        with pytest.raises(Dom2Error, match=f"{task} has no several solutions"):
            envs.make(task).solution()


def test_six_landmarks_collision_costs_15():
    env = envs.make("spread_6_landmarks", dtype=torch.float64)
    env.reset(state=state_of("spread_6_landmarks", e0=(0, 0, 1.0, 0), e1=(0.1999, 0, -1.0, 0)))
    reward = env.step(torch.zeros(3, 1, 2))[1]
    assert reward[2, 0] - reward[0, 0] == 15 and reward[0, 0] == reward[1, 0]


@pytest.mark.parametrize("task", envs.TASKS)
def test_stopped_shift_holds_one_agent_of_each_copy(task):
    env, plain = envs.make(task, 300, seed=4, shift="stopped"), envs.make(task, 300, seed=4)
    assert torch.equal(env.reset(), plain.reset())  # the starts are the standard ones
    n = env.spec.agents - int(env.spec.prey)
    first, start = env.stopped.clone(), env.state()
    assert (first[:, :n].sum(dim=1) == 1).all() and not first[:, n:].any()
    assert (first[:, :n].sum(dim=0) > 60).all()  # 100 each on average, sd 8
    act = torch.ones(n, 300, 2)
    for _ in range(25):
        env.step(act)
    moved = (env.state()[:, : env.spec.agents, :2] != start[:, : env.spec.agents, :2]).any(-1)
    assert not moved[first].any() and moved[~first].all()
    env.reset()
    assert not torch.equal(env.stopped, first)
    env.reset(seed=4)
    assert torch.equal(env.stopped, first)
    fixed = envs.make(task, 2, shift="stopped", agent=1)
    fixed.reset()
    assert fixed.stopped.nonzero().tolist() == [[0, 1], [1, 1]]


def test_actions_of_others_have_gradients_beside_a_stopped_agent():
    env = envs.make("simple_spread", 1, shift="stopped", agent=1, dtype=torch.float64)
    env.reset()
    act = torch.full((3, 1, 2), 0.5, dtype=torch.float64, requires_grad=True)
    env.step(act)[1].sum().backward()
    assert act.grad.isfinite().all() and act.grad[1].abs().max() == 0
    assert act.grad[[0, 2]].abs().max() > 0


@pytest.mark.parametrize("task", envs.TASKS)
def test_speed_shift_caps_each_agent_anew(task):
    env = envs.make(task, 300, seed=0, shift="speed", v_min=0.2, prey="external")
    env.reset()
    first = env.max_speed.clone()
    chasers = 3
    assert first[:, :chasers].min() >= 0.2 and first[:, :chasers].max() <= 1
    assert first[:, :chasers].mean().item() == pytest.approx(0.6, abs=0.04)
    if env.spec.prey:
        assert (first[:, 3] == 1.3).all()
    act = torch.ones(env.num_agents, 300, 2)
    for _ in range(10):
        env.step(act)
    speed = env.state()[:, : env.spec.agents, 2:].norm(dim=-1)
    assert (speed <= first * (1 + 4 * tolerances.EPS32)).all()
    env.reset()
    assert not torch.equal(first, env.max_speed)


def test_default_v_min_is_the_tasks():
    env = envs.make("simple_world", shift="speed")
    assert env.v_min == envs.tasks.get("simple_world").v_min


def test_physics_is_differentiable():
    env = envs.make("simple_spread", 2, dtype=torch.float64)
    start = state_of("simple_spread", e0=(0, 0), e1=(0.31, 0.05), e3=(0.3, 0.4)).repeat(2, 1, 1)

    def loss(act):
        env.reset(state=start)
        return sum(env.step(act)[1].sum() for _ in range(3))

    act = torch.full((3, 2, 2), 0.3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(loss, act)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (dict(name="simple_tagg"), "simple_spread, simple_tag, simple_world, spread_6_landmarks"),
        (dict(name="simple_spread", num_envs=0), "at least 1"),
        (dict(name="simple_spread", dtype=torch.int64), "floating"),
        (dict(name="simple_spread", shift="wind"), "accepted: None, 'speed', 'stopped'$"),
        (dict(name="simple_spread", shift="landmarks"), "spread_6_landmarks has it"),
        (dict(name="simple_spread", v_min=0.3), "shift='speed'"),
        (dict(name="simple_spread", shift="speed", v_min=0.0), "above 0"),
        (dict(name="spread_6_landmarks", shift="landmarks", removed_landmarks=(6,)), "0 to 5"),
        (
            dict(name="spread_6_landmarks", shift="landmarks", removed_landmarks=tuple(range(6))),
            "not all",
        ),
        (dict(name="spread_6_landmarks", shift="landmarks", removed_landmarks=3), r"\[0, 2, 4\]"),
        (dict(name="spread_6_landmarks", shift="landmarks", removed_landmarks=()), "at least one"),
        (dict(name="simple_spread", prey="somewhere.npz"), "has no prey"),
    ],
)
def test_wrong_settings_are_explained(kwargs, message):
    with pytest.raises(Dom2Error, match=message):
        envs.make(**kwargs)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (dict(shift="wind"), "unknown shift 'wind'"),
        (dict(shift="landmarks"), "for spread_6_landmarks only"),
        (dict(v_min=0.3), "v_min belongs to shift='speed'"),
        (dict(agent=0), "agent belongs to shift='stopped'"),
        (dict(shift="stopped", agent=3), "agent must be from 0 to 2 for simple_spread"),
        (dict(shift="stopped", agent=1.0), "agent must be a whole number"),
        (dict(removed_landmarks=(1,)), "removed_landmarks belongs to shift='landmarks'"),
    ],
)
def test_the_class_itself_refuses_what_the_registry_would(kwargs, message):
    with pytest.raises(Dom2Error, match=message):
        envs.ParticleEnv("simple_spread", **kwargs)


def test_wrong_calls_are_explained_and_change_nothing():
    env = envs.make("simple_spread", 2)
    with pytest.raises(Dom2Error, match="reset"):
        env.step(torch.zeros(3, 2, 2))
    with pytest.raises(Dom2Error, match=r"\[2, 6, 4\]"):
        env.reset(state=torch.zeros(2, 5, 4))
    with pytest.raises(Dom2Error, match="NaN or infinite"):
        env.reset(state=torch.full((2, 6, 4), torch.nan))
    env.reset()
    before = env.state()
    for act, message in (
        (torch.zeros(2, 3, 2), r"\[3, 2, 2\]"),
        (torch.full((3, 2, 2), torch.nan), "NaN"),
        (torch.full((3, 2, 2), torch.inf), "magnitude inf"),
        (torch.full((3, 2, 2), 1.5), "clip"),
    ):
        with pytest.raises(Dom2Error, match=message):
            env.step(act)
    assert torch.equal(env.state(), before) and env.steps == 0


def test_episode_score_and_normalisation():
    sums = torch.tensor([[3.0, 0.0], [6.0, 0.0], [9.0, 3.0]])  # [G, E]
    assert envs.episode_score(sums, "simple_spread").tolist() == [6.0, 1.0]
    assert envs.episode_score(sums, "simple_tag").tolist() == [3.0, 0.0]
    four = torch.cat([sums, sums[:1]])
    assert envs.episode_score(four, "simple_world").tolist() == [3.0, 0.0]
    with pytest.raises(Dom2Error, match="reward sums"):
        envs.episode_score(four, "simple_spread")
    assert envs.normalised_score(516.8, "simple_spread") == pytest.approx(100)
    assert envs.normalised_score(-4.1, "simple_tag") == pytest.approx(0)
    assert envs.normalised_score(1.0, "spread_6_landmarks") is None
