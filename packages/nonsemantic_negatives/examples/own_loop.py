"""Non-semantic negatives in your own loop: plain PyTorch and the marked lines of this package."""

import copy

import torch
import torch.nn.functional as F
from torch import nn

from nonsemantic_negatives import nonsemantic_logits, patch_negatives

BATCH, QUEUE, DIM, TEMPERATURE, MOMENTUM, STEPS = 64, 1024, 64, 0.2, 0.99, 60


def two_views(batch: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Stand in for your loader."""
    images = F.interpolate(torch.randn(batch, 3, 4, 4), size=16, mode="bilinear")
    return images + 0.3 * torch.randn_like(images), images + 0.3 * torch.randn_like(images)


def main() -> list[float]:
    """Train for a few steps and return the losses."""
    torch.manual_seed(0)
    encoder = nn.Sequential(
        nn.Conv2d(3, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(256, DIM),
    )
    key_encoder = copy.deepcopy(encoder).requires_grad_(False)
    queue = F.normalize(torch.randn(QUEUE, DIM), dim=1)
    optimizer = torch.optim.SGD(encoder.parameters(), lr=0.2, momentum=0.9, weight_decay=1e-4)
    losses = []
    for step in range(STEPS):
        query_view, key_view = two_views(BATCH)
        query = F.normalize(encoder(query_view), dim=1)
        images = patch_negatives(query_view, step, low=3, high=6)  # draws depend on the step
        with torch.no_grad():
            for ours, theirs in zip(key_encoder.parameters(), encoder.parameters(), strict=True):
                ours.lerp_(theirs, 1 - MOMENTUM)
            key = F.normalize(key_encoder(key_view), dim=1)
            negative = F.normalize(key_encoder(images), dim=1)  # a pass of its own
        logits = [(query * key).sum(dim=1, keepdim=True), query @ queue.T]
        logits += [nonsemantic_logits(query, negative[:, None], alpha=1.0)]
        scores = torch.cat(logits, dim=1) / TEMPERATURE
        loss = F.cross_entropy(scores, torch.zeros(BATCH, dtype=torch.int64))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        queue = torch.cat([key, queue[:-BATCH]])
        losses.append(loss.item())
    return losses


if __name__ == "__main__":
    for step, loss in enumerate(main()):
        print(f"step {step:3d}  loss {loss:.3f}")
