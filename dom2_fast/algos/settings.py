"""Groups of settings that algorithms put together, and the checks of settings.

An algorithm's config dataclass inherits the groups it uses and adds its own, so it has no option
that it doesn't read. Every field says what it is and where its default comes from; "tuned here"
points to the document that has the grid. Python puts the fields of the last base first.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

from dom2_fast.config import setting
from dom2_fast.data import reweight
from dom2_fast.errors import Dom2Error

TUNED = "tuned here, docs/tuning.md"
GRID = "tuned here, docs/algorithms.md"


class Settings:
    """Root of all groups: each `__post_init__` checks its own fields, then asks the next group."""

    def __post_init__(self) -> None:
        pass


WEIGHTS = (
    "trajectory weights: preset, tuned, uniform, thresholds:200,250, quantiles:0.5,0.75, "
    "softmax:0.1, rank:0.7, top_k:0.1"
)


@dataclass
class DataSettings(Settings):
    """Who learns, and from which transitions. Every algorithm has them."""

    seed: int = setting(0, "of networks, batches and noise", "")
    agents: int = setting(
        0,
        "train the first so many agents; 0: all that have the first one's observation width",
        "OMAR's files hold the pretrained prey last, which is not trained",
    )
    weights: str = setting(
        "preset",
        WEIGHTS,
        "DOM2's reweighting; preset = R_th of OM2P utils/buffer.py",
    )
    batch_size: int = setting(256, "transitions per agent and update", TUNED)

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 0, "agents")
        at_least(self, 1, "batch_size")
        if self.weights not in reweight.BY_DATA:
            reweight.parse(self.weights)


@dataclass
class MachineSettings(Settings):
    """What computes. Every algorithm has them."""

    backend: str = setting("auto", "auto, native or reference", "")
    device: str = setting("cpu", "cpu, cuda or cuda:<number>", "")
    precision: str = setting("fp32", "of matrix products: fp32 or bf16", "docs/precision.md")

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of(self, "backend", ("auto", "native", "reference"))
        one_of(self, "precision", ("fp32", "bf16"))
        check_device(self.device)


@dataclass
class DiffusionSettings(Settings):
    """A diffusion policy, how it is sampled and how it learns."""

    network: str = setting("mlp", "noise network: mlp or unet", "Diffusion-QL's MLP; SfBC's U-Net")
    hidden: int = setting(128, "width of the mlp noise network", TUNED + "; Diffusion-QL: 256")
    depth: int = setting(3, "hidden layers of the mlp noise network", "Diffusion-QL")
    time_scale: float = setting(
        100.0, "factor on t before the mlp's sinusoidal features", TUNED + "; Diffusion-QL: 1"
    )
    schedule: str = setting(
        "vp-continuous",
        "noise schedule: vp-continuous (the VP SDE) or flow (flow matching: the network learns a "
        "velocity, and dpm1 is Euler's method)",
        "SfBC, DPM-Solver",
    )
    solver: str = setting(
        "dpm1", "ddpm, ddim, dpm1, dpm++2m or, in a flow, euler", "DOM2: first-order DPM-Solver"
    )
    steps: int = setting(5, "denoising steps", "not published; " + TUNED)
    clip_x0: bool = setting(
        False, "clip every step's guess of the action to [-1, 1], not only the last", TUNED
    )
    lr: float = setting(2e-3, "Adam's learning rate of the policy", TUNED)
    grad_clip: float = setting(
        1.0, "largest gradient norm of one agent's network; 0: no clipping", TUNED
    )
    tau: float = setting(
        0.02, "Polyak rate of the target networks, DOM2's rho", TUNED + "; OMAR: 0.01"
    )
    act_with_target: bool = setting(
        True, "act with the Polyak-averaged policy instead of the last one", TUNED
    )

    schedules: ClassVar = ("vp-continuous", "flow")

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of(self, "schedule", self.schedules)
        at_least(self, 0, "grad_clip")
        at_least(self, 1, "hidden", "depth", "steps")
        above(self, 0, "lr")
        within(self, 0, 1, "tau")
        one_of(self, "network", ("mlp", "unet"))


@dataclass
class CriticSettings(Settings):
    """Twin critics of one agent, see `critics.TwinCritics`."""

    gamma: float = setting(0.95, "discount", "OMAR's code")
    normalise_reward: bool = setting(
        True,
        "shift and scale each agent's rewards to mean 0, sd 1, as the weights draw them",
        TUNED,
    )
    reward_scale: float = setting(1.0, "rewards are multiplied by this, after that", TUNED)
    mask_done: bool = setting(
        False, "don't bootstrap where the data says done", "OMAR's dones are time limits"
    )
    critic_hidden: int = setting(64, "width of the critics", "OMAR, particle tasks")
    critic_depth: int = setting(2, "hidden layers of the critics", "OMAR")
    critic_lr: float = setting(3e-3, "Adam's learning rate of the critics", TUNED)

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 1, "critic_hidden", "critic_depth")
        above(self, 0, "critic_lr")
        within(self, 0, 1, "gamma")


@dataclass
class ActorSettings(Settings):
    """An actor of one pass, a deterministic one where nothing else is said, and how it learns."""

    hidden: int = setting(64, "width of the actor", "OMAR, particle tasks; TD3+BC: 256")
    depth: int = setting(2, "hidden layers of the actor", "TD3+BC, OMAR")
    lr: float = setting(3e-4, "Adam's learning rate of the actor", "TD3+BC")
    grad_clip: float = setting(
        0.0, "largest gradient norm of one agent's network; 0: no clipping", "TD3+BC clips none"
    )
    standardise_obs: bool = setting(
        True,
        "the networks see (obs - mean) / (sd + 0.001) of the data; part of the policy and its file",
        "TD3+BC",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 0, "grad_clip")
        at_least(self, 1, "hidden", "depth")
        above(self, 0, "lr")

    @property
    def obs_norm(self) -> str:
        """By which moments observations are standardised: of the data, of each batch, or none."""
        return "data" if self.standardise_obs else "none"


@dataclass
class GaussianSettings(ActorSettings):
    """A Gaussian actor: a tanh mean and one log deviation per action component, in [-5, 2]."""

    lr: float = setting(1e-3, "Adam's learning rate of the actor", GRID + "; IQL, ICQ: 3e-4")
    grad_clip: float = setting(
        0.0, "largest gradient norm of one agent's network; 0: no clipping", "IQL, ICQ clip none"
    )
    act_by: str = setting("mean", "act by the mean, or by a sample: mean or sample", "IQL, ICQ")

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of(self, "act_by", ("mean", "sample"))


@dataclass
class DiffusionConfig(MachineSettings, DiffusionSettings, DataSettings):
    """All settings of an algorithm that only fits a diffusion policy: diffusion BC's."""


@dataclass
class ActorConfig(MachineSettings, ActorSettings, DataSettings):
    """All settings of an algorithm that only fits a deterministic actor: deterministic BC's."""


@dataclass
class GaussianConfig(MachineSettings, GaussianSettings, DataSettings):
    """All settings of an algorithm that only fits a Gaussian actor: Gaussian BC's."""


def check_device(name: str) -> None:
    """Dom2Error unless the name is cpu, cuda or cuda:<number>."""
    if re.fullmatch(r"cpu|cuda(:\d+)?", str(name)) is None:
        raise Dom2Error(f"device must be cpu, cuda or cuda:<number>, not {name!r}")


def at_least(config, low, *names: str) -> None:
    """Dom2Error if one of the named settings is below `low`."""
    for name in names:
        if not getattr(config, name) >= low:
            raise Dom2Error(f"{name} must be >= {low}, not {getattr(config, name)!r}")


def above(config, low, *names: str) -> None:
    """Dom2Error if one of the named settings isn't above `low`."""
    for name in names:
        if not getattr(config, name) > low:
            raise Dom2Error(f"{name} must be > {low}, not {getattr(config, name)!r}")


def within(config, low, high, *names: str) -> None:
    """Dom2Error if one of the named settings is outside of [low, high]."""
    for name in names:
        if not low <= getattr(config, name) <= high:
            raise Dom2Error(f"{name} must be in [{low}, {high}], not {getattr(config, name)!r}")


def one_of(config, name: str, accepted: tuple[str, ...]) -> None:
    """Dom2Error unless the named setting is one of `accepted`."""
    if getattr(config, name) not in accepted:
        raise Dom2Error(
            f"{name} must be one of {', '.join(accepted)}, not {getattr(config, name)!r}"
        )
