"""Settings that all diffusion-policy algorithms share, and the checks of settings.

Every field says what it is and where its default comes from; "tuned here" points to docs/tuning.md.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from dom2_fast.data import reweight
from dom2_fast.errors import Dom2Error

TUNED = "tuned here, docs/tuning.md"


def setting(default: Any, doc: str, source: str) -> Any:
    """A config field with what it means and where its default comes from."""
    return field(default=default, metadata={"help": doc, "source": source})


@dataclass
class PolicyConfig:
    """Settings of the diffusion policy and of how its data is drawn: BC's, and part of DOM2's."""

    seed: int = setting(0, "of networks, batches and noise", "")
    agents: int = setting(
        0,
        "train the first so many agents; 0: all that have the first one's observation width",
        "OMAR's files hold the pretrained prey last, which is not trained",
    )
    weights: str = setting(
        "preset",
        "trajectory weights: preset, uniform, thresholds:200,250, quantiles:0.5,0.75, softmax:0.1, "
        "rank:0.7, top_k:0.1",
        "DOM2's reweighting; preset = R_th of OM2P utils/buffer.py",
    )
    batch_size: int = setting(256, "transitions per agent and update", TUNED)
    network: str = setting("mlp", "noise network: mlp or unet", "Diffusion-QL's MLP; SfBC's U-Net")
    hidden: int = setting(128, "width of the mlp noise network", TUNED + "; Diffusion-QL: 256")
    depth: int = setting(3, "hidden layers of the mlp noise network", "Diffusion-QL")
    time_scale: float = setting(
        100.0, "factor on t before the mlp's sinusoidal features", TUNED + "; Diffusion-QL: 1"
    )
    solver: str = setting("dpm1", "ddpm, ddim, dpm1 or dpm++2m", "DOM2: first-order DPM-Solver")
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
    backend: str = setting("auto", "auto, native or reference", "")
    device: str = setting("cpu", "cpu, cuda or cuda:<number>", "")
    precision: str = setting("fp32", "of matrix products: fp32 or bf16", "docs/precision.md")

    def __post_init__(self) -> None:
        at_least(self, 0, "agents", "grad_clip")
        at_least(self, 1, "batch_size", "hidden", "depth", "steps")
        above(self, 0, "lr")
        within(self, 0, 1, "tau")
        one_of(self, "network", ("mlp", "unet"))
        one_of(self, "backend", ("auto", "native", "reference"))
        one_of(self, "precision", ("fp32", "bf16"))
        check_device(self.device)
        if self.weights != "preset":
            reweight.parse(self.weights)


def check_device(name: str) -> None:
    if re.fullmatch(r"cpu|cuda(:\d+)?", str(name)) is None:
        raise Dom2Error(f"device must be cpu, cuda or cuda:<number>, not {name!r}")


def at_least(config, low, *names: str) -> None:
    for name in names:
        if not getattr(config, name) >= low:
            raise Dom2Error(f"{name} must be >= {low}, not {getattr(config, name)!r}")


def above(config, low, *names: str) -> None:
    for name in names:
        if not getattr(config, name) > low:
            raise Dom2Error(f"{name} must be > {low}, not {getattr(config, name)!r}")


def within(config, low, high, *names: str) -> None:
    for name in names:
        if not low <= getattr(config, name) <= high:
            raise Dom2Error(f"{name} must be in [{low}, {high}], not {getattr(config, name)!r}")


def one_of(config, name: str, accepted: tuple[str, ...]) -> None:
    if getattr(config, name) not in accepted:
        raise Dom2Error(
            f"{name} must be one of {', '.join(accepted)}, not {getattr(config, name)!r}"
        )
