"""The four pretext tasks in a loop of your own: plain PyTorch, and what `pretext` has is ours."""

import sys

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import revisiting_ssl as pretext

BATCH, VIEWS, DIM, STEPS, ROWS = 32, 4, 32, 80, torch.arange(32)
GRID, ORDERS = pretext.PatchGrid(cell=8, patch=6), pretext.permutation_set(9, 12)
OUTPUTS = {"rotation": (1, 4), "exemplar": (1, DIM), "jigsaw": (9, 12), "location": (2, 8)}


def loss_of(task: str, images: Tensor, encoder: nn.Module, head: nn.Module, step: int) -> Tensor:
    """Return a task's loss; the head sees one feature, nine joined ones (jigsaw) or two."""
    if task == "rotation":
        scores = head(encoder(pretext.rotations(images)))
        return F.cross_entropy(scores, pretext.rotation_labels(BATCH))
    if task == "exemplar":
        views = images.repeat_interleave(VIEWS, dim=0)
        embeddings = F.normalize(head(encoder(views + torch.randn_like(views))), dim=1)
        return pretext.semi_hard_triplet_loss(embeddings, ROWS.repeat_interleave(VIEWS))
    patches = pretext.cut_patches(images, GRID, 2 * step, ROWS)  # draws: of key and row
    vectors = encoder(patches.flatten(0, 1)).view(BATCH, 9, DIM)
    if task == "jigsaw":
        classes = pretext.draw_permutations(2 * step + 1, ROWS, 4, len(ORDERS))
        scores = head(pretext.join(vectors, ORDERS[classes]))
    else:
        classes = torch.arange(8).expand(BATCH, 8)
        scores = head(pretext.join_with_centre(vectors))
    return F.cross_entropy(scores.flatten(0, 1), classes.flatten())


def main(task: str = "rotation") -> list[float]:
    """Train for a few steps and return the losses."""
    torch.manual_seed(0)
    joined, outputs = OUTPUTS[task]
    features = nn.Sequential(nn.Conv2d(3, DIM, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(3))
    encoder = nn.Sequential(features, nn.Flatten(), nn.Linear(9 * DIM, DIM))
    head = nn.Linear(joined * DIM, outputs)
    optimizer = torch.optim.Adam([*encoder.parameters(), *head.parameters()], lr=3e-3)
    losses, alike = [], torch.randn(1, 3, 4, 4)  # what is above and what is left in all images
    for step in range(STEPS):
        coarse = alike + torch.randn(BATCH, 3, 4, 4)  # stands in for your loader
        images = F.interpolate(coarse, size=GRID.side, mode="bilinear")
        loss = loss_of(task, images, encoder, head, step)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())
    return losses


if __name__ == "__main__":
    for step, loss in enumerate(main(*sys.argv[1:])):
        print(f"step {step:3d}  loss {loss:.3f}")
