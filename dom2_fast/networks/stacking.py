"""`stack`: several modules of one architecture as one, with a leading dimension for each."""

from __future__ import annotations

import copy

import torch
from torch import nn

from dom2_fast.errors import Dom2Error


class StackedModule(nn.Module):
    """G modules of one architecture as one: every parameter and buffer is [G, ...].

    `template` is the module itself, holding the stacked tensors; don't call its own forward.
    forward(*inputs) takes inputs with a leading dimension G and gives [G, ...] (t too: [G, B]).
    """

    def __init__(self, template: nn.Module, groups: int):
        super().__init__()
        self.template = template
        self.groups = groups

    @property
    def obs_dim(self):
        return self.template.obs_dim

    @property
    def act_dim(self):
        return self.template.act_dim

    def params(self) -> dict[str, torch.Tensor]:
        """Parameters and buffers by the name they have in one module: each [G, ...]."""
        return dict(named_tensors(self.template))

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        for k, value in enumerate(inputs):
            if value.dim() < 1 or value.size(0) != self.groups:
                raise Dom2Error(
                    f"input {k} has shape {tuple(value.shape)}; a stack of {self.groups} modules "
                    f"takes a leading dimension of {self.groups}"
                )
        params = self.params()
        # A loop and not vmap, so that every group draws its own dropout masks.
        found = []
        for g in range(self.groups):
            own = {n: p[g] for n, p in params.items()}
            given = tuple(v[g] for v in inputs)
            found.append(torch.func.functional_call(self.template, own, given))
        return torch.stack(found)

    def unstack(self) -> list[nn.Module]:
        """Copies of the G modules; they share nothing with the stack."""
        return [_slice_module(self.template, g) for g in range(self.groups)]


def stack(modules) -> StackedModule:
    """Copies modules of one architecture into a StackedModule.

    Raises Dom2Error where there are none, or where they differ in layers, shapes, dtype or device.
    """
    modules = list(modules)
    if not modules:
        raise Dom2Error("stack needs one module or more")
    first = modules[0]
    for k, module in enumerate(modules[1:], 1):
        if type(module) is not type(first) or str(module) != str(first):
            raise Dom2Error(f"module {k} is not built like module 0; a stack has one architecture")
        if _signature(module) != _signature(first):
            raise Dom2Error(f"module {k} differs from module 0 in a shape, dtype or device")
    template = copy.deepcopy(first)
    tied: dict[int, nn.Parameter] = {}
    for prefix, owner in template.named_modules():
        dot = prefix + "." if prefix else ""
        for name, p in list(owner._parameters.items()):
            if p is not None:
                parts = [m.get_parameter(dot + name).detach() for m in modules]
                if id(p) not in tied:
                    tied[id(p)] = nn.Parameter(torch.stack(parts), p.requires_grad)
                owner._parameters[name] = tied[id(p)]
        for name, b in list(owner._buffers.items()):
            if b is not None:
                owner._buffers[name] = torch.stack([m.get_buffer(dot + name) for m in modules])
    return StackedModule(template, len(modules))


def named_tensors(module: nn.Module) -> list[tuple[str, torch.Tensor]]:
    """Parameters and buffers with their names; a shared one under each of its names.

    What named_parameters and named_buffers give with remove_duplicate=False, several times faster,
    as this is done in every training step.
    """
    found, todo = [], [("", module)]
    while todo:
        prefix, owner = todo.pop()
        for held in (owner._parameters, owner._buffers):
            if held:  # most are empty
                for name, p in held.items():
                    if p is not None:
                        found.append((prefix + name, p))
        if owner._modules:
            for name, m in owner._modules.items():
                if m is not None:
                    todo.append((f"{prefix}{name}.", m))
    return found


def parameters_of(module: nn.Module) -> list[nn.Parameter]:
    """list(module.parameters()), several times faster: each once, but in another order.

    The order is the same for copies of a module.
    """
    found, todo = {}, [module]
    while todo:
        owner = todo.pop()
        if owner._parameters:
            for p in owner._parameters.values():
                if p is not None:
                    found[id(p)] = p
        if owner._modules:
            for m in owner._modules.values():
                if m is not None:
                    todo.append(m)
    return list(found.values())


def first_parameter(module: nn.Module, default=None):
    """One of the module's parameters, as next(module.parameters(), default) but much faster."""
    todo = [module]
    while todo:
        owner = todo.pop()
        for p in owner._parameters.values():
            if p is not None:
                return p
        todo += [m for m in owner._modules.values() if m is not None]
    return default


def _signature(module: nn.Module):
    return [(name, tuple(v.shape), v.dtype, v.device) for name, v in named_tensors(module)]


def _slice_module(template: nn.Module, g: int) -> nn.Module:
    module = copy.deepcopy(template)
    tied: dict[int, nn.Parameter] = {}
    for owner in module.modules():
        for name, p in list(owner._parameters.items()):
            if p is not None:
                if id(p) not in tied:
                    tied[id(p)] = nn.Parameter(p.detach()[g].clone(), p.requires_grad)
                owner._parameters[name] = tied[id(p)]
        for name, b in list(owner._buffers.items()):
            if b is not None:
                owner._buffers[name] = b[g].clone()
    return module
