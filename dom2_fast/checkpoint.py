"""Checkpoints: one file, written whole or not at all, refused when it isn't what is expected.

A checkpoint is a dict of plain values and tensors (no pickled code: it is read with
`weights_only=True`). What is in it is the business of `algos.offline` and `runs.train`.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
from collections.abc import Iterator
from pathlib import Path

import torch

from dom2_fast._version import __version__
from dom2_fast.errors import Dom2Error
from dom2_fast.files import atomic_write

FORMAT = 1
NAME = "checkpoint.pt"
FILES = {"last": NAME, "best": "best.pt"}  # a run's checkpoints: where it is, where it scored most


# What using a checkpoint raises whose values don't fit each other.
_MISFIT = (RuntimeError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError)


def save(path: str | os.PathLike, content: dict) -> None:
    """Writes `content` (plain values and tensors) to `path`, replacing what was there.

    Raises:
        Dom2Error: no space is left; the former file is intact.
    """
    # Serialised in memory first: torch's own writer reports a full disk as a bare RuntimeError.
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, "version": __version__, **content}, buffer)
    with atomic_write(path) as file:
        file.write(buffer.getbuffer())


def of_run(folder: str | os.PathLike, which: str = "last") -> Path:
    """The file of a run's last or best checkpoint, or `folder` itself where it is a file.

    Raises:
        Dom2Error: another name than "last" and "best"; a run without a best checkpoint.
    """
    folder = Path(folder)
    if which not in FILES:
        raise Dom2Error(f"a run's checkpoint is one of {', '.join(FILES)}, got {which!r}")
    file = folder / FILES[which] if folder.is_dir() else folder
    if which == "best" and (file == folder or not file.is_file()) and folder.exists():
        raise Dom2Error(
            f"{folder} holds no {FILES[which]}: a run keeps its best checkpoint where it is "
            "evaluated on the way (train with --eval-every N); take the last one, or train anew"
        )
    return file


def load(path: str | os.PathLike, *, algo: str | None = None, env: str | None = None) -> dict:
    """Reads a checkpoint, or a run folder's.

    Args:
        path: the file, or the folder that holds `checkpoint.pt`.
        algo, env: what it must be of; None: anything.
    Raises:
        Dom2Error: no such file; cut short or no checkpoint; of a newer format; of another algorithm
            or environment.
    """
    path = Path(path)
    file = of_run(path)
    if not file.is_file():
        raise Dom2Error(
            f"no checkpoint at {file}: give a run folder (the --out of `dom2-fast train`) or its "
            f"{NAME}"
        )
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM, errno.EIO):
            raise Dom2Error(f"{file} can't be read: {error.strerror}") from error
        raise _unreadable(file, error) from error
    except Exception as error:  # of damaged bytes torch.load raises whatever its parts do
        raise _unreadable(file, error) from error
    if not isinstance(content, dict) or "format" not in content or "algo" not in content:
        raise Dom2Error(f"{file} is no checkpoint of dom2_fast; give a run's {NAME}")
    if content["format"] != FORMAT:
        raise Dom2Error(
            f"{file} has checkpoint format {content['format']}, this is dom2_fast {__version__} "
            f"with format {FORMAT}: read it with dom2_fast {content.get('version', '?')}"
        )
    for name, wanted in (("algo", algo), ("env", env)):
        if wanted is not None and content.get(name) != wanted:
            what = {"algo": "algorithm", "env": "environment"}[name]
            raise Dom2Error(
                f"{file} is of {what} {content.get(name)!r}, {wanted!r} was asked for: "
                f"give a run of {wanted!r}, or ask for {content.get(name)!r}"
            )
    return content


@contextlib.contextmanager
def fitting(what: str | os.PathLike = "the checkpoint") -> Iterator[None]:
    """For the use of a checkpoint's values, which may come from anywhere.

    Raises:
        Dom2Error: any error that values which don't fit each other lead to; `what` is theirs.
    """
    try:
        yield
    except Dom2Error:
        raise
    except _MISFIT as error:
        raise Dom2Error(
            f"{what} holds values that don't fit each other ({_first_line(error)}): copy it again, "
            "or train anew"
        ) from error


def _first_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or "no reason given"
    return f"{type(error).__name__}: {text}"[:160]


def _unreadable(file: Path, error: Exception) -> Dom2Error:
    first = (str(error).splitlines() or [type(error).__name__])[0][:120]
    return Dom2Error(
        f"{file} ({file.stat().st_size} bytes) is cut short or is no checkpoint ({first}): "
        "copy it again, or train anew"
    )
