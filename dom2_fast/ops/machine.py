"""What machine this is and which versions run here: for reports and `dom2-fast doctor`."""

from __future__ import annotations

import datetime
import os
import platform
from pathlib import Path


def describe() -> dict[str, str]:
    """Date, processor, system and versions, as short texts."""
    import torch

    from dom2_fast import __version__
    from dom2_fast.ops import backend

    kernels = backend.isa_active() if backend.available() else f"none ({backend.reason()})"
    return {
        "date": datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %z"),
        "processor": f"{processor()}, {usable_cores()} core{'s' * (usable_cores() != 1)} usable",
        "system": f"{platform.system()} {platform.release()}, {platform.machine()}",
        "versions": f"dom2-fast {__version__}, Python {platform.python_version()}, "
        f"PyTorch {torch.__version__}",
        "compiled kernels": kernels or "none",
    }


def processor() -> str:
    """The processor's name, as the system calls it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine()


def usable_cores() -> int:
    """Cores that this process may run on, which a container or taskset can make fewer than all."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
