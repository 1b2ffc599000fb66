"""A pretraining as data: everything that decides its numbers, in plain fields."""

from __future__ import annotations

from dataclasses import dataclass

from retable.encoders import EncoderRecipe
from retable.encoders.registry import encoder_kind
from retable.methods.method import Method, MethodRecipe
from retable.nn import batch_norm
from retable.random import derive_key
from retable.train.optim import OptimizerRecipe
from retable.views import ViewRecipe


@dataclass(frozen=True)
class PretrainRecipe:
    """Everything that decides the numbers of a pretraining, and nothing else.

    Attributes:
        method: the method's own recipe.
        data: a source, see `retable.data.sources.open_source`; its "train" split is used.
        views: one recipe for each view of an image.
        encoder: the network that is trained.
        optimizer: with its schedule.
        epochs: length of the schedule.
        batch: images in a global batch, over all processes.
        bn_group: images that share batch-norm statistics: the papers' "batch per GPU". None: all
            that a process holds.
        subset: class or label subset of the source.
        validation_images: images of the train split that are not trained on: those that evaluations
            hold out to test on, see `retable.evaluate.protocol.EvalData`.
        precision: "float32", "bf16" or "fp16" autocast of the encoders.
        max_steps: stop after so many steps; such a run is marked and compared with nothing.
    """

    method: MethodRecipe
    data: str
    views: tuple[ViewRecipe, ...]
    encoder: EncoderRecipe
    optimizer: OptimizerRecipe
    epochs: int
    batch: int
    bn_group: int | None = None
    subset: str | None = None
    validation_images: int = 0
    precision: str = "float32"
    max_steps: int | None = None


def build_method(recipe: PretrainRecipe, seed: int) -> Method:
    """Return the method in its first state, on the CPU: a function of recipe and seed."""
    encoder_kind(recipe.encoder)  # a class that files cannot name is refused before training
    encoder = recipe.encoder.build(derive_key(seed, "encoder"))
    method = recipe.method.build(encoder, derive_key(seed, "method"))
    if recipe.bn_group is not None:
        batch_norm.group_batch_norm(method, recipe.bn_group)
    return method
