"""Environment steps of HalfCheetah: 32 copies side by side, beside gymnasium's environment.

`native` steps `envs.make("halfcheetah_2x3", num_envs=32)` with the threads of the run, `gymnasium`
one `HalfCheetah-v5` in a loop, whose time is scaled up to as many steps. Actions are drawn before.
"""

import pytest
import torch
from conftest import missing

from dom2_fast import envs

TASK, COPIES, STEPS = "halfcheetah_2x3", 32, 50


def contenders(kinds) -> dict:
    found = {kind: missing("mujoco") or missing("gymnasium") for kind in kinds}
    if any(found.values()):
        return found
    import gymnasium

    torch.manual_seed(0)
    env = envs.make(TASK, num_envs=COPIES, seed=0)
    one = gymnasium.make("HalfCheetah-v5").unwrapped
    act = torch.rand(STEPS, 2, COPIES, 3) * 2 - 1
    rows = act[:, :, 0].reshape(STEPS, 6).double().numpy()
    same_physics(envs.make(TASK, num_envs=1, seed=0, dtype=torch.float64), one, act[:, :, :1], rows)

    def batched():
        env.reset()  # copies whose episode is over stand still
        for step in range(STEPS):
            env.step(act[step])

    def single():
        one.reset()
        for step in range(STEPS):
            one.step(rows[step])

    return {kind: {"native": batched, "gymnasium": single}[kind] for kind in kinds}


def same_physics(env, one, act, rows) -> None:
    """The first copy moves as gymnasium's environment does."""
    env.reset()
    one.reset(seed=0)
    for step in range(STEPS):
        _, reward, _ = env.step(act[step].double())
        theirs = one.step(rows[step])[1]
        torch.testing.assert_close(reward[0, 0].item(), theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["native", "gymnasium"])
def bench_step(race, threads, kind):
    title = f"step {TASK}, {COPIES} copies, {STEPS} steps, {threads} threads"
    race(title, contenders, {"gymnasium": COPIES})
