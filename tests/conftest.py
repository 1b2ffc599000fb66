"""The command line of the table scripts, for tests that cross packages."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPTS = Path(__file__).parents[1] / "reproductions"


def pytest_configure() -> None:
    """Let Ctrl-C reach what tests start: a background job of a shell ignores it, as do its own."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


class TableCommand:
    """Runs table scripts in processes of their own, with results in a folder of the test."""

    def start(
        self,
        table: str,
        runs: Path,
        *options: str,
        mark: str = "",
        package: str = "mochi",
        **how: Any,
    ) -> subprocess.Popen[str]:
        """Begin a command; ``mark`` is found in the environment of all its processes.

        ``how`` are further arguments of `subprocess.Popen`.
        """
        script = SCRIPTS / package / f"{table}.py"
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "RETABLE_TEST_MARK": mark}
        return subprocess.Popen(
            [sys.executable, script, "--runs", runs, "--quiet", *options],
            env=environment,
            text=True,
            **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **how},
        )

    def processes(self, mark: str) -> list[int]:
        """Find the live processes that were started with a mark, however they are related."""
        wanted = f"RETABLE_TEST_MARK={mark}".encode()
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # it has ended, or is not ours
                if wanted in (folder / "environ").read_bytes().split(b"\0"):
                    found.append(int(folder.name))
        return found

    def run(
        self, table: str, runs: Path, *options: str, package: str = "mochi"
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, which must be status 0."""
        process = self.start(table, runs, *options, package=package)
        output, errors = process.communicate()
        assert process.returncode == 0, f"status {process.returncode}\n{output}\n{errors}"
        return subprocess.CompletedProcess(process.args, 0, output, errors)


@pytest.fixture(scope="session")
def reproduce() -> TableCommand:
    return TableCommand()
