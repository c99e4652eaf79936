"""`dom2-fast export`: write a run's policies to one file that acts without this package."""

from __future__ import annotations

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
        help="policy, a file for load_policy and C++; or pretrained, the same in float16, for "
        "load_policy alone",
    )
    add("--checkpoint", type=str, default="last", help="last, or best, see `dom2-fast evaluate`")


def run(run: str, out: str, format: str = "policy", checkpoint: str = "last") -> int:
    from dom2_fast.policies.frozen import load_policy
    from dom2_fast.runs.exporting import export_run

    policies = export_run(run, out, checkpoint, format)
    policy = load_policy(out)
    size = Path(out).stat().st_size / 1e3
    print(
        f"written to {out} ({size:,.0f} kB): {policy.groups} agents, observations of "
        f"{policy.obs_dim}, actions of {policy.act_dim}"
    )
    if policies.candidates > 1:
        print(
            f"the run acts with one of {policies.candidates} samples, chosen by its critic; the "
            f"file has the policy alone, without the critic"
        )
    return 0
