"""The cases of kernel_check.cpp: every op of the CPU with its gradients, and every activation.

Inputs, exact results and tolerances are those of the tests of the ops (op_problems, tolerances) and
of the CUDA kernels' cases (kernel_cases), so that what passes here is as good as on x86-64.
"""

from dataclasses import dataclass, field, replace

import torch
from activation_problems import all_magnitudes, slope_and_limit, value_and_limit
from kernel_case_list import DRAWN, GRADIENTS, NOISY, SAMPLES, backward, forward
from kernel_cases import DTYPE, RNG, Loop, expectations, weight_arrays
from op_problems import Problem, everything, mlp, problem, solver_table
from tolerances import LOSS_BF16

from dom2_fast import ops
from dom2_fast.ops import backend, reference
from dom2_fast.ops.program import Act, ProgramBuilder


@dataclass
class Activation:
    """One activation at floats of every size, forward or backward, each number within its limit."""

    act: Act
    op: str

    def arrays(self) -> dict:
        width = 50
        b = ProgramBuilder(width, 0)
        program = b.build(b.activation(b.x, self.act))
        x = all_magnitudes()[::7]
        x = x[: len(x) // width * width]
        shape = [1, len(x) // width, width]
        case = {
            "name": f"{self.act.name} {self.op}",
            "op": self.op,
            "precision": 0,
            "groups": 1,
            "batch": shape[1],
            "steps": 1,
            "repeat": 1,
            "limits": torch.tensor([-torch.inf, torch.inf], dtype=torch.float64),
            "program": program.encode(),
            "table": torch.zeros(1, 1, 0),
        }
        if self.op == "forward":
            exact, limit = value_and_limit(self.act, x)
            return case | {"x": x, "expected.out": exact, "limit.out": limit}
        exact, limit = slope_and_limit(self.act, x)
        ones = torch.ones(len(x))
        return case | {"path": x, "grad_out": ones, "expected.x": exact, "limit.x": limit}


def draw(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@dataclass
class Loss:
    """A loss with its gradients. more: the op's other tensors, which have none.

    rounds: which operands of a product bf16 rounds there. "weights": expected is what float32 makes
    of such weights, to the bit but for the order of sums. "both", with instructions for bf16
    numbers: what this machine's kernels give, as in test_losses_bf16.
    """

    op: str
    name: str
    problem: Problem
    more: dict = field(default_factory=dict)
    precision: str = "fp32"
    rounds: str = "weights"
    want: tuple[str, ...] = GRADIENTS
    rng: bool = False
    solver: torch.Tensor | None = None
    x: bool = True  # given; else drawn
    critic: Problem | None = None
    limits: tuple[float, float] = (-torch.inf, torch.inf)

    def arrays(self) -> dict:
        p = self.problem.to(torch.float32)
        groups = p.table.size(1)
        batch = p.x.size(1)
        if self.op == "conservative_loss":
            data_groups, batch, actions = self.more["proposed"].shape[:3]
            batch *= 1 + actions
        case = {
            "name": f"{self.precision} {self.op}, {self.name}",
            "op": self.op,
            "precision": int(self.precision == "bf16"),
            "groups": groups,
            "batch": batch,
            "steps": p.table.size(0),
            "repeat": batch // p.cond.size(1) if p.cond is not None else 1,
            "limits": torch.tensor(self.limits, dtype=torch.float64),
            "program": p.program.encode(),
            "table": p.table,
            **weight_arrays(p.weights),
        }
        if p.cond is not None:
            case["cond"] = p.cond
        if self.rng or not self.x:
            case["rng"] = RNG
        if self.x and self.op != "conservative_loss":
            case["x"] = p.x
        if self.solver is not None:
            case["solver"] = self.solver
        if self.op == "conservative_loss":
            case["data_groups"] = data_groups
        for name, value in self.more.items():
            case[name] = value if isinstance(value, float) else value.float()
        if self.critic is not None:
            q = self.critic.to(torch.float32)
            case |= {"critic.program": q.program.encode(), "critic.table": q.table}
            case |= weight_arrays(q.weights, prefix="critic.")
            if self.rng:
                case["critic.rng"] = RNG + 1
        if self.precision == "bf16" and self.rounds == "both":
            exact = self._results(torch.float32, ops, precision="bf16")
            case |= {f"tolerance.{name}": LOSS_BF16 for name in exact}
            return case | {f"expected.{name}": value.double() for name, value in exact.items()}
        exact, own = self._results(torch.float64), self._results(torch.float32)
        return case | expectations(exact, own)

    def _results(self, dtype, op=reference, **how) -> dict:
        p = self._given(self.problem, op).to(dtype)
        m = {k: v if isinstance(v, float) else v.float().to(dtype) for k, v in self.more.items()}
        rng = RNG if self.rng or not self.x else None
        if self.op == "denoising_loss":
            loss = op.denoising_loss(p.x, *p.net, m["target"], rng, **how)
            result = {"loss": loss}
        elif self.op == "conservative_loss":
            density = m["log_densities"] if "log_densities" in m else m["log_density"]
            loss, td, cql, q = op.conservative_loss(
                m["act"], m["proposed"], *p.net, m["target"], rng,
                cql_weight=m["cql_weight"], log_density=density, **how,
            )  # fmt: skip
            result = {"loss": loss, "parts": torch.stack([td, cql]), "q": q}
        else:
            c = self._given(self.critic, op).to(dtype)
            loss, q, act = op.chain_value(
                p.x if self.x else None, *p.net, self.solver,
                critic=(c.weights, c.table, c.program), rng=rng,
                critic_rng=RNG + 1 if self.rng else None,
                batch=None if self.x else p.x.size(1),
                out_low=self.limits[0], out_high=self.limits[1], **how,
            )  # fmt: skip
            result = {"loss": loss, "q": q, "act": act}
        leaves = {"x": p.x, "cond": p.cond, "table": p.table}
        leaves = {k: v for k, v in leaves.items() if k in self.want and v is not None}
        leaves |= {f"weights.{i}": w for i, w in enumerate(p.weights) if "weights" in self.want}
        grads = torch.autograd.grad(loss.sum(), list(leaves.values()), allow_unused=True)
        for (name, leaf), grad in zip(leaves.items(), grads, strict=True):
            result[name] = torch.zeros_like(leaf) if grad is None else grad
        return {name: t.detach() for name, t in result.items()}

    def _given(self, p: Problem, op) -> Problem:
        """As the kernels get it, float32 first; with the weights that they make of theirs."""
        p = p.to(torch.float32)
        if op is reference and self.precision == "bf16":
            with torch.no_grad():
                for w in p.weights:
                    w.copy_(w.bfloat16())
        return p


def denoising(name, p, **kw):
    groups, batch = p.x.shape[:2]
    return Loss("denoising_loss", name, p, {"target": draw(groups, batch, 3)}, **kw)


def conservative(name, program, groups, batch, actions, twins=2, each=False, **kw):
    p = problem(program, groups * twins, batch)
    if p.cond is not None:
        p.cond = p.cond[:groups]
    A = program.x_width
    more = {
        "act": draw(groups, batch, A),
        "proposed": draw(groups, batch, actions, A, seed=2),
        "target": draw(groups, batch),
        "cql_weight": 0.3,
    }
    more |= {"log_densities": 3 * draw(groups, batch, actions, seed=4)} if each else {}
    more |= {} if each else {"log_density": -1.4}
    return Loss("conservative_loss", name, p, more, want=("table", "weights"), **kw)


def chain(name, p, critic, steps, **kw):
    rater = problem(critic, p.table.size(1), 1, seed=5)
    kw.setdefault("solver", solver_table(steps))
    return Loss("chain_value", name, p, want=("table", "weights"), critic=rater, **kw)


def losses(precision):
    cases = [
        denoising("mlp", problem(mlp(3, 5, 37), 2, 51)),
        denoising("one row", problem(mlp(3, 5, 37), 3, 1)),
        denoising("tiles", problem(mlp(3, 5, 37), 1, 400), want=("table", "weights")),
        denoising("everything", problem(everything(3, 5, 21, dropout=0.3), 3, 44, given_cond=4),
                  rng=True),
        conservative("mlp", mlp(2, 7, 33, act=Act.RELU, out=1), 3, 33, 10),
        conservative("17 actions", mlp(2, 4, 20, out=1), 2, 5, 17, each=True),
        conservative("130 actions", mlp(2, 4, 20, out=1), 2, 5, 130),
        conservative("everything", everything(1, 5, 21, dropout=0.3), 2, 30, 6, rng=True),
        chain("mlp", problem(mlp(3, 5, 37), 3, 129, 5), mlp(3, 5, 20, out=1), 5),
        chain("drawn and clipped", problem(mlp(3, 5, 37), 2, 40, 4), mlp(3, 5, 20, out=1), 4,
              x=False, limits=(-0.5, 0.5),
              solver=solver_table(4, clip=1.1, noise=0.3, previous=-0.2, before=0.15)),
        chain("everything", problem(everything(1, 5, 21, dropout=0.3), 2, 44, 3, given_cond=4),
              everything(1, 5, 13, dropout=0.3), 3, rng=True),
    ]  # fmt: skip
    return [replace(case, precision=precision) for case in cases]


def more_loops(precision):
    """Batches that end a tile of rows, and one of registers, in every way."""
    plain = {"solver": solver_table(2), "steps": 2, "precision": precision}
    cases = [
        Loop(f"{precision} {batch} rows", mlp(3, 5, 70), "", batch=batch, **plain)
        for batch in (2, 3, 4, 6, 7, 8, 33, 130)
    ]
    cases += [replace(case, name=f"{case.name}, backward", want=GRADIENTS) for case in cases]
    drawn = everything(3, 5, 101, dropout=0.25)
    cases.append(
        Loop(f"{precision} drawn", drawn, "", batch=300, precision=precision, **DRAWN, **NOISY)
    )
    return cases


CASES = [
    *(
        replace(c, each_row=False)
        for p in DTYPE
        for c in (*forward(p), *backward(p), *more_loops(p))
    ),
    *(c for p in DTYPE for c in losses(p)),
    *SAMPLES,
    *(Activation(act, op) for act in Act for op in ("forward", "backward")),
]


def cases(isa: str) -> list | None:
    """Those of an instruction set; None where this machine can't say what it should give."""
    if isa != "avx512_bf16":
        return CASES
    if backend.isa_active() != isa:
        return None
    return [replace(c, rounds="both") if isinstance(c, Loss) else c for c in CASES]
