"""A faster backend for other people's code: `accelerate(obj)` samples obj by the native loop.

What is accepted is told by structure, not by class name; what is refused is told why, before
anything was changed. See docs/accelerate.md. How a table is written is in `tables`, `dpm` and
`scheduler`; one file for each kind of object.
"""

from __future__ import annotations

import inspect
import sys
import types

from dom2_fast.errors import Dom2Error

_ACCEPTED = (
    "a torch.nn.Module that is called net(x, t, obs); a Diffusion of Diffusion-QL's kind (betas, "
    "p_sample_loop) or an agent that holds one; an SfBC score network (marginal_prob_std, "
    "dpm_solver); a DPM_Solver (noise_schedule, model)"
)


def accelerate(obj, **options):
    """An object that behaves like obj, shares its parameters, and samples in one native call.

    obj, and the options of each kind (any other is refused):

    * an agent with Diffusion attributes (actor, ema_model): solver, steps, obs_dim
    * a Diffusion (Diffusion-QL): the same. solver and steps replace its ancestral sampling.
    * an SfBC score network: solver, obs_dim, act_dim
    * a DPM_Solver made with `model_wrapper`: act_dim
    * a network net(x [B, A], t [B], obs [B, O]) -> [B, A]: schedule (ours, a NoiseScheduleVP or a
      diffusers scheduler; default `VPSchedule()`), solver, steps, predict ("eps", "x0", "v",
      "score"), obs_dim, act_dim, act_low, act_high, clip_x0, call. It gains
      sample(obs), act(obs) and bc_loss(obs, act). call(net, x, t, obs) is for a network with
      another order or shape of arguments.

    Every kind takes backend ("auto", "native" or "reference") and precision ("fp32" or "bf16", of
    matrix products), see `DiffusionPolicy`.
    The result has obj's methods and `state_dict` keys, and its tensors: training it trains obj.
    Samples are drawn from Philox, keyed by torch's generator: another stream than torch.randn's.
    Raises Dom2Error for what can't be accelerated, naming the condition; obj is then as before.
    """
    function = _function_for(obj)
    known = [n for n, p in inspect.signature(function).parameters.items() if _is_option(p)]
    if function.__name__ == "accelerate_agent":
        known = ["solver", "steps", "obs_dim", "backend", "precision"]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise Dom2Error(
            f"accelerate({type(obj).__name__}) takes the options {known}, not {unknown}"
        )
    from dom2_fast.ops import check_precision
    from dom2_fast.ops.executor import check_backend

    check_backend(options.get("backend", "auto"))
    check_precision(options.get("precision", "fp32"))
    return function(obj, **options)


def _is_option(parameter) -> bool:
    return parameter.kind is inspect.Parameter.KEYWORD_ONLY


def _function_for(obj):
    from torch import nn

    from dom2_fast.accelerate import diffusion_ql, network, score_net, solver_object
    from dom2_fast.accelerate.twin import Twin

    if isinstance(obj, Twin):
        raise Dom2Error(f"{type(obj).__name__} is accelerated already; use it as it is")
    if diffusion_ql.looks_like_diffusion(obj):
        return diffusion_ql.accelerate_diffusion
    if score_net.looks_like_score_net(obj):
        return score_net.accelerate_score_net
    if solver_object.looks_like_solver(obj):
        return solver_object.accelerate_solver
    if not isinstance(obj, type) and diffusion_ql.diffusions_in(obj):
        return diffusion_ql.accelerate_agent
    if isinstance(obj, nn.Module):
        return network.accelerate_network
    raise Dom2Error(f"can't accelerate {_name(obj)}; accepted are {_ACCEPTED}")


def _name(obj) -> str:
    return f"the class {obj.__name__}" if isinstance(obj, type) else f"a {type(obj).__name__}"


class _CallableModule(types.ModuleType):
    """`dom2_fast.accelerate` is documented as a function; once imported, it is this package."""

    def __call__(self, obj, **options):
        return accelerate(obj, **options)


sys.modules[__name__].__class__ = _CallableModule
