"""Writing files so that nothing is lost: a file is either the old one or the whole new one.

Everything is written under a temporary name in the same folder, flushed to the disk, then renamed.
This module knows nothing of what is in the files.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from dom2_fast.errors import Dom2Error

# A full disk says ENOSPC, a used-up quota EDQUOT. Users meet both as "no space".
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
# What flock says of a folder on file systems that have no locks, or none of folders.
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.EBADF, errno.EINVAL, errno.ENOSYS)


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike, mode: str = "wb", **open_kwargs) -> Iterator[IO]:
    """Open a temporary file beside `path`; put it in `path`'s place when the block ends well.

    On any error (Ctrl-C included) the temporary file is removed and `path` stays as it was.

    Args:
        path: the file to write; its folder is created when missing.
        mode: "wb" or "w" (text is UTF-8).
    Raises:
        Dom2Error: the mode can't write a whole file; `path` is a folder; no space is left.
    """
    if mode not in ("w", "wb"):
        raise Dom2Error(f"atomic_write writes whole files: mode is 'w' or 'wb', not {mode!r}")
    path = Path(path)
    if path.is_dir():
        raise Dom2Error(f"{path} is a folder, a file was to be written there: choose another name")
    if mode == "w":
        open_kwargs.setdefault("encoding", "utf-8")
    with _explain(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(
            prefix=f".{path.name}.", suffix=".tmp", dir=path.parent
        )
        try:
            # mkstemp makes files private; a result should be as readable as any other new file.
            os.chmod(temporary, _mode_for(path))
            with os.fdopen(descriptor, mode, **open_kwargs) as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            raise
        _sync_folder(path.parent)


@contextlib.contextmanager
def atomic_dir(path: str | os.PathLike) -> Iterator[Path]:
    """Give a temporary folder beside `path` to fill; rename it to `path` when the block ends well.

    Raises:
        Dom2Error: `path` already holds something (checked before the block runs); no space is left.
    """
    path = Path(path)
    refuse_used(path)
    with _explain(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
        try:
            os.chmod(temporary, 0o777 & ~_umask())
            yield temporary
            for item in temporary.rglob("*"):
                if item.is_file():
                    _sync_file(item)
            refuse_used(path)  # someone else may have filled it in the meantime
            if path.is_dir():  # empty; os.rename onto an empty folder isn't portable
                path.rmdir()
            os.rename(temporary, path)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        _sync_folder(path.parent)


def remove_leftovers(path: str | os.PathLike, names: Iterable[str] = ("*",)) -> None:
    """Remove temporary files in the folder `path` and temporary folders beside it that a killed
    process left there. The caller knows that no other process is writing them.

    names: of the files whose temporary ones are meant, as patterns.
    """
    path = Path(path)
    for name in names:
        for item in path.glob(f".{name}.*.tmp"):
            if item.is_file():
                item.unlink(missing_ok=True)
    for item in path.parent.glob(f".{path.name}.*.tmp"):
        if item.is_dir():
            shutil.rmtree(item, ignore_errors=True)


@contextlib.contextmanager
def held(path: str | os.PathLike, refusal: str | None = None) -> Iterator[None]:
    """Holds a folder or a file for this process while the block runs; others of `held` keep off.

    It is locked itself (flock), so the lock goes with its process, however that ends. Where a file
    system has no locks nothing is held.

    Args:
        path: a folder that exists; or a file, which is made where it is missing, and stays.
        refusal: what to say where another process holds it; None: wait for that one.
    Raises:
        Dom2Error: another process holds it, and there is a `refusal`.
    """
    flags = os.O_RDONLY if Path(path).is_dir() else os.O_RDWR | os.O_CREAT
    descriptor = os.open(path, flags, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (fcntl.LOCK_NB if refusal else 0))
        except BlockingIOError:
            raise Dom2Error(refusal or "") from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
        yield
    finally:
        os.close(descriptor)


def new_run_dir(path: str | os.PathLike) -> Path:
    """Create the folder `path` for a new run, or take it when it is empty.

    Temporary files that a killed process left there count for nothing.

    Raises:
        Dom2Error: `path` is a file, or a folder that already holds something.
    """
    path = Path(path)
    refuse_used(path, resume_hint=True)
    with _explain(path):
        path.mkdir(parents=True, exist_ok=True)
    return path


def refuse_used(path: Path, resume_hint: bool = False) -> None:
    """Raise a Dom2Error where `path` is a file or a folder that holds something.

    resume_hint: it is a run's folder, whose owner removes what a killed process left there.
    """
    if path.exists() and not path.is_dir():
        raise Dom2Error(f"{path} is a file, a new folder was to be made there: choose another name")
    if not path.is_dir():
        return
    names = sorted(item.name for item in path.iterdir())
    if resume_hint:
        names = [name for name in names if not (name.startswith(".") and name.endswith(".tmp"))]
    if not names:
        return
    shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    advice = "choose another folder, or move this one away"
    if resume_hint and "checkpoint.pt" in names:
        advice = "add --resume to go on with that run, or choose another --out folder"
    raise Dom2Error(f"{path} already holds {shown}; nothing was overwritten: {advice}")


@contextlib.contextmanager
def explain_no_space(path: str | os.PathLike, kept: str, advice: str) -> Iterator[None]:
    """Turn 'no space' into a Dom2Error: what was being written, what is `kept`, what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_SPACE:
            raise
        raise Dom2Error(f"no space left while writing {path}: {kept}; {advice}") from error


def _explain(path: Path) -> contextlib.AbstractContextManager[None]:
    return explain_no_space(
        path,
        "the file that was there before is intact" if path.exists() else "nothing was left behind",
        "free some space (or a quota) or choose another folder, then run the command again",
    )


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _mode_for(path: Path) -> int:
    """Keep the permissions of the file being replaced; else those of any new file."""
    return path.stat().st_mode & 0o777 if path.exists() else 0o666 & ~_umask()


def _sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(path: Path) -> None:
    """Make the rename itself durable, where the file system allows it."""
    with contextlib.suppress(OSError):
        _sync_file(path)
