"""The facts of the field: their rows, their evaluations, and the claims that depend on them."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
import torch
from sklearn.linear_model import Ridge

from reproductions.baselines import FACTS
from reproductions.baselines.arms import ARMS
from reproductions.baselines.facts import TABLE, Severity, escape
from reproductions.baselines.localisation import BoxRegression, boxes_of, overlap, ridge
from reproductions.baselines.recipes import imagenet100
from reproductions.baselines.untrained import UntrainedRecipe
from retable.data.shapes.dataset import Shapes
from retable.data.sources import open_source
from retable.encoders import ResNetRecipe
from retable.errors import UserError
from retable.evaluate.data import source_opener
from retable.evaluate.protocol import EvalContext
from retable.methods import MoCoRecipe, moco_v2
from retable.random import derive_key, integers, uniform
from retable.reproduce import FinishedRun
from retable.tables import load_reference
from retable.train.options import RunOptions
from retable.train.pretrain import make_accelerator, train
from retable.train.recipe import PretrainRecipe, build_method
from retable.train.runs import RunDirectory
from retable.views import center

DATA = "shapes?count=192&test_count=128&size=32&classes=8&rho=0.7"


def test_every_claim_depends_on_facts_of_the_table() -> None:
    known = {claim.key for claim in load_reference(FACTS).claims}
    for path in sorted(FACTS.parents[1].glob("*/*.toml")):
        for claim in tomllib.loads(path.read_text()).get("claims", ()):
            later = {"multi_crop", "resolution"}  # no method with crops of several sizes yet
            assert set(claim.get("depends_on", ())) - later <= known, path


def test_every_row_of_the_reference_has_an_arm_and_every_claim_a_row() -> None:
    reference = load_reference(FACTS)
    assert {row.key for row in reference.rows} == ARMS.keys()
    named = {row for claim in reference.claims for row in (claim.better, claim.than) if row}
    assert named <= ARMS.keys()
    assert {claim.key for claim in reference.claims} >= {"v2_above_v1", "healthy_scores"}


@pytest.mark.parametrize("scale", ["proxy", "smoke"])
def test_arms_differ_from_each_other_at_every_scale(scale: str) -> None:
    recipes = {}
    for row in TABLE.rows:
        (training,) = TABLE.trainings(row).values()
        small = TABLE.shrunk(training, scale)
        assert small is not None
        recipes[row] = small.pretrain
    assert len(set(recipes.values())) == len(ARMS)
    assert all("shapes?" in recipe.data for recipe in recipes.values())


def test_a_change_is_the_same_at_both_scales() -> None:
    (half,) = TABLE.trainings("half_queue").values()
    (full,) = TABLE.trainings("moco_v2").values()
    for scale in ("paper", "proxy", "smoke"):
        queues = []
        for training in (half, full):
            small = TABLE.shrunk(training, scale)
            assert small is not None
            assert isinstance(small.pretrain.method, MoCoRecipe)
            queues.append(small.pretrain.method.queue)
        assert 2 * queues[0] == queues[1]


def test_an_untrained_encoder_stays_as_it_was_drawn(tmp_path: Path) -> None:
    full = imagenet100(moco_v2(queue=16384))
    recipe = PretrainRecipe(
        method=UntrainedRecipe(),
        data=DATA,
        views=(center(32), center(32)),
        encoder=ResNetRecipe("small_resnet8"),
        optimizer=full.optimizer,
        epochs=1,
        batch=64,
    )
    options = RunOptions(tmp_path, quiet=True)
    accelerator = make_accelerator("float32", cpu=True)
    source = open_source(DATA, "train")
    trained = train(recipe, 3, source, RunDirectory(tmp_path / "run"), accelerator, options)
    drawn = build_method(recipe, 3).encoder.state_dict()
    for name, value in trained.method.encoder.state_dict().items():
        assert torch.equal(value, drawn[name]), name


def test_boxes_enclose_their_masks() -> None:
    draws = uniform(derive_key(0, "masks"), torch.arange(20 * 9 * 12)).view(20, 9, 12)
    masks = draws < 0.1
    masks[:, 4, 5] = True
    for mask, box in zip(masks, boxes_of(masks), strict=True):
        rows, columns = mask.nonzero().unbind(1)
        edges = [columns.min() / 12, rows.min() / 9, (columns.max() + 1) / 12, (rows.max() + 1) / 9]
        assert box.tolist() == pytest.approx([float(edge) for edge in edges])


def test_overlap_counts_common_pixels() -> None:
    corners = integers(derive_key(0, "boxes"), torch.arange(50 * 8), 10).view(2, 50, 2, 2)
    low, high = corners.amin(2), corners.amax(2) + 1
    boxes = torch.cat([low, high], 2).float()
    found = overlap(boxes[0], boxes[1])
    for first, second, value in zip(boxes[0], boxes[1], found, strict=True):
        covered = []
        for left, top, right, bottom in (first.long().tolist(), second.long().tolist()):
            canvas = torch.zeros(12, 12, dtype=torch.bool)
            canvas[top:bottom, left:right] = True
            covered.append(canvas)
        expected = (covered[0] & covered[1]).sum() / (covered[0] | covered[1]).sum()
        assert float(value) == pytest.approx(float(expected), abs=1e-6)


def test_ridge_is_that_of_scikit_learn() -> None:
    x = uniform(derive_key(0, "x"), torch.arange(60 * 7)).view(60, 7) * torch.arange(1, 8)
    y = uniform(derive_key(0, "y"), torch.arange(60 * 4)).view(60, 4)
    weight, offset = ridge(x, y, 0.05)
    standard = ((x - x.mean(0)) / x.std(0)).double().numpy()
    peer = Ridge(alpha=0.05 * len(x))  # type: ignore[no-untyped-call]
    peer.fit(standard, y.double().numpy())
    found = peer.predict(standard)  # type: ignore[no-untyped-call]
    expected = torch.as_tensor(found).float()
    assert torch.allclose(x @ weight + offset, expected, atol=1e-4)


def test_boxes_are_regressed_better_than_from_their_mean() -> None:
    more = DATA.replace("count=192", "count=3000", 1)
    encoder = ResNetRecipe("small_resnet8").build(0)
    found = BoxRegression().run(encoder, source_opener(more), EvalContext("cpu"), seed=0)
    test = open_source(more, "test")
    masks = test.resident_layer("mask")
    assert isinstance(masks, torch.Tensor)
    boxes = boxes_of(masks[:, 0] > 0)
    mean = 100 * float(overlap(boxes.mean(0).expand_as(boxes), boxes).mean())
    assert mean < found["iou"] < 100


def test_a_severity_is_the_mean_over_corruptions() -> None:
    metrics = {
        "ood.corrupted:fog:2": 40.0,
        "ood.corrupted:snow:2": 20.0,
        "ood.corrupted:fog:3": 1.0,
    }
    runs = {"row": {0: FinishedRun(Path("run"), metrics=metrics)}}
    assert Severity(2).value("row", 0, runs) == 30.0
    assert Severity(4).value("row", 0, runs) is None


def test_a_run_escapes_in_the_first_epoch_of_a_spread_embedding() -> None:
    spreads = enumerate([0.4, 0.5, 0.95, 0.8, 0.97], start=1)
    epochs = [{"epoch": float(epoch), "embedding_spread": spread} for epoch, spread in spreads]
    recipe = ARMS["moco_v2"].recipe
    assert escape(recipe, FinishedRun(Path("run"), epochs=epochs)) == {"escape": 100 * 3 / 200}
    assert escape(recipe, FinishedRun(Path("run"), epochs=epochs[:2])) == {}


def test_boxes_need_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Shapes, "resident_layer", lambda source, name: None)
    encoder = ResNetRecipe("small_resnet8").build(0)
    with pytest.raises(UserError, match="must have masks of one size"):
        BoxRegression().run(encoder, source_opener(DATA), EvalContext("cpu"), seed=0)
