"""Which GPUs there are, and whether the CUDA executors can run on them; if not, why not.

For `dom2-fast doctor`: asks PyTorch and the driver, and runs nothing on a GPU.
"""

from __future__ import annotations

import ctypes
import os
import re

from dom2_fast.ops import backend

NO_DEVICE = 100  # CUDA_ERROR_NO_DEVICE


def examine() -> dict:
    """What was compiled, what the driver, PyTorch and the GPUs are, and every obstacle in between.

    Returns:
        `compiled` (backend.cuda), `torch_build`, `driver`, `gpus`, and `why_not`: the reasons that
        keep CUDA from being used, none of them where it can be.
    """
    import torch

    facts = {
        "compiled": backend.cuda(),
        "torch_build": torch.version.cuda,
        "driver": driver(),
        "visible": os.environ.get("CUDA_VISIBLE_DEVICES"),
    }
    count = torch.cuda.device_count()
    facts["gpus"] = [_gpu(torch.cuda.get_device_properties(i), facts) for i in range(count)]
    facts["why_not"] = _why_not(facts)
    return facts


def driver() -> dict:
    """Whether NVIDIA's driver is there, the newest CUDA it can serve, how many GPUs it has.

    PyTorch tells these apart only in the words of its warnings.
    """
    found = {"found": False, "cuda": None, "gpus": 0, "error": ""}
    try:
        library = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        return found | {"error": str(error)}
    version, gpus = ctypes.c_int(), ctypes.c_int()
    library.cuDriverGetVersion(ctypes.byref(version))
    found |= {"found": True, "cuda": f"{version.value // 1000}.{version.value % 1000 // 10}"}
    code = library.cuInit(0)
    if code == 0:
        library.cuDeviceGetCount(ctypes.byref(gpus))
    elif code != NO_DEVICE:
        found["error"] = f"cuInit returned error {code}"
    return found | {"gpus": gpus.value}


def code_for(major: int, minor: int, compiled: str) -> str | None:
    """Which part of `compiled` ("sm_80 compute_90") a card of this compute capability runs: the
    nearest binary of its generation, else PTX, which the driver compiles; None: it can run none."""
    best: dict[str, tuple[int, int, str]] = {}
    for name in compiled.split():
        kind, number, special = re.fullmatch(r"(sm|compute)_(\d+)([af]?)", name).groups()
        target = divmod(int(number), 10)
        fits = target[0] == major if kind == "sm" else target[0] <= major
        if special:  # "a" and "f" code is for one kind of card
            fits = target == (major, minor)
        if fits and target <= (major, minor):
            best[kind] = max(best.get(kind, (0, 0, "")), (*target, name))
    return best[min(best, key="sm compute".index)][2] if best else None


def _gpu(properties, facts: dict) -> dict:
    major, minor = properties.major, properties.minor
    gpu = {
        "name": properties.name,
        "capability": f"{major}.{minor}",
        "memory_gib": round(properties.total_memory / 2**30, 1),
        "code": None,
        "why_not": "",
    }
    if facts["compiled"] is None:
        return gpu | {"why_not": "there are no CUDA executors in this build"}
    compiled = facts["compiled"]["code"]
    code = code_for(major, minor, compiled)
    if code is None:
        rebuild = f"build again with DOM2_FAST_CUDA_ARCHS={major}{minor}"
        oldest = min(divmod(int(n), 10) for n in re.findall(r"_(\d+)", compiled))
        if (major, minor) < (7, 0):
            rebuild = "cards before 7.0 can't run them at all"
        older = "it is too old for" if (major, minor) < oldest else "there is nothing for it in"
        return gpu | {
            "why_not": f"compute capability {major}.{minor}: {older} what was compiled "
            f"({compiled}); {rebuild}"
        }
    known, needed = facts["driver"]["cuda"], facts["compiled"]["version"]
    if code.startswith("compute") and known and _number(known) < _number(needed):
        return gpu | {
            "why_not": f"compute capability {major}.{minor} can use only the PTX in this build, "
            f"and the driver (CUDA {known}) is too old for that of CUDA {needed}; update the "
            f"driver, or build again with DOM2_FAST_CUDA_ARCHS={major}{minor}"
        }
    return gpu | {"code": code}


def _why_not(facts: dict) -> list[str]:
    reasons = []
    compiled, driver = facts["compiled"], facts["driver"]
    if compiled is None:
        reasons.append(f"no CUDA executors were compiled: {backend.cuda_why_not()}")
    if facts["torch_build"] is None:
        reasons.append("this PyTorch was built without CUDA: install a CUDA build of it")
    if not driver["found"]:
        reasons.append(f"no NVIDIA driver is installed ({driver['error']})")
    elif driver["error"]:
        reasons.append(f"the NVIDIA driver doesn't work: {driver['error']}; does nvidia-smi?")
    elif driver["gpus"] == 0:
        reasons.append(f"the NVIDIA driver sees no GPU{_visible(facts)}")
    elif compiled and _number(driver["cuda"])[0] < _number(compiled["version"])[0]:
        reasons.append(
            f"the NVIDIA driver serves CUDA {driver['cuda']}, and the executors were compiled by "
            f"CUDA {compiled['version']}: update the driver, or build again with an older nvcc"
        )
    elif facts["torch_build"] and not facts["gpus"]:
        reasons.append(f"PyTorch can't use the driver's {driver['gpus']} GPU(s){_visible(facts)}")
    if compiled and facts["gpus"] and not any(gpu["code"] for gpu in facts["gpus"]):
        reasons.append("no GPU here can run what was compiled")
    return reasons


def _visible(facts: dict) -> str:
    shown = facts["visible"]
    return "" if shown is None else f" (CUDA_VISIBLE_DEVICES is {shown!r})"


def _number(version: str) -> tuple[int, int]:
    major, minor = version.split(".")[:2]
    return int(major), int(minor)
