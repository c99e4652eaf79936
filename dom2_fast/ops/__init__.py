"""The ops, typed. Each runs the compiled kernel, or the reference where there is none.

Shapes are documented in `reference`, which defines the results. The schemas and all argument checks
are in csrc/ops; fake kernels and autograd formulas are registered in `_register`.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch

from dom2_fast.errors import Dom2Error
from dom2_fast.ops import backend, reference
from dom2_fast.ops.program import StepProgram

if backend.available():
    from dom2_fast.ops import _register

    _NATIVE = _register.register()  # with fake kernels and autograd
else:
    _NATIVE = None


# Of the operands of matrix products; sums, activations and results are float32 either way.
PRECISIONS = {"fp32": 0, "bf16": 1}


def check_precision(precision: str) -> int:
    """The number that the ops take for a precision; raises Dom2Error for an unknown one."""
    try:
        return PRECISIONS[precision]
    except (KeyError, TypeError):
        raise Dom2Error(
            f"precision is {precision!r}; it must be one of {', '.join(map(repr, PRECISIONS))}"
        ) from None


def make_rng(
    generator: torch.Generator | None = None, device: torch.device | None = None
) -> torch.Tensor:
    """(seed, offset) for one op call: int64 [2], each uniform in [0, 2**32), 64 bits in one call.

    Drawn from `generator`, on its device; by default from torch's own for `device` (the CPU), so
    that `torch.manual_seed` governs. On a GPU the default stays there and a captured CUDA graph
    draws anew in every replay; a CPU generator gives the CPU's numbers, fixed once captured.
    """
    if generator is not None:
        device = generator.device
    return torch.randint(2**32, (2,), dtype=torch.int64, generator=generator, device=device)


def run_program(
    x: torch.Tensor,
    cond: torch.Tensor | None,
    weights: Sequence[torch.Tensor],
    table: torch.Tensor,
    program: StepProgram,
    rng: torch.Tensor | None = None,
    *,
    precision: str = "fp32",
) -> torch.Tensor:
    """One pass of a step program: [G, B, x_width] -> [G, B, out width].

    Arguments and meaning as `reference.run_program`. Differentiable once in x, cond, weights and
    table. precision: "fp32", or "bf16" for matrix products of operands rounded to bf16 (8 bits)
    with float32 sums, about twice as fast on tensor cores and on processors with AVX512-BF16; on
    others the weights alone are rounded, which one row of a large network gains from
    (docs/precision.md).
    Raises RuntimeError naming the argument whose shape, dtype or device doesn't fit.
    """
    if _NATIVE is None:
        backend.warn_if_missing()
        return reference.run_program(x, cond, weights, table, program, rng)
    net = cond, list(weights), table, program.encode()
    return _NATIVE.run_program(x, *net, rng, program.out.width, check_precision(precision))


def denoise(
    x_T: torch.Tensor | None,
    cond: torch.Tensor | None,
    weights: Sequence[torch.Tensor],
    table: torch.Tensor,
    program: StepProgram,
    solver: torch.Tensor,
    noise: torch.Tensor | None = None,
    *,
    batch: int | None = None,
    rng: torch.Tensor | None = None,
    out_low: float = -float("inf"),
    out_high: float = float("inf"),
    packed: torch.Tensor | None = None,
    precision: str = "fp32",
) -> torch.Tensor:
    """The whole denoising loop in one call: -> [G, B, A].

    Arguments and meaning as `reference.denoise`. `packed` is `pack_weights(weights, program)` made
    before, with the same precision, for calls that reuse the weights; where no gradient is taken
    only it is read. Differentiable once in x_T, cond, weights, table. precision: as in
    `run_program`.
    Raises RuntimeError naming the argument whose shape, dtype or device doesn't fit.
    """
    if _NATIVE is None:
        backend.warn_if_missing()
        how = {"batch": batch, "rng": rng, "out_low": out_low, "out_high": out_high}
        return reference.denoise(x_T, cond, weights, table, program, solver, noise, **how)
    if x_T is not None:
        batch = x_T.shape[1]
    save_path = torch.is_grad_enabled() and any(
        t is not None and t.requires_grad for t in (x_T, cond, table, *weights)
    )
    if save_path and program.x_width == 0:  # no steps: one pass, clipped
        x = table.new_empty((table.shape[1], batch, 0))
        out = run_program(x, cond, weights, table, program, rng, precision=precision)
        return out.clamp(out_low, out_high)
    if packed is not None and not save_path:
        weights = ()  # not looked at: one tensor is quicker to hand over than many
    net = cond, list(weights), table, program.encode()
    loop = solver, noise, rng, packed, [batch, program.out.width], out_low, out_high
    out, _ = _NATIVE.denoise(x_T, *net, *loop, save_path, check_precision(precision))
    return out


def _fused(name: str, like: torch.Tensor):
    """The native op that gives a loss with its gradients; None where it is composed of others."""
    if _NATIVE is None:
        backend.warn_if_missing()
    return getattr(_NATIVE, name) if _NATIVE is not None and like.is_cpu else None


def _wanted(*values) -> bool:
    """Does autograd want the gradient of one of these?"""
    return torch.is_grad_enabled() and any(v is not None and v.requires_grad for v in values)


def denoising_loss(
    x: torch.Tensor,
    cond: torch.Tensor | None,
    weights: Sequence[torch.Tensor],
    table: torch.Tensor,
    program: StepProgram,
    target: torch.Tensor,
    rng: torch.Tensor | None = None,
    *,
    precision: str = "fp32",
) -> torch.Tensor:
    """Each group's mean of (program(x, cond) - target)^2, [G]. target: [G, B, out width].

    With x = alpha_t act + sigma_t eps and target eps the denoising loss of Ho et al. 2020, eq. 14.
    Arguments and meaning as `reference.denoising_loss`. Differentiable once in x, cond, weights,
    table and target. On the CPU the gradients are made in the same pass, while a tile's activations
    are in cache, and kept until backward; elsewhere `run_program` and PyTorch compose it.
    Raises RuntimeError naming the argument whose shape, dtype or device doesn't fit.
    """
    native = _fused("denoising_loss", x)
    if native is None or _wanted(target):
        out = run_program(x, cond, weights, table, program, rng, precision=precision)
        return reference.mean_square(out, target)
    net = cond, list(weights), table, program.encode()
    wanted = _wanted(x), _wanted(cond), _wanted(*weights), _wanted(table)
    return native(x, *net, target, rng, check_precision(precision), *wanted)[0]


def conservative_loss(
    act: torch.Tensor,
    proposed: torch.Tensor,
    cond: torch.Tensor | None,
    weights: Sequence[torch.Tensor],
    table: torch.Tensor,
    program: StepProgram,
    target: torch.Tensor,
    rng: torch.Tensor | None = None,
    *,
    cql_weight: float,
    log_density: float | torch.Tensor,
    precision: str = "fp32",
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Conservative critics: (loss, td, cql) of each, [K G], and their Q, [K G, B, 1 + M].

        td  = E (Q(o, a) - y)^2
        cql = E [log sum_m exp(Q(o, u_m) - log_density) - Q(o, a)]     (Kumar et al. 2020, eq. 4)
        loss = td + cql_weight cql

    act [G, B, A] is a, proposed [G, B, M, A] are the u, target [G, B] is y; the K critics of each
    group share them and cond [G, B, O]: their weights are [K G, ...], first all groups' first
    critic, then all groups' second one. log_density: a number, or [G, B, M] where the u were drawn
    from several densities. Meaning as `reference.conservative_loss`. `loss` is differentiable once
    in all tensors, the others aren't. Where weights and table alone want gradients, on the CPU,
    these are made in the same pass; else `run_program` and PyTorch compose it.
    Raises RuntimeError naming the argument whose shape, dtype or device doesn't fit.
    """
    native = _fused("conservative_loss", act)
    each = log_density if isinstance(log_density, torch.Tensor) else None
    if native is None or _wanted(act, proposed, cond, target, each):
        x, cond = reference.critic_input(act, proposed, cond, table)
        q = run_program(x, cond, weights, table, program, rng, precision=precision)
        return reference.conservative(q, target, 1 + proposed.size(2), cql_weight, log_density)
    net = cond, list(weights), table, program.encode()
    how = cql_weight, log_density if each is None else 0.0, each, check_precision(precision)
    wanted = _wanted(*weights), _wanted(table)
    loss, parts, q, _, _ = native(act, proposed, *net, target, rng, *how, *wanted)
    return loss, parts[0], parts[1], q


def chain_value(
    x_T: torch.Tensor | None,
    cond: torch.Tensor | None,
    weights: Sequence[torch.Tensor],
    table: torch.Tensor,
    program: StepProgram,
    solver: torch.Tensor,
    noise: torch.Tensor | None = None,
    *,
    critic: tuple[Sequence[torch.Tensor], torch.Tensor, StepProgram],
    critic_rng: torch.Tensor | None = None,
    batch: int | None = None,
    rng: torch.Tensor | None = None,
    out_low: float = -float("inf"),
    out_high: float = float("inf"),
    precision: str = "fp32",
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A critic's value of sampled actions: its mean over the rows, [G]; all, [G, B]; the actions.

    E Q(o, a~), a~ ~ pi(. | o) through the whole denoising loop: the actor's second term in DOM2 and
    in Diffusion-QL (Wang et al. 2023, eq. 3). The draws are those of `denoise` with the same `rng`;
    `critic` is (weights, table, program), `critic_rng` gives its dropout masks. Other arguments and
    meaning as `reference.chain_value`. The mean is differentiable once in x_T, cond, all weights
    and tables; the values and the actions, [G, B, A], aren't. Where the policy's weights and table
    alone want gradients, on the CPU, these are made in the same pass; else `denoise`, `run_program`
    and PyTorch compose it.
    Raises RuntimeError naming the argument whose shape, dtype or device doesn't fit.
    """
    native = _fused("chain_value", table)
    critic_weights, critic_table, critic_program = critic
    if native is None or _wanted(x_T, cond, noise, critic_table, *critic_weights):
        bounds = {"out_low": out_low, "out_high": out_high}
        how = {"batch": batch, "rng": rng, "precision": precision} | bounds
        act = denoise(x_T, cond, weights, table, program, solver, noise, **how)
        q = run_program(act, cond, *critic, critic_rng, precision=precision)
        return *reference.mean_value(q), act.detach()
    batch = batch if x_T is None else x_T.shape[1]
    net = cond, list(weights), table, program.encode()
    rater = list(critic_weights), critic_table, critic_program.encode(), critic_rng
    how = [batch, program.out.width], out_low, out_high, check_precision(precision)
    wanted = _wanted(*weights), _wanted(table)
    return native(x_T, *net, solver, noise, rng, *rater, *how, *wanted)[:3]


def pack_weights(
    weights: Sequence[torch.Tensor], program: StepProgram, precision: str = "fp32"
) -> torch.Tensor | None:
    """The weights in the native executor's own layout, for `denoise(packed=...)`.

    Opaque, [G, n] float32; valid as long as the weights don't change, on the device and for the
    precision that it was made for. None without an extension.
    """
    number = check_precision(precision)
    return (
        None if _NATIVE is None else _NATIVE.pack_weights(list(weights), program.encode(), number)
    )


def actor(
    program: StepProgram,
    table: torch.Tensor,
    solver: torch.Tensor,
    packed: torch.Tensor,
    *,
    stacked: bool,
    out_low: float,
    out_high: float,
    watch=None,
    precision: str = "fp32",
):
    """`denoise` for a handful of rows on the CPU, without the way through the dispatcher.

    `.sample(obs, x_T, generator)` gives actions for obs [B, O] or [O] ([G, B, O] if `stacked`), the
    same bits as `denoise` with these arguments; or None where that must be called: `watch`
    (`lowering.stamp.Stamp`) finds a change, obs or x_T is no contiguous float32 CPU tensor of the
    right shape, or there is work for more than one thread. No gradients. None without an extension.
    """
    if _NATIVE is None:
        return None
    return backend.extension().Actor(
        program.encode().tolist(),
        table.contiguous(),
        solver,
        packed,
        check_precision(precision) == 1,
        stacked,
        out_low,
        out_high,
        watch,
        make_rng,
        functools.partial(torch.empty, dtype=torch.float32),
        torch.Tensor,
        torch.float32,
    )


def alias_table(weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Alias tables of weights [G, n] >= 0, each row's sum > 0. See `reference.alias_table`.

    Made on the CPU, returned where `weights` are.
    """
    made = (reference if _NATIVE is None else _NATIVE).alias_table(weights.double().cpu())
    return made if weights.is_cpu else tuple(t.to(weights.device) for t in made)


def sample_transitions(
    fields: Sequence[torch.Tensor],
    threshold: torch.Tensor,
    alias: torch.Tensor,
    starts: torch.Tensor,
    batch: int,
    rng: torch.Tensor,
    *,
    check: bool = True,
) -> tuple[list, torch.Tensor]:
    """Weighted draw and gather of all fields in one call. See `reference.sample_transitions`.

    Fields are [N] or [N, d], float32 or float64; results are float32. `check=False` skips looking
    through the alias table and `starts`, for callers whose tables have passed once.
    """
    if _NATIVE is None:
        backend.warn_if_missing()
        return reference.sample_transitions(fields, threshold, alias, starts, batch, rng)
    groups = threshold.shape[0]
    flat, index = _NATIVE.sample_transitions(
        list(fields), threshold, alias, starts, rng, batch, check
    )
    outs = []
    for f, out in enumerate(flat):
        shapes = [t.shape[1:] for t in fields[f * groups : (f + 1) * groups]]
        if all(s == shapes[0] for s in shapes):
            outs.append(out.view(groups, batch, *shapes[0]))
        else:
            parts = out.split([batch * s.numel() for s in shapes])
            outs.append([p.view(batch, *s) for p, s in zip(parts, shapes, strict=True)])
    return outs, index


def clip_groups(grads: Sequence[torch.Tensor], most: float) -> None:
    """Scales each group's part of the gradients [G, ...] to a norm of at most `most`, in place.

    One native call for contiguous float32 tensors on the CPU; else `reference.clip_groups`. The
    gradients have one G; no group's norm counts for another.
    """
    grads = list(grads)
    plain = _NATIVE is not None and all(
        g.dtype is torch.float32 and g.is_cpu and g.is_contiguous() for g in grads
    )
    (backend.extension() if plain else reference).clip_groups(grads, most)


def means(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """The mean of each tensor, [n], without gradients; of an empty one NaN.

    One native call, summing in float64, for float32 tensors on the CPU; else `reference.means`.
    """
    tensors = list(tensors)
    if _NATIVE is None or not all(t.dtype is torch.float32 and t.is_cpu for t in tensors):
        return reference.means(tensors)
    out = torch.empty(len(tensors), dtype=torch.float32)
    backend.extension().means(tensors, out)
    return out


def drawer(fields, threshold, alias, starts):
    """`sample_transitions` from one CPU data set, again and again, past the dispatcher.

    `.draw(batch, rng)` gives what `sample_transitions` gives, `rng` on the CPU. Checks the tables
    now; the tensors must not be resized. None where fields differ between agents, aren't on the
    CPU, or there is no extension.
    Raises RuntimeError as `sample_transitions` does.
    """
    groups = threshold.shape[0]
    same = all(
        t.is_cpu and t.shape == fields[i // groups * groups].shape for i, t in enumerate(fields)
    )
    if _NATIVE is None or not same:
        return None
    sample_transitions(fields, threshold, alias, starts, 0, torch.zeros(2, dtype=torch.int64))
    longs = functools.partial(torch.empty, dtype=torch.int64)
    floats = functools.partial(torch.empty, dtype=torch.float32)
    return backend.extension().Drawer(
        list(fields),
        threshold.contiguous(),
        alias.contiguous(),
        starts.contiguous(),
        floats,
        longs,
        torch.float64,
    )
