"""Weighted draw and gather from 1 M transitions of three agents (18 + 2 + 1 + 18 + 1 numbers each).

Every agent has its own weights, 1 to 8 per trajectory, and draws its own rows. `searchsorted`,
`multinomial` and `numpy` draw a trajectory and a step inside it, then gather every field;
`torchrl` and `cpprb` hold one prioritised replay buffer per agent with the weight as each row's
priority, which is how those libraries are used. `native` and the peers draw at random: asserted is
that what was drawn is what was gathered, and that rows come as often as their weights say.
"""

import numpy as np
import pytest
import torch
from conftest import missing

from dom2_fast import ops

AGENTS, EPISODES, LENGTH = 3, 40_000, 25
FIELDS = {"obs": 18, "act": 2, "reward": 0, "next_obs": 18, "done": 0}
ROWS = EPISODES * LENGTH


@pytest.fixture(scope="module")
def data():
    torch.manual_seed(0)
    fields = [torch.randn((ROWS, w) if w else (ROWS,)) for w in FIELDS.values() for _ in range(3)]
    weights = torch.randint(1, 9, (AGENTS, EPISODES)).double()
    return fields, weights, torch.arange(0, ROWS + 1, LENGTH)


@pytest.fixture(scope="module")
def buffers(data):
    """Replay buffers by library, filled once: that takes a while."""
    made = {}

    def get(name: str):
        if name not in made:
            made[name] = {"torchrl": torchrl_buffers, "cpprb": cpprb_buffers}[name](*data[:2])
        return made[name]

    return get


def of_agent(fields, agent: int) -> dict[str, torch.Tensor]:
    return {name: fields[i * AGENTS + agent] for i, name in enumerate(FIELDS)}


def torchrl_buffers(fields, weights):
    from tensordict import TensorDict
    from torchrl.data import LazyTensorStorage, PrioritizedSampler, TensorDictReplayBuffer

    buffers = []
    for agent in range(AGENTS):
        sampler = PrioritizedSampler(max_capacity=ROWS, alpha=1.0, beta=1.0, eps=0.0)
        buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(ROWS), sampler=sampler)
        buffer.extend(TensorDict(of_agent(fields, agent), [ROWS]))
        priority = weights[agent].repeat_interleave(LENGTH).float()
        buffer.update_priority(torch.arange(ROWS), priority)
        buffers.append(buffer)
    return buffers


def cpprb_buffers(fields, weights):
    import cpprb

    shapes = {name: {"shape": width or 1} for name, width in FIELDS.items()}
    buffers = []
    for agent in range(AGENTS):
        buffer = cpprb.PrioritizedReplayBuffer(ROWS, shapes, alpha=1.0, eps=0.0)
        rows = {name: f.numpy() for name, f in of_agent(fields, agent).items()}
        priority = weights[agent].repeat_interleave(LENGTH).float().numpy()
        buffer.add(**rows, priorities=priority)
        buffers.append(buffer)
    return buffers


def torchrl_draw(buffers, batch: int):
    found = [b.sample(batch) for b in buffers]
    outs = [torch.stack([one[name] for one in found]) for name in FIELDS]
    return outs, torch.stack([one["index"] for one in found])


def cpprb_draw(buffers, batch: int):
    found = [b.sample(batch, beta=0.0) for b in buffers]
    outs = [torch.from_numpy(np.stack([one[name] for one in found])) for name in FIELDS]
    return outs, torch.from_numpy(np.stack([one["indexes"] for one in found]))


def contenders(data, batch: int) -> dict:
    """Those without a buffer of their own: each gives (five fields [3, B, ...], rows [3, B])."""
    fields, weights, starts = data
    tables = ops.alias_table(weights)
    cumulative = weights.cumsum(1)
    share = (weights / weights.sum(1, keepdim=True)).numpy()
    rng = np.random.default_rng(0)

    def gather(trajectory):
        index = trajectory * LENGTH + torch.randint(LENGTH, (AGENTS, batch))
        outs = []
        for f in range(0, len(fields), AGENTS):
            outs.append(torch.stack([fields[f + g][index[g]] for g in range(AGENTS)]))
        return outs, index

    def native():
        return ops.sample_transitions(fields, *tables, starts, batch, ops.make_rng(), check=False)

    def searchsorted():
        u = torch.rand(AGENTS, batch, dtype=torch.float64) * cumulative[:, -1:]
        return gather(torch.searchsorted(cumulative, u))

    def multinomial():
        return gather(torch.multinomial(weights, batch, replacement=True))

    def numpy():
        drawn = [rng.choice(EPISODES, batch, p=share[g]) for g in range(AGENTS)]
        return gather(torch.from_numpy(np.stack(drawn)))

    return {
        "native": native,
        "searchsorted": searchsorted,
        "multinomial": multinomial,
        "numpy": numpy,
    }


def check(draw, data) -> None:
    """What was drawn was gathered, and by weight; 200 batches, far from a chance failure."""
    fields, weights, _ = data
    drawn = []
    for turn in range(200):
        outs, index = draw()
        index = index.long()
        drawn.append(weights.gather(1, index // LENGTH))
        if turn < 3:
            for f, out in enumerate(outs):
                for g in range(AGENTS):
                    expected = fields[f * AGENTS + g][index[g]]
                    assert torch.equal(out[g].reshape(expected.shape), expected)
    drawn = torch.cat(drawn, 1)
    mean = weights.square().sum(1) / weights.sum(1)  # of the weight of a row drawn by weight
    error = (drawn.mean(1) - mean).abs() / (drawn.std(1) / drawn.size(1) ** 0.5)
    assert bool((error < 6.0).all()), f"drawn weights are {error.tolist()} standard errors off"


def loads(name: str) -> str | None:
    """Why a buffer library can't be timed here, or None."""
    if why := missing(name):
        return why
    if name == "torchrl":
        try:
            import torchrl._torchrl  # noqa: F401  its sum tree; the package imports without it
        except ImportError as error:
            why = str(error).partition(".so: ")[2] or str(error)
            return (
                f"torchrl's extension doesn't load with torch {torch.__version__}; build it by "
                f"python tools/build_torchrl.py ({why:.90})"
            )
    return None


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "kind", ["native", "searchsorted", "multinomial", "numpy", "torchrl", "cpprb"]
)
@pytest.mark.parametrize("batch", [256, 1024])
def bench_draw_and_gather(race, threads, data, buffers, batch, kind):
    def make(kinds):
        found = contenders(data, batch)
        for name, draw in (("torchrl", torchrl_draw), ("cpprb", cpprb_draw)):
            if name in kinds:
                found[name] = loads(name) or (lambda n=name, d=draw: d(buffers(n), batch))
        found = {kind: found[kind] for kind in kinds}
        for run in found.values():
            if not isinstance(run, str):
                check(run, data)
        return found

    race(f"draw + gather, 3 x {batch} of 1 M rows, {threads} threads", make)
