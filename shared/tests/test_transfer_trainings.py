"""What all evaluations share that train the encoder: states, processes, data sets."""

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from retable.encoders import ResNetRecipe
from retable.errors import UserError
from retable.evaluate.data import EvalData, source_opener
from retable.evaluate.protocol import EvalContext
from retable.evaluate.transfer.base import Transfer
from retable.evaluate.transfer.detection.evaluation import DetectionTransfer
from retable.evaluate.transfer.detection.inputs import InputRecipe
from retable.evaluate.transfer.detection.recipe import DetectorRecipe
from retable.evaluate.transfer.finetune import FineTuning
from retable.evaluate.transfer.pictures import FILE
from retable.evaluate.transfer.segmentation.evaluation import SegmentationTransfer
from retable.evaluate.transfer.segmentation.inputs import CropRecipe
from retable.files import digest_of_tensors
from retable.reproduce.predictions import show_predictions
from retable.reproduce.run import FinishedRun
from retable.tables import Reference, compare
from retable.testing import announce_processes, run_processes
from retable.train import checkpoint as training_checkpoint
from retable.train.pretrain import Training
from retable.views import center, crop_and_flip
from retable.weights import load_encoder, save_encoder

ENCODER = ResNetRecipe("small_resnet8", width=0.25)
SCENES = "shapes-scenes?count=24&test_count=6&size=48&classes=4"
DETECTOR = replace(DetectorRecipe().shrunk(48), side=3, hidden=16, chosen=16)
DETECTION = DetectionTransfer(
    detector=DETECTOR,
    inputs=InputRecipe.around(48),
    lr=0.002,
    batch=4,
    steps=8,
    milestones=(6,),
    warmup=3,
    precise=1,
)
SMALL: dict[str, tuple[Transfer, str, int]] = {
    "finetune": (
        FineTuning(
            lr=0.01,
            head_lr=0.02,
            batch=16,
            bn_group=8,
            epochs=3,
            milestones=(2,),
            train_view=crop_and_flip(16),
            test_view=center(16),
            data=EvalData(labels=0.5, balanced=True),
        ),
        "shapes?count=200&test_count=60&size=16&classes=4",
        18,
    ),
    "c4": (DETECTION, SCENES, 8),
    "fpn": (
        replace(DETECTION, detector=replace(DETECTOR, kind="fpn", masks=True), metric="coco"),
        SCENES,
        8,
    ),
    "segmentation": (
        SegmentationTransfer(
            hidden=8,
            dilation=1,
            batch=8,
            epochs=3,
            milestones=(2,),
            crops=CropRecipe(size=40),
        ),
        SCENES,
        9,
    ),
}
"""Evaluations, their data and their steps. Rates are low, so that rounding grows slowly enough to
compare trainings."""

each = pytest.mark.parametrize("name", SMALL)


@pytest.fixture
def checkpoint(tmp_path: Path) -> str:
    path = tmp_path / "encoder.safetensors"
    save_encoder(path, ENCODER.build(5), ENCODER, {})
    return str(path)


def run(name: str, checkpoint: str, directory: Path | None = None) -> dict[str, float]:
    recipe, data, _ = SMALL[name]
    encoder = load_encoder(checkpoint).encoder
    context = EvalContext("cpu", directory=directory, checkpoint=checkpoint)
    before = digest_of_tensors(encoder.state_dict())
    results = recipe.run(encoder, source_opener(data), context, seed=3)
    assert results.keys() == recipe.metrics.keys()
    assert digest_of_tensors(encoder.state_dict()) == before
    return results


def last_state(name: str, folder: Path) -> dict[str, torch.Tensor]:
    """Return the state of the method after the last step."""
    found = training_checkpoint.load_newest(folder / "training" / "checkpoints")
    assert found is not None
    step, state = found
    assert step == SMALL[name][2]
    method: dict[str, torch.Tensor] = state["method"]
    return method


@each
@pytest.mark.parametrize("step", [1, 7])
def test_an_interrupted_training_ends_with_the_same_bits(
    name: str, step: int, checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = run(name, checkpoint, tmp_path / "whole")
    make_step: Callable[..., Any] = Training.make_step

    def dying(training: Training, *arguments: Any) -> Any:
        if training.step == step:
            raise KeyboardInterrupt
        return make_step(training, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Training, "make_step", dying)
        with pytest.raises(KeyboardInterrupt):
            run(name, checkpoint, tmp_path / "parts")
    assert run(name, checkpoint, tmp_path / "parts") == expected
    pictures = [(tmp_path / place / FILE) for place in ("whole", "parts")]
    assert [picture.exists() for picture in pictures] == [name != "finetune"] * 2
    states = [last_state(name, tmp_path / place) for place in ("whole", "parts")]
    assert digest_of_tensors(states[0]) == digest_of_tensors(states[1])


def test_a_finished_training_is_read_and_another_is_refused(
    checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = run("finetune", checkpoint, tmp_path / "state")
    monkeypatch.delattr("retable.evaluate.transfer.base.train")
    assert run("finetune", checkpoint, tmp_path / "state") == expected
    recipe, data, steps = SMALL["finetune"]
    monkeypatch.setitem(SMALL, "other", (replace(recipe, lr=0.1), data, steps))  # type: ignore[type-var]
    with pytest.raises(UserError, match="made by another recipe"):
        run("other", checkpoint, tmp_path / "state")


def _two_processes(folder: Path) -> dict[str, dict[str, float]]:
    announce_processes()
    checkpoint = str(folder / "encoder.safetensors")
    return {name: run(name, checkpoint, folder / "two" / name) for name in SMALL}


def test_two_processes_train_as_one(checkpoint: str, tmp_path: Path) -> None:
    first, second = run_processes(_two_processes, 2, tmp_path)
    assert first == second
    for name in SMALL:
        run(name, checkpoint, tmp_path / "one" / name)
        alone, shared = (last_state(name, tmp_path / place / name) for place in ("one", "two"))
        assert alone.keys() == shared.keys()
        for parameter, expected in alone.items():
            message = f"{name} {parameter}"
            torch.testing.assert_close(
                shared[parameter], expected, rtol=1e-3, atol=1e-4, msg=message
            )


@pytest.mark.parametrize("name", ["c4", "segmentation"])
def test_images_without_objects_or_classes_of_pixels_end_with_a_sentence(
    name: str, checkpoint: str
) -> None:
    recipe = SMALL[name][0]
    context = EvalContext("cpu", checkpoint=checkpoint)
    with pytest.raises(UserError, match=r"`data` of .* must have .* got 'shapes\?"):
        recipe.run(ENCODER.build(0), source_opener("shapes?count=20&size=16"), context, seed=0)


def test_a_metric_that_is_not_installed_ends_with_a_sentence_before_the_training(
    checkpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    present = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name: None if name == "faster_coco_eval" else present(name),
    )
    monkeypatch.delattr("retable.evaluate.transfer.base.train")
    with pytest.raises(UserError, match=r"COCO's average precision .*the extra `detection`"):
        run("fpn", checkpoint)


def test_a_part_of_the_scenes_is_learned_from() -> None:
    recipe = replace(DETECTION, data=EvalData(labels=0.5, split="validation"))
    splits = recipe.open_images(source_opener(SCENES))
    assert (len(splits.train), len(splits.test)) == (11, 2)
    whole = source_opener(SCENES)("train")
    base: Any = splits.train
    assert torch.equal(base.objects(3).boxes, whole.objects(int(base.indices[3])).boxes)  # type: ignore[attr-defined]
    assert base.size_of(0) == (48, 48)
    assert base.has_objects().tolist() == [True] * 11


def test_pictures_of_predictions_become_part_of_a_report(paper: Reference, tmp_path: Path) -> None:
    run_of_row = FinishedRun(tmp_path / "run")
    place = run_of_row.folder / "evaluations/voc-0123456789abcdef"
    place.mkdir(parents=True)
    (place / FILE).write_bytes(b"picture")
    (tmp_path / "report").mkdir()
    compared = compare(paper, {"ours": {"top1": {4: 30.0}}}, scale="proxy")
    show_predictions(compared, {"ours": {4: run_of_row}}, tmp_path / "report")
    assert (tmp_path / "report/predictions-ours-voc.png").read_bytes() == b"picture"
