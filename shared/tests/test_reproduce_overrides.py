from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from retable import views
from retable.errors import UserError
from retable.evaluate.knn import Knn
from retable.evaluate.linear import LinearProbe
from retable.methods import MoCoRecipe
from retable.reproduce.plan import apply_overrides
from retable.reproduce.table import TableRow
from retable.settings import fingerprint
from retable.train.recipe import PretrainRecipe

Changed = Callable[..., PretrainRecipe]


@pytest.fixture
def row(contrastive: Changed) -> TableRow:
    return TableRow(contrastive(), (LinearProbe(train_view=views.crop_and_flip(16)), Knn(k=5)))


def test_no_override_leaves_a_row_as_it_is(row: TableRow) -> None:
    assert apply_overrides(row, ()) == row


@pytest.mark.parametrize(
    ("override", "read", "value"),
    [
        ("pretrain.epochs=5", lambda row: row.pretrain.epochs, 5),
        ("pretrain.method.temperature=1", lambda row: row.pretrain.method.temperature, 1.0),
        ("pretrain.method.head=linear", lambda row: row.pretrain.method.head, "linear"),
        ("pretrain.method.oracle=true", lambda row: row.pretrain.method.oracle, True),
        ("pretrain.bn_group=null", lambda row: row.pretrain.bn_group, None),
        ("pretrain.subset=10%", lambda row: row.pretrain.subset, "10%"),
        ("pretrain.optimizer.schedule.final=0.1",
         lambda row: row.pretrain.optimizer.schedule.final, 0.1),
        ("linear.milestones=[2,3]", lambda row: row.evaluations[0].milestones, (2, 3)),
        ("linear.milestones=2", lambda row: row.evaluations[0].milestones, (2,)),
        ("linear.train_view.crop_scale=[1,1]",
         lambda row: row.evaluations[0].train_view.crop_scale, (1.0, 1.0)),
        ("knn.k=7", lambda row: row.evaluations[1].k, 7),
    ],
)  # fmt: skip
def test_an_override_changes_one_field_and_keeps_its_type(
    override: str, read: Callable[[TableRow], Any], value: Any, row: TableRow
) -> None:
    changed = apply_overrides(row, [override])
    assert read(changed) == value
    assert type(read(changed)) is type(value)
    assert read(row) != value
    assert [type(part) for part in changed.evaluations] == [LinearProbe, Knn]


def test_the_last_of_several_overrides_holds(row: TableRow) -> None:
    changed = apply_overrides(row, ["pretrain.epochs=5", "pretrain.batch=8", "pretrain.epochs=6"])
    assert (changed.pretrain.epochs, changed.pretrain.batch) == (6, 8)


def test_a_whole_number_makes_the_run_that_the_float_makes(row: TableRow) -> None:
    whole = apply_overrides(row, ["pretrain.optimizer.lr=1"]).pretrain
    optimizer = dataclasses.replace(row.pretrain.optimizer, lr=1.0)
    assert fingerprint(whole) == fingerprint(dataclasses.replace(row.pretrain, optimizer=optimizer))


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("pretrain.epochs", r"`--set pretrain\.epochs` must have a value. Use --set .*=VALUE"),
        ("=5", "must have a value. Use --set FIELD=VALUE"),
        ("epochs=5", r"one of pretrain\.FIELD, linear\.FIELD.*; did you mean pretrain\.epochs\?"),
        ("linaer.lr=5", r"; did you mean linear\.lr\?"),
        ("pretrain.epoch=5", r"Choose from method, data, .*; did you mean epochs\?"),
        ("pretrain=5", "must name a field of a row"),
        ("mlp.lr=5", "must name a field of a row"),
        ("pretrain.speed=5", "a field of PretrainRecipe, got 'speed'. Choose from method, data"),
        ("pretrain.method.n_hard=5", "a field of MoCoRecipe, got 'n_hard'. Choose from queue"),
        ("pretrain.epochs.x=5", "must end at 'epochs', which has no fields"),
        ("pretrain.epochs=many",
         "`pretrain.epochs` must be an integer, got 'many'. Use a value such as 2"),
        ("pretrain.epochs=1.5", "must be an integer"),
        ("pretrain.epochs=true", "must be an integer"),
        ("pretrain.epochs=null", "must be an integer"),
        ("pretrain.bn_group=few", "must be an integer or null, got 'few'. Use a value such as 8"),
        ("pretrain.method=moco", "must be a MethodRecipe"),
        ("pretrain.method.head=conv", "must be one of 'linear', 'mlp'"),
        ("linear.milestones=[2,\"x\"]", r"`linear\.milestones\[1\]` must be an integer, got 'x'"),
        ("linear.train_view.crop_scale=[0,1,2]", "must be a list of 2, each item a number or null"),
        ("pretrain.encoder.name=resnet1", "resnet1"),
    ],
)  # fmt: skip
def test_a_wrong_override_is_one_sentence_with_what_was_expected(
    override: str, sentence: str, row: TableRow
) -> None:
    with pytest.raises(UserError, match=sentence):
        apply_overrides(row, [override])


def test_a_field_of_none_takes_only_what_its_type_allows(row: TableRow) -> None:
    free = apply_overrides(row, ["pretrain.bn_group=null"])
    assert apply_overrides(free, ["pretrain.bn_group=4"]).pretrain.bn_group == 4
    with pytest.raises(UserError, match="must be an integer"):
        apply_overrides(free, ["pretrain.bn_group=all"])


def test_the_row_is_not_changed_in_place(row: TableRow) -> None:
    before = fingerprint(row.pretrain)
    apply_overrides(row, ["pretrain.method.queue=99"])
    assert isinstance(row.pretrain.method, MoCoRecipe)
    assert fingerprint(row.pretrain) == before
