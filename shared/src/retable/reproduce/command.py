"""The command of a table script: arguments, runs, table, verdicts, exit status."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType

from retable import distributed, exit_status
from retable.code import dotted_name, script_name
from retable.data.sources import open_source
from retable.errors import UserError
from retable.evaluate.data import without_validation
from retable.outputs import check_output_folder
from retable.processes import exit_with_launcher
from retable.reproduce import arguments, checks, execute, launch, recording, results
from retable.reproduce.dry_run import render_prices, render_recipes
from retable.reproduce.plan import TableSelection, plan_runs, resolve_rows
from retable.reproduce.pricing import Rate, measured_rate, published_rate
from retable.reproduce.run import Run, kept_seeds, read_runs
from retable.reproduce.table import Table, TableRow
from retable.settings import fingerprint
from retable.tables import render_terminal, supports_colour
from retable.tables.comparison import Comparison
from retable.train.options import RunOptions
from retable.train.recipe import PretrainRecipe

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
        selection = replace(selection, rows=recording.recorded_rows(table))
    results.load_references(table, selection.scale)
    if options.extend:
        recording.check_extension(table, selection.seeds)
    rows = resolve_rows(table, selection)
    runs = plan_runs(rows, selection.seeds)
    processes = launch.wanted_processes(options.processes)
    checks.check_recipes(runs, processes, options)
    if not options.dry_run:
        check_output_folder(options.folder, "--runs")
    if options.dry_run:
        images = _training_images(table, runs[0].recipe)
        parts = processes * options.accumulate
        if options.full:
            print(render_recipes(table, runs, selection.scale, images, parts))
            return 0
        rate = _rate(runs[0], selection, options)
        width = shutil.get_terminal_size((100, 24)).columns
        print(
            render_prices(
                table,
                runs,
                selection.scale,
                images,
                parts,
                rate=rate,
                devices=processes,
                width=width,
            )
        )
        return 0
    if processes > 1 and not launch.is_launched():
        return launch.relaunch(script, words, processes)
    exit_with_launcher()
    checks.check_data(runs, options)
    if options.resume and not any(run.directory(options.folder).path.exists() for run in runs):
        raise UserError(
            f"--resume: {options.folder} holds no run of these rows and seeds. Leave out --resume "
            "to begin, or name the right folder with --runs."
        )
    execute.execute(runs, options)
    if distributed.process_index() != 0:
        return 0
    variant = variant_of(table, script, selection)
    if not variant and not options.record:
        rows, runs = complete_runs(table, selection, rows, runs, options)
    finished = read_runs(runs, options.folder, table.derive)
    outcomes = results.gather_outcomes(table, rows, finished, selection.scale)
    notes = kept_notes(runs, options) + list_notes(table, selection)

    def compare() -> Comparison:
        return results.compare_table(table, rows, outcomes, selection, finished, notes=notes)

    if options.extend:
        recording.check_agreement(table, compare())
    if options.record:
        recording.record(table, runs, finished, outcomes, extend=options.extend)
    comparison = compare()
    folder = options.folder / "tables" / f"{table.name}-{selection.scale}{variant}"
    results.write_report(table, comparison, finished, folder)
    shown = render_terminal(comparison, colour=supports_colour(sys.stdout), full=options.full)
    print(shown, end="")
    more = "" if options.full else " Tolerances, intervals and sources: --full, or table.md there."
    print(f"\nWritten to {folder}.{more}")
    failed = results.failed_unexpectedly(table, finished, comparison)
    return 1 if failed else comparison.exit_status


def kept_notes(runs: Sequence[Run], options: RunOptions) -> list[str]:
    """Return a sentence about the runs that are shown although they are of other code or data."""
    return [
        f"{count} of {len(runs)} runs were made {'by' if part == 'code' else 'of'} other {part} "
        f"than the present, kept by --accept-other {part}; --fresh trains them again."
        for part in options.accepted
        if (count := sum(checks.is_of_other(part, run, options) for run in runs))
    ]


def list_notes(table: Table, selection: TableSelection) -> list[str]:
    """Return a sentence where a table's labels are not those of the published lists."""
    lists = table.label_lists
    given = lists is not None and lists.option in dict(selection.other_data)
    return [lists.note] if lists is not None and not given and selection.scale == "paper" else []


def _rate(run: Run, selection: TableSelection, options: RunOptions) -> Rate | None:
    """Return the rate of the GPU that is named, or at a small scale that of this machine."""
    if options.gpu:
        precision = selection.precision or "float32"
        rate = published_rate(options.gpu, precision)
        if rate is None:
            raise UserError(
                f"`--gpu {options.gpu}` must have a published rate in {precision}. Add "
                "--mixed-precision fp16, or leave it out."
            )
        return rate
    return None if selection.scale == "paper" else measured_rate(run.recipe)


def _training_images(table: Table, recipe: PretrainRecipe) -> int:
    """Count the data set's images; without ``--data``, take the number that the table states."""
    if not recipe.data:
        return table.images
    source = open_source(recipe.data, "train", subset=recipe.subset)
    return len(without_validation(source, recipe.validation_images))


def variant_of(table: Table, script: Path, selection: TableSelection) -> str:
    """Return what a report's name needs beside the table's, so that no other table is overwritten.

    It is empty for the table as its script states it, whichever rows and seeds are selected.
    """
    other = "" if script.resolve() == table.script.resolve() else f"-{script.stem}"
    changes = (selection.overrides, selection.precision, selection.max_steps)
    return other + (f"-{fingerprint(changes)[:8]}" if any(changes) else "")


def complete_runs(
    table: Table,
    selection: TableSelection,
    rows: Mapping[str, TableRow],
    runs: Sequence[Run],
    options: RunOptions,
) -> tuple[dict[str, TableRow], list[Run]]:
    """Return selected rows and runs together with all others of the table that are complete."""
    every = resolve_rows(table, replace(selection, rows=()))
    seeds = sorted({*selection.seeds, *kept_seeds(options.folder)})
    chosen = {run.name for run in runs}
    others = [
        run
        for run in plan_runs(every, seeds)
        if run.name not in chosen and execute.is_complete(run, options)
    ]
    names = {name for run in others for name in run.rows}
    shown = {name: row for name, row in every.items() if name in rows or name in names}
    return shown, [*runs, *others]


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
    name = dotted_name(script)
    module = _execute_file(script) if name is None else importlib.import_module(name)
    table = getattr(module, "TABLE", None)
    if not isinstance(table, Table):
        raise UserError(
            f"`TABLE` of {script} must be a retable.reproduce.Table, got {type(table).__name__}."
        )
    return table


def _execute_file(script: Path) -> ModuleType:
    """Execute a file as a module whose name is unique to its path."""
    name = script_name(script)
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

    Another folder's module of the same name, left by an earlier import, is not reused. The modules
    of this folder are kept under names unique to their paths.
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
        for name, module in _pop_modules(names).items():
            _rename(module, name, folder)
        sys.modules.update(hidden)


def _rename(module: ModuleType, name: str, folder: Path) -> None:
    """Keep a module of a folder, and its classes, under a name that is unique to its path."""
    top, dot, rest = name.partition(".")
    file = folder / f"{top}.py"
    new = script_name(file if file.exists() else folder / top) + dot + rest
    sys.modules[new] = module
    module.__name__ = new
    for value in vars(module).values():
        if isinstance(value, type) and value.__module__ == name:
            value.__module__ = new


def _pop_modules(names: set[str]) -> dict[str, ModuleType]:
    """Remove modules, and those below them, from ``sys.modules``."""
    found = [name for name in sys.modules if name.partition(".")[0] in names]
    return {name: sys.modules.pop(name) for name in found}
