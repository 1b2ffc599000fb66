"""The papers' recipes at proxy scale: proportions that are kept, and what all have in common."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from feature_transform import MoCoFTRecipe
from mochi import MoCHiRecipe
from reproductions.baselines import FACTS
from reproductions.check_tables import find_scripts
from retable.data.sources import with_parameter
from retable.evaluate.linear import LinearProbe
from retable.methods import MoCoRecipe
from retable.reproduce import Table, TableRow
from retable.reproduce.command import load_table
from retable.reproduce.shrinking import PROXY
from retable.tables import load_reference
from retable.train.schedules import ScheduleRecipe

SCRIPTS = {f"{script.parent.name}-{script.stem}": script for script in find_scripts()}
CONTRASTIVE = [name for name in SCRIPTS if not name.startswith("revisiting_ssl")]


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
