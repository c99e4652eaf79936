"""Whole policies and algorithms on a GPU. Skipped where there is none; ops are tested in ops/."""

import pytest
import torch
from small_data import dataset
from tolerances import assert_as_good_as_torch

from dom2_fast import networks, ops
from dom2_fast.algos.bc import BC, BCConfig
from dom2_fast.algos.dom2 import DOM2, DOM2Config
from dom2_fast.data.sampler import TrajectorySampler
from dom2_fast.errors import Dom2Error
from dom2_fast.ops import backend
from dom2_fast.policies.diffusion import DiffusionPolicy

needs_gpu = pytest.mark.skipif(
    not (torch.cuda.is_available() and backend.cuda_built()),
    reason="no GPU, or the extension was built without CUDA",
)


def stacked(precision="fp32", **kw):
    torch.manual_seed(0)
    net = networks.stack([networks.MLPNoiseNet(18, 2, hidden=64) for _ in range(3)])
    return DiffusionPolicy(net, backend="native", precision=precision, **kw)


@needs_gpu
@pytest.mark.parametrize("solver", ["dpm1", "ddpm", "dpm++2m"])
def test_samples_are_those_of_the_cpu(solver):
    policy = stacked(solver=solver, act_low=-1e3, act_high=1e3)
    obs = torch.randn(3, 50, 18)
    with torch.no_grad():
        own = policy.sample(obs, generator=torch.Generator().manual_seed(5))
        policy.cuda()
        gpu = policy.sample(obs.cuda(), generator=torch.Generator().manual_seed(5)).cpu()
        policy.cpu().double()
        start = torch.Generator().manual_seed(5)
        exact = policy_reference(policy).sample(obs.double(), generator=start)
    assert_as_good_as_torch(gpu, own, exact, solver)


def policy_reference(policy):
    return DiffusionPolicy(
        policy.net,
        policy.schedule,
        policy.solver,
        policy.steps,
        "reference",
        policy.act_low,
        policy.act_high,
    )


@needs_gpu
def test_a_captured_graph_draws_anew_in_every_replay():
    policy, obs = stacked().cuda(), torch.randn(3, 4, 18, device="cuda")
    side = torch.cuda.Stream()
    with torch.no_grad():
        with torch.cuda.stream(side):
            for _ in range(3):
                policy.sample(obs)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = policy.sample(obs)
    graph.replay()
    first = out.clone()
    graph.replay()
    assert first.isfinite().all() and not torch.equal(first, out)


@needs_gpu
def test_a_captured_graph_reads_its_inputs_anew():
    policy = stacked().cuda()
    obs, x_T = torch.randn(3, 4, 18, device="cuda"), torch.randn(3, 4, 2, device="cuda")
    with torch.no_grad():
        side = torch.cuda.Stream()
        with torch.cuda.stream(side):
            for _ in range(3):
                policy.sample(obs, x_T=x_T)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = policy.sample(obs, x_T=x_T)
        obs.copy_(torch.randn_like(obs))
        graph.replay()
        assert torch.equal(out, policy.sample(obs, x_T=x_T))


@needs_gpu
def test_it_runs_in_the_current_stream():
    policy, obs = stacked().cuda(), torch.randn(3, 64, 18)
    x_T = torch.randn(3, 64, 2, device="cuda")
    with torch.no_grad():
        expected = policy.sample(obs.cuda(), x_T=x_T)
        side = torch.cuda.Stream()
        with torch.cuda.stream(side):
            late = torch.zeros(3, 64, 18, device="cuda")
            torch.cuda._sleep(100_000_000)
            late.copy_(obs.pin_memory(), non_blocking=True)  # a wrong stream would see the zeros
            out = policy.sample(late, x_T=x_T)
        side.synchronize()
    assert torch.equal(out, expected)


@needs_gpu
def test_compiles_in_one_graph():
    policy, obs = stacked().cuda(), torch.randn(3, 4, 18, device="cuda")
    x_T = torch.randn(3, 4, 2, device="cuda")
    policy.prepare()
    compiled = torch.compile(lambda o: policy.sample(o, x_T=x_T).square().sum(), fullgraph=True)
    assert torch.allclose(compiled(obs), policy.sample(obs, x_T=x_T).square().sum())


@needs_gpu
def test_best_of_candidates_stays_on_the_device():
    policy = stacked().cuda()
    critic = networks.stack([networks.MLPCritic(18, 2) for _ in range(3)]).cuda()
    act = policy.act(torch.randn(3, 5, 18, device="cuda"), candidates=8, critic=critic)
    assert act.shape == (3, 5, 2) and act.is_cuda and act.isfinite().all()


@needs_gpu
def test_the_sampler_draws_the_same_rows():
    data = dataset(8, 25)
    cpu, gpu = (TrajectorySampler(data, batch_size=64, seed=3, device=d) for d in ("cpu", "cuda"))
    for _ in range(3):
        a, b = cpu.sample(), gpu.sample()
        assert torch.equal(a.index, b.index.cpu()) and b.obs.is_cuda
        for field in ("obs", "act", "reward", "next_obs", "done"):
            assert torch.equal(getattr(a, field), getattr(b, field).cpu())


@needs_gpu
@pytest.mark.parametrize("algo, config", [(DOM2, DOM2Config), (BC, BCConfig)])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_training_runs_and_acts_anywhere(algo, config, precision, tmp_path):
    settings = config(
        device="cuda", precision=precision, batch_size=64, hidden=32, weights="uniform"
    )
    agents = algo(settings, dataset(8, 25))
    first = agents.fit(5)
    assert all(torch.tensor(v).isfinite() for v in first.values())
    agents.save(tmp_path / "checkpoint.pt")
    again = algo.load(tmp_path / "checkpoint.pt", dataset(8, 25))
    assert agents.fit(3) == again.fit(3)  # exact resume, on the device
    acting = algo.load(tmp_path / "checkpoint.pt")
    obs = torch.randn(agents.num_agents, 4, agents.obs_dim)
    assert acting.policies.act(obs).device.type == "cpu"


def test_training_goes_on_only_where_it_started():
    agents = BC(BCConfig(weights="uniform", hidden=8), dataset(8, 25))
    before = agents.net.state_dict()
    state = agents.state_dict()
    state["config"]["device"] = "cuda"
    with pytest.raises(Dom2Error, match="trained on cuda, these agents are on cpu"):
        agents.load_state_dict(state)
    assert all(torch.equal(before[k], v) for k, v in agents.net.state_dict().items())
    BC.from_state(state)  # to act is allowed anywhere


def test_a_missing_gpu_is_named():
    with pytest.raises(Dom2Error, match=r"device is cuda:63, but PyTorch sees \d+ GPUs"):
        DOM2(DOM2Config(device="cuda:63", weights="uniform"), dataset(8, 25))


@pytest.mark.parametrize("wrong", ["gpu", "cuda:x", "", "cpu:0"])
def test_unknown_devices_are_refused(wrong):
    with pytest.raises(Dom2Error, match="cpu, cuda or cuda:<number>"):
        DOM2Config(device=wrong)


def test_unknown_precisions_are_refused():
    with pytest.raises(Dom2Error, match="fp32, bf16"):
        BCConfig(precision="half")
    with pytest.raises(Dom2Error, match="'fp32', 'bf16'"):
        stacked(precision="half")


def test_seeds_come_from_the_generators_device():
    cpu = ops.make_rng(torch.Generator().manual_seed(1), torch.device("cpu"))
    assert cpu.device.type == "cpu" and cpu.dtype == torch.int64 and cpu.shape == (2,)
    assert torch.equal(cpu, ops.make_rng(torch.Generator().manual_seed(1)))
    assert ops.make_rng(device=torch.device("meta")).device.type == "meta"
