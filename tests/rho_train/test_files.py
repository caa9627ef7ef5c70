import errno
import itertools
import os
import signal
import socket
import stat
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import pytest

from rho_train.files import atomic_write, error_text, remove_unfinished


@pytest.fixture
def target(tmp_path: Path) -> Path:
    path = tmp_path / "result.json"
    path.write_text("previous")
    return path


def assert_untouched(target: Path) -> None:
    assert target.read_text() == "previous"
    assert os.listdir(target.parent) == [target.name]


def test_the_new_file_replaces_the_previous_one(target: Path) -> None:
    payloads: list[tuple[Any, bytes]] = [
        ("grüße", "grüße".encode()),
        (b"\x00\xff", b"\x00\xff"),
        (memoryview(b"view"), b"view"),
        (iter([b"a", memoryview(b"b")]), b"ab"),
        ([], b""),
    ]
    for data, expected in payloads:
        atomic_write(target, data)
        assert target.read_bytes() == expected
    assert os.listdir(target.parent) == [target.name]


def test_files_follow_the_umask(tmp_path: Path) -> None:
    for umask in (0o022, 0o027, 0o077):
        before = os.umask(umask)
        try:
            atomic_write(tmp_path / f"{umask}", "")
            assert stat.S_IMODE((tmp_path / f"{umask}").stat().st_mode) == 0o666 & ~umask
        finally:
            os.umask(before)


def test_a_symlink_stays_and_its_target_is_written(target: Path) -> None:
    folder = target.parent / "links"
    folder.mkdir()
    (folder / "one").symlink_to("../result.json")
    (folder / "two").symlink_to("one")
    (folder / "dangling").symlink_to(target.parent / "made")
    for link, file in (("one", target), ("two", target), ("dangling", target.parent / "made")):
        atomic_write(folder / link, link)
        assert (folder / link).is_symlink()
        assert file.read_text() == link
        assert not file.is_symlink()
    (folder / "loop").symlink_to("loop")
    with pytest.raises(
        OSError, match=r"cannot write .*loop: it is .* a loop of links; choose a path"
    ):
        atomic_write(folder / "loop", "new")
    assert sorted(os.listdir(folder)) == ["dangling", "loop", "one", "two"]
    assert sorted(os.listdir(target.parent)) == ["links", "made", "result.json"]


def test_what_is_no_file_is_refused_and_stays(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as bound:
        directory = os.open(tmp_path, os.O_RDONLY)
        bound.bind(f"/proc/self/fd/{directory}/socket")  # the whole path can be too long
        os.close(directory)
    with suppress(PermissionError):  # a null device of our own
        os.mknod(tmp_path / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    (tmp_path / "link").symlink_to("fifo")
    before = {path.name: path.lstat().st_mode for path in tmp_path.iterdir()}
    assert len(before) >= 3
    for name in before:
        with pytest.raises(
            OSError,
            match=rf"cannot write .*/{name}: it is a device, a FIFO, .*; choose",
        ) as caught:
            atomic_write(tmp_path / name, "new")
        assert error_text(caught.value).startswith("atomic_write: cannot write")
    assert {path.name: path.lstat().st_mode for path in tmp_path.iterdir()} == before


def test_texts_of_system_errors_have_no_numbers_and_a_fix(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="missing") as caught:
        (tmp_path / "missing").read_text(encoding="utf-8")
    text = error_text(caught.value)
    assert text == (
        f"cannot open {tmp_path}/missing: No such file or directory; create its folder first, or "
        "check the path"
    )
    assert error_text(ValueError("as it is")) == "as it is"


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_full_disk_is_named_and_loses_nothing(
    target: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> NoReturn:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, step, fail)
    message = r"result\.json: No space left on device; free some space"
    with pytest.raises(OSError, match=message) as caught:
        atomic_write(target, "new")
    assert caught.value.errno == errno.ENOSPC
    assert_untouched(target)


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, ValueError])
def test_an_interrupted_write_loses_nothing(
    target: Path, interruption: type[BaseException]
) -> None:
    def pieces() -> Iterator[bytes]:
        yield bytes(1 << 16)
        raise interruption

    with pytest.raises(interruption):
        atomic_write(target, pieces())
    assert_untouched(target)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_kill_between_any_two_calls_leaves_the_old_file_or_the_new_one(target: Path) -> None:
    new, left = "new" * 10_000, set[str]()
    for moment in itertools.count(1):
        target.write_text("previous")
        child = os.fork()
        if child == 0:
            _write_and_die(target, new, moment)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        left.add(target.read_text())
        assert left <= {"previous", new}, f"at moment {moment}"
        if code == 0:
            break
        assert code == -signal.SIGKILL
    assert moment > 20
    assert left == {"previous", new}
    remove_unfinished(target.parent)
    assert os.listdir(target.parent) == [target.name]


def _write_and_die(path: Path, data: str, moment: int) -> NoReturn:
    """Write, and kill this process at the given event of the interpreter."""
    events = itertools.count(1)

    def count(frame: object, event: str, argument: object) -> None:
        # Before and after each call of a C function: the others do not reach the disk.
        if event.startswith("c_") and next(events) == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    try:
        sys.setprofile(count)
        atomic_write(path, data)
        os._exit(0)
    finally:
        os._exit(1)


def test_a_folder_that_cannot_hold_the_file_is_named(target: Path) -> None:
    with pytest.raises(NotADirectoryError, match=r"result\.json/x: .*; choose a path whose parent"):
        atomic_write(target / "x", "new")
    with pytest.raises(FileNotFoundError, match=r"missing/x: .*; create its folder first"):
        atomic_write(target.parent / "missing" / "x", "new")
    with pytest.raises(IsADirectoryError, match="choose a file name that is not a folder"):
        atomic_write(target.parent, "new")
    assert_untouched(target)
