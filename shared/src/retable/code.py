"""Identity of code: names of classes, and digests of the files that define them.

A run depends on the classes of its recipe and on the code that carries them out. Classes are named
by their module, or their script, and their qualified name; a digest shows whether that code has
changed.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib.util
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

CORE = "retable"
_SHOWING = ("cli", "plots", "tables")
"""Folders of the core that only show results."""
_FOREIGN = {*sys.stdlib_module_names, "torch", "torchvision", "numpy"}
"""Modules whose version is recorded instead of their code."""


def classes_of(value: object) -> set[type]:
    """Return the classes of a recipe and of everything that its fields hold."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        parts: Iterable[Any] = [getattr(value, field.name) for field in dataclasses.fields(value)]
    elif isinstance(value, Mapping):
        parts = value.values()
    elif isinstance(value, list | tuple | set | frozenset):
        parts = value
    else:
        parts = ()
    return {type(value)}.union(*map(classes_of, parts))


def class_name(kind: type) -> str:
    """Return the module, or the script, and the qualified name of a class.

    >>> class_name(Path)
    'pathlib.Path'
    """
    return f"{module_name(kind.__module__)}.{kind.__qualname__}"


def class_names(*values: object) -> list[str]:
    """Return the sorted names of the classes that recipes consist of, without builtin types."""
    found = set().union(*map(classes_of, values))
    return sorted(class_name(kind) for kind in found if kind.__module__ != "builtins")


def module_name(name: str) -> str:
    """Return the name that identifies a module whether it was imported or started as a script.

    A module of a package has its dotted name. Any other is named by its file, since two scripts, or
    modules beside them, may share a name.
    """
    module = sys.modules.get(name)
    if module is None or name.partition(".")[0] in _FOREIGN:
        return name
    if name in ("__main__", "__mp_main__") and module.__spec__ is not None:
        return module.__spec__.name  # started by ``python -m``
    if _is_plain(module):
        file = Path(str(module.__file__))
        return dotted_name(file) or script_name(file)
    return name


def script_name(file: Path) -> str:
    """Return a module name that is unique to the path of a file."""
    file = file.resolve()
    return f"{file.stem}_{hashlib.sha256(os.fsencode(file)).hexdigest()[:16]}"


def dotted_name(file: Path) -> str | None:
    """Return the name under which ``import`` finds a file of a package, None for other files."""
    file = file.resolve()
    top = file.parent
    while (top.parent / "__init__.py").exists():
        top = top.parent
    if not (top / "__init__.py").exists():
        return None
    found = importlib.util.find_spec(top.name)
    if found is None or found.origin is None or Path(found.origin).resolve().parent != top:
        return None  # a copy of the package, or one that is not importable
    return ".".join((top.name, *file.relative_to(top).with_suffix("").parts))


def code_digest(classes: Iterable[type] = (), modules: Iterable[str] = (CORE,)) -> str:
    """Hash the source of modules, and of the classes with those that they inherit from.

    Of a class in a package, the whole package counts; of one in a script or in a module beside it,
    that file and all such files that it imports. Evaluated once in a process for each file: files
    may change during a long run.

    Args:
        classes: for instance `classes_of` a recipe.
        modules: dotted names of modules, or of packages, which count as a whole. Of the core those
            folders are left out that only show results.

    Returns:
        16 hexadecimal digits.
    """
    names = set(modules)
    plain: dict[str, Path] = {}
    for origin in {base.__module__ for kind in classes for base in kind.__mro__}:
        module = sys.modules.get(origin)
        top = module_name(origin).partition(".")[0]
        if module is None or top in _FOREIGN or top == CORE:
            continue
        if _is_plain(module) and dotted_name(Path(str(module.__file__))) is None:
            plain |= _plain_files(module)
        else:
            names.add(top)
    digest = hashlib.sha256()
    for name in sorted(names):
        digest.update(f"{name} {_digest_of_module(name)}\n".encode())
    for name, path in sorted(plain.items()):
        digest.update(f"{name} {_digest_of_file(path)}\n".encode())
    return digest.hexdigest()[:16]


def _is_plain(module: ModuleType) -> bool:
    """Say whether a module is a script, or stands beside one, and not in a package."""
    has_file = getattr(module, "__file__", None) is not None
    return has_file and not module.__package__ and not hasattr(module, "__path__")


def _plain_files(module: ModuleType) -> dict[str, Path]:
    """Return the file of a plain module and those of the plain modules that it imports."""
    found: dict[str, Path] = {}
    unread = [module]
    while unread:
        module = unread.pop()
        file = Path(str(module.__file__))
        name = script_name(file)
        if name not in found:
            found[name] = file
            unread += _plain_imports(module)
    return found


def _plain_imports(module: ModuleType) -> Iterator[ModuleType]:
    for value in list(vars(module).values()):
        name = value.__name__ if isinstance(value, ModuleType) else _origin_of(value)
        other = sys.modules.get(name)
        if other and name.partition(".")[0] not in _FOREIGN and _is_plain(other):
            yield other


def _origin_of(value: object) -> str:
    name = getattr(value, "__module__", None)
    return name if isinstance(name, str) else ""


@functools.cache
def _digest_of_module(name: str) -> str:
    """Hash a module, or all that is in a package."""
    spec = importlib.util.find_spec(name)
    if spec is None:
        return ""  # typed in by hand
    digest = hashlib.sha256()
    folders = [Path(folder) for folder in spec.submodule_search_locations or ()]
    files = [(folder, file) for folder in folders for file in sorted(folder.rglob("*.py"))]
    if not folders and spec.origin:
        files = [(Path(spec.origin).parent, Path(spec.origin))]
    for folder, file in files:
        place = file.relative_to(folder)
        if name != CORE or place.parts[0] not in _SHOWING:
            digest.update(str(place).encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


@functools.cache
def _digest_of_file(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
