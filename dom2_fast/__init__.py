"""DOM2 (arXiv 2307.01472) with fused kernels: diffusion policies for offline multi-agent RL.

Public names are imported on first use, so `import dom2_fast` costs little more than `import torch`.
"""

from importlib import import_module

from dom2_fast._version import __version__

_PUBLIC = {
    "DeterministicPolicy": "policies.actors",
    "DiffusionPolicy": "policies.diffusion",
    "GaussianPolicy": "policies.actors",
    "FlowSchedule": "policies.schedules",
    "VPSchedule": "policies.schedules",
    "TrajectoryDataset": "data.trajectories",
    "TrajectorySampler": "data.sampler",
    "DOM2": "algos.dom2",
    "DOM2Config": "algos.dom2",
    "BC": "algos.bc",
    "BCConfig": "algos.bc",
    "evaluate": "runs.evaluation",
    "accelerate": "accelerate",
    "export_onnx": "policies.onnx_export",
    "load_policy": "policies.frozen",
    "pretrained": "policies.pretrained",
}
# Modules, by the name that is public, and where they are.
_MODULES = {
    "algos": "algos",
    "backend": "ops.backend",
    "behaviours": "behaviours",
    "compat": "compat",
    "data": "data",
    "envs": "envs",
    "errors": "errors",
    "lowering": "lowering",
    "networks": "networks",
    "ops": "ops",
    "policies": "policies",
    "policy": "policies.diffusion",
    "program": "ops.program",
    "reference": "ops.reference",
    "reweight": "data.reweight",
    "schedules": "policies.schedules",
    "solvers": "policies.solvers",
    "torchrl": "policies.torchrl",
}

__all__ = [*_PUBLIC, *_MODULES, "__version__"]


def __getattr__(name: str):
    if name in _PUBLIC:
        return getattr(import_module(f"dom2_fast.{_PUBLIC[name]}"), name)
    if name in _MODULES:
        return import_module(f"dom2_fast.{_MODULES[name]}")
    raise AttributeError(f"module 'dom2_fast' has no attribute {name!r}")


def __dir__():
    return sorted(__all__)
