"""What the files of a run folder and the results in them are called. Imports nothing."""

CONFIG = "config.yaml"
METRICS = "metrics.jsonl"
TENSORBOARD = "tb"
SCORES = "scores.json"
ROLLOUT = "rollout.npz"

SCORE = "eval/return"  # the key in metrics.jsonl of an evaluation on the way

STANDARD, _SHIFTED = "standard", "shift_"


def setting_name(shift: str | None) -> str:
    """Key of a result in scores.json: "standard", or "shift_speed" for the shift "speed"."""
    return STANDARD if shift is None else _SHIFTED + shift


def setting_title(name: str) -> str:
    """The same for people: "standard", "speed shift"."""
    if not name.startswith(_SHIFTED):
        return name.replace("_", " ")
    return name.removeprefix(_SHIFTED).replace("_", " ") + " shift"


def settings_in_order(names) -> list[str]:
    """Keys of results as tables list them: standard first, then by name."""
    return sorted(set(names), key=lambda name: (name != STANDARD, name))
