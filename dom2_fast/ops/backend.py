"""Which executors this installation has: loads the extension `dom2_fast._C`, or says why not.

Without it everything still runs, on the reference path; the first use warns once.
"""

from __future__ import annotations

import functools
import os
import warnings

from dom2_fast.errors import Dom2Error


@functools.cache
def _load():
    """(module, "") or (None, reason)."""
    import torch  # noqa: F401  the extension resolves its symbols against the loaded libtorch

    try:
        from dom2_fast import _C
    except ImportError as error:
        return None, str(error)
    wanted = os.environ.get("DOM2_FAST_ISA")
    if wanted is not None and wanted not in _C.isas_runnable():
        raise Dom2Error(
            f"DOM2_FAST_ISA is {wanted!r}, which can't run here: choose one of "
            f"{', '.join(_C.isas_runnable())}, or unset it"
        )
    return _C, ""


def extension():
    """The module `dom2_fast._C`; raises Dom2Error with the reason where it can't be loaded."""
    module, why = _load()
    if module is None:
        raise Dom2Error(f"the compiled extension is not available: {why}. {_ADVICE}")
    return module


_ADVICE = "Reinstall with a C++ compiler present (`pip install .`); `dom2-fast doctor` says more"


def available() -> bool:
    """True where the compiled kernels can be used."""
    return _load()[0] is not None


def reason() -> str:
    """Why the compiled kernels can't be used; empty where they can."""
    return _load()[1]


@functools.cache
def warn_if_missing() -> None:
    """Warns, once per process, that the reference path runs in place of the kernels."""
    if not available():
        warnings.warn(
            f"dom2_fast runs its slow reference path: the compiled extension is not available "
            f"({reason()}). {_ADVICE}.",
            RuntimeWarning,
            stacklevel=3,
        )


def cuda_built() -> bool:
    """True where the extension holds CUDA executors (whether or not there is a GPU)."""
    return available() and bool(extension().cuda)


def cuda() -> dict[str, str] | None:
    """What the CUDA executors were compiled by and for, as {"version": "13.0.88", "code": "sm_80
    sm_90 compute_90"}; None where there are none."""
    return dict(extension().cuda) if cuda_built() else None


def cuda_why_not() -> str:
    """Why this installation holds no CUDA executors; empty where it does."""
    return extension().cuda_why_not if available() else f"no compiled extension: {reason()}"


def isas_built() -> list[str]:
    """Instruction sets the extension was compiled for, best first."""
    return list(extension().isas_built()) if available() else []


def isas_runnable() -> list[str]:
    """Those of `isas_built` that this processor can run, best first."""
    return list(extension().isas_runnable()) if available() else []


def isa_active() -> str | None:
    """The instruction set in use: the best runnable one, or what DOM2_FAST_ISA names."""
    return extension().isa_active() if available() else None


def set_isa(name: str) -> None:
    """Chooses the instruction set from now on; raises Dom2Error for one that can't run here."""
    if name not in isas_runnable():
        raise Dom2Error(f"instruction set {name!r} can't run here; choose from {isas_runnable()}")
    extension().set_isa(name)
