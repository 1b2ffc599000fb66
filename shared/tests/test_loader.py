import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Collection
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import IO, Any

import pytest
import torch
from torch import Tensor

from retable import distributed, random
from retable.data.batch import Batch
from retable.data.decoding import UnreadableImageError
from retable.data.loader import Loader, iterate
from retable.data.plans import TrainingPlan, share_of
from retable.data.sampler import Sampler
from retable.data.source import Source
from retable.data.subsets import Subset
from retable.data.workers import CropDataset, Crops, ResidentViewLoader, make_view_loader
from retable.errors import UserError
from retable.testing import run_processes
from retable.views import (
    ViewRecipe,
    center,
    crop_and_flip,
    inception,
    make_view,
    moco_v2,
    patch_evaluation,
    patch_tasks,
    resized_crop,
    sample_parameters,
)


class Pictures(Source):
    """A source in memory; `broken` samples cannot be read."""

    def __init__(
        self,
        sizes: list[tuple[int, int]],
        resident: bool = False,
        broken: Collection[int] = (),
        skip_unreadable: bool = False,
    ) -> None:
        labels = torch.arange(len(sizes)) % 3
        super().__init__(labels, ["a", "b", "c"], {"checksum": ""}, skip_unreadable=skip_unreadable)
        rng_key = random.derive_key(0, "pictures")
        self.images = [
            random.integers(rng_key + i, torch.arange(3 * h * w), 256).view(3, h, w).to(torch.uint8)
            for i, (h, w) in enumerate(sizes)
        ]
        self.in_memory = resident
        self.broken = broken
        self.reads = 0

    def image(self, index: int) -> Tensor:
        self.reads += 1
        if index in self.broken:
            raise UnreadableImageError(f"number {index}", "broken")
        return self.images[index]

    def resident(self, *, decode: bool = False) -> Tensor | None:
        one_size = len({image.shape for image in self.images}) == 1
        return torch.stack(self.images) if one_size and (decode or self.in_memory) else None


VARIED = [(20 + i % 7, 30 - i % 5) for i in range(24)]
EQUAL = [(20, 26)] * 24
RECIPES = (moco_v2(12), crop_and_flip(8))


def batches(source: Source, first: int, last: int, **options: Any) -> list[Batch]:
    options = {"batch_size": 6, "recipes": RECIPES, **options}
    sampler = Sampler(len(source), options.pop("batch_size"), seed=5)
    return list(Loader(source, sampler, options.pop("recipes"), **options).batches(first, last))


def assert_equal_batches(ours: list[Batch], theirs: list[Batch]) -> None:
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert (a.progress, a.rng_key) == (b.progress, b.rng_key)
        for name in ("indices", "labels", "positions"):
            assert torch.equal(getattr(a, name), getattr(b, name))
        assert all(map(torch.equal, a.views, b.views))


def test_a_view_is_made_of_the_sampled_images_with_the_key_of_its_epoch_and_number() -> None:
    source = Pictures(EQUAL, resident=True)
    step = 9  # in the third of 4-step epochs
    (batch,) = batches(source, step, step + 1)
    order = Sampler(24, 6, seed=5).epoch_order(2)
    assert torch.equal(batch.indices, order[6:12])
    assert torch.equal(batch.labels, source.labels[batch.indices])
    assert torch.equal(batch.positions, torch.arange(6))
    for number, recipe in enumerate(RECIPES):
        images = torch.stack(source.images)[batch.indices]
        rng_key = random.derive_key(5, "views", 2, number)
        assert torch.equal(batch.views[number], make_view(images, batch.indices, recipe, rng_key))


@pytest.mark.parametrize("resident", [True, False])
def test_to_start_at_a_later_step_gives_the_batches_of_a_run_from_the_start(resident: bool) -> None:
    source = Pictures(EQUAL)
    whole = batches(source, 0, 9, resident=resident)
    assert_equal_batches(batches(source, 5, 9, resident=resident), whole[5:])


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(workers: int) -> None:
    source = Pictures(VARIED)
    assert_equal_batches(batches(source, 2, 7, workers=workers), batches(source, 2, 7))


def test_worker_crops_are_the_resident_crops_rounded_to_uint8() -> None:
    plain = ViewRecipe(
        size=10, crop_scale=(0.2, 1.0), flip_probability=0.5, mean=(0,) * 3, std=(1,) * 3
    )
    source = Pictures(EQUAL)
    for rough, fine in zip(
        batches(source, 0, 4, recipes=(plain,), resident=False),
        batches(source, 0, 4, recipes=(plain,), resident=True),
        strict=True,
    ):
        # ATen's uint8 kernel rounds after each of the two axes, with 8-bit weights.
        assert (rough.views[0] - fine.views[0]).abs().max() <= 2 / 255


@pytest.mark.parametrize(
    "recipe",
    [
        replace(patch_tasks(10, 13), gray_probability=0.5),
        resized_crop(10, 13, "random"),
        patch_evaluation(9, 13),
        inception(10, (0.2, 1.0)),
        inception(10, standardise=True, gray_probability=0.5),
    ],
)
def test_both_feeds_draw_the_same_windows_crops_and_greys(recipe: ViewRecipe) -> None:
    # Source: what is left when colours are not changed, rounded to uint8 or not.
    recipe = replace(
        recipe,
        brightness_shift=0.0,
        saturation=None,
        standardise=False,
        mean=(0.0,) * 3,
        std=(1.0,) * 3,
    )
    source = Pictures(EQUAL)
    for rough, fine in zip(
        batches(source, 0, 4, recipes=(recipe,), resident=False),
        batches(source, 0, 4, recipes=(recipe,), resident=True),
        strict=True,
    ):
        assert (rough.views[0] - fine.views[0]).abs().max() <= 2 / 255


def gray_of(batch: Batch) -> Tensor:
    """Which views of which images are grey: (V, B) bool."""
    return torch.stack([(v == v[:, :1]).flatten(1).all(dim=1) for v in batch.views])


@pytest.mark.parametrize("options", [{"resident": True}, {"workers": 0}, {"workers": 2}])
def test_all_views_of_an_image_are_grey_or_none_and_every_epoch_decides_anew(
    options: dict[str, Any],
) -> None:
    recipe = inception(8, (0.3, 1.0), gray_probability=0.5)
    source = Pictures(EQUAL if "resident" in options else VARIED)
    epochs: list[dict[int, bool]] = []
    for epoch in range(3):
        decided: dict[int, bool] = {}
        for batch in batches(source, 4 * epoch, 4 * epoch + 4, recipes=(recipe,) * 3, **options):
            grays = gray_of(batch)
            assert torch.equal(grays[0], grays[1])
            assert torch.equal(grays[0], grays[2])
            decided |= dict(zip(batch.indices.tolist(), grays[0].tolist(), strict=True))
        assert len(decided) == 24
        assert 4 < sum(decided.values()) < 20
        epochs.append(decided)
    assert epochs[0] != epochs[1] != epochs[2]
    rng_key = random.derive_key(5, "images", 1)
    drawn = sample_parameters(recipe, 0, torch.arange(24), 9, 9, image_key=rng_key)
    assert [epochs[1][index] for index in range(24)] == drawn.gray.tolist()


def test_an_evaluation_draws_what_is_shared_from_its_own_key() -> None:
    recipe = inception(8, gray_probability=0.5)
    source = Pictures(EQUAL)
    for key in (3, 4):
        (views,) = (views for views, _, _ in iterate(source, recipe, 24, rng_key=key))
        drawn = sample_parameters(recipe, key, torch.arange(24), 20, 26, image_key=key)
        assert torch.equal((views == views[:, :1]).flatten(1).all(dim=1), drawn.gray)


def test_the_processes_shares_join_to_the_batch_of_one_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = Pictures(EQUAL)
    alone = batches(source, 0, 5)
    parts = []
    for process in range(3):
        monkeypatch.setattr("retable.distributed.process_index", lambda process=process: process)
        monkeypatch.setattr("retable.distributed.process_count", lambda: 3)
        parts.append(batches(source, 0, 5))
    for step, whole in enumerate(alone):
        shares = [part[step] for part in parts]
        for name in ("indices", "labels", "positions"):
            joined = torch.cat([getattr(share, name) for share in shares])
            assert torch.equal(joined, getattr(whole, name))
        for number in range(2):
            joined = torch.cat([share.views[number] for share in shares])
            torch.testing.assert_close(joined, whole.views[number], rtol=0, atol=2e-6)


def load_and_gather() -> tuple[list[Tensor], list[Tensor]]:
    """What two steps and one evaluation give, gathered over the processes."""
    source = Pictures(VARIED)
    steps = batches(source, 3, 5)
    indices = torch.cat([indices for _, _, indices in iterate(source, center(8, 8), 5)])
    own = [torch.cat([step.indices, step.positions]) for step in steps]
    views = [step.views[0] for step in steps]
    return [distributed.gather(part) for part in (*own, indices)], views


def test_two_gloo_processes_load_what_one_loads() -> None:
    # Source: the same call in one process.
    (alone, whole), results = load_and_gather(), run_processes(load_and_gather, 2)
    for gathered, _ in results:
        assert torch.equal(gathered[2], alone[2])
        for step in range(2):
            # Each process's indices, then its positions.
            rows = gathered[step].view(2, 2, 3).transpose(0, 1).reshape(2, 6)
            assert torch.equal(rows, alone[step].view(2, 6))
    for step in range(2):
        joined = torch.cat([views[step] for _, views in results])
        torch.testing.assert_close(joined, whole[step], rtol=0, atol=2e-6)


def test_each_image_is_read_once_for_all_its_views() -> None:
    source = Pictures(VARIED)
    batches(source, 0, 4)
    assert source.reads == 24


def test_evaluation_yields_every_sample_once_and_in_order() -> None:
    source = Pictures(VARIED)
    views, labels, indices = zip(*iterate(source, center(8, 10), 7), strict=True)
    assert [len(part) for part in views] == [7, 7, 7, 3]
    assert torch.equal(torch.cat(indices), torch.arange(24))
    assert torch.equal(torch.cat(labels), source.labels)


def test_evaluation_views_do_not_depend_on_the_batch_size() -> None:
    source = Pictures(VARIED)
    whole = torch.cat([views for views, _, _ in iterate(source, crop_and_flip(8), 24, rng_key=3)])
    parts = torch.cat([views for views, _, _ in iterate(source, crop_and_flip(8), 5, rng_key=3)])
    assert torch.equal(whole, parts)


def test_rows_asked_for_come_in_their_order_with_the_draws_they_always_have() -> None:
    source = Pictures(VARIED)
    rows = torch.tensor([9, 2, 23, 2, 17])
    views, labels, indices = (
        torch.cat(parts)
        for parts in zip(*iterate(source, crop_and_flip(8), 2, rng_key=3, rows=rows), strict=True)
    )
    whole = torch.cat([views for views, _, _ in iterate(source, crop_and_flip(8), 24, rng_key=3)])
    assert torch.equal(indices, rows)
    assert torch.equal(labels, source.labels[rows])
    assert torch.equal(views, whole[rows])


def test_evaluation_is_shared_by_contiguous_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    source = Pictures(VARIED)
    seen = []
    for process in range(5):
        monkeypatch.setattr("retable.distributed.process_index", lambda process=process: process)
        monkeypatch.setattr("retable.distributed.process_count", lambda: 5)
        seen.append(torch.cat([indices for _, _, indices in iterate(source, center(8, 8), 3)]))
        assert len(seen[-1]) == len(share_of(24, process, 5)) in (4, 5)
    assert torch.equal(torch.cat(seen), torch.arange(24))


def test_nothing_of_the_global_random_state_is_used() -> None:
    before = torch.get_rng_state()
    batches(Pictures(VARIED), 0, 2, workers=1)
    assert torch.equal(torch.get_rng_state(), before)


def test_what_workers_hold_can_be_sent_to_another_process() -> None:
    source = Pictures(VARIED)
    dataset = CropDataset(source, TrainingPlan(Sampler(24, 6, 0), 2, 0, 1), RECIPES)
    copy = pickle.loads(pickle.dumps(dataset))
    sent, kept = copy[3], dataset[3]
    assert isinstance(sent, Crops)
    assert isinstance(kept, Crops)
    assert all(map(torch.equal, sent.crops, kept.crops))


def test_workers_end_when_the_batches_are_left_early() -> None:
    source = Pictures(VARIED)
    loader = Loader(source, Sampler(24, 6, 0), RECIPES, workers=2)
    running = loader.batches(0, 100)
    next(running)
    assert len(multiprocessing.active_children()) == 2
    del running
    assert multiprocessing.active_children() == []


def test_too_little_shared_memory_is_refused_before_workers_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    usage = SimpleNamespace(free=6 * 3 * (12**2 + 8**2))
    monkeypatch.setattr("shutil.disk_usage", lambda folder: usage)
    monkeypatch.setattr("os.path.isdir", lambda folder: True)
    with pytest.raises(UserError, match=r"2 workers need .* of shared memory"):
        batches(Pictures(VARIED), 0, 1, workers=2)
    batches(Pictures(VARIED), 0, 1)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image_is_refused_by_name(workers: int) -> None:
    with pytest.raises(UserError, match=r"^The image number 4 is unreadable \(broken\)[^\n]*$"):
        batches(Pictures(VARIED, broken=(4,)), 0, 4, workers=workers)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_skipped_image_is_replaced_by_the_next_readable_one_and_counted(workers: int) -> None:
    source = Pictures(VARIED, broken=(4, 5, 23), skip_unreadable=True)
    intact = batches(Pictures(VARIED), 0, 4)
    skipped = batches(source, 0, 4, workers=workers)
    expected = {4: 6, 5: 6, 23: 0}
    for asked, got in zip(intact, skipped, strict=True):
        assert got.indices.tolist() == [expected.get(i, i) for i in asked.indices.tolist()]
        assert torch.equal(got.labels, source.labels[got.indices])
    assert source.unreadable == {4, 5, 23}


@pytest.mark.parametrize("workers", [0, 2])
def test_a_replacement_is_seen_as_its_own_draws_show_it(workers: int) -> None:
    # Number 5 is asked for once itself and once in the place of number 4.
    source = Pictures(VARIED, broken=(4,), skip_unreadable=True)
    itself, replacing = (
        [view[row] for view in batch.views]
        for batch in batches(source, 0, 4, workers=workers)
        for row in (batch.indices == 5).nonzero()[:, 0].tolist()
    )
    for one, other in zip(itself, replacing, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=2e-6)


def test_a_source_without_any_readable_image_is_refused_although_skipping() -> None:
    with pytest.raises(UserError, match="unreadable"):
        batches(Pictures(VARIED, broken=range(24), skip_unreadable=True), 0, 1)


class Kept(Pictures):
    """`Pictures` that are decoded and kept as sources of files are."""

    def resident(self, *, decode: bool = False) -> Tensor | None:
        return Source.resident(self, decode=decode)


def test_in_memory_a_replaced_sample_is_drawn_labelled_and_reported_as_its_replacement() -> None:
    found = {}
    for resident in (False, True):
        source = Kept(EQUAL, broken=(4, 5, 23), skip_unreadable=True)
        found[resident] = batches(source, 0, 4, resident=resident)
        assert source.unreadable == {4, 5, 23}
        assert source.labels.tolist() == [i % 3 for i in range(24)]
    for worker, kept in zip(found[False], found[True], strict=True):
        assert torch.equal(kept.indices, worker.indices)
        assert torch.equal(kept.labels, worker.labels)
        for one, other in zip(kept.views, worker.views, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=0.04)  # one rounding to uint8


def test_evaluation_reports_replacements_however_images_are_kept() -> None:
    for resident in (False, True):
        source = Kept(EQUAL[:6], broken=(1, 5), skip_unreadable=True)
        _, labels, indices = next(iterate(source, center(12), 6, resident=resident))
        assert indices.tolist() == [0, 2, 2, 3, 4, 0]
        assert labels.tolist() == [0, 2, 2, 0, 1, 0]


@pytest.mark.parametrize("first", [True, False])
def test_a_subset_replaces_by_its_own_samples_whether_its_base_is_in_memory_or_not(
    first: bool,
) -> None:
    # Number 5 would replace 4 in the base, and is not in the subset.
    rows = torch.tensor([0, 2, 4, 7, 23])
    results = []
    for in_base in (first, not first):
        base = Kept(EQUAL, broken=(4, 23), skip_unreadable=True)
        if in_base:
            base.resident(decode=True)
        subset = Subset(base, rows, base.labels[rows], base.class_names, "some")
        found = next(iterate(subset, center(12), 8, resident=in_base))
        assert subset.unreadable == {2, 4}
        assert found[2].tolist() == [0, 1, 3, 3, 0]
        assert found[1].tolist() == base.labels[torch.tensor([0, 2, 7, 7, 0])].tolist()
        results.append(found[0])
    torch.testing.assert_close(*results, rtol=0, atol=0.04)


def test_a_subset_of_unreadable_images_alone_is_refused() -> None:
    base = Kept(EQUAL, broken=(4, 23), skip_unreadable=True)
    base.resident(decode=True)
    rows = torch.tensor([4, 23])
    subset = Subset(base, rows, base.labels[rows], base.class_names, "broken")
    with pytest.raises(UserError, match="number 4 is unreadable"):
        subset.resident()


def test_images_of_several_sizes_cannot_be_kept_resident() -> None:
    with pytest.raises(UserError, match="differ in size"):
        batches(Pictures(VARIED), 0, 1, resident=True)


def test_processes_that_do_not_divide_the_batch_are_refused_before_training(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("retable.distributed.process_count", lambda: 4)
    with pytest.raises(UserError, match="divides 6"):
        Loader(Pictures(EQUAL), Sampler(24, 6, 0), RECIPES)


def test_a_resident_source_is_moved_to_its_device_once() -> None:
    source = Pictures(EQUAL, resident=True)
    loaders = [
        make_view_loader(source, RECIPES, workers=0, device="cpu", resident=None) for _ in range(2)
    ]
    first, second = (loader.images for loader in loaders if isinstance(loader, ResidentViewLoader))
    assert first is second


SCRIPT = """
import os, time, torch
def print_children():
    print(open(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read(), flush=True)
from retable.data.loader import Loader
from retable.data.sampler import Sampler
from retable.data.source import Source
from retable.views import center
class Slow(Source):
    def image(self, i): return torch.zeros(3, 8, 8, dtype=torch.uint8)
slow = Slow(torch.zeros(64, dtype=torch.int64), ["a"], {})
loader = Loader(slow, Sampler(64, 4, 0), (center(8, 8),), workers=2)
for batch in loader.batches(0, 100_000):
    print_children()
    time.sleep(60)
"""
SLOW_START = """
import os, time
os.register_at_fork(
    after_in_child=lambda: time.sleep(2), after_in_parent=lambda: print_children()
)
"""


def _piped(stream: IO[str] | None) -> IO[str]:
    assert stream is not None
    return stream


def _alive(process: int) -> bool:
    try:
        with open(f"/proc/{process}/stat", encoding="ascii") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("resident", [True, False])
def test_batches_on_a_gpu_are_those_of_the_cpu_made_without_waiting_for_it(resident: bool) -> None:
    source = Pictures(EQUAL)
    expected = batches(source, 0, 6, resident=resident)
    options = {"resident": resident, "device": "cuda", "workers": 0 if resident else 2}
    batches(source, 0, 1, **options)  # the first use of a kernel may wait
    torch.cuda.set_sync_debug_mode("error")
    try:
        made = batches(source, 0, 6, **options)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for ours, theirs in zip(made, expected, strict=True):
        assert torch.equal(ours.labels.cpu(), theirs.labels)
        for a, b in zip(ours.views, theirs.views, strict=True):
            torch.testing.assert_close(a.cpu(), b, rtol=0, atol=1e-4)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_workers_end_with_their_parent_interrupted_or_killed() -> None:
    start = partial(
        subprocess.Popen,
        [sys.executable, "-c", SCRIPT],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with start() as interrupted, start() as killed:
        workers = [
            int(word)
            for parent in (interrupted, killed)
            for word in _piped(parent.stdout).readline().split()
        ]
        assert len(workers) == 4
        os.killpg(interrupted.pid, signal.SIGINT)  # as a terminal does
        killed.kill()
        deadline = time.monotonic() + 30
        while any(map(_alive, workers)) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not any(map(_alive, workers))
        assert _piped(interrupted.stderr).read().count("Traceback") == 1  # the parent's own


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_workers_that_begin_after_their_parent_was_killed_end() -> None:
    command = [sys.executable, "-c", SLOW_START + SCRIPT]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as killed:
        workers: list[int] = []
        while len(workers) < 2:
            workers = [int(word) for word in _piped(killed.stdout).readline().split()]
        killed.kill()
        deadline = time.monotonic() + 30
        while any(map(_alive, workers)) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not any(map(_alive, workers))
