"""Lowering: from a plain `torch.nn.Module` to a step program and the PyTorch part that feeds it.

    low = lower(net, "table")                     # once per architecture
    weights, table = low.hoist(params, t)         # when weights or times change; differentiable
    ops.denoise(x_T, obs, weights, table, low.program, solver)

A value of the network is computed by what it depends on: parameters and t in PyTorch (`host`), obs
and x in the program (`emit`). `trace` reads the module, `fused.FusedModule` runs a critic this way.
A mode says what forward takes: "table" and "row" net(x, t, obs), None net(x, obs), "act" net(obs).
"""

from dom2_fast.lowering.errors import LoweringError
from dom2_fast.lowering.fused import FusedModule
from dom2_fast.lowering.lowered import Lowered, grouped_params, lower, width_of

__all__ = ["FusedModule", "Lowered", "LoweringError", "grouped_params", "lower", "width_of"]
