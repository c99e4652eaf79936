"""Models of the MuJoCo tasks, from gymnasium's files; says what is missing and how to get it."""

from __future__ import annotations

import os
from importlib import metadata
from pathlib import Path
from xml.etree import ElementTree

from dom2_fast.envs.mujoco.scenarios import Scenario
from dom2_fast.errors import Dom2Error

INSTALL = "pip install 'dom2-fast[mujoco]'"
LEAST, BELOW = (3, 2), (5, 0)  # what pyproject.toml's extra `mujoco` says


def need_mujoco(name: str):
    """The package mujoco.

    Raises:
        Dom2Error: it isn't there, can't be imported, or is of a version that isn't supported.
    """
    try:
        version = metadata.version("mujoco")
    except metadata.PackageNotFoundError:
        raise Dom2Error(f"{name} needs MuJoCo, which isn't installed: {INSTALL}") from None
    found = tuple(int(part) for part in version.split(".")[:2])
    if not LEAST <= found < BELOW:
        raise Dom2Error(
            f"{name} works with mujoco >= {'.'.join(map(str, LEAST))}, < "
            f"{'.'.join(map(str, BELOW))}, found {version}: {INSTALL}"
        )
    try:
        import mujoco
    except Exception as error:  # such as what PyOpenGL raises where there is no OSMesa
        raise Dom2Error(
            f"importing mujoco {version} failed: {type(error).__name__}: {error}. Where MUJOCO_GL "
            f"is set (it is {os.environ.get('MUJOCO_GL')!r}), unset it; else {INSTALL}"
        ) from error
    return mujoco


def path_of(scenario: Scenario) -> Path:
    """Gymnasium's model file of a task."""
    import gymnasium

    path = Path(gymnasium.__file__).parent / "envs" / "mujoco" / "assets" / scenario.xml
    if not path.is_file():
        raise Dom2Error(
            f"gymnasium {gymnasium.__version__} has no {scenario.xml}, which {scenario.name} is "
            f"made of: {INSTALL}"
        )
    return path


def load(scenario: Scenario, pictures: bool = False):
    """The task's `MjModel` as gymnasium has it, for physics.

    Args:
        pictures: keep textures, which only rendering needs; without them a model has 25 kB, so
            that each copy of an environment can have one.

    Raises:
        Dom2Error: no MuJoCo, or another version; no model file.
    """
    mujoco = need_mujoco(scenario.name)
    root = ElementTree.parse(path_of(scenario)).getroot()
    # HalfCheetah's is an old attribute, at which MuJoCo 4 warns into a file of the current folder.
    total = root.find("compiler").attrib.pop("settotalmass", None)
    if not pictures:
        for part in [*root.findall("asset"), *root.findall("visual")]:
            root.remove(part)
        for geom in root.iter("geom"):
            geom.attrib.pop("material", None)
    model = mujoco.MjModel.from_xml_string(ElementTree.tostring(root, encoding="unicode"))
    if total is not None:
        mujoco.mj_setTotalmass(model, float(total))
        mujoco.mj_setConst(model, mujoco.MjData(model))
    return model
