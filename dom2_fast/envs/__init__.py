"""Environments by name, stepped in batches: the protocol, the registry, and the tasks there are.

`make` gives E copies stepped together; `register` adds an environment; `parallel_env` is the
PettingZoo face of any of them, `from_parallel_env` the way back.
"""

from torch import Tensor

from dom2_fast.envs import mujoco, particle, xor
from dom2_fast.envs.env import (
    Env,
    Obs,
    Step,
    play,
    random_policies,
    reward_sums,
    terminal,
)
from dom2_fast.envs.particle import tasks
from dom2_fast.envs.particle.physics import ParticleEnv
from dom2_fast.envs.particle.settings import SHIFTS
from dom2_fast.envs.particle.tasks import EPISODE_LENGTH
from dom2_fast.envs.pettingzoo_adapter import from_parallel_env
from dom2_fast.envs.registry import (
    ADAPTED,
    EnvSpec,
    make,
    names,
    normalised_score,
    register,
    resolve,
    spec,
    use_adapter,
)

particle.register_all()
mujoco.register_all()
xor.register_all()
use_adapter(from_parallel_env)

TASKS = tuple(tasks.TASKS)  # the particle tasks; `names()` has all environments

__all__ = [
    "ADAPTED",
    "EPISODE_LENGTH",
    "SHIFTS",
    "TASKS",
    "Env",
    "EnvSpec",
    "Obs",
    "ParticleEnv",
    "Step",
    "episode_score",
    "from_parallel_env",
    "make",
    "names",
    "normalised_score",
    "parallel_env",
    "play",
    "random_policies",
    "register",
    "resolve",
    "reward_sums",
    "spec",
    "terminal",
]


def episode_score(reward_sums: Tensor, name: str) -> Tensor:
    """Scores [E] of episodes from each agent's summed rewards [G, E], by the environment's rule.

    Raises:
        Dom2Error: an unknown environment; sums of another number of agents.
    """
    return make(name).score(reward_sums)


def parallel_env(name: str, **options):
    """An environment as PettingZoo's `ParallelEnv`, one copy of it.

    Args:
        name: as in `make`.
        options: those of `make` but `num_envs`. The particle tasks also take `render_mode` (None,
            "rgb_array" or "human"), and their prey is by default an agent (`prey="external"`).
    """
    from dom2_fast.envs.pettingzoo_face import face

    return face(resolve(name), **options)
