"""DiffusionPolicy on a table that someone else's sampler wrote, and networks called their way."""

from __future__ import annotations

import copy
import math

import torch
from torch import nn

from dom2_fast import lowering
from dom2_fast.errors import Dom2Error
from dom2_fast.lowering.attributes import attributes_kept
from dom2_fast.policies.diffusion import DiffusionPolicy
from dom2_fast.policies.solvers import SolverPlan


class Called(nn.Module):
    """net(x, t, obs), whatever the order, names and shapes in which `net` wants them.

    call: function of (net, x [B, A], t [B], obs [B, O]) -> [B, A], of tensor operations only.
    """

    def __init__(self, net: nn.Module, call):
        super().__init__()
        self.net = net
        self.call = call

    def forward(self, x, t, obs):
        return self.call(self.net, x, t, obs)


class PlannedPolicy(DiffusionPolicy):
    """A DiffusionPolicy that walks `plan`; samples are clipped to [-bound, bound]."""

    def __init__(
        self,
        net,
        plan: SolverPlan,
        obs_dim,
        act_dim,
        bound=math.inf,
        backend="auto",
        precision="fp32",
    ):
        widths = {"obs_dim": obs_dim, "act_dim": act_dim}
        super().__init__(net, None, plan, backend=backend, precision=precision, **widths)
        self.act_low, self.act_high = -bound, bound

    def set_plan(self, plan: SolverPlan) -> None:
        """Changes the walk; the lowered programs stay."""
        self.set_solver(plan)

    def with_plan(self, plan: SolverPlan) -> PlannedPolicy:
        """Another policy of the same network and programs."""
        other = copy.copy(self)
        other._programs = self._programs
        other.set_plan(plan)
        return other


def check_lowers(net: nn.Module, obs_dim: int, act_dim: int, what: str) -> None:
    """Raises Dom2Error, with the reason, for a network that can't become a step program.

    `net` is left as it was found: flags, attributes and the global random state.
    """
    try:
        with attributes_kept(net):
            lowering.lower(net, "table", x_dim=act_dim, obs_dim=obs_dim)
    except lowering.LoweringError as error:
        raise Dom2Error(
            f"can't accelerate {what}: its network can't be lowered: {error}"
        ) from error


def width(obj, given: int | None, names: tuple[str, ...], option: str) -> int:
    """A width: as given, or the first of these attributes that is a whole number; else asks."""
    for value in (given, *(getattr(obj, name, None) for name in names)):
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    raise Dom2Error(
        f"can't accelerate {type(obj).__name__}: it has none of the attributes {list(names)} that "
        f"say how wide that input is; give {option}="
    )


OBS_NAMES = ("obs_dim", "state_dim", "observation_dim", "o_dim", "s_dim")
ACT_NAMES = ("act_dim", "action_dim", "output_dim", "a_dim")


def distance(got: torch.Tensor, want) -> float:
    """The largest difference; infinite where they aren't of one shape."""
    if not isinstance(want, torch.Tensor) or want.shape != got.shape:
        return math.inf
    return (got.double() - want.double()).abs().max().item()


@torch.no_grad()
def check_agrees(got: torch.Tensor, want, what: str, how: str) -> None:
    """Raises Dom2Error where a trial result of the original isn't what it was taken for."""
    if not isinstance(want, torch.Tensor) or want.shape != got.shape:
        found = list(want.shape) if isinstance(want, torch.Tensor) else type(want).__name__
        raise Dom2Error(
            f"can't accelerate {what}: on a trial it gives {found}, not {list(got.shape)}; {how}"
        )
    error = distance(got, want)
    # Against another algorithm, whose results differ by their own size; rounding is far below.
    if not error <= 1e-3 * (1.0 + want.double().abs().max().item()):
        raise Dom2Error(
            f"can't accelerate {what}: on a trial its samples differ by {error:.3g} from what its "
            f"attributes say; {how}"
        )
