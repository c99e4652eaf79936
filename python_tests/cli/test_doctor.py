"""doctor tells the truth: about kernels that run, that are missing, and that are wrong."""

import json

import pytest

from dom2_fast.cli import doctor
from dom2_fast.cli import main as cli
from dom2_fast.ops import backend


def test_json_has_every_fact_and_the_text_shows_them(capsys):
    code = cli.main(["doctor", "--json"])
    facts = json.loads(capsys.readouterr().out)
    assert code == (0 if facts["healthy"] else 1)
    assert facts["kernels"]["loaded"] == backend.available()
    assert set(facts["isa"]["runnable"]) <= set(facts["isa"]["compiled"])
    text = doctor.render(facts)
    for name in ("versions", "machine", "kernels", "threads", "CUDA", "self-check"):
        assert f"\n{name}" in f"\n{text}"
    assert facts["versions"]["torch"] in text


def test_missing_kernels_are_said_with_the_reason(monkeypatch):
    monkeypatch.setattr(backend, "_load", lambda: (None, "no _C here"))
    facts = doctor.examine()
    assert not facts["healthy"] and facts["isa"]["compiled"] == []
    text = doctor.render(facts)
    assert "NOT loaded, the slow reference runs instead: no _C here" in text
    assert "What to do: install again" in text


@pytest.mark.skipif(not backend.available(), reason="no compiled kernels in this installation")
def test_self_check_passes_and_is_quick():
    check = doctor.self_check()
    assert check["ok"], check
    assert 0 <= check["largest_difference"] <= doctor.ALLOWED
    assert check["seconds"] < 20


@pytest.mark.parametrize(
    ("difference", "expected"), [(doctor.ALLOWED / 2, True), (doctor.ALLOWED * 2, False)]
)
def test_wrong_kernels_are_found_out(monkeypatch, difference, expected):
    monkeypatch.setattr(backend, "available", lambda: True)
    monkeypatch.setattr(doctor, "_difference", lambda torch, device: difference)
    check = doctor.self_check()
    assert check["ok"] is expected


def test_nan_and_crashes_count_as_failures(monkeypatch):
    monkeypatch.setattr(backend, "available", lambda: True)
    monkeypatch.setattr(doctor, "_difference", lambda torch, device: float("nan"))
    assert not doctor.self_check()["ok"]

    def crash(torch, device):
        raise RuntimeError("bad\nkernel")

    monkeypatch.setattr(doctor, "_difference", crash)
    assert doctor.self_check()["error"] == "RuntimeError: bad kernel"


def test_self_check_can_tell_other_weights_apart(monkeypatch):
    """A check whose result doesn't depend on the networks would find nothing."""
    import torch

    from dom2_fast.policies.diffusion import DiffusionPolicy

    real = DiffusionPolicy.sample

    def slightly_wrong(self, obs, **kwargs):
        scale = 1.01 if self.backend == "native" else 1.0
        return real(self, obs * scale, **kwargs)

    monkeypatch.setattr(DiffusionPolicy, "sample", slightly_wrong)
    if backend.available():
        assert doctor._difference(torch, "cpu") > 10 * doctor.ALLOWED
    else:
        pytest.skip("no compiled kernels in this installation")
