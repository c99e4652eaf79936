"""The loop that plays any environment: early ends, shapes, terminal states."""

import pytest
import torch
from small_envs import Counting

from dom2_fast import envs
from dom2_fast.errors import Dom2Error


def still(obs):
    return torch.zeros(2, len(obs[0]), 1)


def test_a_copy_counts_until_it_is_done():
    env = Counting(6, 0)
    steps = list(envs.play(env, still, seed=9))
    assert [step.t for step in steps] == [0, 1, 2] and env.seeds == [0, 9]
    alive = torch.stack([step.alive for step in steps]).sum(0)
    assert alive.tolist() == [1, 2, 3, 1, 2, 3]
    assert envs.reward_sums(env, still).tolist() == [[1, 2, 3] * 2, [2, 4, 6] * 2]


def test_whoever_is_done_before_the_time_limit_is_terminal_unless_it_says_otherwise():
    env = Counting(3, 0)
    ends = torch.stack([envs.terminal(env, step) for step in envs.play(env, still)])
    assert ends.tolist() == [[True, False, False], [False, True, False], [False, False, True]]
    env.episode_length = 3
    ends = torch.stack([envs.terminal(env, step) for step in envs.play(env, still)])
    assert not ends[2].any()
    env.terminal = torch.zeros(3, dtype=torch.bool)
    assert not any(envs.terminal(env, step).any() for step in envs.play(env, still))


def test_random_actions_are_uniform():
    act = envs.random_policies(2, 3)([torch.zeros(4000, 1)] * 2, torch.Generator().manual_seed(0))
    assert act.shape == (2, 4000, 3) and act.abs().max() <= 1
    assert act.mean().abs() < 5 * 3**-0.5 / 24000**0.5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(reset=lambda seed=None: torch.zeros(3, 2, 2)), r"observations of shape \[3, 2, 2\]"),
        (dict(reset=lambda seed=None: [torch.zeros(3, 2)]), r"shapes \[\[3, 2\]\]; one \[E, O_i\]"),
        (dict(step=lambda act: (0, torch.zeros(3, 2), 0)), r"\[G, E\] = \[2, 3\]"),
        (dict(step=lambda act: (0, torch.zeros(2, 3), True)), r"done of shape bool; \[E\] = \[3\]"),
    ],
)
def test_an_environment_that_breaks_the_protocol_is_told(change, message):
    env = Counting(3, 0)
    for name, value in change.items():
        setattr(env, name, value)
    with pytest.raises(Dom2Error, match=message):
        list(envs.play(env, still))


def test_actions_of_another_order_are_refused():
    with pytest.raises(Dom2Error, match=r"policies gave actions of shape \[3, 2, 1\]; \[G, E, A\]"):
        list(envs.play(Counting(3, 0), lambda obs: torch.zeros(3, 2, 1)))
