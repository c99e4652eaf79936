"""`dom2-fast export`: write a run's policies to one file that acts without this package."""

from __future__ import annotations

from argparse import SUPPRESS
from pathlib import Path

ABOUT = "Write a run's policies to one file that acts without this package."


def add_options(parser, argv: list[str]) -> None:
    add = parser.add_argument
    add("run", type=str, help="folder of a trained run")
    add("--out", type=str, required=True, help="file to write, such as policy.safetensors")
    add(
        "--format",
        type=str,
        default="policy",
        help="policy, a file for load_policy and C++; pretrained, the same in float16, "
        "half the size; or onnx, a graph of all denoising steps with the noise as an input",
    )
    add("--opset", type=int, default=SUPPRESS, help="of --format onnx (default: 18)")
    add("--checkpoint", type=str, default="last", help="last, or best, see `dom2-fast evaluate`")


def run(
    run: str,
    out: str,
    format: str = "policy",
    checkpoint: str = "last",
    opset: int | None = None,
) -> int:
    from dom2_fast.runs.exporting import export_run

    policies, checked = export_run(run, out, checkpoint, format, opset)
    policy = policies.policy
    size = Path(out).stat().st_size / 1e3
    print(
        f"written to {out} ({size:,.0f} kB): {policies.num_agents} agents, observations of "
        f"{policy.obs_dim}, actions of {policy.act_dim}"
    )
    if checked is not None:
        print(
            f"checked: ONNX Runtime {checked.version} gives its actions with a relative error of "
            f"{checked.error:.1e} (PyTorch in float32: {checked.own:.1e})"
        )
    elif format == "onnx":
        print("not checked: ONNX Runtime isn't installed (pip install 'dom2-fast[onnx]')")
    if policies.candidates > 1:
        print(
            f"the run acts with one of {policies.candidates} samples, chosen by its critic; the "
            f"file has the policy alone, without the critic"
        )
    return 0
