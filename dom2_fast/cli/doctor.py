"""`dom2-fast doctor`: what runs where on this machine, and why. Changes nothing."""

from __future__ import annotations

import copy
import os
import platform
import sys
import time
from json import dumps
from pathlib import Path

ABOUT = "Tell what runs where on this machine, and check that it is right."

# Of the largest value: native and reference add float32 numbers in another order, five steps deep.
# Healthy kernels show some 1e-7; a wrong instruction or layout shows far more than this.
ALLOWED = 1e-5


def add_options(parser, argv: list[str]) -> None:
    parser.add_argument("--json", action="store_true", help="print everything as JSON")


def run(json: bool) -> int:
    facts = examine()
    print(dumps(facts, indent=2) if json else render(facts))
    return 0 if facts["healthy"] else 1


def examine() -> dict:
    """Everything `doctor` tells, as plain values (the output of `--json`)."""
    import numpy
    import torch

    from dom2_fast import __version__, variables
    from dom2_fast.cli import gpus
    from dom2_fast.ops import backend, machine

    cuda = gpus.examine()
    for index, gpu in enumerate(cuda["gpus"]):
        can = gpu["code"] and not cuda["why_not"]
        gpu["self_check"] = self_check(f"cuda:{index}") if can else None
    facts = {
        "versions": {
            "dom2_fast": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": numpy.__version__,
        },
        "package": str(Path(__file__).resolve().parents[1]),
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
        "cuda": cuda,
        "variables": variables.examine(),
        "self_check": self_check(),
    }
    checks = [facts["self_check"], *(gpu["self_check"] for gpu in cuda["gpus"])]
    facts["healthy"] = facts["kernels"]["loaded"] and all(c["ok"] for c in checks if c)
    return facts


def self_check(device: str = "cpu") -> dict:
    """Sample a small policy of two agents natively and by the reference, from the same noise.

    Args:
        device: where the native kernels run; the reference runs on the CPU.

    Returns:
        `ok`, the `largest_difference` (relative to the largest value), what is `allowed`,
        `seconds`, and `error` where it failed.
    """
    import torch

    from dom2_fast.ops import backend

    result = {"ok": False, "largest_difference": None, "allowed": ALLOWED, "error": ""}
    if not backend.available():
        return result | {"seconds": 0.0, "error": "there are no compiled kernels to check"}
    start = time.perf_counter()
    try:
        difference = _difference(torch, device)
        result["largest_difference"] = difference
        result["ok"] = difference <= ALLOWED
    except Exception as error:  # a broken installation fails in any way it likes; say how
        result["error"] = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return result | {"seconds": round(time.perf_counter() - start, 3)}


def _difference(torch, device: str) -> float:
    from dom2_fast import networks
    from dom2_fast.policies.diffusion import DiffusionPolicy

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = networks.stack([networks.MLPNoiseNet(18, 2, hidden=64) for _ in range(2)])
        obs, x_T = torch.randn(2, 9, 18), torch.randn(2, 9, 2)

    def sample(backend, where):
        # No clipping of the result: an untrained policy's actions are far outside [-1, 1], and
        # clipped ones would agree whatever the kernels do.
        policy = DiffusionPolicy(
            copy.deepcopy(net).to(where),
            solver="dpm1",
            steps=5,
            backend=backend,
            act_low=-1e9,
            act_high=1e9,
        )
        return policy.sample(obs.to(where), x_T=x_T.to(where)).cpu()

    with torch.no_grad():
        native, reference = sample("native", device), sample("reference", "cpu")
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
        (
            "versions",
            f"dom2-fast {versions['dom2_fast']}, Python {versions['python']}, "
            f"PyTorch {versions['torch']}, NumPy {versions['numpy']}",
        ),
        ("package", f"{facts['package']} (run by {facts['python']})"),
        (
            "machine",
            f"{facts['machine']['processor']}, {facts['machine']['usable_cores']} usable "
            f"cores, {facts['machine']['system']}",
        ),
        (
            "kernels",
            "compiled and loaded"
            if kernels["loaded"]
            else f"NOT loaded, the slow reference runs instead: {kernels['reason']}",
        ),
    ]
    if kernels["loaded"]:
        forced = isa["DOM2_FAST_ISA"]
        chosen = f"DOM2_FAST_ISA={forced}" if forced else "the best one, DOM2_FAST_ISA is not set"
        lines += [
            (
                "ISAs",
                f"compiled: {', '.join(isa['compiled'])}; this machine runs: "
                f"{', '.join(isa['runnable'])}",
            ),
            ("active ISA", f"{isa['active']} ({chosen})"),
        ]
    lines.append(("threads", f"{facts['threads']['torch']} (torch.set_num_threads changes it)"))
    lines += _cuda_lines(cuda)
    lines.append(("self-check", _verdict(check, kernels["loaded"])))
    lines += [(variable["name"], _told(variable)) for variable in facts["variables"]]
    width = max(len(name) for name, _ in lines)
    text = "\n".join(f"{name:<{width}}  {value}" for name, value in lines)
    return f"{text}\n\n{_advice(facts)}"


def _verdict(check: dict, loaded: bool = True) -> str:
    if check["largest_difference"] is None:
        return f"{'FAILED' if loaded else 'NOT done'}: {check['error']}"
    return (
        f"{'native equals reference' if check['ok'] else 'FAILED, native differs'}: largest "
        f"difference {check['largest_difference']:.0e} of the largest value, allowed "
        f"{check['allowed']:.0e} ({check['seconds']:.2f} s)"
    )


def _told(variable: dict) -> str:
    value = "not set" if variable["value"] is None else repr(variable["value"])
    if not variable["known"]:
        return f"{value}: NO SUCH VARIABLE, it does nothing (docs/variables.md lists them)"
    return f"{value} ({variable['read_by']}: {variable['does']})"


def _cuda_lines(cuda: dict) -> list[tuple[str, str]]:
    compiled, driver, build = cuda["compiled"], cuda["driver"], cuda["torch_build"]
    what = compiled and f"compiled by CUDA {compiled['version']} for {compiled['code']}"
    lines = [
        (
            "CUDA",
            f"executors: {what or 'none'}; PyTorch: "
            f"{'for CUDA ' + build if build else 'a CPU build'}; driver: "
            f"{'for CUDA up to ' + driver['cuda'] if driver['found'] else 'none'}; "
            f"{max(driver['gpus'], len(cuda['gpus'])) or 'no'} GPU(s)",
        ),
    ]
    for index, gpu in enumerate(cuda["gpus"]):
        text = f"{gpu['name']}, compute capability {gpu['capability']}, {gpu['memory_gib']} GiB; "
        if gpu["why_not"]:
            text += f"can't be used: {gpu['why_not']}"
        elif gpu["code"].startswith("sm"):
            text += f"runs {gpu['code']}"
        else:
            text += f"runs {gpu['code']}, PTX: the driver compiles it when first used"
        if gpu["self_check"]:
            text += f"; {_verdict(gpu['self_check'])}"
        lines.append((f"GPU {index}", text))
    lines += [("why no CUDA", reason) for reason in cuda["why_not"]]
    return lines


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
