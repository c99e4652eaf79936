"""Stepping many copies: in one call per thread, which needs no lock of Python's between copies.

The extension calls MuJoCo's own `mj_step` by its address in the library that the `mujoco` package
has loaded. Without the extension, or where the library isn't found, Python calls it copy by copy:
the numbers are the same. (An error that MuJoCo can't go on from ends the process in the first way
and is a Python exception in the second; the tasks here have none.)
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dom2_fast.ops import backend


def stepper(mujoco: Any, times: int, contacts: bool) -> Callable[[Sequence, Sequence], None]:
    """step(models, data), which advances each copy by `times` physics steps.

    Args:
        mujoco: the module. contacts: also compute the contacts' forces, which mj_step leaves out.
    """
    addresses = _addresses(mujoco) if backend.available() else None
    if addresses is None:
        return lambda models, data: _by_python(mujoco, models, data, times, contacts)
    step, after = addresses
    call = backend.extension().step_copies

    def by_extension(models: Sequence, data: Sequence) -> None:
        where = [m._address for m in models], [d._address for d in data]
        call(step, after if contacts else 0, *where, times)

    return by_extension


def _by_python(mujoco: Any, models: Sequence, data: Sequence, times: int, contacts: bool) -> None:
    for model, copy in zip(models, data, strict=True):
        mujoco.mj_step(model, copy, times)
        if contacts:
            mujoco.mj_rnePostConstraint(model, copy)


def _addresses(mujoco: Any) -> tuple[int, int] | None:
    """Of mj_step and mj_rnePostConstraint in the library that the package has loaded."""
    if not all(hasattr(kind, "_address") for kind in (mujoco.MjModel, mujoco.MjData)):
        return None
    for path in sorted(Path(mujoco.__file__).parent.glob("libmujoco*.so*")):
        try:
            library = ctypes.CDLL(str(path), mode=_NOLOAD)  # never a second copy of it
        except OSError:
            continue
        found = (library.mj_step, library.mj_rnePostConstraint)
        return tuple(ctypes.cast(f, ctypes.c_void_p).value for f in found)
    return None


_NOLOAD = 4  # RTLD_NOLOAD of Linux; elsewhere the library has another name and isn't found
