"""Walks through folders of images: which files are taken in, and what is left out and counted."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from retable.data.skipped import Skipped
from retable.errors import UserError
from retable.text import printable

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".gif")

# Folders of operating systems, file servers and archives, in lower case.
_SYSTEM_FOLDERS = {
    "__macosx", "@eadir", "#recycle", "$recycle.bin", "lost+found", "__pycache__",
    "system volume information",
}  # fmt: skip
_THUMBNAILS = {"thumbnails", "thumbnail", "thumbs", "thumb", "_thumbs", "_thumbnails"}


@dataclass
class Walk:
    """Finds image files below folders, and counts in ``skipped`` what it does not take in.

    A link to a folder or a file outside is followed. A link to what the walk takes in anyway, to a
    folder above it or to another split's folder is left out: it would bring images in twice, under
    several labels, or test images into training.

    ``closed`` are the folders, as real paths, into which no link may lead.
    """

    closed: set[str]
    skipped: Skipped = field(default_factory=Skipped)
    _above: set[str] = field(default_factory=set)
    _real: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Note the folders above the closed ones."""
        for folder in self.closed:
            self._above |= _parents(folder)

    def images(self, directory: str, name: str) -> Iterator[str]:
        """Yield the image files below a folder in a fixed order, as paths that begin with name."""
        waiting = [(directory, name)]
        while waiting:
            folder, below = waiting.pop()
            folders = []
            entries = scan(folder)
            if not entries:
                self.skipped.add("empty folders", below)
            for entry in entries:
                path = f"{below}{os.sep}{entry.name}" if below else entry.name
                if reason := self._reason(entry):
                    self.skipped.add(reason, path)
                elif is_folder(entry):
                    folders.append((entry.path, path))
                else:
                    yield path
            waiting += reversed(folders)

    def close(self, folder: str) -> bool:
        """Close a real folder to later links; return False if it overlaps with a closed one."""
        if folder in self._above or not _parents(folder).isdisjoint(self.closed):
            return False
        self.closed.add(folder)
        self._above |= _parents(folder)
        return True

    def _reason(self, entry: os.DirEntry[str]) -> str | None:
        """Return why an entry below a class is left out, or None."""
        name = entry.name.lower()
        if name.startswith("."):
            return "hidden files and folders"
        if is_folder(entry):
            if name in _SYSTEM_FOLDERS | _THUMBNAILS:
                return "folders of thumbnails or of the system"
            if entry.is_symlink() and not self.close(os.path.realpath(entry.path)):
                return "links back into the data set"
            return None
        if not name.endswith(EXTENSIONS):
            return f"files that are not {', '.join(EXTENSIONS)}"
        if entry.is_symlink() and self._leads_inside(entry.path):
            return "links back into the data set"
        return None

    def _leads_inside(self, link: str) -> bool:
        """Return whether the file that a link leads to lies in a closed folder."""
        folder, name = os.path.split(os.path.join(os.path.dirname(link), os.readlink(link)))
        if folder not in self._real:  # links of a class mostly lead to one folder
            self._real[folder] = os.path.realpath(folder)
        target = os.path.join(self._real[folder], name)
        if os.path.islink(target):
            target = os.path.realpath(target)
        return not _parents(target).isdisjoint(self.closed)


def _parents(folder: str) -> set[str]:
    """Return a folder and all those that it is in."""
    return {folder, *map(str, Path(folder).parents)}


def scan(folder: str) -> list[os.DirEntry[str]]:
    """Return the entries of a folder: files by name, then folders by name."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: (is_folder(entry), entry.name))
    except OSError as error:
        raise UserError(
            f"The folder {printable(str(folder))} cannot be read ({error.strerror}): change its "
            "permissions, or remove it."
        ) from error


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is a folder or a link to one."""
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _is_class(entry: os.DirEntry[str]) -> bool:
    hidden = entry.name.startswith(".") or entry.name.lower() in _SYSTEM_FOLDERS
    return is_folder(entry) and not hidden


def class_folders(split: Path) -> list[str]:
    """Return the names of the class folders of a split, or of the splits of a data set, sorted."""
    return [entry.name for entry in scan(str(split)) if _is_class(entry)]


def open_walk(split: Path, others: Iterable[Path], wanted: Iterable[str] | None = None) -> Walk:
    """Return the walk through the classes of a split; entries that are no classes are counted.

    ``others`` are the folders of other splits, ``wanted`` the classes to read (None: all).

    Raises:
        UserError: a class folder is a link to nothing, to another class or to another split.
    """
    walk = Walk({os.path.realpath(folder) for folder in (split, *others)})
    chosen = None if wanted is None else set(wanted)
    for entry in scan(str(split)):
        if _is_class(entry):
            if entry.is_symlink() and (chosen is None or entry.name in chosen):
                _check_class_link(walk, entry)
        elif entry.is_symlink() and not os.path.exists(entry.path):
            if not entry.name.startswith(".") and (chosen is None or entry.name in chosen):
                raise UserError(
                    f"The class folder {printable(entry.path)} is a link to "
                    f"{printable(os.readlink(entry.path))}, which does not exist: restore the "
                    "folder or remove the link."
                )
        else:
            walk.skipped.add("entries beside the class folders", entry.name)
    return walk


def _check_class_link(walk: Walk, entry: os.DirEntry[str]) -> None:
    target = os.path.realpath(entry.path)
    if not walk.close(target):
        raise UserError(
            f"The class folder {printable(entry.path)} is a link to {printable(target)}, which "
            "holds images of another class or split: remove the link, or copy the images that "
            "belong to the class."
        )


def images_of(folder: Path) -> tuple[list[str], Walk]:
    """Return the paths of the images below ``folder``, at any depth, and what the walk left out.

    Raises:
        UserError: there is no such folder, which a command calls SOURCE, or no image in it.
    """
    if not folder.is_dir():
        raise UserError(f"`SOURCE` must be a folder of images, got {printable(str(folder))}.")
    walk = Walk({os.path.realpath(folder)})
    names = list(walk.images(str(folder), ""))
    if not names:
        raise UserError(f"The folder {printable(str(folder))} has no image. Name another one.")
    return names, walk
