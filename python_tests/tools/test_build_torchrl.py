"""tools/build_torchrl.py: when it builds, and what it says where it can't."""

from types import SimpleNamespace

import build_torchrl
import pytest


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """An installed torchrl of two files."""
    package = tmp_path / "torchrl"
    package.mkdir()
    (package / "_torchrl.cpython-311.so").write_bytes(b"of the wheel")
    spec = SimpleNamespace(origin=str(package / "__init__.py"))
    monkeypatch.setattr(build_torchrl.importlib.util, "find_spec", lambda name: spec)
    return package


def test_nothing_is_done_where_it_is_absent_or_loads(installed, monkeypatch, capsys):
    monkeypatch.setattr(build_torchrl, "reason", lambda: None)
    assert build_torchrl.main() == 0
    assert "loads as it is" in capsys.readouterr().out
    monkeypatch.setattr(build_torchrl.importlib.util, "find_spec", lambda name: None)
    assert build_torchrl.main() == 1
    assert "pip install '.[peers]'" in capsys.readouterr().out


def test_missing_sources_are_named(installed, monkeypatch, capsys):
    monkeypatch.setattr(build_torchrl, "reason", lambda: "ImportError: undefined symbol: f")
    assert build_torchrl.main() == 1
    out = capsys.readouterr().out
    assert "undefined symbol: f" in out and "pybind.cpp" in out and "are missing" in out


def test_what_is_built_takes_the_place_of_the_wheels(installed, monkeypatch, capsys):
    (installed / "csrc").mkdir()
    for name in ("pybind.cpp", "utils.cpp"):
        (installed / "csrc" / name).touch()
    given = iter(["ImportError: undefined symbol: f", None])
    monkeypatch.setattr(build_torchrl, "reason", lambda: next(given))

    def load(name, sources, build_directory, **options):
        assert [s.rpartition("/")[2] for s in sources] == ["pybind.cpp", "utils.cpp"]
        with open(f"{build_directory}/{name}.so", "wb") as file:
            file.write(b"built")

    monkeypatch.setattr("torch.utils.cpp_extension.load", load)
    assert build_torchrl.main() == 0
    assert "built; it loads" in capsys.readouterr().out
    held = {p.name: p.read_bytes() for p in installed.glob("_torchrl*")}
    assert held == {
        "_torchrl.cpython-311.so": b"built",
        "_torchrl.cpython-311.so.wheel": b"of the wheel",
    }
