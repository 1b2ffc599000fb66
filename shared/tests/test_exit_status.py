"""Every end of a command has a sentence and a status, and only a miss has status 1."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from retable import cli, exit_status
from retable.errors import MachineError, UserError
from retable.exit_status import run_guarded
from retable.outputs import check_output_file, check_output_folder
from retable.reproduce import command
from retable.text import one_line, printable


def ended(error: BaseException) -> tuple[int, list[str]]:
    said: list[str] = []

    def fail() -> int:
        raise error

    return run_guarded(fail, said.append, tell=said.append), said


@pytest.mark.parametrize(
    ("error", "status", "sentence"),
    [
        (UserError("`k` must be 1."), 2, "`k` must be 1."),
        (MachineError("A worker was killed."), 3, "A worker was killed."),
        (OSError(errno.ENOSPC, "No space left on device", "runs/a"), 3,
         "runs/a cannot be used (No space left on device). Free some space and start"),
        (PermissionError(errno.EACCES, "Permission denied", "x"), 3, "x cannot be used (P"),
        (OSError(errno.EROFS, "Read-only file system", "x"), 3, "Name a place that is not"),
        (IsADirectoryError(errno.EISDIR, "Is a directory", b"x"), 3, "Name a file instead."),
        (OSError(errno.EMFILE, "Too many open files"), 3, "A file or stream cannot be used (Too m"),
        (OSError("broken data stream"), 3, "cannot be used (broken data stream). Correct this"),
        (MemoryError(), 3, "Memory ran out. Use a smaller batch"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to"), 3, "The GPU ran out of memory."),
        (RuntimeError("[enforce fail at alloc.cpp] can't allocate memory"), 3, "Memory ran"),
        (RuntimeError("[/gloo/transport/tcp/pair.cc:1] Connection closed by peer"), 3,
         "Another process of this run has ended or no longer answers"),
        (KeyboardInterrupt(), 130, "interrupted."),
        (exit_status.Terminated(), 143, "terminated."),
    ],
)  # fmt: skip
def test_an_error_has_one_sentence_and_a_status(
    error: BaseException, status: int, sentence: str
) -> None:
    found, said = ended(error)
    assert found == status
    assert len(said) == 1
    assert "\n" not in said[0]
    assert sentence in said[0]


def test_what_torch_hides_of_the_operating_system_is_found() -> None:
    failed = RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0")
    failed.__context__ = OSError(errno.ENOSPC, "No space left on device", "step.pt")
    assert ended(failed)[0] == 3
    assert "step.pt" in ended(failed)[1][0]


@pytest.mark.parametrize("error", [KeyError("x"), RuntimeError("shapes"), AssertionError()])
def test_an_error_that_nobody_expects_keeps_its_traceback_and_is_no_miss(
    error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    status, said = ended(error)
    assert status == 70
    assert said == [exit_status.UNEXPECTED_SENTENCE]
    assert "Traceback" in capsys.readouterr().err


def test_an_error_behind_one_that_nobody_expects_does_not_explain_it() -> None:
    mistake = TypeError("a bug while an error was handled")
    mistake.__context__ = OSError(errno.ENOSPC, "No space left on device")
    assert ended(mistake)[0] == 70


def run(
    body: str, *, before: Callable[[], None] | None = None, **options: object
) -> subprocess.CompletedProcess[str]:
    """Run a command whose body is given; it needs no torch."""
    program = (
        "import sys\nfrom retable.exit_status import run_guarded\n"
        f"def command():\n    {body}\n    return 0\n"
        "sys.exit(run_guarded(command, lambda s: print('error:', s, file=sys.stderr)))"
    )
    words = [sys.executable, "-c", program]
    merged = {"text": True, "stderr": subprocess.PIPE, "stdout": subprocess.PIPE} | options
    return subprocess.run(words, preexec_fn=before, **merged)  # type: ignore[call-overload,no-any-return]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_an_output_that_lacks_characters_shows_their_escapes(encoding: str) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    found = run(
        "print('81.2 \\u00b1 0.3 \\u2265 \\U0001f600 \\udc80')", env=environment, encoding="latin-1"
    )
    assert found.returncode == 0, found.stderr
    assert "81.2" in found.stdout
    assert "\\u2265" in found.stdout


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("lines", [1, 100_000])
def test_a_full_output_is_a_sentence(lines: int) -> None:
    with open("/dev/full", "w") as full:
        found = run(f"for _ in range({lines}): print('a line')", stdout=full)
    assert found.returncode == 3
    assert "No space left on device" in found.stderr
    assert found.stderr.count("\n") == 1


@pytest.mark.parametrize("lines", [1, 100_000])
def test_a_reader_that_left_is_no_error(lines: int) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    found = run(f"for _ in range({lines}): print('a line')", stdout=writing)
    os.close(writing)
    assert (found.returncode, found.stderr) == (141, "")


def test_a_closed_output_is_refused_before_any_work() -> None:
    found = run("open('/dev/null/x')", before=lambda: os.close(1), stdout=None)
    assert found.returncode == 3
    assert "Standard output is closed" in found.stderr


def test_a_terminated_command_tidies_up_and_says_so() -> None:
    body = "import os, signal; os.kill(os.getpid(), signal.SIGTERM)"
    found = run(f"try:\n        {body}\n    finally: print('tidied', flush=True)")
    assert (found.returncode, found.stdout) == (143, "tidied\n")
    assert found.stderr == "terminated.\n"


def test_a_second_signal_ends_a_command_that_does_not_stop() -> None:
    body = (
        "import os, signal, time\n    try: os.kill(os.getpid(), signal.SIGTERM)\n"
        "    finally: os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)"
    )
    assert run(body).returncode == -signal.SIGTERM


def limit_files() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))


@pytest.mark.parametrize(
    "write",
    ["write_text('big.txt', 'x' * 1000)", "append_line('big.txt', 'x' * 1000)"],
)
def test_a_file_that_cannot_grow_is_named(write: str, tmp_path: Path) -> None:
    found = run(f"from retable import files; files.{write}", before=limit_files, cwd=tmp_path)
    assert found.returncode == 3, found.stderr
    assert "big.txt cannot be used (File too large)" in found.stderr


def test_a_script_whose_own_lines_fail_does_not_end_like_a_miss(tmp_path: Path) -> None:
    script = tmp_path / "table.py"
    for body, status, said in (
        ("from retable.evaluate.linear import LinearProbe\nLinearProbe(lr=-1)", 2, "error: `lr`"),
        ("1 / 0", 70, "ZeroDivisionError"),
    ):
        script.write_text(f"from retable.reproduce import main\n{body}\n")
        found = subprocess.run([sys.executable, script], capture_output=True, text=True)
        assert found.returncode == status
        assert said in found.stderr


@pytest.mark.parametrize("option", ["--directory", "--features", "--out"])
def test_an_output_is_tried_and_nothing_left(option: str, tmp_path: Path) -> None:
    check_output_folder(tmp_path / "new" / "deep", option)
    check_output_folder(tmp_path, option)
    check_output_file(tmp_path / "new" / "file.png", option)
    assert list(tmp_path.iterdir()) == []


def test_an_output_of_another_kind_is_refused(tmp_path: Path) -> None:
    occupied = tmp_path / "occupied"
    occupied.touch()
    with pytest.raises(UserError, match=r"`--runs` must be a folder, got .*/a, where .* is a file"):
        check_output_folder(occupied / "a", "--runs")
    with pytest.raises(UserError, match=r"`--runs` must be a folder, got .*occupied, where"):
        check_output_folder(occupied, "--runs")
    with pytest.raises(UserError, match=r"`OUT` must be a file in a folder, got .*x.pth, where"):
        check_output_file(occupied / "x.pth", "OUT")
    with pytest.raises(UserError, match=r"`OUT` must be a file, got the folder"):
        check_output_file(tmp_path, "OUT")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match=r"`OUT` must be a file, got the device or pipe"):
        check_output_file(tmp_path / "pipe", "OUT")
    with pytest.raises(UserError, match=r"`OUT` must be a path"):
        check_output_file(Path("a\0b"), "OUT")


@pytest.mark.parametrize("name", ["x" * 300, "/proc/nowhere/x"])
def test_an_output_that_the_system_refuses_is_an_error_of_the_machine(name: str) -> None:
    with pytest.raises(OSError, match=r"long|No such|denied|permitted"):
        check_output_folder(Path(name), "--runs")


def folder_commands(folder: Path) -> list[list[str]]:
    model = "untrained:small_resnet8"
    return [
        ["export", model, "--layout", "timm", str(folder / "folder.pth")],
        ["export", model, "--layout", "timm", str(folder / "occupied" / "out.pth")],
        ["evaluate", model, "--directory", str(folder / "occupied")],
        ["evaluate", model, "--features", str(folder / "occupied" / "deep")],
        ["plot", "scores", str(folder), "--out", str(folder / "a.png" / "b.png")],
    ]  # fmt: skip


@pytest.mark.parametrize("number", range(5))
def test_commands_try_their_outputs_before_any_work(
    number: int, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "folder.pth").mkdir()
    (tmp_path / "occupied").touch()
    (tmp_path / "a.png").touch()
    monkeypatch.setattr("retable.weights.load_encoder", lambda name: pytest.fail("worked first"))
    assert cli.main(folder_commands(tmp_path)[number]) == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert "must be a f" in said


def test_the_guard_of_table_scripts_is_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> int:
        raise OSError(errno.EROFS, "Read-only file system", "runs")

    assert command.guarded(fail) == 3
    assert capsys.readouterr().err.startswith("error: runs cannot be used (Read-only file system)")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ± text", "plain ± text"),
        ("two\nlines", "two\\nlines"),
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("\x9b2J", "\\x9b2J"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("\r overwritten", "\\r overwritten"),
        ("caf\udce9", "caf\\xe9"),
    ],
)
def test_text_of_others_cannot_steer_a_terminal(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_a_foreign_message_is_one_line_of_bounded_length() -> None:
    assert one_line("a\n  b\x1b") == "a b\\x1b"
    assert len(one_line("x" * 5000)) == 300
