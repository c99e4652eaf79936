"""What the diffusion-policy algorithms share: the stacked policy, its optimiser, targets, state.

The learning rules are in `dom2.py` and `bc.py`. Everything is batched over agents: parameters are
`[G, ...]`, one slice per agent, and no agent's slice ever meets another's.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import nn

from dom2_fast import checkpoint, networks
from dom2_fast import config as configs
from dom2_fast.algos.updates import adam, descend, frozen_copy, frozen_view
from dom2_fast.data.sampler import Batch, TrajectorySampler
from dom2_fast.data.trajectories import TrajectoryDataset
from dom2_fast.errors import Dom2Error
from dom2_fast.policies.diffusion import DiffusionPolicy
from dom2_fast.policies.schedules import VPSchedule

STAGES = ("sample", "critic", "actor", "target")


class StageTimer:
    """Seconds spent in each stage of the updates since the last `reset`."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.seconds = dict.fromkeys(STAGES, 0.0)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        self.seconds[stage] += time.perf_counter() - begin


class Policies:
    """Decentralised execution: agent i acts on its own observation with its own network.

    Called with a list of `[E, obs_i]`, gives actions `[E, G, A]`; `policies[i]` is agent i's
    `DiffusionPolicy`, `policies.policy` the stack of all. No gradients.

    Args:
        candidates, critic: of that many sampled actions, agent i's own critic takes the best.
    """

    def __init__(
        self, policy: DiffusionPolicy, obs_dim: int, agents: int, candidates: int = 1, critic=None
    ):
        self.policy, self.candidates, self._critic = policy, candidates, critic
        self.obs_dims = [obs_dim] * agents

    def __len__(self) -> int:
        return len(self.obs_dims)

    def __call__(self, obs: list, generator: torch.Generator | None = None) -> torch.Tensor:
        own = next(self.policy.net.parameters())
        stacked = torch.stack([torch.as_tensor(o, dtype=own.dtype) for o in obs])  # [G, E, O]
        act = self.policy.act(
            stacked.to(own.device), candidates=self.candidates, critic=self._critic,
            generator=generator,
        )  # fmt: skip
        return act.transpose(0, 1).to(stacked.device)

    def act(self, obs, generator: torch.Generator | None = None) -> torch.Tensor:
        """Actions [G, E, A] for observations [G, E, O]: what `evaluate` calls."""
        return self(obs, generator).transpose(0, 1)

    def __getitem__(self, agent: int) -> DiffusionPolicy:
        p = self.policy
        return DiffusionPolicy(
            p.net.unstack()[agent], schedule=p.schedule, solver=p.solver, steps=p.steps,
            backend=p.backend, clip_x0=p.clip_x0, precision=p.precision,
        )  # fmt: skip


class DiffusionAgents:
    """One diffusion policy per agent, learnt offline. Subclasses define `update`.

    Args:
        config: the algorithm's config dataclass.
        data: the transitions. None: for acting only (see `load`).
        obs_dim, act_dim, agents: the policies' sizes, needed only without data.
    Raises:
        Dom2Error: trained agents differ in observation width; a setting is out of range.
    """

    name: ClassVar[str]
    config_class: ClassVar[type]

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
        self.config = config
        self.device = usable_device(config.device)
        self.sampler = None
        if data is not None:
            agents = config.agents or same_width(data.obs_dims)
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
            )
        self.obs_dim, self.act_dim, self.num_agents, self.env = obs_dim, act_dim, agents, env
        self.step = 0
        self.stage = StageTimer()
        # One generator for everything but the batches; its state is in the checkpoint.
        self.generator = torch.Generator(self.device).manual_seed(config.seed)
        with torch.random.fork_rng(devices=[]):  # network initialisation draws from torch's own
            torch.manual_seed(config.seed)
            self._build()

    def _build(self) -> None:
        c = self.config
        self.net = networks.stack([self._noise_net() for _ in range(self.num_agents)])
        self.net.to(self.device)
        self.target_net = frozen_copy(self.net)
        self.policy, self.target_policy = map(self._policy, (self.net, self.target_net))
        self.actor_optimiser = adam(self.net, c.lr)

    def _policy(self, net: nn.Module) -> DiffusionPolicy:
        c = self.config
        return DiffusionPolicy(
            net,
            schedule=VPSchedule(),
            solver=c.solver,
            steps=c.steps,
            backend=c.backend,
            clip_x0=c.clip_x0,
            precision=c.precision,
        )

    def _noise_net(self) -> nn.Module:
        c = self.config
        if c.network == "unet":
            return networks.UNetNoiseNet(self.obs_dim, self.act_dim)
        return networks.MLPNoiseNet(
            self.obs_dim, self.act_dim, hidden=c.hidden, depth=c.depth, time_scale=c.time_scale
        )

    def update(self) -> dict[str, torch.Tensor]:
        """One gradient step of everything; gives detached scalars to log."""
        raise TypeError(f"{type(self).__name__} defines no update")

    def fit(self, steps: int) -> dict[str, float]:
        """`steps` updates; gives the last one's metrics. `train` adds logs and checkpoints."""
        if self.sampler is None:
            raise Dom2Error("these agents were loaded without data and can only act: give data")
        metrics: dict[str, torch.Tensor] = {}
        for _ in range(steps):
            metrics = self.update()
        return {name: float(value) for name, value in metrics.items()}

    def _draw(self) -> Batch:
        with self.stage("sample"):
            return self.sampler.sample()

    def _actor_step(self, batch: Batch, extra: torch.Tensor | None = None) -> torch.Tensor:
        """Descends L_bc plus an optional extra loss `[G]`; gives the BC loss of every agent `[G]`.

        L_bc = E || eps - eps_theta(alpha_t a + sigma_t eps, o, t) ||^2.
        """
        bc = self.policy.bc_loss(
            batch.obs, batch.act, generator=self.generator, reduction="group"
        )  # [G]
        descend(bc if extra is None else bc + extra, self.actor_optimiser, self.config.grad_clip)
        return bc.detach()

    @property
    def policies(self) -> Policies:
        """The learnt policies, one per agent, for `evaluate` or for acting anywhere."""
        return Policies(self._acting_policy(), self.obs_dim, self.num_agents)

    def _acting_policy(self) -> DiffusionPolicy:
        if self.config.act_with_target:
            return self.target_policy
        # The learning net's own parameters, without its dropout.
        return self._policy(frozen_view(self.net, self.num_agents).eval())

    def _parts(self) -> dict[str, Any]:
        """Everything with a state, by its name in a checkpoint."""
        return {
            "net": self.net,
            "target_net": self.target_net,
            "actor_optimiser": self.actor_optimiser,
            **({"sampler": self.sampler} if self.sampler is not None else {}),
        }

    def state_dict(self) -> dict:
        """All that decides how training goes on, as plain values and tensors."""
        return {
            "algo": self.name,
            "env": self.env,
            "config": configs.to_dict(self.config),
            "step": self.step,
            "sizes": {
                "obs_dim": self.obs_dim, "act_dim": self.act_dim, "agents": self.num_agents
            },
            "generator": self.generator.get_state(),
            "parts": {name: part.state_dict() for name, part in self._parts().items()},
        }  # fmt: skip

    def load_state_dict(self, state: dict) -> None:
        sizes = {"obs_dim": self.obs_dim, "act_dim": self.act_dim, "agents": self.num_agents}
        if state["sizes"] != sizes:
            raise Dom2Error(
                f"the checkpoint is of {state['sizes']}, this data set needs {sizes}: "
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
            part.load_state_dict(state["parts"][name])
        if same:  # else they only act
            self.generator.set_state(state["generator"])
        self.step = state["step"]

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
        config = configs.from_dict(cls.config_class, state["config"], "the checkpoint's settings")
        if data is None:  # acting needs no GPU
            config.device = "cpu"
        sizes = {} if data is not None else state["sizes"]
        agents = cls(config, data, env=state["env"], **sizes)
        agents.load_state_dict(state)
        return agents


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
