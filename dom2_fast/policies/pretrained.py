"""The policies that are shipped with the package, by name.

    policy = dom2_fast.pretrained("simple_spread/expert")
    dom2_fast.evaluate(policy, env="simple_spread")

They are files of `dom2-fast export --format pretrained`, in `dom2_fast/assets/policies`; the README
in `assets` has the command that made each, and its scores.
"""

from __future__ import annotations

from pathlib import Path

from dom2_fast.errors import Dom2Error
from dom2_fast.policies.frozen import FrozenPolicy, load_policy

FOLDER = Path(__file__).resolve().parents[1] / "assets" / "policies"
SUFFIX = ".safetensors"


def names() -> list[str]:
    """Names of all shipped policies, such as "simple_spread/expert": the task and the kind of data
    that they were learnt from.
    """
    found = FOLDER.glob(f"*/*{SUFFIX}")
    return sorted(path.relative_to(FOLDER).with_suffix("").as_posix() for path in found)


def pretrained(name: str, *, precision: str = "fp32") -> FrozenPolicy:
    """The shipped policy of that name: one for each agent, obs [G, E, O] -> actions [G, E, A].

    Args:
        name: one of `names()`.
        precision: of matrix products, "fp32" or "bf16" (docs/precision.md).
    Raises:
        Dom2Error: an unknown name (the message lists those there are); unknown precision.
    """
    if name not in names():
        listed = ", ".join(names()) or "none, so the package was installed without its files"
        raise Dom2Error(
            f"there is no pretrained policy {name!r}; there are: {listed}. Others are trained by "
            "`dom2-fast train`, or loaded from a file by load_policy"
        )
    return load_policy(FOLDER / f"{name}{SUFFIX}", precision=precision)
