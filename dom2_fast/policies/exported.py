"""A trained policy as one file, and acting from it: no network, no lowering, no training code.

    policy.export("policy.safetensors")
    policy = dom2_fast.load_policy("policy.safetensors")
    act = policy.act(obs)

The file holds what sampling takes of the parameters: the step program, its weights and table, and
the solver's table. What changes in the policy afterwards doesn't change the file.
"""

from __future__ import annotations

import os

import torch

from dom2_fast import ops
from dom2_fast._version import __version__
from dom2_fast.errors import Dom2Error
from dom2_fast.ops.program import StepProgram
from dom2_fast.policies import inputs, policy_file

__all__ = ["ExportedPolicy", "export", "load_policy"]

# As in csrc/core/policy_file.cpp: far more than a network has, far less than a kernel can count.
_MAX_COLUMNS = 1 << 22


def export(policy, path: str | os.PathLike) -> None:
    """Writes a `DiffusionPolicy`, single or a stack, to `path`; exactly what `eval()` would act by.

    The present solver and number of steps go into the file. Numbers are float32; a network in
    another dtype is evaluated in its own as far as it can be beforehand, and then rounded.

    Raises:
        Dom2Error: the network can't be lowered (the message names the node); a parameter is not
            finite; `path` is a folder or holds something else; no space is left.
    """
    for name, p in policy.named_parameters():
        if not p.isfinite().all():
            raise Dom2Error(
                f"the policy can't act: {name} is not finite. Nothing was written; export an "
                f"earlier checkpoint, or train anew with a lower lr"
            )
    low, weights, table = _hoisted(policy)
    plan = policy._plan
    tensors = {
        "program": low.program.encode(),
        "solver": plan.table,
        "bounds": torch.tensor([policy.act_low, policy.act_high], dtype=torch.float64),
        "table": table.float(),
        **{f"weights.{i}": w.float() for i, w in enumerate(weights)},
    }
    notes = {
        "stacked": str(policy.groups is not None).lower(),
        # For people; what is acted by is in the tensors.
        "dom2_fast": __version__,
        "solver": policy.solver,
        "steps": str(policy.steps),
        "needs_noise": str(plan.needs_noise).lower(),
        "schedule": repr(policy.schedule),
        "predict": policy.predict,
        "agents": str(table.size(1)),
        "obs_dim": str(policy.obs_dim),
        "act_dim": str(policy.act_dim),
    }
    policy_file.write(path, tensors, notes)


@torch.no_grad()
def _hoisted(policy):
    """(lowered, weights, table) of the policy in eval mode, on the CPU."""
    from dom2_fast import lowering

    parts = list(policy.net.modules())
    flags = [m.training for m in parts]
    try:
        for m in parts:
            m.training = False
        low = lowering.lower(policy.net, "table", x_dim=policy.act_dim, obs_dim=policy.obs_dim)
    except lowering.LoweringError as error:
        raise Dom2Error(
            f"{type(policy.net).__name__} can't be exported: a file holds networks that can be "
            f"lowered, and {error}"
        ) from error
    finally:
        for m, flag in zip(parts, flags, strict=True):
            m.training = flag
    params = {name: p.detach().cpu() for name, p in lowering.grouped_params(policy.net).items()}
    first = next((p.dtype for p in params.values() if p.is_floating_point()), torch.float32)
    like = torch.zeros(policy.groups or 1, 1, policy.obs_dim, dtype=first)
    weights, table = low.hoist(params, policy._plan.times.to("cpu", first), like)
    return low, weights, table


def load_policy(path: str | os.PathLike, *, precision: str = "fp32") -> ExportedPolicy:
    """The policy in a file that `DiffusionPolicy.export` or `dom2-fast export` wrote.

    Args:
        precision: of matrix products, "fp32" or "bf16" (docs/precision.md); files hold float32.
    Raises:
        Dom2Error: no such file; cut short, of another version, or no policy; unknown precision.
    """
    ops.check_precision(precision)
    tensors, notes = policy_file.read(path)
    try:
        return ExportedPolicy(tensors, notes, precision)
    except Dom2Error as error:
        raise Dom2Error(
            f"{path} doesn't hold a policy that can act: {error}; copy it again, or export anew"
        ) from error


class ExportedPolicy:
    """Acts as the policy that was exported did in eval mode; float32 on the CPU, no gradients.

    obs_dim, act_dim; groups: the number of agents of a stack, None for a single policy; steps,
    solver, act_low, act_high; notes: what the file says about itself, for people.
    """

    def __init__(
        self, tensors: dict[str, torch.Tensor], notes: dict[str, str], precision: str = "fp32"
    ):
        """Takes what `policy_file.read` gives; Dom2Error where its parts don't fit together."""
        self.precision = precision
        if notes.get("stacked") not in ("true", "false"):
            raise Dom2Error(f"stacked is 'true' or 'false', not {notes.get('stacked')!r}")
        words = _part(tensors, "program", torch.int64, (None,))
        try:
            self._program = StepProgram.decode(words)
        except (ValueError, IndexError) as error:  # Dom2Error is a ValueError
            raise Dom2Error(str(error)) from None
        if not torch.equal(self._program.encode(), words):
            raise Dom2Error("its program isn't as dom2_fast writes one")
        p = self._program
        if p.x_width < 1 or p.cond_width < 1 or p.out.width != p.x_width:
            raise Dom2Error(
                f"its program makes {p.out.width} columns of {p.x_width} and {p.cond_width}; a "
                f"noise network makes as many as an action has"
            )
        if sum(p.buffers) + sum(i.out.width for i in p.instrs) > _MAX_COLUMNS:
            raise Dom2Error("its program is too wide")
        self._table = _part(tensors, "table", torch.float32, (None, None, p.table_width))
        self.steps, groups = self._table.shape[:2]
        if not self.steps or not groups:
            raise Dom2Error(f"it has {self.steps} steps and {groups} agents; one of each is needed")
        self._solver = _part(tensors, "solver", torch.float64, (self.steps, 8))
        self.act_low, self.act_high = _part(tensors, "bounds", torch.float64, (2,)).tolist()
        if not self.act_low < self.act_high:
            raise Dom2Error(f"its bounds are {self.act_low}, {self.act_high}")
        self._weights = [
            _part(tensors, f"weights.{i}", torch.float32, (groups, n, k))
            for i, (n, k) in enumerate(p.weights)
        ]
        unknown = set(tensors) - {"program", "table", "solver", "bounds"}
        unknown -= {f"weights.{i}" for i in range(len(p.weights))}
        if unknown:
            raise Dom2Error(f"it has tensors that are not part of a policy: {sorted(unknown)}")
        self.obs_dim, self.act_dim = p.cond_width, p.x_width
        self.groups = groups if notes["stacked"] == "true" else None
        if self.groups is None and groups != 1:
            raise Dom2Error(f"it is of a single policy, but has {groups}")
        self.solver = notes.get("solver", "")
        self.notes = dict(notes)
        self._needs_noise = bool((self._solver[:, 5] != 0.0).any())
        self._packed = self._actor = None
        self._try(groups)

    def _try(self, groups: int) -> None:
        """Acts once, which checks the program; then keeps the weights as the kernel reads them."""
        zero = torch.zeros(self.steps, groups, 1, self.act_dim)
        rows = torch.zeros(groups, 1, self.obs_dim)
        try:
            self._denoise(rows, zero[0], zero, torch.Generator())  # not torch's own: no trace
            self._packed = ops.pack_weights(self._weights, self._program, self.precision)
            if self._packed is not None:
                self._weights = []  # only the packed ones are read where no gradient is taken
                self._actor = ops.actor(
                    self._program, self._table, self._solver, self._packed,
                    stacked=self.groups is not None, out_low=self.act_low, out_high=self.act_high,
                    precision=self.precision,
                )  # fmt: skip
        except (RuntimeError, ValueError, LookupError, TypeError) as error:
            # An op's error begins with the place in its source.
            first = (str(error).splitlines() or [type(error).__name__])[0]
            raise Dom2Error(f"a trial fails: {first.rpartition('dom2_fast::')[2]}") from None

    @torch.no_grad()
    def sample(
        self,
        obs: torch.Tensor,
        x_T: torch.Tensor | None = None,
        noise: torch.Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> torch.Tensor:
        """Actions [..., A] for obs [B, O], [O], or [G, B, O] for a stack.

        Arguments, draws and errors are those of `DiffusionPolicy.sample`.
        """
        if self._actor is not None and noise is None and not torch.compiler.is_compiling():
            quick = self._actor.sample(obs, x_T, generator)
            if quick is not None:
                return quick
        rows, shape = inputs.grouped(
            obs, self.obs_dim, self.groups, torch.float32, self._table.device, "the policy"
        )
        x_T, noise = inputs.starts(x_T, noise, rows, shape, self.act_dim, self.steps)
        return self._denoise(rows, x_T, noise, generator).reshape(*shape, self.act_dim)

    __call__ = sample

    def act(self, obs: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        """Actions for obs, shapes as in `sample`."""
        return self.sample(obs, generator=generator)

    def _denoise(self, rows, x_T, noise, generator) -> torch.Tensor:
        draws = x_T is None or (noise is None and self._needs_noise) or self._program.sites > 0
        return ops.denoise(
            x_T, rows, self._weights, self._table, self._program, self._solver, noise,
            batch=rows.size(1), rng=ops.make_rng(generator) if draws else None,
            out_low=self.act_low, out_high=self.act_high, packed=self._packed,
            precision=self.precision,
        )  # fmt: skip

    def __repr__(self) -> str:
        agents = "" if self.groups is None else f"{self.groups} agents, "
        return (
            f"ExportedPolicy({agents}obs_dim={self.obs_dim}, act_dim={self.act_dim}, "
            f"solver={self.solver}, steps={self.steps})"
        )


def _part(tensors: dict, name: str, dtype: torch.dtype, shape: tuple) -> torch.Tensor:
    """One tensor, checked; None in `shape` stands for any size."""
    if name not in tensors:
        raise Dom2Error(f"it has no tensor {name!r}")
    found = tensors[name]
    fits = len(found.shape) == len(shape) and all(
        want in (None, have) for want, have in zip(shape, found.shape, strict=True)
    )
    if found.dtype != dtype or not fits:
        want = ["any" if n is None else n for n in shape]
        raise Dom2Error(
            f"{name} is {found.dtype} {list(found.shape)}; its program needs {dtype} {want}"
        )
    return found
