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
        found = {name: Around(fn)[name] for name in Around(fn).cells}
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
    net, kind, around, inner = v.get("model"), v.get("model_type"), None, None
    if isinstance(net, types.FunctionType):
        around = Around(net)
        net, inner = around.network(), around.only(torch.Tensor)
    if not isinstance(net, nn.Module) or kind not in _PREDICT:
        raise Dom2Error(
            f"can't accelerate {what}: its model function doesn't show its network; make it by "
            f"model_wrapper(net, noise_schedule, model_type, ...) with net a torch.nn.Module, or a "
            f"function that takes one, and at most one tensor, from around it, and model_type one "
            f"of {list(_PREDICT)}"
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
    count = len(tensors) + (condition is not None) + (inner is not None)
    if count > 1:
        raise Dom2Error(
            f"can't accelerate {what}: its network takes {count} conditions; one tensor [B, width] "
            f"is accepted: join them"
        )
    name = next(iter(tensors), None)
    held = None if name is None else Held(kwargs, name)
    call = Keyword(name, {k: x for k, x in kwargs.items() if k != name})
    if condition is not None:
        held, call = Held({"condition": condition}, "condition"), Positional(dict(kwargs))
    if around is not None:
        held = held if inner is None else Held(around, inner)
        call = Through(around, inner, call)
    return Called(net, call), held, _PREDICT[kind]


class Around:
    """The variables that a function takes from around it, by name; those of its module, too."""

    def __init__(self, fn: types.FunctionType):
        self.fn = fn

    @property
    def cells(self) -> dict:
        return dict(zip(self.fn.__code__.co_freevars, self.fn.__closure__ or (), strict=False))

    def __getitem__(self, name: str):
        if name not in self.cells:
            return self.fn.__globals__[name]
        try:
            return self.cells[name].cell_contents
        except ValueError:  # not yet given a value
            return None

    def only(self, kind: type) -> str | None:
        """The name of the one variable of that type; None for none. Several are a Dom2Error."""
        names = [*self.cells, *(n for n in self.fn.__code__.co_names if n in self.fn.__globals__)]
        found = [n for n in names if isinstance(self[n], kind)]
        if len(found) > 1:
            raise Dom2Error(
                f"the model function takes {found} from around it, each a {kind.__name__}; one is "
                f"accepted: join them, or give model_wrapper the network itself"
            )
        return found[0] if found else None

    def network(self) -> nn.Module | None:
        name = self.only(nn.Module)
        return None if name is None else self[name]

    def rebound(self, values: dict):
        """The function with these values in place of its variables."""
        fn = self.fn
        cells = tuple(
            types.CellType(values[n]) if n in values else c for n, c in self.cells.items()
        )
        new = types.FunctionType(
            fn.__code__, {**fn.__globals__, **values}, fn.__name__, fn.__defaults__, cells
        )
        new.__kwdefaults__ = fn.__kwdefaults__
        return new


class Through:
    """Calls a function of (x, t) around a network, with the network and obs that are given."""

    def __init__(self, around: Around, name: str | None, call):
        self.around, self.name, self.call = around, name, call

    def __call__(self, net, x, t, obs):
        values = {self.around.only(nn.Module): net}
        if self.name is not None:
            values[self.name] = obs
        return self.call(self.around.rebound(values), x, t, obs)


class Held:
    """The condition, read where it is kept, as callers may put another there between two calls."""

    def __init__(self, mapping, name: str):
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
