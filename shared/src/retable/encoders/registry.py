"""The classes of encoder recipes that encoder files can name."""

from __future__ import annotations

import sys
from importlib.metadata import entry_points
from typing import TypeVar

from retable.encoders.base import EncoderRecipe
from retable.errors import UserError

ENTRY_POINTS = "retable.encoders"
"""Group of the entry points by which installed packages declare their recipe classes."""

_REGISTERED: dict[str, type[EncoderRecipe]] = {}

Recipe = TypeVar("Recipe", bound=EncoderRecipe)


def register_encoder(recipe_class: type[Recipe]) -> type[Recipe]:
    """Register a recipe class, so that encoder files of its kind can be saved and loaded.

    Files name the class by its ``__name__`` alone and never cause an import of what they name. The
    class is known once the module that registers it has been imported; a package that declares it
    as an entry point of the group ``retable.encoders``, under the same name, only needs to be
    installed. `register_encoder` can decorate the class.

    Raises:
        UserError: it is not a frozen dataclass, or another class has its name.
    """
    kind = recipe_class.__name__
    parameters = getattr(recipe_class, "__dataclass_params__", None)
    if not getattr(parameters, "frozen", False):
        raise UserError(f"`{kind}` must be a frozen dataclass to be registered as an encoder.")
    other = _REGISTERED.get(kind, recipe_class)
    if _origin(other) != _origin(recipe_class):
        raise UserError(
            f"The encoder recipe `{kind}` of {recipe_class.__module__} must have another name, got "
            f"that of {other.__module__}.{other.__qualname__}. Rename the class."
        )
    _REGISTERED[kind] = recipe_class
    return recipe_class


def _origin(recipe_class: type) -> tuple[str | None, str]:
    """Return file and name: a script is both ``__main__`` and, once imported, its own module."""
    module = sys.modules.get(recipe_class.__module__)
    return getattr(module, "__file__", None), recipe_class.__qualname__


def encoder_kind(recipe: EncoderRecipe) -> str:
    """Return the name by which encoder files know the class of a recipe, which is registered."""
    kind = type(recipe).__name__
    if _REGISTERED.get(kind) is not type(recipe):
        raise UserError(
            f"The encoder recipe `{kind}` must be registered, or its files could not be loaded. "
            "Decorate the class with retable.encoders.register_encoder."
        )
    return kind


def recipe_class(kind: str) -> type[EncoderRecipe]:
    """Return the recipe class that encoder files call ``kind``."""
    if kind not in _REGISTERED:
        for entry in entry_points(group=ENTRY_POINTS, name=kind):
            register_encoder(entry.load())
    if kind not in _REGISTERED:
        raise UserError(
            f"The encoder kind `{kind}` must be one of {', '.join(sorted(_REGISTERED))}, unless an "
            "installed package declares it. Install or import the package that defines it."
        )
    return _REGISTERED[kind]
