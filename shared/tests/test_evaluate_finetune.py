from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from retable import cli
from retable.data.loader import Loader
from retable.data.sampler import Sampler
from retable.data.sources import open_source
from retable.encoders import ResNetRecipe
from retable.errors import UserError
from retable.evaluate.data import EvalData, listed_rows, open_eval_splits, source_opener
from retable.evaluate.protocol import EvalContext
from retable.evaluate.transfer import base
from retable.evaluate.transfer.finetune import FineTuning
from retable.files import digest_of_tensors, read_record
from retable.random import derive_key, initialising
from retable.reproduce import Table, TableRow, execute
from retable.reproduce.dry_run import render_recipes
from retable.reproduce.plan import plan_runs
from retable.train.options import RunOptions
from retable.train.pretrain import train
from retable.train.recipe import InitialWeights, PretrainRecipe, build_method
from retable.train.runs import RunDirectory
from retable.views import center, crop_and_flip
from retable.weights import load_encoder, save_encoder

DATA = "shapes?count=200&test_count=60&size=16&classes=4"
ENCODER = ResNetRecipe("small_resnet8", width=0.25)
SMALL = FineTuning(
    lr=0.05,
    head_lr=0.5,
    batch=16,
    bn_group=8,
    epochs=3,
    milestones=(2,),
    train_view=crop_and_flip(16),
    test_view=center(16),
    data=EvalData(labels=0.5, balanced=True),
)


open_shapes = source_opener(DATA)


def write_encoder(folder: Path) -> str:
    path = folder / "encoder.safetensors"
    save_encoder(path, ENCODER.build(5), ENCODER, {})
    return str(path)


@pytest.fixture
def checkpoint(tmp_path: Path) -> str:
    return write_encoder(tmp_path)


def test_training_is_that_of_a_loop_by_hand(checkpoint: str, tmp_path: Path) -> None:
    # Reference: PyTorch's SGD with one group for the encoder and one for the classifier.
    recipe = replace(SMALL, bn_group=None, weight_decay=1e-3)
    splits = open_eval_splits(open_shapes, recipe.data)
    training = train(
        recipe.training(splits, InitialWeights.of(checkpoint)),
        3,
        splits.train,
        RunDirectory(tmp_path / "run"),
        EvalContext("cpu").accelerator(),
        RunOptions(quiet=True, channels_last=False),
    )
    encoder: Any = load_encoder(checkpoint).encoder.train()
    with initialising(derive_key(3, "method")):
        classifier = nn.Linear(encoder.feature_dim, 4)
    optimizer = torch.optim.SGD(
        [
            {"params": encoder.parameters(), "lr": 0.05},
            {"params": classifier.parameters(), "lr": 0.5},
        ],
        momentum=0.9,
        weight_decay=1e-3,
    )
    loader = Loader(splits.train, Sampler(len(splits.train), 16, 3), (crop_and_flip(16),))
    steps = loader.steps_per_epoch
    assert training.step == 3 * steps == 18
    for batch in loader.batches(0, 3 * steps):
        factor = 0.2 if batch.progress.step >= 2 * steps else 1.0
        for group, rate in zip(optimizer.param_groups, (0.05, 0.5), strict=True):
            group["lr"] = rate * factor
        optimizer.zero_grad()
        loss = F.cross_entropy(classifier(encoder(batch.views[0])), batch.labels)
        torch.autograd.backward(loss)
        optimizer.step()
    found = training.method.state_dict()
    for module, prefix in ((encoder, "encoder"), (classifier, "classifier")):
        for name, expected in module.state_dict().items():
            torch.testing.assert_close(
                found[f"{prefix}.{name}"], expected, rtol=1e-3, atol=1e-4, msg=name
            )


def test_the_encoder_itself_stays_as_it_is(checkpoint: str) -> None:
    encoder = load_encoder(checkpoint).encoder
    before = digest_of_tensors(encoder.state_dict())
    results = SMALL.run(encoder, open_shapes, EvalContext("cpu", checkpoint=checkpoint), seed=3)
    assert digest_of_tensors(encoder.state_dict()) == before
    assert results.keys() == SMALL.metrics.keys()
    assert results["images"] == 100


def test_labels_are_a_share_of_each_class() -> None:
    splits = open_eval_splits(open_shapes, EvalData(labels=0.1, balanced=True))
    whole = torch.bincount(open_shapes("train").labels)
    share = torch.bincount(splits.train.labels)
    assert share.tolist() == [max(1, int(0.1 * count + 0.5)) for count in whole.tolist()]
    smaller = open_eval_splits(open_shapes, EvalData(labels=0.05, balanced=True)).train
    assert set(smaller.indices.tolist()) < set(splits.train.indices.tolist())  # type: ignore[attr-defined]
    held_out = EvalData(labels=0.5, balanced=True, split="validation")
    splits = open_eval_splits(open_shapes, held_out)
    rows = [set(part.indices.tolist()) for part in (splits.train, splits.test)]  # type: ignore[attr-defined]
    assert rows[0].isdisjoint(rows[1])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Write a data set of two classes of three images."""
    for split in ("train", "val"):
        for label, name in enumerate(("cat", "dog")):
            (tmp_path / "data" / split / name).mkdir(parents=True)
            for number in range(3):
                image = Image.new("RGB", (16, 16), (60 * label, 20 * number, 0))
                image.save(tmp_path / "data" / split / name / f"{name}_{number}.jpg")
    return tmp_path / "data"


def test_a_list_of_file_names_chooses_the_labels(folder: Path, tmp_path: Path) -> None:
    source = open_source(f"imagefolder:{folder}", "train")
    names = tmp_path / "list.txt"
    names.write_text("dog_1.jpg\ncat/cat_2.jpg\n\n")
    assert listed_rows(source, str(names)).tolist() == [2, 4]
    data = EvalData(files=str(names))
    assert data.training_images(1000) == 2
    splits = open_eval_splits(lambda split, *_: open_source(f"imagefolder:{folder}", split), data)
    assert splits.train.labels.tolist() == [0, 1]
    assert len(splits.test) == 6


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        ("cat_0.jpg\nhorse_1.jpg\ndog_1.jpg\n", "lacks 1 of the 3 files .*horse_1.jpg"),
        ("cat_0.jpg\ncat_1.jpg\n", "lists no image of the class dog"),
        ("cat_0.jpg\ncat_0.jpg\ndog_1.jpg\n", "names cat_0.jpg twice"),
        ("cat_0.jpg\ncat/cat_0.jpg\ndog_1.jpg\n", "lists an image under two names"),
        ("\n", "is empty"),
    ],
)
def test_a_list_that_does_not_fit_ends_with_a_sentence(
    lines: str, sentence: str, folder: Path, tmp_path: Path
) -> None:
    names = tmp_path / "list.txt"
    names.write_text(lines)
    with pytest.raises(UserError, match=sentence):
        listed_rows(open_source(f"imagefolder:{folder}", "train"), str(names))


def test_names_that_two_images_share_need_their_folder(folder: Path, tmp_path: Path) -> None:
    (folder / "train/cat/cat_0.jpg").rename(folder / "train/cat/dog_0.jpg")
    source = open_source(f"imagefolder:{folder}", "train")
    names = tmp_path / "list.txt"
    names.write_text("dog_0.jpg\ncat_1.jpg\n")
    with pytest.raises(UserError, match="names several images of the data set: write CLASS/FILE"):
        listed_rows(source, str(names))


def test_a_list_needs_a_file_and_a_data_set_with_names(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"list of files .*nowhere.txt cannot be read"):
        listed_rows(open_shapes("train"), str(tmp_path / "nowhere.txt"))
    (tmp_path / "list.txt").write_text("a.jpg\n")
    with pytest.raises(UserError, match="shapes has no file names"):
        listed_rows(open_shapes("train"), str(tmp_path / "list.txt"))
    with pytest.raises(UserError, match="Use either the list or the share"):
        EvalData(files="list.txt", labels=0.1)


def test_weights_that_do_not_fit_end_with_a_sentence(checkpoint: str, tmp_path: Path) -> None:
    weights = InitialWeights.of(checkpoint)
    assert weights.digest == digest_of_tensors(ENCODER.build(5).state_dict())
    with pytest.raises(UserError, match="expected a resnet18"):
        weights.state(ResNetRecipe("resnet18"))
    save_encoder(tmp_path / "encoder.safetensors", ENCODER.build(6), ENCODER, {})
    with pytest.raises(UserError, match="holds other weights than those that the recipe names"):
        weights.state(ENCODER)
    with pytest.raises(UserError, match=r"nowhere\.pth does not exist"):
        InitialWeights.of(str(tmp_path / "nowhere.pth"))
    encoder = ENCODER.build(0)
    with pytest.raises(UserError, match="`checkpoint` must name the file"):
        SMALL.run(encoder, open_shapes, EvalContext("cpu"), seed=0)


def test_a_pretraining_starts_from_weights(checkpoint: str) -> None:
    splits = open_eval_splits(open_shapes, SMALL.data)
    recipe = SMALL.training(splits, InitialWeights.of(checkpoint))
    started = build_method(recipe, seed=1).encoder.state_dict()
    assert digest_of_tensors(started) == InitialWeights.of(checkpoint).digest
    fresh = build_method(replace(recipe, weights=None), seed=1).encoder.state_dict()
    assert digest_of_tensors(fresh) != digest_of_tensors(started)


def test_default_rates_depend_on_the_share(checkpoint: str) -> None:
    def rates(share: float) -> tuple[float, float]:
        data = EvalData(labels=share, balanced=True)
        splits = open_eval_splits(open_shapes, data)
        recipe = replace(SMALL, lr=None, head_lr=None, data=data, batch=4, bn_group=4)
        optimizer = recipe.training(splits, InitialWeights.of(checkpoint)).optimizer
        ((_, factor),) = optimizer.rate_factors
        return optimizer.lr, optimizer.lr * factor

    assert rates(0.02) == pytest.approx((0.02, 5.0))
    assert rates(0.1) == pytest.approx((0.01, 0.2))


def test_a_table_prices_and_runs_it(
    contrastive: Callable[..., PretrainRecipe], table: Table, tmp_path: Path
) -> None:
    evaluation = FineTuning(epochs=2, milestones=(), batch=8, bn_group=8, data=SMALL.data)
    row = TableRow(contrastive(epochs=1), (evaluation,))
    (run_of_row,) = plan_runs({"contrastive": row}, [0])
    planned = render_recipes(table, [run_of_row], "proxy", images=72)
    assert "finetune: 8 steps, 64 images" in planned
    execute.execute([run_of_row], RunOptions(tmp_path, quiet=True))
    folder = run_of_row.evaluation_folder(evaluation, tmp_path)
    results = read_record(folder / "result.json")["metrics"]
    assert results.keys() == evaluation.metrics.keys()
    assert results["images"] == 36


def test_the_budget_is_what_the_training_takes(
    checkpoint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    budget = SMALL.budget(SMALL.data.training_images(200), size=224)
    assert (budget.steps, budget.images, budget.size, budget.passes) == (18, 288, 16, 3.0)
    assert SMALL.limited(5).budget(100, 224).steps == 5
    words = ["evaluate", checkpoint, "--protocol", "finetune", "--data", DATA, "--dry-run"]
    assert cli.main([*words, "--set", "data.labels=0.5", "--set", "batch=16"]) == 0
    printed = capsys.readouterr().out
    assert "100 train images, 60 test images; 120 steps, 1,920 images" in printed
    assert "FLOP in the encoder" in printed


def test_the_training_has_the_precision_of_the_evaluation(
    checkpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Asked(Exception):  # noqa: N818
        """The training would begin."""

    def asked(recipe: PretrainRecipe, *_: object, **__: object) -> None:
        raise Asked(recipe.precision)

    monkeypatch.setattr(base, "train", asked)
    monkeypatch.setattr(EvalContext, "accelerator", lambda _: None)  # a process has one precision
    context = EvalContext("cpu", precision="bf16", checkpoint=checkpoint)
    with pytest.raises(Asked, match="bf16"):
        SMALL.run(load_encoder(checkpoint).encoder, open_shapes, context, seed=3)


def test_features_of_the_trained_encoder_are_not_kept(checkpoint: str, tmp_path: Path) -> None:
    kept = tmp_path / "features"
    context = EvalContext("cpu", checkpoint=checkpoint, features=kept)
    SMALL.limited(1).run(load_encoder(checkpoint).encoder, open_shapes, context, seed=3)
    assert not kept.exists()
