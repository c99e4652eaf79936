"""What all offline algorithms share: data, draws, steps, checkpoints. No loss and no network.

    OfflineAgents <- diffusion_agents.DiffusionAgents   dom2, bc, bc10, diffusion_ql, sfbc
                  <- actors.ActorAgents                 bc_det
                  <- actors.ActorCriticAgents           td3_bc, itd3, cql, omar
                  <- gaussian_agents.GaussianAgents     bc_gauss, iql, icq

Everything is batched over agents: parameters are `[G, ...]`, one slice per agent, and no agent's
slice ever meets another's.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import nn

from dom2_fast import checkpoint
from dom2_fast import config as configs
from dom2_fast.algos.acting import Policies
from dom2_fast.algos.updates import descend, load_optimiser
from dom2_fast.data.sampler import Batch, TrajectorySampler
from dom2_fast.data.trajectories import TrajectoryDataset
from dom2_fast.errors import Dom2Error, whole_number


class StageTimer:
    """Seconds spent in each stage of the updates since the last `reset`."""

    def __init__(self, stages: tuple[str, ...]) -> None:
        self.stages = stages
        self.reset()

    def reset(self) -> None:
        self.seconds = dict.fromkeys(self.stages, 0.0)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        self.seconds[stage] += time.perf_counter() - begin


class OfflineAgents:
    """Agents that learn side by side from logged transitions, each from its own.

    A subclass defines `_build`, `update`, `policies`, `_acting`, `_parts` and the five class
    attributes.

    Args:
        config: the algorithm's config dataclass.
        data: the transitions. None: for acting and looking only (see `load`, `acting`).
        obs_dim, act_dim, agents: the networks' sizes, needed only without data.
    Raises:
        Dom2Error: trained agents differ in observation width; a setting is out of range.
    """

    name: ClassVar[str]
    config_class: ClassVar[type]
    # What `update` reports, in the order in which it is worth reading, and what to call it.
    metric_names: ClassVar[Mapping[str, str]]
    # The stages that `update` times, in the order in which it runs them.
    stages: ClassVar[tuple[str, ...]]
    # What to change when losses are no longer finite.
    advice: ClassVar[str]
    # Does `update` read the next action of the log? Then the last rows of episodes aren't drawn.
    next_acts: ClassVar[bool] = False

    def __init__(
        self,
        config,
        data: TrajectoryDataset | None = None,
        *,
        obs_dim: int | None = None,
        act_dim: int | None = None,
        agents: int | None = None,
        env: str | None = None,
    ):
        self.task = self.kind = None  # of the data set: "simple_spread" and "medium", say
        if data is not None:
            self.task, self.kind = data.task or env, data.quality
            config = self.settled(config, self.task, self.kind)
        self.config = config
        self.device = usable_device(config.device)
        self.sampler = None
        if data is not None:
            agents = config.agents or self._leading(data)
            if agents > data.num_agents or len(set(data.obs_dims[:agents])) != 1:
                raise Dom2Error(
                    f"agents = {agents}, but the data set's observations have widths "
                    f"{data.obs_dims}: the trained agents must exist and have one width"
                )
            obs_dim, act_dim, env = data.obs_dims[0], data.act_dim, env or data.task
            self.sampler = TrajectorySampler(
                data,
                config.weights,
                config.batch_size,
                seed=config.seed,
                agents=agents,
                dtype=torch.get_default_dtype(),
                device=self.device,
                next_acts=self.next_acts,
            )
        self.obs_dim, self.act_dim, self.num_agents, self.env = obs_dim, act_dim, agents, env
        self.step = 0
        self.stage = StageTimer(self.stages)
        # One generator for everything but the batches; its state is in the checkpoint.
        self.generator = torch.Generator(self.device).manual_seed(config.seed)
        with torch.random.fork_rng(devices=[]):  # network initialisation draws from torch's own
            torch.manual_seed(config.seed)
            self._build()

    @staticmethod
    def _leading(data: TrajectoryDataset) -> int:
        """Agents that are trained where nobody says how many; a warning where that leaves some."""
        agents = same_width(data.obs_dims)
        if agents < data.num_agents:
            warnings.warn(
                f"the agents' observations have widths {data.obs_dims}: the first {agents}, which "
                f"share one, are trained, the others aren't (agents = {agents} says so without "
                "this message)",
                stacklevel=4,
            )
        return agents

    @classmethod
    def settled(cls, config, task: str | None, kind: str | None):
        """The settings as they hold on a data set of that task and kind: most just as they are.

        Raises:
            Dom2Error: they can't hold there.
        """
        return config

    @property
    def usual_steps(self) -> int | None:
        """The number of updates that belongs to these settings on the data set, if one does."""
        return None

    def _build(self) -> None:
        """Makes networks, optimisers and policies, on `self.device`."""
        raise TypeError(f"{type(self).__name__} defines no _build")

    def update(self) -> dict[str, torch.Tensor]:
        """One gradient step of everything; gives detached scalars to log."""
        raise TypeError(f"{type(self).__name__} defines no update")

    @property
    def policies(self) -> Policies:
        """The learnt policies, for `evaluate` or for acting anywhere; they follow the training."""
        return Policies(self.acting_policy)

    def bc_loss(self, batch: Batch) -> torch.Tensor:
        """The behaviour-cloning loss of every agent's policy, [G]: the policy's own `bc_loss`.

        A diffusion policy's is E || eps - eps_theta(alpha_t a + sigma_t eps, o, t) ||^2, a
        deterministic one's E (pi(o) - a)^2; means over rows and action components.
        """
        return self.policy.bc_loss(
            batch.obs, batch.act, generator=self.generator, reduction="group"
        )

    def descend(self, loss: torch.Tensor) -> None:
        """One step of the policies down the losses [G]."""
        descend(loss, self.actor_optimiser, self.config.grad_clip)

    def learnt(self) -> dict[str, nn.Module]:
        """The networks that gradients change, by name."""
        raise TypeError(f"{type(self).__name__} defines no learnt")

    def fit(self, steps: int) -> dict[str, float]:
        """`steps` updates; gives the last one's metrics. `train` adds logs and checkpoints."""
        if self.sampler is None:
            raise Dom2Error("these agents were loaded without data and can only act: give data")
        metrics: dict[str, torch.Tensor] = {}
        for _ in range(steps):
            metrics = self.update()
        return {name: float(value) for name, value in metrics.items()}

    def seen(self, obs: torch.Tensor) -> torch.Tensor:
        """What the learning networks are given of raw observations [G, B, O]."""
        return obs

    def _draw(self) -> Batch:
        with self.stage("sample"):
            return self.sampler.sample()

    # ---- checkpoints --------------------------------------------------------------------------

    @property
    def sizes(self) -> dict[str, int]:
        return {"obs_dim": self.obs_dim, "act_dim": self.act_dim, "agents": self.num_agents}

    def _parts(self) -> dict[str, Any]:
        """Everything with a state, by its name in a checkpoint."""
        return {} if self.sampler is None else {"sampler": self.sampler}

    def state_dict(self) -> dict:
        """All that decides how training goes on, as plain values and tensors."""
        return {
            "algo": self.name,
            "env": self.env,
            "config": configs.to_dict(self.config),
            "step": self.step,
            "sizes": self.sizes,
            "generator": self.generator.get_state(),
            "parts": {name: part.state_dict() for name, part in self._parts().items()},
        }

    def load_state_dict(self, state: dict) -> None:
        if state["sizes"] != self.sizes:
            raise Dom2Error(
                f"the checkpoint is of {state['sizes']}, this data set needs {self.sizes}: "
                "give the data set that the run was started with"
            )
        same = state["config"].get("device", "cpu") == self.config.device
        if self.sampler is not None and not same:
            raise Dom2Error(
                f"the checkpoint was trained on {state['config'].get('device', 'cpu')}, these "
                f"agents are on {self.config.device}, whose generator draws other numbers: go on "
                "training on the device it was started on"
            )
        for name, part in self._parts().items():
            if isinstance(part, torch.optim.Optimizer):
                load_optimiser(part, state["parts"][name], name)
            else:
                part.load_state_dict(state["parts"][name])
        if same:  # else they only act
            self.generator.set_state(state["generator"])
        self.step = whole_number("the checkpoint's step", state["step"], 0)

    def save(self, path) -> None:
        """Writes a checkpoint, atomically."""
        checkpoint.save(path, self.state_dict())

    @classmethod
    def load(cls, path, data: TrajectoryDataset | None = None, env: str | None = None):
        """Agents from a checkpoint or a run folder; with `data` they can go on training.

        Raises:
            Dom2Error: see `checkpoint.load`; a checkpoint of other sizes than the data's.
        """
        return cls.from_state(checkpoint.load(path, algo=cls.name, env=env), data)

    @classmethod
    def from_state(cls, state: dict, data: TrajectoryDataset | None = None):
        """The same from a checkpoint's content."""
        with checkpoint.fitting():
            config = cls._config(state)
            if data is not None:
                agents = cls(config, data, env=state["env"])
            else:  # nothing is trained, so no GPU is needed
                agents = cls(replace(config, device="cpu"), env=state["env"], **state["sizes"])
            agents.load_state_dict(state)
            return agents

    @classmethod
    def acting(cls, state: dict) -> Policies:
        """The policies that a checkpoint's content acts with, on the CPU.

        Builds what acting needs and nothing else: no optimiser, and a critic only where it chooses
        between candidates.
        Raises:
            Dom2Error: settings that this algorithm hasn't got.
        """
        # Networks are initialised before they are loaded.
        with checkpoint.fitting(), torch.random.fork_rng(devices=[]):
            config = replace(cls._config(state), device="cpu")
            return cls._acting(config, state["sizes"], state["parts"])

    @classmethod
    def _acting(cls, config, sizes: dict[str, int], parts: dict) -> Policies:
        raise TypeError(f"{cls.__name__} defines no _acting")

    @classmethod
    def _config(cls, state: dict):
        return configs.from_dict(cls.config_class, state["config"], "the checkpoint's settings")


def usable_device(name: str) -> torch.device:
    """The device; raises Dom2Error where this machine has none such."""
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise Dom2Error(
            f"device is {name}, but PyTorch sees {torch.cuda.device_count()} GPUs here: choose "
            "cpu; `dom2-fast doctor` says more"
        )
    return device


def same_width(obs_dims: list[int]) -> int:
    """How many leading agents share the first one's observation width."""
    return next((i for i, d in enumerate(obs_dims) if d != obs_dims[0]), len(obs_dims))
