"""Non-semantic negatives in a MoCo v2 loop of lightly; the marked lines are this package's.

    pip install lightly

lightly's `NTXentLoss` has no place for further negatives of a query, so that its memory bank is
called here, and the cross-entropy is written out.
"""

import copy

import torch
import torch.nn.functional as F
import torchvision
from lightly.models.modules import MoCoProjectionHead
from lightly.models.modules.memory_bank import MemoryBankModule
from lightly.models.utils import (
    batch_shuffle,
    batch_unshuffle,
    deactivate_requires_grad,
    update_momentum,
)
from lightly.transforms.moco_transform import MoCoV2Transform
from torch import nn

from nonsemantic_negatives import nonsemantic_logits, patch_negatives

BATCH, QUEUE, TEMPERATURE, MOMENTUM = 32, 256, 0.2, 0.99


def main(epochs: int = 2) -> list[float]:
    """Train on lightly's views of random images and return the losses."""
    torch.manual_seed(0)
    views = MoCoV2Transform(input_size=32)
    dataset = torchvision.datasets.FakeData(size=128, image_size=(3, 40, 40), transform=views)
    loader = torch.utils.data.DataLoader(dataset, batch_size=BATCH, shuffle=True, drop_last=True)
    encoder = torchvision.models.resnet18()
    encoder.fc = nn.Identity()
    model = nn.Sequential(encoder, MoCoProjectionHead(512, 512, 128))
    key_model = copy.deepcopy(model)
    deactivate_requires_grad(key_model)
    bank = MemoryBankModule(size=(QUEUE, 128))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.03, momentum=0.9, weight_decay=1e-4)

    def embed_keys(batch: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            shuffled, order = batch_shuffle(batch)
            return F.normalize(batch_unshuffle(key_model(shuffled), order), dim=1)

    losses: list[float] = []
    for _ in range(epochs):
        for (query_view, key_view), _labels in loader:
            update_momentum(model, key_model, m=MOMENTUM)
            query, key = F.normalize(model(query_view), dim=1), embed_keys(key_view)
            images = patch_negatives(query_view, len(losses), low=5, high=12)  # of the query's view
            negative = embed_keys(images)  # a pass of its own, and never in the bank
            key, queue = bank(key, update=True)
            logits = [(query * key).sum(dim=1, keepdim=True), query @ queue]
            logits += [nonsemantic_logits(query, negative[:, None], alpha=2.0)]
            scores = torch.cat(logits, dim=1) / TEMPERATURE
            loss = F.cross_entropy(scores, torch.zeros(BATCH, dtype=torch.int64))
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses.append(loss.item())
    return losses


if __name__ == "__main__":
    for step, loss in enumerate(main()):
        print(f"step {step:3d}  loss {loss:.3f}")
