"""Sampling actions: 5 steps of DPM-Solver-1, observations of 18 numbers, actions of 2.

Rows are agents x batch, each agent with its own network. `native` is one call of the kernel,
`eager` the loop over steps and agents in PyTorch, `batched` the same with one product for all
agents, `compile` that one under torch.compile, `aoti` compiled ahead of time; see `peer_*.py`.
`bf16` is the kernel with precision="bf16", `autocast` PyTorch's loop under bf16 autocast.
"""

from functools import partial

import pytest
import torch
from conftest import close, close_in_bf16, missing
from peer_torch import Sampler, batched, compiled, per_agent

from dom2_fast import networks
from dom2_fast.policies.diffusion import DiffusionPolicy, sample_plain

BOUND = 1e4
NETS = {"mlp": networks.MLPNoiseNet, "unet": networks.UNetNoiseNet}
# 3 x 1: one step of an environment with three agents.
SIZES = {
    "mlp": [(1, 1), (1, 32), (1, 256), (1, 1024), (1, 4096), (3, 1), (3, 256)],
    "unet": [(1, 1), (1, 256), (1, 1024), (3, 1)],
}
PROBLEMS = [(net, g, b) for net, sizes in SIZES.items() for g, b in sizes]


def policy_and_inputs(net: str, agents: int, batch: int, precision: str = "fp32"):
    torch.manual_seed(0)
    stacked = networks.stack([NETS[net](18, 2) for _ in range(agents)]).eval()
    # Wide bounds: samples of an untrained network reach 1,500, and rounding is a large part of what
    # clipping to [-1, 1] leaves of them, so nothing could be compared.
    policy = DiffusionPolicy(
        stacked, steps=5, backend="native", act_low=-BOUND, act_high=BOUND, precision=precision
    )
    return policy, torch.randn(agents, batch, 18), torch.randn(agents, batch, 2)


def contenders(kinds, net: str, agents: int, batch: int, threads: int) -> dict:
    """Callables by kind; each has given what `native` gives for the same weights and noise."""
    policy, obs, x_T = policy_and_inputs(net, agents, batch)
    found = {}

    def add(kind, run, result):
        close(policy.sample(obs, x_T), torch.as_tensor(result))
        found[kind] = run

    def torch_kind(kind, module):
        def run():
            with torch.no_grad():
                return module(obs, x_T)

        add(kind, run, run())

    def native():
        with torch.no_grad():
            return policy.sample(obs, x_T)

    def autocast():
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            return torch_loop(obs, x_T)

    for kind in kinds:
        if kind == "native":
            add(kind, native, native())
        elif kind == "bf16":
            half, _, _ = policy_and_inputs(net, agents, batch, "bf16")
            torch_loop = Sampler(per_agent(policy.net), bound=BOUND)
            close_in_bf16(half.sample(obs, x_T), autocast(), policy.sample(obs, x_T))
            found[kind] = partial(half.sample, obs, x_T)
        elif kind == "autocast":
            torch_loop = Sampler(per_agent(policy.net), bound=BOUND)
            found[kind] = autocast
        elif kind == "eager":
            torch_kind(kind, Sampler(per_agent(policy.net), bound=BOUND))
        elif kind == "batched":
            if agents == 1:
                found[kind] = "one agent: the same as eager"
            else:
                torch_kind(kind, Sampler(batched(policy.net), bound=BOUND))
        elif kind == "compile":
            one = agents == 1
            module = Sampler((per_agent if one else batched)(policy.net), bound=BOUND)
            torch_kind(kind, compiled(module, obs, x_T, freezing=not one))
        elif kind == "aoti":
            from peer_aoti import sampler

            module = Sampler((per_agent if agents == 1 else batched)(policy.net), bound=BOUND)
            try:
                run = sampler(module, obs, x_T)
            except Exception as error:  # of the exporter, the compiler or the loader
                found[kind] = f"{type(error).__name__}: {' '.join(str(error).split())[-160:]}"
            else:
                add(kind, run, run())
        elif kind == "jax":
            if (why := missing("jax")) is None:
                import peer_jax

                add(kind, *peer_jax.sampler(net, policy.net, obs, x_T, BOUND))
            else:
                found[kind] = why
        elif (why := missing("onnxruntime") or missing("onnxscript")) is None:
            import peer_onnx

            module = Sampler(per_agent(policy.net), bound=BOUND)
            add(kind, *peer_onnx.sampler(module, obs, x_T, threads))
        else:
            found[kind] = why
    return found


@pytest.mark.filterwarnings("ignore")  # of exporters and compilers
@pytest.mark.parametrize(
    "kind", ["native", "bf16", "eager", "autocast", "batched", "compile", "aoti", "jax", "onnx"]
)
@pytest.mark.parametrize(("net", "agents", "batch"), PROBLEMS)
def bench_sample(race, threads, net, agents, batch, kind):
    group = f"sample, {net}, {agents} x {batch} rows, {threads} threads"
    with torch.no_grad():
        race(group, lambda kinds: contenders(kinds, net, agents, batch, threads))


@pytest.mark.parametrize("kind", ["native", "eager"])
@pytest.mark.parametrize("batch", [256, 1024])
@pytest.mark.parametrize("net", ["mlp", "unet"])
def bench_sample_and_gradient(race, threads, net, batch, kind):
    """With the gradient of the parameters through all steps, as in DOM2's Q term."""
    policy, obs, x_T = policy_and_inputs(net, 3, batch)
    leaves = list(policy.net.parameters())

    def plain():
        return sample_plain(
            policy.net, obs, policy._plan, x_T, batch=batch, out_low=-BOUND, out_high=BOUND
        )

    def run(sample):
        return torch.autograd.grad(sample().square().mean(), leaves)

    def make(kinds):
        samplers = {"native": lambda: policy.sample(obs, x_T), "eager": plain}
        for a, b in zip(run(samplers["native"]), run(plain), strict=True):
            close(a, b)
        return {kind: (lambda s=samplers[kind]: run(s)) for kind in kinds}

    race(f"sample + gradient, {net}, 3 x {batch} rows, {threads} threads", make)
