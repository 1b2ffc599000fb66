"""Recipes of a pretraining: everything that decides its numbers, in plain fields."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from retable.domains import BatchSize, Count, CountOrZero, Epochs
from retable.encoders import EncoderRecipe
from retable.encoders.registry import encoder_kind
from retable.errors import UserError
from retable.files import digest_of_tensors
from retable.methods.method import Method, MethodRecipe
from retable.nn import batch_norm
from retable.precision import autocast_dtype
from retable.random import derive_key
from retable.settings import validate_fields
from retable.train.optim import OptimizerRecipe
from retable.train.options import RunOptions
from retable.views import ViewRecipe
from retable.weights import load_encoder


@dataclass(frozen=True)
class InitialWeights:
    """Weights that a training starts from.

    Attributes:
        checkpoint: file or name of an encoder, see `retable.weights.load_encoder`.
        digest: `retable.files.digest_of_tensors` of the encoder's state, which decides the numbers.
    """

    checkpoint: str
    digest: str

    def __post_init__(self) -> None:
        if not self.checkpoint:
            raise UserError(
                "`checkpoint` must name the file of the encoder that training starts from, got ''. "
                "Pass the file that the encoder was loaded from."
            )

    @classmethod
    def of(cls, checkpoint: str) -> InitialWeights:
        """Return the weights that a checkpoint holds now."""
        return cls(checkpoint, digest_of_tensors(load_encoder(checkpoint).encoder.state_dict()))

    def state(self, encoder: EncoderRecipe) -> dict[str, Tensor]:
        """Load the state of ``encoder``.

        Raises:
            UserError: the checkpoint cannot be loaded, or holds another encoder or other weights.
        """
        loaded = load_encoder(self.checkpoint)
        if loaded.recipe != encoder:
            raise UserError(
                f"{self.checkpoint} holds a {loaded.recipe.label}: expected a "
                f"{encoder.label}, so name another checkpoint or change `encoder`."
            )
        state = loaded.encoder.state_dict()
        if digest_of_tensors(state) != self.digest:
            raise UserError(
                f"{self.checkpoint} holds other weights than those that the recipe names (digest "
                f"{self.digest[:12]}...): restore the file, or state its weights in the recipe."
            )
        return state


@dataclass(frozen=True)
class PretrainRecipe:
    """Everything that decides the numbers of a pretraining, and nothing else.

    Attributes:
        data: name of a source, see `retable.data.sources.open_source`; its "train" split is used.
        views: one recipe for each view of an image.
        epochs: length of the schedule.
        batch: images in a global batch, over all processes.
        bn_group: images that share batch-norm statistics: the papers' "batch per GPU". None: all
            that a process holds.
        subset: class or label subset of the source.
        validation_images: images of the train split that are not trained on, since evaluations hold
            them out to test on, see `retable.evaluate.data.EvalData`.
        precision: "float32", "bf16" or "fp16" autocast of the encoders.
        max_steps: stop after so many steps; such a run is marked and compared with nothing.
        weights: weights that the encoder starts from; None: random ones.
    """

    method: MethodRecipe
    data: str
    views: tuple[ViewRecipe, ...]
    encoder: EncoderRecipe
    optimizer: OptimizerRecipe
    epochs: Epochs
    batch: BatchSize
    bn_group: Count | None = None
    subset: str | None = None
    validation_images: CountOrZero = 0
    precision: str = "float32"
    max_steps: Count | None = None
    weights: InitialWeights | None = None

    def __post_init__(self) -> None:
        validate_fields(self)


def build_method(recipe: PretrainRecipe, seed: int) -> Method:
    """Return the method in its initial state, on the CPU: a function of recipe and seed."""
    encoder_kind(recipe.encoder)  # a class that files cannot name is refused before training
    encoder = recipe.encoder.build(derive_key(seed, "encoder"))
    if recipe.weights is not None:
        encoder.load_state_dict(recipe.weights.state(recipe.encoder))
    method = recipe.method.build(encoder, derive_key(seed, "method"))
    if recipe.bn_group is not None:
        batch_norm.group_batch_norm(method, recipe.bn_group)
    return method


def check_fit(recipe: PretrainRecipe, method: Method, processes: int, options: RunOptions) -> None:
    """Check that the batch can be split over processes, micro-batches and batch-norm groups."""
    autocast_dtype(recipe.precision)
    if options.accumulate > 1 and not method.accumulates:
        raise UserError(
            f"`--accumulate` must be 1 for {type(method).__name__}, which contrasts a whole batch, "
            f"got {options.accumulate}. Use more processes instead."
        )
    local, remainder = divmod(recipe.batch, processes * options.accumulate)
    if remainder:
        parts = f" in {options.accumulate} parts each" if options.accumulate > 1 else ""
        raise UserError(
            f"A batch of {recipe.batch} images cannot be split over {processes} processes{parts}. "
            "Choose a divisor of the batch with --processes."
        )
    group = recipe.bn_group
    if group is None or local % group == 0:
        return
    # Groups also span processes (`retable.nn.batch_norm`), but never the parts of a batch.
    spans = group % local == 0 and processes % (group // local) == 0
    if not spans or options.accumulate > 1:
        raise UserError(
            f"`bn_group` must divide a process's {local} images or be a multiple of them, got "
            f"{group}. Use, for example, --processes {max(1, recipe.batch // group)}."
        )
