"""The launcher, driven with scripts that need no torch: they start at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from retable.errors import UserError
from retable.exit_status import UNEXPECTED_SENTENCE
from retable.reproduce import command, launch
from retable.variables import rank

Script = Callable[[str], Path]


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Script:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)

    def write(body: str) -> Path:
        path = tmp_path / "script.py"
        path.write_text(f"import os, sys, time\nrank = int(os.environ['RANK'])\n{body}\n")
        return path

    return write


def ended(pid: int, patience: float = 20.0) -> bool:
    """Say whether a process is gone, or only waits for its parent to read its status."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.05)
    return False


def test_one_process_without_gpus_and_one_for_each_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert launch.wanted_processes(None) == 1
    assert launch.wanted_processes(3) == 3
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert launch.wanted_processes(None) == 4
    assert launch.wanted_processes(2) == 2
    with pytest.raises(UserError, match="must be at most the 4 GPUs of this machine"):
        launch.wanted_processes(5)


def test_another_launchers_processes_are_counted_not_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert not launch.is_launched()
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "29500")
    assert launch.is_launched()
    assert not launch.is_child()
    assert launch.wanted_processes(None) == 2
    assert rank() == 1


def test_each_process_gets_its_number_the_arguments_and_one_meeting_place(
    script: Script, tmp_path: Path
) -> None:
    path = script(
        "names = ['RANK', 'LOCAL_RANK', 'WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT']\n"
        f"open({str(tmp_path)!r} + f'/{{rank}}', 'w').write("
        "' '.join([os.environ[n] for n in names] + sys.argv[1:]))"
    )
    assert launch.relaunch(path, ["--seeds", "1"], 3) == 0
    said = [(tmp_path / str(rank)).read_text().split() for rank in range(3)]
    assert [words[:3] for words in said] == [[str(rank), str(rank), "3"] for rank in range(3)]
    assert len({tuple(words[3:5]) for words in said}) == 1
    assert all(words[5:] == ["--seeds", "1"] for words in said)


def test_the_status_of_a_table_with_a_miss_is_that_of_the_command(script: Script) -> None:
    assert launch.relaunch(script("sys.exit(1 if rank == 0 else 0)"), [], 2) == 1


def test_a_process_that_fails_ends_those_that_would_wait_for_it(script: Script) -> None:
    start = time.monotonic()
    assert launch.relaunch(script("sys.exit(3) if rank == 1 else time.sleep(300)"), [], 2) == 3
    assert time.monotonic() - start < 100


def test_a_mistake_that_one_or_all_processes_find_is_told_once(
    script: Script, capfd: pytest.CaptureFixture[str]
) -> None:
    body = (
        "open(os.path.join(os.environ['RETABLE_MISTAKES'], str(rank)), 'w').write('Too few.')\n"
        "sys.exit(2)"
    )
    path = script(body)
    assert command.guarded(lambda: launch.relaunch(path, [], 2)) == 2
    assert capfd.readouterr().err == "error: Too few.\n"


def test_a_child_leaves_its_mistake_to_the_parent_and_says_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RETABLE_MISTAKES", str(tmp_path))
    monkeypatch.setenv("RANK", "1")

    def fail() -> int:
        raise UserError("Too many.")

    assert command.guarded(fail) == 2
    assert [path.read_text() for path in tmp_path.iterdir()] == ["Too many."]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_processes_end_with_the_command_however_it_ends(
    how: signal.Signals, script: Script, tmp_path: Path
) -> None:
    path = script(
        "from retable.processes import exit_with_launcher\n"
        "exit_with_launcher()\n"
        f"open({str(tmp_path)!r} + f'/{{rank}}', 'w').write(str(os.getpid()))\n"
        "time.sleep(300)"
    )
    body = (
        "import sys; from pathlib import Path; from retable.reproduce import command, launch\n"
        f"sys.exit(command.guarded(lambda: launch.relaunch(Path({str(path)!r}), [], 2)))"
    )
    owner = subprocess.Popen(
        [sys.executable, "-c", body], stderr=subprocess.PIPE, text=True, process_group=0
    )
    files = [tmp_path / "0", tmp_path / "1"]
    deadline = time.monotonic() + 120
    while not all(file.exists() and file.read_text() for file in files):
        assert time.monotonic() < deadline
        assert owner.poll() is None
        time.sleep(0.05)
    os.killpg(owner.pid, how)
    _, said = owner.communicate(timeout=60)
    assert all(ended(int(file.read_text())) for file in files)
    if how is signal.SIGINT:
        assert owner.returncode == 130
        assert said.strip() == "interrupted: the same command continues from here."


def test_a_killed_process_ends_the_command_with_a_sentence_and_no_miss(
    script: Script, capfd: pytest.CaptureFixture[str]
) -> None:
    path = script("import signal\nos.kill(os.getpid(), 9) if rank == 1 else time.sleep(300)")
    assert command.guarded(lambda: launch.relaunch(path, [], 2)) == 3
    said = capfd.readouterr().err
    assert said.startswith("error: A process of this run was ended by SIGKILL")
    assert said.count("\n") == 1


def test_a_stopped_process_does_not_keep_a_failed_command_waiting(
    script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "PATIENCE", 0.5)
    body = (
        "import signal\n"
        "if rank == 1: os.kill(os.getpid(), signal.SIGSTOP)\n"
        "time.sleep(1); sys.exit(3)"
    )
    start = time.monotonic()
    assert launch.relaunch(script(body), [], 2) == 3
    assert time.monotonic() - start < 60


def test_an_unexpected_error_of_a_process_is_no_miss(
    script: Script, capfd: pytest.CaptureFixture[str]
) -> None:
    body = (
        "from retable.reproduce.command import guarded\n"
        "sys.exit(guarded(lambda: 1 // 0 if rank == 1 else time.sleep(300)))"
    )
    path = script(body)
    assert command.guarded(lambda: launch.relaunch(path, [], 2)) == 70
    said = capfd.readouterr().err
    assert said.count("ZeroDivisionError") == 1
    assert said.endswith(f"error: {UNEXPECTED_SENTENCE}\n")


def test_processes_wait_for_each_other_as_long_as_the_loop_says(script: Script) -> None:
    # A timeout that equals NCCL's default was lost on the way, and gloo waited for half an hour.
    path = script(
        "import torch\n"
        "import torch.distributed as dist\n"
        "from retable.train.pretrain import PATIENCE, make_accelerator\n"
        "make_accelerator('float32')\n"
        "group = dist.distributed_c10d._get_default_group()\n"
        "assert group._get_backend(torch.device('cpu')).options._timeout == PATIENCE\n"
    )
    assert launch.relaunch(path, [], 2) == 0
