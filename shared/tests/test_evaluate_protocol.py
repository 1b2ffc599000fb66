from dataclasses import replace
from pathlib import Path

import pytest

from retable.data.source import Source
from retable.data.sources import open_source
from retable.encoders import ResNetRecipe
from retable.errors import UserError
from retable.evaluate import named_protocol, protocol_names
from retable.evaluate.data import EvalData, source_opener
from retable.evaluate.geometry import Geometry
from retable.evaluate.knn import Knn
from retable.evaluate.linear import LinearProbe
from retable.evaluate.logistic.probe import LogisticProbe
from retable.evaluate.mlp import MlpProbe
from retable.evaluate.ood import OutOfDistribution
from retable.evaluate.protocol import EvalContext, Evaluation
from retable.evaluate.representation import Representation
from retable.evaluate.transfer.base import Transfer
from retable.evaluate.transfer.classification import linear_transfer
from retable.evaluate.transfer.detection.evaluation import DetectionTransfer
from retable.evaluate.transfer.finetune import FineTuning
from retable.evaluate.transfer.segmentation.evaluation import SegmentationTransfer
from retable.reproduce.pricing import price_evaluation
from retable.train.cost import forward_flops
from retable.views import center
from retable.weights import save_encoder

ENCODER = ResNetRecipe("small_resnet8", width=0.25)
DATA = "shapes?count=64&test_count=30&size=16&classes=4"
SCENES = EvalData("shapes-scenes?count=12&test_count=4&size=48&classes=4")
TWO = Representation(("layer3", "pre_logits"))
VARIANTS = ("sketch", "corrupted:fog:1")
QUICK: list[Evaluation] = [
    LinearProbe(epochs=2, milestones=(1,), other_lrs=(0.1,), representation=TWO),
    LogisticProbe(l2=(0.1,), iterations=3, representation=TWO),
    replace(linear_transfer(16), l2=(0.1, 1.0), iterations=3),
    MlpProbe(hidden=4, epochs=1, milestones=(), representation=TWO),
    Knn(k=3),
    Geometry(),
    OutOfDistribution(LogisticProbe(l2=(0.1,), iterations=3), variants=VARIANTS),
    FineTuning(epochs=1, milestones=(), batch=8, bn_group=8, data=EvalData(labels=0.5)),
    replace(DetectionTransfer().shrunk(1, 24), steps=2, batch=4, precise=0, data=SCENES),
    replace(SegmentationTransfer().shrunk(1, 24), batch=8, data=SCENES),
]
each = pytest.mark.parametrize("evaluation", QUICK, ids=lambda evaluation: evaluation.name)


open_shapes = source_opener(DATA)


def test_every_protocol_is_tested_here() -> None:
    assert sorted(protocol_names()) == sorted(evaluation.name for evaluation in QUICK)
    for evaluation in QUICK:
        assert type(named_protocol(evaluation.name)) is type(evaluation)


@each
def test_the_metrics_that_are_declared_are_returned(evaluation: Evaluation, tmp_path: Path) -> None:
    path = tmp_path / "encoder.safetensors"
    save_encoder(path, ENCODER.build(0), ENCODER, {})
    context = EvalContext("cpu", checkpoint=str(path))
    results = evaluation.run(ENCODER.build(0), open_shapes, context, seed=0)
    assert list(results) == list(evaluation.metrics)
    for name, spec in evaluation.metrics.items():
        assert spec.unit != "%" or 0 <= results[name] <= 100
        assert ("top1" in name) <= bool(spec.higher_is_better)


@each
def test_a_further_data_set_is_filled_in_by_its_name(evaluation: Evaluation) -> None:
    named = evaluation.with_data(replace(evaluation.data, source="places"))
    assert named.data.source == "places"
    assert named.on_data({"places": "imagefolder:x"}).data.source == "imagefolder:x"
    assert named.on_data({"other": "imagefolder:x"}) == named
    assert evaluation.on_data({"places": "imagefolder:x"}) == evaluation


@each
def test_what_trains_is_limited_and_keeps_its_other_settings(evaluation: Evaluation) -> None:
    limited = evaluation.limited(5)
    if isinstance(evaluation, LinearProbe | Transfer):
        assert limited == replace(evaluation, max_steps=5)  # type: ignore[type-var]
    else:
        assert limited == evaluation
    probe = OutOfDistribution(LinearProbe()).limited(5).probe
    assert probe == LinearProbe(max_steps=5)


@each
def test_shrinking_keeps_name_and_images(evaluation: Evaluation) -> None:
    small = evaluation.shrunk(3, size=24)
    assert (small.name, small.data) == (evaluation.name, evaluation.data)
    assert list(small.metrics) == list(evaluation.metrics)


def test_milestones_shrink_in_proportion() -> None:
    assert LinearProbe().shrunk(12).milestones == (6, 8, 10)
    assert MlpProbe().shrunk(18).milestones == (6, 12)
    assert FineTuning().shrunk(10).milestones == (6, 8)
    assert FineTuning().shrunk(1).milestones == (1,)


@each
def test_only_what_trains_the_encoder_has_a_price(evaluation: Evaluation) -> None:
    cost = price_evaluation(evaluation, ENCODER, 32, size=16)
    assert (cost is not None) == isinstance(evaluation, Transfer)
    if cost is None:
        return
    images, side = {
        "finetune": (32, 16),
        "detection": (2 * 4, 48),
        "segmentation": (10_582 // 8 * 8, 48),  # of the data set that it names
    }[evaluation.name]
    assert cost.images == images
    assert cost.flops == 3 * images * forward_flops(ENCODER.build(0), side)


def test_geometry_opens_the_test_split_alone() -> None:
    def open_test(split: str, variant: str | None = None, data: str | None = None) -> Source:
        assert split == "test"
        return open_source(DATA, "test")

    evaluation = Geometry(view=center(16))
    assert evaluation.reads == ("test",)
    results = evaluation.run(ENCODER.build(0), open_test, EvalContext("cpu"))
    assert results["effective_rank"] > 1
    with pytest.raises(UserError, match="`data` must select no training labels"):
        Geometry(data=EvalData(labels=0.1))


def test_neighbours_are_found_among_the_labels_that_are_kept() -> None:
    encoder, context = ENCODER.build(0), EvalContext("cpu")
    few = Knn(k=9, data=EvalData(labels=0.125))
    with pytest.raises(UserError, match="k = 9 has 8 training images"):
        few.run(encoder, open_shapes, context)
    assert replace(few, k=8).run(encoder, open_shapes, context).keys() == few.metrics.keys()
