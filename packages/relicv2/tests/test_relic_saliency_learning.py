"""A saliency network learned from handcrafted maps, and the masks that it makes."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("skimage")

from relicv2.masks import __main__ as masks
from relicv2.masks.providers import learned
from relicv2.saliency import __main__ as saliency
from relicv2.saliency import learning, stages
from relicv2.saliency.dense_crf import DenseCRF
from relicv2.saliency.handcrafted import MAPS
from relicv2.saliency.learning import LearningRecipe, fuse, refined_maps, train
from relicv2.saliency.losses import THRESHOLDS, averaged, saliency_loss
from relicv2.saliency.network import SaliencyNetwork, load_network, save_network
from retable.data.shapes.dataset import Shapes
from retable.encoders import ResNetRecipe
from retable.errors import UserError
from retable.weights.weights_files import file_digest

SMALL = ResNetRecipe("small_resnet8")
SHAPES = Shapes(8, size=32, classes=32, rho=0.0, split="test")
IMAGES = SHAPES.images(torch.arange(8))
OBJECTS = SHAPES.masks(torch.arange(8)).reshape(8, 32, 32) > 0


@pytest.fixture
def network() -> SaliencyNetwork:
    return SaliencyNetwork(SMALL.build(0), rng_key=1)


def test_probabilities_have_the_images_size(network: SaliencyNetwork) -> None:
    with torch.no_grad():
        found = network(IMAGES[:2, :, :24])
    assert found.shape == (2, 24, 32)
    assert (found >= 0).all()
    assert (found <= 1).all()


def test_an_image_of_any_size_is_predicted_like_a_padded_one(network: SaliencyNetwork) -> None:
    network.eval()
    image = IMAGES[0, :, :27, :30]
    found = network.predict(image)
    assert found.shape == (27, 30)
    padded = torch.cat([image, image[:, 21:26].flip(1)], dim=1)
    padded = torch.cat([padded, padded[:, :, 27:29].flip(2)], dim=2)
    with torch.no_grad():
        assert torch.equal(found, network(padded[None])[0, :27, :30])


@pytest.mark.parametrize("size", [(1, 1), (4, 4), (4, 9), (3, 40), (40, 3)])
def test_images_too_thin_to_be_reflected_are_predicted(
    network: SaliencyNetwork, size: tuple[int, int]
) -> None:
    found = network.eval().predict(torch.full((3, *size), 90, dtype=torch.uint8))
    assert found.shape == size
    assert found.isfinite().all()


def test_a_saved_network_is_the_same(network: SaliencyNetwork, tmp_path: Path) -> None:
    network.side = 96
    save_network(tmp_path / "n.safetensors", network, SMALL)
    loaded = load_network(tmp_path / "n.safetensors")
    assert loaded.side == learned(tmp_path / "n.safetensors").side == 96
    assert learned(tmp_path / "n.safetensors", side=64).side == 64
    assert torch.equal(loaded.predict(IMAGES[0]), network.eval().predict(IMAGES[0]))


def test_other_files_are_no_networks(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="must be a saliency network, got another file"):
        load_network(tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="does not exist"):
        load_network(tmp_path / "none.safetensors")


def test_an_epoch_tells_what_was_said_of_every_image_before_its_step() -> None:
    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.value = nn.Parameter(torch.tensor(0.5))

        def forward(self, images: Tensor) -> Tensor:
            return self.value.expand(len(images), 32, 32)

    network = Constant()
    seen: list[list[int]] = []

    def loss(predictions: Tensor, positions: Tensor) -> Tensor:
        seen.append(positions.tolist())
        return predictions.mean()

    rates = {"epochs": 2, "lr": 0.01, "batch": 3, "rng_key": 5}
    first, second = train(network, IMAGES, loss, **rates)  # type: ignore[arg-type]
    for epoch in (seen[:3], seen[3:]):
        assert sorted(position for part in epoch for position in part) == list(range(8))
    assert [len(part) for part in seen] == [3, 3, 2, 3, 3, 2]
    assert seen[:3] != seen[3:]
    # Adam's first steps have the learning rate's length: 3 of 0.01, then those of 2^-0.9 of it.
    for step, part in enumerate(seen[:3]):
        wanted = torch.full((len(part), 32, 32), 0.5 - 0.01 * step)
        torch.testing.assert_close(first[part], wanted)
    assert float(second[seen[4]][0, 0, 0]) == pytest.approx(0.47 - 0.01 * 2**-0.9, abs=1e-6)


def test_maps_are_the_moving_average_of_fitted_predictions(network: SaliencyNetwork) -> None:
    recipe = LearningRecipe(epochs=3, batch=4, crf=DenseCRF(steps=1))
    maps = (OBJECTS * 255).to(torch.uint8)
    twin = SaliencyNetwork(SMALL.build(0), rng_key=1)
    found = refined_maps(network, IMAGES, maps, recipe, method="rbd", iteration=1)
    fitted: list[Tensor] = []

    class Recording(DenseCRF):
        def refine(self, saliency, image):  # type: ignore[no-untyped-def]
            refined = super().refine(saliency, image)
            fitted.append(torch.from_numpy(refined))
            return refined

    recording = LearningRecipe(epochs=3, batch=4, crf=Recording(steps=1))
    again = refined_maps(twin, IMAGES, maps, recording, method="rbd", iteration=1)
    assert torch.equal(found, again)
    average = torch.zeros(8, 32, 32)
    for epoch in torch.split(torch.stack(fitted).float(), 8):
        average = averaged(average, epoch)
    assert torch.equal(found, (average * 255).round().to(torch.uint8))
    assert found.max() <= round(255 * (1 - 0.7**3))


def test_processes_fit_to_the_same_maps(network: SaliencyNetwork) -> None:
    recipe = LearningRecipe(epochs=2, batch=4, crf=DenseCRF(steps=1))
    maps = (OBJECTS * 255).to(torch.uint8)
    twin = SaliencyNetwork(SMALL.build(0), rng_key=1)
    arguments = {"method": "mc", "iteration": 0}
    one = refined_maps(network, IMAGES, maps, recipe, **arguments)  # type: ignore[arg-type]
    two = refined_maps(twin, IMAGES, maps, recipe, workers=2, **arguments)  # type: ignore[arg-type]
    assert torch.equal(one, two)


def test_a_network_learns_the_objects_from_several_maps(network: SaliencyNetwork) -> None:
    maps = {"rbd": (OBJECTS * 255).to(torch.uint8), "mc": (OBJECTS * 200).to(torch.uint8)}
    recipe = LearningRecipe(fusion_epochs=60, fusion_lr=3e-3, batch=8)
    fuse(network, IMAGES, maps, recipe)
    with torch.no_grad():
        found = network.train()(IMAGES) > 0.5
    overlap = (found & OBJECTS).sum() / (found | OBJECTS).sum()
    assert overlap > 0.7


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    import PIL.Image

    (tmp_path / "images").mkdir()
    for number, image in enumerate(IMAGES[:5]):
        PIL.Image.fromarray(image.permute(1, 2, 0).numpy()).save(
            tmp_path / "images" / f"{number}.png"
        )
    return tmp_path / "images"


def words(folder: Path, target: str) -> list[str]:
    options = ["--encoder", "untrained:small_resnet8", "--images", "4", "--side", "32"]
    options += ["--epochs", "3", "--fusion-epochs", "1", "--workers", "1", "--quiet"]
    return [str(folder), str(folder.parent / target), *options]


@pytest.mark.slow
def test_an_interrupted_learning_continues_to_the_same_network(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert saliency.main(words(folder, "whole")) == 0
    made = stages.Learning.make_maps

    def stopped(self: stages.Learning, images: Tensor, method: str, number: int) -> None:
        if (method, number) == ("mr", 2):
            raise KeyboardInterrupt
        made(self, images, method, number)

    with monkeypatch.context() as patched:
        patched.setattr(stages.Learning, "make_maps", stopped)
        assert saliency.main(words(folder, "parts")) == 130
    assert "the same command continues" in capsys.readouterr().err
    assert saliency.main(words(folder, "parts")) == 0
    parts, whole = (folder.parent / name for name in ("parts", "whole"))
    names = sorted(path.name for path in whole.glob("[!.]*"))
    assert len(names) == 4 * len(MAPS) + 2
    assert names == sorted(path.name for path in parts.glob("[!.]*"))
    for name in names:
        assert file_digest(parts / name) == file_digest(whole / name), name

    network = whole / stages.NETWORK
    target = str(folder.parent / "masks")
    making = [str(folder), target, "--network", str(network), "--workers", "1", "--quiet"]
    assert masks.main(making) == 0
    assert len([*(folder.parent / "masks").glob("*.png")]) == 5
    assert masks.main([*making, "--plain"]) == 2
    assert "must hold masks of this recipe" in capsys.readouterr().err


def test_rates_double_and_the_fusion_weighs_recall(
    network: SaliencyNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: list[float] = []

    def recorded(network: SaliencyNetwork, images: Tensor, loss: Any, **given: Any) -> list[Tensor]:
        rates.append(given["lr"])
        predictions = torch.full((2, 32, 32), 0.4)
        losses.append(float(loss(predictions, torch.tensor([0, 3]))))
        return []

    losses: list[float] = []
    monkeypatch.setattr(learning, "train", recorded)
    maps = (OBJECTS * 180).to(torch.uint8)
    recipe = LearningRecipe(lr=1e-5, fusion_lr=3e-4)
    for iteration in range(3):
        refined_maps(network, IMAGES, maps, recipe, method="mr", iteration=iteration)
    fuse(network, IMAGES, {"mr": maps, "mc": maps}, recipe)
    assert rates == pytest.approx([1e-5, 2e-5, 4e-5, 3e-4])
    said = torch.full((2, 32, 32), 0.4)
    of_maps = maps[[0, 3]].float() / 255
    first = saliency_loss(said, of_maps, THRESHOLDS["mr"])
    assert losses[0] == pytest.approx(float(first))
    assert losses[3] == pytest.approx(float(saliency_loss(said, of_maps, 0.5, 4.0)))
    assert losses[3] != pytest.approx(float(saliency_loss(said, of_maps, 0.5)))


def test_thresholds_are_those_of_the_official_code() -> None:
    assert THRESHOLDS == {"mc": 0.31, "hs": 0.36, "dsr": 0.23, "rbd": 0.25, "mr": 0.30}


def test_too_few_images_or_epochs_are_refused(network: SaliencyNetwork) -> None:
    with pytest.raises(UserError, match="`epochs` must be at least 2, got 1"):
        LearningRecipe(epochs=1)
    rates = {"epochs": 2, "lr": 0.1, "batch": 3, "rng_key": 0}
    with pytest.raises(UserError, match="`images` must be at least 2, got 1"):
        next(train(network, IMAGES[:1], lambda p, _: p.mean(), **rates))  # type: ignore[arg-type]


def test_an_image_left_alone_joins_the_batch_before(network: SaliencyNetwork) -> None:
    sizes: list[int] = []

    def loss(predictions: Tensor, positions: Tensor) -> Tensor:
        sizes.append(len(positions))
        return predictions.mean()

    next(train(network, IMAGES[:7], loss, epochs=1, lr=0.1, batch=3, rng_key=0))
    assert sizes == [3, 4]


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace training by constants: what is kept and made again does not depend on it."""

    def maps(*_: Any, method: str, iteration: int, **__: Any) -> Tensor:
        return torch.full((4, 32, 32), len(method) + iteration, dtype=torch.uint8)

    monkeypatch.setattr(stages, "refined_maps", maps)
    monkeypatch.setattr(stages, "fuse", lambda *_: None)


@pytest.mark.usefixtures("fast")
def test_damaged_stages_and_networks_are_made_again(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert saliency.main(words(folder, "t")) == 0
    target = folder.parent / "t"
    before = {path.name: path.read_bytes() for path in target.glob("*.safetensors")}
    for name, cut in (("mr-2.safetensors", 100), (stages.NETWORK, 300)):
        (target / name).write_bytes(before[name][:-cut])
    altered = bytearray(before["mc-1.safetensors"])
    altered[-5] ^= 1
    (target / "mc-1.safetensors").write_bytes(altered)
    capsys.readouterr()
    assert saliency.main(words(folder, "t")) == 0
    said = capsys.readouterr().out
    assert said.count("It is made again.") == 3
    assert "3 stages made" in said
    after = {path.name: path.read_bytes() for path in target.glob("*.safetensors")}
    assert after == before


@pytest.mark.usefixtures("fast")
def test_other_images_or_another_encoder_are_refused(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert saliency.main(words(folder, "t")) == 0
    assert saliency.main([*words(folder, "t"), "--encoder", "untrained:small_resnet14"]) == 2
    (folder / "more.png").write_bytes((folder / "0.png").read_bytes())
    assert saliency.main(words(folder, "t")) == 2
    assert capsys.readouterr().err.count("`TARGET` must hold saliency of this recipe") == 2


def test_a_network_that_was_moved_makes_the_same_masks(
    folder: Path, network: SaliencyNetwork, capsys: pytest.CaptureFixture[str]
) -> None:
    target = [str(folder), str(folder.parent / "masks"), "--workers", "1", "--quiet"]
    for place in ("a", "b"):
        (folder.parent / place).mkdir()
        file = folder.parent / place / "n.safetensors"
        save_network(file, network, SMALL)
        assert masks.main([*target, "--network", str(file)]) == 0
    assert "5 images, 5 masks are there." in capsys.readouterr().out


def test_mistakes_are_named_before_anything_is_learned(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert saliency.main([*words(folder, "t"), "--encoder", "untrained:nothing"]) == 2
    assert saliency.main([*words(folder, "t"), "--lr", "-1"]) == 2
    assert "`lr` must be" in capsys.readouterr().err
    for wrong, sentence in (
        (["--epochs", "1"], "`epochs` must be at least 2"),
        (["--images", "50"], "`--images` must be at most the images of .*, 5, got 50"),
        (["--device", "tpu"], "`--device` must be cpu"),
    ):
        assert saliency.main([*words(folder, "t"), *wrong]) == 2
        assert re.search(sentence, capsys.readouterr().err)
    assert not (folder.parent / "t").exists()
    assert masks.main([str(folder), str(folder.parent / "m"), "--device", "tpu"]) == 2
    assert "`--device` must be cpu" in capsys.readouterr().err
    (folder / "0.png").write_bytes(b"no image")
    assert saliency.main([*words(folder, "t"), "--images", "5"]) == 2
    assert "`SOURCE` must hold images, got 0.png" in capsys.readouterr().err


def test_libraries_that_are_missing_are_named_before_anything_is_made(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    for missing, options in (("skimage", []), ("scipy", []), ("pydensecrf", ["--side", "80"])):
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda name, m=missing: None if name == m else find(name)
        )
        assert saliency.main([*words(folder, "t"), *options]) == 2
        assert f"needs {missing}, which is not installed" in capsys.readouterr().err
        if not options:
            assert masks.main([str(folder), str(folder.parent / "m")]) == 2
            assert f"needs {missing}" in capsys.readouterr().err
    assert not (folder.parent / "t").exists()
    assert not (folder.parent / "m").exists()


def test_wrong_options_of_masks_are_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = [str(folder), str(folder.parent / "m"), "--device", "cuda:7"]
    assert masks.main(given) == 2
    assert "`--device` must be" in capsys.readouterr().err
