"""Tables of transfer: gains over supervised training, columns without data, stand-ins."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from reproductions.feature_transform import fine_grained
from reproductions.relicv2 import figure5, table9
from retable.data.sources import open_source
from retable.data.transfer.classification.sets import CLASSIFICATION_SETS, TRANSFER_SETS
from retable.evaluate.data import EvalData
from retable.evaluate.sweep import Sweep
from retable.evaluate.transfer.finetune import FineTuning
from retable.reproduce import FinishedRun, Table
from retable.reproduce.arguments import parse
from retable.reproduce.plan import resolve_rows
from retable.reproduce.results import Outcomes, compare_table
from retable.reproduce.shrinking import PROXY, STAND_INS, stand_in

PAPER = ["--scale", "paper", "--data", "imagefolder:x"]


def finished(**metrics: float) -> FinishedRun:
    return FinishedRun(
        folder=Path(), metrics={name.replace("__", "."): v for name, v in metrics.items()}
    )


def test_the_gain_is_the_mean_over_data_sets_in_percent_of_supervised_training() -> None:
    runs = {
        "relicv2": {
            3: finished(
                dtd_linear__top1=60.0, pets_linear__mean_per_class=45.0, pets_linear__top1=1
            )
        },
        "supervised": {
            3: finished(
                dtd_linear__top1=50.0, pets_linear__mean_per_class=50.0, pets_linear__top1=2
            )
        },
    }
    column = figure5.MeanGain("linear")
    assert column.value("relicv2", 3, runs) == pytest.approx((20.0 - 10.0) / 2)
    assert column.value("supervised", 3, runs) == 0.0
    assert column.value("relicv2", 4, runs) is None
    assert figure5.MeanGain("finetuned").value("relicv2", 3, runs) is None


def test_birdsnap_enters_no_mean_and_no_verdict() -> None:
    runs = {name: {0: finished(birdsnap_linear__top1=1.0)} for name in ("relicv2", "supervised")}
    assert figure5.MeanGain("linear").value("relicv2", 0, runs) is None
    compared = compare_table(
        figure5.TABLE,
        resolve_rows(figure5.TABLE, parse(figure5.TABLE, PAPER)[0]),
        Outcomes({"relicv2": {"birdsnap_linear": {0: 1.0}}}, {}, {}),
        parse(figure5.TABLE, [*PAPER, "--birdsnap", "birdsnap:hub"])[0],
    )
    (row,) = (row for row in compared.rows if row.row.key == "relicv2")
    assert (
        "not comparable: its images were published as links" in row.cells["birdsnap_linear"].reason
    )


def test_data_sets_that_are_not_given_are_left_out_and_named() -> None:
    selection, _ = parse(figure5.TABLE, [*PAPER, "--dtd", "dtd:/data/dtd"])
    rows = resolve_rows(figure5.TABLE, selection)
    names = {each.name for row in rows.values() for each in row.evaluations}
    assert names == {"dtd_linear", "dtd_finetuned"}
    assert rows["relicv2"].evaluations[0].data == EvalData("dtd:/data/dtd")
    compared = compare_table(figure5.TABLE, rows, Outcomes({}, {}, {}), selection)
    reasons = {key: cell.reason for key, cell in compared.rows[0].cells.items()}
    assert (
        "needs --pets DIR (Oxford-IIIT Pets in its folder, or pets:hub)" in reasons["pets_linear"]
    )
    assert "--dtd" not in reasons["dtd_linear"]


@pytest.mark.parametrize("table", [figure5.TABLE, fine_grained.TABLE], ids=lambda t: t.name)
def test_small_scales_have_stand_ins_for_some_data_sets_and_name_the_others(table: Table) -> None:
    for scale in ("proxy", "smoke"):
        rows = resolve_rows(table, parse(table, ["--scale", scale])[0])
        left_out = table.columns_left_out(scale)
        for row in rows.values():
            for evaluation in row.evaluations:
                assert evaluation.data.source.startswith("shapes?")
                assert not any(key.startswith(evaluation.name) for key in left_out)
    named = {key.rpartition("_")[0] for key in figure5.TABLE.columns_left_out("proxy")}
    assert named == {*TRANSFER_SETS} - STAND_INS.keys()
    assert not fine_grained.TABLE.columns_left_out("proxy")
    assert not figure5.TABLE.columns_left_out("paper")


@pytest.mark.parametrize("name", STAND_INS)
def test_a_stand_in_has_other_classes_or_other_images_than_the_pretraining(name: str) -> None:
    source = open_source(stand_in(name, replace(PROXY, transfer_images=70)), "train")
    own = open_source(PROXY.data, "train")
    assert len(source) == 70
    assert source.class_names != own.class_names
    assert name in CLASSIFICATION_SETS


def test_the_transfers_of_figure_5_choose_settings_and_those_of_the_supplement_do_not() -> None:
    for evaluation in figure5.EVALUATIONS:
        assert isinstance(evaluation, Sweep)
        assert len(evaluation.settings()) in (16, 32)
    rows = resolve_rows(fine_grained.TABLE, parse(fine_grained.TABLE, PAPER)[0])
    assert not any(row.evaluations for row in rows.values())  # no data set is given
    stated = fine_grained.tuned_on("cub200")
    assert isinstance(stated, FineTuning)
    assert (stated.lr, stated.epochs, stated.schedule) == (5e-3, 100, "cosine")


def test_table_9_reads_simclr_s_lists() -> None:
    selection, _ = parse(table9.TABLE, [*PAPER, "--simclr-lists", "/lists"])
    (row,) = resolve_rows(table9.TABLE, selection).values()
    one, ten = row.evaluations
    assert (one.data.files, ten.data.files) == ("/lists/1percent.txt", "/lists/10percent.txt")
    assert (one.data.labels, one.data.balanced) == (1.0, False)
