from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest

from retable.encoders import EncoderRecipe, ResNetRecipe
from retable.errors import UserError
from retable.evaluate.geometry import Geometry
from retable.evaluate.knn import Knn
from retable.evaluate.linear import LinearProbe
from retable.evaluate.transfer.finetune import FineTuning
from retable.reproduce import Metric, Table, TableRow
from retable.reproduce.dry_run import render_prices, render_recipes
from retable.reproduce.plan import TableSelection, plan_runs, resolve_rows
from retable.reproduce.pricing import (
    Rate,
    measured_rate,
    price,
    price_evaluation,
    published_rate,
)
from retable.train.cost import forward_flops
from retable.train.memory import training_memory
from retable.train.recipe import PretrainRecipe
from retable.views import ViewRecipe

Changed = Callable[..., PretrainRecipe]


def test_rows_that_share_a_pretraining_share_one_run_with_all_their_evaluations(
    contrastive: Changed, supervised: Changed
) -> None:
    rows = {
        "a": TableRow(contrastive(), (Knn(k=5),)),
        "b": TableRow(contrastive(), (Geometry(), Knn(k=5))),
        "c": TableRow(supervised(), (Knn(k=5),)),
    }
    first, second = plan_runs(rows, [0])
    assert (first.rows, first.evaluations) == (("a", "b"), (Knn(k=5), Geometry()))
    assert second.rows == ("c",)


def test_every_seed_is_a_run_of_its_own_and_seeds_come_one_after_another(
    contrastive: Changed, supervised: Changed
) -> None:
    rows = {"a": TableRow(contrastive(), ()), "b": TableRow(supervised(), ())}
    runs = plan_runs(rows, [4, 2])
    assert [(run.seed, run.rows) for run in runs] == [
        (4, ("a",)),
        (4, ("b",)),
        (2, ("a",)),
        (2, ("b",)),
    ]
    assert len({run.name for run in runs}) == 4


def test_a_runs_name_tells_the_method_and_follows_its_recipe_alone(contrastive: Changed) -> None:
    (one,) = plan_runs({"a": TableRow(contrastive(), (Knn(),))}, [0])
    (same,) = plan_runs({"b": TableRow(contrastive(), (Geometry(),))}, [0])
    (other,) = plan_runs({"a": TableRow(contrastive(batch=8), (Knn(),))}, [0])
    assert one.name.startswith("moco-")
    assert one.name == same.name != other.name


@pytest.fixture
def side_by_side(table: Table, contrastive: Changed, supervised: Changed) -> Table:
    """Make a table whose rows print two trainings each."""
    plain, changed = TableRow(contrastive(), (Knn(k=5),)), TableRow(contrastive(batch=8), ())
    rows = {
        "a": {"one": plain, "two": TableRow(supervised(), ())},
        "b": {"one": changed, "two": plain},
    }
    columns = {"top1": Metric("knn.top1", variant="one")}
    return dataclasses.replace(table, rows=rows, columns=columns)


def test_a_row_selects_all_of_its_trainings(side_by_side: Table) -> None:
    assert list(resolve_rows(side_by_side, TableSelection())) == [
        "a/one",
        "a/two",
        "b/one",
        "b/two",
    ]
    assert list(resolve_rows(side_by_side, TableSelection(rows=("b",)))) == ["b/one", "b/two"]
    with pytest.raises(UserError, match=r"has no row a/three. Choose from a, b\."):
        resolve_rows(side_by_side, TableSelection(rows=("a/three",)))


def test_one_training_of_a_row_can_be_asked_for(side_by_side: Table) -> None:
    assert list(resolve_rows(side_by_side, TableSelection(rows=("a/two", "b")))) == [
        "a/two",
        "b/one",
        "b/two",
    ]


def test_a_scale_leaves_out_what_its_function_does_not_return(side_by_side: Table) -> None:
    def small_batches(row: TableRow) -> TableRow | None:
        return row if row.pretrain.batch == 8 else None

    sparse = dataclasses.replace(side_by_side, proxy=small_batches)
    assert list(resolve_rows(sparse, TableSelection())) == ["b/one"]
    assert len(resolve_rows(sparse, TableSelection(scale="smoke"))) == 4
    with pytest.raises(UserError, match="has no row a at proxy scale"):
        resolve_rows(sparse, TableSelection(rows=("a",)))


def test_scales_and_overrides_reach_every_training_of_a_row(side_by_side: Table) -> None:
    rows = resolve_rows(side_by_side, TableSelection(overrides=("pretrain.epochs=9",), max_steps=3))
    assert {row.pretrain.epochs for row in rows.values()} == {9}
    assert {row.pretrain.max_steps for row in rows.values()} == {3}


def test_equal_trainings_are_one_run_wherever_they_stand(side_by_side: Table) -> None:
    runs = plan_runs(resolve_rows(side_by_side, TableSelection()), [0])
    assert [run.rows for run in runs] == [("a/one", "b/two"), ("a/two",), ("b/one",)]


def test_a_dry_run_prices_every_training_of_a_row(side_by_side: Table) -> None:
    runs = plan_runs(resolve_rows(side_by_side, TableSelection()), [0])
    text = render_recipes(side_by_side, runs, "proxy", 72)
    assert "a/one, b/two  seed 0  moco-" in text
    assert "b/one  seed 0  moco-" in text
    assert text.count("images, ") == 3


def test_an_unknown_row_is_named_with_those_that_there_are(table: Table) -> None:
    with pytest.raises(
        UserError, match=r"paper-unit has no row moco, x. Choose from contrastive, supervised"
    ):
        resolve_rows(table, TableSelection(rows=("moco", "supervised", "x")))


def test_rows_are_chosen_and_keep_the_tables_order(table: Table) -> None:
    assert list(resolve_rows(table, TableSelection())) == ["contrastive", "supervised"]
    assert list(resolve_rows(table, TableSelection(rows=("supervised",)))) == ["supervised"]


@pytest.mark.parametrize("scale", ["proxy", "smoke"])
def test_data_belongs_to_paper_scale(table: Table, scale: str) -> None:
    with pytest.raises(UserError, match=f"The {scale} scale uses the built-in data set"):
        resolve_rows(table, TableSelection(scale=scale, data="imagefolder:x"))


def test_each_scale_shrinks_by_the_tables_own_function(table: Table) -> None:
    def shrink(epochs: int) -> Callable[[TableRow], TableRow]:
        return lambda row: dataclasses.replace(
            row, pretrain=dataclasses.replace(row.pretrain, epochs=epochs)
        )

    table = dataclasses.replace(table, proxy=shrink(7), smoke=shrink(1), subset="imagenet100")
    epochs = {
        scale: resolve_rows(table, TableSelection(scale=scale))["supervised"].pretrain.epochs
        for scale in ("proxy", "smoke", "paper")
    }
    assert epochs == {"proxy": 7, "smoke": 1, "paper": 2}
    paper = resolve_rows(table, TableSelection(scale="paper", data="imagefolder:x"))
    assert paper["supervised"].pretrain.data == "imagefolder:x"
    assert paper["supervised"].pretrain.subset == "imagenet100"


def test_precision_and_length_are_part_of_the_recipe_hence_of_the_run(table: Table) -> None:
    (plain, *_) = plan_runs(resolve_rows(table, TableSelection()), [0])
    (half, *_) = plan_runs(resolve_rows(table, TableSelection(precision="bf16")), [0])
    (short, *_) = plan_runs(resolve_rows(table, TableSelection(max_steps=3)), [0])
    assert half.recipe.precision == "bf16"
    assert short.recipe.max_steps == 3
    assert len({plain.name, half.name, short.name}) == 3


def test_max_steps_also_stops_the_evaluations_that_train(
    table: Table, contrastive: Changed
) -> None:
    rows = {"a": TableRow(contrastive(), (LinearProbe(), Knn(k=5)))}
    table = dataclasses.replace(table, rows=rows)
    probe, knn = resolve_rows(table, TableSelection(max_steps=3))["a"].evaluations
    assert isinstance(probe, LinearProbe)
    assert probe.max_steps == 3
    assert knn == Knn(k=5)


def test_a_price_counts_whole_batches_and_the_methods_passes(
    contrastive: Changed, supervised: Changed
) -> None:
    flops = forward_flops(contrastive().encoder.build(0), 16)
    cost = price(contrastive(), images=72)
    assert (cost.steps, cost.images) == (8, 128)
    assert cost.flops == 128 * 4 * flops  # query forward and backward 3, key forward 1
    assert price(supervised(), images=72).flops == 128 * 3 * flops
    assert price(contrastive(max_steps=3), images=72).steps == 3


def test_a_dry_run_says_what_a_process_needs_of_memory_for_its_part(table: Table) -> None:
    runs = plan_runs(resolve_rows(table, TableSelection(rows=("supervised",))), [0])
    needed = []
    for parts in (1, 4):
        text = render_recipes(table, runs, "proxy", 72, parts)
        (line,) = (line for line in text.splitlines() if "memory about" in line)
        assert line.endswith(f" GiB for {16 // parts} images a process")
        needed.append(float(line.split()[2]))
    expected = [training_memory(runs[0].recipe, 16 // parts) / 2**30 for parts in (1, 4)]
    assert needed == pytest.approx(expected, rel=0.05)
    assert needed[1] < needed[0]


def test_views_are_priced_at_their_own_sizes(contrastive: Changed) -> None:
    large, small = (resized(contrastive(), side) for side in (24, 16))
    recipe = dataclasses.replace(contrastive(), views=(large, small))
    encoder = recipe.encoder.build(0)
    expected = 3 * forward_flops(encoder, 24) + forward_flops(encoder, 16)  # query, key
    assert price(recipe, images=72).flops == 128 * expected


def resized(recipe: PretrainRecipe, side: int) -> ViewRecipe:
    return dataclasses.replace(recipe.views[0], size=side)


@pytest.mark.parametrize(
    ("encoder", "multiply_adds"),
    [
        (ResNetRecipe("resnet50", width=4.0), 16 * 4.09e9),  # of ResNet-50, torchvision
        (ResNetRecipe("resnet18", width=4.0), 16 * 1.81e9),  # of ResNet-18, torchvision
    ],
)
def test_an_encoder_that_would_not_fit_here_is_priced_without_running_it(
    supervised: Changed, encoder: EncoderRecipe, multiply_adds: float
) -> None:
    recipe = supervised(encoder=encoder, views=(resized(supervised(), 224),))
    flops = price(recipe, images=72).flops / (128 * 3)
    assert flops == pytest.approx(2 * multiply_adds, rel=0.08)


def test_a_dry_run_shows_every_runs_recipe_and_price(table: Table) -> None:
    text = render_recipes(
        table, plan_runs(resolve_rows(table, TableSelection()), [0, 1]), "proxy", 72
    )
    assert text.startswith("paper-unit at proxy scale: 4 runs on 72 training images")
    assert "contrastive  seed 1  moco-" in text
    assert "2 epochs, 8 steps of 16 images: 128 images" in text
    assert '"temperature": 0.2' in text
    assert text.count("evaluate  {") == 2, "of each row once"
    assert text.count("  as contrastive with seed 0\n") == 1
    assert text.count("  as supervised with seed 0\n") == 1
    assert text.count(" GiB for 16 images a process") == 4
    assert text.endswith("Nothing was run.")


def test_a_dry_run_tells_a_recipe_by_what_tells_it_from_one_before(
    table: Table, contrastive: Changed, supervised: Changed
) -> None:
    rows = {
        "first": TableRow(contrastive(), (Knn(k=5),)),
        "other": TableRow(supervised(), (Knn(k=5),)),
        "longer": TableRow(contrastive(epochs=7), (Knn(k=5),)),
        "longest": TableRow(contrastive(epochs=9, batch=8), (Knn(k=3),)),
    }
    runs = plan_runs(resolve_rows(dataclasses.replace(table, rows=rows), TableSelection()), [0])
    blocks = render_recipes(table, runs, "proxy", 72).split("\n\n")[1:-1]
    assert [block.count("  pretrain  {") for block in blocks] == [1, 1, 0, 0]
    assert blocks[2].endswith("\n  as first with seed 0, but pretrain.epochs=7")
    said = blocks[3].rpartition("  as first with seed 0, but ")[2].split()
    assert sorted(said) == ["knn.k=3", "pretrain.batch=8", "pretrain.epochs=9"]
    overrides = tuple(said)
    assert (
        resolve_rows(
            dataclasses.replace(table, rows={"first": rows["first"]}),
            TableSelection(overrides=overrides),
        )["first"]
        == rows["longest"]
    ), "what is said can be given to --set"


def test_a_dry_run_is_a_table_with_a_line_for_each_recipe(
    table: Table, contrastive: Changed, supervised: Changed
) -> None:
    few = FineTuning(batch=8, bn_group=None, epochs=2, milestones=())
    rows = {"first": TableRow(contrastive(), (Knn(k=5), few)), "other": TableRow(supervised(), ())}
    runs = plan_runs(resolve_rows(dataclasses.replace(table, rows=rows), TableSelection()), [0, 3])
    rate = Rate(1e6, "a stated rate")
    text = render_prices(table, runs, "proxy", 72, 2, rate=rate, devices=2)
    lines = text.splitlines()
    assert lines[0] == "paper-unit at proxy scale: 4 runs on 72 training images"
    (first,) = (line for line in lines if line.startswith("first"))
    assert first.split()[1:5] == ["0", "3", "8", "128"]
    assert sum(line.startswith("  finetune") for line in lines) == 1
    assert sum(line.startswith("other") for line in lines) == 1
    flops = sum(price(run.recipe, 72).flops for run in runs)
    tuning = price_evaluation(few, runs[0].recipe.encoder, 7)
    assert tuning is not None
    minutes = (flops + 2 * tuning.flops) / 1e6 / 2 / 60
    assert f"{minutes:.0f} min on 2 devices at least: a stated rate." in text
    assert max(map(len, lines)) <= 100
    assert lines[-1] == "Nothing was run."


def test_without_a_rate_no_time_is_stated(table: Table) -> None:
    runs = plan_runs(resolve_rows(table, TableSelection()), [0])
    text = render_prices(table, runs, "paper", 72)
    assert "time" not in text.partition("With --gpu")[0]
    assert "With --gpu a100 the time is stated." in text


def test_published_rates_are_those_of_their_sources() -> None:
    # NVIDIA/DeepLearningExamples, resnet50v1.5: 367 images of a V100 in float32, 1,200 in half.
    forward = forward_flops(ResNetRecipe("resnet50").build(0), 224)
    rate = published_rate("v100", "float32")
    assert rate is not None
    assert rate.flops == pytest.approx(367 * 3 * forward, rel=0.01)
    assert published_rate("rtx3090", "float32") is None


def test_the_rate_of_this_machine_is_measured(contrastive: Changed) -> None:
    rate = measured_rate(contrastive(), seconds=0.01)
    assert 1e6 < rate.flops < 1e15
    assert "this machine makes" in rate.source
