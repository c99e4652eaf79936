"""PettingZoo's environments as ours, ours as PettingZoo's, and both ways round."""

import warnings

import numpy as np
import pettingzoo
import pytest
import torch
from gymnasium.spaces import Box, Dict
from pettingzoo.test import parallel_api_test
from small_envs import Counting, Line, discrete_line, own_registry

from dom2_fast import envs
from dom2_fast.errors import Dom2Error


def test_their_environment_plays_as_it_does_alone():
    env = envs.from_parallel_env(Line, 3, seed=5)
    assert (env.num_agents, env.obs_dims, env.act_dim) == (2, [2, 2], 1)
    obs = env.reset()
    alone = Line()
    seen, _ = alone.reset(seed=env.copies[1].seed)
    act = torch.tensor([[0.0, 0.5, -1.0], [1.0, -0.5, 0.25]])[..., None]  # [G, E, A]
    for t in range(4):
        assert obs.shape == (2, 3, 2) and obs.dtype == torch.float32
        for i, agent in enumerate(alone.agents):
            np.testing.assert_array_equal(obs[i, 1], seen[agent].astype(np.float32))
        obs, reward, done = env.step(act)
        # bounds are [-1, 3]: 0.5 -> 2, -0.5 -> 0
        seen, rewards, *_ = alone.step({"a0": np.array([2.0]), "a1": np.array([0.0])})
        assert reward[:, 1].tolist() == [np.float32(rewards[a]) for a in ("a0", "a1")]
        assert done.tolist() == [t == 3] * 3
    assert not env.terminal.any()  # truncated
    env.close()
    assert all(copy.closed for copy in env.copies)


def test_seeds_say_which_episodes():
    def starts(*resets):
        env = envs.from_parallel_env(Line, 4, seed=1)
        return [env.reset(*seed) for seed in resets]

    first, second, again = starts((), (), (1,))
    assert torch.equal(first, again) and not torch.equal(first, second)
    assert len({float(x) for x in first[0, :, 0]}) == 4
    assert torch.equal(starts((2,))[0], starts((2,))[0])


def test_unequal_widths_copies_that_end_and_given_lengths():
    wide = {"a1": Box(-1, 1, (2, 2), np.float32)}
    env = envs.from_parallel_env(lambda: Line(obs=wide, terminate=True, length=2), 2)
    assert [o.shape for o in env.reset()] == [(2, 2), (2, 4)]
    env.copies[0].length = 1
    still = torch.zeros(2, 2, 1)
    assert env.step(still)[2].tolist() == [True, False] and env.terminal.tolist() == [True, False]
    _, reward, done = env.step(still)
    assert reward[:, 0].tolist() == [0, 0] and done.all() and env.terminal.all()
    cut = envs.make(Line, 2, episode_length=3)
    assert cut.episode_length == 3
    ends = [step.done.tolist() for step in envs.play(cut, lambda obs: still)]
    assert ends == [[False] * 2, [False] * 2, [True] * 2] and not cut.terminal.any()
    assert cut.score(torch.tensor([[1.0, 2.0], [3.0, 4.0]])).tolist() == [2.0, 3.0]


def test_bounds_of_minus_one_and_one_leave_an_action_as_it_is():
    space = {a: Box(-1.0, 1.0, (1,), np.float32) for a in ("a0", "a1")}
    env = envs.from_parallel_env(lambda: Line(act=space))
    env.reset()
    act = torch.rand(2, 1, 1) * 2 - 1
    env.step(act)
    assert env.copies[0].seen[0]["a0"] == act[0, 0].numpy()


ONE = Line()


class Aec(pettingzoo.AECEnv):
    agent_selection, possible_agents = "a0", ("a0",)


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        (lambda: Line(act={"a1": Box(-1, 1, (3,))}), r"action width: \{'a0': 1, 'a1': 3\}"),
        (discrete_line, r"action space of a1 is Discrete\(3\); only Box .* \(continuous"),
        (lambda: Line(act={"a0": Box(0, 5, (1,), np.int64)}), "whole numbers"),
        (lambda: Line(act={"a0": Box(0, np.inf, (1,))}), "both must be finite"),
        (lambda: Line(obs={"a0": Dict({"x": Box(0, 1)})}), "observation space of a0 is Dict"),
        (lambda: Line(n=0), "possible_agents is empty"),
        (lambda: ONE, "the same object each time"),
        (Aec, "is an AEC environment"),
        (lambda: Counting(2, 0), "takes no num_envs"),
        (lambda: 3, "makes int, which lacks possible_agents"),
    ],
)
def test_what_doesnt_fit_is_refused_before_playing(factory, message):
    with pytest.raises(Dom2Error, match=message):
        envs.make(factory, 2)


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        (lambda: Line(ends={"a1": 2}), "a1 ended at step 2, a0 did not; only .* same step"),
        (lambda: Line(late="a7"), "after step 2 a7 appeared; only .*: a0, a1"),
        (lambda: Line(length=10**6), "has not ended after 10,000 steps; give episode_length"),
    ],
)
def test_what_shows_while_playing_says_which_agent_and_step(factory, message):
    env = envs.make(factory, 1)
    with pytest.raises(Dom2Error, match=message):
        envs.reward_sums(env, lambda obs: torch.zeros(2, 1, 1))


class Broken(Line):
    """Gives whatever `change(obs, rewards)` makes of them."""

    change = staticmethod(lambda obs, rewards: None)

    def step(self, actions):
        obs, rewards, *rest = super().step(actions)
        self.change(obs, rewards)
        return obs, rewards, *rest


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda obs, rewards: obs.pop("a0"), r"step 1 gave no observation for a0, only .*a1"),
        (lambda obs, rewards: rewards.pop("a1"), r"step 1 gave no reward for a1, only .*a0"),
        (lambda obs, rewards: obs.update(a0=np.zeros(3)), "a0 an observation of 3 numbers, .* 2$"),
    ],
)
def test_what_an_agent_lacks_is_told(change, message):
    env = envs.make(type("Changed", (Broken,), {"change": staticmethod(change)}))
    env.reset()
    with pytest.raises(Dom2Error, match=message):
        env.step(torch.zeros(2, 1, 1))


def test_a_length_that_the_environment_takes_itself_is_given_to_it():
    env = envs.make(lambda episode_length=7: Line(length=episode_length), episode_length=2)
    assert env.copies[0].length == 2
    assert len(list(envs.play(env, lambda obs: torch.zeros(2, 1, 1)))) == 2


def test_wrong_calls_are_explained():
    env = envs.make(Line, 2)
    with pytest.raises(Dom2Error, match="reset"):
        env.step(torch.zeros(2, 2, 1))
    env.reset()
    with pytest.raises(Dom2Error, match=r"\[2, 2, 1\]"):
        env.step(torch.zeros(2, 1, 1))
    for bad in (1.5, torch.nan):
        with pytest.raises(Dom2Error, match="clip them first"):
            env.step(torch.full((2, 2, 1), bad))
    with pytest.raises(Dom2Error, match="episode_length must be"):
        envs.make(Line, episode_length=0)


def test_any_of_ours_passes_pettingzoos_own_test(monkeypatch):
    own_registry(monkeypatch)
    envs.register("count", Counting)
    envs.register("line", Line)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        parallel_api_test(envs.parallel_env("count"), num_cycles=10)
    zoo = envs.parallel_env("count")
    seen, _ = zoo.reset(seed=3)
    np.testing.assert_array_equal(zoo.state(), np.concatenate(list(seen.values())))
    *_, terminated, truncated, _ = zoo.step({a: np.zeros(1) for a in zoo.agents})
    assert zoo.agents == [] and all(terminated.values()) and not any(truncated.values())
    assert isinstance(envs.parallel_env("line", length=2), Line)
    with pytest.raises(Dom2Error, match="no pictures"):
        envs.parallel_env("count", render_mode="human")
    with pytest.raises(Dom2Error, match="no pictures"):
        zoo.render()


@pytest.mark.parametrize("task", ["simple_spread", "simple_tag"])
def test_there_and_back_again_is_the_same_physics(task):
    env = envs.make(lambda: envs.parallel_env(task), 2, seed=3)
    assert env.agent_names == envs.parallel_env(task).possible_agents
    g = torch.Generator().manual_seed(0)
    ours = envs.make(task, 1, prey="external", dtype=torch.float64)
    steps = envs.play(env, lambda obs: torch.rand(env.num_agents, 2, 2, generator=g) * 2 - 1)
    for step in steps:
        if step.t == 0:
            ours.reset(seed=int(np.random.SeedSequence([3, 0]).generate_state(2)[1]))
        reward = ours.step(step.act[:, 1:])[1]
        assert torch.equal(step.reward[:, 1], reward[:, 0].float())
    assert step.t == 24 and step.done.all() and not env.terminal.any()


def test_two_agents_of_halfcheetah(tmp_path, monkeypatch):
    mamujoco = pytest.importorskip("gymnasium_robotics").mamujoco_v1
    monkeypatch.chdir(tmp_path)  # MuJoCo writes its log there

    def make():
        return mamujoco.parallel_env("HalfCheetah", "2x3")

    env = envs.make(make, 2, seed=1, episode_length=3)
    assert (env.num_agents, env.act_dim, len(set(env.obs_dims))) == (2, 3, 1)
    g = torch.Generator().manual_seed(0)
    steps = list(envs.play(env, lambda obs: torch.rand(2, 2, 3, generator=g) * 2 - 1))
    assert len(steps) == 3 and all(step.obs.isfinite().all() for step in steps)
    reward = torch.stack([step.reward for step in steps])  # shared by the agents
    assert torch.equal(reward[:, 0], reward[:, 1]) and not torch.equal(reward[0], reward[1])
    env.close()


@pytest.mark.skipif(not hasattr(pettingzoo, "register"), reason="PettingZoo before 1.27")
def test_ours_are_in_pettingzoos_registry(monkeypatch):
    from dom2_fast.envs import pettingzoo as ours

    own_registry(monkeypatch)
    env = pettingzoo.make("parallel", "dom2_fast/simple_tag-v0", prey="bundled")
    assert env.possible_agents == ["adversary_0", "adversary_1", "adversary_2"]
    envs.register("me/count-v3", Counting)
    assert ours.register_all()[-1] == "dom2_fast/me.count-v3"
    made = pettingzoo.make("parallel", "dom2_fast/me.count-v3")
    assert made.possible_agents == ["agent_0", "agent_1"]
    del pettingzoo.parallel_registry["dom2_fast/me.count-v3"]


def test_a_pettingzoo_without_a_registry_is_explained(monkeypatch):
    from dom2_fast.envs import pettingzoo as ours

    monkeypatch.delattr(pettingzoo, "register", raising=False)
    with pytest.raises(Dom2Error, match=r"use dom2_fast\.envs\.parallel_env"):
        ours.register_all()
