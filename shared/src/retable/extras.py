"""Optional dependencies: the extras of the distribution, and one sentence where one is missing."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys

from retable.errors import UserError


def require(module: str, extra: str, purpose: str, distribution: str = "retable") -> None:
    """Raise a UserError unless ``module``, which an extra installs, can be imported.

    ``purpose`` is what needs it, as the subject of a sentence in the singular; the extra is that of
    the ``distribution``.
    """
    if importlib.util.find_spec(module) is None:
        raise UserError(
            f"{purpose} needs {module}, which is not installed. Run "
            f"`{install_command(extra, module, distribution)}` (the extra `{extra}` of "
            f"{distribution})."
        )


def install_command(extra: str, module: str, distribution: str = "retable") -> str:
    """Return a command that adds the packages of an extra to this Python's environment.

    It names the packages, not the extra: retable may come from a checkout, a wheel or an index.
    Where retable is only on the import path, it names the module ``module`` alone. Environments
    made by uv have no pip, so uv installs into them.
    """
    packages = requirements(extra, distribution) or [module]
    if importlib.util.find_spec("pip") is None:
        words = ["uv", "pip", "install", "--python", sys.executable]
    else:
        words = [sys.executable, "-m", "pip", "install"]
    return " ".join([*words, *(f"'{package}'" for package in packages)])


def requirements(extra: str, distribution: str = "retable") -> list[str]:
    """Return what the installed distribution declares for an extra, for instance "tqdm>=4.66"."""
    try:
        declared = importlib.metadata.requires(distribution) or []
    except importlib.metadata.PackageNotFoundError:
        return []
    split = (line.replace("'", '"').partition(";") for line in declared)
    wanted = f'extra=="{extra}"'
    return [name.strip() for name, _, marker in split if wanted in marker.replace(" ", "")]
