"""Classes with the names and signatures of other projects, so that changing an import is enough.

`diffusion_ql.Diffusion`, `dpm_solver.{NoiseScheduleVP, model_wrapper, DPM_Solver}` and
`omar.ReplayBuffer`. Written from the papers and from the interfaces; no code of theirs is here.
"""

from importlib import import_module

_MODULES = ("diffusion_ql", "dpm_solver", "omar")


def __getattr__(name: str):
    if name in _MODULES:
        return import_module(f"dom2_fast.compat.{name}")
    raise AttributeError(f"module 'dom2_fast.compat' has no attribute {name!r}")
