"""A policy that doesn't change: acting without a network, lowering or training code.

    policy = trained.frozen()                # of the present parameters
    policy.export("policy.safetensors")      # and as one file
    policy = dom2_fast.load_policy("policy.safetensors")
    act = policy.act(obs)

It holds what acting takes of the parameters: the step program, its weights and table, and the
solver's table. What changes in the policy it was made of afterwards doesn't change it.
"""

from __future__ import annotations

import math
import os

import torch

from dom2_fast import ops
from dom2_fast.errors import Dom2Error
from dom2_fast.ops.program import StepProgram
from dom2_fast.policies import inputs, policy_file
from dom2_fast.policies.solvers import COLUMNS

__all__ = ["FrozenPolicy", "load_policy"]

# As in csrc/core/policy_file.cpp: far more than a network has, far less than a kernel can count.
_MAX_COLUMNS = 1 << 22


def load_policy(path: str | os.PathLike, *, precision: str = "fp32") -> FrozenPolicy:
    """The policy in a file that a policy's `export` or `dom2-fast export` wrote.

    Args:
        precision: of matrix products, "fp32" or "bf16" (docs/precision.md); files hold float32.
    Raises:
        Dom2Error: no such file; cut short, of another version, or no policy; unknown precision.
    """
    ops.check_precision(precision)
    tensors, notes = policy_file.read(path)
    try:
        return FrozenPolicy.from_tensors(tensors, notes, precision)
    except Dom2Error as error:
        raise Dom2Error(
            f"{path} doesn't hold a policy that can act: {error}; copy it again, or export anew"
        ) from error


class FrozenPolicy:
    """Acts as a policy does in eval mode; float32, no gradients. Never changes, so that several
    threads may use it at once, each with its own generator.

    Made by a policy's `frozen()` and by `load_policy`. obs_dim, act_dim; act_shape: (T, A) where it
    acts by chunks [..., T, A] of act_dim numbers, else None; groups: the number of
    agents of a stack, None for a single policy; steps: of denoising, 0 for a policy of one pass;
    solver, act_low, act_high, precision; notes: what it says about itself, for people.
    Of a stack, `policy[i]` is agent i's own and len(policy) how many there are.
    """

    def __init__(
        self,
        program: StepProgram,
        weights: list[torch.Tensor],  # [G, N, K] each
        table: torch.Tensor,  # [S, G, columns], [1, G, columns] for a policy of one pass
        solver: torch.Tensor,  # float64 [S, 9], [0, 9] for a policy of one pass
        bounds: tuple[float, float],
        *,
        stacked: bool,
        notes: dict[str, str] | None = None,
        precision: str = "fp32",
        watch=None,
    ):
        """For callers who know that the parts fit; `from_tensors` checks.

        watch: `actor` then serves only as long as it finds no change, see `ops.actor`.
        """
        groups = table.size(1)
        low, high = bounds
        held = vars(self)  # past __setattr__
        held |= {"_program": program, "_weights": weights, "_table": table, "_solver": solver}
        held |= {"obs_dim": program.cond_width, "act_dim": program.out.width}
        held |= {"steps": solver.size(0), "groups": groups if stacked else None}
        held |= {"act_low": low, "act_high": high, "precision": precision}
        held |= {"notes": dict(notes or {}), "solver": (notes or {}).get("solver", "")}
        held["act_shape"] = _act_shape(held["notes"], program.out.width)
        held["_needs_noise"] = bool((solver[:, 5] != 0.0).any())
        held["_packed"] = packed = ops.pack_weights(weights, program, precision)
        held["actor"] = None
        if packed is not None and table.is_cpu:
            held["actor"] = ops.actor(
                program,
                table,
                solver,
                packed,
                stacked=stacked,
                out_low=low,
                out_high=high,
                watch=watch,
                precision=precision,
            )

    @classmethod
    def from_tensors(
        cls, tensors: dict[str, torch.Tensor], notes: dict[str, str], precision: str = "fp32"
    ) -> FrozenPolicy:
        """From what a file holds, see `policy_file`; Dom2Error where the parts don't fit together.

        The tensors are kept, not copied.
        """
        if notes.get("stacked") not in ("true", "false"):
            raise Dom2Error(f"stacked is 'true' or 'false', not {notes.get('stacked')!r}")
        program = _program(_part(tensors, "program", torch.int64, (None,)))
        table = _part(tensors, "table", torch.float32, (None, None, program.table_width))
        rows, groups = table.shape[:2]
        if not rows or not groups:
            raise Dom2Error(f"it has {rows} steps and {groups} agents; one of each is needed")
        steps = rows if program.x_width else 0
        if rows != max(steps, 1):
            raise Dom2Error(f"its table is of {rows} steps, but its program is of one pass")
        solver = _part(tensors, "solver", torch.float64, (steps, None))
        if solver.size(1) == COLUMNS - 1:  # written before there was c_prev2
            solver = torch.nn.functional.pad(solver, (0, 1))
        solver = _part({"solver": solver}, "solver", torch.float64, (steps, COLUMNS))
        low, high = _part(tensors, "bounds", torch.float64, (2,)).tolist()
        if not low < high:
            raise Dom2Error(f"its bounds are {low}, {high}")
        weights = [
            _part(tensors, f"weights.{i}", torch.float32, (groups, n, k))
            for i, (n, k) in enumerate(program.weights)
        ]
        unknown = set(tensors) - {"program", "table", "solver", "bounds"}
        unknown -= {f"weights.{i}" for i in range(len(weights))}
        if unknown:
            raise Dom2Error(f"it has tensors that are not part of a policy: {sorted(unknown)}")
        stacked = notes["stacked"] == "true"
        if not stacked and groups != 1:
            raise Dom2Error(f"it is of a single policy, but has {groups}")
        try:
            made = cls(
                program,
                weights,
                table,
                solver,
                (low, high),
                stacked=stacked,
                notes=notes,
                precision=precision,
            )
            made._try()
        except (RuntimeError, ValueError, LookupError, TypeError) as error:
            # An op's error begins with the place in its source.
            first = (str(error).splitlines() or [type(error).__name__])[0]
            raise Dom2Error(f"a trial fails: {first.rpartition('dom2_fast::')[2]}") from None
        return made

    def _try(self) -> None:
        """Acts once, which checks the program."""
        rows = self._table.new_zeros(self.num_agents, 1, self.obs_dim)
        zero = self._table.new_zeros(max(self.steps, 1), self.num_agents, 1, self.act_dim)
        given = (zero[0], zero) if self.steps else (None, None)
        self.denoise(rows, 1, *given, torch.Generator())  # not torch's own: no trace

    # ---- acting -------------------------------------------------------------------------------

    @property
    def num_agents(self) -> int:
        """How many agents act: those of a stack, or one."""
        return self._table.size(1)

    @property
    def obs_dims(self) -> list[int]:
        """The observation width of each agent."""
        return [self.obs_dim] * self.num_agents

    def sample(
        self,
        obs: torch.Tensor,
        x_T: torch.Tensor | None = None,
        noise: torch.Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> torch.Tensor:
        """Actions [..., A] in [act_low, act_high] for obs [B, O], [O], or [G, B, O] for a stack.

        Arguments, draws and errors are those of `DiffusionPolicy.sample`; a policy of one pass
        takes neither x_T nor noise.
        """
        if self.act_shape is not None:
            x_T = inputs.flat(x_T, self.act_shape, "x_T")
            noise = inputs.flat(noise, self.act_shape, "noise")
        if self.actor is not None and noise is None and not torch.compiler.is_compiling():
            quick = self.actor.sample(obs, x_T, generator)
            if quick is not None:
                return inputs.shaped(quick, self.act_shape)
        rows, shape = inputs.grouped(
            obs, self.obs_dim, self.groups, torch.float32, self._table.device, "the policy"
        )
        if not self.steps and not (x_T is None and noise is None):
            raise Dom2Error("this policy acts in one pass: it takes no x_T and no noise")
        x_T, noise = inputs.starts(x_T, noise, rows, shape, self.act_dim, self.steps)
        with torch.no_grad():
            out = self.denoise(rows, rows.size(1), x_T, noise, generator)
        return inputs.shaped(out.reshape(*shape, self.act_dim), self.act_shape)

    __call__ = sample

    def act(self, obs: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        """Actions for obs, shapes as in `sample`."""
        return self.sample(obs, generator=generator)

    def frozen(self) -> FrozenPolicy:
        """Itself: it is."""
        return self

    def denoise(self, rows, batch: int, x_T=None, noise=None, generator=None) -> torch.Tensor:
        """Actions [G, batch, A] of checked input: rows [G, B, O], each for batch / B actions."""
        draws = self.steps > 0 and (x_T is None or (noise is None and self._needs_noise))
        draws = draws or self._program.sites > 0
        return ops.denoise(
            x_T,
            rows,
            self._weights,
            self._table,
            self._program,
            self._solver,
            noise,
            batch=batch,
            rng=ops.make_rng(generator, rows.device) if draws else None,
            out_low=self.act_low,
            out_high=self.act_high,
            packed=self._packed,
            precision=self.precision,
        )

    # ---- the file, and copies -----------------------------------------------------------------

    def export(
        self, path: str | os.PathLike, half: bool = False, notes: dict[str, str] | None = None
    ) -> None:
        """Writes the policy to `path`, whole or not at all; `load_policy` gives it back.

        half: weights and table in float16, half the bytes; what is loaded is float32 again, and has
        lost the last 13 of 24 bits of each number.
        notes: more of what the file says about itself.
        Raises:
            Dom2Error: `path` is a folder or holds something else; no space is left; with `half`, a
                number too large for float16 (65,504).
        """
        told = {**(notes or {}), **self.notes}
        if half:
            return policy_file.write(path, self._halved(), told, policy_file.HALF)
        # A file has the lowest version that can hold it, so that older readers take what they can.
        tensors, version = self._tensors(), 1 if self.steps else 2
        if bool((self._solver[:, -1] != 0.0).any()):
            version = 3
        else:
            tensors["solver"] = self._solver[:, :-1]
        policy_file.write(path, tensors, told, version)

    def _halved(self) -> dict[str, torch.Tensor]:
        tensors = self._tensors()
        for name, tensor in tensors.items():
            if tensor.dtype == torch.float32:
                tensors[name] = tensor.half()
                if not tensors[name].isfinite().all():
                    raise Dom2Error(
                        f"{name} has a number of size {tensor.abs().max():.3g}, float16 goes to "
                        "65,504: export it in float32"
                    )
        return tensors

    def _tensors(self) -> dict[str, torch.Tensor]:
        bounds = torch.tensor([self.act_low, self.act_high], dtype=torch.float64)
        return {
            "program": self._program.encode(),
            "solver": self._solver,
            "bounds": bounds,
            "table": self._table,
            **{f"weights.{i}": w for i, w in enumerate(self._weights)},
        }

    def __len__(self) -> int:
        return self.num_agents

    def __getitem__(self, agent: int) -> FrozenPolicy:
        """Agent `agent`'s own policy, for obs [B, O]."""
        if not 0 <= agent < self.num_agents:
            raise IndexError(f"agent {agent} of {self.num_agents}")
        one = slice(agent, agent + 1)
        return FrozenPolicy(
            self._program,
            [w[one] for w in self._weights],
            self._table[:, one],
            self._solver,
            (self.act_low, self.act_high),
            stacked=False,
            notes={**self.notes, "agents": "1", "stacked": "false"},
            precision=self.precision,
        )

    def __setattr__(self, name: str, *_) -> None:
        raise AttributeError(f"a FrozenPolicy never changes: {name} can't be set")

    __delattr__ = __setattr__

    def __reduce__(self):
        tensors = {name: t.clone() for name, t in self._tensors().items()}
        return FrozenPolicy.from_tensors, (tensors, self.notes, self.precision)

    def __repr__(self) -> str:
        agents = "" if self.groups is None else f"{self.groups} agents, "
        how = f"solver={self.solver}, steps={self.steps}" if self.steps else "one pass"
        return f"FrozenPolicy({agents}obs_dim={self.obs_dim}, act_dim={self.act_dim}, {how})"


def _act_shape(notes: dict[str, str], width: int) -> tuple[int, ...] | None:
    """The shape of a chunk of actions, as `DiffusionPolicy` notes it."""
    if "act_shape" not in notes:
        return None
    sizes = notes["act_shape"].split(",")
    if not all(n.isdecimal() for n in sizes) or math.prod(map(int, sizes)) != width:
        raise Dom2Error(f"its act_shape is {notes['act_shape']!r}, of {width} columns")
    return tuple(map(int, sizes))


def _program(words: torch.Tensor) -> StepProgram:
    """The program of a file, which must be one that acts."""
    try:
        p = StepProgram.decode(words)
    except (ValueError, IndexError) as error:  # Dom2Error is a ValueError
        raise Dom2Error(str(error)) from None
    if not torch.equal(p.encode(), words):
        raise Dom2Error("its program isn't as dom2_fast writes one")
    if p.x_width < 0 or p.cond_width < 1 or (p.x_width and p.out.width != p.x_width):
        raise Dom2Error(
            f"its program makes {p.out.width} columns of {p.x_width} and {p.cond_width}; a "
            f"noise network makes as many as an action has, an actor has no first ones"
        )
    if sum(p.buffers) + sum(i.out.width for i in p.instrs) > _MAX_COLUMNS:
        raise Dom2Error("its program is too wide")
    return p


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
