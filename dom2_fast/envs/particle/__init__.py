"""The particle tasks of OMAR's data sets: physics, tasks, shifts, prey, pictures."""

from functools import partial

from dom2_fast.envs import registry
from dom2_fast.envs.particle.physics import ParticleEnv
from dom2_fast.envs.particle.settings import REMOVED
from dom2_fast.envs.particle.tasks import EPISODE_LENGTH, NORMALISATION, TASKS


def _parallel_env(task: str, **options):
    from dom2_fast.envs.particle.pettingzoo_face import parallel_env

    return parallel_env(task, **options)


def register_all() -> None:
    """Make the particle tasks known to the registry."""
    for name, task in TASKS.items():
        v_min = (task.v_min, "each agent's maximal speed is drawn from U(v_min, 1)")
        removed = (REMOVED, "landmarks that stay visible and give no reward")
        stopped = (None, "index of the agent that can't move; None: drawn at each reset")
        shifts = {"speed": {"v_min": v_min}, "stopped": {"agent": stopped}}
        if name == "spread_6_landmarks":
            shifts["landmarks"] = {"removed_landmarks": removed}
        registry.register(
            name,
            partial(ParticleEnv, name),
            normalisation=NORMALISATION.get(name),
            shifts=shifts,
            episode_length=EPISODE_LENGTH,
            parallel_env=partial(_parallel_env, name),
        )
