"""Settings as dataclasses, and the same settings as YAML files and command-line options.

Every option of an algorithm is a field of its config dataclass; fields of nested dataclasses have
dotted names (`critic.hidden`). This module converts and checks; it holds no setting of its own.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import os
import re
from argparse import SUPPRESS, ArgumentError
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import UnionType
from typing import Any, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

from dom2_fast.errors import Dom2Error
from dom2_fast.files import atomic_write

T = TypeVar("T")

# Of a settings file, far more than any has: levels of nesting, and values with aliases written out.
_MOST_DEEP, _MOST_VALUES = 50, 100_000


class Field(NamedTuple):
    """One setting; `name` is dotted, `default` is `dataclasses.MISSING` where there is none."""

    name: str
    type: Any
    default: Any
    help: str


def setting(default: Any, doc: str, source: str = "") -> Any:
    """A field with what it means and where its default comes from: what `fields` reads."""
    return dataclasses.field(default=default, metadata={"help": doc, "source": source})


def fields(cls: type) -> Iterator[Field]:
    """All settings of a config dataclass, those of nested dataclasses with dotted names.

    The description is the field's metadata "doc" (or "help") with "source" in brackets behind it.
    """
    hints = _hints(cls)
    for field in dataclasses.fields(cls):
        if not field.init:
            continue
        kind = hints[field.name]
        if dataclasses.is_dataclass(kind):
            for inner in fields(kind):
                yield inner._replace(name=f"{field.name}.{inner.name}")
            continue
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        yield Field(field.name, kind, default, _describe(field.metadata))


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls)  # slow: it compiles every annotation


def to_dict(config: Any) -> dict:
    """A config dataclass as plain dicts, lists, numbers and strings, as YAML and JSON have them."""
    return _plain(dataclasses.asdict(config))


def from_dict(cls: type[T], values: Mapping, source: str = "the settings") -> T:
    """Build a config dataclass from (nested) plain values; what is left out keeps its default.

    Args:
        values: as from `to_dict` or a YAML file.
        source: where the values come from, for error messages (a file's name, say).
    Raises:
        Dom2Error: an unknown key (the message names the nearest accepted ones), a value of a wrong
            type, a missing key without a default, or what the dataclass itself refuses.
    """
    return _build(cls, checked(cls, values, source), source)


def checked(cls: type, values: Mapping, source: str = "the settings") -> dict:
    """The same values for `from_dict`, keys and types checked; what is left out stays out.

    Raises:
        Dom2Error: an unknown key, a value of a wrong type.
    """
    check_keys(cls, values, source)
    return _check_types(cls, values, source)


def check_keys(cls: type, values: Mapping, source: str = "the settings", prefix: str = "") -> None:
    """Raise a Dom2Error for the first key of `values` that isn't a setting of `cls`."""
    if not isinstance(values, Mapping):
        raise Dom2Error(
            f"{source}: {prefix.rstrip('.') or 'the whole'} must be a mapping of keys to values, "
            f"not {values!r}"
        )
    hints = _hints(cls)
    names = [field.name for field in dataclasses.fields(cls) if field.init]
    for key, value in values.items():
        if key not in names:
            raise Dom2Error(
                unknown_key(f"{prefix}{key}", [prefix + name for name in names], source)
            )
        if dataclasses.is_dataclass(hints[key]):
            check_keys(hints[key], value, source, f"{prefix}{key}.")


def unknown_key(key: str, accepted: list[str], source: str) -> str:
    """The message for a key that isn't accepted: the nearest ones first, else all of them."""
    near = difflib.get_close_matches(str(key), accepted, n=3, cutoff=0.6)
    if near:
        return f"{source}: unknown key '{key}'; did you mean {' or '.join(map(repr, near))}?"
    return f"{source}: unknown key '{key}'; accepted: {', '.join(sorted(accepted))}"


def load(path: str | os.PathLike) -> dict:
    """Read a YAML file of settings as a dict.

    Raises:
        Dom2Error: no such file; not YAML (with the line); not a mapping.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise Dom2Error(f"no settings file {path}: check the path") from None
    except IsADirectoryError:
        raise Dom2Error(
            f"{path} is a folder, a YAML file was expected (a run has its config.yaml)"
        ) from None
    except UnicodeDecodeError as error:
        raise Dom2Error(
            f"{path} is not a text file (at byte {error.start}), YAML was expected"
        ) from None
    values = parse(text, str(path))
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise Dom2Error(
            f"{path}: a mapping of keys to values was expected, not a {type(values).__name__}"
        )
    return values


def parse(text: str, source: str) -> Any:
    """A value as YAML writes it: `0.3`, `1e-3`, `true`, `[1, 2]`, a mapping, or the text itself.

    Raises:
        Dom2Error: it isn't YAML; the message names `source` and the line.
    """
    import yaml

    try:
        value = yaml.load(text, Loader=_yaml_loader())
        _check_size(value)
        return value
    except RecursionError:
        raise Dom2Error(f"{source}: not settings: it is nested too deeply") from None
    except (ValueError, ArithmeticError, LookupError, TypeError, AttributeError) as error:
        # A date or number that looks like one and is none: PyYAML lets Python's own errors out.
        raise Dom2Error(f"{source}: not valid YAML: {error}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise Dom2Error(f"{source}{where}: not valid YAML: {problem}") from None


def _check_size(value: Any) -> None:
    """Aliases (&, *) make a value that holds itself, or a short text one of billions of values.

    Raises:
        RecursionError, ValueError.
    """
    waiting, count = [(value, 0)], 0
    while waiting:
        one, depth = waiting.pop()
        count += 1
        if depth > _MOST_DEEP:
            raise RecursionError
        if count > _MOST_VALUES:
            raise ValueError(f"it holds more than {_MOST_VALUES:,} values")
        if isinstance(one, dict):
            waiting += [(item, depth + 1) for item in one.values()]
        elif isinstance(one, list | tuple | set):
            waiting += [(item, depth + 1) for item in one]


def save(config: Any, path: str | os.PathLike, header: str = "") -> None:
    """Write a config dataclass or a dict as YAML, atomically; `load` gives the same values back.

    Args:
        header: lines to put on top as comments.
    """
    import yaml

    values = to_dict(config) if dataclasses.is_dataclass(config) else _plain(config)
    comment = "".join(f"# {line}\n" for line in header.splitlines())
    text = yaml.safe_dump(values, sort_keys=False, default_flow_style=None, width=100)
    with atomic_write(path, "w") as file:
        file.write(comment + text)


def option_name(name: str) -> str:
    """`batch_size` -> `--batch-size`, `critic.hidden` -> `--critic.hidden`."""
    return "--" + name.replace("_", "-")


def option_parser(**kwargs):
    """A jsonargparse parser as this project uses it: full option names, errors as exceptions."""
    from jsonargparse import ArgumentParser

    return ArgumentParser(exit_on_error=False, allow_abbrev=False, **kwargs)


def option_strings(parser) -> list[str]:
    """Every option of a parser and of its subcommands, as it is written: "--out", ..."""
    names = []
    for action in parser._actions:  # argparse has no public list of them
        names += action.option_strings
        if isinstance(action.choices, Mapping):
            for sub in action.choices.values():
                names += option_strings(sub)
    return list(dict.fromkeys(names))  # subcommands share some


def add_options(parser, cls: type, names: Mapping[str, tuple[str, ...]] | None = None) -> None:
    """Give `parser` (jsonargparse) one option for each setting of `cls`, with its description.

    Args:
        names: option strings for settings that are to be called something else.
    """
    for field in fields(cls):
        # No default here: what isn't given comes from the YAML file, if there is one.
        shown = (
            "" if field.default is dataclasses.MISSING else f" [default: {_show(field.default)}]"
        )
        parser.add_argument(
            *(names or {}).get(field.name, (option_name(field.name),)),
            type=field.type,
            default=SUPPRESS,
            metavar=_metavar(field.type),
            **({"nargs": "?", "const": True} if field.type is bool else {}),  # also as a switch
            help=(field.help + shown).strip().replace("%", "%%"),
        )


def _build(cls: type[T], values: Mapping, source: str) -> T:
    hints = _hints(cls)
    arguments = {}
    for field in dataclasses.fields(cls):
        if not field.init:
            continue
        if field.name in values:
            value = values[field.name]
            nested = dataclasses.is_dataclass(hints[field.name])
            arguments[field.name] = _build(hints[field.name], value, source) if nested else value
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise Dom2Error(f"{source}: '{field.name}' is missing and has no default")
    try:
        return cls(**arguments)
    except Dom2Error as error:
        raise Dom2Error(f"{source}: {error}") from error


def _check_types(cls: type, values: Mapping, source: str) -> dict:
    """The same values with jsonargparse's conversions (1 -> 1.0 for a float, lists -> tuples)."""
    parser = option_parser()
    given = dict(_dotted(values))
    for field in fields(cls):
        if field.name in given:
            # jsonargparse takes nothing for anything; here it would be used as a number.
            if given[field.name] is None and not _optional(field.type):
                raise Dom2Error(
                    f"{source}: '{field.name}' has no value: give one, or leave the line out"
                )
            parser.add_argument(f"--{field.name}", type=field.type)
    try:
        return parser.parse_object(dict(values), defaults=False).as_dict()
    except ArgumentError as error:
        raise Dom2Error(f"{source}: {plain_error(error)}") from None


def plain_error(error: Exception) -> str:
    """jsonargparse's message on one line, in plain words."""
    text = " ".join(str(error).split())
    text = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", text).replace("typing.", "")
    text = re.sub(r'^Parser key "([^"]*)":', r"'\1':", text)
    # A setting that may be left out is a union with None; what else it may be is what to say.
    text = re.sub(
        r"Does not validate against any of the Union subtypes Subtypes: \[(\w+), NoneType\] "
        r"Errors: .* Given value type: \w+ Given value: (.*)",
        r"expected \1, got \2",
        text,
    )
    return re.sub(r"Expected an? (.+?)\. Got value: (.*)", r"expected \1, got \2", text)


def _optional(kind: Any) -> bool:
    return kind is Any or type(None) in get_args(kind)


def _dotted(values: Mapping, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        yield f"{prefix}{key}", value
        if isinstance(value, Mapping):
            yield from _dotted(value, f"{prefix}{key}.")


def _yaml_loader():
    """YAML 1.1 reads `1e-3` as text; everybody means the number, so floats follow YAML 1.2."""
    import yaml

    class Loader(yaml.SafeLoader):
        pass

    Loader.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"),
        list("-+0123456789."),
    )
    return Loader


def _describe(metadata: Mapping) -> str:
    text = metadata.get("doc") or metadata.get("help") or ""
    source = metadata.get("source")
    return f"{text} ({source})".strip() if source else text


def _show(value: Any) -> str:
    return "none" if value is None else str(value)


def _metavar(kind: Any) -> str | None:
    kinds = [inner for inner in get_args(kind) if inner is not type(None)]
    if len(kinds) == 1 and get_origin(kind) in (Union, UnionType):  # `int | None`
        (kind,) = kinds
    return {int: "INT", float: "FLOAT", str: "TEXT", bool: "true|false"}.get(kind)


def _plain(value: Any) -> Any:
    # Exact types: YAML refuses subclasses, such as np.float64 or the string torch.__version__.
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "item"):  # NumPy and torch scalars
        return value.item()
    if value is None or isinstance(value, bool):
        return value
    for kind in (int, float):
        if isinstance(value, kind):
            return kind(value)
    return str(value)
