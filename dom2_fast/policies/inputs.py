"""What a policy accepts as obs, x_T and noise: the checks that every kind of policy shares."""

from __future__ import annotations

import torch

from dom2_fast.errors import Dom2Error


def grouped(
    obs: torch.Tensor, obs_dim: int, groups: int | None, dtype, device, owner: str
) -> tuple[torch.Tensor, torch.Size | tuple]:
    """obs as [G, B, O] and the shape of its results without the last dimension.

    groups: of a stack; None takes [B, O] or [O]. owner: whose dtype and device obs must have.
    """
    if not isinstance(obs, torch.Tensor):
        raise Dom2Error(f"obs must be a tensor, got {type(obs).__name__}")
    if obs.dtype != dtype or obs.device != device:
        raise Dom2Error(
            f"obs is {obs.dtype} on {obs.device}, {owner} {dtype} on {device}; "
            f"convert one of them with .to()"
        )
    shape = obs.shape
    if shape and shape[-1] == obs_dim:
        if groups is None:
            if len(shape) == 2:
                return obs.unsqueeze(0), shape[:1]
            if len(shape) == 1:
                return obs.view(1, 1, -1), ()
        elif len(shape) == 3 and shape[0] == groups:
            return obs, shape[:2]
    lead = "B" if groups is None else f"{groups}, B"
    raise Dom2Error(f"obs has shape {list(shape)}; [{lead}, {obs_dim}] is needed")


def like(value, shape, rows: torch.Tensor, name: str) -> torch.Tensor:
    """`value` where it is a tensor of this shape and of the dtype and device of `rows`."""
    if not isinstance(value, torch.Tensor) or value.shape != torch.Size(shape):
        given = list(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__
        raise Dom2Error(f"{name} has shape {given}; {list(shape)} is needed")
    if value.dtype != rows.dtype or value.device != rows.device:
        raise Dom2Error(
            f"{name} is {value.dtype} on {value.device}; obs is {rows.dtype} on {rows.device}"
        )
    return value


def starts(x_T, noise, rows: torch.Tensor, shape, act_dim: int, steps: int):
    """x_T as [G, B, A] and noise as [steps, G, B, A], each None where it wasn't given."""
    out, inner = (*shape, act_dim), (*rows.shape[:2], act_dim)
    if x_T is not None:
        x_T = like(x_T, out, rows, "x_T").reshape(inner)
    if noise is not None:
        noise = like(noise, (steps, *out), rows, "noise").reshape(steps, *inner)
    return x_T, noise


def flat(value, act_shape: tuple[int, ...] | None, name: str):
    """Actions [..., T, A] as [..., T A], where a policy is of chunks of shape (T, A)."""
    if act_shape is None or not isinstance(value, torch.Tensor):
        return value
    if value.shape[-len(act_shape) :] != act_shape:
        want = ", ".join(map(str, act_shape))
        raise Dom2Error(f"{name} has shape {list(value.shape)}; [..., {want}] is needed")
    return value.flatten(-len(act_shape))


def shaped(act: torch.Tensor, act_shape: tuple[int, ...] | None) -> torch.Tensor:
    """The reverse of `flat`."""
    return act if act_shape is None else act.unflatten(-1, act_shape)
