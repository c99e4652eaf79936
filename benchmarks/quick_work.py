"""The rows of `run.py --quick` as things to call: ours, plain C, PyTorch, peers in processes."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import peer_onnx
import torch
from bench_denoise import BOUND, policy_and_inputs
from conftest import close, close_in_bf16
from floor import Floor, NoCompiler
from peak import update_work, work
from peer_torch import Sampler, batched, coefficients, per_agent
from quick_table import OURS
from remote import Absent, Remote

from dom2_fast.ops import backend

LOAD_LIMIT = 60.0  # seconds that a peer may take to import, compile and give its first result


@dataclass(frozen=True)
class Work:
    name: str
    kind: str  # "sample" or "update"
    net: str
    agents: int
    batch: int
    bf16: bool = False
    later: bool = False  # is it worth a torch.compile, which takes half a minute


def sample(net: str, agents: int, batch: int, bf16: bool = False, later: bool = False) -> Work:
    rows = f"{agents} x {batch} row{'s' if agents * batch > 1 else ''}"
    return Work(
        f"sample, {net}, {rows}{', bf16' if bf16 else ''}",
        "sample", net, agents, batch, bf16, later,
    )  # fmt: skip


WORKS = [
    sample("mlp", 1, 1, later=True),
    *(sample("mlp", 1, batch, later=batch == 256) for batch in (8, 32, 256, 1024)),
    *(sample("mlp", 1, batch, bf16=True) for batch in (1, 32, 256)),
    *(sample("unet", 1, batch) for batch in (1, 256)),
    sample("mlp", 3, 1),
    *(Work(f"DOM2 update, 3 x {b} rows", "update", "mlp", 3, b) for b in (1, 256, 1024)),
]


class Peers:
    """The processes of peers, one per kind, kept from row to row."""

    def __init__(self, threads: int, clock: str):
        self.threads, self.clock, self.folder = threads, clock, tempfile.TemporaryDirectory()
        self.remotes: dict[str, Remote] = {}
        self.set_threads = True

    def __getitem__(self, kind: str) -> Remote:
        return self.remotes.setdefault(kind, Remote(kind, self.clock))

    def problem(self, kind: str, one: Work, left: float) -> Remote:
        """The peer with this row's work, which has agreed with ours in its own process."""
        self[kind].load(
            {"work": one.kind, "net": one.net, "agents": one.agents, "batch": one.batch,
             "threads": self.threads},
            min(LOAD_LIMIT, left),
        )  # fmt: skip
        return self[kind]

    def graph(self, kind: str, path: Path, precision: str, left: float):
        """(the peer with the graph of `export`, its actions)"""
        load = {
            "work": "graph", "path": str(path), "feed": str(path.with_suffix(".npz")),
            "result": str(path.with_suffix(".npy")), "precision": precision,
            "threads": self.threads, "set_threads": self.set_threads,
        }  # fmt: skip
        try:
            self[kind].load(load, min(LOAD_LIMIT, left))
        except Absent as reason:
            if kind != "openvino" or "its process ended" not in str(reason):
                raise
            # Some versions end when told a number of threads; the cores are limited anyway.
            self.set_threads = False
            self[kind].load({**load, "set_threads": False}, min(LOAD_LIMIT, left))
        return self[kind], torch.from_numpy(np.load(load["result"]))

    def close(self) -> None:
        for remote in self.remotes.values():
            remote.close()
        self.folder.cleanup()


def calls(run, clock):
    """run() as the seconds of n calls."""

    def timed(n: int) -> float:
        begin = clock()
        for _ in range(n):
            run()
        return clock() - begin

    return timed


def contenders(one: Work, peers: Peers, wanted, clock, left) -> tuple[dict, dict, float]:
    """(kind -> seconds of n calls, kind -> why not, operations of one call).

    wanted(kind): is this peer to be timed? left(): seconds that the whole run still has.
    Each contender has given what ours gives for the same weights and noise; one that doesn't is
    left out, with the difference.
    """
    if one.kind == "update":
        return update_contenders(one, peers, wanted, clock, left)
    policy, obs, x_T = policy_and_inputs(
        one.net, one.agents, one.batch, "bf16" if one.bf16 else "fp32"
    )
    exact = policy
    if one.bf16:
        exact, _, _ = policy_and_inputs(one.net, one.agents, one.batch)
    torch_loop = Sampler(per_agent(exact.net).eval(), bound=BOUND)
    expected = exact.sample(obs, x_T)
    found, absent = {OURS: calls(lambda: policy.sample(obs, x_T), clock)}, {}
    first, step = work(policy._programs.get("table").program)
    operations = one.agents * one.batch * (first + policy.steps * step)

    def eager():
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=one.bf16):
            return torch_loop(obs, x_T)

    def agrees(result) -> None:
        if one.bf16:
            close_in_bf16(result, eager(), expected)
        else:
            close(expected, result)

    def attempt(kind: str, make) -> None:
        if not wanted(kind):
            return
        try:
            found[kind] = make()
        except (Absent, NoCompiler) as reason:
            absent[kind] = str(reason)
        except Exception as error:
            absent[kind] = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"

    agrees(policy.sample(obs, x_T))
    if (one.net, one.agents, one.batch, one.bf16) == ("mlp", 1, 1, False):
        attempt("floor", lambda: floor(exact, obs, x_T, agrees, clock))
    attempt("eager", lambda: checked(eager, agrees, clock))
    if one.agents > 1:
        stack = Sampler(batched(exact.net).eval(), bound=BOUND)
        attempt("batched", lambda: checked(lambda: stack(obs, x_T), agrees, clock))
    if not one.bf16:
        attempt("jax", lambda: peers.problem("jax", one, left()).time)
    path = Path(peers.folder.name) / "sampler.onnx"
    graphs = [k for k in (("openvino",) if one.bf16 else ("onnx", "openvino")) if wanted(k)]
    if graphs:
        try:
            peer_onnx.export(torch_loop, obs, x_T, path)
            np.savez(path.with_suffix(".npz"), obs=obs.numpy(), x_T=x_T.numpy())
        except Exception as error:
            told = " ".join(str(error).split())[:160]
            reason = f"no ONNX graph: {type(error).__name__}: {told}"
            absent |= dict.fromkeys(graphs, reason)
            graphs = []

    def graph(kind):
        remote, result = peers.graph(kind, path, "bf16" if one.bf16 else "f32", left())
        agrees(result.view_as(expected))
        return remote.time

    for kind in graphs:
        attempt(kind, lambda kind=kind: graph(kind))
    return found, absent, operations


def floor(policy, obs, x_T, agrees, clock):
    net = policy.net.unstack()[0]
    made = Floor(net, coefficients(policy.steps), BOUND, backend.isa_active())
    agrees(made.act(obs, x_T).view_as(x_T))

    def timed(n: int) -> float:
        begin = clock()
        made.run(n)
        return clock() - begin

    return timed


def checked(run, agrees, clock):
    agrees(run())
    return calls(run, clock)


def update_contenders(one: Work, peers: Peers, wanted, clock, left):
    import bench_update

    from dom2_fast.algos.dom2 import DOM2

    data, absent = bench_update.random_data(), {}
    kinds = ["native", *(k for k in ("eager", "batched") if wanted(k))]
    with torch.enable_grad():
        made = bench_update.contenders(kinds, data, one.net, one.batch)
    operations = update_work(DOM2(bench_update.paper_config(one.net, one.batch), data))

    def learning(run):
        def update():
            with torch.enable_grad():
                run()

        return calls(update, clock)

    found = {OURS: learning(made.pop("native")), **{k: learning(v) for k, v in made.items()}}
    if wanted("jax"):
        try:
            found["jax"] = peers.problem("jax", one, left()).time
        except Absent as reason:
            absent["jax"] = str(reason)
    return found, absent, operations
