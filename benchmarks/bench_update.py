"""One whole update of three agents: draw, critics, policy, targets; DOM2's and TD3+BC's.

`native` is DOM2.update, `reference` the same code on dom2_fast's plain-PyTorch path; `eager`,
`batched` and `compile` are `peer_torch_dom2`, `jax` is `peer_jax_dom2`. `bf16` is `native` with
precision="bf16", `autocast` is `eager` under bf16 autocast. The U-Net is in evaluation mode for all
of them: no two libraries draw the same dropout masks.
"""

import dataclasses

import numpy as np
import peer_torch
import pytest
import torch
from conftest import close, missing
from peer_torch import FIELDS
from peer_torch_dom2 import TorchDOM2
from peer_torch_td3_bc import LoopTD3BC, TorchTD3BC

from dom2_fast import ops
from dom2_fast.algos.dom2 import DOM2, DOM2Config
from dom2_fast.algos.td3_bc import TD3BC, TD3BCConfig
from dom2_fast.data.trajectories import TrajectoryDataset
from dom2_fast.ops import reference


def random_data() -> TrajectoryDataset:
    """200 episodes of three agents; what is in them doesn't change the work."""
    g = torch.Generator().manual_seed(0)
    episodes, length = 200, 25

    def draw(steps, width):
        return [torch.randn(episodes, steps, width, generator=g) for _ in range(3)]

    obs = draw(length + 1, 18)
    return TrajectoryDataset.from_arrays(
        obs=[o[:, :-1].reshape(-1, 18).numpy() for o in obs],
        act=[a.clamp(-1, 1).reshape(-1, 2).numpy() for a in draw(length, 2)],
        reward=[r.reshape(-1).numpy() for r in draw(length, 1)],
        next_obs=[o[:, 1:].reshape(-1, 18).numpy() for o in obs],
        episode_length=length,
    )


@pytest.fixture(scope="module")
def data():
    return random_data()


def next_draws(agent, batch) -> list[torch.Tensor]:
    """What the coming update draws, in the order of `peer_torch_dom2.NOISE`."""
    g = torch.Generator()
    g.set_state(agent.generator.get_state())
    G, B, A = batch.act.shape

    def start():
        return reference.draw_start(ops.make_rng(g), G, B, A, batch.act)

    x_target = start()
    proposed = torch.rand((G, B, agent.config.cql_actions, A), generator=g) * 2 - 1
    x_actor = start()
    t = agent.policy.schedule.training_times((G, B), g)
    return [x_target, proposed, x_actor, t, torch.randn((G, B, A), generator=g)]


def own_step(agent, batch) -> dict:
    """Losses, gradients and changes of one update of DOM2 on the batch given."""
    nets = {"net": agent.net, "critic": agent.critics.net}
    before = {k: {n: p.detach().clone() for n, p in m.params().items()} for k, m in nets.items()}
    agent._draw = lambda: batch
    losses = agent.update()
    del agent._draw
    grads = {k: {n: p.grad for n, p in m.template.named_parameters()} for k, m in nets.items()}
    after = {k: m.params() for k, m in nets.items()}
    return {"losses": losses, "grads": grads, "before": before, "after": after}


def torch_step(peer, batch, noise) -> dict:
    losses = peer.step(*batch, *noise)
    nets = {"net": peer.net, "critic": peer.critic}
    grads = {k: m.stacked_grads() for k, m in nets.items()}
    if isinstance(peer.net, peer_torch.PerAgent):
        after = {
            k: {n: torch.stack([m.get_parameter(n) for m in net.nets]) for n in grads[k]}
            for k, net in nets.items()
        }
    else:
        after = {k: dict(net.net.named_parameters()) for k, net in nets.items()}
    return {"losses": losses, "grads": grads, "after": after}


def jax_step(peer, batch, noise) -> dict:
    from peer_jax import array

    new, losses, grads = peer.compare(peer.state, *map(array, (*batch, *noise)))

    def tensors(tree):
        return {n: torch.from_numpy(np.array(v)) for n, v in tree.items()}

    return {
        "losses": {n: torch.tensor(float(v)) for n, v in losses.items()},
        "grads": {k: tensors(grads[k]) for k in ("net", "critic")},
        "after": {k: tensors(new[k]) for k in ("net", "critic")},
    }


def same_in_bf16(ours: dict, autocast: dict, exact: dict) -> None:
    """Gradients at most twice as far from those in float32 as PyTorch's own with bf16 products."""
    for k in ("net", "critic"):
        a, b, c = (
            torch.cat([r["grads"][k][n].flatten() for n in exact["grads"][k]])
            for r in (ours, autocast, exact)
        )
        error, own = (a - c).norm() / c.norm(), (b - c).norm() / c.norm()
        assert error <= 2 * own, f"gradient of {k}: {error:.1e}, PyTorch's own in bf16 {own:.1e}"


def same(ours: dict, theirs: dict) -> None:
    for name, value in theirs["losses"].items():
        close(ours["losses"][name], value)
    for k in ("net", "critic"):
        for name, grad in theirs["grads"][k].items():
            close(ours["grads"][k][name], grad)
            # Adam's first step is the sign of the gradient times lr, so where a gradient is zero
            # but for rounding the steps differ: the changes agree as a whole.
            start = ours["before"][k][name]
            one, other = ours["after"][k][name] - start, theirs["after"][k][name] - start
            error = (one - other).norm() / one.norm()
            assert error < 0.02, f"the change of {name} differs by {error:.1e}"


def paper_config(net: str, batch: int) -> DOM2Config:
    """The paper's form of DOM2, the chain's gradient: what the peers are written for."""
    return DOM2Config(
        batch_size=batch,
        weights="uniform",
        network=net,
        q_warmup=0,
        backend="native",
        q_action="chain",
    )


def contenders(kinds, data, net: str, batch: int) -> dict:
    config = paper_config(net, batch)

    def agent(**changes):
        made = DOM2(dataclasses.replace(config, **changes), data)
        made.net.eval()
        return made

    native, found = agent(), {}
    rows = native.sampler.sample()
    noise = next_draws(native, rows)
    fixed = [getattr(rows, f) for f in FIELDS]
    peers = {}  # built before the native agent learns
    half = None
    for kind in kinds:
        if kind == "bf16":
            half = agent(precision="bf16"), TorchDOM2(native, peer_torch.per_agent, autocast=True)
        elif kind in ("eager", "batched", "compile", "autocast"):
            make = peer_torch.per_agent if kind in ("eager", "autocast") else peer_torch.batched
            peers[kind] = TorchDOM2(
                native, make, compile=kind == "compile", autocast=kind == "autocast"
            )
        elif kind == "jax":
            if (why := missing("jax")) is None:
                from peer_jax_dom2 import JaxDOM2

                peers[kind] = JaxDOM2(native)
            else:
                found[kind] = why
    ours = own_step(native, rows)
    for kind, peer in peers.items():
        if kind != "autocast":
            same(ours, (jax_step if kind == "jax" else torch_step)(peer, fixed, noise))
        found[kind] = peer.update
    if half:
        same_in_bf16(own_step(half[0], rows), torch_step(half[1], fixed, noise), ours)
        found["bf16"] = half[0].update
    if "reference" in kinds:
        plain = agent(backend="reference")
        same(ours, own_step(plain, rows))
        found["reference"] = plain.update
    if "native" in kinds:
        found["native"] = native.update
    return found


@pytest.mark.filterwarnings("ignore")  # of compilers
@pytest.mark.parametrize(
    "kind", ["native", "bf16", "reference", "eager", "autocast", "batched", "compile", "jax"]
)
@pytest.mark.parametrize(("net", "batch"), [("mlp", 256), ("mlp", 1024), ("unet", 256)])
def bench_dom2_update(race, threads, data, net, batch, kind):
    group = f"DOM2 update, {net}, 3 x {batch} rows, {threads} threads"
    race(group, lambda kinds: contenders(kinds, data, net, batch))


def td3_contenders(kinds, data, width: int, batch: int) -> dict:
    """Each runs two updates, the second of which moves the actor and the targets."""
    config = TD3BCConfig(batch_size=batch, weights="uniform", hidden=width, critic_hidden=width)

    def agent(**changes):
        return TD3BC(dataclasses.replace(config, **changes), data)

    native = agent(backend="native")
    rows = native._draw()
    g = torch.Generator()
    g.set_state(native.generator.get_state())
    noise = [torch.randn(rows.act.shape, generator=g) for _ in range(2)]
    peers = {  # built before the native agent learns
        "eager": TorchTD3BC(native, peer_torch.per_agent),
        "batched": TorchTD3BC(native, peer_torch.batched),
        "loop": LoopTD3BC(native),
    }
    native._draw = lambda: rows
    ours = native.update() | native.update()
    del native._draw
    found = {
        "native": native,
        "bf16": agent(backend="native", precision="bf16"),
        "reference": agent(backend="reference"),
    }
    for kind, peer in peers.items():
        if kind in kinds:
            fixed = [getattr(rows, f) for f in FIELDS]
            for z in noise:
                losses = peer.step(*fixed, z)
            for name, value in losses.items():
                close(ours[name], value)
            grads = peer.net.stacked_grads()
            for name, p in native.learner.template.named_parameters():
                close(p.grad, grads[name])
            found[kind] = peer
    return {kind: pair_of(found[kind].update) for kind in kinds}


def pair_of(update):
    return lambda: (update(), update())


@pytest.mark.parametrize("kind", ["native", "bf16", "reference", "eager", "batched", "loop"])
@pytest.mark.parametrize("batch", [256, 1024])
@pytest.mark.parametrize("width", [64, 256])
def bench_td3_bc_update(race, threads, data, width, batch, kind):
    group = f"2 updates of TD3+BC, width {width}, 3 x {batch} rows, {threads} threads"
    race(group, lambda kinds: td3_contenders(kinds, data, width, batch))
