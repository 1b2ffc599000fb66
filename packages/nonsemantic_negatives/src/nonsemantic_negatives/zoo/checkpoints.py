"""Published classifiers of torchvision, from the files that torchvision downloads."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import torch
from torch import nn

from retable.errors import UserError
from retable.text import printable
from retable.views import ViewRecipe
from retable.weights.weights_files import read_weights

if TYPE_CHECKING:
    from torchvision.models import WeightsEnum

_AS_PUBLISHED = {
    name: {"transform_input": True, "init_weights": False} for name in ("googlenet", "inception_v3")
}
"""Options that torchvision sets itself where it downloads the weights."""


@dataclass(frozen=True)
class Checkpoint:
    """A published classifier in a file.

    Attributes:
        path: the file, under the name that torchvision downloads it as.
        model: torchvision's name of the network, for instance "resnet50".
        weights: torchvision's name of the weights, for instance "IMAGENET1K_V1".
        view: the view that the weights are published to be tested on.
        published: top-1 accuracy on ImageNet that torchvision states, in percent.
    """

    path: Path
    model: str
    weights: str
    view: ViewRecipe
    published: float

    @property
    def family(self) -> str:
        """The network's name without its size: "resnet" of "resnet50", "vgg" of "vgg11_bn"."""
        name = self.model.removeprefix("wide_")
        return re.split(r"(?=\d)|_", name, maxsplit=1)[0]

    def load(self) -> nn.Module:
        """Return the classifier in evaluation mode.

        Raises:
            UserError: the file is damaged or holds other weights.
        """
        from torchvision.models import get_model

        read_weights(self.path)  # says what is wrong with a file
        # Not its tensors alone: MNASNet reads the version that a state dict carries.
        state = torch.load(self.path, map_location="cpu", weights_only=True)
        if self.model.startswith("densenet"):  # saved when layers of a block were named norm.1
            pattern = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12])")
            state = {pattern.sub(r"\1\2", name): tensor for name, tensor in state.items()}
        options = _AS_PUBLISHED.get(self.model, {})
        model: nn.Module = get_model(self.model, weights=None, **options)
        try:
            model.load_state_dict(state)
        except (RuntimeError, ValueError) as error:
            raise UserError(
                f"{printable(str(self.path))} must hold the weights {self.weights} of "
                f"{self.model}, got others. Download it again."
            ) from error
        return model.eval()


def find_checkpoints(paths: Iterable[Path], weights: str = "IMAGENET1K_V1") -> list[Checkpoint]:
    """Return the published classifiers among files and in folders, sorted by name.

    Of folders, files of other programs and of other ``weights`` are left out.

    Raises:
        UserError: a file has no name of a published classifier, or there is none at all.
    """
    known = _by_file_name()
    found: dict[str, Checkpoint] = {}
    for path in paths:
        if path.is_dir():
            inside = [each for each in path.iterdir() if each.name in known]
            matches = [known[each.name](each) for each in inside]
            chosen = [one for one in matches if one.weights == weights]
        elif path.name in known:
            chosen = [known[path.name](path)]
        else:
            what = "has no name of one" if path.exists() else "does not exist"
            raise UserError(
                f"WEIGHTS must be files of torchvision's classifiers, or folders of them: "
                f"{printable(str(path))} {what}. Keep the name of the download, for instance "
                "resnet50-0676ba61.pth."
            )
        found |= {one.path.name: one for one in chosen}
    if not found:
        raise UserError(
            f"WEIGHTS must hold files of torchvision's classifiers ({weights}), got none. Keep the "
            "names of the downloads, for instance resnet50-0676ba61.pth."
        )
    return sorted(found.values(), key=lambda one: (one.model, one.weights))


@cache
def _by_file_name() -> dict[str, _Published]:
    """Return all published classifiers of ImageNet by the name of their file."""
    from torchvision import models

    names = models.list_models(module=models)
    entries = [(name, each) for name in names for each in models.get_model_weights(name)]
    published = [_Published(name, entry) for name, entry in entries]
    return {PurePosixPath(one.entry.url).name: one for one in published}


@dataclass(frozen=True)
class _Published:
    model: str
    entry: WeightsEnum

    def __call__(self, path: Path) -> Checkpoint:
        """Return it in a file."""
        preset = self.entry.transforms()
        view = ViewRecipe(
            preset.crop_size[0],
            resize=preset.resize_size[0],
            interpolation=preset.interpolation.value,
            mean=tuple(preset.mean),
            std=tuple(preset.std),
        )
        accuracy = self.entry.meta["_metrics"]["ImageNet-1K"]["acc@1"]
        return Checkpoint(path, self.model, self.entry.name, view, accuracy)
