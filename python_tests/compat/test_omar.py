"""The drop-in ReplayBuffer: what it holds, what it draws, what it refuses."""

import numpy as np
import pytest
import tolerances
import torch
from scipy import stats

from dom2_fast.compat.omar import ReplayBuffer
from dom2_fast.errors import Dom2Error

OBS, ACS, STATES = [3, 4], [2, 1], [5, 6]


def write(folder, rows, states=False):
    """Files whose numbers name their row, agent and field."""
    widths = {"obs": OBS, "acs": ACS, "rews": None, "next_obs": OBS, "dones": None}
    if states:
        widths |= {"states": STATES, "next_states": STATES}
    for f, (name, dims) in enumerate(widths.items()):
        for i in range(2):
            a = np.arange(rows) + 0.1 * f + 0.01 * i
            np.save(folder / f"{name}_{i}.npy", a if dims is None else np.tile(a[:, None], dims[i]))


def loaded(folder, rows=50, size=60, states=False):
    write(folder, rows, states)
    more = {"is_mamujoco": True, "state_dims": STATES} if states else {}
    buffer = ReplayBuffer(size, 2, OBS, ACS, **more)
    buffer.load_batch_data(str(folder))
    return buffer


@pytest.mark.parametrize("count", [1, 7, 50])
@pytest.mark.parametrize("states", [False, True])
def test_a_sample_is_the_same_rows_of_every_array(tmp_path, count, states):
    buffer = loaded(tmp_path, states=states)
    assert len(buffer) == 50 and buffer.curr_i == 50
    got = buffer.sample(count)
    fields = [0, 1, 2, 3, 4] if not states else [5, 0, 1, 2, 6, 3, 4]
    widths = [OBS, ACS, None, OBS, None]
    widths = widths if not states else [STATES, *widths[:3], STATES, *widths[3:]]
    assert isinstance(got, tuple) and len(got) == len(fields)
    rows = got[0][0][:, 0].double() - 0.1 * fields[0]
    assert len(rows.round().unique()) == count
    for f, dims, field in zip(fields, widths, got, strict=True):
        assert isinstance(field, list) and len(field) == 2
        for i, value in enumerate(field):
            assert value.dtype == torch.float32
            assert value.shape == ((count,) if dims is None else (count, dims[i]))
            want = (rows.round() + 0.1 * f + 0.01 * i).float()
            assert torch.equal(value if dims is None else value[:, -1], want)


@pytest.mark.parametrize("count", [5, 20])
def test_draws_are_uniform_without_repetition(tmp_path, count):
    """Both ways of drawing; each position of the sample, and how often rows meet."""
    buffer = loaded(tmp_path)
    torch.manual_seed(0)
    draws = torch.stack([buffer.sample(count)[2][0] for _ in range(4000)]) - 0.2
    draws = draws.round().long()
    assert all(len(d.unique()) == count for d in draws)
    for position in (0, count - 1):
        counts = np.bincount(draws[:, position].numpy(), minlength=50)
        assert stats.chisquare(counts).pvalue > tolerances.CHI2_P
    together = ((draws == 3).any(1) & (draws == 4).any(1)).float().mean().item()
    p = count * (count - 1) / (50 * 49)
    assert abs(together - p) <= tolerances.SIGMAS * (p * (1 - p) / 4000) ** 0.5


def test_torchs_seed_governs_and_only_filled_rows_are_drawn(tmp_path):
    buffer = loaded(tmp_path, rows=10, size=1000)
    torch.manual_seed(1)
    a = buffer.sample(3)[0][0]
    torch.manual_seed(1)
    assert torch.equal(buffer.sample(3)[0][0], a)
    assert not torch.equal(buffer.sample(3)[0][0], a)
    buffer.rew_buffs[0][:] = 7.0  # the arrays are read where they are
    assert (buffer.sample(3)[2][0] == 7.0).all()


def refused(call, message):
    with pytest.raises(Dom2Error) as error:
        call()
    assert str(error.value) == message


def test_refusals(tmp_path):
    refused(lambda: ReplayBuffer(5, 3, OBS, ACS), "obs_dims has 2 entries for 3 agents")
    refused(
        lambda: ReplayBuffer(5, 2, OBS, ACS, is_mamujoco=True),
        "state_dims has 0 entries for 2 agents",
    )
    buffer = ReplayBuffer(60, 2, OBS, ACS)
    refused(lambda: buffer.sample(1), "1 rows asked of a buffer that holds 0")
    path = tmp_path / "obs_0.npy"
    refused(
        lambda: buffer.load_batch_data(tmp_path),
        f"{path} is missing; a batch has ['obs', 'acs', 'rews', 'next_obs', 'dones'] of every "
        f"agent",
    )
    write(tmp_path, 50)
    np.save(tmp_path / "dones_1.npy", np.zeros(49))
    refused(
        lambda: buffer.load_batch_data(tmp_path),
        f"{tmp_path / 'dones_1.npy'} has shape [49]; ['rows'] with 50 rows, the same in every file "
        f"and at most 60, is needed",
    )
    assert len(buffer) == 0 and not buffer.obs_buffs[0].any()
    write(tmp_path, 61)
    refused(
        lambda: buffer.load_batch_data(tmp_path),
        f"{path} has shape [61, 3]; ['rows', 3] with 61 rows, the same in every file and at most "
        f"60, is needed",
    )
    write(tmp_path, 50)
    buffer.load_batch_data(tmp_path)
    refused(lambda: buffer.sample(51), "51 rows asked of a buffer that holds 50")
