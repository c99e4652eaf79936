"""What a `DPM_Solver` was made of: the network behind its function of (x, t), and its algorithm."""

from __future__ import annotations

import types

import torch
from torch import nn

from dom2_fast.accelerate.planned import Called
from dom2_fast.errors import Dom2Error

_PREDICT = {"noise": "eps", "x_start": "x0", "v": "v", "score": "score"}


def variables(fn, depth: int = 4) -> dict:
    """Names and values that a function closes over, through the functions among them."""
    if isinstance(fn, types.FunctionType):
        cells = zip(fn.__code__.co_freevars, fn.__closure__ or (), strict=False)
        found = {name: cell.cell_contents for name, cell in cells}
    else:
        found = dict(getattr(fn, "__dict__", {}))
    for value in list(found.values()) if depth else ():
        if callable(value) and not isinstance(value, (nn.Module, type)):
            found = {**variables(value, depth - 1), **found}
    return found


def network_of(model_fn, what: str):
    """(Called network, Held obs or None, predict) of what `model_wrapper` made.

    Raises Dom2Error for guidance, several conditions and functions that weren't made by it.
    """
    v = variables(model_fn)
    net, kind = v.get("model"), v.get("model_type")
    if not isinstance(net, nn.Module) or kind not in _PREDICT:
        raise Dom2Error(
            f"can't accelerate {what}: its model function doesn't show its network; make it by "
            f"model_wrapper(net, noise_schedule, model_type, ...) with net a torch.nn.Module and "
            f"model_type one of {list(_PREDICT)}"
        )
    guidance, scale = v.get("guidance_type", "uncond"), v.get("guidance_scale", 1.0)
    if guidance == "classifier":
        raise Dom2Error(
            f"can't accelerate {what}: guidance_type='classifier' takes a gradient in every step, "
            f"and a step program has none"
        )
    guided = guidance == "classifier-free"
    if guided and scale != 1.0 and v.get("unconditional_condition") is not None:
        raise Dom2Error(
            f"can't accelerate {what}: guidance_scale is {scale}; 1 is accepted, where the network "
            f"is called once in a step"
        )
    kwargs = v.get("model_kwargs") or {}
    tensors = {k: x for k, x in kwargs.items() if isinstance(x, torch.Tensor)}
    condition = v.get("condition") if guided else None
    if len(tensors) + (condition is not None) > 1:
        raise Dom2Error(
            f"can't accelerate {what}: its network takes {len(tensors) + (condition is not None)} "
            f"conditions; one tensor [B, width] is accepted: join them"
        )
    if condition is not None:
        held = Held({"condition": condition}, "condition")
        return Called(net, Positional(dict(kwargs))), held, _PREDICT[kind]
    name = next(iter(tensors), None)
    held = None if name is None else Held(kwargs, name)
    fixed = {k: x for k, x in kwargs.items() if k != name}
    return Called(net, Keyword(name, fixed)), held, _PREDICT[kind]


class Held:
    """The condition, read where it is kept, as callers may put another there between two calls."""

    def __init__(self, mapping: dict, name: str):
        self.mapping, self.name = mapping, name

    def read(self) -> torch.Tensor:
        return self.mapping[self.name]


class Positional:
    """net(x, t, obs, **fixed)."""

    def __init__(self, fixed: dict):
        self.fixed = fixed

    def __call__(self, net, x, t, obs):
        return net(x, t, obs, **self.fixed)


class Keyword:
    """net(x, t, name=obs, **fixed), or net(x, t, **fixed) without a name."""

    def __init__(self, name: str | None, fixed: dict):
        self.name, self.fixed = name, fixed

    def __call__(self, net, x, t, obs):
        named = {} if self.name is None else {self.name: obs}
        return net(x, t, **named, **self.fixed)


def kind_of(solver, what: str) -> str:
    """ "data" or "noise"; Dom2Error for corrections of the guesses, which aren't affine."""
    for name in ("correcting_x0_fn", "correcting_xt_fn", "thresholding"):
        if getattr(solver, name, None):
            raise Dom2Error(
                f"can't accelerate {what}: {name} is set; a step can clip a guess to fixed bounds, "
                f"no more"
            )
    algorithm = getattr(solver, "algorithm_type", None)
    if algorithm is None:
        return "data" if getattr(solver, "predict_x0", False) else "noise"
    if algorithm not in ("dpmsolver", "dpmsolver++"):
        raise Dom2Error(
            f"can't accelerate {what}: algorithm_type is {algorithm!r}; 'dpmsolver' and "
            f"'dpmsolver++' are accepted"
        )
    return "data" if algorithm == "dpmsolver++" else "noise"
