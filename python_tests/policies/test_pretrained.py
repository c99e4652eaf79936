"""The shipped policies: named, in the package's files, small, and as good as their README says."""

import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import torch
from policy_problems import OBS, net, policy, rand, stack

import dom2_fast as d2
from dom2_fast import envs
from dom2_fast.errors import Dom2Error
from dom2_fast.policies import policy_file, pretrained
from dom2_fast.policies.frozen import load_policy

REPO = Path(__file__).resolve().parents[2]
README = REPO / "dom2_fast" / "assets" / "README.md"


def test_an_unknown_name_lists_those_there_are():
    assert "simple_spread/expert" in pretrained.names()
    for wrong in ("simple_spread", "simple_spread/exprt", "../../x", ""):
        with pytest.raises(Dom2Error, match=r"no pretrained policy.*simple_spread/expert"):
            d2.pretrained(wrong)


@pytest.mark.parametrize("name", pretrained.names())
def test_each_acts_in_its_task_as_well_as_the_readme_says(name):
    """Within four standard errors of the difference of two means, of 200 and 1,000 episodes."""
    task = name.partition("/")[0]
    loaded = d2.pretrained(name)
    assert (loaded.notes["env"], loaded.notes["algo"]) == (task, "dom2")
    row = re.search(rf"^\| `{name}` \|.*$", README.read_text(), re.M).group(0).split("|")
    for column, shift in ((3, None), (4, "speed")):
        said = float(row[column].split("(")[0])
        got = d2.evaluate(loaded, env=task, episodes=200, shift=shift, seed=12345)
        error = got["std"] * (1 / 200 + 1 / 1000) ** 0.5
        assert abs(got["mean"] - said) < 4 * error, (name, shift, got["mean"], said)


def test_precision_and_frozen_shape():
    loaded = d2.pretrained("simple_spread/expert", precision="bf16")
    assert loaded.precision == "bf16"
    assert loaded.act(torch.zeros(3, 4, 18)).shape == (3, 4, 2)
    assert envs.make("simple_spread").obs_dims == loaded.obs_dims


def test_together_they_are_small():
    size = sum(path.stat().st_size for path in pretrained.FOLDER.rglob("*.safetensors"))
    assert 0 < size <= 3e6


# ---- float16 files -------------------------------------------------------------------------------


def test_a_half_file_holds_every_number_rounded_to_float16(tmp_path):
    frozen = policy(stack(torch.float32)).frozen()
    whole, half = tmp_path / "p.safetensors", tmp_path / "h.safetensors"
    frozen.export(whole)
    frozen.export(half, half=True, notes={"env": "mine"})
    assert half.stat().st_size < whole.stat().st_size
    (before, _), (after, notes) = policy_file.read(whole), policy_file.read(half)
    assert (notes["version"], notes["env"]) == ("4", "mine")
    for name, tensor in before.items():
        if tensor.dtype == torch.float32:
            assert torch.equal(after[name], tensor.half().float()), name
        elif name != "solver":  # of nine columns there, of eight in version 1
            assert torch.equal(after[name], tensor), name
    loaded, again = load_policy(half), tmp_path / "again.safetensors"
    assert loaded._table.dtype == torch.float32
    loaded.export(again, half=True)
    assert torch.equal(load_policy(again)._table, loaded._table)
    obs = rand(3, 4, OBS, dtype=torch.float32)
    x_T = torch.zeros(3, 4, frozen.act_dim)
    assert (loaded.sample(obs, x_T) - frozen.sample(obs, x_T)).abs().max() < 0.2


def test_what_float16_cannot_hold_is_refused(tmp_path):
    module = net(torch.float32)
    with torch.no_grad():
        next(module.parameters()).mul_(0).add_(1e6)
    with pytest.raises(Dom2Error, match=r"float16 goes to 65,504"):
        policy(module).frozen().export(tmp_path / "h.safetensors", half=True)
    assert not list(tmp_path.iterdir())


def test_half_numbers_in_another_version_are_refused(tmp_path):
    path = tmp_path / "p.safetensors"
    policy(net(torch.float32)).frozen().export(path, half=True)
    path.write_bytes(path.read_bytes().replace(b'"version":"4"', b'"version":"3"'))
    with pytest.raises(Dom2Error, match=r"table is torch.float16"):
        load_policy(path)


# ---- the package's files -------------------------------------------------------------------------


def test_setuptools_takes_them_into_wheel_and_sdist(tmp_path):
    """What `setup.py` would put there, without compiling."""
    if not (REPO / "setup.py").exists():
        pytest.skip("needs the sources")
    code = """
import sys
from setuptools import Distribution
dist = Distribution()
dist.parse_config_files(["pyproject.toml"])
build = dist.get_command_obj("build_py")
build.finalize_options()
for package, source, _, files in build.data_files:
    for file in files:
        print(source + "/" + file)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    listed = {line for line in done.stdout.splitlines() if line.endswith(".safetensors")}
    assert listed == {f"dom2_fast/assets/policies/{n}.safetensors" for n in pretrained.names()}


@pytest.mark.slow
def test_the_sdist_has_them(tmp_path):
    command = [sys.executable, "setup.py", "--quiet", "egg_info", "--egg-base", str(tmp_path)]
    command += ["sdist", "--dist-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as held:
        names = held.getnames()
    for name in pretrained.names():
        assert any(n.endswith(f"assets/policies/{name}.safetensors") for n in names), name
