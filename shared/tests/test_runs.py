from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from retable.errors import UserError
from retable.settings import (
    PlainValueError,
    fingerprint,
    from_plain,
    to_plain,
    validate_fields,
)
from retable.train.runs import Claim, RunDirectory, environment


@dataclasses.dataclass(frozen=True)
class Inner:
    rate: float = 0.1


@dataclasses.dataclass(frozen=True)
class Outer:
    inner: Inner = Inner()
    sizes: tuple[int, ...] = (1, 2)


def test_equal_recipes_have_equal_fingerprints_in_another_process() -> None:
    value = "{'b': [1, 2.5], 'a': None}"
    program = f"from retable.settings import fingerprint\nprint(fingerprint({value}, 3))"
    other = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert other.stdout.strip() == fingerprint({"a": None, "b": (1, 2.5)}, 3)


def test_every_field_and_the_seed_are_part_of_the_fingerprint() -> None:
    prints = {
        fingerprint(Outer(), 0),
        fingerprint(Outer(), 1),
        fingerprint(Outer(Inner(0.2)), 0),
        fingerprint(Outer(sizes=(2, 1)), 0),
    }
    assert len(prints) == 4


def test_two_classes_with_equal_fields_differ() -> None:
    @dataclasses.dataclass(frozen=True)
    class Twin:
        rate: float = 0.1

    assert to_plain(Twin()) != to_plain(Inner())


def test_a_recipe_with_a_value_that_is_not_plain_is_refused() -> None:
    with pytest.raises(TypeError, match="plain values"):
        to_plain({"f": object()})


@dataclasses.dataclass(frozen=True)
class Deep:
    outer: Outer
    by_name: Mapping[str, tuple[float, float] | None]
    either: Inner | Outer | None = None
    word: Literal["a", "b"] = "a"


@dataclasses.dataclass(frozen=True)
class Part:
    deep: Deep
    several: tuple[Deep, ...]


@dataclasses.dataclass(frozen=True)
class Nested:
    part: Part


@pytest.mark.parametrize(
    "value",
    [
        Deep(Outer(Inner(float("inf")), ()), {"x": (1.0, 2.0), "y": None}),
        Deep(Outer(), {}, Inner(1.0), "b"),
        Deep(Outer(), {}, Outer(sizes=(3,))),
    ],
)
def test_plain_values_read_back_to_the_same(value: Deep) -> None:
    plain = json.loads(json.dumps(to_plain(value), allow_nan=False))
    assert from_plain(Deep, plain) == value


def test_integers_become_floats_and_defaults_may_be_left_out() -> None:
    read = from_plain(Deep, {"outer": {"inner": {"rate": 1}}, "by_name": {"x": [1, 2]}})
    assert read == Deep(Outer(Inner(1.0)), {"x": (1.0, 2.0)})
    assert type(read.outer.inner.rate) is float


def test_all_values_that_do_not_fit_are_reported_with_their_paths() -> None:
    plain = {"outer": {"inner": {"rate": True}, "sizes": [1, "2"]}, "word": "c", "more": 0}
    with pytest.raises(PlainValueError) as error:
        from_plain(Deep, plain)
    assert [(one.owner, one.message) for one in error.value.problems] == [
        ((), "`more` must be one of the fields outer, by_name, either, word"),
        (("outer", "inner"), "`rate` must be a number, got True"),
        (("outer",), "`sizes[1]` must be an integer, got '2'"),
        ((), "`by_name` must be a table, got nothing"),
        ((), "`word` must be one of 'a', 'b', got 'c'"),
    ]
    assert "outer.inner: `rate` must be a number, got True; " in str(error.value)


def test_a_missing_or_wrong_dataclass_is_named_with_its_fields() -> None:
    with pytest.raises(PlainValueError) as error:
        from_plain(Nested, {"part": {}})
    assert str(error.value) == (
        "part: `deep` is missing. Add a section [part.deep] with outer, by_name; "
        "part: `several` is missing. Add sections [[part.several]], each with outer, by_name"
    )
    with pytest.raises(PlainValueError, match="`part` must be a table with deep, several, got 3"):
        from_plain(Nested, {"part": 3})


def test_a_choice_is_checked_against_its_literal() -> None:
    validate_fields(Deep(Outer(), {}))
    with pytest.raises(UserError, match=r"`word` must be one of 'a', 'b', got 'c'\."):
        validate_fields(dataclasses.replace(Deep(Outer(), {}), word="c"))  # type: ignore[arg-type]


def test_a_directory_refuses_another_recipe_and_names_what_differs(tmp_path: Path) -> None:
    directory, claim = RunDirectory(tmp_path), Claim(to_plain(Outer()), {"images": 3}, "digest")
    directory.write_claim(claim)
    directory.write_claim(claim)
    other = dataclasses.replace(claim, recipe=to_plain(Outer(Inner(0.2))))
    with pytest.raises(UserError, match=r"of another recipe \(inner\.rate differ\).*--fresh"):
        directory.write_claim(other)
    with pytest.raises(UserError, match="of another recipe"):
        directory.verify_claim(other, accepted=("code", "data"))


@pytest.mark.parametrize(
    ("part", "value", "sentence"),
    [
        ("data", {"images": 4}, r"a run of other data \(images differ\)"),
        ("data", {"images": 3, "pixels": "x"}, r"a run of other data \(pixels differ\)"),
        ("code", "another", r"a run made by other code\. Use --fresh"),
    ],
)
def test_a_directory_refuses_other_data_and_other_code_unless_they_are_accepted(
    part: str, value: Any, sentence: str, tmp_path: Path
) -> None:
    directory, claim = RunDirectory(tmp_path), Claim({}, {"images": 3}, "digest")
    directory.write_claim(claim)
    other = dataclasses.replace(claim, **{part: value})
    with pytest.raises(UserError, match=sentence):
        directory.verify_claim(other)
    with pytest.raises(UserError, match=f"--accept-other {part} keeps it"):
        directory.write_claim(other)
    directory.write_claim(other, accepted=(part,))
    directory.verify_claim(claim)


def test_a_claim_of_another_directory_is_refused(tmp_path: Path) -> None:
    claim = Claim({}, {}, "digest")
    RunDirectory(tmp_path / "one").write_claim(claim)
    (tmp_path / "one").rename(tmp_path / "two")
    with pytest.raises(UserError, match=r"must belong to two, got a file of one\. Use --fresh"):
        RunDirectory(tmp_path / "two").verify_claim(claim)


def test_a_directory_that_was_removed_or_replaced_under_its_lock_is_noticed(
    tmp_path: Path,
) -> None:
    directory = RunDirectory(tmp_path / "run")
    with directory.locked():
        directory.verify_present()
        shutil.rmtree(directory.path)
        with pytest.raises(UserError, match="was removed while its run was trained"):
            directory.verify_present()
        by_another_command = RunDirectory(tmp_path / "run").locked(patience=0.1)
        removed = pytest.raises(UserError, match="was removed while its run was trained")
        with by_another_command, removed:
            directory.verify_present()


def test_removing_a_locked_directory_keeps_its_lock(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path / "run")
    with directory.locked():
        directory.write_claim(Claim({}, {}, ""))
        (directory.path / "evaluations" / "knn").mkdir(parents=True)
        directory.remove()
        assert [path.name for path in directory.path.iterdir()] == ["lock"]
        directory.verify_present()


def test_a_run_has_one_owner_and_a_killed_owner_leaves_no_lock(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path / "run")
    hold = (
        "import sys, time; from pathlib import Path; from retable.train.runs import RunDirectory\n"
        "with RunDirectory(Path(sys.argv[1])).locked(): print('held', flush=True); time.sleep(60)"
    )
    owner = subprocess.Popen(
        [sys.executable, "-c", hold, str(directory.path)], stdout=subprocess.PIPE, text=True
    )
    with owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "held\n"
        with pytest.raises(UserError, match="another process"), directory.locked(patience=0.1):
            pass
        owner.kill()
    with directory.locked(patience=0.1):
        pass


def test_the_environment_names_versions_and_hardware() -> None:
    facts = environment()
    assert facts["versions"]["torch"]
    assert facts["processor"]
    assert facts["instructions"] == torch.backends.cpu.get_cpu_capability()


def test_the_environment_writes_nothing_into_the_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Source: git-status(1), "Background refresh": otherwise it locks the index and rewrites it.
    monkeypatch.chdir(tmp_path)
    for words in ("init", "add .", "-c user.name=a -c user.email=a commit -m a --allow-empty"):
        (tmp_path / "file").write_text("a")
        subprocess.run(["git", *words.split()], check=True, capture_output=True)
    os.utime(tmp_path / "file", (1, 1))
    index = (tmp_path / ".git" / "index").read_bytes()
    commit = environment.__wrapped__()["commit"]
    assert len(commit) == 12
    assert (tmp_path / ".git" / "index").read_bytes() == index


def test_the_environment_says_whether_files_differ_from_the_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def commit() -> str:
        return str(environment.__wrapped__()["commit"])

    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.py").write_text("A = 1\n")
    (tmp_path / ".gitignore").write_text("*.log\n")
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "all"]):
        who = ["-c", "user.name=A", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", *who, *words], check=True)
    clean = commit()
    assert re.fullmatch("[0-9a-f]{12}", clean)
    for name in ("new.py", "run.log"):
        (tmp_path / name).write_text("B = 1\n")
    assert commit() == clean, "what git does not track is no change"
    (tmp_path / "a.py").write_text("A = 2\n")
    assert commit() == f"{clean}+changes"
