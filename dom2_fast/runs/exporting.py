"""A run's policies as one file that acts without this package."""

from __future__ import annotations

from dom2_fast.errors import Dom2Error
from dom2_fast.policies import onnx_export
from dom2_fast.runs.acting import policies_of

FORMATS = ("policy", "pretrained", "onnx")


def export_run(
    run, path, checkpoint: str = "last", format: str = "policy", opset: int | None = None
):
    """Writes the policies that a run's last or best checkpoint acts with to one file.

    Args:
        run: a run folder, or a checkpoint file.
        path: the file.
        checkpoint: "last" or "best", see `policies_of`.
        format: "policy", what `load_policy` and csrc/cpu/policy.h read; "pretrained", the same in
            float16, half the size: how the package's own are shipped;
            "onnx", see `onnx_export`.
        opset: of ONNX's operators; None: `onnx_export.OPSET`.
    Returns: these policies, and of "onnx" how the graph was `Checked`, else None.
    Raises: Dom2Error: an unknown format, an opset for another than "onnx"; see `policies_of`,
        `FrozenPolicy.export` and `export_onnx`.
    """
    if format not in FORMATS:
        raise Dom2Error(f"format is one of {', '.join(FORMATS)}, got {format!r}")
    if opset is not None and format != "onnx":
        raise Dom2Error(f"an opset is of format onnx, not of {format}: leave it out")
    acting = policies_of(run, checkpoint)
    notes = {"algo": acting.algo, "updates": str(acting.step)}
    if acting.env is not None:
        notes["env"] = acting.env
    if format == "onnx":
        opset = onnx_export.OPSET if opset is None else opset
        return acting.policies, onnx_export.export_onnx(acting.policies, path, opset, notes)
    frozen = acting.policies.policy.frozen()  # without the critic of `candidates`
    frozen.export(path, half=format == "pretrained", notes=notes)
    return acting.policies, None
