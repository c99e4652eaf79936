"""One update of three agents of every baseline: draw, critics, actor, targets.

`native` is the algorithm's own update, `reference` the same code on dom2_fast's plain-PyTorch path,
`loop` is `peer_torch_baselines` or `peer_torch_diffusion`: PyTorch alone, agent after agent.
Settings are the defaults: batch 256, and each algorithm's own widths. TD3+BC and DOM2 have more
peers in `bench_update.py`; bc10 is bc with other weights, and has the same update.
"""

import dataclasses

import peer_torch_baselines as actors
import peer_torch_diffusion as diffusion
import pytest
import torch
from bench_update import random_data
from conftest import close
from peer_torch import FIELDS

from dom2_fast import algos, ops
from dom2_fast.ops import philox

LOOPS = {
    "bc": diffusion.LoopDiffusionBC,
    "bc_det": actors.LoopBC,
    "bc_gauss": actors.LoopGaussianBC,
    "itd3": actors.LoopITD3,
    "cql": actors.LoopITD3,
    "omar": actors.LoopITD3,
    "iql": actors.LoopIQL,
    "icq": actors.LoopICQ,
    "sfbc": diffusion.LoopSfBC,
    "diffusion_ql": diffusion.LoopDiffusionQL,
}


@pytest.fixture(scope="module")
def data():
    return random_data()


def coming_noise(agent, act) -> list[torch.Tensor]:
    """What the next update of a native agent draws, in the order of the peer's `noise`."""
    g, c, (G, B, A) = torch.Generator(), agent.config, act.shape
    g.set_state(agent.generator.get_state())

    def normals(*shape):
        return torch.empty(shape).normal_(generator=g)

    def chain():
        rng = ops.make_rng(g)
        drawn = [
            philox.normals(rng, k, G * B, A, dtype=act.dtype).view(G, B, A)
            for k in range(1 + c.steps)
        ]
        return torch.stack(drawn, 1)  # x_T is stream 0, step s is stream 1 + s

    def denoising():
        return [agent.policy.schedule.training_times((G, B), g), torch.randn(G, B, A, generator=g)]

    if agent.name in ("bc", "sfbc"):
        return denoising()
    if agent.name == "diffusion_ql":
        first, noised, coins = chain(), denoising(), torch.rand(G, generator=g)
        return [first, *noised, chain(), coins]
    if agent.name not in ("cql", "omar"):
        return []
    found = [torch.rand(G, B, c.cql_actions, A, generator=g) * 2 - 1]
    if agent.name == "omar":
        rounds = [normals(G, B, c.search_samples, A) for _ in range(c.search_rounds)]
        found.append(torch.stack(rounds, 1))
    return found


def same_gradients(stack, modules) -> None:
    for name, p in stack.template.named_parameters():
        close(p.grad, torch.stack([m.get_parameter(name).grad for m in modules]))


def contenders(kinds, data, name: str) -> dict:
    cls = algos.algorithm(name)
    config = cls.config_class(weights="uniform", backend="native")
    native = cls(config, data)
    peer = LOOPS[name](native)  # built before the native agent learns
    batch = native._draw()
    fields = [getattr(batch, f) for f in FIELDS]
    if name == "icq":
        fields.append(batch.next_act)
    if name == "sfbc":
        fields.append(native.returns.targets.gather(1, batch.index))
    native._draw = lambda: batch
    for turn in range(2):  # the second sees what the first has changed
        noise = coming_noise(native, batch.act)
        ours = native.update()
        for metric, value in peer.step(*fields, *noise).items():
            close(ours[metric], value)
        if turn == 0:  # Adam's first step, the sign of the gradient, makes more of rounding
            same_gradients(*peer.parts["net"])
    del native._draw
    found = {"native": native, "loop": peer}
    if "reference" in kinds:
        found["reference"] = cls(dataclasses.replace(config, backend="reference"), data)
    return {kind: found[kind].update for kind in kinds}


@pytest.mark.parametrize("kind", ["native", "reference", "loop"])
@pytest.mark.parametrize("name", LOOPS)
def bench_baseline_update(race, threads, data, name, kind):
    group = f"update of {name}, 3 x 256 rows, {threads} threads"
    race(group, lambda kinds: contenders(kinds, data, name))
