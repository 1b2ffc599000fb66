"""Arms of the facts: MoCo v2 and other baselines, each with one change.

A change is stated once and made at every scale.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from feature_transform import MoCoFTRecipe, TransformRecipe
from reproductions.baselines.recipes import imagenet100, simsiam, supervised_bound
from reproductions.baselines.simsiam import NoStopGradientRecipe
from reproductions.baselines.untrained import UntrainedRecipe
from retable.encoders import ResNetRecipe
from retable.methods import MoCoRecipe, SimSiamRecipe, moco_v1, moco_v2
from retable.train.recipe import PretrainRecipe

Change = Callable[[PretrainRecipe], PretrainRecipe]


def unchanged(recipe: PretrainRecipe) -> PretrainRecipe:
    """Return the recipe."""
    return recipe


@dataclass(frozen=True)
class Arm:
    """A recipe at the paper's scale, and what is changed in it."""

    base: PretrainRecipe
    change: Change = unchanged

    @property
    def recipe(self) -> PretrainRecipe:
        """The changed recipe at the paper's scale."""
        return self.change(self.base)


def method(**changes: object) -> Change:
    """Change fields of the method."""
    return lambda recipe: replace(recipe, method=replace(recipe.method, **changes))  # type: ignore[type-var]


def view(**changes: object) -> Change:
    """Change fields of all views."""
    return lambda recipe: replace(
        recipe,
        views=tuple(replace(one, **changes) for one in recipe.views),  # type: ignore[arg-type]
    )


def untrained(recipe: PretrainRecipe) -> PretrainRecipe:
    """Train nothing."""
    return replace(recipe, method=UntrainedRecipe(), epochs=1)


def half_as_long(recipe: PretrainRecipe) -> PretrainRecipe:
    """Halve a run whose rate falls by a cosine."""
    return replace(recipe, epochs=recipe.epochs // 2)


def half_queue(recipe: PretrainRecipe) -> PretrainRecipe:
    """Keep half as many negatives."""
    assert isinstance(recipe.method, MoCoRecipe)
    return method(queue=recipe.method.queue // 2)(recipe)


def off_sphere(recipe: PretrainRecipe) -> PretrainRecipe:
    """Compare features by inner products."""
    assert isinstance(recipe.method, MoCoRecipe)
    nothing = TransformRecipe("none", "none")
    changed = MoCoFTRecipe(transform=nothing, unit_sphere=False, **vars(recipe.method))
    return replace(recipe, method=changed)


def twice_as_wide(recipe: PretrainRecipe) -> PretrainRecipe:
    """Double the encoder's channels."""
    assert isinstance(recipe.encoder, ResNetRecipe)
    return replace(recipe, encoder=replace(recipe.encoder, width=2 * recipe.encoder.width))


def without_stopped_gradient(recipe: PretrainRecipe) -> PretrainRecipe:
    """Let gradient pass through SimSiam's targets."""
    assert isinstance(recipe.method, SimSiamRecipe)
    return replace(recipe, method=NoStopGradientRecipe(**vars(recipe.method)))


V2 = imagenet100(moco_v2(queue=16384))
SIMSIAM = simsiam(SimSiamRecipe(), epochs=200, batch=256)
ARMS = {
    "untrained": Arm(V2, untrained),
    "supervised": Arm(supervised_bound(100)),
    "moco_t007": Arm(imagenet100(moco_v1(queue=16384, temperature=0.07), version=1)),
    "moco_t02": Arm(imagenet100(moco_v1(queue=16384, temperature=0.2), version=1)),
    "moco_v2": Arm(V2),
    "linear_head": Arm(V2, method(head="linear")),
    "v1_views": Arm(
        V2,
        view(
            jitter=(0.4, 0.4, 0.4, 0.4),
            jitter_probability=1.0,
            jitter_position="after_gray",
            blur_probability=0.0,
        ),
    ),
    "crop_only": Arm(V2, view(jitter_probability=0.0, gray_probability=0.0, blur_probability=0.0)),
    "colour_only": Arm(V2, view(crop_scale=None, blur_probability=0.0)),
    "half_as_long": Arm(V2, half_as_long),
    "t005": Arm(V2, method(temperature=0.05)),
    "t05": Arm(V2, method(temperature=0.5)),
    "frozen_key": Arm(V2, method(momentum=1.0)),
    "fast_key": Arm(V2, method(momentum=0.9)),
    "half_queue": Arm(V2, half_queue),
    "no_shuffle": Arm(V2, method(shuffle=False)),
    "off_sphere": Arm(imagenet100(moco_v1(queue=16384, temperature=0.07), version=1), off_sphere),
    "wide": Arm(V2, twice_as_wide),
    "simsiam": Arm(SIMSIAM),
    "simsiam_no_stop": Arm(SIMSIAM, without_stopped_gradient),
}
