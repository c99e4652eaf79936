"""DOM2's settings, and what those that are left out mean on a kind of data (docs/tuning.md)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from dom2_fast.algos.settings import (
    TUNED,
    WEIGHTS,
    CriticSettings,
    DiffusionConfig,
    at_least,
    one_of,
    setting,
)
from dom2_fast.data import reweight

# What settings that are left out mean, by `q_action`, which goes by the kind of data itself.
RECIPES = {
    "chain": {
        "eta": 1.0,
        "clip_x0": False,
        "critic_hidden": 64,
        "critic_lr": 3e-3,
        "candidates": 1,
        "target_candidates": 1,
        "actor_every": 1,
        "q_warmup": 400,
    },
    "best": {
        "eta": 5.0,
        "clip_x0": True,
        "critic_hidden": 128,
        "critic_lr": 3e-3,
        "candidates": 16,
        "target_candidates": 4,
        "actor_every": 2,
        "q_warmup": 0,
    },
}
RECIPES["one_step"] = RECIPES["chain"]
# What goes before the recipe on a kind of data where its rule is followed. On expert data little
# can be gained, and imitating other actions than the data's loses more than the critics are worth.
RULES = {"expert": {"q_action": "chain", "eta": 0.1, "candidates": 16}}
OTHER_RULE = {"q_action": "best"}
# Uniform actions lie nowhere outside random data, so there the CQL term holds nothing in check, and
# only flattens what the critics know; medium-replay data is near it.
ZETA = {"random": 0.0, "medium-replay": 0.05}
OTHER_ZETA = 0.2


def _by(name: str) -> str:
    """How the help says what a setting is that is left out."""
    best, chain = RECIPES["best"][name], RECIPES["chain"][name]
    rules = "".join(
        f"{rule[name]} on {kind} data, " for kind, rule in RULES.items() if name in rule
    )
    return f"; none: {rules}{best} with q_action best, else {chain}"


@dataclass
class _LossSettings(DiffusionConfig):
    """What the losses weigh; before the critics' settings, where config files have had it."""

    eta: float | None = setting(
        None,
        "weight of the Q term in the policy's loss" + _by("eta"),
        "not published; " + TUNED,
    )
    q_warmup: int | None = setting(
        None,
        "updates at the start in which the policy learns without the Q term" + _by("q_warmup"),
        TUNED,
    )
    zeta: float | None = setting(
        None,
        "weight of the CQL term (OMAR's cql_alpha); none: "
        f"{', '.join(f'{zeta} on {kind}' for kind, zeta in ZETA.items())} data, else {OTHER_ZETA}",
        TUNED + "; OMAR: 0.5 to 5 by data set",
    )
    cql_actions: int = setting(10, "uniform actions per observation in the CQL term", "OMAR")
    cql_policy_actions: int = setting(
        0, "further actions in the CQL term, drawn from the policy", "CQL; OMAR uses none in MPE"
    )


@dataclass
class DOM2Config(CriticSettings, _LossSettings):
    """Every number of the method."""

    weights: str = setting(
        "tuned",
        WEIGHTS,
        "DOM2's reweighting; tuned: "
        + ", ".join(f"{rule} on {kind} data" for kind, rule in reweight.TUNED.items())
        + ", else the preset, R_th of OM2P utils/buffer.py",
    )
    clip_x0: bool | None = setting(
        None,
        "clip every step's guess of the action to [-1, 1], not only the last" + _by("clip_x0"),
        TUNED,
    )
    critic_hidden: int | None = setting(
        None, "width of the critics" + _by("critic_hidden"), TUNED + "; OMAR: 64"
    )
    critic_lr: float | None = setting(
        None, "Adam's learning rate of the critics" + _by("critic_lr"), TUNED
    )
    candidates: int | None = setting(
        None,
        "when acting, sample so many actions and take the one with the best Q1" + _by("candidates"),
        TUNED + "; DOM2: 1; Diffusion-QL: 50",
    )
    target_candidates: int | None = setting(
        None,
        "samples of a' in y, of which the target of Q1 takes the best" + _by("target_candidates"),
        TUNED + "; DOM2: 1",
    )
    actor_every: int | None = setting(
        None, "critic updates per policy update" + _by("actor_every"), TUNED + "; DOM2: 1"
    )
    q_action: str | None = setting(
        None,
        "how the policy takes what the critic knows: chain, it climbs Q1 through all denoising "
        "steps; one_step, it climbs Q1 at what the net makes of the noised action; best, it also "
        "denoises the best of sampled actions; none: chain on expert data, else best",
        TUNED + "; DOM2: chain; one_step: EDP, Kang et al. 2023",
    )
    search_actions: int = setting(
        4, "samples per observation that `best` takes the best of, beside the data's action", TUNED
    )

    def __post_init__(self) -> None:
        if self.q_action is not None:
            one_of(self, "q_action", tuple(RECIPES))
        # What is left out has passed its checks: those of a recipe's value.
        left_out = {k: v for k, v in RECIPES["chain"].items() if getattr(self, k) is None}
        if left_out:
            replace(self, **left_out)
            return
        super().__post_init__()
        at_least(self, 0, "cql_policy_actions", "q_warmup")
        at_least(self, 0, *(name for name in ("eta", "zeta") if getattr(self, name) is not None))
        at_least(self, 1, "cql_actions", "actor_every", "candidates")
        at_least(self, 1, "target_candidates", "search_actions")


def settled(config: DOM2Config, kind: str | None) -> DOM2Config:
    """The settings with nothing left out, for data of that kind ("random", "medium", ...)."""
    rule = RULES.get(kind, OTHER_RULE)
    if config.q_action not in (None, rule["q_action"]):
        rule = {"q_action": config.q_action}
    zeta = ZETA.get(kind, OTHER_ZETA)
    wanted = {"zeta": zeta} | RECIPES[rule["q_action"]] | rule
    return replace(config, **{k: v for k, v in wanted.items() if getattr(config, k) is None})
