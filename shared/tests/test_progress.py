"""Progress on a terminal and in a log file."""

from __future__ import annotations

import io
import re
import sys
from typing import Any

import pytest

from retable import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return what moves the clock of the lines forward."""
    now = [1000.0]
    monkeypatch.setattr("retable.progress.time.monotonic", lambda: now[0])

    def pass_seconds(seconds: float) -> None:
        now[0] += seconds

    return pass_seconds


def test_a_log_gets_a_line_a_minute_with_what_is_left(
    capsys: pytest.CaptureFixture[str], clock: Any
) -> None:
    with progress.bar(200, "steps", "moco_v2 seed 1", initial=20) as bar:
        bar.mininterval = 0.0
        for _ in range(40):
            bar.update()
            bar.set_postfix(loss="1.0")
        clock(61)
        bar.update()
        bar.update()
        clock(59)
        bar.update()
        clock(2)
        bar.set_description("moco_v2 seed 1 epoch 2/3")
    written = capsys.readouterr().err
    lines = written.splitlines()
    assert len(lines) == 2
    assert re.fullmatch(
        r"moco_v2 seed 1: 61 of 200 steps \(30 %\), about \d\d:\d\d left", lines[0]
    ), lines
    assert lines[1].startswith("moco_v2 seed 1 epoch 2/3: 63 of 200 steps (32 %), about ")
    assert "\r" not in written


def test_a_short_command_writes_nothing_into_a_log(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.bar(3, "steps", "a run") as bar:
        bar.update(3)
    assert capsys.readouterr().err == ""


def test_messages_stand_between_the_lines(capsys: pytest.CaptureFixture[str], clock: Any) -> None:
    with progress.bar(10, "images") as bar:
        bar.mininterval = 0.0
        bar.update()
        progress.write("a message")
        clock(61)
        bar.update()
    first, second = capsys.readouterr().err.splitlines()
    assert first == "a message"
    assert second.startswith("2 of 10 images (20 %)")


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with progress.bar(10, "steps", "a run") as bar:
        bar.update(5)
        bar.refresh()
    assert "a run:  50%" in terminal.getvalue()


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_what_is_not_to_be_shown_is_silent(
    stream: type[io.StringIO], monkeypatch: pytest.MonkeyPatch, clock: Any
) -> None:
    written = stream()
    monkeypatch.setattr(sys, "stderr", written)
    with progress.bar(10, "steps", "a run", shown=False) as bar:
        bar.update(5)
        clock(100)
        bar.update()
    assert written.getvalue() == ""
