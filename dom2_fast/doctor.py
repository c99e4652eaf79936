"""`dom2-fast doctor`: what runs where on this machine, and why. Changes nothing."""

from __future__ import annotations

import os
import platform
import sys
import time

from dom2_fast.report import machine

# Of the largest value: native and reference add float32 numbers in another order, five steps deep.
# Healthy kernels show some 1e-7; a wrong instruction or layout shows far more than this.
ALLOWED = 1e-5


def examine() -> dict:
    """Everything `doctor` tells, as plain values (the output of `--json`)."""
    import numpy
    import torch

    from dom2_fast import __version__, backend

    facts = {
        "versions": {
            "dom2_fast": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": numpy.__version__,
        },
        "package": os.path.dirname(os.path.dirname(os.path.abspath(machine.__file__))),
        "python": sys.executable,
        "machine": {
            "processor": machine.processor(),
            "usable_cores": machine.usable_cores(),
            "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        },
        "kernels": {"loaded": backend.available(), "reason": backend.reason()},
        "isa": {
            "compiled": backend.isas_built(),
            "runnable": backend.isas_runnable(),
            "active": _active(backend),
            "DOM2_FAST_ISA": os.environ.get("DOM2_FAST_ISA"),
        },
        "threads": {"torch": torch.get_num_threads(), "interop": torch.get_num_interop_threads()},
        "cuda": {
            "executors": False,
            "torch_build": torch.version.cuda,
            "gpus": [
                torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())
            ],
        },
        "self_check": self_check(),
    }
    facts["healthy"] = facts["kernels"]["loaded"] and facts["self_check"]["ok"]
    return facts


def self_check() -> dict:
    """Sample a small policy of two agents natively and by the reference, from the same noise.

    Returns:
        `ok`, the `largest_difference` (relative to the largest value), what is `allowed`,
        `seconds`, and `error` where it failed.
    """
    import torch

    from dom2_fast import backend

    result = {"ok": False, "largest_difference": None, "allowed": ALLOWED, "error": ""}
    if not backend.available():
        return result | {"seconds": 0.0, "error": "there are no compiled kernels to check"}
    start = time.perf_counter()
    try:
        difference = _difference(torch)
        result["largest_difference"] = difference
        result["ok"] = difference <= ALLOWED
    except Exception as error:  # a broken installation fails in any way it likes; say how
        result["error"] = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return result | {"seconds": round(time.perf_counter() - start, 3)}


def _difference(torch) -> float:
    from dom2_fast import networks
    from dom2_fast.policy import DiffusionPolicy

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = networks.stack([networks.MLPNoiseNet(18, 2, hidden=64) for _ in range(2)])
        obs, x_T = torch.randn(2, 9, 18), torch.randn(2, 9, 2)
    # No clipping of the result: an untrained policy's actions are far outside [-1, 1], and clipped
    # ones would agree whatever the kernels do.
    policies = [
        DiffusionPolicy(net, solver="dpm1", steps=5, backend=name, act_low=-1e9, act_high=1e9)
        for name in ("native", "reference")
    ]
    with torch.no_grad():
        native, reference = (policy.sample(obs, x_T=x_T) for policy in policies)
    return float((native - reference).abs().max() / reference.abs().max())


def _active(backend) -> str | None:
    """DOM2_FAST_ISA may name something that can't run here; doctor must be able to say so."""
    try:
        return backend.isa_active()
    except ValueError as error:
        return f"none ({error})"


def render(facts: dict) -> str:
    """The facts as lines for people."""
    isa, check, cuda, kernels = (facts[key] for key in ("isa", "self_check", "cuda", "kernels"))
    versions = facts["versions"]
    lines = [
        ("versions", f"dom2-fast {versions['dom2_fast']}, Python {versions['python']}, "
                     f"PyTorch {versions['torch']}, NumPy {versions['numpy']}"),
        ("package", f"{facts['package']} (run by {facts['python']})"),
        ("machine", f"{facts['machine']['processor']}, {facts['machine']['usable_cores']} usable "
                    f"cores, {facts['machine']['system']}"),
        ("kernels", "compiled and loaded" if kernels["loaded"]
                    else f"NOT loaded, the slow reference runs instead: {kernels['reason']}"),
    ]  # fmt: skip
    if kernels["loaded"]:
        forced = isa["DOM2_FAST_ISA"]
        chosen = f"DOM2_FAST_ISA={forced}" if forced else "the best one, DOM2_FAST_ISA is not set"
        lines += [
            ("ISAs", f"compiled: {', '.join(isa['compiled'])}; this machine runs: "
                     f"{', '.join(isa['runnable'])}"),
            ("active ISA", f"{isa['active']} ({chosen})"),
        ]  # fmt: skip
    lines.append(("threads", f"{facts['threads']['torch']} (torch.set_num_threads changes it)"))
    gpus = f"{len(cuda['gpus'])} GPU(s): {', '.join(cuda['gpus'])}" if cuda["gpus"] else "no GPU"
    build = f"built for CUDA {cuda['torch_build']}" if cuda["torch_build"] else "a CPU build"
    lines.append(("CUDA", f"no CUDA executors in this build; PyTorch is {build} and sees {gpus}"))
    if check["largest_difference"] is None:
        verdict = (
            f"NOT done: {check['error']}" if not kernels["loaded"] else f"FAILED: {check['error']}"
        )
    else:
        verdict = (
            f"{'native equals reference' if check['ok'] else 'FAILED, native differs'}: largest "
            f"difference {check['largest_difference']:.0e} of the largest value, allowed "
            f"{check['allowed']:.0e} "
            f"({check['seconds']:.2f} s)"
        )
    lines.append(("self-check", verdict))
    width = max(len(name) for name, _ in lines)
    text = "\n".join(f"{name:<{width}}  {value}" for name, value in lines)
    return f"{text}\n\n{_advice(facts)}"


def _advice(facts: dict) -> str:
    if facts["healthy"]:
        return "All is well."
    if not facts["kernels"]["loaded"]:
        return (
            "What to do: install again with a C++ compiler present, `pip install .` in the "
            "checkout (see README, Installation). Until then everything works, slowly."
        )
    return (
        "What to do: try another instruction set (DOM2_FAST_ISA=base dom2-fast doctor), and report "
        "this with the output of `dom2-fast doctor --json`."
    )
