"""Frames of a MuJoCo task without a window: EGL where there is one, else OSMesa."""

from __future__ import annotations

import functools
import importlib
import os
import subprocess
import sys

import numpy as np

from dom2_fast.envs.mujoco import models
from dom2_fast.envs.mujoco.scenarios import Scenario
from dom2_fast.errors import Dom2Error

SIZE = 480  # pixels
BACKENDS = ("egl", "osmesa")
_TRIAL = "from mujoco.{} import GLContext; GLContext(8, 8).make_current()"


class Camera:
    """Draws a task's states as the model's own camera sees them, which follows the torso.

    Raises:
        Dom2Error: neither EGL nor OSMesa works here.
    """

    def __init__(self, scenario: Scenario):
        self._mujoco = mujoco = models.need_mujoco(scenario.name)
        backend = importlib.import_module(f"mujoco.{working_backend()}")
        self.model = models.load(scenario, pictures=True)
        self.model.vis.global_.offwidth = self.model.vis.global_.offheight = SIZE
        self.data = mujoco.MjData(self.model)
        self._gl = backend.GLContext(SIZE, SIZE)
        self._gl.make_current()
        self._context = mujoco.MjrContext(self.model, mujoco.mjtFontScale.mjFONTSCALE_100)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        self._scene = mujoco.MjvScene(self.model, maxgeom=1000)
        self._view = mujoco.MjvCamera()
        self._view.type = mujoco.mjtCamera.mjCAMERA_FIXED
        self._view.fixedcamid = self.model.camera("track").id

    def frame(self, qpos: np.ndarray, qvel: np.ndarray) -> np.ndarray:
        """uint8 [480, 480, 3] of positions [nq] and velocities [nv]."""
        mujoco = self._mujoco
        self.data.qpos[:], self.data.qvel[:] = qpos, qvel
        mujoco.mj_forward(self.model, self.data)
        self._gl.make_current()
        mujoco.mjv_updateScene(
            self.model,
            self.data,
            mujoco.MjvOption(),
            None,
            self._view,
            mujoco.mjtCatBit.mjCAT_ALL,
            self._scene,
        )
        square = mujoco.MjrRect(0, 0, SIZE, SIZE)
        mujoco.mjr_render(square, self._scene, self._context)
        image = np.empty((SIZE, SIZE, 3), np.uint8)
        mujoco.mjr_readPixels(image, None, square, self._context)
        return image[::-1].copy()  # OpenGL begins at the bottom

    def close(self) -> None:
        """Free the GL context."""
        self._context.free()
        self._gl.free()


@functools.cache
def working_backend() -> str:
    """The first of `BACKENDS` that can draw here, or what MUJOCO_GL says, if that can.

    Each is tried in a process of its own: a driver may end it, and PyOpenGL takes one per process.

    Raises:
        Dom2Error: none can, with what each of them said.
    """
    asked = os.environ.get("MUJOCO_GL")
    said = {}
    for backend in BACKENDS if asked is None else (asked,):
        if backend not in BACKENDS:
            said[backend] = f"accepted are {', '.join(BACKENDS)}"
            continue
        trial = [sys.executable, "-c", _TRIAL.format(backend)]
        done = subprocess.run(trial, capture_output=True, text=True)
        if done.returncode == 0:
            return backend
        said[backend] = (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1]
    tried = "; ".join(f"{backend}: {why}" for backend, why in said.items())
    raise Dom2Error(
        f"no GL to draw frames with ({tried}). Install EGL (a graphics driver; on Debian libegl1 "
        "and libgl1-mesa-dri) or OSMesa (libosmesa6), and unset MUJOCO_GL or set it to the one "
        "that works. The report's side view needs none"
    )
