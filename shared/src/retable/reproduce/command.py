"""The whole job of a table script: arguments, runs, table, verdict, exit status."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from retable import distributed
from retable.data.sources import open_source
from retable.errors import UserError
from retable.evaluate.data import without_validation
from retable.processes import exit_with_launcher
from retable.reproduce import arguments, checks, execute, launch, results
from retable.reproduce.arguments import Command
from retable.reproduce.dry_run import render_plan
from retable.reproduce.finished import made_by_other_code
from retable.reproduce.outcomes import failed_unexpectedly, gather_figures, gather_outcomes
from retable.reproduce.plan import Run, plan_runs, resolve_rows
from retable.reproduce.setting import directory_of
from retable.reproduce.table import Table, TableRow


def main(table: Table, words: Sequence[str] | None = None) -> int:
    """Reproduce a table and return the exit status.

    0: nothing missed; 1: a cell missed or a training failed; 2: wrong usage; 130: interrupted.
    """
    # What was started, not the table's own script: another script may have extended the table.
    script = Path(sys.argv[0]) if words is None else table.script
    words = sys.argv[1:] if words is None else list(words)
    return guarded(lambda: _main(table, script, words))


def guarded(command: Callable[[], int]) -> int:
    """Turn a user's mistake into one sentence and status 2, Ctrl-C into a word and 130."""
    try:
        return command()
    except UserError as error:
        if launch.is_child():
            launch.tell_parent(str(error))
        elif launch.rank() == 0:
            print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        if not launch.is_child() and launch.rank() == 0:
            print("\ninterrupted: the same command continues from here.", file=sys.stderr)
        return 130


def _main(table: Table, script: Path, words: Sequence[str]) -> int:
    command = arguments.parse(table, words)
    request = command.request
    if command.record:
        request = replace(request, rows=results.recorded_rows(table))
    results.load_references(table, request.scale)
    rows = resolve_rows(table, request)
    runs = plan_runs(rows, command.request.seeds)
    processes = launch.wanted_processes(command.processes)
    checks.check_recipes(runs, processes, command.setting)
    if command.dry_run:
        images = _training_images(table, runs)
        parts = processes * command.setting.execution.accumulate
        print(render_plan(table, runs, command.request.scale, images, parts))
        return 0
    if processes > 1 and not launch.is_launched():
        return launch.relaunch(script, words, processes)
    exit_with_launcher()
    checks.check_data(runs, command.setting)
    _prepare_folder(runs, command)
    execute.execute(runs, command.setting)
    if distributed.process_index() != 0:
        return 0
    return _conclude(table, rows, runs, command)


def _training_images(table: Table, runs: list[Run]) -> int:
    """Count the data set's images; without ``--data``, take the number that the table states."""
    recipe = runs[0].recipe
    if not recipe.data:
        return table.images
    source = open_source(recipe.data, "train", subset=recipe.subset)
    return len(without_validation(source, recipe.validation_images))


def _prepare_folder(runs: list[Run], command: Command) -> None:
    if distributed.process_index() != 0:
        return
    if command.fresh:
        execute.forget(runs, command.setting)
    checks.check_folder(runs, command.setting)
    known = any(directory_of(run, command.setting).path.exists() for run in runs)
    if command.resume and not known:
        raise UserError(
            f"--resume: {command.setting.folder} holds no run of these rows and seeds: leave out "
            "--resume to begin, or name the right folder with --runs."
        )


def _conclude(
    table: Table,
    rows: dict[str, TableRow],
    runs: list[Run],
    command: Command,
) -> int:
    """Compare, record if asked, print and store the table."""
    setting, scale = command.setting, command.request.scale
    figures = gather_figures(runs, setting, table.derive)
    outcomes = gather_outcomes(table, rows, runs, figures, scale, setting)
    if command.record:
        results.record(table, runs, figures, outcomes, command)
    comparison = results.compare_table(table, rows, outcomes, command)
    folder = results.report_folder(table, command)
    histories = results.gather_histories(runs, setting)
    results.write_report(table, comparison, figures, histories, folder)
    print(results.for_terminal(comparison))
    print(f"\nWritten to {folder}.")
    if old := [run.name for run in runs if made_by_other_code(run, setting)]:
        print(
            f"{len(old)} of {len(runs)} runs were trained by other versions of the code: "
            "start with --fresh to train them anew."
        )
    failed = failed_unexpectedly(table, outcomes, comparison)
    return 1 if failed else comparison.exit_status


def load_table(script: Path) -> Table:
    """Load the table that a script states, as its ``TABLE``.

    Raises:
        UserError: the file is no table script.
    """
    import importlib.util

    name = f"reproduction_{script.parent.name}_{script.stem}"
    spec = importlib.util.spec_from_file_location(name, script)
    if not script.exists() or spec is None or spec.loader is None:
        raise UserError(f"{script} does not exist: name a script under reproductions/.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses look for the names in their annotations
    sys.path.insert(0, str(script.parent))  # as if it were run: its neighbours can be imported
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(script.parent))
    table = getattr(module, "TABLE", None)
    if not isinstance(table, Table):
        raise UserError(f"{script} states no TABLE: expected a retable.reproduce.Table.")
    return table
