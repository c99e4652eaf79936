"""Algorithms, one readable file each. `algorithm(name)` finds one; nothing is imported before."""

from importlib import import_module

from dom2_fast.errors import Dom2Error

# name -> (module, class); the class has `.config_class`
ALGORITHMS = {
    "dom2": ("dom2", "DOM2"),
    "bc": ("bc", "BC"),
    "bc_det": ("bc_det", "DeterministicBC"),
    "td3_bc": ("td3_bc", "TD3BC"),
    "itd3": ("itd3", "ITD3"),
    "cql": ("cql", "CQL"),
    "omar": ("omar", "OMAR"),
    "diffusion_ql": ("diffusion_ql", "DiffusionQL"),
    "sfbc": ("sfbc", "SfBC"),
}


def algorithm(name: str) -> type:
    """The class of an algorithm by name; Dom2Error lists the names."""
    if name not in ALGORITHMS:
        raise Dom2Error(f"unknown algorithm {name!r}; accepted: {', '.join(ALGORITHMS)}")
    module, cls = ALGORITHMS[name]
    return getattr(import_module(f"dom2_fast.algos.{module}"), cls)


def of_config(config) -> type:
    """The class that a config dataclass belongs to."""
    for name in ALGORITHMS:
        if type(config) is algorithm(name).config_class:
            return algorithm(name)
    accepted = ", ".join(algorithm(name).config_class.__name__ for name in ALGORITHMS)
    raise Dom2Error(f"no algorithm has settings of type {type(config).__name__}; give a {accepted}")
