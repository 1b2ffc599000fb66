"""The papers' recipes at proxy scale: proportions that are kept, and what all have in common."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest

from feature_transform import MoCoFTRecipe
from mochi import MoCHiRecipe
from nonsemantic_negatives import MoCoNSRecipe, PatchNegatives, TextureNegatives
from reproductions.baselines import FACTS
from reproductions.check_tables import find_scripts
from reproductions.nonsemantic_negatives.scales import equal_share, gradient_share
from retable.data.sources import with_parameter
from retable.evaluate.linear import LinearProbe
from retable.methods import MoCoRecipe
from retable.reproduce import Table, TableRow
from retable.reproduce.command import load_table
from retable.reproduce.shrinking import PROXY
from retable.tables import load_reference
from retable.train.schedules import ScheduleRecipe

SCRIPTS = {f"{script.parent.name}-{script.stem}": script for script in find_scripts()}
CONTRASTIVE = [name for name in SCRIPTS if name.startswith(("baselines", "mochi", "feature_"))]
NONSEMANTIC = [name for name in SCRIPTS if name.startswith("nonsemantic_negatives")]


def trainings(table: Table) -> Iterator[tuple[str, TableRow, TableRow]]:
    """Yield the name of each training, at the paper's scale and at proxy scale."""
    for row in table.rows:
        for name, full in table.trainings(row).items():
            small = table.shrunk(full, "proxy")
            if small is not None:
                yield name, full, small


@pytest.mark.parametrize("name", SCRIPTS)
def test_claims_are_tested_where_their_facts_show(name: str) -> None:
    table = load_table(SCRIPTS[name])
    depend = any(claim.depends_on for claim in load_reference(table.reference).claims)
    assert not depend or table.facts == FACTS


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_rows_of_a_check_are_among_those_that_run_first(name: str) -> None:
    table = load_table(SCRIPTS[name])
    assert not table.first_rows or set(table.check_rows) <= set(table.first_rows)


@pytest.mark.parametrize("name", CONTRASTIVE)
def test_contrastive_trainings_have_the_common_images_and_length(name: str) -> None:
    for _, full, small in trainings(load_table(SCRIPTS[name])):
        recipe = small.pretrain
        assert recipe.data == PROXY.data
        if full.pretrain.epochs in (100, 200) and isinstance(recipe.method, MoCoRecipe):
            assert recipe.epochs == PROXY.epochs * full.pretrain.epochs // 200
            assert recipe.optimizer.lr == pytest.approx(PROXY.rate * full.pretrain.optimizer.lr)
            assert recipe.bn_group == PROXY.least_group
        by_sgd = {one.name for one in small.evaluations if isinstance(one, LinearProbe)}
        assert by_sgd <= {"sgd"}  # beside the optimum, as a fact


@pytest.mark.parametrize("name", [name for name in SCRIPTS if name.startswith("revisiting_ssl")])
def test_pretext_trainings_have_the_common_images_with_room_for_nine_patches(name: str) -> None:
    for _, full, small in trainings(load_table(SCRIPTS[name])):
        assert small.pretrain.data == with_parameter(PROXY.data, "size", 48)
        assert small.pretrain.epochs == 10 * full.pretrain.epochs // 35


@pytest.mark.parametrize("name", CONTRASTIVE)
def test_schedules_keep_their_shares_of_the_run(name: str) -> None:
    for _, full, small in trainings(load_table(SCRIPTS[name])):
        before, after = (row.pretrain.optimizer.schedule for row in (full, small))
        assert isinstance(after, ScheduleRecipe)
        shares = [
            [milestone / row.pretrain.epochs for milestone in schedule.milestones]
            for row, schedule in ((full, before), (small, after))
        ]
        assert shares[1] == pytest.approx(shares[0], abs=0.5 / small.pretrain.epochs)


@pytest.mark.parametrize("name", [name for name in SCRIPTS if name.startswith("mochi")])
def test_mochi_keeps_the_proportions_of_its_queue(name: str) -> None:
    for _, full, small in trainings(load_table(SCRIPTS[name])):
        before, after = full.pretrain.method, small.pretrain.method
        if not (isinstance(before, MoCHiRecipe) and isinstance(after, MoCHiRecipe)):
            continue
        larger = 1 if before.queue == 16384 else 2
        for field in ("n_hard", "s", "s_prime"):
            share = getattr(after, field) / after.queue
            assert share == pytest.approx(larger * getattr(before, field) / before.queue)


@pytest.mark.parametrize("name", ["feature_transform-table6", "feature_transform-table7"])
def test_the_baseline_of_transformations_is_the_one_whose_scores_are_a_fact(name: str) -> None:
    (scores, *_) = (c for c in load_reference(FACTS).claims if c.key == "healthy_scores")
    baseline, of_fact = (
        {label: small.pretrain for label, _, small in trainings(load_table(SCRIPTS[table]))}
        for table in (name, "baselines-facts")
    )
    assert baseline["moco_v1"] == of_fact[scores.better]


@pytest.mark.parametrize("name", [name for name in SCRIPTS if name.startswith("feature_")])
def test_transformations_start_at_their_share_of_the_run_with_a_full_queue(name: str) -> None:
    for label, full, small in trainings(load_table(SCRIPTS[name])):
        before, after = full.pretrain.method, small.pretrain.method
        if not (isinstance(before, MoCoFTRecipe) and isinstance(after, MoCoFTRecipe)):
            continue
        start = after.transform.start_epoch
        filled = after.queue / PROXY.images
        share = before.transform.start_epoch / full.pretrain.epochs
        assert (start == 0.0) == (before.transform.start_epoch == 0.0), label
        assert start == pytest.approx(share * small.pretrain.epochs) or start > filled
        assert after.transform.draw_group == small.pretrain.bn_group
        assert after.momentum == before.momentum


@pytest.mark.parametrize("name", NONSEMANTIC)
def test_nonsemantic_negatives_keep_their_share_of_the_gradient(name: str) -> None:
    for label, full, small in trainings(load_table(SCRIPTS[name])):
        assert small.pretrain.epochs == PROXY.epochs
        before, after = full.pretrain.method, small.pretrain.method
        if isinstance(before, MoCoRecipe) and isinstance(after, MoCoRecipe):
            assert after.queue == min(1000 * before.queue // 16384, 2000), label
        if not (isinstance(before, MoCoNSRecipe) and isinstance(after, MoCoNSRecipe)):
            continue
        shares = [gradient_share(m.alpha, m.queue, m.temperature) for m in (before, after)]
        assert shares[1] == pytest.approx(shares[0], rel=0.03), label  # alpha has two decimals
        assert after.negatives in (PatchNegatives(low=5, high=12), TextureNegatives())


def test_the_small_alphas_are_those_of_the_sheet_s_formula() -> None:
    # alpha e^(alpha 0.404 / 0.2) / (e^(0.9 / 0.2) + e^(alpha 0.404 / 0.2) + K)
    weight = math.exp(2 * 0.404 / 0.2)
    expected = 2 * weight / (math.exp(4.5) + weight + 16384)
    assert gradient_share(2, 16384, 0.2) == pytest.approx(expected)
    assert equal_share(2, 16384, 1024, 0.2) == pytest.approx(1.01, abs=0.005)
    assert equal_share(3, 16384, 1024, 0.2) == pytest.approx(1.90, abs=0.005)
    assert equal_share(2, 8192, 512, 0.2) == pytest.approx(1.03, abs=0.005)
    assert equal_share(2, 65536, 4096, 0.2) == pytest.approx(0.99, abs=0.01)
