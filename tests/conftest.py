"""The command line of the table scripts, for tests that cross packages."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[1] / "reproductions"


def pytest_configure() -> None:
    """Let Ctrl-C reach what tests start: a background job of a shell ignores it, as do its own."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


class TableCommand:
    """Runs table scripts in processes of their own, with results in a folder of the test."""

    def start(
        self, table: str, runs: Path, *options: str, mark: str = "", package: str = "mochi"
    ) -> subprocess.Popen[str]:
        """Begin a command; ``mark`` is found in the environment of all its processes."""
        script = SCRIPTS / package / f"{table}.py"
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "RETABLE_TEST_MARK": mark}
        return subprocess.Popen(
            [sys.executable, script, "--runs", runs, "--quiet", *options],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

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
