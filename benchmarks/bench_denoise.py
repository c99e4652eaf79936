"""Sampling actions: 5 steps of DPM-Solver-1, observations of 18 numbers, actions of 2.

Rows are agents x batch, each agent with its own network.

`eager` calls the network in every step, as a PyTorch loop does; `native` is one call of the kernel.
"""

import pytest
import torch
from conftest import close

from dom2_fast import networks
from dom2_fast.policy import DiffusionPolicy, sample_plain

BOUND = 1e4
NETS = {"mlp": networks.MLPNoiseNet, "unet": networks.UNetNoiseNet}


def policy_and_inputs(net: str, agents: int, batch: int):
    torch.manual_seed(0)
    stacked = networks.stack([NETS[net](18, 2) for _ in range(agents)]).eval()
    # Wide bounds: samples of an untrained network reach 1,500, and rounding is a large part of what
    # clipping to [-1, 1] leaves of them, so nothing could be compared.
    policy = DiffusionPolicy(stacked, steps=5, backend="native", act_low=-BOUND, act_high=BOUND)
    return policy, torch.randn(agents, batch, 18), torch.randn(agents, batch, 2)


def eager(policy, obs, x_T):
    return sample_plain(
        policy.net, obs, policy._plan, x_T, batch=obs.shape[1], out_low=-BOUND, out_high=BOUND
    )


@pytest.mark.parametrize("kind", ["native", "eager"])
@pytest.mark.parametrize("batch", [1, 32, 256, 1024])
@pytest.mark.parametrize("agents", [1, 3])
@pytest.mark.parametrize("net", ["mlp", "unet"])
def bench_sample(benchmark, threads, net, agents, batch, kind):
    benchmark.group = f"sample, {net}, {agents} x {batch} rows, {threads} threads"
    policy, obs, x_T = policy_and_inputs(net, agents, batch)
    with torch.no_grad():
        close(policy.sample(obs, x_T), eager(policy, obs, x_T))
        run = policy.sample if kind == "native" else lambda o, x: eager(policy, o, x)
        benchmark(run, obs, x_T)


@pytest.mark.parametrize("kind", ["native", "eager"])
@pytest.mark.parametrize("batch", [256, 1024])
@pytest.mark.parametrize("net", ["mlp", "unet"])
def bench_sample_and_gradient(benchmark, threads, net, batch, kind):
    """With the gradient of the parameters through all steps, as in DOM2's Q term."""
    benchmark.group = f"sample + gradient, {net}, 3 x {batch} rows, {threads} threads"
    policy, obs, x_T = policy_and_inputs(net, 3, batch)
    leaves = list(policy.net.parameters())

    def run(sample):
        return torch.autograd.grad(sample(obs, x_T).square().mean(), leaves)

    def plain(o, x):
        return eager(policy, o, x)

    for a, b in zip(run(policy.sample), run(plain), strict=True):
        close(a, b)
    benchmark(run, policy.sample if kind == "native" else plain)
