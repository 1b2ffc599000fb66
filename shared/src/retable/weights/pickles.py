"""Check a pickle before PyTorch reads it: what it asks for, and that reading it ends.

``torch.load(weights_only=True)`` runs no foreign code, but a few hundred bytes can make it hash
tuples in tuples for ever, or reserve memory that no file fills. A simulation of the pickle, which
builds nothing, finds both beforehand.
"""

from __future__ import annotations

import _compat_pickle
import pickletools
import re
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import IO, Any

_MOST = 50_000_000
"""Most values that one tuple may reach, and most values that are hashed in all."""

_MOST_INSTRUCTIONS = 5_000_000
"""Most instructions of a pickle, which take about a minute; large checkpoints have 100,000."""

_DEEPEST = 200
"""Most tuples in each other: hashing them recurses without a limit of its own."""

_TORCH_MAGIC = 0x1950A86A20F9469CFC6C

# Types that training programs store beside the tensors. None of them is ever called: a placeholder
# takes their arguments and does nothing.
_INERT = re.compile(
    r"(argparse|collections|copyreg|datetime|decimal|enum|fractions|pathlib|types|typing|uuid"
    r"|addict|easydict|hydra|ml_collections|numpy|omegaconf|yacs|zoneinfo)\..+"
    r"|builtins\.(bool|bytes|dict|float|frozenset|int|list|object|range|slice|str|tuple|type)"
    r"|(pytorch_lightning|lightning|lightning_fabric)\..*AttributeDict"
)

_ENDLESS = "its values are nested so deeply that reading would not end"
_READ_BY_TORCH = ("collections.Counter", "collections.OrderedDict")


class UnreadablePickleError(ValueError):
    """A pickle that cannot be read; the message is a clause with the reason.

    Attributes:
        remedy: what the user can do, a sentence without its full stop.
    """

    def __init__(self, reason: str, remedy: str = "Copy or download it again") -> None:
        super().__init__(reason)
        self.remedy = remedy


class Placeholder:
    """Stands for an object beside the tensors; keeps the values that it was given."""

    content: object = None

    def __new__(cls, *_: object, **__: object) -> Placeholder:
        """Ignore the arguments."""
        return super().__new__(cls)

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        self.content = state


class _MappingPlaceholder:
    """Stands for a subclass of dict: PyTorch fills only plain ones."""

    def __new__(cls, *_: object, **__: object) -> Any:
        return OrderedDict()


class _ListPlaceholder:
    """Stands for a subclass of list: PyTorch fills only plain ones."""

    def __new__(cls, *_: object, **__: object) -> Any:
        return []


@dataclass
class Contents:
    """What a pickle asks for.

    Attributes:
        filled: names of the globals, each with how its objects are filled ("items", "values").
    """

    filled: dict[str, set[str]] = field(default_factory=dict)

    def placeholders(self) -> dict[str, Callable[..., Any]]:
        """Return a placeholder for each inert type by name."""
        return {
            name: _MappingPlaceholder
            if "items" in how
            else _ListPlaceholder
            if "values" in how
            else Placeholder
            for name, how in self.filled.items()
            if _INERT.fullmatch(name) and name not in _READ_BY_TORCH
        }


@dataclass
class _Value:
    """A value that the pickle would build.

    Attributes:
        size: values inside it, counted as often as they are reached.
        depth: tuples in tuples.
        origin: name of the global that it is, or that made it.
        largest: largest integer inside.
    """

    size: int = 1
    depth: int = 0
    origin: str = ""
    largest: int = 0


def check_pickle(stream: IO[bytes], available: int) -> Contents:
    """Simulate the pickle at the stream's position, and leave the stream behind its end.

    ``available`` are the bytes of the whole file: no honest size in it is larger.

    Raises:
        UnreadablePickleError: it is damaged, of another program, or would not end.
    """
    return _Simulation(available).run(stream)


def check_old_format(stream: IO[bytes], available: int) -> Contents:
    """Check the pickles of ``torch.save``'s format without a zip archive, see `check_pickle`."""
    if _first_integer(stream) != _TORCH_MAGIC:
        raise UnreadablePickleError(
            "it is a Python pickle that torch.save did not write",
            "Save its tensors with torch.save where the file comes from",
        )
    contents = Contents()
    for _ in range(4):  # protocol, system, the content, names of the storages
        for name, how in check_pickle(stream, available).filled.items():
            contents.filled.setdefault(name, set()).update(how)
    return contents


def _current_name(module: str, name: str) -> str:
    """Return a global's name in Python 3: PyTorch writes the names of Python 2."""
    renamed = _compat_pickle.NAME_MAPPING.get((module, name))
    if renamed is None:
        renamed = _compat_pickle.IMPORT_MAPPING.get(module, module), name
    return ".".join(renamed)


def _first_integer(stream: IO[bytes]) -> object:
    try:
        numbers = [argument for op, argument, _ in pickletools.genops(stream) if op.name == "LONG1"]
    # Damaged pickles raise many kinds of exceptions.
    except Exception as error:
        raise UnreadablePickleError(f"{error}") from error
    return numbers[0] if len(numbers) == 1 else None


class _Simulation:
    def __init__(self, available: int) -> None:
        self.available = available
        self.contents = Contents()
        self.stack: list[_Value] = []
        self.marks: list[list[_Value]] = []
        self.memo: dict[int, _Value] = {}
        self.hashed = 0

    def run(self, stream: IO[bytes]) -> Contents:
        try:
            for count, (op, argument, _) in enumerate(pickletools.genops(stream)):
                if count == _MOST_INSTRUCTIONS:
                    raise UnreadablePickleError(f"its pickle has more than {count:,} instructions")
                self._step(op.name, argument)
        except UnreadablePickleError:
            raise
        except (IndexError, KeyError) as error:
            raise UnreadablePickleError("its pickle is damaged") from error
        # pickletools raises many kinds of exceptions.
        except Exception as error:
            raise UnreadablePickleError(f"its pickle is damaged: {error}") from error
        return self.contents

    def _step(self, name: str, argument: Any) -> None:
        if name in _CONSTANTS:
            largest = argument if isinstance(argument, int) else 0
            self.stack.append(_Value(largest=largest))
        elif name in ("BINGET", "LONG_BINGET"):
            self.stack.append(self.memo[argument])
        elif name in ("BINPUT", "LONG_BINPUT"):
            self.memo[argument] = self.stack[-1]
        elif name == "GLOBAL":
            origin = _current_name(*argument.split(" ", 1))
            self.contents.filled.setdefault(origin, set())
            self.stack.append(_Value(origin=origin))
        elif name == "MARK":
            self.marks.append(self.stack)
            self.stack = []
        elif name in _TUPLES:
            self._gather(self._pop(_TUPLES[name]))
        elif name in ("REDUCE", "NEWOBJ"):
            self._call()
        elif name == "BINPERSID":
            self._storage()
        elif name in ("SETITEM", "SETITEMS", "APPEND", "APPENDS"):
            self._fill(name)
        elif name == "BUILD":
            self.stack.pop()
        elif name not in ("PROTO", "STOP"):
            raise UnreadablePickleError(
                f"it has the pickle instruction {name}, which PyTorch's safe loader does not read",
                "Save it again by torch.save with its default protocol",
            )

    def _pop(self, count: int | None) -> list[_Value]:
        if count is None:
            items, self.stack = self.stack, self.marks.pop()
            return items
        if count > len(self.stack):
            raise IndexError
        items = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return items

    def _gather(self, items: list[_Value], origin: str = "") -> None:
        size = 1 + sum(item.size for item in items)
        depth = 1 + max((item.depth for item in items), default=0)
        if size > _MOST or depth > _DEEPEST:
            raise UnreadablePickleError(_ENDLESS)
        largest = max((item.largest for item in items), default=0)
        self.stack.append(_Value(size, depth, origin, largest))

    def _call(self) -> None:
        function, arguments = self._pop(2)
        name = function.origin
        harmless = name.startswith("torch._utils._rebuild") or _INERT.fullmatch(name)
        if not harmless and arguments.largest > max(self.available, 65536):
            raise UnreadablePickleError(f"it asks for {arguments.largest:,} values of {name}")
        if name in ("builtins.set", "collections.OrderedDict", "collections.Counter"):
            self._hash(arguments.size)
        self._gather([arguments], name)

    def _storage(self) -> None:
        (storage,) = self._pop(1)
        if storage.largest > self.available:
            raise UnreadablePickleError(
                f"a tensor claims {storage.largest:,} values, more than the file has bytes"
            )
        self._gather([storage])

    def _fill(self, name: str) -> None:
        items = self._pop(None if name.endswith("S") else 1 if name == "APPEND" else 2)
        target = self.stack[-1]
        values = name.startswith("APPEND")
        if target.origin:
            self.contents.filled.setdefault(target.origin, set()).add(
                "values" if values else "items"
            )
        if values:
            target.size += sum(item.size for item in items)
        else:
            self._hash(sum(item.size for item in items[::2]))

    def _hash(self, count: int) -> None:
        self.hashed += count
        if self.hashed > _MOST:
            raise UnreadablePickleError(_ENDLESS)


_TUPLES = {"TUPLE": None, "EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_CONSTANTS = {
    *("NONE", "NEWFALSE", "NEWTRUE", "EMPTY_LIST", "EMPTY_DICT", "EMPTY_SET", "BININT", "BININT1"),
    *("BININT2", "BINFLOAT", "BINUNICODE", "SHORT_BINSTRING", "LONG1"),
}
