"""Masked views in your own data loader: a torch data set and the marked lines of this package."""

import torch
from torch.utils.data import DataLoader, Dataset

from relicv2 import views
from retable.views import make_view

LARGE, SMALL, SIDE, SMALL_SIDE = 2, 1, 32, 16
RECIPES = views(LARGE, SMALL, size=SIDE, small_size=SMALL_SIDE, mask="mask", mask_probability=0.1)


class YourImages(Dataset[tuple[int, torch.Tensor, torch.Tensor]]):
    """Stands in for your data set: images of one size, each with a mask."""

    def __len__(self) -> int:
        """Return the number of images."""
        return 64

    def __getitem__(self, index: int) -> tuple[int, torch.Tensor, torch.Tensor]:
        """Return the index, an image uint8 (3, H, W), a mask uint8 (1, H, W)."""
        generator = torch.Generator().manual_seed(index)
        image = torch.randint(0, 256, (3, 48, 64), generator=generator, dtype=torch.uint8)
        mask = torch.zeros(1, 48, 64, dtype=torch.uint8)
        mask[:, 12:36, 16:48] = 1
        return index, image, mask


def main(device: str = "cpu") -> list[tuple[torch.Size, ...]]:
    """Make the views of an epoch and return their shapes, batch by batch."""
    shapes = []
    epoch = 0
    for indices, images, masks in DataLoader(YourImages(), batch_size=16, shuffle=True):
        made = [
            make_view(images.to(device), indices, recipe, key, masks=masks.to(device))
            for key, recipe in enumerate(RECIPES, start=epoch * len(RECIPES))
        ]
        shapes.append(tuple(view.shape for view in made))
    return shapes


if __name__ == "__main__":
    for number, shapes in enumerate(main()):
        print(f"batch {number}: {', '.join('x'.join(map(str, shape)) for shape in shapes)}")
