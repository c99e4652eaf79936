"""Why CUDA can or can't be used here: every obstacle has its own words."""

import re
import types

import pytest
import torch

from dom2_fast.cli import doctor, gpus
from dom2_fast.ops import backend

H100 = types.SimpleNamespace(name="H100", major=9, minor=0, total_memory=80 * 2**30)
COMPILED = {"version": "12.4.131", "code": "sm_80 sm_90 compute_90"}


@pytest.fixture
def machine(monkeypatch):
    """A machine on which all is well; a test changes one thing."""

    def make(card=H100, compiled=COMPILED, torch_build="12.8", **driver):
        cards = [card] if card else []
        seen = {"found": True, "cuda": "12.8", "gpus": len(cards), "error": ""} | driver
        monkeypatch.setattr(backend, "cuda", lambda: compiled)
        monkeypatch.setattr(backend, "cuda_why_not", lambda: "" if compiled else "no nvcc then")
        monkeypatch.setattr(torch.version, "cuda", torch_build)
        monkeypatch.setattr(gpus, "driver", lambda: seen)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(cards))
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: cards[index])
        monkeypatch.setattr(doctor, "_difference", lambda torch, device: 1e-7)
        return gpus.examine()

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return make


def card(major, minor):
    return types.SimpleNamespace(name="card", major=major, minor=minor, total_memory=2**30)


def test_where_all_is_well(machine):
    facts = machine()
    assert facts["why_not"] == []
    assert facts["gpus"] == [
        {"name": "H100", "capability": "9.0", "memory_gib": 80.0, "code": "sm_90", "why_not": ""}
    ]


@pytest.mark.parametrize(
    "change, words",
    [
        ({"compiled": None}, "no CUDA executors were compiled: no nvcc then"),
        ({"torch_build": None, "card": None, "gpus": 1}, "PyTorch was built without CUDA"),
        (
            {"card": None, "found": False, "cuda": None, "error": "no libcuda.so.1"},
            r"no NVIDIA driver is installed \(no libcuda.so.1\)",
        ),
        ({"card": None}, "the NVIDIA driver sees no GPU"),
        ({"card": None, "error": "cuInit returned error 999"}, "cuInit returned error 999"),
        ({"cuda": "11.8"}, r"serves CUDA 11\.8.*compiled by CUDA 12\.4.*update the driver"),
        ({"card": None, "gpus": 2}, r"PyTorch can't use the driver's 2 GPU"),
        ({"card": card(7, 5)}, "no GPU here can run what was compiled"),
    ],
)
def test_each_obstacle_is_named_alone(machine, change, words):
    (reason,) = machine(**change)["why_not"]
    assert re.search(words, reason), reason


def test_hidden_gpus_are_said_to_be_hidden(machine, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    (reason,) = machine(card=None)["why_not"]
    assert "CUDA_VISIBLE_DEVICES is ''" in reason


@pytest.mark.parametrize(
    "capability, expected",
    [
        ((6, 1), None),
        ((7, 5), None),
        ((8, 0), "sm_80"),
        ((8, 6), "sm_80"),
        ((8, 9), "sm_80"),
        ((9, 0), "sm_90"),
        ((10, 0), "compute_90"),
        ((12, 0), "compute_90"),
    ],
)
def test_code_that_a_card_runs(capability, expected):
    assert gpus.code_for(*capability, COMPILED["code"]) == expected


def test_code_for_one_kind_of_card_and_the_nearest(machine):
    assert gpus.code_for(9, 0, "sm_80 sm_90a") == "sm_90a"
    assert gpus.code_for(10, 0, "sm_90a compute_90a") is None
    assert gpus.code_for(8, 9, "sm_80 sm_86 sm_89 compute_80") == "sm_89"
    assert gpus.code_for(12, 1, "sm_90 compute_80 compute_120") == "compute_120"


def test_old_cards_and_old_drivers_get_advice(machine):
    (old,) = machine(card=card(7, 5))["gpus"]
    assert "too old for what was compiled" in old["why_not"]
    assert "DOM2_FAST_CUDA_ARCHS=75" in old["why_not"]
    assert "can't run them at all" in machine(card=card(6, 1))["gpus"][0]["why_not"]
    (new,) = machine(card=card(12, 0), cuda="12.2")["gpus"]
    assert "only the PTX" in new["why_not"] and "too old for that of CUDA 12.4" in new["why_not"]
    assert machine(card=card(12, 0))["gpus"][0]["code"] == "compute_90"


def test_doctor_checks_the_gpu_and_says_so(machine, monkeypatch):
    monkeypatch.setattr(backend, "available", lambda: True)
    machine()
    facts = doctor.examine()
    assert facts["healthy"] and facts["cuda"]["gpus"][0]["self_check"]["ok"]
    text = doctor.render(facts)
    assert "compiled by CUDA 12.4.131 for sm_80 sm_90 compute_90" in text
    assert "H100, compute capability 9.0, 80.0 GiB; runs sm_90; native equals reference" in text
    wrong = {"cpu": 1e-7, "cuda:0": 1.0}
    monkeypatch.setattr(doctor, "_difference", lambda torch, device: wrong[device])
    facts = doctor.examine()
    assert not facts["healthy"] and facts["self_check"]["ok"]
    assert "FAILED, native differs" in doctor.render(facts)


def test_doctor_says_why_not_and_is_content(machine):
    machine(card=None, compiled=None, torch_build=None, found=False, cuda=None, error="none")
    facts = doctor.examine()
    text = doctor.render(facts)
    assert "executors: none; PyTorch: a CPU build; driver: none; no GPU(s)" in text
    assert text.count("why no CUDA") == 3
    assert facts["healthy"] == facts["kernels"]["loaded"]
    machine(card=card(12, 0))
    assert "PTX: the driver compiles it when first used" in doctor.render(doctor.examine())


def test_the_driver_is_asked_without_harm():
    found = gpus.driver()
    assert set(found) == {"found", "cuda", "gpus", "error"}
    assert found["found"] or "libcuda" in found["error"]
