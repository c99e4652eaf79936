"""Playing a few episodes: the returns are evaluation's, and the film shows what was played."""

import re

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence
from small_data import dataset

import dom2_fast as d2
from dom2_fast import envs
from dom2_fast.algos.bc import BCConfig
from dom2_fast.cli import main as cli
from dom2_fast.envs import canvas
from dom2_fast.envs.particle import render
from dom2_fast.errors import Dom2Error
from dom2_fast.runs import evaluation, film, playing
from dom2_fast.runs.train import train


def command(capsys, *argv):
    code = cli.main(["play", *argv])
    shown = capsys.readouterr()
    return code, shown.out, shown.err


@pytest.mark.parametrize("shift", [None, "speed"])
def test_episode_k_is_the_one_that_evaluation_plays_for_its_seed(shift):
    policy = d2.pretrained("simple_spread/expert")
    played = playing.play(policy, "simple_spread", 3, seed=5, shift=shift)
    for k, episode in enumerate(played):
        one = evaluation.evaluate(policy, "simple_spread", 1, shift=shift, seed=5 + k)
        assert (episode.seed, episode.steps) == (5 + k, 25)
        assert episode.score == pytest.approx(one["mean"], abs=1e-9)
    assert len({episode.score for episode in played}) == 3


def test_steps_end_an_episode_early_and_its_return_is_of_those():
    policy = d2.pretrained("simple_spread/expert")
    whole = playing.play(policy, "simple_spread", seed=1, record=True)[0]
    part = playing.play(policy, "simple_spread", seed=1, steps=10, record=True)[0]
    assert (len(whole.frames), len(part.frames), part.steps) == (26, 11, 10)
    assert part.score == part.running[-1] == whole.running[10]
    assert whole.running[0] == 0.0 and whole.running[-1] == whole.score
    for mine, other in zip(part.frames, whole.frames, strict=False):
        np.testing.assert_array_equal(mine["states"], other["states"])


def test_what_cannot_be_played_is_refused():
    random = envs.random_policies(3)
    for wrong, said in (
        ({"episodes": 0}, "episodes"),
        ({"seed": -1}, "seed"),
        ({"steps": 0}, "st"),
    ):
        with pytest.raises(Dom2Error, match=said):
            playing.play(random, "simple_spread", **wrong)
    with pytest.raises(Dom2Error, match="xor can't be filmed"):
        playing.play(envs.random_policies(2, 1), "xor", record=True)
    with pytest.raises(Dom2Error, match="trained for another environment"):
        playing.play(d2.pretrained("simple_spread/expert"), "simple_tag")


# ---- which policy --------------------------------------------------------------------------------


def test_policies_come_from_a_run_a_file_or_a_name(tmp_path):
    data = dataset(trajectories=8, obs_dims=(18,) * 3, meta={"task": "simple_spread"})
    data.write(tmp_path / "data")
    config = BCConfig(weights="uniform", batch_size=4, hidden=8, depth=1, steps=2)
    quiet = {"progress": False, "tensorboard": False}
    run = train(config, tmp_path / "data", tmp_path / "run", 1, **quiet).out
    assert cli.main(["export", str(run), "--out", str(tmp_path / "p.safetensors")]) == 0
    scores = {
        playing.play(playing.policies_for("simple_spread", str(given)), "simple_spread")[0].score
        for given in (run, run / "checkpoint.pt", tmp_path / "p.safetensors")
    }
    assert max(scores) - min(scores) < 1e-2  # the first two keep torch's network, frozen once
    named = playing.policies_for("simple_spread", "simple_spread/expert")
    assert torch.equal(named._table, playing.policies_for("simple_spread")._table)
    for given in (run, tmp_path / "p.safetensors", "simple_spread/expert"):
        with pytest.raises(Dom2Error, match=r"was trained in 'simple_spread', 'simple_tag' was"):
            playing.policies_for("simple_tag", str(given))


def test_a_policy_that_is_not_there_lists_those_that_are():
    with pytest.raises(Dom2Error, match=r"nowhere is no run folder.*simple_spread/expert"):
        playing.policies_for("simple_spread", "nowhere")
    with pytest.raises(Dom2Error, match=r"no policy is shipped for xor .*simple_spread/expert"):
        playing.policies_for("xor")


# ---- the film ------------------------------------------------------------------------------------


def test_the_gif_shows_the_states_that_were_played(capsys, tmp_path):
    out = tmp_path / "a.gif"
    code, shown, _ = command(
        capsys, "simple_spread", "--gif", str(out), "--seed", "3", "--fps", "20"
    )
    assert code == 0 and "26 frames" in shown
    episode = playing.play(
        d2.pretrained("simple_spread/expert"), "simple_spread", 1, 3, record=True
    )
    with Image.open(out) as gif:
        frames = [np.asarray(f.convert("RGB")).astype(int) for f in ImageSequence.Iterator(gif)]
        assert gif.info["loop"] == 0
    assert len(frames) == 26 and frames[0].shape == (film.SIZE + 20, film.SIZE, 3)
    drawn = [image.astype(int) for image in film.frames_of("simple_spread", episode[0])]
    for k, got in enumerate(frames):
        # All frames have the 128 colours of the first: the blends of edges change, nothing moves.
        gaps = [np.abs(got[: film.SIZE] - image).mean() for image in drawn]
        assert min(gaps) == gaps[k], gaps


def test_a_film_goes_on_from_episode_to_episode_and_holds_the_last_frame(tmp_path):
    random = envs.random_policies(3)
    played = playing.play(random, "simple_spread", 2, steps=3, record=True)
    film.write_gif(tmp_path / "a.gif", "simple_spread", played, fps=10)
    with Image.open(tmp_path / "a.gif") as gif:
        times = [f.info["duration"] for f in ImageSequence.Iterator(gif)]
    assert times == [100, 100, 100, 800, 100, 100, 100, 800]


def test_anything_with_a_recording_is_drawn(tmp_path):
    states = np.zeros((3, 4))
    states[:, 0] = [-0.5, 0.0, 0.5]
    frame = {"states": states, "sizes": np.full(3, 0.1), "kinds": ["torso", "joint", "joint"]}
    image = canvas.draw_recording(frame, 200, extent=1.0)
    assert image.shape == (200, 200, 3) and image.dtype == np.uint8
    assert not np.array_equal(image[100, 50], image[100, 100])  # of another kind
    np.testing.assert_array_equal(image[100, 101], image[100, 150])
    between = image[100, 75]
    linked = canvas.draw_recording({**frame, "links": np.array([[0, 1]])}, 200, extent=1.0)
    assert not np.array_equal(linked[100, 75], between)
    np.testing.assert_array_equal(linked[100, 125], image[100, 125])
    for wrong in ({"sizes": np.ones(2)}, {"states": states * np.nan}):
        with pytest.raises(Dom2Error, match="recording"):
            canvas.draw_recording({**frame, **wrong})
    with pytest.raises(Dom2Error, match="16 pixels"):
        canvas.draw_recording(frame, 8)
    episode = playing.Episode(0, 1.0, 1, frames=[frame, frame], running=[0.0, 1.0])
    film.write_gif(tmp_path / "own.gif", "mine", [episode])
    with Image.open(tmp_path / "own.gif") as gif:
        assert gif.n_frames >= 1


def test_the_halfcheetah_is_drawn_from_the_side(tmp_path):
    pytest.importorskip("mujoco", reason="needs the extra mujoco")
    played = playing.play(
        envs.random_policies(2, 3), "halfcheetah_2x3", steps=2, record=True, seed=4
    )
    first, last = (list(film.frames_of("halfcheetah_2x3", played[0]))[k] for k in (0, 2))
    assert (first != canvas.BACKGROUND).any() and (first != last).any()


def test_landmarks_without_reward_are_pale(tmp_path):
    played = playing.play(
        envs.random_policies(3), "spread_6_landmarks", steps=1, record=True, shift="landmarks"
    )
    assert played[0].removed
    image = next(film.frames_of("spread_6_landmarks", played[0]))
    assert (image == np.uint8(render.COLOURS["removed"])).all(-1).any()


# ---- the command's refusals ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "argv, said",
    [
        (["simple_sprad"], "unknown environment 'simple_sprad'"),
        (["simple_spread", "--shift", "landmarks"], "has no shift 'landmarks'; accepted: None, 's"),
        (["simple_spread", "--policy", "x/y"], "x/y is no run folder"),
        (["simple_spread", "--gif", "a.png"], "only GIFs"),
        (["simple_spread", "--gif", "a.gif", "--episodes", "400"], "10,400 frames .* 2,000"),
        (["simple_spread", "--gif", "a.gif", "--fps", "0"], "fps is from 1 to 50"),
        (["simple_spread", "--force"], "give --gif"),
        (["simple_spread", "--gif", "a.gif", "--env-option", "v_min=2"], "v_min belongs to"),
    ],
)
def test_a_wrong_command_is_one_line_and_writes_nothing(capsys, tmp_path, monkeypatch, argv, said):
    monkeypatch.chdir(tmp_path)
    code, out, err = command(capsys, *argv)
    assert code == 2 and out == "" and err.count("\n") == 1
    assert re.search(said, err), err
    assert not list(tmp_path.iterdir())


def test_a_gif_that_is_there_stays_unless_forced(capsys, tmp_path):
    out = tmp_path / "a.gif"
    out.write_text("mine")
    argv = ["simple_spread", "--gif", str(out), "--steps", "1"]
    code, _, err = command(capsys, *argv)
    assert code == 2 and "is there already" in err and out.read_text() == "mine"
    assert command(capsys, *argv, "--force")[0] == 0
    assert out.read_bytes().startswith(b"GIF8")


def test_without_a_gif_the_returns_are_printed(capsys):
    code, shown, _ = command(capsys, "simple_spread", "--episodes", "2", "--steps", "5")
    lines = shown.splitlines()
    assert code == 0 and len(lines) == 3
    assert lines[0].startswith("seed 0: return ") and lines[0].endswith("in 5 steps")
    assert lines[2].startswith("mean of 2: ")
