import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from retable import random
from retable.data.source import Source
from retable.data.sources import open_source
from retable.encoders import EncoderRecipe, ResNetRecipe
from retable.errors import UserError
from retable.evaluate.data import source_opener
from retable.evaluate.features import represent
from retable.evaluate.frozen import freeze
from retable.evaluate.linear import LinearProbe
from retable.evaluate.mlp import MlpProbe
from retable.evaluate.protocol import EvalContext
from retable.evaluate.representation import Representation, images_per_call, pooled
from retable.nn.patches import PatchGrid, cut_patches
from retable.views import ViewRecipe, center, crop_and_flip, make_view

DATA = "shapes?count=60&test_count=40&size=36&classes=4"
GRID = PatchGrid(grid=3, cell=12, patch=12)


open_shapes = source_opener(DATA)


def stirred(encoder: nn.Module) -> nn.Module:
    """Give the batch norms statistics and scales unlike those at the start."""
    for position, module in enumerate(encoder.modules()):
        if isinstance(module, nn.BatchNorm2d):
            draws = random.uniform(position, torch.arange(4 * module.num_features)).view(4, -1)
            module.weight.data, module.bias.data = draws[0] + 0.5, draws[1] - 0.5
            module.running_mean, module.running_var = draws[2] - 0.5, draws[3] + 0.5
    return encoder


def small(recipe: EncoderRecipe | None = None) -> nn.Module:
    return stirred((recipe or ResNetRecipe("small_resnet8", width=0.5)).build(rng_key=0))


@pytest.mark.parametrize(
    ("channels", "side", "window", "left", "features"),
    [
        # ResNet-50, 4x, blocks 1 to 4 at 224 px.
        (256, 56, 10, 5, 6400),
        (512, 28, 7, 4, 8192),
        (1024, 14, 5, 2, 4096),
        (2048, 7, 4, 1, 2048),
        # ResNet-50, 8x.
        (512, 56, 14, 4, 8192),
        (1024, 28, 10, 2, 4096),
        (2048, 14, 7, 2, 8192),
        (4096, 7, 5, 1, 4096),
        # ResNet-18, 4x.
        (64, 56, 5, 11, 7744),
        (128, 28, 4, 7, 6272),
        (256, 14, 3, 4, 4096),
        (512, 7, 2, 3, 4608),
    ],
)
def test_layers_are_pooled_to_the_sizes_of_the_official_code(
    channels: int, side: int, window: int, left: int, features: int
) -> None:
    # Reference: sizes computed by hand; the maxima of whole windows, found in a loop.
    maps = torch.zeros(2, channels, side, side)
    assert pooled(maps).shape == (2, features)
    assert features == channels * left**2 <= 9000
    few = random.normal(0, torch.arange(2 * 4 * side**2)).view(2, 4, side, side)
    ours = pooled(few, max_features=-(-few[0].numel() // window**2)).view(2, 4, left, left)
    for row in range(left):
        for column in range(left):
            square = few[
                ...,
                row * window : (row + 1) * window,
                column * window : (column + 1) * window,
            ]
            assert torch.equal(ours[..., row, column], square.amax((2, 3)))


@pytest.mark.parametrize("shape", [(3, 9000), (3, 20000), (3, 9, 31, 32), (3, 9000, 1, 1)])
def test_vectors_and_maps_below_the_limit_are_not_pooled(shape: tuple[int, ...]) -> None:
    maps = random.normal(0, torch.arange(math.prod(shape))).view(shape)
    assert torch.equal(pooled(maps), maps.flatten(1))


def test_only_the_channels_alone_may_exceed_the_limit() -> None:
    for channels in (1, 7, 100, 8999, 9001, 12000):
        for side in (1, 2, 5, 13, 40):
            count = pooled(torch.zeros(1, channels, side, side)).shape[1]
            assert channels <= count <= max(9000, channels)


RECIPES: dict[str, EncoderRecipe] = {
    "small": ResNetRecipe("small_resnet8", width=0.5),
    "small imagenet": ResNetRecipe("small_resnet14", width=0.5, stem="imagenet"),
    "resnet18": ResNetRecipe("resnet18", width=0.125),
    "resnet50": ResNetRecipe("resnet50", width=0.125, stem="small"),
}


@pytest.mark.parametrize("name", RECIPES)
def test_taps_of_the_frozen_copy_are_those_of_the_encoder_in_eval_mode(name: str) -> None:
    # Reference: the encoder itself, whose batch norms are not folded, one tap at a time.
    encoder = small(RECIPES[name]).eval()
    taps: Any = encoder.taps
    names: Any = encoder.tap_names
    images = random.normal(0, torch.arange(2 * 3 * 32 * 32)).view(2, 3, 32, 32)
    frozen = freeze(encoder, "cpu")
    assert frozen.tap_names == names
    found = frozen.taps(images, names)
    assert list(found) == list(names)
    for tap in names:
        with torch.no_grad():
            expected = taps(images, (tap,))[tap]
        scale = float(expected.abs().max())
        torch.testing.assert_close(found[tap], expected, rtol=0, atol=1e-5 * scale)
    torch.testing.assert_close(frozen(images), found["pre_logits"], rtol=1e-5, atol=1e-6)


def test_a_plain_module_has_its_output_alone() -> None:
    frozen = freeze(nn.Sequential(nn.AdaptiveAvgPool2d(2)), "cpu")
    assert frozen.tap_names == ("pre_logits",)
    assert frozen.taps(torch.ones(2, 3, 8, 8), ("pre_logits",))["pre_logits"].shape == (2, 12)
    with pytest.raises(UserError, match="no tap 'layer1': expected one of pre_logits"):
        frozen.taps(torch.ones(2, 3, 8, 8), ("layer1",))


def test_all_taps_come_of_one_pass_in_the_sources_order() -> None:
    encoder, source = small(), open_source(DATA, "test")
    frozen = freeze(encoder, "cpu")
    representation = Representation(frozen.tap_names, max_features=300)
    found = represent(frozen, source, center(36), representation, EvalContext("cpu"))
    views = make_view(pool_of(source), torch.arange(40), center(36), 0)
    assert list(found) == list(frozen.tap_names)
    for tap, features in found.items():
        expected = pooled(frozen.taps(views, (tap,))[tap], 300)
        torch.testing.assert_close(features.features, expected, rtol=1e-4, atol=1e-5)
        assert torch.equal(features.labels, source.labels)
        assert features.features.shape[1] <= 300
    alone = represent(frozen, source, center(36), Representation(), EvalContext("cpu"))
    pre_logits = alone["pre_logits"].features
    torch.testing.assert_close(found["pre_logits"].features, pre_logits, rtol=1e-4, atol=1e-5)


def pool_of(source: Source) -> Tensor:
    pool = source.resident()
    assert pool is not None
    return pool


@pytest.mark.parametrize("view", [center(36), crop_and_flip(36)])
def test_patches_are_averaged_after_each_was_standardised_and_pooled(view: ViewRecipe) -> None:
    # Reference: a loop over images and patches.
    frozen = freeze(small(), "cpu")
    source = open_source(DATA, "test")
    representation = Representation(("layer1", "pre_logits"), max_features=50, patches=GRID)
    found = represent(frozen, source, view, representation, EvalContext("cpu"), rng_key=7)
    views = make_view(pool_of(source), torch.arange(40), view, 7)
    for tap in representation.taps:
        for image in range(0, 40, 13):
            vectors = []
            for row in range(0, 36, 12):
                for column in range(0, 36, 12):
                    patch = views[image, :, row : row + 12, column : column + 12]
                    patch = (patch - patch.mean()) / patch.std(correction=0).clamp(min=1 / 432**0.5)
                    vectors.append(pooled(frozen.taps(patch[None], (tap,))[tap], 50)[0])
            expected = torch.stack(vectors).mean(0)
            torch.testing.assert_close(found[tap].features[image], expected, rtol=1e-4, atol=1e-4)


class Shuffled(nn.Module):
    """The image's patches in another order, put together again."""

    def forward(self, images: Tensor) -> Tensor:
        order = torch.tensor([4, 2, 8, 0, 6, 1, 7, 3, 5])
        patches = cut_patches(images, replace(GRID, standardise=False), None, None)[:, order]
        grid = patches.view(-1, 3, 3, 3, 12, 12).permute(0, 3, 1, 4, 2, 5)
        return grid.reshape(-1, 3, 36, 36)


def test_the_average_depends_on_the_patches_and_not_on_their_order() -> None:
    frozen = freeze(small(), "cpu")
    representation = Representation(patches=GRID)
    views = random.normal(3, torch.arange(5 * 3 * 36 * 36)).view(5, 3, 36, 36)
    shuffled = Shuffled()(views)
    assert not torch.equal(shuffled, views)
    ours, other = (representation.of(frozen, images)["pre_logits"] for images in (views, shuffled))
    torch.testing.assert_close(ours, other, rtol=1e-5, atol=1e-6)
    views[0, :, :12, :12] *= -1
    assert not torch.allclose(representation.of(frozen, views)["pre_logits"][0], ours[0])


def test_a_linear_classifier_of_the_average_is_the_average_of_its_scores() -> None:
    frozen = freeze(small(), "cpu")
    views = random.normal(3, torch.arange(5 * 3 * 36 * 36)).view(5, 3, 36, 36)
    classifier = nn.Linear(32, 4)
    averaged = classifier(Representation(patches=GRID).of(frozen, views)["pre_logits"])
    patches = cut_patches(views, GRID, None, None).flatten(0, 1)
    scores = classifier(frozen(patches)).view(5, 9, 4).mean(1)
    torch.testing.assert_close(averaged, scores, rtol=1e-5, atol=1e-6)


class Watched(nn.Module):
    """An encoder that notes in which mode it is called, on all copies."""

    modes: list[bool]

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        type(self).modes = []

    def forward(self, images: Tensor) -> Tensor:
        type(self).modes.append(
            any(module.training for module in self.modules()) or torch.is_grad_enabled()
        )
        result: Tensor = self.encoder(images)
        return result


@pytest.mark.parametrize(
    "probe",
    [
        LinearProbe(epochs=2, milestones=(), train_view=crop_and_flip(36)),
        MlpProbe(hidden=8, epochs=2, milestones=(), train_view=crop_and_flip(36)),
    ],
    ids=["linear", "mlp"],
)
def test_nothing_of_the_encoder_changes_while_classifiers_train(
    probe: LinearProbe | MlpProbe,
) -> None:
    encoder = Watched(small(RECIPES["small"])).train()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    probe.run(encoder, open_shapes, EvalContext("cpu"), seed=0)
    after = encoder.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(value, before[name]) for name, value in after.items())
    assert encoder.training
    assert Watched.modes
    assert not any(Watched.modes), "in eval mode and without gradient at every call"


def test_calls_end_where_chunks_of_the_cache_do() -> None:
    from retable.evaluate.cache import ROWS

    for grid in (1, 2, 3, 4, 7, 40):
        representation = Representation(patches=PatchGrid(grid, 8, 8))
        for device in ("cpu", "cuda"):
            images = images_per_call(device, representation)
            assert ROWS % images == 0
            assert images == 1 or images * grid**2 <= images_per_call(device, Representation())


def test_views_that_do_not_fit_the_patches_end_with_a_sentence() -> None:
    frozen, source = freeze(small(), "cpu"), open_source(DATA, "test")
    with pytest.raises(UserError, match="Set the view's size to 36"):
        represent(frozen, source, center(32), Representation(patches=GRID), EvalContext("cpu"))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"taps": ()}, r"`taps` must name one or more layers, each once, got \(\)"),
        ({"taps": ("block1", "block1")}, "each once, got"),
        ({"max_features": 0}, "`max_features` must be at least 1, got 0"),
    ],
)
def test_settings_that_mean_nothing_end_with_a_sentence(
    settings: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        Representation(**settings)
