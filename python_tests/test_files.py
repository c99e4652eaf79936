"""Files are whole or untouched: errors, Ctrl-C and a full disk leave the old one and no rubbish."""

import errno
import os

import pytest

from dom2_fast import files
from dom2_fast.errors import Dom2Error
from dom2_fast.files import atomic_dir, atomic_write, held, new_run_dir, remove_leftovers


def names(folder):
    return sorted(item.name for item in folder.iterdir())


def test_write_replaces_the_file_and_leaves_no_temporary(tmp_path):
    path = tmp_path / "sub" / "a.txt"
    with atomic_write(path, "w") as file:
        file.write("first\N{SNOWMAN}")
        assert not path.exists()  # nobody sees half a file
    with atomic_write(path) as file:
        file.write(b"second")
    assert path.read_bytes() == b"second"
    assert names(path.parent) == ["a.txt"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_write_keeps_the_old_file_on_any_error(tmp_path, error):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with pytest.raises(error), atomic_write(path) as file:
        file.write(b"half")
        raise error()
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a.bin"]


def test_full_disk_says_what_was_written_and_that_the_old_file_is_intact(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with pytest.raises(Dom2Error, match=r"no space left.*a\.bin.*intact"), atomic_write(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a.bin"]


def test_full_disk_seen_only_when_flushing(tmp_path, monkeypatch):
    def full(_descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(Dom2Error, match="nothing was left behind"), atomic_write(tmp_path / "b"):
        pass
    assert names(tmp_path) == []


def test_other_os_errors_pass_unchanged(tmp_path):
    with pytest.raises(PermissionError), atomic_write(tmp_path / "a"):
        raise PermissionError(errno.EACCES, "no")


def test_write_keeps_permissions_and_new_files_follow_the_umask(tmp_path):
    path = tmp_path / "a"
    path.write_text("x")
    path.chmod(0o640)
    with atomic_write(path, "w") as file:
        file.write("y")
    assert path.stat().st_mode & 0o777 == 0o640
    old = os.umask(0o022)
    try:
        with atomic_write(tmp_path / "b", "w"):
            pass
        assert (tmp_path / "b").stat().st_mode & 0o777 == 0o644
    finally:
        os.umask(old)


def test_write_refuses_a_folder_and_append_mode(tmp_path):
    with pytest.raises(Dom2Error, match="is a folder"), atomic_write(tmp_path):
        pass
    with pytest.raises(Dom2Error, match="mode is 'w' or 'wb'"), atomic_write(tmp_path / "a", "a"):
        pass


def test_dir_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "deep" / "data"
    with atomic_dir(path) as folder:
        (folder / "x").write_text("1")
        assert not path.exists()
    assert names(path) == ["x"] and names(path.parent) == ["data"]

    with pytest.raises(KeyboardInterrupt), atomic_dir(tmp_path / "other") as folder:
        (folder / "x").write_text("1")
        raise KeyboardInterrupt
    assert names(tmp_path) == ["deep"]


def test_dir_takes_an_empty_folder_and_refuses_a_used_one(tmp_path):
    path = tmp_path / "data"
    path.mkdir()
    with atomic_dir(path) as folder:
        (folder / "x").write_text("1")
    with (
        pytest.raises(Dom2Error, match="already holds x; nothing was overwritten"),
        atomic_dir(path),
    ):
        pytest.fail("the block must not run")
    assert (path / "x").read_text() == "1"


def test_dir_never_replaces_what_appeared_meanwhile(tmp_path):
    path = tmp_path / "data"
    with pytest.raises(Dom2Error, match="already holds theirs"), atomic_dir(path) as folder:
        (folder / "x").write_text("1")
        path.mkdir()
        (path / "theirs").write_text("2")
    assert names(path) == ["theirs"] and names(tmp_path) == ["data"]


def test_new_run_dir(tmp_path):
    run = new_run_dir(tmp_path / "runs" / "a")
    assert run.is_dir()
    assert new_run_dir(run) == run  # empty: fine
    (run / "notes.txt").write_text("mine")
    with pytest.raises(Dom2Error, match=r"notes\.txt.*choose another folder"):
        new_run_dir(run)
    (run / "checkpoint.pt").write_text("x")
    with pytest.raises(Dom2Error, match="--resume"):
        new_run_dir(run)
    with pytest.raises(Dom2Error, match="is a file"):
        new_run_dir(run / "notes.txt")


def test_what_a_killed_run_left_doesnt_make_its_folder_used(tmp_path):
    run = new_run_dir(tmp_path / "run")
    (run / ".checkpoint.pt.abc123.tmp").write_bytes(b"half")
    assert new_run_dir(run) == run
    remove_leftovers(run, ["best.pt"])
    assert names(run) == [".checkpoint.pt.abc123.tmp"]
    remove_leftovers(run, ["checkpoint.pt", "best.pt"])
    assert names(run) == []
    (run / ".mine").write_text("x")
    with pytest.raises(Dom2Error, match=r"already holds \.mine"):
        new_run_dir(run)


@pytest.mark.parametrize("what", ["folder", "file"])
def test_one_process_at_a_time_holds_a_path(tmp_path, what):
    path = tmp_path if what == "folder" else tmp_path / "lock"

    def taken_by_another():
        pid = os.fork()
        if pid == 0:
            try:
                with held(path, "someone is there"):
                    os._exit(0)
            except Dom2Error as error:
                os._exit(7 if str(error) == "someone is there" else 1)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    with held(path, "never"):
        assert taken_by_another() == 7
    assert taken_by_another() == 0
    assert path.exists()


def test_a_file_system_without_locks_holds_nothing(tmp_path, monkeypatch):
    def refuse(_descriptor, _how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(files.fcntl, "flock", refuse)
    with held(tmp_path, "someone is there"):
        pass


def test_leftovers_of_a_killed_process_go_and_nothing_else(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    kept = ["checkpoint.pt", ".hidden", "notes.tmp"]
    for name in [*kept, ".checkpoint.pt.x1.tmp"]:
        (run / name).touch()
    for name in (".run.x2.tmp", ".other.x3.tmp"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "half").touch()
    remove_leftovers(run)
    assert names(run) == sorted(kept) and names(tmp_path) == [".other.x3.tmp", "run"]
    remove_leftovers(tmp_path / "nowhere")
