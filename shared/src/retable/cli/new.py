"""``retable new``: write a commented template of a table, which runs as it is."""

from __future__ import annotations

import argparse
import re
from importlib.resources import files as resources
from pathlib import Path

from retable.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command's arguments."""
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND")
    table = kinds.add_parser("table", help="a script with two rows, and its reference file")
    table.add_argument(
        "name", metavar="PACKAGE/TABLE", help="a folder of reproductions/ and a new name in it"
    )


def run(options: argparse.Namespace) -> int:
    """Write a table's script and reference file into the checkout in the current folder."""
    package, table = _names(options.name)
    folder = Path("reproductions") / package
    if not Path("reproductions/baselines").is_dir():
        raise UserError(
            "`retable new` must run in a checkout, but the current folder has no "
            "reproductions/baselines. Change to the folder that has the noxfile."
        )
    paths = {suffix: folder / f"{table}{suffix}" for suffix in (".py", ".toml")}
    if taken := [path for path in paths.values() if path.exists()]:
        raise UserError(f"`PACKAGE/TABLE` must be new, but {taken[0]} exists. Choose another name.")
    folder.mkdir(exist_ok=True)
    if not (initial := folder / "__init__.py").exists():
        initial.write_text(f'"""Tables of {package}."""\n', encoding="utf-8")
        print(initial)
    for suffix, path in paths.items():
        template = resources("retable").joinpath("templates", f"table{suffix}.txt")
        text = template.read_text(encoding="utf-8")
        text = text.replace("@PACKAGE@", package).replace("@TABLE@", table)
        path.write_text(text, encoding="utf-8")
        print(path)
    session = f"reproduce-{package}-{table}"
    print(f"Try it: nox -s {session} -- --scale smoke")
    return 0


def _names(name: str) -> tuple[str, str]:
    """Return the package and the table; both are names of Python modules."""
    match = re.fullmatch(r"([a-z][a-z0-9_]*)/([a-z][a-z0-9_]*)", name)
    if not match:
        raise UserError(
            f"`PACKAGE/TABLE` must be two names of lower-case letters, digits and _, got {name!r}. "
            "Use for instance mochi/table9."
        )
    return match[1], match[2]
