"""Images of a detector: sizes, flips, batches by orientation, and the same batch on any machine."""

import pytest
import torch

from retable.data.shapes.scenes import Scenes
from retable.errors import UserError
from retable.evaluate.transfer.detection.aspects import AspectSampler
from retable.evaluate.transfer.detection.inputs import (
    DetectionLoader,
    InputRecipe,
    covering,
    network_input,
    padded,
    resize,
)
from retable.evaluate.transfer.loading import normalised
from retable.testing import run_processes
from retable.views.recipe import IMAGENET_MEAN, IMAGENET_STD

SCENES = Scenes(13, size=48, classes=8)
RECIPE = InputRecipe(sides=(48, 64), longest=80, test_side=48)


def test_boxes_and_masks_follow_their_image() -> None:
    for index in range(5):
        image, objects = SCENES.image(index), SCENES.objects(index)
        for flip in (False, True):
            example = resize(image, objects, (96, 144), flip=flip)
            assert example.image.shape == (3, 96, 144)
            masks = example.objects.masks
            assert masks is not None
            for box, mask in zip(example.objects.boxes, masks, strict=True):
                rows, columns = mask.any(1).nonzero()[:, 0], mask.any(0).nonzero()[:, 0]
                around = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
                assert torch.allclose(box, torch.stack(around).float(), atol=1.5)


def test_a_flip_twice_is_none_and_an_unchanged_size_changes_no_pixel() -> None:
    image, objects = SCENES.image(0), SCENES.objects(0)
    once = resize(image, objects, (48, 48), flip=True)
    twice = resize(once.image, once.objects, (48, 48), flip=True)
    assert torch.equal(twice.image, image)
    assert torch.equal(twice.objects.boxes, objects.boxes)
    assert not torch.equal(once.image, image)


def test_a_smaller_image_is_averaged() -> None:
    stripes = torch.zeros(3, 8, 8, dtype=torch.uint8)
    stripes[:, :, ::2] = 200
    small = resize(stripes, SCENES.objects(0), (2, 2), flip=False).image
    assert (small.float() - 100).abs().max() < 20


def test_padding_is_zero_after_normalising_and_sides_are_multiples() -> None:
    white = normalised(torch.full((3, 5, 9), 255, dtype=torch.uint8), "cpu")
    batch = padded([white], covering([(5, 9)], 4))
    assert batch.shape == (1, 3, 8, 12)
    expected = (1 - torch.tensor(IMAGENET_MEAN)) / torch.tensor(IMAGENET_STD)
    assert torch.allclose(batch[0, :, 0, 0], expected)
    assert float(batch[0, :, 5:].abs().max()) == float(batch[0, :, :, 9:].abs().max()) == 0
    dark = torch.zeros(3, 8, 2, dtype=torch.uint8)
    images = padded([torch.full((3, 5, 9), 255, dtype=torch.uint8), dark], (8, 12))
    assert images.dtype == torch.uint8
    both = network_input(images, [(5, 9), (8, 2)])
    assert torch.equal(both[:1], batch)
    assert torch.equal(both[1:], padded([normalised(dark, "cpu")], (8, 12)))
    assert covering([(2, 3), (4, 1)], 1) == (4, 3)


def test_a_batch_has_images_of_one_orientation_and_an_epoch_each_at_most_once() -> None:
    samples = torch.arange(100, 130)
    wide = torch.arange(30) % 3 == 0
    sampler = AspectSampler(samples, wide, 4, seed=1)
    assert sampler.steps_per_epoch == 10 // 4 + 20 // 4
    seen = torch.cat([sampler.global_batch(step) for step in range(sampler.steps_per_epoch)])
    assert len(set(seen.tolist())) == len(seen)
    for step in range(2 * sampler.steps_per_epoch):
        kinds = wide[sampler.global_batch(step) - 100]
        assert bool(kinds.all()) or not bool(kinds.any())
    again = AspectSampler(samples, wide, 4, seed=1)
    assert torch.equal(again.global_batch(9), sampler.global_batch(9))
    assert not torch.equal(sampler.global_batch(0), sampler.global_batch(sampler.steps_per_epoch))


def test_too_few_images_are_refused() -> None:
    with pytest.raises(UserError, match="`batch` must be at most the number of images"):
        AspectSampler(torch.arange(5), torch.arange(5) < 2, 4, 0)


def loader(workers: int = 0) -> DetectionLoader:
    return DetectionLoader(SCENES, RECIPE, batch=4, seed=2, epochs=3, workers=workers)


def batch_of(step: int) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    (batch,) = loader().batches(step, step + 1)
    return batch.images, batch.positions, [target["boxes"] for target in batch.targets]


def test_a_step_is_the_same_whatever_came_before_and_with_workers() -> None:
    whole = list(loader().batches(0, 5))
    for made in (
        list(loader(workers=2).batches(0, 5)),
        [*loader().batches(0, 3), *loader().batches(3, 5)],
    ):
        for one, other in zip(whole, made, strict=True):
            assert torch.equal(one.images, other.images)
            assert torch.equal(one.indices, other.indices)
            assert one.rng_key == other.rng_key
    assert {batch.images.shape[2] for batch in whole} <= {48, 64}


@pytest.mark.slow
def test_processes_share_a_batch() -> None:
    images, positions, boxes = batch_of(4)
    parts = run_processes(batch_of, 2, 4)
    assert torch.equal(torch.cat([part[1] for part in parts]), positions)
    joined = [one for part in parts for one in part[2]]
    assert all(torch.equal(one, other) for one, other in zip(joined, boxes, strict=True))
    for part, first in zip(parts, (0, 2), strict=True):
        side = part[0].shape[2]
        assert torch.equal(part[0], images[first : first + 2, :, :side, : part[0].shape[3]])
