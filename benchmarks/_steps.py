"""Our training step on fixed views, whole and in parts, and images to make views from."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from retable.data.source import Source, checksum
from retable.encoders import ResNetRecipe
from retable.methods import Batch, Method, Progress
from retable.random import derive_key, generator
from retable.train.optim import OptimizerRecipe, build_optimizer


def best_precision(device: torch.device) -> str:
    """Return "bf16" where the device computes in it, "float32" elsewhere."""
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "float32"
    known: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return "bf16" if known.get("avx512_bf16") or known.get("amx_bf16") else "float32"


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """Return the context that accelerate gives a method's forward pass."""
    if precision == "bf16":
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext()


def images(count: int, height: int, width: int) -> Tensor:
    """Draw smooth colours, (count, 3, height, width) uint8: photographs' size, nobody's pictures.

    At most 512 differ.
    """
    draws = generator(derive_key(0, "benchmark images"))
    coarse = torch.rand(min(count, 512), 3, height // 8 + 1, width // 8 + 1, generator=draws)
    smooth = nn.functional.interpolate(coarse, size=(height, width), mode="bilinear")
    distinct = smooth.mul_(255).to(torch.uint8)
    return distinct[torch.arange(count) % len(distinct)]


class MemorySource(Source):
    """Images in memory, as a `retable.data.source.Source`."""

    def __init__(self, pool: Tensor) -> None:
        labels = torch.zeros(len(pool), dtype=torch.int64)
        description = {"source": "memory", "checksum": checksum([], labels)}
        super().__init__(labels, ["none"], description)
        self.pool = pool

    def image(self, index: int) -> Tensor:
        """Return one image."""
        return self.pool[index]

    def resident(self, *, decode: bool = False) -> Tensor:
        """Return all images."""
        return self.pool


class SkippedEncoder(nn.Module):
    """An encoder whose features are there already: what is left of a step is the method's part.

    Its weights still are the method's: they are averaged into the key encoder and moved by the
    optimizer, only not used.
    """

    def __init__(self, encoder: nn.Module, batch: int) -> None:
        super().__init__()
        self.skipped = encoder
        self.feature_dim = int(encoder.feature_dim)  # type: ignore[arg-type]
        draws = generator(derive_key(0, "features"))
        self.features = nn.Parameter(torch.randn(batch, self.feature_dim, generator=draws))

    def forward(self, view: Tensor) -> Tensor:
        """Return the features (B, F) of any views (B, 3, H, W)."""
        return self.features


class Step:
    """One optimizer step of a method on fixed views, in the order of `retable.train.pretrain`.

    Args:
        method: in its first state, on the CPU.
        size: side of the views.
        batch: images.
        device: where to train.
        precision: "bf16" or "float32".
    """

    def __init__(
        self, method: Method, size: int, batch: int, device: torch.device, precision: str
    ) -> None:
        method = method.to(device)
        self.method = method.to(memory_format=torch.channels_last)
        self.method.train()
        self.device, self.precision = device, precision
        self.optimizer = build_optimizer(OptimizerRecipe(), self.method)
        self.views = fixed_views(2, size, batch, device)
        # One class: labels are the oracle's business.
        self.labels = torch.zeros(batch, dtype=torch.int64, device=device)
        self.positions = torch.arange(batch, device=device)
        self.unused: dict[nn.Parameter, Tensor] = {}
        if isinstance(method.encoder, SkippedEncoder):
            self.unused = {p: torch.zeros_like(p) for p in method.encoder.skipped.parameters()}
        self.step = 0

    def __call__(self) -> None:
        """Make a step."""
        batch = Batch(
            self.views,
            self.labels,
            self.positions,
            self.positions,
            Progress(self.step, 1_000_000, 1),
            derive_key(0, "step", self.step),
        )
        with autocast(self.device, self.precision):
            output = self.method(batch)
        output.loss.backward()
        for parameter, gradient in self.unused.items():
            parameter.grad = gradient
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.method.after_step(batch.progress)
        self.step += 1


class EncoderAlone:
    """The encoder's work of a MoCo step and nothing else: the bound of every implementation.

    A query is a forward and a backward pass and SGD's update, a key a forward pass.
    """

    def __init__(
        self, recipe: ResNetRecipe, size: int, batch: int, device: torch.device, precision: str
    ) -> None:
        encoder = recipe.build(rng_key=0).to(device)
        self.encoder = encoder.to(memory_format=torch.channels_last)
        self.encoder.train()
        self.device, self.precision = device, precision
        (self.views,) = fixed_views(1, size, batch, device)
        self.optimizer = torch.optim.SGD(self.encoder.parameters(), lr=1e-6, momentum=0.9)

    def query(self) -> None:
        """Train on the views."""
        with autocast(self.device, self.precision):
            features = self.encoder(self.views)
        features.float().square().mean().backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    @torch.no_grad()
    def key(self) -> None:
        """Encode the views."""
        with autocast(self.device, self.precision):
            self.encoder(self.views)


def fixed_views(count: int, size: int, batch: int, device: torch.device) -> tuple[Tensor, ...]:
    """Draw views (batch, 3, size, size), channels last."""
    draws = generator(derive_key(0, "views"))
    drawn = (torch.randn(batch, 3, size, size, generator=draws) for _ in range(count))
    return tuple(view.to(device, memory_format=torch.channels_last) for view in drawn)
