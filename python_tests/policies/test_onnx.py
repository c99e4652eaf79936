"""Policies as ONNX graphs: ONNX Runtime gives what the policy gives; what can't be is refused."""

import re
import sys
from pathlib import Path

import pytest
import torch
from policy_problems import OBS, A, net, policy, stack
from small_data import dataset
from test_policy_file_versions import third_order
from torch import nn

import dom2_fast as d2
from dom2_fast import networks
from dom2_fast.activations import MODULES
from dom2_fast.algos.bc import BCConfig
from dom2_fast.cli import main as cli
from dom2_fast.errors import Dom2Error
from dom2_fast.policies import onnx_export, schedules
from dom2_fast.policies.actors import DeterministicPolicy, GaussianPolicy
from dom2_fast.policies.onnx_export import export_onnx
from dom2_fast.runs.train import train

onnx = pytest.importorskip("onnx", reason="pip install 'dom2-fast[onnx]'")
onnxruntime = pytest.importorskip("onnxruntime", reason="pip install 'dom2-fast[onnx]'")
DEPLOYMENT = Path(__file__).resolve().parents[2] / "docs" / "deployment.md"
F32 = torch.float32


class Norms(nn.Module):
    """Layer and group normalisation, products, a skip, and observations normalised first."""

    obs_dim, act_dim = OBS, A

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.register_buffer("mean", torch.linspace(-1, 1, OBS))
        self.register_buffer("scale", torch.linspace(0.5, 2, OBS))
        self.time, self.norm = networks.SinusoidalTime(4), nn.LayerNorm(12)
        self.first = nn.Linear(A + OBS + 4, 12)
        self.group, self.second = nn.GroupNorm(3, 12), nn.Linear(12, 12)
        self.last = nn.Linear(12, A)

    def forward(self, x, t, obs):
        obs = (obs - self.mean) / self.scale
        h = self.norm(self.first(torch.cat([x, self.time(t), obs], -1)))
        h = h + self.second(nn.functional.mish(h)) * torch.sigmoid(h)
        return self.last(self.group(h))


class ChunkNet(nn.Module):
    """Noise of chunks of four actions."""

    obs_dim, act_dim = OBS, 4 * A

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.layers = nn.Sequential(nn.Linear(4 * A + OBS, 12), nn.Mish(), nn.Linear(12, 4 * A))

    def forward(self, x, t, obs):
        return self.layers(torch.cat([x.flatten(1), obs], -1)).view(x.shape[0], 4, A)


class Activated(nn.Module):
    """One activation of the table."""

    obs_dim, act_dim = OBS, A

    def __init__(self, act):
        super().__init__()
        torch.manual_seed(4)
        self.first, self.last, self.act = nn.Linear(OBS, 16), nn.Linear(16, A), act

    def forward(self, obs):
        return self.last(self.act(3.0 * self.first(obs)))


def norms():
    return policy(Norms())


def chunks():
    return policy(ChunkNet(), solver="ddpm", act_shape=(4, A))


def chunk_stack():
    nets = [networks.Chunked(ChunkNet(seed), (4, A)) for seed in range(2)]
    return policy(networks.stack(nets))


def gaussian():
    return GaussianPolicy(networks.MLPGaussianActor(OBS, A, hidden=8))


def actors():
    made = [networks.MLPActor(OBS, A, hidden=8) for _ in range(3)]
    return DeterministicPolicy(networks.stack(made))


PROBLEMS = {
    "one, dpm1": lambda: policy(net(F32)),
    "stack, ddpm with noise": lambda: policy(stack(F32), solver="ddpm"),
    "stack, clipped guesses": lambda: policy(stack(F32), clip_x0=True),
    "two steps back": lambda: policy(net(F32), solver="dpm++2m", steps=7),
    "three steps back": third_order,
    "flow": lambda: policy(stack(F32), schedule=schedules.FlowSchedule(), solver="euler"),
    "x0": lambda: policy(net(F32), predict="x0"),
    "u-net": lambda: policy(networks.UNetNoiseNet(OBS, A)),
    "norms": norms,
    "chunks with noise": chunks,
    "stack of chunks": chunk_stack,
    "deterministic stack": actors,
    "gaussian": gaussian,
}


@pytest.mark.parametrize("opset", [13, 17, 18])
@pytest.mark.parametrize("problem", PROBLEMS)
def test_onnx_runtime_gives_what_the_policy_gives(tmp_path, problem, opset):
    """Within twice PyTorch's own error, by the check that is part of the export."""
    torch.manual_seed(0)
    p = PROBLEMS[problem]().eval()
    checked = export_onnx(p, tmp_path / "p.onnx", opset)
    assert checked.version == onnxruntime.__version__
    assert checked.error <= onnx_export.FACTOR * checked.own + onnx_export.FLOOR
    model = onnx.load(tmp_path / "p.onnx")
    assert [i.version for i in model.opset_import] == [opset]
    # Another batch than the check's, against the policy's own sample.
    frozen = p.frozen()
    feed = onnx_export.example(frozen, 5, seed=1)
    (found,) = onnxruntime.InferenceSession(tmp_path / "p.onnx").run(
        None, {k: v.numpy() for k, v in feed.items()}
    )
    want = frozen.sample(feed["obs"], feed.get("x_T"), feed.get("noise"))
    assert found.shape == tuple(want.shape)
    # 150 = 1 / alpha_1 magnifies the roundings of both; tolerances.DPM1_32.
    assert (torch.from_numpy(found) - want).norm() <= 1e-5 * want.norm()


@pytest.mark.parametrize("act", list(MODULES))
def test_every_activation_has_a_form(tmp_path, act):
    for opset in (13, 18):
        assert export_onnx(DeterministicPolicy(Activated(act())), tmp_path / "p.onnx", opset)


def test_gelu_by_tanh_has_one_too(tmp_path):
    assert export_onnx(DeterministicPolicy(Activated(nn.GELU("tanh"))), tmp_path / "p.onnx")


def test_mish_is_one_operator_where_there_is_one(tmp_path):
    ops = {}
    for opset in (17, 18):
        export_onnx(policy(net(F32)), tmp_path / "p.onnx", opset)
        ops[opset] = {node.op_type for node in onnx.load(tmp_path / "p.onnx").graph.node}
    assert "Mish" in ops[18] and "Mish" not in ops[17] and "Softplus" in ops[17]


def test_weights_are_stored_once_for_all_steps(tmp_path):
    sizes = []
    for steps in (2, 10):
        export_onnx(policy(net(F32, hidden=64), steps=steps), tmp_path / "p.onnx")
        model = onnx.load(tmp_path / "p.onnx")
        sizes.append(sum(len(i.raw_data) for i in model.graph.initializer if len(i.dims) > 1))
    assert sizes[0] == sizes[1] > 64 * 64 * 4


def test_the_check_notices_another_policy(tmp_path):
    export_onnx(policy(net(F32)), tmp_path / "p.onnx")
    data = (tmp_path / "p.onnx").read_bytes()
    with pytest.raises(Dom2Error, match=r"gives other actions.*relative error \d.*nothing was"):
        onnx_export.check(policy(net(F32, seed=1)).frozen(), data)
    with pytest.raises(Dom2Error, match=r"can't run the graph"):
        onnx_export.check(policy(net(F32)).frozen(), data[:100])


@pytest.mark.parametrize("opset", [12, 10_000, True, "18", 17.0])
def test_an_opset_out_of_range_is_refused(tmp_path, opset):
    with pytest.raises(Dom2Error, match=rf"opset is from 13 to {onnx.defs.onnx_opset_version()}"):
        export_onnx(policy(net(F32)), tmp_path / "p.onnx", opset)
    assert not list(tmp_path.iterdir())


def test_of_several_candidates_the_policy_alone_is_exported(tmp_path):
    from dom2_fast.algos.acting import Policies
    from dom2_fast.lowering import FusedModule

    critics = networks.stack([networks.MLPCritic(OBS, A, hidden=8) for _ in range(3)])
    best = Policies(policy(stack(F32)), 4, FusedModule(critics))
    assert export_onnx(best, tmp_path / "best.onnx").error < 1e-5
    export_onnx(best.policy, tmp_path / "alone.onnx")
    assert (tmp_path / "best.onnx").read_bytes() == (tmp_path / "alone.onnx").read_bytes()


def test_only_an_earlier_export_is_replaced(tmp_path):
    path = tmp_path / "p.onnx"
    path.write_text("mine")
    with pytest.raises(Dom2Error, match="something else"):
        export_onnx(policy(net(F32)), path)
    assert path.read_text() == "mine"
    with pytest.raises(Dom2Error, match="is a folder"):
        export_onnx(policy(net(F32)), tmp_path)
    path.unlink()
    export_onnx(policy(net(F32)), path)
    before = path.read_bytes()
    export_onnx(policy(net(F32, seed=1)), path)
    assert path.read_bytes() != before


def test_without_the_packages(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "onnx", None)
        with pytest.raises(Dom2Error, match=r"pip install 'dom2-fast\[onnx\]'"):
            export_onnx(policy(net(F32)), tmp_path / "p.onnx")
    assert not list(tmp_path.iterdir())
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert export_onnx(policy(net(F32)), tmp_path / "p.onnx") is None
    assert (tmp_path / "p.onnx").stat().st_size > 0


def test_a_run_is_exported_by_the_command(tmp_path, capsys):
    data = dataset(trajectories=8, obs_dims=(18,) * 3, meta={"task": "simple_spread"})
    data.write(tmp_path / "data")
    config = BCConfig(weights="uniform", batch_size=4, hidden=8, depth=1, steps=2)
    run = train(config, tmp_path / "data", tmp_path / "r", 1, progress=False, tensorboard=False).out
    out = tmp_path / "p.onnx"
    assert cli.main(["export", str(run), "--format", "onnx", "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "3 agents" in shown and "checked: ONNX Runtime" in shown
    model = onnx.load(out)
    props = {p.key: p.value for p in model.metadata_props}
    assert (props["env"], props["algo"], props["agents"]) == ("simple_spread", "bc", "3")
    assert [i.name for i in model.graph.input] == ["obs", "x_T"]
    for wrong, said in (
        (["--format", "onx"], "format is one of policy, pretrained, onnx"),
        (["--opset", "17"], "an opset is of format onnx"),
    ):
        assert cli.main(["export", str(run), "--out", str(tmp_path / "q"), *wrong]) == 2
        assert said in capsys.readouterr().err
    assert not (tmp_path / "q").exists()


def test_the_example_of_the_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = DEPLOYMENT.read_text(encoding="utf-8")
    blocks = [b for b in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "onnx" in b]
    assert len(blocks) == 2 and len(blocks[1].strip().splitlines()) <= 7
    scope = {}
    for block in blocks:
        exec(compile(block, str(DEPLOYMENT), "exec"), scope)
    frozen = d2.pretrained("simple_spread/expert")
    want = frozen.sample(*(torch.from_numpy(scope[name]) for name in ("obs", "x_T")))
    assert (torch.from_numpy(scope["act"]) - want).norm() <= 1e-5 * want.norm()
