"""The peer: MoCo v2 as a user of lightly builds it from lightly's own parts.

Its best configuration on a CPU and on a GPU alike is bf16 autocast with channels_last, and on a CPU
no worker process: one would take its core from the training step.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn


def installed() -> bool:
    """Whether lightly can be imported."""
    try:
        import lightly.loss  # noqa: F401
    except ImportError:
        return False
    return True


def version() -> str | None:
    """Return lightly's version, None where it is not installed."""
    if not installed():
        return None
    import lightly

    return str(lightly.__version__)


def views_of(size: int) -> Callable[[Any], Any]:
    """Return lightly's MoCo v2 transform: a PIL image to its two views."""
    from lightly.transforms.moco_transform import MoCoV2Transform

    return MoCoV2Transform(input_size=size)


def pil_images(images: Tensor) -> list[Any]:
    """Turn (n, 3, H, W) uint8 into what lightly's transforms take."""
    from PIL import Image

    return [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]


class LightlyMoCo(nn.Module):
    """Query and key network of torchvision's ResNet with lightly's head, loss and updates.

    Args:
        name: torchvision's name of the encoder.
        small_stem: 3x3 stride 1 and no pooling first, as for 32 px.
        queue: keys in the memory bank.
        device: where to train.
        precision: "bf16" or "float32".
    """

    def __init__(
        self, name: str, small_stem: bool, queue: int, device: torch.device, precision: str
    ) -> None:
        import torchvision
        from lightly.loss import NTXentLoss
        from lightly.models.modules import MoCoProjectionHead
        from lightly.models.utils import deactivate_requires_grad

        super().__init__()
        encoder = getattr(torchvision.models, name)()
        width = encoder.fc.in_features
        encoder.fc = nn.Identity()
        if small_stem:
            encoder.conv1 = nn.Conv2d(3, 64, kernel_size=3, padding=1, bias=False)
            encoder.maxpool = nn.Identity()
        self.query = nn.Sequential(encoder, MoCoProjectionHead(width, width, 128))
        self.key = copy.deepcopy(self.query)
        deactivate_requires_grad(self.key)
        self.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.device, self.precision = device, precision
        bank = NTXentLoss(temperature=0.2, memory_bank_size=(queue, 128))
        self.criterion = bank.to(device)
        self.optimizer = torch.optim.SGD(
            self.query.parameters(), lr=0.03, momentum=0.9, weight_decay=1e-4
        )

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context of the encoders."""
        if self.precision == "bf16":
            return torch.autocast(self.device.type, dtype=torch.bfloat16)
        return nullcontext()

    def step(self, query_view: Tensor, key_view: Tensor) -> Tensor:
        """Make one optimizer step and return the loss."""
        from lightly.models.utils import batch_shuffle, batch_unshuffle, update_momentum

        update_momentum(self.query, self.key, m=0.999)
        query_view, key_view = (
            view.to(self.device, non_blocking=True).contiguous(memory_format=torch.channels_last)
            for view in (query_view, key_view)
        )
        with self.autocast():
            query = self.query(query_view)
            with torch.no_grad():
                shuffled, order = batch_shuffle(key_view)
                key = batch_unshuffle(self.key(shuffled), order)
        loss: Tensor = self.criterion(query.float(), key.float())
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return loss.detach()


class _Views(torch.utils.data.Dataset[Any]):
    """Views of images that are taken in turn, as often as asked for."""

    def __init__(self, images: list[Any], size: int, length: int) -> None:
        self.images, self.length, self.transform = images, length, views_of(size)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Any:
        return self.transform(self.images[index % len(self.images)])


def batches(
    images: Tensor, size: int, batch: int, steps: int, workers: int, device: torch.device
) -> Iterator[list[Tensor]]:
    """Yield ``steps`` batches of two views, as lightly's examples load them."""
    return iter(
        torch.utils.data.DataLoader(
            _Views(pil_images(images), size, steps * batch),
            batch_size=batch,
            shuffle=True,
            drop_last=True,
            num_workers=workers,
            pin_memory=device.type == "cuda",
        )
    )
