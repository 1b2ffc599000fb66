"""Splitting the global batch over gloo processes changes a training by float rounding alone.

Through the real loop. What papers leave to their hardware, images in a batch-norm group, is fixed
by the recipe: 16 of a batch of 64, so that one process holds four groups and two hold two each; or
all 64, where papers synchronise over all devices, so that the group spans both processes.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor

from feature_transform import (
    BYOLFTRecipe,
    InfoMinRecipe,
    MoCoFTRecipe,
    SimCLRFTRecipe,
    SimSiamFTRecipe,
    SwAVRecipe,
    TransformRecipe,
)
from mochi.method import MoCHiRecipe
from nonsemantic_negatives import BYOLNSRecipe, MoCoNSRecipe, PatchNegatives
from relicv2 import ReLICv2Recipe
from relicv2 import views as relicv2_views
from relicv2.multi_view_simclr import MultiViewSimCLRRecipe
from retable import distributed, views
from retable.data.sources import open_source
from retable.encoders import ResNetRecipe
from retable.files import read_record
from retable.methods import BYOLRecipe, SimCLRRecipe, SimSiamRecipe, SupervisedRecipe, moco_v2
from retable.methods.method import Method, MethodRecipe
from retable.nn.momentum import MomentumRecipe
from retable.nn.patches import PatchGrid
from retable.testing import StoppedError, run_processes
from retable.train import pretrain
from retable.train.gradients import read_landscape
from retable.train.optim import OptimizerRecipe
from retable.train.options import RunOptions
from retable.train.pretrain import make_accelerator
from retable.train.recipe import PretrainRecipe, build_method
from retable.train.runs import RunDirectory
from retable.train.schedules import ScheduleRecipe
from retable.train.traces import read_traces
from revisiting_ssl import (
    ExemplarRecipe,
    JigsawRecipe,
    RelativePatchLocationRecipe,
    RotationRecipe,
)

PATCHES = PatchNegatives(low=5, high=12)
SMALL_BYOL: dict[str, Any] = {
    "dim": 32,
    "hidden_dim": 64,
    "momentum": MomentumRecipe(0.99, "cosine"),
}
METHODS: dict[str, MethodRecipe] = {
    "moco_v2": moco_v2(queue=192, momentum=0.99),
    "mochi": MoCHiRecipe(
        queue=192, momentum=0.99, n_hard=32, s=24, s_prime=16, mixing_warmup_epochs=1
    ),
    "moco_ft": MoCoFTRecipe(
        queue=192, temperature=0.2, transform=TransformRecipe(draw_group=16, start_epoch=0.5)
    ),
    "moco_ft_hard": MoCoFTRecipe(
        queue=192,
        temperature=0.2,
        transform=TransformRecipe(negatives="hard", level="dimension", hard_weight_on="negative"),
    ),
    "supervised": SupervisedRecipe(16),
    # At the paper's temperatures, 0.1 and 0.05, rounding grows thirtyfold in each of these steps.
    "swav": SwAVRecipe(
        prototypes=48,
        temperature=0.3,
        epsilon=0.2,
        queue=64,
        queue_start_epoch=0,
        frozen_prototype_steps=2,
        hidden_dim=64,
        transform=TransformRecipe(negatives="none"),
    ),
    "simclr": SimCLRRecipe(dim=32),
    "byol": BYOLRecipe(**SMALL_BYOL),
    "simsiam": SimSiamRecipe(dim=64, predictor_hidden_dim=16),
    "simclr_ft": SimCLRFTRecipe(dim=32, transform=TransformRecipe(draw_group=16, start_epoch=0.5)),
    "byol_ft": BYOLFTRecipe(
        **SMALL_BYOL,
        transform=TransformRecipe(negatives="none", level="dimension", renormalise=True),
    ),
    "simsiam_ft": SimSiamFTRecipe(
        dim=64,
        predictor_hidden_dim=16,
        transform=TransformRecipe(negatives="none", draw_group=16),
        loss_weight=0.5,
    ),
    "moco_ns": MoCoNSRecipe(queue=192, momentum=0.99, negatives=PATCHES),
    "byol_ns": BYOLNSRecipe(**SMALL_BYOL, negatives=PATCHES),
    "byol_regular": BYOLNSRecipe(**SMALL_BYOL, negatives=None, regular=True),
    "byol_ns_regular": BYOLNSRecipe(**SMALL_BYOL, negatives=PATCHES, regular=True),
    "relicv2": ReLICv2Recipe(**SMALL_BYOL, large=2, negatives=5),
    "relicv2_transpose": ReLICv2Recipe(
        **SMALL_BYOL, large=2, negatives=5, reference="transpose", stop_gradient="second"
    ),
    "relicv2_simclr": MultiViewSimCLRRecipe(dim=32, large=2),
    "infomin": InfoMinRecipe(
        queue=192, momentum=0.99, cell=11, crop=8, transform=TransformRecipe(start_epoch=1)
    ),
    "rotation": RotationRecipe(),
    "exemplar": ExemplarRecipe(dim=32, mining_group_images=16),
    "jigsaw": JigsawRecipe(
        patches=PatchGrid(cell=16, patch=12),
        embed_dim=32,
        hidden_dim=64,
        permutations=10,
        permutations_per_image=4,
    ),
    "relative_patch_location": RelativePatchLocationRecipe(
        patches=PatchGrid(cell=16, patch=12), embed_dim=32, hidden_dim=64
    ),
}
RATES = {"exemplar": 0.1, "jigsaw": 1.0, "relative_patch_location": 1.0}
"""Learning rates that move these losses in four steps: the patch tasks' heads begin near zero."""
SYNCHRONISED = {
    *("simclr", "byol", "simsiam", "simclr_ft", "byol_ft", "simsiam_ft"),
    *("byol_ns", "byol_regular", "byol_ns_regular"),
    *("relicv2", "relicv2_transpose", "relicv2_simclr"),
}
STEPS = 4  # two epochs of two; the queue of three batches wraps, MoCHi mixes in the second epoch


def assert_equal_to_rounding(found: Tensor, expected: Tensor, what: str) -> None:
    """Allow what another order of summation does in four steps, and nothing else.

    Gradients and group means are sums over the batch. Rounded otherwise, by 1e-7, they part at a
    rate that the network decides: measured 2e-7 for two processes on an AMD processor, 7e-4 on an
    Intel one (relative patch location); 7e-5 for one process with another memory format, which is
    rounding alone. Batch-norm groups of 32 instead of 16 images, the smallest fault of this kind,
    move a loss by 1e-2 and running statistics by 2e-2.
    """
    assert (found - expected).abs().max() <= 2e-3 * max(1.0, float(expected.abs().max())), what


def recipe(name: str) -> PretrainRecipe:
    view = views.moco_v2(32)
    masked = relicv2_views(2, 1, size=32, small_size=16, mask="mask", mask_probability=0.5)
    chosen = {
        **dict.fromkeys(("relicv2", "relicv2_transpose", "relicv2_simclr"), masked),
        "supervised": (views.crop_and_flip(32),),
        "swav": views.swav(32, 16, 2),
        "infomin": (views.infomin(32), views.infomin(32), views.jigsaw(33)),
        "rotation": (views.inception(32),),
        "exemplar": (views.inception(32, standardise=True, gray_probability=0.66),) * 4,
        "jigsaw": (views.patch_tasks(48, 55),),
        "relative_patch_location": (views.patch_tasks(48, 55),),
    }
    return PretrainRecipe(
        method=METHODS[name],
        data="shapes?count=128&test_count=64&classes=16",
        views=chosen.get(name, (view, view)),
        encoder=ResNetRecipe("small_resnet8"),
        optimizer=OptimizerRecipe(
            # At 0.03 rounding grows tenfold in each step of a network with batch norm in its heads.
            lr=0.003 if name in SYNCHRONISED else RATES.get(name, 0.03),
            momentum=0.9,
            weight_decay=1e-4,
            schedule=ScheduleRecipe("cosine", per="step"),
        ),
        epochs=2,
        batch=64,
        bn_group=64 if name in SYNCHRONISED else 16,
    )


def accelerator() -> Any:
    """Return an accelerator for the group that this process is already in."""
    os.environ["ACCELERATE_USE_CPU"] = "true"
    if distributed.process_count() > 1:
        number = str(distributed.process_index())
        count = str(distributed.process_count())
        os.environ |= {"RANK": number, "LOCAL_RANK": number}
        os.environ |= {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "OMP_NUM_THREADS": "1"}
    made = make_accelerator("float32")
    assert made.num_processes == distributed.process_count()
    return made


def train(folder: Path, name: str, stop: bool = False) -> dict[str, Any]:
    """Train in all processes of the group; return losses and the state that each holds."""
    directory = RunDirectory(folder / name)
    chosen = recipe(name)
    built = []

    def monitor(method: Method, epoch: int) -> dict[str, float]:
        if stop and epoch == 2:
            raise StoppedError
        return {}

    original = build_method

    def keep(*arguments: Any) -> Any:
        built.append(original(*arguments))
        return built[-1]

    with mock.patch("retable.train.pretrain.build_method", keep):
        summary = pretrain.pretrain(
            chosen,
            0,
            open_source(chosen.data, "train"),
            directory,
            accelerator(),
            # On a CPU torch sums a group of channels-last images one by one and errs by 1e-5 where
            # it has 64: a hundred times what it errs in other formats, or in a sum of shares.
            RunOptions(log_every=1, quiet=True, channels_last=name not in SYNCHRONISED),
            monitor,
        )
    (method,) = built
    lines = [json.loads(line) for line in directory.metrics.read_text().splitlines()]
    return {
        "losses": torch.tensor([line["loss"] for line in lines if line["kind"] == "steps"]),
        "epochs": [epoch["loss"] for epoch in summary["epochs"]],
        "traces": {name: list(trace) for name, trace in read_traces(directory.path).items()},
        "gradients": read_landscape(directory.path).mean,
        "state": {key: value.clone() for key, value in _tensors(method.state_dict()).items()},
    }


def _tensors(state: dict[str, Any]) -> dict[str, Tensor]:
    return {key: value for key, value in state.items() if isinstance(value, Tensor)}


def train_all(folder: str) -> dict[str, dict[str, Any]]:
    """Train every method; the last is stopped after an epoch and left for others to finish."""
    trained = {name: train(Path(folder), name) for name in METHODS}
    if distributed.process_count() > 1:
        with pytest.raises(StoppedError):
            train(Path(folder) / "stopped", "mochi", stop=True)
    return trained


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("processes")


@pytest.fixture(scope="module")
def alone(folder: Path) -> dict[str, dict[str, Any]]:
    (trained,) = run_processes(train_all, 1, str(folder / "alone"))
    return trained


@pytest.fixture(scope="module")
def together(folder: Path) -> list[dict[str, dict[str, Any]]]:
    return run_processes(train_all, 2, str(folder / "together"))


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_two_processes_have_the_losses_of_one(name: str, alone: Any, together: Any) -> None:
    expected = alone[name]["losses"]
    assert len(expected) == STEPS
    assert expected.std() > 0.003  # ten times the allowance, else equality would say little
    assert_equal_to_rounding(together[0][name]["losses"], expected, "losses")
    assert together[0][name]["epochs"] == pytest.approx(alone[name]["epochs"], rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_two_processes_trace_the_scores_and_gradients_of_one(
    name: str, alone: Any, together: Any
) -> None:
    found, expected = together[0][name], alone[name]
    assert found["traces"].keys() == expected["traces"].keys()
    for statistic, (steps, values) in expected["traces"].items():
        assert found["traces"][statistic][0] == steps == list(range(steps[0], STEPS + 1))
        assert found["traces"][statistic][1] == pytest.approx(values, rel=2e-3, abs=1e-5), statistic
    # Measured: 2e-2 where the loss is steepest, with hard negatives; below 1e-2 elsewhere.
    torch.testing.assert_close(found["gradients"], expected["gradients"], rtol=5e-2, atol=1e-5)


@pytest.mark.parametrize("name", ["moco_v2", "mochi", "moco_ft"])
def test_both_processes_hold_the_same_queue_and_it_is_that_of_one(
    name: str, alone: Any, together: Any
) -> None:
    first, second = (trained[name]["state"] for trained in together)
    assert torch.equal(first["queue.rows"], second["queue.rows"])
    assert torch.equal(first["queue.labels"], second["queue.labels"])
    expected = alone[name]["state"]
    assert torch.equal(first["queue.labels"], expected["queue.labels"])
    assert_equal_to_rounding(first["queue.rows"], expected["queue.rows"], "queue")


@pytest.mark.parametrize("name", METHODS)
def test_two_processes_end_with_the_weights_of_one(name: str, alone: Any, together: Any) -> None:
    first, second = (trained[name]["state"] for trained in together)
    assert first.keys() == alone[name]["state"].keys()
    for key, expected in alone[name]["state"].items():
        # Also running statistics: the mean over all groups, wherever they were.
        assert torch.equal(first[key], second[key]), key
        assert_equal_to_rounding(first[key], expected, key)


def test_a_run_begun_by_two_processes_is_finished_by_one(
    folder: Path, alone: Any, together: Any
) -> None:
    stopped = folder / "together" / "stopped"
    assert (stopped / "mochi" / "checkpoints" / f"step-{STEPS // 2:09d}.pt").exists()
    (finished,) = run_processes(train, 1, stopped, "mochi")
    assert_equal_to_rounding(finished["losses"], alone["mochi"]["losses"], "losses")
    for key, expected in alone["mochi"]["state"].items():
        assert_equal_to_rounding(finished["state"][key], expected, key)


@pytest.mark.slow
def test_the_command_line_gives_one_table_on_one_and_two_processes(
    reproduce: Any, tmp_path: Path
) -> None:
    figures = []
    for processes in ("1", "2"):
        runs = tmp_path / processes
        options = ("--scale", "smoke", "--rows", "moco_v2", "--processes", processes)
        reproduce.run("table1", runs, *options)
        (facts,) = runs.glob("moco-*/environment.json")
        assert read_record(facts)["processes"] == int(processes)
        report = runs / "tables" / "mochi-table1-smoke" / "metrics.json"
        figures.append(json.loads(report.read_text())["moco_v2"]["0"])
    one, two = figures
    assert one.keys() == two.keys()
    for name, value in one.items():
        if "top" in name or "mean_per_class" in name:
            # Percentages of 256 images: a prediction flips where two classes tie to rounding.
            # Measured: two images, one in the accuracies that the table prints. Every class has
            # 16 images, so the mean over classes moves as far as the mean over images.
            assert two[name] == pytest.approx(value, abs=3 * 100 / 256), name
        elif name.startswith("pretrain.") and not _of_a_share(name):
            assert two[name] == pytest.approx(value, rel=1e-3, abs=2 / 512), name
        elif not _of_a_share(name):
            # Of weights after 16 steps, in which rounding has grown; measured: 6e-3.
            assert two[name] == pytest.approx(value, rel=2e-2), name


def _of_a_share(name: str) -> bool:
    """Say whether a figure describes each process's queries before it is averaged."""
    return any(word in name for word in ("embedding_spread", "_score_q", "best_epoch"))
