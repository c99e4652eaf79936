"""The rooms of docs/architecture.md: which may import which, lazily or not, and no circle."""

import ast
import re
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]
PACKAGE = REPO / "dom2_fast"


def rooms() -> dict[str, set[str]]:
    """room -> the rooms it may know, as the table in docs/architecture.md has them."""
    text = (REPO / "docs" / "architecture.md").read_text()
    table = text[text.index("## Rooms of the package") :]
    found = re.findall(r"^\| `(\w+)` \| [^|]+ \| ([^|]+) \|$", table, re.M)
    return {room: set(re.findall(r"`(\w+)`", knows)) for room, knows in found}


def modules() -> dict[str, Path]:
    """Dotted name below the package -> file."""
    out = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = list(path.relative_to(PACKAGE).with_suffix("").parts)
        if parts[-1] == "__init__":
            parts.pop()
        out[".".join(parts)] = path
    return out


def imports(name: str, path: Path, known: set[str]) -> set[str]:
    """The package's own modules that a module imports, inside functions, too."""
    out = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "dom2_fast":
            base = node.module.partition(".")[2]
            for alias in node.names:
                inner = f"{base}.{alias.name}".lstrip(".")
                out.add(inner if inner in known else base)
        elif isinstance(node, ast.Import):
            out |= {a.name.partition(".")[2] for a in node.names if a.name.startswith("dom2_fast.")}
    return out - {"", name}


def room_of(module: str) -> str:
    first = module.partition(".")[0]
    return first if (PACKAGE / first).is_dir() else "ground"


MODULES = modules()
IMPORTS = {name: imports(name, path, set(MODULES)) for name, path in MODULES.items() if name}


def test_every_room_is_in_the_table():
    assert {room_of(name) for name in IMPORTS} == set(rooms())


@pytest.mark.parametrize("room", sorted({room_of(name) for name in IMPORTS}))
def test_a_room_knows_only_rooms_below_it(room):
    allowed = rooms()[room] | {room}
    above = [
        f"{name} imports {other}"
        for name, others in IMPORTS.items()
        if room_of(name) == room
        for other in sorted(others)
        if room_of(other) not in allowed
    ]
    assert not above


def test_the_table_has_no_circle():
    seen: list[str] = []
    for room, knows in rooms().items():
        assert knows <= set(seen), f"{room} knows {sorted(knows - set(seen))}, which stand below it"
        seen.append(room)


def test_modules_import_each_other_in_one_direction():
    """No circle between files either, counting imports inside functions."""
    state: dict[str, int] = {}
    circles = []

    def visit(name: str, path: list[str]) -> None:
        state[name] = 1
        for other in sorted(IMPORTS.get(name, ())):
            # A package's __init__ may name its own parts; they import it as their parent anyway.
            if name.startswith(other + ".") or other.startswith(name + "."):
                continue
            if state.get(other) == 1:
                circles.append(" -> ".join([*path[path.index(other) :], other]))
            elif other not in state:
                visit(other, [*path, other])
        state[name] = 2

    for name in IMPORTS:
        if name not in state:
            visit(name, [name])
    assert not circles
