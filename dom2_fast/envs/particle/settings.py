"""The particle tasks' settings: the shifts there are, and the check of what was given."""

import torch

from dom2_fast.errors import Dom2Error, whole_number

SHIFTS = (None, "speed", "stopped", "landmarks")
REMOVED = (0, 2, 4)  # by the shift "landmarks": every second one


def check(spec, num_envs, dtype, shift, v_min, agent, removed) -> None:
    """Dom2Error for options that `make` can't take for a particle task."""
    whole_number("num_envs", num_envs, 1)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise Dom2Error(f"dtype must be a floating-point torch dtype, got {dtype!r}")
    if shift not in SHIFTS:
        raise Dom2Error(f"unknown shift {shift!r}; choose one of: {', '.join(map(repr, SHIFTS))}")
    if v_min is not None and shift != "speed":
        raise Dom2Error(f"v_min belongs to shift='speed', but shift is {shift!r}")
    if v_min is not None and not 0 < v_min <= 1:
        raise Dom2Error(f"v_min must be above 0 and at most 1, got {v_min!r}")
    if agent is not None:
        if shift != "stopped":
            raise Dom2Error(f"agent belongs to shift='stopped', but shift is {shift!r}")
        whole_number("agent", agent, 0)
        last = spec.agents - 1 - int(spec.prey)
        if agent > last:
            raise Dom2Error(f"agent must be from 0 to {last} for {spec.name}, got {agent}")
    if removed is not None and shift != "landmarks":
        raise Dom2Error(f"removed_landmarks belongs to shift='landmarks', but shift is {shift!r}")
    if shift == "landmarks":
        if spec.name != "spread_6_landmarks":
            raise Dom2Error(
                f"shift 'landmarks' exists for spread_6_landmarks only, not for {spec.name}"
            )
        count = spec.landmarks
        if removed is None:
            return
        fits = isinstance(removed, list | tuple) and 0 < len(set(map(str, removed))) < count
        if not fits or any(type(i) is not int or i not in range(count) for i in removed):
            raise Dom2Error(
                f"removed_landmarks is a list of indices from 0 to {count - 1}, at least one and "
                f"not all of them, such as [0, 2, 4], got {removed!r}"
            )
