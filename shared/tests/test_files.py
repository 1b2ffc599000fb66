"""Files are whole at every moment: old content or new, whatever interrupts the writer."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from retable.files import (
    append_line,
    remove_abandoned,
    write_atomically,
    write_bytes,
    write_json,
    write_text,
)


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_new_content_replaces_old_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "folder" / "file"
    write_bytes(path, b"old")
    write_bytes(path, b"new")
    assert path.read_bytes() == b"new"
    assert names(path.parent) == ["file"]


def test_failing_block_keeps_old_content_and_removes_its_temporary_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_bytes(path, b"old")
    with pytest.raises(KeyboardInterrupt), write_atomically(path) as file:  # noqa: PT012
        file.write(b"half")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is POSIX")
def test_killed_writer_leaves_old_content(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_bytes(path, b"old")
    program = (
        "import os, signal, sys\n"
        "from retable.files import write_atomically\n"
        "with write_atomically(sys.argv[1]) as file:\n"
        "    file.write(b'half'); file.flush(); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    outcome = subprocess.run([sys.executable, "-c", program, str(path)], check=False)
    assert outcome.returncode == -signal.SIGKILL
    assert path.read_bytes() == b"old"


def test_reader_never_sees_a_part(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_bytes(path, b"old")
    with write_atomically(path) as file:
        file.write(b"half")
        file.flush()
        assert path.read_bytes() == b"old"
        file.write(b" and half")
    assert path.read_bytes() == b"half and half"


@pytest.mark.skipif(os.name != "posix", reason="POSIX permissions")
def test_file_follows_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        write_bytes(tmp_path / "file", b"")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o644


@pytest.mark.skipif(os.name != "posix", reason="symbolic links")
def test_symbolic_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "target")
    write_bytes(tmp_path / "link", b"content")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_bytes() == b"content"


def test_text_keeps_its_newlines_and_letters(tmp_path: Path) -> None:
    write_text(tmp_path / "file", "a\r\nβ\n")
    assert (tmp_path / "file").read_bytes() == "a\r\nβ\n".encode()


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(json_values)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_json_reads_back_to_the_bit(tmp_path: Path, value: object) -> None:
    write_json(tmp_path / "file", value)
    text = (tmp_path / "file").read_text(encoding="utf-8")
    assert text.endswith("\n")
    assert json.loads(text) == value


def test_equal_dictionaries_give_equal_bytes(tmp_path: Path) -> None:
    write_json(tmp_path / "a", {"x": 1, "y": {"p": 2, "q": 3}})
    write_json(tmp_path / "b", {"y": {"q": 3, "p": 2}, "x": 1})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_without_json_are_refused_before_writing(tmp_path: Path, value: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "file", {"loss": value})
    assert names(tmp_path) == []


def test_lines_are_appended(tmp_path: Path) -> None:
    path = tmp_path / "new" / "log"
    append_line(path, "a")
    append_line(path, "β")
    assert path.read_text(encoding="utf-8") == "a\nβ\n"


@given(whole=st.lists(st.text("ab", max_size=3), max_size=3), unfinished=st.integers(0, 10_000))
@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=25
)
def test_unfinished_last_line_is_removed(tmp_path: Path, whole: list[str], unfinished: int) -> None:
    path = tmp_path / "log"
    path.write_text("".join(f"{line}\n" for line in whole) + "x" * unfinished)
    append_line(path, "next")
    assert path.read_text() == "".join(f"{line}\n" for line in [*whole, "next"])


def test_newline_inside_a_line_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must not contain a newline"):
        append_line(tmp_path / "log", "a\nb")


def test_temporary_files_of_killed_writers_are_removed_and_no_others(tmp_path: Path) -> None:
    program = (
        "import os, sys; from retable.files import write_atomically\n"
        "with write_atomically(sys.argv[1]) as file: file.write(b'x'); os.kill(os.getpid(), 9)"
    )
    for place in (tmp_path / "a", tmp_path / "deep" / "b.json"):
        subprocess.run([sys.executable, "-c", program, str(place)], check=False)
    (tmp_path / ".mine.tmp").touch()
    (tmp_path / ".cache-0123456789ab.tmp2").touch()
    assert len(list(tmp_path.rglob("*.tmp"))) == 3
    with write_atomically(tmp_path / "now") as file:
        file.write(b"whole")
        remove_abandoned(tmp_path)
    assert (tmp_path / "now").read_bytes() == b"whole"
    assert names(tmp_path) == [".cache-0123456789ab.tmp2", ".mine.tmp", "deep", "now"]
    assert names(tmp_path / "deep") == []


def test_a_folder_that_is_missing_has_no_abandoned_files(tmp_path: Path) -> None:
    remove_abandoned(tmp_path / "nowhere")
    assert names(tmp_path) == []
