import json
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from retable import code, distributed, random
from retable.data.decoding import UnreadableImageError
from retable.data.source import Source
from retable.data.sources import open_source
from retable.encoders import ResNetRecipe
from retable.errors import UserError
from retable.evaluate import cache as cache_module
from retable.evaluate import features as features_module
from retable.evaluate import representation as representation_module
from retable.evaluate.cache import Chunk, FeatureCache, checksum, code_of, read_chunk
from retable.evaluate.data import EvalData, open_eval_splits, source_opener
from retable.evaluate.features import Features, represent
from retable.evaluate.frozen import FrozenEncoder, freeze, structure
from retable.evaluate.knn import Knn
from retable.evaluate.mlp import MlpProbe
from retable.evaluate.protocol import EvalContext
from retable.evaluate.representation import Representation
from retable.nn.patches import PatchGrid
from retable.testing import StoppedError, run_processes
from retable.views import ViewRecipe, center, crop_and_flip

DATA = "shapes?count=90&test_count=40&size=16&classes=4"
VIEW = center(16)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    make_chunks_small(monkeypatch.setattr)


def make_chunks_small(set_attribute: Callable[..., None] = setattr) -> None:
    """Let 90 images be six chunks of 16 rows, each of two calls of the encoder."""
    set_attribute(cache_module, "ROWS", 16)
    set_attribute(representation_module, "images_per_call", lambda *_: 8)


def encoder(**settings: Any) -> nn.Module:
    return ResNetRecipe("small_resnet8", **({"width": 0.5} | settings)).build(rng_key=0)


class Counting:
    """Count the images that go through frozen encoders; die at a given one, as if killed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.images = 0
        self.last: float = float("inf")
        taps = FrozenEncoder.taps

        def counted(frozen: FrozenEncoder, images: Tensor, names: Any) -> dict[str, Tensor]:
            if self.images >= self.last:
                raise StoppedError
            self.images += len(images)
            return taps(frozen, images, names)

        monkeypatch.setattr(FrozenEncoder, "taps", counted)

    def since(self) -> int:
        """Return the images since the last time asked."""
        count, self.images = self.images, 0
        return count


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> Counting:
    return Counting(monkeypatch)


def features(
    folder: Path | None,
    built: nn.Module | None = None,
    source: Source | None = None,
    view: ViewRecipe = VIEW,
    representation: Representation | None = None,
    precision: str = "float32",
    **options: Any,
) -> dict[str, Features]:
    return represent(
        freeze(built or encoder(), "cpu", precision),
        source or open_source(DATA, "train"),
        view,
        representation or Representation(),
        EvalContext("cpu", features=folder),
        **options,
    )


def assert_same(ours: dict[str, Features], theirs: dict[str, Features]) -> None:
    assert list(ours) == list(theirs)
    for tap, found in ours.items():
        assert torch.equal(found.features, theirs[tap].features)
        assert torch.equal(found.labels, theirs[tap].labels)


def test_what_is_kept_is_what_would_be_computed(tmp_path: Path, counting: Counting) -> None:
    representation = Representation(("layer1", "pre_logits"), max_features=500)
    computed = features(None, representation=representation)
    assert counting.since() == 90
    first = features(tmp_path, representation=representation)
    assert counting.since() == 90
    second = features(tmp_path, representation=representation)
    assert counting.since() == 0, "nothing goes through the encoder twice"
    assert_same(first, second)
    for tap in representation.taps:
        torch.testing.assert_close(
            first[tap].features, computed[tap].features, rtol=1e-4, atol=1e-5
        )
        assert torch.equal(first[tap].labels, computed[tap].labels)
        assert first[tap].features.is_contiguous()


def test_each_tap_is_kept_by_itself(tmp_path: Path, counting: Counting) -> None:
    both = features(tmp_path, representation=Representation(("layer2", "pre_logits")))
    counting.since()
    one = features(tmp_path, representation=Representation(("pre_logits",)))
    assert counting.since() == 0
    assert_same(one, {"pre_logits": both["pre_logits"]})
    features(tmp_path, representation=Representation(("layer1", "pre_logits")))
    assert counting.since() == 90


def test_other_labels_of_the_same_images_need_no_pass(tmp_path: Path, counting: Counting) -> None:
    source, relabelled = (
        open_source(f"{DATA}&labels={labels}", "train") for labels in ("outline", "texture")
    )
    first = features(tmp_path, source=source)["pre_logits"]
    counting.since()
    second = features(tmp_path, source=relabelled)["pre_logits"]
    assert counting.since() == 0
    assert torch.equal(first.features, second.features)
    assert torch.equal(second.labels, relabelled.labels)
    assert not torch.equal(first.labels, second.labels)


def altered(built: nn.Module, name: str) -> nn.Module:
    """Change one number of a state dict."""
    state = built.state_dict()
    state[name].view(-1)[0] += 1e-3
    built.load_state_dict(state)
    return built


class Means(nn.Module):
    """The means of a convolution's maps, after a ReLU or without one."""

    feature_dim = 8

    def __init__(self, last_relu: bool) -> None:
        super().__init__()
        self.last_relu = last_relu
        with random.initialising(0):
            self.convolution = nn.Conv2d(3, 8, 3)

    def forward(self, images: Tensor) -> Tensor:
        maps: Tensor = self.convolution(images)
        return (maps.relu() if self.last_relu else maps).mean((2, 3))


CHANGES: dict[str, dict[str, Any]] = {
    "weights": {"built": altered(encoder(), "conv1.weight")},
    "running statistics": {"built": altered(encoder(), "bn1.running_mean")},
    "pixels": {"source": open_source(DATA.replace("size=16", "size=16&rho=0.1"), "train")},
    "split": {"source": open_source(DATA.replace("test_count=40", "test_count=90"), "test")},
    "number of images": {"source": open_source(DATA.replace("=90", "=91"), "train")},
    "view": {"view": center(16, 18)},
    "normalisation": {"view": replace(VIEW, mean=(0.5, 0.5, 0.5))},
    "precision": {"precision": "bf16"},
    "patches": {"representation": Representation(patches=PatchGrid(2, 8, 8))},
    "standardisation": {"representation": Representation(patches=PatchGrid(2, 8, 8, False))},
    "limit": {"representation": Representation(max_features=10)},
}


@pytest.mark.parametrize("change", CHANGES)
def test_nothing_is_taken_that_was_made_of_anything_else(
    change: str, tmp_path: Path, counting: Counting
) -> None:
    if change == "standardisation":
        features(tmp_path, **CHANGES["patches"])
    else:
        features(tmp_path)
    assert counting.since() > 0
    features(tmp_path, **CHANGES[change])
    assert counting.since() >= 90


def test_encoders_of_equal_weights_and_other_layers_are_told_apart(
    tmp_path: Path, counting: Counting
) -> None:
    first, second = Means(last_relu=True), Means(last_relu=False)
    assert all(
        torch.equal(value, second.state_dict()[name]) for name, value in first.state_dict().items()
    )
    with_relu = features(tmp_path, first)["pre_logits"].features
    counting.since()
    without = features(tmp_path, second)["pre_logits"].features
    assert counting.since() == 90
    assert float(with_relu.min()) >= 0 > float(without.min())


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (nn.MaxPool2d(2), nn.MaxPool2d(2, stride=1)),
        (nn.ReLU(), nn.Tanh()),
        (nn.Sequential(nn.ReLU(), nn.Tanh()), nn.Sequential(nn.Tanh(), nn.ReLU())),
        (nn.Conv2d(3, 3, 1, stride=1), nn.Conv2d(3, 3, 1, stride=2)),
    ],
)
def test_the_structure_tells_what_weights_do_not(one: nn.Module, other: nn.Module) -> None:
    assert structure(one) != structure(other)
    assert structure(one) == structure(one.train()) == structure(one.eval())


def test_the_structure_holds_buffers_that_are_not_saved() -> None:
    modules = []
    for value in (1.0, 2.0):
        module = nn.Module()
        module.register_buffer("table", torch.full((3,), value), persistent=False)
        modules.append(module)
    assert structure(modules[0]) != structure(modules[1])


def test_a_change_of_the_code_is_a_change_of_the_features(tmp_path: Path) -> None:
    module = tmp_path / "someones_encoder.py"
    digests = []
    for factor in (1, 2):
        module.write_text(
            "from torch import nn\n\n\nclass Pixels(nn.Module):\n    def forward(self, x):\n"
            f"        return {factor} * x.flatten(1)\n"
        )
        code._digest_of_file.cache_clear()
        with pytest.MonkeyPatch.context() as patch:
            patch.syspath_prepend(str(tmp_path))
            import importlib

            found = importlib.import_module("someones_encoder")
            digests.append(code_of(found.Pixels()))
    assert digests[0] != digests[1]
    assert code_of(nn.ReLU()) not in digests


def test_features_of_other_code_are_not_taken(
    tmp_path: Path, counting: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    for digest in ("before", "after"):
        monkeypatch.setattr(cache_module, "code_of", lambda _, digest=digest: digest)
        features(tmp_path)
        assert counting.since() == 90


def test_random_views_are_drawn_anew_and_not_kept(tmp_path: Path, counting: Counting) -> None:
    view = crop_and_flip(16)
    first = features(tmp_path, view=view, rng_key=1)["pre_logits"].features
    second = features(tmp_path, view=view, rng_key=2)["pre_logits"].features
    assert counting.since() == 180
    assert not torch.allclose(first, second)
    assert not list(tmp_path.iterdir())


def test_a_source_that_does_not_tell_its_pixels_is_not_kept(
    tmp_path: Path, counting: Counting
) -> None:
    source = open_source(DATA, "train")
    del source.description["pixels"]
    for _ in range(2):
        features(tmp_path, source=source)
        assert counting.since() == 90
    assert not list(tmp_path.iterdir())


def judged(data: EvalData, folder: Path | None) -> tuple[dict[str, Features], dict[str, Features]]:
    splits = open_eval_splits(source_opener(DATA), data)
    return features(folder, source=splits.train), features(folder, source=splits.test)


def test_shares_of_the_labels_need_their_share_of_the_images(
    tmp_path: Path, counting: Counting
) -> None:
    tenth = EvalData(labels=0.1)
    train, _ = judged(tenth, tmp_path)
    assert len(train["pre_logits"].labels) == 9
    assert counting.since() == 16 + 40, "one chunk of six, and the test split"
    train, test = judged(replace(tenth, split="validation"), tmp_path)
    assert counting.since() == 10, "the last chunk"
    assert len(test["pre_logits"].labels) == 9
    judged(EvalData(), tmp_path)
    assert counting.since() == 90 - 16 - 10
    for data in (
        EvalData(labels=0.5),
        EvalData("", 0.5, "validation"),
        EvalData("", 1.0, "validation"),
    ):
        kept = judged(data, tmp_path)
        assert counting.since() == 0
        computed = judged(data, None)
        counting.since()
        for ours, theirs in zip(kept, computed, strict=True):
            assert torch.equal(ours["pre_logits"].labels, theirs["pre_logits"].labels)
            torch.testing.assert_close(
                ours["pre_logits"].features, theirs["pre_logits"].features, rtol=1e-4, atol=1e-5
            )


@pytest.mark.parametrize("killed_at", [8, 40, 64])
def test_a_killed_extraction_goes_on_with_the_chunks_that_exist(
    killed_at: int, tmp_path: Path, counting: Counting
) -> None:
    whole = features(tmp_path / "whole")
    counting.since()
    counting.last = killed_at
    with pytest.raises(StoppedError):
        features(tmp_path / "killed")
    counting.last = float("inf")
    assert counting.since() == killed_at
    assert_same(features(tmp_path / "killed"), whole)
    assert counting.since() == 90 - killed_at // 16 * 16


def chunks_in(folder: Path) -> list[Path]:
    return sorted(folder.glob("*/*.safetensors"))


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def swap(path: Path) -> None:
    path.write_bytes(path.with_name("pre_logits-00004.safetensors").read_bytes())


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [flip_a_bit, truncate, swap, empty])
def test_a_damaged_chunk_is_named_and_made_anew(
    damage: Callable[[Path], None], tmp_path: Path, counting: Counting
) -> None:
    whole = features(tmp_path)
    counting.since()
    damage(chunks_in(tmp_path)[2])
    with pytest.warns(UserWarning, match="pre_logits-00002.safetensors is damaged"):
        again = features(tmp_path)
    assert counting.since() == 16
    assert_same(again, whole)
    features(tmp_path)
    assert counting.since() == 0


def test_a_chunk_that_goes_while_others_are_read_is_made_anew(
    tmp_path: Path, counting: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = features(tmp_path)
    counting.since()
    read = FeatureCache._read

    def losing(cache: FeatureCache, *args: Any) -> Any:
        chunks_in(tmp_path)[-1].unlink()
        return read(cache, *args)

    monkeypatch.setattr(FeatureCache, "_read", losing)
    assert_same(features(tmp_path), whole)
    assert counting.since() == 90 - 5 * 16


def test_features_that_are_not_finite_are_refused_and_not_kept(tmp_path: Path) -> None:
    class Dividing(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            pixels = images.flatten(1)
            return pixels / (pixels[:, :1] > pixels[:, :1].median())

    for _ in range(2):
        with pytest.raises(UserError, match=r"features of \d+ of 90 images are not finite"):
            features(tmp_path, Dividing())
    assert not chunks_in(tmp_path)


class Pictures(Source):
    """A source of which one image turns out unreadable when it is read."""

    def __init__(self) -> None:
        names = [str(label) for label in range(20)]
        description = {"checksum": "", "pixels": "twenty"}
        super().__init__(torch.arange(20), names, description, skip_unreadable=True)

    def image(self, index: int) -> Tensor:
        if index == 7:
            raise UnreadableImageError("number 7", "broken")
        return torch.full((3, 16, 16), index, dtype=torch.uint8)


def test_the_replacement_of_an_unreadable_image_keeps_its_own_label(tmp_path: Path) -> None:
    for _ in range(2):
        found = features(tmp_path, source=Pictures())["pre_logits"]
        assert found.labels.tolist() == [*range(7), 8, *range(8, 20)]
        assert torch.equal(found.features[7], found.features[8])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_makes_and_reads_what_the_cpu_does(tmp_path: Path) -> None:
    def found(device: str, folder: Path | None, **options: Any) -> Features:
        frozen, source = freeze(encoder(), device), open_source(DATA, "train")
        context = EvalContext(device, features=folder)
        return represent(frozen, source, VIEW, Representation(), context, **options)["pre_logits"]

    on_cpu = found("cpu", None)
    for folder in (None, tmp_path, tmp_path):
        for gathered in (True, False):
            on_gpu = found("cuda", folder, gathered=gathered)
            assert on_gpu.features.device.type == on_gpu.labels.device.type == "cuda"
            rows, labels = on_gpu.features.cpu(), on_gpu.labels.cpu()
            order = torch.cdist(rows, on_cpu.features).argmin(0)
            torch.testing.assert_close(rows[order], on_cpu.features, rtol=1e-2, atol=1e-2)
            assert torch.equal(labels[order], on_cpu.labels)


def test_progress_tells_of_every_image_once(tmp_path: Path) -> None:
    for data in (EvalData(), EvalData(labels=0.5)):
        for _ in range(2):
            on_progress: list[int] = []
            splits = open_eval_splits(lambda split, *_: open_source(DATA, split), data)
            features(tmp_path, source=splits.train, on_progress=on_progress.append)
            assert sum(on_progress) == len(splits.train)
            assert min(on_progress) >= 0


def test_people_can_read_what_a_folder_holds(tmp_path: Path) -> None:
    features(tmp_path)
    (folder,) = tmp_path.iterdir()
    facts = json.loads((folder / "features.json").read_text())
    assert facts["images"] == 90
    assert facts["precision"] == "float32"
    assert facts["view"]["size"] == 16
    assert [path.name for path in chunks_in(tmp_path)] == [
        f"pre_logits-0000{chunk}.safetensors" for chunk in range(6)
    ]


def test_a_chunk_is_mapped_into_memory_and_not_read(tmp_path: Path) -> None:
    features(tmp_path)
    path = chunks_in(tmp_path)[0]
    content = read_chunk(path, _name_in(path))
    with open("/proc/self/maps") as maps:
        assert path.name in maps.read()
    assert content.vectors.shape == (16, 32)
    assert checksum(content) != checksum(Chunk(content.vectors, content.samples.flip(0)))


def _name_in(path: Path) -> str:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return str(file.metadata()["of"])


def test_protocols_share_a_pass(tmp_path: Path, counting: Counting) -> None:
    opened = source_opener(DATA)
    context = EvalContext("cpu", features=tmp_path)
    built = encoder()
    MlpProbe(hidden=8, epochs=2, milestones=()).run(built, opened, context, seed=0)
    assert counting.since() == 130
    MlpProbe(hidden=9, epochs=1, milestones=()).run(built, opened, context, seed=1)
    Knn(k=5).run(built, opened, context)
    assert counting.since() == 0


def _in_process(folder: Path) -> dict[str, Any]:
    make_chunks_small()
    calls: list[int] = []
    taps = FrozenEncoder.taps

    def counted(frozen: FrozenEncoder, images: Tensor, names: Any) -> dict[str, Tensor]:
        calls.append(len(images))
        return taps(frozen, images, names)

    setattr(FrozenEncoder, "taps", counted)  # noqa: B010
    made = features(folder / "two")["pre_logits"]
    images = sum(calls)
    calls.clear()
    read = features(folder / "one")["pre_logits"]
    part = features(folder / "one", gathered=False)["pre_logits"]
    few = judged(EvalData(labels=0.2), folder / "one")[0]["pre_logits"]
    read_images = sum(calls)
    computed_part = features(None, gathered=False)["pre_logits"]
    for module in (distributed, cache_module, features_module):
        # From here on a job of its own, that knows nothing of the other.
        setattr(module, "process_count", lambda: 1)  # noqa: B010
        setattr(module, "process_index", lambda: 0)  # noqa: B010
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        together = [features(folder / "together")["pre_logits"] for _ in range(3)]
    return {
        "together": together,
        "images": images,
        "made": made,
        "read": read,
        "read_images": read_images,
        "part": part,
        "few": few,
        "computed_part": computed_part,
    }


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """Return a folder and what `_in_process` gives in each of two: starting them takes time."""
    folder = tmp_path_factory.mktemp("features")
    with pytest.MonkeyPatch.context() as patch:
        make_chunks_small(patch.setattr)
        judged(EvalData(), folder / "one")
    return folder, run_processes(_in_process, 2, folder)


def test_two_processes_make_and_read_what_one_does(
    two_processes: tuple[Path, list[dict[str, Any]]],
) -> None:
    folder, results = two_processes
    whole = features(folder / "one")["pre_logits"]
    few = judged(EvalData(labels=0.2), folder / "one")[0]["pre_logits"]
    assert sorted(found["images"] for found in results) == [42, 48]
    for found in results:
        assert found["read_images"] == 0
        for name in ("made", "read"):
            assert torch.equal(found[name].features, whole.features)
            assert torch.equal(found[name].labels, whole.labels)
        assert torch.equal(found["few"].features, few.features)
        assert len(found["part"].labels) == len(found["computed_part"].labels) == 45
    for name in ("part", "computed_part"):
        rows = torch.cat([found[name].features for found in results])
        labels = torch.cat([found[name].labels for found in results])
        assert_equal_sets(rows, labels, whole)


def assert_equal_sets(rows: Tensor, labels: Tensor, whole: Features) -> None:
    """Check that rows are those of the whole, each once, with their labels, to rounding."""
    distances = torch.cdist(rows.double(), whole.features.double())
    nearest = distances.argmin(1)
    assert sorted(nearest.tolist()) == list(range(len(whole.labels)))
    assert float(distances.min(1).values.max()) < 1e-4
    assert torch.equal(labels, whole.labels[nearest])


def test_jobs_that_know_nothing_of_each_other_may_write_together(
    two_processes: tuple[Path, list[dict[str, Any]]],
) -> None:
    folder, results = two_processes
    whole = features(folder / "one")["pre_logits"]
    for found in results:
        assert all(torch.equal(made.features, whole.features) for made in found["together"])
    assert len(chunks_in(folder / "together")) == 6
    assert not list((folder / "together").glob("*/.*")), "no temporary file is left"


def test_the_cache_draws_nothing(tmp_path: Path) -> None:
    state = torch.get_rng_state()
    features(tmp_path)
    assert torch.equal(torch.get_rng_state(), state)
