"""ReLICv2's loss in your own loop: plain PyTorch and the marked lines of this package."""

import copy

import torch
import torch.nn.functional as F
from torch import nn

from relicv2 import draw_candidates, pair_losses

BATCH, DIM, LARGE, SMALL, MOMENTUM, STEPS = 64, 32, 2, 2, 0.97, 100


def some_views(batch: int) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Stand in for your loader: large views of 16 pixels, small ones of 8."""
    images = F.interpolate(torch.randn(batch, 3, 4, 4), size=16, mode="bilinear")
    large = [images + 0.3 * torch.randn_like(images) for _ in range(LARGE)]
    return large, [view[:, :, 4:12, 4:12] for view in large[:SMALL]]


def main() -> list[float]:
    """Train for a few steps and return the losses."""
    torch.manual_seed(0)
    encoder = nn.Sequential(
        nn.Conv2d(3, 32, 3, stride=2, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, stride=2, padding=1),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(256, DIM),
    )
    predictor = nn.Sequential(nn.Linear(DIM, DIM), nn.ReLU(), nn.Linear(DIM, DIM))
    target_encoder = copy.deepcopy(encoder).requires_grad_(False)
    parameters = [*encoder.parameters(), *predictor.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=0.05, momentum=0.9, weight_decay=1e-4)
    positions = torch.arange(BATCH)  # of this process's images in the batch of all processes
    losses = []
    for step in range(STEPS):
        large, small = some_views(BATCH)
        # Small views first: the last views weigh most in the running statistics.
        of_small = [predictor(encoder(view)) for view in small]
        online = torch.stack([predictor(encoder(view)) for view in large] + of_small)
        with torch.no_grad():
            targets = torch.stack([target_encoder(view) for view in large])
        candidates = draw_candidates(step, positions, BATCH)  # each image and 10 others
        loss = pair_losses(online, targets, candidates, rows="normalise").total()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        for ours, theirs in zip(target_encoder.parameters(), encoder.parameters(), strict=True):
            ours.lerp_(theirs.detach(), 1 - MOMENTUM)
        losses.append(loss.item())
    return losses


if __name__ == "__main__":
    for step, loss in enumerate(main()):
        print(f"step {step:3d}  loss {loss:.3f}")
