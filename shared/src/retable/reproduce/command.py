"""The command of a table script: arguments, runs, table, verdicts, exit status."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType

from retable import distributed, exit_status
from retable.data.sources import open_source
from retable.errors import UserError
from retable.evaluate.data import without_validation
from retable.outputs import check_output_folder
from retable.processes import exit_with_launcher
from retable.reproduce import arguments, execute, launch, results
from retable.reproduce.plan import plan_runs, render_plan, resolve_rows
from retable.reproduce.run import Run, read_runs
from retable.reproduce.table import Table
from retable.tables import render_terminal, supports_colour
from retable.train.options import RunOptions
from retable.train.recipe import PretrainRecipe
from retable.train.runs import code_digest

exit_status.guard_script()  # every table script imports this module


def main(table: Table, words: Sequence[str] | None = None) -> int:
    """Reproduce a table and return the exit status (`retable.exit_status`).

    0: nothing missed; 1: a cell missed or a training failed; any other: an error.
    """
    # The script that was started: it may extend the table of another script.
    script = Path(sys.argv[0]) if words is None else table.script
    words = sys.argv[1:] if words is None else list(words)
    return guarded(lambda: _main(table, script, words))


def guarded(command: Callable[[], int]) -> int:
    """Run a command under the handler of `retable.exit_status`, also as a process of a launch."""
    return exit_status.run_guarded(
        command,
        launch.report,
        interrupted="\ninterrupted: the same command continues from here.",
        terminated="\nterminated: the same command continues from here.",
        tell=launch.tell,
    )


def _main(table: Table, script: Path, words: Sequence[str]) -> int:
    selection, options = arguments.parse(table, words)
    if options.record:
        selection = replace(selection, rows=results.recorded_rows(table))
    results.load_references(table, selection.scale)
    rows = resolve_rows(table, selection)
    runs = plan_runs(rows, selection.seeds)
    processes = launch.wanted_processes(options.processes)
    execute.check_recipes(runs, processes, options)
    if not options.dry_run:
        check_output_folder(options.folder, "--runs")
    if options.dry_run:
        images = _training_images(table, runs[0].recipe)
        print(render_plan(table, runs, selection.scale, images, processes * options.accumulate))
        return 0
    if processes > 1 and not launch.is_launched():
        return launch.relaunch(script, words, processes)
    exit_with_launcher()
    execute.check_data(runs, options)
    if distributed.process_index() == 0:
        _prepare_folder(runs, options)
    execute.execute(runs, options)
    if distributed.process_index() != 0:
        return 0
    finished = read_runs(runs, options.folder, table.derive)
    outcomes = results.gather_outcomes(table, rows, finished, selection.scale)
    if options.record:
        results.record(table, runs, finished, outcomes)
    comparison = results.compare_table(table, rows, outcomes, selection, finished)
    folder = options.folder / "tables" / f"{table.name}-{selection.scale}"
    results.write_report(table, comparison, finished, folder)
    print(render_terminal(comparison, colour=supports_colour(sys.stdout)))
    print(f"\nWritten to {folder}.")
    codes = [(finished[run.rows[0]][run.seed].environment.get("code"), run.recipe) for run in runs]
    if old := sum(bool(code) and code != code_digest(r.method, r.encoder) for code, r in codes):
        print(
            f"{old} of {len(runs)} runs were trained by other versions of the code. "
            "Use --fresh to train them again."
        )
    failed = results.failed_unexpectedly(table, finished, comparison)
    return 1 if failed else comparison.exit_status


def _training_images(table: Table, recipe: PretrainRecipe) -> int:
    """Count the data set's images; without ``--data``, take the number that the table states."""
    if not recipe.data:
        return table.images
    source = open_source(recipe.data, "train", subset=recipe.subset)
    return len(without_validation(source, recipe.validation_images))


def _prepare_folder(runs: list[Run], options: RunOptions) -> None:
    """Apply ``--fresh`` and ``--resume``, and check that run directories hold these recipes."""
    directories = [run.directory(options.folder) for run in runs]
    for directory in directories if options.fresh else ():
        if directory.path.exists():
            with directory.locked():
                shutil.rmtree(directory.path)
    for run, directory in zip(runs, directories, strict=True):
        directory.verify_recipe(run.identity)
    if options.resume and not any(directory.path.exists() for directory in directories):
        raise UserError(
            f"--resume: {options.folder} holds no run of these rows and seeds. Leave out --resume "
            "to begin, or name the right folder with --runs."
        )


def load_table(script: Path) -> Table:
    """Load the ``TABLE`` of a script.

    A script of an importable package, such as ``reproductions/mochi/table1.py``, is imported by
    its dotted name. Any other file is executed each time under a name of its own; it can import
    its neighbours by their bare names while it is loaded, and they are forgotten afterwards.

    Raises:
        UserError: the file does not exist or has no table.
    """
    script = script.resolve()
    if not script.is_file():
        raise UserError(f"{script} does not exist: name a script under reproductions/.")
    name = _dotted_name(script)
    module = _execute_file(script) if name is None else importlib.import_module(name)
    table = getattr(module, "TABLE", None)
    if not isinstance(table, Table):
        raise UserError(
            f"`TABLE` of {script} must be a retable.reproduce.Table, got {type(table).__name__}."
        )
    return table


def _dotted_name(script: Path) -> str | None:
    """Return the name under which ``import`` finds a file of a package, None for other files."""
    top = script.parent
    while (top.parent / "__init__.py").exists():
        top = top.parent
    if not (top / "__init__.py").exists():
        return None
    found = importlib.util.find_spec(top.name)
    if found is None or found.origin is None or Path(found.origin).resolve().parent != top:
        return None  # a copy of the package, or one that is not importable
    return ".".join((top.name, *script.relative_to(top).with_suffix("").parts))


def _execute_file(script: Path) -> ModuleType:
    """Execute a file as a module whose name is unique to its path."""
    digest = hashlib.sha256(str(script).encode()).hexdigest()[:16]
    name = f"{script.stem}_{digest}"
    spec = importlib.util.spec_from_file_location(name, script)
    if spec is None or spec.loader is None:
        raise UserError(f"{script} is not a Python file: name a table script.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look up the names in annotations there
    with _neighbours_importable(script.parent):
        spec.loader.exec_module(module)
    return module


@contextlib.contextmanager
def _neighbours_importable(folder: Path) -> Iterator[None]:
    """Let bare names mean the modules of a folder; restore what they meant before.

    Another folder's module of the same name, left by an earlier import, is not reused.
    """
    names = {path.stem for path in folder.glob("*.py")}
    names |= {path.parent.name for path in folder.glob("*/__init__.py")}
    hidden = _pop_modules(names)
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        _pop_modules(names)
        sys.modules.update(hidden)


def _pop_modules(names: set[str]) -> dict[str, ModuleType]:
    """Remove modules, and those below them, from ``sys.modules``."""
    found = [name for name in sys.modules if name.partition(".")[0] in names]
    return {name: sys.modules.pop(name) for name in found}
