"""`import dom2_fast.envs.pettingzoo` makes our environments known to PettingZoo's own registry.

    import pettingzoo, dom2_fast.envs.pettingzoo
    env = pettingzoo.make("parallel", "dom2_fast/simple_spread-v0")

PettingZoo has such a registry from 1.27 on; `envs.parallel_env` needs none.
"""

from functools import partial

import pettingzoo

from dom2_fast.envs import registry
from dom2_fast.envs.pettingzoo_face import face
from dom2_fast.errors import Dom2Error

NAMESPACE = "dom2_fast"


def _made(name: str, **options):
    return face(registry.spec(name), **options)


def register_all() -> list[str]:
    """Register every environment that isn't yet; gives the ids of all of ours there.

    Call it again after `envs.register`. An id is `dom2_fast/NAME-v0`, or `dom2_fast/NAME` where
    the name itself has a version; `/` in a name becomes `.`.

    Raises:
        Dom2Error: this PettingZoo has no registry.
    """
    if not hasattr(pettingzoo, "register"):
        raise Dom2Error(
            f"PettingZoo {pettingzoo.__version__} has no registry of environments (1.27 has): use "
            "dom2_fast.envs.parallel_env(name), or pip install 'pettingzoo>=1.27'"
        )
    ids = []
    for name in registry.names():
        flat = name.replace("/", ".")
        versioned = flat.rpartition("-v")[2].isdigit()
        ids.append(f"{NAMESPACE}/{flat}" + ("" if versioned else "-v0"))
        if ids[-1] not in pettingzoo.parallel_registry:
            pettingzoo.register("parallel", ids[-1], entry_point=partial(_made, name))
    return ids


register_all()
