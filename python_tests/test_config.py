"""Settings survive YAML and the command line; wrong ones are named, with the nearest right ones."""

import dataclasses
from dataclasses import dataclass, field
from typing import Literal

import pytest

from dom2_fast import config
from dom2_fast.errors import Dom2Error


@dataclass(frozen=True)
class Critic:
    hidden: int = field(default=64, metadata={"doc": "width", "source": "OMAR"})
    lr: float = 1e-3


@dataclass(frozen=True)
class Settings:
    eta: float = field(
        default=1.0, metadata={"doc": "weight of the Q term", "source": "tuned here"}
    )
    batch_size: int = 1024
    thresholds: tuple[float, ...] | None = None
    solver: Literal["ddpm", "dpm1"] = "dpm1"
    critic: Critic = field(default_factory=Critic)

    def __post_init__(self):
        if self.batch_size < 1:
            raise Dom2Error(f"batch_size is {self.batch_size}, it must be at least 1")


CHANGED = Settings(
    eta=2e-5, batch_size=3, thresholds=(1.5, 200.0), solver="ddpm", critic=Critic(hidden=7, lr=1e10)
)


@pytest.mark.parametrize("settings", [Settings(), CHANGED])
def test_yaml_gives_the_same_settings_back(tmp_path, settings):
    path = tmp_path / "config.yaml"
    config.save(settings, path, header="made by a test\nsecond line")
    assert path.read_text().startswith("# made by a test\n# second line\n")
    assert config.from_dict(Settings, config.load(path)) == settings


def test_numbers_people_write(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("eta: 1e-3\ncritic: {lr: 1}\nthresholds: [200, 2.5e2]\n")
    made = config.from_dict(Settings, config.load(path))
    assert made == Settings(eta=1e-3, critic=Critic(lr=1.0), thresholds=(200.0, 250.0))
    assert isinstance(made.critic.lr, float)


def test_empty_file_means_all_defaults(tmp_path):
    (tmp_path / "c.yaml").write_text("# nothing\n")
    assert config.from_dict(Settings, config.load(tmp_path / "c.yaml")) == Settings()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"batchsize": 3}, r"a\.yaml: unknown key 'batchsize'; did you mean 'batch_size'\?"),
        ({"zzz": 3}, r"unknown key 'zzz'; accepted: batch_size, critic, eta, solver, thresholds"),
        ({"critic": {"hiden": 3}}, r"unknown key 'critic\.hiden'; did you mean 'critic\.hidden'"),
        ({"critic": 3}, r"critic must be a mapping of keys to values, not 3"),
        ({"eta": "much"}, r"a\.yaml: 'eta': expected float, got much"),
        ({"batch_size": 1.5}, r"'batch_size': expected int, got 1\.5"),
        ({"critic": {"hidden": "big"}}, r"'critic\.hidden': expected int, got big"),
        ({"solver": "heun"}, r"'solver': expected Literal\['ddpm', 'dpm1'\], got heun"),
        ({"batch_size": 0}, r"a\.yaml: batch_size is 0, it must be at least 1"),
    ],
)
def test_wrong_settings_are_one_clear_line(values, message):
    with pytest.raises(Dom2Error, match=message) as caught:
        config.from_dict(Settings, values, "a.yaml")
    assert "\n" not in str(caught.value)


def test_missing_key_without_default():
    @dataclass
    class Needs:
        data: str

    with pytest.raises(Dom2Error, match="'data' is missing"):
        config.from_dict(Needs, {})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"a: [1\nb: 2\n", r"line 2: not valid YAML"),
        (b"- 1\n- 2\n", "mapping of keys to values was expected, not a list"),
        (b"\xff\xfe\x00", "not a text file"),
    ],
)
def test_files_that_are_no_settings(tmp_path, text, message):
    (tmp_path / "c.yaml").write_bytes(text)
    with pytest.raises(Dom2Error, match=message):
        config.load(tmp_path / "c.yaml")
    with pytest.raises(Dom2Error, match="no settings file"):
        config.load(tmp_path / "absent.yaml")
    with pytest.raises(Dom2Error, match="is a folder"):
        config.load(tmp_path)


def test_plain_values_of_numpy_and_torch_are_saved_as_numbers(tmp_path):
    import numpy as np
    import torch

    path = tmp_path / "c.yaml"
    config.save({"a": np.float64(1.5), "b": torch.tensor(3), "c": tmp_path, "d": (1, None)}, path)
    assert config.load(path) == {"a": 1.5, "b": 3, "c": str(tmp_path), "d": [1, None]}
    config.save({"e": torch.__version__, "f": True}, path)
    assert config.load(path) == {"e": str(torch.__version__), "f": True}


def test_options_cover_every_field_and_only_what_was_given_is_returned(capsys):
    parser = config.option_parser(prog="x")
    config.add_options(parser, Settings)
    given = parser.parse_args(["--batch-size", "5", "--critic.lr=1e-4", "--thresholds", "[1, 2]"])
    values = given.as_dict()
    assert values == {"batch_size": 5, "critic": {"lr": 1e-4}, "thresholds": (1.0, 2.0)}
    assert config.from_dict(Settings, values) == dataclasses.replace(
        Settings(), batch_size=5, critic=Critic(lr=1e-4), thresholds=(1.0, 2.0)
    )
    parser.print_help()
    text = " ".join(capsys.readouterr().out.split())
    assert "weight of the Q term (tuned here) [default: 1.0]" in text
    assert "--critic.hidden INT" in text


def test_an_optional_setting_can_be_switched_off_on_the_command_line():
    parser = config.option_parser(prog="x")
    config.add_options(parser, Settings)
    assert parser.parse_args(["--thresholds", "null"]).as_dict() == {"thresholds": None}
    assert parser.parse_args([]).as_dict() == {}
