"""Other people's policies, as they are and accelerated: 18 observations, 2 actions, as published.

The originals are the tests' stand-ins (python_tests/foreign.py): the published algorithms as loops
that call the network in every step, without the projects' bookkeeping. `native` is `accelerate`'s.

    python -m pytest benchmarks/bench_accelerate.py --benchmark-only --benchmark-json bench.json
    python benchmarks/table.py bench.json
"""

import sys
from pathlib import Path

import pytest
import torch
from conftest import close

import dom2_fast

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "python_tests"))
import foreign

OBS, A = foreign.OBS, foreign.A = 18, 2
BATCHES = [1, 32, 256, 1024]


def diffusion(steps: int, batch: int):
    torch.manual_seed(0)
    d = foreign.QLPolicy(foreign.QLNet(hidden=256, t_dim=16), foreign.ql_betas(steps))
    return d, dom2_fast.accelerate(d, backend="native"), torch.randn(batch, OBS)


def same_samples(d, fast, state):
    x_T, noise = torch.randn(len(state), A), torch.randn(d.n_timesteps, len(state), A)
    close(fast.sample(state, x_T=x_T, noise=noise), d.walk(state, x_T, noise)[0].clamp(-1, 1))


@pytest.mark.parametrize("kind", ["native", "original"])
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("steps", [5, 20])
def bench_diffusion_ql(benchmark, threads, steps, batch, kind):
    """Ancestral sampling of a Diffusion-QL policy."""
    benchmark.group = f"Diffusion-QL, {steps} steps, {batch} rows, {threads} threads"
    d, fast, state = diffusion(steps, batch)
    with torch.no_grad():
        same_samples(d, fast, state)
        benchmark((fast if kind == "native" else d).sample, state)


@pytest.mark.parametrize("kind", ["native", "original"])
def bench_diffusion_ql_gradient(benchmark, threads, kind):
    """Sampling with the gradient of the parameters, and the denoising loss: an actor's update."""
    benchmark.group = f"Diffusion-QL, loss + sample + gradient, 256 rows, {threads} threads"
    d, fast, state = diffusion(5, 256)
    same_samples(d, fast, state)
    act = torch.rand(256, A) * 2 - 1
    for one in (d, fast):
        torch.manual_seed(1)
        one.grads = torch.autograd.grad(one.loss(act, state), list(one.parameters()))
    for a, b in zip(fast.grads, d.grads, strict=True):
        close(a, b)
    chosen = fast if kind == "native" else d

    def update():
        loss = chosen.loss(act, state) + chosen.sample(state).square().mean()
        return torch.autograd.grad(loss, list(chosen.parameters()))

    benchmark(update)


@pytest.mark.parametrize("kind", ["native", "original"])
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("method", ["multistep", "singlestep"])
def bench_dpm_solver(benchmark, threads, method, batch, kind):
    """DPM-Solver++ of order 2 in 10 network calls, by a DPM_Solver object."""
    benchmark.group = f"DPM-Solver++ {method}, 10 calls, {batch} rows, {threads} threads"
    torch.manual_seed(0)
    net, ns = foreign.QLNet(hidden=256, t_dim=16), foreign.LinearVP()
    fn = foreign.wrap(net, ns, model_kwargs={"state": torch.randn(batch, OBS)})
    solver = foreign.PlainSolver(fn, ns)
    fast = dom2_fast.accelerate(solver, act_dim=A, backend="native")
    x = torch.randn(batch, A)
    with torch.no_grad():
        close(fast.sample(x, 10, method=method), solver.sample(x, 10, method=method))
        benchmark((fast if kind == "native" else solver).sample, x, 10, method=method)


@pytest.mark.filterwarnings("ignore:To copy construct")
@pytest.mark.parametrize("kind", ["native", "original"])
@pytest.mark.parametrize("batch", BATCHES)
def bench_score_network(benchmark, threads, batch, kind):
    """SfBC's residual U-Net by DPM-Solver of order 2, singlestep, in 10 network calls."""
    benchmark.group = f"SfBC score network, 10 calls, {batch} rows, {threads} threads"
    torch.manual_seed(0)
    net = foreign.ScoreUNet(widths=(512, 256, 128), embed=32)
    fast = dom2_fast.accelerate(net, backend="native")
    x, net.condition = torch.randn(batch, A), torch.randn(batch, OBS)
    fast.condition = net.condition
    call = {"steps": 10, "order": 2, "method": "singlestep"}
    with torch.no_grad():
        close(fast.dpm_solver.sample(x, **call), net.dpm_solver.sample(x, **call))
        benchmark((fast if kind == "native" else net).dpm_solver.sample, x, **call)


@pytest.mark.parametrize("kind", ["native", "original"])
@pytest.mark.parametrize("batch", BATCHES)
def bench_idql(benchmark, threads, batch, kind):
    """IDQL's LayerNorm residual network, 3 blocks of 256, ancestral sampling in 5 steps."""
    benchmark.group = f"IDQL network, 5 steps, {batch} rows, {threads} threads"
    torch.manual_seed(0)
    net = foreign.LNResnet(width=256, blocks=3, features=64).eval()
    fast = dom2_fast.accelerate(
        net,
        schedule="vp",
        solver="ddpm",
        obs_dim=OBS,
        act_dim=A,
        backend="native",
        call=lambda net, x, t, obs: net(obs, x, t[:, None]),
    )
    plain = foreign.QLPolicy(foreign.QLNet(), foreign.ql_betas(5))
    plain.model = Swapped(net)
    state = torch.randn(batch, OBS)
    with torch.no_grad():
        x_T, noise = torch.randn(batch, A), torch.randn(5, batch, A)
        close(fast.sample(state, x_T, noise), plain.walk(state, x_T, noise)[0].clamp(-1, 1))
        benchmark((fast if kind == "native" else plain).sample, state)


class Swapped(torch.nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x, t, state):
        return self.net(state, x, t[:, None].to(x.dtype))
