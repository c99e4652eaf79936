"""Order 3 in frozen policies and their files; files written before it."""

import json

import pytest
import tolerances
import torch
from policy_problems import OBS, A, net, policy, rand

from dom2_fast.accelerate import dpm
from dom2_fast.errors import Dom2Error
from dom2_fast.ops import backend
from dom2_fast.policies import policy_file
from dom2_fast.policies.frozen import load_policy

pytestmark = pytest.mark.skipif(
    not backend.available(), reason="the compiled extension is not built"
)


class Times:
    """A schedule of dpm-solver's kind: beta from 0.1 to 20."""

    schedule, T, total_N = "linear", 1.0, 1000

    def marginal_log_mean_coeff(self, t):
        return -(20.0 - 0.1) / 4.0 * t**2 - 0.1 / 2.0 * t

    def inverse_lambda(self, lam):
        raise NotImplementedError


def third_order():
    plan = dpm.sample_plan(Times(), "data", "eps", steps=6, order=3)
    assert (plan.table[:, 8] != 0.0).any()
    return policy(net(torch.float32), backend="native", solver=plan)


def header(path):
    data = path.read_bytes()
    return json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])


def test_order_three_is_kept_by_a_file_of_version_3(tmp_path):
    p, path = third_order(), tmp_path / "p.safetensors"
    p.export(path)
    assert header(path)["__metadata__"]["version"] == "3"
    assert header(path)["solver"]["shape"] == [6, 9]
    exact = policy(net(), solver=p._plan)
    exact.net.load_state_dict({k: v.double() for k, v in p.net.state_dict().items()})
    for rows in (1, 40):
        obs, x_T = rand(rows, OBS, dtype=torch.float32), rand(rows, A, dtype=torch.float32)
        want = exact.sample(obs.double(), x_T.double())
        with torch.no_grad():
            for one in (p, p.frozen(), load_policy(path)):
                got = one.sample(obs, x_T)
                assert tolerances.relative_error(got, want) <= tolerances.DPM1_32


def test_other_orders_are_written_as_before_and_read_by_both(tmp_path):
    p, path = policy(net(torch.float32), solver="dpm++2m"), tmp_path / "p.safetensors"
    p.export(path)
    assert header(path)["__metadata__"]["version"] == "1"
    assert header(path)["solver"]["shape"] == [5, 8]
    loaded = load_policy(path)
    assert torch.equal(loaded._solver, p._plan.table)
    loaded.export(tmp_path / "again.safetensors")
    assert path.read_bytes() == (tmp_path / "again.safetensors").read_bytes()


def test_a_table_of_another_width_is_refused(tmp_path):
    p, path = policy(net(torch.float32)), tmp_path / "p.safetensors"
    p.export(path)
    tensors, notes = policy_file.read(path)
    tensors["solver"] = torch.zeros(5, 10, dtype=torch.float64)
    policy_file.write(path, tensors, notes, 3)
    with pytest.raises(Dom2Error, match=r"solver is torch.float64 \[5, 10\]"):
        load_policy(path)
