"""What the files of a run folder and the results in them are called. Imports nothing."""

CONFIG = "config.yaml"
METRICS = "metrics.jsonl"
TENSORBOARD = "tb"
SCORES = "scores.json"
LOCK = ".scores.lock"  # held while scores.json is read and written again
ROLLOUT = "rollout.npz"
LOGGERS = "loggers.json"

SCORE = "eval/return"  # the key in metrics.jsonl of an evaluation on the way

STANDARD, _SHIFTED, _BEST = "standard", "shift_", "best_"
_CANDIDATES = "_candidates_"


def setting_name(shift: str | None, checkpoint: str = "last", candidates: int | None = None) -> str:
    """Key of a result in scores.json: "standard", or "shift_speed" for the shift "speed".

    Those of the best checkpoint are "best_standard" and "best_shift_speed";
    where the number of candidates isn't the run's own, "standard_candidates_1".
    """
    name = STANDARD if shift is None else _SHIFTED + shift
    if candidates is not None:
        name += f"{_CANDIDATES}{candidates}"
    return _BEST + name if checkpoint == "best" else name


def setting_title(name: str) -> str:
    """The same for people: "standard", "speed shift", "speed shift, best checkpoint"."""
    own, _, candidates = name.partition(_CANDIDATES)
    if candidates:
        return setting_title(own) + f", candidates {candidates}"
    if name.startswith(_BEST):
        return setting_title(name.removeprefix(_BEST)) + ", best checkpoint"
    if not name.startswith(_SHIFTED):
        return name.replace("_", " ")
    return name.removeprefix(_SHIFTED).replace("_", " ") + " shift"


def settings_in_order(names) -> list[str]:
    """Keys of results as tables list them: standard first, by name; the best checkpoint's last."""
    return sorted(
        set(names),
        key=lambda name: (name.startswith(_BEST), not name.endswith(STANDARD), name),
    )
