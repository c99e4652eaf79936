"""TrajectorySampler: frequencies against literal replication, episode bounds, exact resume."""

import numpy as np
import pytest
import torch
from scipy import stats
from small_data import arrays, dataset
from tolerances import CHI2_P

from dom2_fast.data import reweight
from dom2_fast.data.sampler import TrajectorySampler
from dom2_fast.data.trajectories import TrajectoryDataset
from dom2_fast.errors import Dom2Error


def test_frequencies_equal_literal_replication():
    lengths = [3, 1, 6, 2, 5]
    given = arrays(trajectories=1, length=sum(lengths))
    data = TrajectoryDataset.from_arrays(**given, lengths=lengths)
    levels = data.returns.mean(1).tolist()
    sampler = TrajectorySampler(data, reweight.thresholds(levels), batch_size=40_000, seed=3)
    index = sampler.sample().index
    for agent in range(2):
        rows = list(range(len(data)))
        for level in levels:  # the definition: copy the rows of every trajectory above the level
            for j in range(5):
                if data.returns[agent, j] > level:
                    rows += range(int(data.starts[j]), int(data.starts[j + 1]))
        expected = np.bincount(rows) / len(rows) * 40_000
        counted = np.bincount(index[agent], minlength=len(data))
        assert stats.chisquare(counted, expected).pvalue > CHI2_P


def test_zero_weights_are_never_drawn_and_agents_draw_their_own():
    data = dataset(trajectories=20)
    sampler = TrajectorySampler(data, "top_k:3", batch_size=2000)
    index = sampler.sample().index
    for agent in range(2):
        best = set(data.returns[agent].topk(3).indices.tolist())
        assert set((index[agent] // 5).tolist()) == best
    assert not torch.equal(index[0], index[1])


def test_all_fields_share_one_draw_and_no_row_crosses_an_episode():
    data = dataset(trajectories=6, obs_dims=(4, 4))
    batch = TrajectorySampler(data, batch_size=64).sample()
    for i in range(2):
        rows = batch.index[i]
        assert torch.equal(batch.obs[i], data.obs[i][rows])
        assert torch.equal(batch.act[i], data.act[i][rows])
        assert torch.equal(batch.reward[i], data.reward[i][rows])
        assert torch.equal(batch.next_obs[i], data.next_obs[i][rows])
        assert torch.equal(batch.done[i], data.done[i][rows])
        inside = rows % 5 < 4  # the last step's next_obs belongs to no row
        assert torch.equal(batch.next_obs[i][inside], data.obs[i][rows[inside] + 1])
    assert batch.obs.shape == (2, 64, 4)


def test_agents_of_different_widths_and_the_first_agents_only():
    data = dataset(obs_dims=(4, 4, 3))
    batch = TrajectorySampler(data, batch_size=8).sample()
    assert [o.shape for o in batch.obs] == [(8, 4), (8, 4), (8, 3)]
    batch = TrajectorySampler(data, batch_size=8, agents=2).sample()
    assert batch.obs.shape == (2, 8, 4)


def test_float64_files_give_batches_of_the_asked_dtype():
    data = dataset(dtype=np.float64)
    assert TrajectorySampler(data, batch_size=4).sample().obs.dtype == torch.float32
    batch = TrajectorySampler(data, batch_size=4, dtype=torch.float64).sample()
    assert batch.obs.dtype == batch.reward.dtype == torch.float64


def test_same_seed_same_batches_and_resume_goes_on():
    data = dataset()
    one, two = (TrajectorySampler(data, "rank", batch_size=16, seed=5) for _ in range(2))
    assert torch.equal(one.sample().index, two.sample().index)
    state = one.state_dict()
    ahead = [one.sample().index for _ in range(3)]
    other = TrajectorySampler(data, "rank", batch_size=16, seed=99)
    other.load_state_dict(state)
    assert all(torch.equal(a, other.sample().index) for a in ahead)
    assert not torch.equal(ahead[0], ahead[1])


def test_explicit_weights():
    data = dataset()
    weights = torch.zeros(2, 4)
    weights[0, 1] = weights[1, 2] = 1.0
    index = TrajectorySampler(data, weights, batch_size=50).sample().index
    assert set((index[0] // 5).tolist()) == {1}
    assert set((index[1] // 5).tolist()) == {2}


def test_reward_moments_are_those_of_replicated_trajectories():
    lengths = [3, 1, 6]
    data = TrajectoryDataset.from_arrays(**arrays(trajectories=1, length=10), lengths=lengths)
    weights = torch.tensor([[2.0, 1.0, 3.0], [1.0, 1.0, 1.0]])
    moments = TrajectorySampler(data, weights, batch_size=1).reward_moments()
    for agent in range(2):
        parts = data.reward[agent].double().split(lengths)
        copies = [p for p, w in zip(parts, weights[agent], strict=True) for _ in range(int(w))]
        expected = torch.cat(copies)
        assert moments[agent][0] == pytest.approx(float(expected.mean()))
        assert moments[agent][1] == pytest.approx(float(expected.std(unbiased=False)))


@pytest.mark.parametrize("weights", ["uniform", "thresholds:-1,0,1", "rank", "top_k:3"])
def test_next_actions_are_the_following_row_s_and_last_rows_are_never_drawn(weights):
    """Drawn as from literal copies of the trajectories without their last rows."""
    lengths = [3, 1, 6, 2, 5]
    data = TrajectoryDataset.from_arrays(**arrays(trajectories=1, length=17), lengths=lengths)
    sampler = TrajectorySampler(data, weights, batch_size=40_000, seed=3, next_acts=True)
    batch = sampler.sample()
    share = reweight.parse(weights)(data.returns).double().repeat_interleave(data.lengths, 1)
    share[:, data.starts[1:] - 1] = 0.0
    for i in range(2):
        rows = batch.index[i]
        assert torch.equal(batch.act[i], data.act[i][rows])
        assert torch.equal(batch.next_act[i], data.act[i][rows + 1])
        assert torch.equal(batch.next_obs[i], data.obs[i][rows + 1])
        expected = share[i] / share[i].sum() * 40_000
        counted = torch.bincount(rows, minlength=17)
        assert not counted[expected == 0].any()
        some = (expected > 0).numpy()
        p = stats.chisquare(counted.numpy()[some], expected.numpy()[some]).pvalue
        assert p > CHI2_P
        mean, sd = sampler.reward_moments()[i]
        reward, weight = data.reward[i].double(), share[i] / share[i].sum()
        assert mean == pytest.approx(float((weight * reward).sum()))
        assert sd == pytest.approx(float((weight * (reward - mean) ** 2).sum().sqrt()))


def test_no_next_actions_unless_asked_for_and_none_in_single_rows():
    data = dataset(length=1)
    assert TrajectorySampler(data).sample().next_act is None
    with pytest.raises(Dom2Error, match="have one row each: give longer episodes"):
        TrajectorySampler(data, next_acts=True)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (torch.ones(2, 3), r"are \[2, 3\], expected \[2, 4\]"),
        (torch.full((2, 4), -1.0), ">= 0"),
        (torch.full((2, 4), float("nan")), "finite"),
        (torch.zeros(2, 4), "zero for all"),
        ("preset", "task and quality"),
    ],
)
def test_bad_weights(weights, message):
    with pytest.raises(Dom2Error, match=message):
        TrajectorySampler(dataset(), weights)


def test_bad_numbers():
    with pytest.raises(Dom2Error, match="batch_size"):
        TrajectorySampler(dataset(), batch_size=0)
    with pytest.raises(Dom2Error, match="agents"):
        TrajectorySampler(dataset(), agents=3)
