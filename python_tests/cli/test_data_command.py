"""`dom2-fast data`: what a data set holds, and the same in another format."""

import json

import pytest
from small_data import dataset
from test_cli import fails, run

from dom2_fast.data.trajectories import TrajectoryDataset


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    made = dataset(trajectories=8, length=5, obs_dims=(3, 3), meta={"task": "walk"})
    return made.write(tmp_path_factory.mktemp("data") / "d")


def test_inspect_prints_what_there_is(capsys, data):
    code, out, err = run(capsys, "data", "inspect", str(data))
    assert code == 0, err
    lines = dict(line.split(maxsplit=1) for line in out.splitlines() if line.count(" "))
    assert (lines["format"], lines["task"], lines["trajectories"]) == ("omar", "walk", "8")
    assert "obs dims      3, 3" in out and "quality       not known" in out
    assert "note: no terminal states" in out


def test_inspect_as_json(capsys, data):
    code, out, _ = run(capsys, "data", "inspect", str(data), "--json")
    facts = json.loads(out)
    assert code == 0 and facts["format"] == "omar" and facts["transitions"] == 40
    assert facts["fingerprint"] == TrajectoryDataset.load(data).fingerprint()


def test_convert_keeps_the_data(capsys, data, tmp_path):
    out = tmp_path / "d.npz"
    convert = ["data", "convert", str(data), "--to", "arrays", "--out", str(out)]
    code, shown, err = run(capsys, *convert)
    assert code == 0, err
    assert f"next: dom2-fast data inspect {out}" in shown
    assert TrajectoryDataset.load(out).fingerprint() == TrajectoryDataset.load(data).fingerprint()
    before = out.read_bytes()
    text = fails(capsys, *convert)
    assert "nothing was overwritten" in text and out.read_bytes() == before


def test_card_is_printed_or_written(capsys, data, tmp_path):
    code, page, err = run(capsys, "data", "card", str(data))
    assert code == 0, err
    assert page.startswith("# walk\n") and "| OACo of agent 1 |" in page
    out = tmp_path / "card.json"
    code, said, _ = run(capsys, "data", "card", str(data), "--format", "json", "--out", str(out))
    made = json.loads(out.read_text())
    assert code == 0 and f"written to {out}" in said
    assert made["trajectories"] == 8 and made["returns"]["rule"] == "mean return of the agents"
    before = out.read_bytes()
    assert "nothing was overwritten" in fails(capsys, "data", "card", str(data), "--out", str(out))
    assert out.read_bytes() == before


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("data", "{inspect,card,convert}"),
        ("data look {data}", "invalid choice: 'look'"),
        ("data inspect", "path"),
        ("data inspect {tmp}/absent", "nothing is there"),
        ("data inspect {data} --format omr", "unknown data format 'omr'; accepted: omar"),
        ("data inspect {data} --episode_length 7", "not whole episodes of 7 steps"),
        ("data card {data} --format html", "is md or json, not 'html'"),
        ("data card {data} --source-format omr --out {tmp}/x", "unknown data format 'omr'"),
        ("data card {tmp}/absent --out {tmp}/x", "nothing is there"),
        ("data convert {data} --to omr --out {tmp}/x", "unknown data format 'omr'"),
        ("data convert {data} --out {tmp}/x", "to"),
        ("data convert {data} --too omar --out {tmp}/x", "did you mean --to or --out?"),
        ("data convert {data} --to omar --out {data}", "is the data set itself"),
    ],
)
def test_mistakes_are_one_line(capsys, data, tmp_path, command, message):
    argv = [
        part.replace("{tmp}", str(tmp_path)).replace("{data}", str(data))
        for part in command.split()
    ]
    assert message in fails(capsys, *argv)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("action", ["inspect", "card", "convert"])
def test_every_action_has_help(capsys, action):
    code, out, _ = run(capsys, "data", action, "--help")
    assert code == 0 and out.startswith(f"usage: dom2-fast data {action}") and "--format" in out
