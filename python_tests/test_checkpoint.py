"""Checkpoints: round trip, atomic replacement, and every way a file can be wrong."""

import errno
import os

import pytest
import torch

from dom2_fast import checkpoint
from dom2_fast.errors import Dom2Error

CONTENT = {"algo": "dom2", "env": "simple_spread", "step": 7, "w": torch.arange(6.0)}


@pytest.fixture
def file(tmp_path):
    checkpoint.save(tmp_path / "checkpoint.pt", CONTENT)
    return tmp_path / "checkpoint.pt"


def test_round_trip_by_file_and_by_folder(file):
    for path in (file, file.parent, str(file.parent)):
        read = checkpoint.load(path, algo="dom2", env="simple_spread")
        assert (read["step"], read["format"]) == (7, checkpoint.FORMAT)
        assert torch.equal(read["w"], CONTENT["w"])


def test_other_algorithm_or_environment(file):
    with pytest.raises(Dom2Error, match=r"of algorithm 'dom2', 'bc' was asked for"):
        checkpoint.load(file, algo="bc")
    with pytest.raises(Dom2Error, match=r"of environment 'simple_spread', 'simple_tag' was asked"):
        checkpoint.load(file, env="simple_tag")


@pytest.mark.parametrize("keep", [0, 1, 100, 0.5, 0.99])
def test_cut_short(file, keep):
    data = file.read_bytes()
    file.write_bytes(data[: int(keep * len(data)) if isinstance(keep, float) else keep])
    with pytest.raises(Dom2Error, match="cut short or is no checkpoint"):
        checkpoint.load(file)


def test_not_a_checkpoint(tmp_path, file):
    with pytest.raises(Dom2Error, match="no checkpoint at"):
        checkpoint.load(tmp_path / "nowhere")
    (tmp_path / "text.pt").write_text("hello, I am a text file" * 10)
    with pytest.raises(Dom2Error, match="cut short or is no checkpoint"):
        checkpoint.load(tmp_path / "text.pt")
    torch.save({"model": torch.zeros(2)}, tmp_path / "other.pt")
    with pytest.raises(Dom2Error, match="no checkpoint of dom2_fast"):
        checkpoint.load(tmp_path / "other.pt")
    torch.save({"format": 99, "algo": "dom2", "version": "9.9"}, tmp_path / "newer.pt")
    with pytest.raises(Dom2Error, match=r"format 99.*dom2_fast 9\.9"):
        checkpoint.load(tmp_path / "newer.pt")


def test_code_in_a_file_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "made"),)

    torch.save({"format": 1, "algo": "dom2", "x": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(Dom2Error, match="no checkpoint"):
        checkpoint.load(tmp_path / "evil.pt")
    assert not (tmp_path / "made").exists()


def test_no_space_keeps_the_former_checkpoint(file, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Dom2Error, match="no space left"):
        checkpoint.save(file, {**CONTENT, "step": 8})
    monkeypatch.undo()
    assert checkpoint.load(file)["step"] == 7
    assert [p.name for p in file.parent.iterdir()] == ["checkpoint.pt"]
