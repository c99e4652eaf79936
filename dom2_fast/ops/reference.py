"""What the ops mean, in plain PyTorch: any device, any floating dtype, differentiable by autograd.

Short and obviously right; nothing here is tuned. Every executor is tested against this file.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from dom2_fast import activations
from dom2_fast.ops import philox
from dom2_fast.ops.program import COND, Op, Slice, StepProgram, X


def _one_pass(program: StepProgram, env: dict, weights, table_row, *, once: bool, mask) -> None:
    """Runs the instructions of one phase. env: buffer id -> [G, B, width], filled in place."""

    def read(s: Slice):
        return env[s.buffer][..., s.start : s.start + s.width]

    def columns(first: int, width: int):  # [G, 1, width]
        return table_row[:, None, first : first + width]

    for i in program.instrs:
        if i.once != once:
            continue
        a, n = read(i.a), i.out.width
        if i.op is Op.LINEAR:
            value = a @ weights[i.weight].transpose(-1, -2)
            if i.table >= 0:
                value = value + columns(i.table, n)
            if i.b is not None:
                value = value + read(i.b)
            value = activations.FUNCTIONS[i.act](value)
            if i.c is not None:
                value = value + read(i.c)
        elif i.op is Op.ACTIVATION:
            value = activations.FUNCTIONS[i.act](a)
        elif i.op is Op.ADD:
            value = a + (read(i.b) if i.b is not None else columns(i.table, n))
        elif i.op is Op.MUL:
            value = a * (read(i.b) if i.b is not None else columns(i.table, n))
        elif i.op is Op.LAYER_NORM:
            value = F.layer_norm(a, (n,), eps=i.value)
            if i.table >= 0:
                value = value * columns(i.table, n)
            if i.table2 >= 0:
                value = value + columns(i.table2, n)
        elif i.op is Op.DROPOUT:
            value = a * mask(i) / (1.0 - i.value)
        elif i.op is Op.COPY:
            value = a
        if i.op is Op.COPY and i.out.start > 0:
            value = torch.cat([env[i.out.buffer], value], -1)  # parts are written in order
        env[i.out.buffer] = value


def _repeat_cond(cond: torch.Tensor | None, groups: int, batch: int, like: torch.Tensor):
    if cond is None:
        return like.new_zeros(groups, batch, 0)
    return cond.repeat_interleave(batch // max(cond.size(1), 1), 1) if cond.size(1) else cond


def run_program(
    x: torch.Tensor,  # [G, B, x_width]
    cond: torch.Tensor | None,  # [G, B / r, cond_width]: one serves r cond of x
    weights: Sequence[torch.Tensor],  # [G, N, K] each
    table: torch.Tensor,  # [1, G, table_width]
    program: StepProgram,
    rng: torch.Tensor | None = None,  # int64 [2]; needed if the program has dropout
    *,
    precision: str = "fp32",  # of the executors; here the tensors' dtype counts
) -> torch.Tensor:  # [G, B, out width]
    """One pass of a step program."""
    groups, batch = x.shape[:2]
    env = {X: x, COND: _repeat_cond(cond, groups, batch, x)}
    return _step(program, env, weights, table, 0, rng, groups * batch)


def _step(program, env, weights, table, step: int, rng, flat_rows: int) -> torch.Tensor:
    groups, batch = env[X].shape[:2]

    def mask(i):
        stream = philox.DROPOUT + step * program.sites + i.site
        keep = philox.keep_mask(rng, stream, flat_rows, i.out.width, i.value, env[X].device)
        return keep.reshape(groups, batch, i.out.width).to(env[X].dtype)

    if step == 0:
        _one_pass(program, env, weights, table[0], once=True, mask=mask)
    _one_pass(program, env, weights, table[step], once=False, mask=mask)
    o = program.out
    return env[o.buffer][..., o.start : o.start + o.width]


def denoise(
    x_T: torch.Tensor | None,  # [G, B, A]; None: drawn from rng
    cond: torch.Tensor | None,  # [G, B / r, cond_width]
    weights: Sequence[torch.Tensor],  # [G, N, K] each
    table: torch.Tensor,  # [S, G, table_width]
    program: StepProgram,
    solver: torch.Tensor,  # float64 [S, 9], see dom2_fast.policies.solvers
    noise: torch.Tensor | None = None,  # [S, G, B, A]; None: drawn from rng where c_noise != 0
    *,
    batch: int | None = None,  # B, needed where x_T is None
    rng: torch.Tensor | None = None,  # int64 [2]: (seed, offset)
    out_low: float = -float("inf"),
    out_high: float = float("inf"),
    precision: str = "fp32",  # of the executors; here the tensors' dtype counts
) -> torch.Tensor:  # [G, B, A]
    """The whole denoising loop.

    Every step is, with one row of the solver table
    (inv_alpha, sigma_over_alpha, c_x, c_x0, c_prev, c_noise, low, high, c_prev2):

        eps = program(x);  x0 = clip(inv_alpha x - sigma_over_alpha eps, low, high)
        x   = c_x x + c_x0 x0 + c_prev x0_previous + c_prev2 x0_before_that + c_noise z

    and the result is clipped to [out_low, out_high]. A program without x (x_width 0) makes the
    action itself: it takes no steps, so a solver [0, 9], and a table [1, G, table_width].
    """
    if program.x_width == 0:
        x = table.new_empty(table.size(1), batch, 0) if x_T is None else x_T
        return torch.clamp(run_program(x, cond, weights, table, program, rng), out_low, out_high)
    groups, flat = table.size(1), table.size(1) * (batch if x_T is None else x_T.size(1))
    if x_T is None:
        x_T = draw_start(rng, groups, batch, program.x_width, table)
    env = {COND: _repeat_cond(cond, groups, x_T.size(1), x_T)}

    def predict(step: int, x: torch.Tensor) -> torch.Tensor:
        env[X] = x
        return _step(program, env, weights, table, step, rng, flat)

    return solve(predict, x_T, solver, noise, rng, out_low, out_high)


def draw_start(rng, groups: int, batch: int, width: int, like: torch.Tensor) -> torch.Tensor:
    """x_T [G, B, A] from Philox stream 0, in the dtype and on the device of `like`."""
    x_T = philox.normals(rng, 0, groups * batch, width, dtype=like.dtype, device=like.device)
    return x_T.reshape(groups, batch, width)


def solve(predict, x, solver, noise, rng, out_low: float, out_high: float) -> torch.Tensor:
    """The loop of `denoise` for any predict(step, x [G, B, A]) -> eps [G, B, A]."""
    previous = before = torch.zeros_like(x)
    for s, row in enumerate(solver.tolist()):
        inv_alpha, sigma_over_alpha, c_x, c_x0, c_prev, c_noise, low, high, c_prev2 = row
        x0 = torch.clamp(inv_alpha * x - sigma_over_alpha * predict(s, x), low, high)
        x = c_x * x + c_x0 * x0 + c_prev * previous
        if c_prev2 != 0.0:
            x = x + c_prev2 * before
        if c_noise != 0.0:
            if noise is None:
                rows, width = x.size(0) * x.size(1), x.size(2)
                z = philox.normals(rng, 1 + s, rows, width, dtype=x.dtype, device=x.device)
            else:
                z = noise[s]
            x = x + c_noise * z.reshape(x.shape)
        previous, before = x0, previous
    return torch.clamp(x, out_low, out_high)


def denoising_loss(
    x: torch.Tensor,  # [G, B, x_width]
    cond: torch.Tensor | None,  # [G, B / r, cond_width]
    weights: Sequence[torch.Tensor],  # [G, N, K] each
    table: torch.Tensor,  # [1, G, table_width]
    program: StepProgram,
    target: torch.Tensor,  # [G, B, out width]
    rng: torch.Tensor | None = None,  # int64 [2]; needed if the program has dropout
    *,
    precision: str = "fp32",  # of the executors; here the tensors' dtype counts
) -> torch.Tensor:  # [G]
    """Each group's mean squared error of `run_program` against `target`."""
    return mean_square(run_program(x, cond, weights, table, program, rng), target)


def mean_square(out: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """[G, B, width] -> [G]."""
    return (out - target).square().mean((1, 2))


def conservative_loss(
    act: torch.Tensor,  # [G, B, x_width], the data's actions
    proposed: torch.Tensor,  # [G, B, M, x_width], the CQL term's
    cond: torch.Tensor | None,  # [G, B, cond_width]
    weights: Sequence[torch.Tensor],  # [K G, N, K'] each: K critics of the first group's data, ...
    table: torch.Tensor,  # [1, K G, table_width]
    program: StepProgram,  # returns one column, Q
    target: torch.Tensor,  # [G, B], y
    rng: torch.Tensor | None = None,  # int64 [2]; needed if the program has dropout
    *,
    cql_weight: float,
    log_density: float | torch.Tensor,  # of the proposed actions: one for all, or [G, B, M]
    precision: str = "fp32",  # of the executors; here the tensors' dtype counts
) -> tuple[torch.Tensor, ...]:
    """Conservative critics' losses, see `conservative`. Critics k, k + G, ... share data k."""
    x, cond = critic_input(act, proposed, cond, table)
    q = run_program(x, cond, weights, table, program, rng)
    return conservative(q, target, 1 + proposed.size(2), cql_weight, log_density)


def critic_input(act, proposed, cond, table):
    """x [K G, B (1 + M), x_width] and cond [K G, B, cond_width], the same for all K critics."""
    twins = table.size(1) // act.size(0)
    x = torch.cat([act.unsqueeze(2), proposed], 2).flatten(1, 2).repeat(twins, 1, 1)
    return x, None if cond is None else cond.repeat(twins, 1, 1)


def conservative(
    q, target, actions: int, cql_weight: float, log_density: float | torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """From Q of the data's action and of M others, per row: [K G, B actions, 1], actions = 1 + M.

        td  = E (Q_0 - y)^2;  cql = E [log sum_m exp(Q_m - log_density) - Q_0]

    Returns td + cql_weight cql, td, cql [K G] each, and Q [K G, B, 1 + M]; only the first has a
    gradient.
    """
    twins = q.size(0) // target.size(0)
    target = target.repeat(twins, 1)
    if isinstance(log_density, torch.Tensor):
        log_density = log_density.repeat(twins, 1, 1)
    q = q.reshape(*target.shape, actions)
    td = (q[..., 0] - target).square().mean(1)
    cql = (torch.logsumexp(q[..., 1:] - log_density, 2) - q[..., 0]).mean(1)
    return td + cql_weight * cql, td.detach(), cql.detach(), q.detach()


def chain_value(
    x_T: torch.Tensor | None,
    cond: torch.Tensor | None,  # [G, B / r, cond_width], read by the policy and by the critic
    weights: Sequence[torch.Tensor],
    table: torch.Tensor,
    program: StepProgram,
    solver: torch.Tensor,
    noise: torch.Tensor | None = None,
    *,
    critic: tuple,  # (weights, table, program) of the critic, as in `run_program`: one column
    critic_rng: torch.Tensor | None = None,  # needed if the critic has dropout
    precision: str = "fp32",  # of the executors; here the tensors' dtype counts
    **how,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The critic's mean value of what `denoise` gives, [G], its values, [G, B], and the actions.

    The last two, [G, B] and [G, B, A], are constants.
    """
    act = denoise(x_T, cond, weights, table, program, solver, noise, **how)
    return *mean_value(run_program(act, cond, *critic, critic_rng)), act.detach()


def means(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """The mean of each tensor, [n], without gradients."""
    return torch.stack([t.detach().mean() for t in tensors])


def clip_groups(grads: Sequence[torch.Tensor], most: float) -> None:
    """Scales each group's part of the gradients [G, ...] to a norm of at most `most`, in place."""
    norms = [torch.linalg.vector_norm(g.flatten(1), dim=1) for g in grads]
    norm = torch.linalg.vector_norm(torch.stack(norms), dim=0)  # [G]
    scale = (most / (norm + 1e-6)).clamp(max=1.0)
    shaped = {n: scale.view(-1, *[1] * (n - 1)) for n in {g.ndim for g in grads}}
    torch._foreach_mul_(list(grads), [shaped[g.ndim] for g in grads])


def mean_value(q: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """[G, B, 1] -> its mean [G], and itself [G, B] without a gradient."""
    return q.mean((1, 2)), q.detach().squeeze(2)


def alias_table(weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Alias tables (Walker 1977; Vose 1991) of weights [G, n] >= 0, float64, each row's sum > 0.

    Returns threshold int64 [G, n] in [0, 2**32] and alias int64 [G, n]: column j keeps itself for a
    32-bit word < threshold[j], else it stands for alias[j].
    """
    thresholds, aliases = [], []
    for row in weights.double().cpu().numpy():
        n = len(row)
        scaled = row * (n / row.sum())
        alias = np.arange(n)
        small = [j for j in range(n) if scaled[j] < 1.0]
        large = [j for j in range(n) if scaled[j] >= 1.0]
        while small and large:
            s, g = small.pop(), large[-1]
            alias[s] = g
            scaled[g] -= 1.0 - scaled[s]
            if scaled[g] < 1.0:
                small.append(large.pop())
        for j in small + large:  # left over by rounding: they keep themselves
            scaled[j] = 1.0
        thresholds.append(torch.from_numpy(np.floor(scaled * 2.0**32).astype(np.int64)))
        aliases.append(torch.from_numpy(alias))
    return torch.stack(thresholds), torch.stack(aliases)


def sample_transitions(
    fields: Sequence[torch.Tensor],  # [N, ...] each; field-major, agent-minor: fields[f * G + g]
    threshold: torch.Tensor,  # int64 [G, n]
    alias: torch.Tensor,  # int64 [G, n]
    starts: torch.Tensor,  # int64 [n + 1]: trajectory j is rows starts[j] .. starts[j + 1] - 1
    batch: int,
    rng: torch.Tensor,  # int64 [2]
    dtype: torch.dtype = torch.float32,
) -> tuple[list, torch.Tensor]:
    """Draws `batch` transitions per agent: a trajectory by weight, then a step uniformly inside.

    Draw b of agent g uses Philox block g * batch + b, words w0..w3:
    column j = w0 n >> 32, trajectory = j if w1 < threshold[j] else alias[j],
    step = w2 length >> 32.
    Returns (outs, index): outs[f] is [G, batch, ...], or a list of [batch, ...] where the agents'
    shapes differ; index int64 [G, batch] are the rows drawn.
    """
    groups, n = threshold.shape
    w = philox.blocks(rng, philox.SAMPLE, torch.arange(groups * batch)).reshape(groups, batch, 4)
    column = (w[..., 0] * n) >> 32
    keep = w[..., 1] < threshold.gather(1, column)
    chosen = torch.where(keep, column, alias.gather(1, column))
    length = starts[1:] - starts[:-1]
    index = starts[chosen] + ((w[..., 2] * length[chosen]) >> 32)
    outs = []
    for f in range(0, len(fields), groups):
        parts = [fields[f + g][index[g]].to(dtype) for g in range(groups)]
        same = all(p.shape == parts[0].shape for p in parts)
        outs.append(torch.stack(parts) if same else parts)
    return outs, index
