"""A MuJoCo task from the side, from joint positions alone: no GL. For the report's animation."""

from __future__ import annotations

import numpy as np

_TORSO = 1


def recording(model, data) -> dict[str, np.ndarray]:
    """The moment as `Env.recording` wants it: a stick figure of the torso, joints and limbs' ends.

    x is relative to the torso, so that a runner stays in the picture; y is the height above the
    floor, less the torso's height in the model. `links` [n, 2] says which points a line
    joins. Kinds: torso, joint, and limb, the end of one.
    """
    points, links, kinds = [data.xpos[_TORSO]], [], ["torso"]
    at = {_TORSO: 0}  # body -> its point
    for body in range(_TORSO + 1, model.nbody):
        joint = int(model.body_jntadr[body])
        links.append((at[int(model.body_parentid[body])], len(points)))
        at[body] = len(points)
        points.append(data.xpos[body] if joint < 0 else data.xanchor[joint])
        kinds.append("limb" if joint < 0 else "joint")
    for body in set(at) - set(model.body_parentid.tolist()):  # the last of a limb
        geom = int(model.body_geomadr[body])
        half = data.geom_xmat[geom].reshape(3, 3)[:, 2] * model.geom_size[geom, 1]
        ends = [data.geom_xpos[geom] + half, data.geom_xpos[geom] - half]
        links.append((at[body], len(points)))
        points.append(max(ends, key=lambda end: np.linalg.norm(end - points[at[body]])))
        kinds.append("limb")
    states = np.zeros((len(points), 4))
    states[:, :2] = np.stack(points)[:, [0, 2]]
    states[:, 0] -= data.xpos[_TORSO, 0]
    states[:, 1] -= model.body_pos[_TORSO, 2]
    sizes = {"torso": 0.08, "joint": 0.05, "limb": 0.02}
    return {
        "states": states,
        "sizes": np.array([sizes[kind] for kind in kinds]),
        "kinds": np.array(kinds),
        "links": np.array(links),
    }
