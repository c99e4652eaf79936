"""ops.sample_transitions and alias_table: the reference's integers, the right frequencies."""

import pytest
import torch
from scipy.stats import chisquare
from tolerances import CHI2_P

from dom2_fast import ops
from dom2_fast.ops import backend, reference

needs_extension = pytest.mark.skipif(
    not backend.available(), reason=f"no compiled extension: {backend.reason()}"
)
RNG = torch.tensor([-123_456_789_123, 77])


def data(groups=3, trajectories=40, widths=(5, 2, 0, 5), dtype=torch.float32, ragged=False):
    g = torch.Generator().manual_seed(1)
    lengths = torch.randint(1, 30, (trajectories,), generator=g)
    starts = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    n = int(starts[-1])
    fields = []
    for width in widths:
        for agent in range(groups):
            w = width + (agent if ragged and width else 0)
            shape = (n, w) if width else (n,)
            fields.append(torch.randn(shape, generator=g, dtype=dtype))
    weights = torch.rand(groups, trajectories, generator=g, dtype=torch.float64)
    weights[:, 3] = 0
    return fields, weights, starts


def assert_same(a, b):
    assert torch.equal(a[1], b[1])
    for x, y in zip(a[0], b[0], strict=True):
        for p, q in zip(x, y, strict=True):  # agents
            assert p.shape == q.shape and p.dtype == q.dtype == torch.float32
            assert torch.equal(p, q)


@pytest.mark.parametrize(
    "batch, groups, dtype, ragged",  # every pair of a value of groups, dtype and ragged
    [
        (0, 1, torch.float32, False),
        (1, 3, torch.float64, True),
        (2, 4, torch.float32, True),
        (7, 1, torch.float64, True),
        (9, 3, torch.float32, False),
        (17, 4, torch.float64, False),
        (129, 3, torch.float64, False),
        (1000, 4, torch.float32, True),
    ],
)
def test_same_integers_as_the_reference(executor, batch, groups, dtype, ragged):
    fields, weights, starts = data(groups, dtype=dtype, ragged=ragged)
    tables = ops.alias_table(weights)
    args = (fields, *tables, starts, batch, RNG)
    assert_same(ops.sample_transitions(*args), reference.sample_transitions(*args))


def test_columns_of_a_wider_table(executor):
    fields, weights, starts = data(2)
    record = torch.cat([f.reshape(len(f), -1) for f in fields], 1)
    views = list(record.split([f[0].numel() for f in fields], 1))
    tables = ops.alias_table(weights)
    a = ops.sample_transitions(views, *tables, starts, 50, RNG)
    b = reference.sample_transitions([v.contiguous() for v in views], *tables, starts, 50, RNG)
    assert_same(a, b)


@needs_extension
def test_alias_table_is_the_reference_one():
    for seed in range(20):
        g = torch.Generator().manual_seed(seed)
        weights = torch.rand(3, 500, generator=g, dtype=torch.float64) ** 4
        weights[weights < 0.1] = 0
        weights[:, 0] = 1
        for a, b in zip(ops.alias_table(weights), reference.alias_table(weights), strict=True):
            # Sums in another order may move a threshold by the last of its 32 bits.
            assert (a - b).abs().max() <= 1


def alias_probabilities(threshold, alias):
    n = threshold.shape[1]
    keep = threshold.double() / 2**32
    p = keep.clone()
    p.scatter_add_(1, alias, 1 - keep)
    return p / n


@needs_extension
def test_alias_table_stands_for_its_weights():
    _, weights, _ = data(3, 1000)
    p = alias_probabilities(*ops.alias_table(weights))
    expected = weights / weights.sum(1, keepdim=True)
    # Each threshold is cut to 32 bits, and each column collects at most 1000 of them.
    assert (p - expected).abs().max() <= 2.0**-32
    assert p[:, 3].max() == 0


def test_frequencies_follow_the_weights(executor):
    _, weights, starts = data(3, 40)
    n = int(starts[-1])
    rows = [torch.arange(n, dtype=torch.float64) for _ in range(3)]
    batch = 200_000
    (drawn,), index = ops.sample_transitions(
        rows, *ops.alias_table(weights), starts, batch, torch.tensor([3, 0])
    )
    assert torch.equal(drawn.long(), index)
    trajectory = torch.searchsorted(starts, index, right=True) - 1
    lengths = (starts[1:] - starts[:-1]).double()
    for agent in range(3):
        expected = weights[agent] / weights[agent].sum() * batch
        count = trajectory[agent].bincount(minlength=40).double()
        assert count[3] == 0  # weight 0: never drawn
        used = expected > 0
        assert chisquare(count[used], expected[used]).pvalue > CHI2_P
        # and steps are uniform within each trajectory
        step = index[agent].bincount(minlength=n).double()
        within = (expected / lengths).repeat_interleave(lengths.long())
        used = within > 0
        assert chisquare(step[used], within[used]).pvalue > CHI2_P
    # agents draw their own rows
    assert (index[0] != index[1]).any()


def test_no_drawn_transition_crosses_an_episode(executor):
    starts = torch.arange(0, 1001, 25)
    episode = (torch.arange(1000) // 25).float()
    following = episode.clone()  # next_obs of a last step belongs to the same episode
    weights = torch.rand(1, 40, dtype=torch.float64)
    (a, b), _ = ops.sample_transitions(
        [episode, following], *ops.alias_table(weights), starts, 5000, RNG
    )
    assert torch.equal(a, b)


def bad(**change):
    fields, weights, starts = data(2)
    threshold, alias = ops.alias_table(weights)
    args = dict(fields=fields, threshold=threshold, alias=alias, starts=starts, batch=4, rng=RNG)
    return {**args, **change}


F2, W2, S2 = data(2)
BROKEN = S2.clone()
BROKEN[5] = BROKEN[4]


@needs_extension
@pytest.mark.parametrize(
    "change, words",
    [
        (dict(fields=F2[:-1]), ["7 fields", "2 agents"]),
        (dict(fields=[F2[0][:-1], *F2[1:]]), ["fields[0]", "must be"]),
        (dict(fields=[F2[0].long(), *F2[1:]]), ["fields[0]", "float32 or float64"]),
        (dict(fields=[F2[0].t().contiguous().t(), *F2[1:]]), ["fields[0]", "contiguous"]),
        (dict(starts=BROKEN), ["trajectory 4 is empty"]),
        (dict(starts=S2[1:]), ["starts", "[41]"]),
        (dict(batch=-1), ["batch is -1"]),
        (dict(alias=torch.full((2, 40), 40)), ["alias table", "alias_table"]),
        (dict(rng=torch.zeros(3, dtype=torch.int64)), ["rng", "[3]"]),
    ],
)
def test_bad_arguments_are_named(change, words):
    with pytest.raises(RuntimeError) as error:
        ops.sample_transitions(**bad(**change))
    assert all(w in str(error.value) for w in words), str(error.value)


@needs_extension
@pytest.mark.parametrize(
    "weights, words",
    [
        ([[1.0, -1.0]], ["-1", "not negative"]),
        ([[0.0, 0.0]], ["sum to 0", "at least one"]),
        ([[1.0, float("nan")]], ["nan", "finite"]),
        ([[1.0, float("inf")]], ["inf", "finite"]),
    ],
)
def test_bad_weights_are_named(weights, words):
    with pytest.raises(RuntimeError) as error:
        ops.alias_table(torch.tensor(weights))
    assert all(w in str(error.value) for w in words), str(error.value)


@needs_extension
def test_opcheck():
    fields, weights, starts = data(2, ragged=True)
    tables = ops.alias_table(weights)
    native = torch.ops.dom2_fast
    torch.library.opcheck(
        native.sample_transitions.default, (fields, *tables, starts, RNG, 7, True)
    )
    torch.library.opcheck(native.alias_table.default, (weights,))


@needs_extension
def test_compiles_in_one_graph():
    fields, weights, starts = data(2)
    tables = ops.alias_table(weights)

    def f(rng):
        (a, *_), index = ops.sample_transitions(fields, *tables, starts, 9, rng)
        return a.sum(), index

    a, b = torch.compile(f, fullgraph=True, backend="aot_eager")(RNG), f(RNG)
    assert torch.equal(a[0], b[0]) and torch.equal(a[1], b[1])
