"""MuJoCo tasks: gymnasium-robotics step by step, many copies, shifts, frames, what is refused."""

import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch

from dom2_fast import envs
from dom2_fast.behaviours.collect import collect
from dom2_fast.envs.mujoco import models, render, shifts
from dom2_fast.envs.mujoco.scenarios import SCENARIOS
from dom2_fast.errors import Dom2Error

mujoco = pytest.importorskip("mujoco", reason="needs the extra mujoco")
NAMES = list(SCENARIOS)
CHEETAH = "halfcheetah_2x3"


def make(name=CHEETAH, num_envs=2, **options):
    return envs.make(name, num_envs, dtype=torch.float64, **options)


def actions(env, seed=0, steps=1, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.rand(
        steps, env.num_agents, env.num_envs, env.act_dim, generator=generator, dtype=torch.float64
    )
    return scale * (2 * drawn - 1)


@pytest.mark.parametrize(
    ("name", "task", "division", "seen", "steps"),
    [
        (CHEETAH, "HalfCheetah", "2x3", {"global_categories": ()}, 1000),
        ("ant_2x4", "Ant", "2x4", {}, 400),
        ("hopper_3x1", "Hopper", "3x1", {}, 100),
    ],
)
def test_equals_gymnasium_robotics(name, task, division, seen, steps):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mamujoco = pytest.importorskip("gymnasium_robotics").mamujoco_v1
    theirs = mamujoco.parallel_env(scenario=task, agent_conf=division, agent_obsk=0, **seen)
    ours = make(name, 2, seed=5, threads=2)
    act = actions(ours, steps=steps, scale=1.0 if name == CHEETAH else 0.5)
    obs, _ = theirs.reset(seed=5)
    mine, ends = ours.reset(), 0
    for t in range(steps):
        for i, agent in enumerate(theirs.possible_agents):
            np.testing.assert_allclose(mine[i, 0], obs[agent], rtol=0, atol=1e-9)
        np.testing.assert_allclose(ours.state()[0], theirs.state(), rtol=0, atol=1e-9)
        obs, reward, terminal, cut, _ = theirs.step(
            {agent: act[t, i, 0].numpy() for i, agent in enumerate(theirs.possible_agents)}
        )
        mine, my_reward, done = ours.step(act[t])
        assert my_reward[:, 0].tolist() == pytest.approx(list(reward.values()), abs=1e-9)
        assert done[0] == (terminal["agent_0"] or cut["agent_0"])
        assert ours.terminal[0] == terminal["agent_0"]
        if done[0]:
            ends += 1
            (obs, _), mine = theirs.reset(), ours.reset()
    assert (ends == 1) if name == CHEETAH else (ends > 0)


@pytest.mark.parametrize("name", NAMES)
def test_copies_don_t_depend_on_threads_or_on_each_other(name):
    one, three = make(name, 1, seed=3), make(name, 3, seed=3, threads=3)
    act = actions(three, steps=20, scale=0.3)
    alone, beside = one.reset(), three.reset()
    assert torch.equal(alone[:, 0], beside[:, 0])
    assert not torch.equal(beside[:, 0], beside[:, 1])
    for t in range(20):
        alone, paid, _ = one.step(act[t, :, :1])
        beside, also, _ = three.step(act[t])
        assert torch.equal(alone[:, 0], beside[:, 0]) and torch.equal(paid[:, 0], also[:, 0])
    three.close()


def test_a_seed_gives_the_same_starts_and_the_next_reset_others():
    env = make(seed=1)
    first, second = env.reset(), env.reset()
    assert not torch.equal(first, second)
    assert torch.equal(env.reset(seed=1), first)
    assert not torch.equal(env.reset(seed=2), first)


def test_ends_by_time_only_and_a_fallen_copy_stands_still():
    cheetah = make(num_envs=1)
    cheetah.reset()
    idle = torch.zeros(2, 1, 3)
    done = [bool(cheetah.step(idle)[2]) for _ in range(cheetah.episode_length)]
    assert done == [False] * 999 + [True] and not cheetah.terminal.any()
    hopper = make("hopper_3x1", 1)
    hopper.reset()
    for _ in range(200):
        obs, _, done = hopper.step(torch.ones(3, 1, 1))
        if done:
            break
    assert done and hopper.terminal.all()
    assert torch.equal(hopper.step(torch.ones(3, 1, 1))[0], obs)
    assert not hopper.reset().equal(obs) and not hopper.done.any()


def test_collected_random_actions_return_what_omar_s_do(tmp_path):
    env = envs.make(CHEETAH, 40, seed=0)
    uniform = envs.random_policies(2, 3)
    generator = torch.Generator().manual_seed(0)
    returns = env.score(envs.reward_sums(env, lambda obs: uniform(obs, generator)))
    assert returns.mean().item() == pytest.approx(-283, abs=25)


def test_random_data_has_whole_episodes_that_end_by_time():
    data = collect(CHEETAH, "random", episodes=2)
    assert data.lengths.tolist() == [1000, 1000] and data.obs_dims == [6, 6] and data.act_dim == 3
    assert not any(done.any() for done in data.done)
    assert torch.equal(data.reward[0], data.reward[1])
    assert data.meta["task"] == CHEETAH


# --- shifts


def fields(model):
    return [model.actuator_gear, model.geom_friction, model.body_mass, model.body_inertia]


@pytest.mark.parametrize("shift", ["random", "extreme"])
def test_factors_are_drawn_from_the_papers_ranges(shift):
    random = np.random.default_rng(0)
    drawn = [shifts.draw(SCENARIOS[CHEETAH], shift, random) for _ in range(2000)]
    for name, (outer, low, high, end) in shifts.RANGES.items():
        values = np.array([np.max(getattr(factors, name)) for factors in drawn])
        inside = (values >= low) & (values <= high)
        assert values.min() >= outer and values.max() <= end
        assert inside.all() if shift == "random" else not inside.any()
        wide = (low, high) if shift == "random" else (outer, end)
        edge = 0.02 * (end - outer)
        assert values.min() < wide[0] + edge and values.max() > wide[1] - edge
    # sunblaze-ucb's README for HalfCheetah, as ratios to its defaults 0.9, 1000 and 0.8.
    assert shifts.RANGES["density"] == (0.5, 0.75, 1.25, 1.5)
    assert shifts.RANGES["friction"] == pytest.approx((0.25, 0.625, 1.375, 1.75))
    assert shifts.RANGES["power"] == pytest.approx((0.5556, 0.7778, 1.2222, 1.4444), abs=1e-4)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shift", shifts.SHIFTS)
def test_a_shift_keeps_the_starts_and_changes_the_motion(name, shift):
    plain, shifted = make(name, seed=4), make(name, seed=4, shift=shift)
    assert torch.equal(plain.reset(), shifted.reset())
    act = actions(plain, steps=30, scale=0.5)
    for t in range(30):
        moved, _, _ = plain.step(act[t])
        otherwise, _, _ = shifted.step(act[t])
    assert ((moved - otherwise).abs() > 1e-6).any(dim=0).any(dim=-1).all()  # every copy


@pytest.mark.parametrize("which", ["power", "density", "friction"])
def test_each_factor_changes_its_fields_and_the_motion(which):
    model = models.load(SCENARIOS[CHEETAH])
    default = models.load(SCENARIOS[CHEETAH])
    values = {"power": np.ones(6), "density": 1.0, "friction": 1.0}
    values[which] = values[which] * 0.6
    scaler = shifts.Scaler(CHEETAH)
    scaler.scale(model, shifts.Factors(**values))
    power, density, friction = values["power"], values["density"], values["friction"]
    np.testing.assert_allclose(model.actuator_gear[:, 0], default.actuator_gear[:, 0] * power)
    np.testing.assert_allclose(model.geom_friction[:, 0], default.geom_friction[:, 0] * friction)
    assert model.ngeom == 9 and np.array_equal(
        model.geom_friction[:, 1:], default.geom_friction[:, 1:]
    )
    np.testing.assert_allclose(model.body_mass[1], default.body_mass[1] * density)
    np.testing.assert_allclose(model.body_inertia[1], default.body_inertia[1] * density)
    assert np.array_equal(model.body_mass[2:], default.body_mass[2:])
    stale = np.array_equal(model.body_invweight0, default.body_invweight0)
    assert stale == (which != "density")
    assert moved(model) != moved(default)
    scaler.restore(model)
    assert all(map(np.array_equal, fields(model), fields(default)))
    assert moved(model) == moved(default)


def moved(model) -> float:
    data = mujoco.MjData(model)
    for i in range(100):
        data.ctrl[:] = np.sin(i + np.arange(model.nu))
        mujoco.mj_step(model, data, 5)
    return float(data.qpos[0])


def test_resets_draw_from_the_defaults_again():
    env, random = make(shift="extreme", seed=0), make(shift="random", seed=0)
    default = env.model.geom_friction[:, 0].copy()
    seen = []
    for _ in range(20):
        env.reset()
        ratio = env._models[0].geom_friction[:, 0] / default
        assert np.ptp(ratio) < 1e-12 and 0.25 <= ratio[0] <= 1.75
        seen.append(ratio[0])
    assert len(set(seen)) == 20
    env.reset(seed=0)
    assert env._models[0].geom_friction[0, 0] / default[0] == seen[0]
    random.reset()
    assert env._models[0] is not env._models[1] and not np.array_equal(
        random._models[0].actuator_gear, random._models[1].actuator_gear
    )


def test_offline_takes_the_power_of_one_joint():
    env = make(shift="offline", joint="bshin")
    env.reset()
    assert [m.actuator_gear[:, 0].tolist() for m in env._models] == [[120, 0, 60, 120, 60, 30]] * 2
    drawn = make(shift="offline", num_envs=30)
    drawn.reset()
    off = [np.flatnonzero(m.actuator_gear[:, 0] == 0).tolist() for m in drawn._models]
    assert all(len(joints) == 1 for joints in off) and len({j[0] for j in off}) == 6


# --- faces


def test_recording_is_a_stick_figure_around_the_torso():
    env = make(num_envs=1)
    env.reset()
    shown = env.recording()
    assert shown["states"].shape == (9, 4) and len(shown["sizes"]) == len(shown["kinds"]) == 9
    assert shown["links"].tolist() == [
        [0, 1],
        [1, 2],
        [2, 3],
        [0, 4],
        [4, 5],
        [5, 6],
        [3, 7],
        [6, 8],
    ]
    hips = shown["states"][[1, 4], 0]
    assert hips == pytest.approx([-0.5, 0.5], abs=0.02)
    assert (np.abs(shown["states"][:, :2]) < 1.2).all()


def test_pettingzoo_face():
    from pettingzoo.test import parallel_api_test

    env = envs.parallel_env("hopper_3x1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        parallel_api_test(env, num_cycles=60)
    cheetah = envs.parallel_env(CHEETAH)
    with pytest.raises(Dom2Error, match="reset"):
        cheetah.state()
    cheetah.reset(seed=0)
    assert cheetah.state().shape == cheetah.state_space.shape == (17,)
    with pytest.raises(Dom2Error, match="rgb_array"):
        cheetah.render()
    with pytest.raises(Dom2Error, match="unknown render_mode"):
        envs.parallel_env(CHEETAH, render_mode="human")


def test_frames_follow_the_torso():
    try:
        env = envs.parallel_env(CHEETAH, render_mode="rgb_array")
    except Dom2Error as error:
        assert "libegl1" in str(error)
        pytest.skip("no GL on this machine")
    env.reset(seed=0)
    first = env.render()
    assert first.shape == (480, 480, 3) and first.dtype == np.uint8 and first.std() > 10
    for _ in range(20):
        env.step({agent: np.full(3, 0.5, np.float32) for agent in env.agents})
    assert not np.array_equal(env.render(), first)
    env.close()


def test_no_gl_says_what_to_install(monkeypatch):
    render.working_backend.cache_clear()
    monkeypatch.setenv("MUJOCO_GL", "glfw")
    with pytest.raises(Dom2Error, match=r"glfw: accepted are egl, osmesa.*libosmesa6"):
        render.working_backend()
    render.working_backend.cache_clear()


# --- refused


def test_refuses_what_doesn_t_fit(monkeypatch):
    with pytest.raises(Dom2Error, match=r"unknown environment 'walker_2x3'.*halfcheetah_2x3"):
        envs.make("walker_2x3")
    with pytest.raises(Dom2Error, match="no joint 'knee'; accepted: drawn, bthigh"):
        make(shift="offline", joint="knee")
    with pytest.raises(Dom2Error, match="joint belongs to shift='offline'"):
        make(shift="random", joint="bshin")
    with pytest.raises(Dom2Error, match="no shift 'speed'"):
        make(shift="speed")
    with pytest.raises(Dom2Error, match="threads"):
        make(threads=0)
    with pytest.raises(Dom2Error, match=r"float32 or torch.float64, got torch.float16"):
        envs.make(CHEETAH, dtype=torch.float16)
    scaled = models.load(SCENARIOS[CHEETAH])
    scaler = shifts.Scaler(CHEETAH)
    scaler.scale(scaled, shifts.Factors(np.ones(6), friction=2.0))
    with pytest.raises(Dom2Error, match=r"geom_friction was scaled already.*restore"):
        scaler.scale(scaled, shifts.Factors(np.ones(6), friction=2.0))
    with pytest.raises(Dom2Error, match="no model of halfcheetah_2x3"):
        scaler.scale(models.load(SCENARIOS["hopper_3x1"]), shifts.Factors(np.ones(6)))


@pytest.mark.parametrize("version", ["2.3.7", "5.0.1"])
def test_refuses_other_versions_of_mujoco(version, monkeypatch):
    monkeypatch.setattr(models.metadata, "version", lambda name: version)
    with pytest.raises(Dom2Error, match=rf">= 3.2, < 5.0, found {version}: pip install"):
        envs.make(CHEETAH)


def test_without_mujoco_names_are_listed_and_making_says_the_command():
    code = (
        "import sys; sys.modules['mujoco'] = None\n"
        "from importlib import metadata\n"
        "def gone(name): raise metadata.PackageNotFoundError(name)\n"
        "import dom2_fast, torch\n"
        "assert 'gymnasium' not in sys.modules\n"
        "metadata.version = gone\n"
        "print(*dom2_fast.envs.names())\n"
        "try: dom2_fast.envs.make('halfcheetah_2x3')\n"
        "except dom2_fast.errors.Dom2Error as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "halfcheetah_2x3 ant_2x4 hopper_3x1" in done.stdout
    assert "pip install 'dom2-fast[mujoco]'" in done.stdout
