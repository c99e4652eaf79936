"""MATD3 (Ackermann et al. 2019, arXiv 1910.01465): trains the behaviours that collect data.

Online, in the batched environment, all agents at once: one deterministic actor per agent, twin
centralised critics per agent, target smoothing, delayed policies. It isn't an offline algorithm
and isn't what the library is for; `training.py` runs it.
"""

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from dom2_fast import envs
from dom2_fast.behaviours.shipped import BehaviourPolicy, forward, noisy
from dom2_fast.errors import Dom2Error


def _from(source: str, default):
    return field(default=default, metadata={"source": source})


@dataclass
class MATD3Config:
    """Every number of the method, with where it comes from (OMAR: its public code)."""

    num_envs: int = _from("tuned here: environments stepped together", 50)
    steps: int = _from("tuned here: environment steps of all of them, one update each", 30_000)
    stop_after: int = _from("tuned here: end after so many of `steps`, 0 for all", 11_000)
    warmup: int = _from("tuned here: steps with uniform actions before the first update", 100)
    capacity: int = _from("OMAR: 1e6 transitions", 1_000_000)
    batch_size: int = _from("OMAR", 1024)
    hidden: int = _from("OMAR, actor", 64)
    critic_hidden: int = _from("tuned here; OMAR 64", 128)
    actor_lr: float = _from("tuned here; OMAR 0.01", 1e-3)
    critic_lr: float = _from("tuned here; OMAR 0.01", 1e-3)
    gamma: float = _from("OMAR, as its code runs", 0.95)
    tau: float = _from("OMAR", 0.01)
    policy_delay: int = _from("TD3, arXiv 1802.09477", 2)
    target_noise: float = _from("TD3: 0.2", 0.2)
    target_clip: float = _from("TD3: 0.5", 0.5)
    explore_noise: float = _from("OMAR: gaussian_noise_std", 0.1)
    explore_start: float = _from(
        "tuned here: noise at the start, falling linearly to the above", 0.3
    )
    reward_scale: float = _from("tuned here: rewards are up to 30 a step", 0.1)
    action_l2: float = _from("OMAR", 1e-3)
    grad_clip: float = _from("OMAR", 0.5)
    joint_policy_gradient: bool = _from(
        "tuned here: actor loss with the others' current actions (FACMAC), not the replayed",
        False,
    )
    updates: int = _from("tuned here: updates per step of all environments", 1)
    critic_state: bool = _from(
        "OMAR on HalfCheetah: critics see the environment's `state()`, not all observations", False
    )
    seed: int = _from("any", 0)

    def __post_init__(self):
        for name in (
            "num_envs",
            "steps",
            "warmup",
            "capacity",
            "batch_size",
            "hidden",
            "critic_hidden",
            "policy_delay",
            "updates",
        ):
            if getattr(self, name) < 1:
                raise Dom2Error(f"MATD3Config.{name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.stop_after <= self.steps:
            raise Dom2Error(
                f"MATD3Config.stop_after must be from 0 to steps = {self.steps}, "
                f"got {self.stop_after}"
            )
        if not 0 <= self.gamma < 1:
            raise Dom2Error(f"MATD3Config.gamma must be in [0, 1), got {self.gamma}")
        if not 0 < self.tau <= 1:
            raise Dom2Error(f"MATD3Config.tau must be in (0, 1], got {self.tau}")


class GroupMLP(nn.Module):
    """G ReLU networks side by side: [G, B, in] (or a shared [B, in]) -> [G, B, out]."""

    def __init__(self, groups: int, sizes: tuple[int, ...], generator: torch.Generator):
        super().__init__()
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for fan_in, fan_out in itertools.pairwise(sizes):
            bound = 1 / math.sqrt(fan_in)  # nn.Linear's own
            for params, shape in (
                (self.weights, (groups, fan_in, fan_out)),
                (self.biases, (groups, 1, fan_out)),
            ):
                u = torch.rand(shape, generator=generator) * 2 - 1
                params.append(nn.Parameter(u * bound))

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim == 2:
            x = x.expand(self.weights[0].shape[0], -1, -1)
        return forward(zip(self.weights, self.biases, strict=True), x)


class ReplayBuffer:
    """A ring of joint transitions, rows of one flat tensor: obs, act, reward, next_obs ..."""

    def __init__(self, capacity: int, widths: list[int], generator: torch.Generator):
        self.rows = torch.empty(capacity, sum(widths))
        self.widths, self.generator = widths, generator
        self.size = self.at = 0

    def add(self, *fields: Tensor) -> None:
        rows = torch.cat(fields, dim=-1)
        index = (self.at + torch.arange(len(rows))) % len(self.rows)
        self.rows[index] = rows
        self.at = int(index[-1]) + 1
        self.size = min(self.size + len(rows), len(self.rows))

    def sample(self, batch: int) -> tuple[Tensor, ...]:
        index = torch.randint(self.size, (batch,), generator=self.generator)
        return self.rows[index].split(self.widths, dim=-1)


class MATD3:
    """Trains in `env` (a batched environment whose agents share obs and act widths).

    Args:
        env: any `envs.Env`; with `critic_state`, one whose `state()` can be asked already.
        config: see `MATD3Config`.
    """

    def __init__(self, env, config: MATD3Config):
        if len(set(env.obs_dims)) != 1:
            raise Dom2Error(
                f"MATD3 needs agents with one observation width, got {env.obs_dims}; "
                "let the environment drive the prey"
            )
        if env.num_envs != config.num_envs:
            raise Dom2Error(f"env has {env.num_envs} copies, the config says {config.num_envs}")
        self.env, self.config = env, config
        self.G, self.O, self.A = env.num_agents, env.obs_dims[0], env.act_dim
        self.generator = torch.Generator().manual_seed(config.seed)
        G = self.G
        if config.critic_state and not hasattr(env, "state"):
            raise Dom2Error(
                "MATD3Config.critic_state needs an environment with a state(): train without it"
            )
        # What critics see beside the actions: [B, view], all observations or the global state.
        view = env.state().flatten(1).shape[1] if config.critic_state else G * self.O
        joint = view + G * self.A
        actor_sizes = (self.O, config.hidden, config.hidden, self.A)
        critic_sizes = (joint, config.critic_hidden, config.critic_hidden, 1)
        self.actor = GroupMLP(G, actor_sizes, self.generator)
        self.critic = GroupMLP(2 * G, critic_sizes, self.generator)  # twin k of agent g: k * G + g
        self.target_actor = GroupMLP(G, actor_sizes, self.generator)
        self.target_critic = GroupMLP(2 * G, critic_sizes, self.generator)
        self.target_actor.load_state_dict(self.actor.state_dict())
        self.target_critic.load_state_dict(self.critic.state_dict())
        self.actor_optim = torch.optim.Adam(self.actor.parameters(), config.actor_lr)
        self.critic_optim = torch.optim.Adam(self.critic.parameters(), config.critic_lr)
        widths = [G * self.O, G * self.A, G, G * self.O]
        widths += [view, view] if config.critic_state else []
        self.buffer = ReplayBuffer(config.capacity, widths, self.generator)
        self.updates = self.step = 0

    def policy(self) -> BehaviourPolicy:
        """A frozen copy of the actors."""
        pairs = zip(self.actor.weights, self.actor.biases, strict=True)
        return BehaviourPolicy([(w.detach().clone(), b.detach().clone()) for w, b in pairs])

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator)

    def _joint(self, view: Tensor, act: Tensor) -> Tensor:
        return torch.cat([view, act], dim=-1)

    def update(self) -> dict[str, float]:
        """One update of the critics and, every `policy_delay` updates, of the actors.

        Raises:
            Dom2Error: a loss isn't finite.
        """
        cfg, G, A = self.config, self.G, self.A
        obs, act, reward, next_obs, *states = self.buffer.sample(cfg.batch_size)
        view, next_view = states or (obs, next_obs)
        B = len(obs)
        with torch.no_grad():
            split = next_obs.view(B, G, self.O).transpose(0, 1)
            noise = (self._normal(G, B, A) * cfg.target_noise).clamp(
                -cfg.target_clip, cfg.target_clip
            )
            next_act = (self.target_actor(split).tanh() + noise).clamp(-1, 1)
            next_act = next_act.transpose(0, 1).reshape(B, G * A)
            next_q = self.target_critic(self._joint(next_view, next_act)).view(2, G, B).amin(dim=0)
            # Episodes end by time only, so the target always bootstraps.
            y = cfg.reward_scale * reward.T + cfg.gamma * next_q  # [G, B]
        q = self.critic(self._joint(view, act)).view(2, G, B)
        loss = (q - y).square().mean(dim=-1).sum()
        self._descend(loss, self.critic, self.critic_optim)
        log = {"critic_loss": self._finite(loss) / (2 * G)}
        self.updates += 1
        if self.updates % cfg.policy_delay == 0:
            log["actor_loss"] = self._update_actor(obs, act, view)
            self._follow(self.target_actor, self.actor)
            self._follow(self.target_critic, self.critic)
        return log

    def _update_actor(self, obs: Tensor, act: Tensor, view: Tensor) -> float:
        cfg, G, A, B = self.config, self.G, self.A, len(obs)
        mine = self.actor(obs.view(B, G, self.O).transpose(0, 1)).tanh()  # [G, B, A]
        mine = mine.transpose(0, 1)  # [B, G, A]
        # Agent g's critic sees g's present action (own = 1) beside the other agents' actions.
        own = torch.eye(G)[:, None, :, None]  # [G, 1, G, 1]
        others = mine.detach() if cfg.joint_policy_gradient else act.view(B, G, A)
        joint = (own * mine + (1 - own) * others).reshape(G, B, G * A)
        pairs = zip(self.critic.weights, self.critic.biases, strict=True)
        first = [(weight[:G].detach(), bias[:G].detach()) for weight, bias in pairs]
        q = forward(first, torch.cat([view.expand(G, -1, -1), joint], dim=-1))
        loss = -q.mean(dim=(1, 2)).sum() + cfg.action_l2 * mine.square().mean() * G
        self._descend(loss, self.actor, self.actor_optim)
        return self._finite(loss) / G

    def _finite(self, loss: Tensor) -> float:
        if not math.isfinite(value := loss.item()):
            raise Dom2Error(
                f"training diverged: a loss is {value} in step {self.step}: lower critic_lr, "
                "actor_lr or reward_scale"
            )
        return value

    @torch.no_grad()
    def _follow(self, target: nn.Module, net: nn.Module) -> None:
        for old, new in zip(target.parameters(), net.parameters(), strict=True):
            old.lerp_(new, self.config.tau)

    def _descend(self, loss: Tensor, net: nn.Module, optim: torch.optim.Optimizer) -> None:
        optim.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), self.config.grad_clip * math.sqrt(self.G))
        optim.step()

    def state_dict(self) -> dict:
        """All that training goes on from but the environment: it starts new episodes."""
        buffer = self.buffer
        return {
            "config": asdict(self.config),
            "nets": [net.state_dict() for net in self._nets()],
            "optims": [optim.state_dict() for optim in (self.actor_optim, self.critic_optim)],
            "rows": buffer.rows[: buffer.size],
            "at": buffer.at,
            "updates": self.updates,
            "step": self.step,
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, saved: dict) -> None:
        """Go on from a `state_dict`.

        Raises:
            Dom2Error: it is of another config.
        """
        config = asdict(self.config)
        other = [key for key in config if saved["config"].get(key) != config[key]]
        if other:
            was = ", ".join(f"{key} = {saved['config'].get(key)}" for key in other)
            raise Dom2Error(f"the training to be resumed has {was}: give the same options")
        for net, state in zip(self._nets(), saved["nets"], strict=True):
            net.load_state_dict(state)
        optims = (self.actor_optim, self.critic_optim)
        for optim, state in zip(optims, saved["optims"], strict=True):
            optim.load_state_dict(state)
        size = len(saved["rows"])
        self.buffer.rows[:size] = saved["rows"]
        self.buffer.size, self.buffer.at = size, saved["at"]
        self.updates, self.step = saved["updates"], saved["step"]
        self.generator.set_state(saved["generator"])
        # Episodes that the training hasn't seen: as from a seed that depends on how far it came.
        self.env.reset(
            seed=int(np.random.SeedSequence([config["seed"], self.step]).generate_state(1)[0])
        )

    def _nets(self) -> list[nn.Module]:
        return [self.actor, self.critic, self.target_actor, self.target_critic]

    def fit(self, on_step: Callable[[int], bool] = lambda step: False) -> None:
        """Step the environments, each time followed by the updates, from step `self.step` on.

        `on_step` is called after each; training ends where it gives True.
        """
        cfg, left = self.config, 1.0
        uniform = envs.random_policies(self.G, self.A)

        def act(obs: Tensor) -> Tensor:
            if cfg.critic_state:
                views.append(self.env.state().flatten(1))
            if step <= cfg.warmup:
                return uniform(obs, self.generator)
            noise = cfg.explore_noise + (cfg.explore_start - cfg.explore_noise) * left
            return noisy(self.policy(), noise)(obs, self.generator)

        def episodes() -> Iterator[envs.Step]:
            while True:
                yield from envs.play(self.env, act)

        played = episodes()
        for step in range(self.step + 1, (cfg.stop_after or cfg.steps) + 1):
            left = 1 - step / cfg.steps
            for optim, lr in ((self.actor_optim, cfg.actor_lr), (self.critic_optim, cfg.critic_lr)):
                optim.param_groups[0]["lr"] = lr * max(0.05, min(1.0, 2 * left))
            views: list[Tensor] = []
            seen = next(played)
            rows = [x.transpose(0, 1).flatten(1) for x in (seen.obs, seen.act, seen.next_obs)]
            if cfg.critic_state:
                views.append(self.env.state().flatten(1))
            self.buffer.add(rows[0], rows[1], seen.reward.T, rows[2], *views)
            self.step = step
            if step > cfg.warmup:
                for _ in range(cfg.updates):
                    self.update()
            if on_step(step):
                return
