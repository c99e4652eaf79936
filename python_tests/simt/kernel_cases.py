"""Cases for csrc/testing/simt/driver.cpp: inputs, the reference's results in float64, tolerances.

A case is made for one way through the kernels (which rows per tile, weights resident or streamed,
...) and names it in `shape`; the driver refuses to pass a case that went another way.
"""

import struct
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

sys.path += [str(Path(__file__).resolve().parents[1] / name) for name in ("", "ops")]

from op_problems import problem
from tolerances import KERNEL_FACTOR, KERNEL_FLOOR, relative_error

from dom2_fast.ops import reference
from dom2_fast.ops.program import StepProgram

RNG = torch.tensor([-7_654_321_987_654_321, 5])
DTYPE = {"fp32": torch.float32, "bf16": torch.bfloat16}
CODES = {torch.float32: b"f", torch.float64: b"d", torch.int64: b"q"}


def write(path: Path, arrays: dict) -> None:
    """Named arrays in the form that driver_case.h reads; numbers become arrays of one element."""
    with path.open("wb") as file:
        for name, value in arrays.items():
            if isinstance(value, str):
                code, count, data = b"c", len(value.encode()), value.encode()
            else:
                t = torch.as_tensor(value).detach()
                if isinstance(value, float):
                    t = torch.tensor(value, dtype=torch.float64)
                code, count = CODES[t.dtype], t.numel()
                data = t.contiguous().numpy().tobytes()
            file.write(struct.pack("<q", len(name)) + name.encode() + code)
            file.write(struct.pack("<q", count) + data)


def weight_arrays(weights, transposed=False, prefix="") -> dict:
    """Weights [G, N, K] in the memory they have, or not contiguous, and their strides."""
    out = {}
    for i, w in enumerate(weights):
        w = w.detach()
        if transposed:
            w = w.transpose(1, 2).contiguous().transpose(1, 2)
        out[f"{prefix}weights.{i}"] = w.as_strided([w.numel()], [1])
        out[f"{prefix}strides.{i}"] = torch.tensor(w.stride())
    return out


def expectations(exact: dict, own: dict) -> dict:
    """What a kernel's results must be, and how near: python_tests/tolerances.py, KERNEL_FACTOR."""
    out = {}
    for name, value in exact.items():
        out[f"expected.{name}"] = value.double()
        error = relative_error(own[name], value) if value.numel() else 0.0
        out[f"tolerance.{name}"] = KERNEL_FACTOR * error + KERNEL_FLOOR
    return out


@dataclass
class Loop:
    """One call of denoise or run_program (no solver), forward or backward."""

    name: str
    program: StepProgram
    shape: str
    groups: int = 2
    batch: int = 5
    steps: int = 1
    precision: str = "fp32"
    solver: torch.Tensor | None = None
    given_cond: int | None = None  # conditions of a group, each for batch / given_cond cond
    x: bool = True  # given; else drawn
    noise: bool = False  # given
    rng: bool = False
    rng_on_device: bool = False
    limits: tuple[float, float] = (-float("inf"), float("inf"))
    path: bool = False
    transposed: bool = False  # weights that are not contiguous
    want: tuple[str, ...] = ()  # gradients: x, cond, table, weights; none: forward
    each_row: bool = True  # the gradient of cond is each row's own; else its rows' sum
    workspace: int = 1 << 27
    sms: int = 132
    shared: int = 232448
    seed: int = 0
    tsan: bool = False  # small enough to run under TSan

    def arrays(self) -> dict:
        p = problem(
            self.program, self.groups, self.batch, self.steps, self.given_cond, self.seed
        ).to(torch.float32)
        noise = None
        if self.noise:
            g = torch.Generator().manual_seed(self.seed + 1)
            noise = torch.randn(self.steps, self.groups, self.batch, p.x.size(2), generator=g)
        out = {
            "name": self.name,
            "shape": self.shape,
            "op": "backward" if self.want else "forward",
            "precision": int(self.precision == "bf16"),
            "groups": self.groups,
            "batch": self.batch,
            "steps": self.steps,
            "repeat": max(self.batch // (self.given_cond or max(self.batch, 1)), 1),
            "multiprocessors": self.sms,
            "shared_bytes": self.shared,
            "limits": torch.tensor(self.limits, dtype=torch.float64),
            "program": self.program.encode(),
            "table": p.table,
            "rng_on_device": int(self.rng_on_device),
            "workspace_bytes": self.workspace,
        }
        if self.solver is not None:
            out["solver"] = self.solver
        if p.cond is not None:
            out["cond"] = p.cond
        if noise is not None:
            out["noise"] = noise
        if self.rng:
            out["rng"] = RNG
        out |= weight_arrays(p.weights, self.transposed)
        exact = self._results(p.to(torch.float64), noise)
        own = self._results(p.to(DTYPE[self.precision]), noise)
        if self.want:
            out["grad_out"], out["path"] = self._grad_out(exact["out"]), exact["path"].float()
        elif self.x:
            out["x"] = p.x
        names = [n for n in exact if any(n == w or n.startswith(w + ".") for w in self.want)]
        names = names or ["out", *(["path"] if self.path else [])]
        return out | expectations({n: exact[n] for n in names}, own)

    @staticmethod
    def _grad_out(out: torch.Tensor) -> torch.Tensor:
        return torch.randn(out.shape, generator=torch.Generator().manual_seed(9))

    def _results(self, p, noise) -> dict:
        """out and path; where gradients are wanted, those."""
        rng = RNG if self.rng else None
        groups, batch = self.groups, self.batch
        cond = p.cond
        if cond is not None and self.each_row:
            cond = reference._repeat_cond(p.cond, groups, batch, p.x).detach().requires_grad_()
        if self.solver is None:
            value = reference.run_program(p.x, cond, p.weights, p.table, p.program, rng)
            result = {"out": value, "path": p.x.detach()}
        else:
            x = p.x
            if not self.x:
                x = reference.draw_start(RNG, groups, batch, p.x.size(2), p.table)
            if noise is not None:
                noise = noise.to(x.dtype)
            path, env = [], {reference.COND: reference._repeat_cond(cond, groups, batch, x)}

            def predict(step, v):
                path.append(v.detach())
                env[reference.X] = v
                return reference._step(
                    p.program, env, p.weights, p.table, step, rng, groups * batch
                )

            unlimited = (-float("inf"), float("inf"))
            last = reference.solve(predict, x, self.solver, noise, rng, *unlimited)
            path.append(last.detach())
            result = {"out": torch.clamp(last, *self.limits), "path": torch.stack(path)}
        if self.want:
            leaves = {"x": p.x, "table": p.table}
            leaves |= {f"weights.{i}": w for i, w in enumerate(p.weights)}
            if cond is not None:
                leaves["cond"] = cond
            seed = self._grad_out(value if self.solver is None else last).to(p.x.dtype)
            grads = torch.autograd.grad(
                result["out"], list(leaves.values()), seed, allow_unused=True
            )
            for (name, leaf), grad in zip(leaves.items(), grads, strict=True):
                result[name] = torch.zeros_like(leaf) if grad is None else grad
        return {name: t.detach() for name, t in result.items()}


@dataclass
class Sample:
    """One call of sample_transitions. fields: (type, numbers between rows, width, wide access)."""

    name: str
    groups: int = 2
    batch: int = 37
    trajectories: int = 5
    fields: tuple = ()
    rng_on_device: bool = False
    sms: int = 132
    shared: int = 232448
    tsan: bool = True

    def arrays(self) -> dict:
        g = torch.Generator().manual_seed(3)
        weights = torch.rand(self.groups, self.trajectories, generator=g, dtype=torch.float64)
        threshold, alias = reference.alias_table(weights)
        lengths = torch.randint(1, 6, (self.trajectories,), generator=g)
        starts = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
        n = int(starts[-1])
        out = {
            "name": self.name,
            "shape": "sample, 1 launched",
            "op": "sample",
            "groups": self.groups,
            "batch": self.batch,
            "fields": len(self.fields),
            "trajectories": self.trajectories,
            "threshold": threshold,
            "alias": alias,
            "starts": starts,
            "rng": RNG,
            "rng_on_device": int(self.rng_on_device),
            "multiprocessors": self.sms,
            "shared_bytes": self.shared,
        }
        tables = []
        for number, (dtype, row, width, wide) in enumerate(
            field for field in self.fields for _ in range(self.groups)
        ):
            # The last row ends where its width ends: nothing behind it may be read.
            flat = torch.randn((n - 1) * row + width, generator=g, dtype=torch.float64).to(dtype)
            tables.append(flat.as_strided([n, width], [row, 1]))
            out[f"field.{number}"] = flat
            out[f"shape.{number}"] = torch.tensor([row, width, wide])
        outs, index = reference.sample_transitions(
            tables, threshold, alias, starts, self.batch, RNG
        )
        expected = {f"out.{i}": t for i, t in enumerate(t for stack in outs for t in stack)}
        for name, value in {**expected, "index": index}.items():
            out[f"expected.{name}"] = value.double() if value.is_floating_point() else value
            out[f"tolerance.{name}"] = 0.0
        return out
