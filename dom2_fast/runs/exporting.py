"""A run's policies as one file that acts without this package."""

from __future__ import annotations

from dom2_fast.errors import Dom2Error
from dom2_fast.runs.acting import policies_of

FORMATS = ("policy", "pretrained")


def export_run(run, path, checkpoint: str = "last", format: str = "policy"):
    """Writes the policies that a run's last or best checkpoint acts with to one file.

    Args:
        run: a run folder, or a checkpoint file.
        path: the file.
        checkpoint: "last" or "best", see `policies_of`.
        format: "policy", what `load_policy` and csrc/cpu/policy.h read; "pretrained", the same in
            float16, half the size, for `load_policy` alone: how the package's own are shipped.
    Returns: these policies.
    Raises: Dom2Error: an unknown format; see `policies_of` and `FrozenPolicy.export`.
    """
    if format not in FORMATS:
        raise Dom2Error(f"format is one of {', '.join(FORMATS)}, got {format!r}")
    acting = policies_of(run, checkpoint)
    notes = {"algo": acting.algo, "updates": str(acting.step)}
    if acting.env is not None:
        notes["env"] = acting.env
    frozen = acting.policies.policy.frozen()  # without the critic of `candidates`
    frozen.export(path, half=format == "pretrained", notes=notes)
    return acting.policies
