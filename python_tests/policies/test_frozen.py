"""Frozen policies and their files: they act as the policy did; broken files are refused.

The same file in C++: test_frozen_cpp.
"""

import copy
import json
import pickle
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from policy_problems import OBS, A, B, G, generator, rand
from torch import nn

import dom2_fast as d2
from dom2_fast import networks, ops
from dom2_fast.errors import Dom2Error
from dom2_fast.ops import backend
from dom2_fast.policies import policy_file, schedules

F32 = {"dtype": torch.float32}
NATIVE = "native" if backend.available() else "reference"


def mlp(seed=0, **kwargs):
    torch.manual_seed(seed)
    return networks.MLPNoiseNet(OBS, A, **{"hidden": 20, "time_dim": 6, **kwargs})


def unet(seed=0):
    torch.manual_seed(seed)
    return networks.UNetNoiseNet(OBS, A)


def stack(make=mlp, groups=G):
    return networks.stack([make(seed) for seed in range(groups)])


def policy(net=None, **kwargs):
    net = mlp() if net is None else net
    return d2.DiffusionPolicy(net, backend=NATIVE, **kwargs).eval()


def actor(kind, stacked=True, **kwargs):
    """A deterministic or Gaussian policy of one pass."""
    torch.manual_seed(0)
    make = networks.MLPActor if kind == "deterministic" else networks.MLPGaussianActor
    nets = [make(OBS, A, hidden=20) for _ in range(G)]
    made = d2.DeterministicPolicy if kind == "deterministic" else d2.GaussianPolicy
    return made(networks.stack(nets) if stacked else nets[0], NATIVE, **kwargs).eval()


ONE_PASS = ["deterministic", "gaussian"]


def reloaded(p, path):
    p.export(path)
    return d2.load_policy(path)


def assert_acts_as(p, q, batch=B):
    """`q` gives exactly what `p` gives: for all noise given, for some, for none."""
    lead = (batch,) if p.groups is None else (p.groups, batch)
    obs = rand(*lead, OBS, seed=1, **F32)
    x_T, noise = rand(*lead, A, seed=2, **F32), rand(p.steps, *lead, A, seed=3, **F32)
    with torch.no_grad():
        for given in ((x_T, noise), (x_T, None), (None, noise), (None, None)):
            want = p.sample(obs, *given, generator=generator(4))
            got = q.sample(obs, *given, generator=generator(4))
            assert torch.equal(got, want) and got.shape == (*lead, A) and not got.requires_grad
    after = [generator(5), generator(5)]
    assert torch.equal(q.act(obs, generator=after[1]), p.act(obs, generator=after[0]))
    assert torch.equal(after[0].get_state(), after[1].get_state())  # as many draws were taken


@pytest.mark.parametrize("net", [mlp, stack])
def test_the_precision_is_chosen_when_loading(tmp_path, net):
    p = policy(net())
    p.export(tmp_path / "p")
    quick = policy(p.net, precision="bf16")
    assert_acts_as(quick, d2.load_policy(tmp_path / "p", precision="bf16"))
    with pytest.raises(Dom2Error, match="'fp32', 'bf16'"):
        d2.load_policy(tmp_path / "p", precision="fp16")


@pytest.mark.parametrize("batch", [0, 1, 7, 300])
@pytest.mark.parametrize("kind", ONE_PASS)
def test_a_policy_of_one_pass_acts_as_it_did(tmp_path, kind, batch):
    for p in (actor(kind), actor(kind, stacked=False, act_low=-0.1, act_high=0.2)):
        lead = (batch,) if p.groups is None else (G, batch)
        obs, state = rand(*lead, OBS, seed=1, **F32), generator().get_state()
        drawn = generator()
        for q in (p.frozen(), reloaded(p, tmp_path / "p")):
            assert torch.equal(q.act(obs, generator=drawn), p.act(obs))
            assert (q.steps, q.obs_dim, q.act_dim, q.groups) == (0, OBS, A, p.groups)
        assert torch.equal(drawn.get_state(), state)  # nothing is drawn
    assert "one pass" in repr(q) and q.notes["kind"].startswith(kind)
    assert policy_file.read(tmp_path / "p")[1]["version"] == "2"
    for given in ({"x_T": rand(*lead, A, **F32)}, {"noise": rand(1, *lead, A, **F32)}):
        with pytest.raises(Dom2Error, match="takes no x_T and no noise"):
            q.sample(obs, **given)


def test_files_have_the_lowest_version_that_holds_them(tmp_path):
    policy().export(tmp_path / "p")
    assert policy_file.read(tmp_path / "p")[1]["version"] == "1"
    q = d2.load_policy(tmp_path / "p")
    q.export(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "p").read_bytes()


# ---- frozen --------------------------------------------------------------------------------------

KINDS = {
    "diffusion": lambda: policy(stack(), solver="ddpm", steps=3),
    "deterministic": lambda: actor("deterministic"),
    "gaussian": lambda: actor("gaussian"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", [1, 400])
def test_threads_give_what_one_thread_gives(kind, rows):
    q = KINDS[kind]().frozen()
    obs = [rand(G, rows, OBS, seed=i, **F32) for i in range(8)]

    def acts(i):
        g = generator(i)
        return [q.act(obs[i], generator=g) for _ in range(20)]

    want = [acts(i) for i in range(8)]
    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(acts, range(8)))
    for g, w in zip(got, want, strict=True):
        assert all(map(torch.equal, g, w))


@pytest.mark.parametrize("kind", KINDS)
def test_later_training_does_not_change_it(kind):
    p = KINDS[kind]()
    q, obs = p.frozen(), rand(G, B, OBS, **F32)
    was = q.act(obs, generator=generator())
    assert torch.equal(was, p.act(obs, generator=generator()))
    optimiser = torch.optim.SGD(p.parameters(), lr=0.5)
    p.bc_loss(obs, rand(G, B, A, seed=1, **F32), generator=generator()).backward()
    optimiser.step()
    for parameter in p.parameters():
        parameter.data.mul_(2.0)  # past every counter
    p.act_low = -0.01
    assert torch.equal(q.act(obs, generator=generator()), was)
    assert not torch.equal(p.act(obs, generator=generator()), was)
    assert q.act(obs.requires_grad_()).requires_grad is False


@pytest.mark.parametrize("kind", KINDS)
def test_it_never_changes_and_can_be_copied(kind, tmp_path):
    q, obs = KINDS[kind]().frozen(), rand(G, B, OBS, **F32)
    for change in (lambda: setattr(q, "act_low", 0.0), lambda: delattr(q, "_table")):
        with pytest.raises(AttributeError, match="never changes"):
            change()
    assert q.frozen() is q
    want = q.act(obs, generator=generator())
    q.export(tmp_path / "p")
    again = d2.load_policy(tmp_path / "p")
    for other in (pickle.loads(pickle.dumps(q)), copy.deepcopy(q), again):
        assert torch.equal(other.act(obs, generator=generator()), want)
        assert repr(other) == repr(q)


@pytest.mark.parametrize("kind", KINDS)
def test_each_agent_of_a_stack_acts_alone(kind, tmp_path):
    p = KINDS[kind]()
    q, obs = p.frozen(), rand(G, B, OBS, seed=1, **F32)
    x_T, noise = rand(G, B, A, seed=2, **F32), rand(3, G, B, A, seed=3, **F32)
    given = (x_T, noise) if q.steps else (None, None)
    want = q.sample(obs, *given)
    assert (len(q), q.num_agents, q.obs_dims) == (G, G, [OBS] * G)
    for i, one in enumerate(q):
        own = (x_T[i], noise[:, i]) if q.steps else ()
        assert torch.equal(one.sample(obs[i], *own), want[i])
        one.export(tmp_path / "one")
        assert torch.equal(d2.load_policy(tmp_path / "one").sample(obs[i], *own), want[i])
    for beyond in (G, -1):
        with pytest.raises(IndexError, match=f"agent {beyond} of {G}"):
            q[beyond]


def test_frozen_in_eval_mode_by_every_backend(monkeypatch):
    p = policy(unet()).train()
    obs, x_T = rand(B, OBS, **F32), rand(B, A, seed=1, **F32)
    q = p.frozen()
    assert p.net.training and torch.equal(q.sample(obs, x_T), p.eval().sample(obs, x_T))
    monkeypatch.setattr(ops, "_NATIVE", None)
    slow = p.frozen()
    torch.testing.assert_close(slow.sample(obs, x_T), q.sample(obs, x_T))


SOLVERS = [
    ("dpm1", 5, None),
    ("ddim", 4, schedules.linear(20)),
    ("dpm++2m", 6, None),
    ("ddpm", None, schedules.cosine(7)),
]


@pytest.mark.parametrize(("solver", "steps", "schedule"), SOLVERS, ids=[s[0] for s in SOLVERS])
@pytest.mark.parametrize("net", [mlp, unet, stack], ids=["mlp", "unet", "stack"])
def test_a_loaded_policy_acts_as_the_exported_one(tmp_path, net, solver, steps, schedule):
    p = policy(net(), solver=solver, steps=steps, schedule=schedule)
    q = reloaded(p, tmp_path / "p.safetensors")
    assert (q.obs_dim, q.act_dim, q.groups) == (p.obs_dim, p.act_dim, p.groups)
    assert (q.solver, q.steps) == (p.solver, p.steps)
    assert_acts_as(p, q)


@pytest.mark.parametrize(
    "p",
    [
        policy(predict="x0", clip_x0=True),
        policy(act_low=-0.25, act_high=0.5),
        policy(stack(groups=1)),
        policy(stack(unet)),
        policy(solver="ddpm", clip_x0=False, steps=1),
    ],
    ids=["x0", "bounds", "stack-of-one", "unets", "one-step"],
)
def test_other_settings(tmp_path, p):
    assert_acts_as(p, reloaded(p, tmp_path / "p"))
    assert_acts_as(p, d2.load_policy(tmp_path / "p"), batch=0)


def test_one_row_and_the_wrong_arguments(tmp_path):
    p = policy()
    q = reloaded(p, tmp_path / "p")
    row = rand(OBS, **F32)
    assert torch.equal(q(row, generator=generator()), p.sample(row, generator=generator()))
    assert "obs_dim=5" in repr(q) and "dpm1" in repr(q)
    for args in (
        (None,),
        (rand(2, OBS),),
        (rand(2, OBS + 1, **F32),),
        (rand(1, 2, OBS, **F32),),
        (rand(2, OBS, **F32), rand(3, A, **F32)),
        (rand(2, OBS, **F32), rand(2, A)),
        (rand(2, OBS, **F32), None, rand(2, A, **F32)),
        (rand(2, OBS, **F32), 3.0),
    ):
        with pytest.raises(Dom2Error) as ours:
            q.sample(*args)
        with pytest.raises(Dom2Error) as theirs:
            p.sample(*args)
        assert str(ours.value) == str(theirs.value).replace("the network", "the policy")


def test_loading_needs_no_training_code(tmp_path):
    policy(stack()).export(tmp_path / "p")
    code = (
        "import sys, torch, dom2_fast\n"
        f"q = dom2_fast.load_policy({str(tmp_path / 'p')!r})\n"
        f"assert q.act(torch.zeros({G}, 2, {OBS})).shape == ({G}, 2, {A})\n"
        "known = [m for m in sys.modules if m.startswith('dom2_fast.')]\n"
        "for part in ('lowering', 'networks', 'policy', 'algos', 'data', 'envs', 'schedules'):\n"
        "    assert f'dom2_fast.{part}' not in known, part\n"
        "assert 'torch.fx' not in sys.modules or 'dom2_fast.lowering' not in known\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_file_and_what_was_loaded_stay_as_they_are(tmp_path):
    p = policy(stack())
    q = reloaded(p, tmp_path / "p")
    before, obs = (tmp_path / "p").read_bytes(), rand(G, B, OBS, **F32)
    was = q.act(obs, generator=generator())
    with torch.no_grad():
        for parameter in p.parameters():
            parameter.add_(0.1)
    p.set_solver("ddpm", 3)
    assert (tmp_path / "p").read_bytes() == before
    assert torch.equal(q.act(obs, generator=generator()), was)
    assert not torch.equal(p.act(obs, generator=generator()), was)
    state = torch.get_rng_state()
    assert_acts_as(p, reloaded(p, tmp_path / "p"))  # a policy's file may be replaced by a newer one
    assert torch.equal(torch.get_rng_state(), state)


def test_dropout_is_off_in_the_file_and_the_flags_stay(tmp_path):
    p = policy(unet()).train()  # it has dropout
    flags = [m.training for m in p.modules()]
    q = reloaded(p, tmp_path / "p")
    assert [m.training for m in p.modules()] == flags
    assert_acts_as(p.eval(), q)


def test_float64_networks_are_rounded_once(tmp_path):
    p = d2.DiffusionPolicy(mlp().double(), backend="reference")
    q = reloaded(p, tmp_path / "p")
    obs, x_T = rand(B, OBS), rand(B, A)
    torch.testing.assert_close(
        q.sample(obs.float(), x_T.float()).double(), p.sample(obs, x_T), rtol=0, atol=1e-4
    )


class Unlowerable(nn.Module):
    obs_dim, act_dim = OBS, A

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(OBS, A)

    def forward(self, x, t, obs):
        return torch.cumsum(self.layer(obs), -1) + x


def test_what_can_t_be_exported(tmp_path):
    with pytest.warns(RuntimeWarning, match="step by step"):
        p = d2.DiffusionPolicy(Unlowerable())
    with pytest.raises(Dom2Error, match=r"Unlowerable can't be frozen or exported.*cumsum"):
        p.export(tmp_path / "p")
    broken = policy()
    with torch.no_grad():
        next(broken.parameters()).view(-1)[0] = float("nan")
    with pytest.raises(Dom2Error, match="not finite"):
        broken.export(tmp_path / "p")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(Dom2Error, match="is a folder"):
        policy().export(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(Dom2Error, match=r"notes.txt holds something else.*choose another name"):
        policy().export(tmp_path / "notes.txt")
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_the_safetensors_package_reads_the_file(tmp_path):
    torch_files = pytest.importorskip("safetensors.torch", reason="safetensors isn't installed")
    from safetensors import safe_open

    policy(stack()).export(tmp_path / "p.safetensors")
    tensors, notes = policy_file.read(tmp_path / "p.safetensors")
    theirs = torch_files.load_file(tmp_path / "p.safetensors")
    assert set(theirs) == set(tensors)
    assert all(torch.equal(theirs[name], tensors[name]) for name in tensors)
    with safe_open(tmp_path / "p.safetensors", "pt") as file:
        assert file.metadata() == notes
    # And what it writes, we read: its order and padding differ from ours.
    torch_files.save_file(theirs, tmp_path / "again", metadata=notes)
    obs = rand(G, B, OBS, **F32)
    one, two = d2.load_policy(tmp_path / "p.safetensors"), d2.load_policy(tmp_path / "again")
    assert torch.equal(one.act(obs, generator=generator()), two.act(obs, generator=generator()))


def test_data_is_aligned(tmp_path):
    policy(stack()).export(tmp_path / "p")
    data = (tmp_path / "p").read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    sizes = {"F32": 4, "F64": 8, "I64": 8}
    assert length % 8 == 0
    for name, entry in header.items():
        if name != "__metadata__":
            assert entry["data_offsets"][0] % sizes[entry["dtype"]] == 0


# ---- broken files --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The bytes of a small valid file."""
    path = tmp_path_factory.mktemp("small") / "p"
    policy(stack(lambda seed: mlp(seed, hidden=8), groups=2), solver="ddpm", steps=2).export(path)
    return path.read_bytes()


def changed(data, edit):
    """The file with an edited header."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    edit(header)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


def note(name, value):
    return lambda data: changed(data, lambda h: h["__metadata__"].update({name: value}))


def entry(tensor, **values):
    return lambda data: changed(data, lambda h: h[tensor].update(values))


def renamed(old, new):
    return lambda data: changed(data, lambda h: h.update({new: h.pop(old)}))


def program_word(index, value):
    def edit(data):
        length = int.from_bytes(data[:8], "little")
        at = 8 + length + json.loads(data[8 : 8 + length])["program"]["data_offsets"][0] + 8 * index
        return data[:at] + value.to_bytes(8, "little", signed=True) + data[at + 8 :]

    return edit


BROKEN = {
    "empty": (lambda d: b"", "cut short before the header"),
    "text": (lambda d: b"no policy at all", "no safetensors file"),
    "header cut": (lambda d: d[:100], "cut short: the header"),
    "data cut": (lambda d: d[:-4], "ends beyond the file"),
    "data too long": (lambda d: d + b"1234", "4 bytes follow"),
    "no json": (lambda d: d[:8] + b"}" + d[9:], "its header is"),
    "name twice": (lambda d: d.replace(b'"bounds"', b'"solver"', 1), "twice"),
    "format": (note("format", "pt"), "its format is 'pt'"),
    "no notes": (lambda d: changed(d, lambda h: h.pop("__metadata__")), "__metadata__|format"),
    "version": (note("version", "5"), "version '5'"),
    "stacked": (note("stacked", "maybe"), "'maybe'"),
    "not stacked": (note("stacked", "false"), "2"),
    "dtype": (entry("solver", dtype="F8"), "'solver'"),
    "other dtype": (entry("solver", dtype="I64"), "solver is"),
    "shape": (entry("table", shape=[1, 1]), "bytes, its shape needs"),
    "huge shape": (entry("table", shape=[1 << 40, 1 << 40, 0]), "'table'"),
    "negative": (entry("bounds", shape=[-2]), "."),
    "rank": (entry("program", shape=[1, -1]), "."),
    "offsets": (entry("bounds", data_offsets=[0, 16]), "begins at byte"),
    "one offset": (entry("bounds", data_offsets=[0]), "."),
    "missing": (renamed("weights.0", "weights.x"), "no tensor 'weights.0'"),
    "turned": (lambda d: changed(d, lambda h: h["weights.0"]["shape"].reverse()), "weights.0 is"),
    "program": (program_word(0, 7), "step program of version 1"),
    "instructions": (program_word(1, 3), "."),
    "program's end": (program_word(8, 1), "."),
    "wide": (program_word(12, 1 << 30), "."),
}


def with_steps(table, solver):
    """A policy of one pass whose file claims other steps; the bytes come from elsewhere in it."""

    def edit(data):
        length = int.from_bytes(data[:8], "little")
        header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
        notes, out, at = header.pop("__metadata__"), {}, 0
        chunks = []
        for name, entry in header.items():
            begin, end = entry["data_offsets"]
            chunk, shape = body[begin:end], list(entry["shape"])
            if name == "table":
                chunk, shape[0] = chunk * table, table
            if name == "solver":
                chunk, shape[0] = bytes(64 * solver), solver
            out[name] = {**entry, "shape": shape, "data_offsets": [at, at + len(chunk)]}
            chunks.append(chunk)
            at += len(chunk)
        text = json.dumps({"__metadata__": notes, **out}).encode()
        return len(text).to_bytes(8, "little") + text + b"".join(chunks)

    return edit


BROKEN_ONE = {
    "steps of one pass": (with_steps(2, 0), "2 steps, but its program is of one pass"),
    "a solver of one pass": (with_steps(1, 1), "solver is"),
    "both": (with_steps(3, 3), "3 steps, but its program is of one pass"),
    "no table": (with_steps(0, 0), "0 steps"),
    "a later version": (note("version", "5"), "version '5'"),
    "x in the header": (program_word(4, 2), "as dom2_fast writes one"),
    "x of its buffers": (program_word(12, 2), "."),
}
# What of these is no error to C++, which doesn't read the word.
PYTHON_ALONE = {"x in the header"}


@pytest.mark.parametrize("name", list(BROKEN_ONE))
def test_broken_files_of_one_pass_are_refused_with_a_reason(tmp_path, name):
    edit, message = BROKEN_ONE[name]
    actor("deterministic").export(tmp_path / "whole")
    (tmp_path / "p").write_bytes(edit((tmp_path / "whole").read_bytes()))
    with pytest.raises(Dom2Error, match=message):
        d2.load_policy(tmp_path / "p")


@pytest.mark.parametrize("name", list(BROKEN))
def test_broken_files_are_refused_with_a_reason(tmp_path, small, name):
    edit, message = BROKEN[name]
    (tmp_path / "p").write_bytes(edit(small))
    with pytest.raises(Dom2Error, match=message) as error:
        d2.load_policy(tmp_path / "p")
    assert str(tmp_path / "p") in str(error.value) and "\n" not in str(error.value)


def test_no_such_file(tmp_path):
    with pytest.raises(Dom2Error, match="no file at"):
        d2.load_policy(tmp_path / "absent")
    with pytest.raises(Dom2Error, match="no file at"):
        d2.load_policy(tmp_path)


@pytest.mark.parametrize("native", [True, False], ids=["native", "reference"])
def test_a_damaged_file_gives_an_error_or_a_policy(tmp_path, small, monkeypatch, native):
    if not native:
        monkeypatch.setattr(ops, "_NATIVE", None)
    draw, counts = random.Random(0), {True: 0, False: 0}
    front = 8 + int.from_bytes(small[:8], "little")
    for _ in range(400 if native else 200):
        data = bytearray(small)
        where = draw.choice([front, front + 1200, len(data)])
        data[draw.randrange(where)] = draw.randrange(256)
        (tmp_path / "p").write_bytes(data)
        try:
            q = d2.load_policy(tmp_path / "p")
            q.act(torch.zeros(q.groups, 1, q.obs_dim), generator=generator())
            counts[True] += 1
        except Dom2Error:
            counts[False] += 1
    assert min(counts.values()) > 20
