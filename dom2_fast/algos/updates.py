"""Gradient steps and targets for parameters `[G, ...]`, where no group may influence another."""

from __future__ import annotations

import copy

import torch
from torch import nn

from dom2_fast import networks, ops
from dom2_fast.errors import Dom2Error

_MOMENTS = 3  # of Adam: both, and the count of steps


def adam(module: nn.Module, lr: float) -> torch.optim.Adam:
    """Adam in one fused call per step."""
    return torch.optim.Adam(module.parameters(), lr=lr, fused=True)


def load_optimiser(optimiser: torch.optim.Optimizer, state: dict, name: str) -> None:
    """optimiser.load_state_dict, which itself takes moments of any shape and fails at their use.

    Raises:
        Dom2Error: the state is of other parameters; `name` is the optimiser's.
    """
    own = optimiser.param_groups
    kinds = [{key: type(value) for key, value in group.items()} for group in own]
    optimiser.load_state_dict(state)
    now = [{key: type(value) for key, value in group.items()} for group in optimiser.param_groups]
    fits = now == kinds and all(
        isinstance(value, torch.Tensor) and value.shape in (p.shape, ())
        for p, values in optimiser.state.items()
        for value in values.values()
    )
    if not fits or {len(values) for values in optimiser.state.values()} - {0, _MOMENTS}:
        raise Dom2Error(f"the checkpoint's {name} is not of these networks: train anew")


def means(values: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The mean of every value, a detached scalar: what an update reports."""
    return dict(zip(values, ops.means(list(values.values())).unbind(), strict=True))


def frozen_copy(module: nn.Module) -> nn.Module:
    """A target network: the same parameters, no gradients, evaluation mode."""
    return copy.deepcopy(module).requires_grad_(False).eval()


def frozen_view(stacked: networks.StackedModule, groups: int) -> networks.StackedModule:
    """The first groups of a stack, sharing its memory, without gradients of their own."""
    view = networks.StackedModule(copy.deepcopy(stacked.template), groups)
    for ours, theirs in zip(view.modules(), stacked.modules(), strict=True):
        for name, p in theirs._parameters.items():
            if p is not None:
                ours._parameters[name] = nn.Parameter(p.detach()[:groups], requires_grad=False)
        for name, b in theirs._buffers.items():
            if b is not None:
                ours._buffers[name] = b[:groups]
    return view


def descend(loss: torch.Tensor, optimiser: torch.optim.Optimizer, grad_clip: float) -> None:
    """One step down the sum of all groups' losses `[G]`; groups share no parameter."""
    parameters = backward(loss, optimiser)
    if grad_clip > 0.0:
        clip_each_group(parameters, grad_clip)
    step(optimiser)


def backward(loss: torch.Tensor, optimiser: torch.optim.Optimizer) -> list[torch.Tensor]:
    """Gradients of the sum of the losses `[G]` in the optimiser's parameters, which it gives."""
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    for p in parameters:  # what zero_grad does, which takes several times as long
        p.grad = None
    loss.backward(torch.ones_like(loss))
    return parameters


class _Lists:
    """Adam's tensors as its kernel takes them, gathered once for as long as they stay the same.

    The counts of steps, one of each parameter, become views of one tensor: they rise in one call.
    """

    def __init__(self, optimiser: torch.optim.Adam, params: list, states: list[dict]):
        self.params, self.state, self.states = params, optimiser.state, states
        self.count = torch.stack([s["step"] for s in states])
        for s, count in zip(states, self.count.unbind(), strict=True):
            s["step"] = count
        self.steps, self.averages, self.squares = (
            [s[name] for s in states] for name in ("step", "exp_avg", "exp_avg_sq")
        )

    def hold(self, optimiser: torch.optim.Adam, params: list) -> bool:
        """Are these still the optimiser's tensors?"""
        return (
            optimiser.state is self.state
            and len(params) == len(self.params)
            and all(
                p is q and s["step"] is n and s["exp_avg"] is m and s["exp_avg_sq"] is v
                for p, q, s, n, m, v in zip(
                    params, self.params, self.states, self.steps, self.averages, self.squares,
                    strict=True,
                )
            )
        )  # fmt: skip


@torch.no_grad()
def step(optimiser: torch.optim.Adam) -> None:
    """optimiser.step() of one that `adam` made: the kernel alone, once the state is there.

    What torch does around it takes several times as long with a few small tensors.
    """
    (group,) = optimiser.param_groups
    params = group["params"]
    grads = [p.grad for p in params]
    lists = optimiser.__dict__.get("_lists")
    if lists is None or not lists.hold(optimiser, params):
        states = [optimiser.state.get(p) for p in params]
        if not all(states) or any(g is None for g in grads):
            optimiser.step()
            return
        optimiser._lists = lists = _Lists(optimiser, list(params), states)
    if any(g is None for g in grads):
        optimiser.step()
        return
    lists.count.add_(1)
    torch._fused_adam_(
        params,
        grads,
        lists.averages,
        lists.squares,
        [],
        lists.steps,
        lr=group["lr"],
        beta1=group["betas"][0],
        beta2=group["betas"][1],
        weight_decay=group["weight_decay"],
        eps=group["eps"],
        amsgrad=group["amsgrad"],
        maximize=group["maximize"],
    )


def clip_each_group(parameters: list[torch.Tensor], most: float) -> None:
    """Scales every group's own gradient to norm <= most; parameters are [G, ...].

    Not across groups: one agent's large gradient must not slow the others.
    """
    ops.clip_groups([p.grad for p in parameters if p.grad is not None], most)


@torch.no_grad()
def polyak(target: nn.Module, source: nn.Module, tau: float) -> None:
    """target <- tau source + (1 - tau) target."""
    torch._foreach_lerp_(networks.parameters_of(target), networks.parameters_of(source), tau)
