import random
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision.models
from PIL import Image
from torch import nn
from torchvision.transforms._presets import ImageClassification

from nonsemantic_negatives.zoo import (
    Checkpoint,
    TextureAccuracy,
    find_checkpoints,
    texture_accuracy,
)
from nonsemantic_negatives.zoo import __main__ as command
from nonsemantic_negatives.zoo.checkpoints import _by_file_name
from nonsemantic_negatives.zoo.textures_alone import places_of
from retable.data.imagenet_variants.categories import imagenet_ids
from retable.errors import UserError
from retable.evaluate.data import source_opener
from retable.evaluate.features import represent
from retable.evaluate.ood_sets import OodSet
from retable.evaluate.protocol import EvalContext
from retable.files import read_record
from retable.views import ViewRecipe, center

CLASSES = ("n01820546", "n02123045", "n02504458", "n03196217", "n07753275")
SMALL = ("mnasnet0_5", "mobilenet_v3_small", "shufflenet_v2_x0_5")
"""Small networks that end with a linear layer."""


def file_of(model: str, version: str = "IMAGENET1K_V1") -> str:
    return Path(torchvision.models.get_model_weights(model)[version].url).name


def preset_of(model: str) -> ImageClassification:
    preset = torchvision.models.get_model_weights(model)["IMAGENET1K_V1"].transforms()
    assert isinstance(preset, ImageClassification)
    return preset


def write_weights(folder: Path, model: str, images: Path) -> Path:
    """Save weights under the name of the published ones, whose decisions differ by image."""
    torch.manual_seed(len(model))
    network = torchvision.models.get_model(model, weights=None).eval()
    made = [preset_of(model)(Image.open(path)) for path in sorted(images.rglob("*.png"))]
    *_, last = (each for each in network.modules() if isinstance(each, nn.Linear))
    with torch.no_grad():
        last.bias.sub_(network(torch.stack(made)).mean(dim=0))
    path = folder / file_of(model)
    torch.save(network.state_dict(), path)
    return path


def write_images(root: Path, size: tuple[int, int]) -> Path:
    draw = random.Random(str(size))
    for name in CLASSES:
        for number in range(3):
            path = root / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            coarse = Image.frombytes("RGB", (8, 8), draw.randbytes(192))
            coarse.resize(size, Image.Resampling.BILINEAR).save(path)
    return root


@pytest.fixture(scope="module")
def zoo(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    for model in SMALL:
        write_weights(folder, model, data / "val")
    (folder / "notes.txt").write_text("no weights")
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("imagenet")
    write_images(folder / "train", (300, 260))
    write_images(folder / "val", (300, 260))
    write_images(folder / "textures", (224, 224))
    return folder


def words(zoo: Path, data: Path, out: Path) -> list[str]:
    sources = ["--data", f"imagefolder:{data}", "--textures", str(data / "textures")]
    return [str(zoo), *sources, "--out", str(out), "--quiet"]


def accuracy_by_torchvision(model: str, folder: Path, zoo: Path, *, resized: bool) -> list[float]:
    """Return the accuracies by class of torchvision's own network and transforms, in percent."""
    network = torchvision.models.get_model(model, weights=None)
    network.load_state_dict(torch.load(zoo / file_of(model), weights_only=True))
    network.eval()
    preset = preset_of(model)
    places = [imagenet_ids().index(name) for name in CLASSES]
    found = []
    for label, name in enumerate(CLASSES):
        hits = 0
        for path in sorted((folder / name).iterdir()):
            image = Image.open(path)
            if not resized:  # stored at the inputs' size: the transform's resize must do nothing
                preset.resize_size = [image.size[0]]
            with torch.no_grad():
                scores = network(preset(image)[None])[0, places]
            hits += int(scores.argmax() == label)
        found.append(100 * hits / 3)
    return found


def test_accuracies_are_those_of_torchvision_s_networks_and_transforms(
    zoo: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(words(zoo, data, tmp_path)) == 0
    found = read_record(tmp_path / "zoo.json", "zoo")
    for model in SMALL:
        accuracy = found[file_of(model)]["accuracy"]
        of_images = accuracy_by_torchvision(model, data / "val", zoo, resized=True)
        assert accuracy["images"] == pytest.approx(sum(of_images) / 5)
        assert sum(value > 0 for value in of_images) > 1  # the decisions differ by image
        of_textures = accuracy_by_torchvision(model, data / "textures", zoo, resized=False)
        assert accuracy["by_class"] == pytest.approx(of_textures)
        assert accuracy["textures"] == pytest.approx(sum(of_textures) / 5)
    said = capsys.readouterr().out
    assert re.search(r"shufflenet_v2_x0_5 +[\d.]+ +60\.6 +[\d.]+ +\d +\d\n", said)
    assert "Correlation of the two over 3 networks" in said
    assert (tmp_path / "zoo.svg").exists()


def test_the_same_command_measures_only_what_is_missing(
    zoo: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[str] = []

    def count(checkpoint: Checkpoint, *_: object, **__: object) -> TextureAccuracy:
        measured.append(checkpoint.model)
        return TextureAccuracy(50.0, 10.0, (0.0, 20.0, 60.0, 2.5, 50.0))

    monkeypatch.setattr(command, "texture_accuracy", count)
    first = [str(zoo / file_of("shufflenet_v2_x0_5")), *words(zoo, data, tmp_path)[1:]]
    assert command.main(first) == 0
    assert command.main(words(zoo, data, tmp_path)) == 0
    assert sorted(measured) == sorted(SMALL)
    other = write_images(data.parent / f"{data.name}-other", (224, 224))
    changed = words(zoo, data, tmp_path)
    changed[4] = str(other)
    assert command.main(changed) == 0
    assert len(measured) == 6


def test_hardly_and_mostly_recognised_classes_are_those_beyond_the_bounds() -> None:
    accuracy = TextureAccuracy(50.0, 10.0, (0.0, 20.0, 60.0, 2.5, 50.0, 2.4))
    assert (accuracy.hardly, accuracy.mostly) == (2, 1)


def test_every_published_classifier_is_known_by_its_file_and_tested_on_its_own_view(
    tmp_path: Path,
) -> None:
    names = torchvision.models.list_models(module=torchvision.models)
    entries = sum(len(torchvision.models.get_model_weights(name)) for name in names)
    known = _by_file_name()
    assert len(known) == entries
    found = {name: one(tmp_path / name) for name, one in known.items()}
    assert found["resnet50-0676ba61.pth"].view == center(224, 256)
    inception = found[file_of("inception_v3")].view
    assert (inception.size, inception.resize) == (299, 342)
    assert found[file_of("resnet50")].published == pytest.approx(76.13, abs=0.01)
    families = {one.model: one.family for one in found.values()}
    assert families["vgg11_bn"] == families["vgg19"] == "vgg"
    assert families["wide_resnet50_2"] == families["resnet18"] == "resnet"
    assert families["efficientnet_v2_l"] == "efficientnet"


def test_networks_load_as_torchvision_loads_them(tmp_path: Path) -> None:
    options = {"init_weights": False}
    google = torchvision.models.get_model("googlenet", weights=None, **options)
    torch.save(google.state_dict(), tmp_path / file_of("googlenet"))
    dense = torchvision.models.get_model("densenet121", weights=None)
    pattern = re.compile(r"(denselayer\d+\.(?:norm|conv))([12])")
    legacy = {pattern.sub(r"\1.\2", name): tensor for name, tensor in dense.state_dict().items()}
    assert legacy.keys() != dense.state_dict().keys()
    torch.save(legacy, tmp_path / file_of("densenet121"))
    found: dict[str, Any] = {one.model: one.load() for one in find_checkpoints([tmp_path])}
    assert found["googlenet"].transform_input is True
    assert not found["googlenet"].training
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(found["densenet121"](images), dense.eval()(images))


def test_weights_of_another_version_are_asked_for_by_name(zoo: Path, tmp_path: Path) -> None:
    other = tmp_path / file_of("resnet50", "IMAGENET1K_V2")
    other.write_bytes(b"")
    with pytest.raises(UserError, match="IMAGENET1K_V1"):
        find_checkpoints([tmp_path])
    (found,) = find_checkpoints([tmp_path], "IMAGENET1K_V2")
    assert (found.model, found.view.resize) == ("resnet50", 232)
    assert len(find_checkpoints([zoo, other])) == 4


def test_wrong_files_end_with_a_sentence(
    zoo: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(place: Path) -> str:
        assert command.main(words(place, data, tmp_path / "out")) == 2
        return capsys.readouterr().err

    assert "has no name of one" in said(zoo / "notes.txt")
    assert "does not exist" in said(zoo / "none.pth")
    assert "got none" in said(data)
    wrong = tmp_path / file_of("shufflenet_v2_x0_5")
    torch.save(nn.Linear(2, 2).state_dict(), wrong)
    assert "must hold the weights IMAGENET1K_V1 of shufflenet_v2_x0_5" in said(wrong)
    wrong.write_bytes(b"PK\3\4 cut short")
    assert str(wrong) in said(wrong)


def test_classes_that_are_none_of_imagenet_end_with_a_sentence() -> None:
    assert places_of(["n01440764", "n15075141"]).tolist() == [0, 999]
    with pytest.raises(UserError, match="must be those of ImageNet"):
        places_of(["cat"])


def test_a_network_of_larger_inputs_sees_all_of_a_texture(
    zoo: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (small,) = find_checkpoints([zoo / file_of("shufflenet_v2_x0_5")])
    opened = source_opener(f"imagefolder:{data}")
    images = opened("test")
    textures = OodSet("texture", str(data / "textures")).open(opened, "", images)
    seen: list[tuple[int, int | None]] = []

    def watched(network: Any, source: Any, view: ViewRecipe, *rest: Any, **named: Any) -> Any:
        seen.append((view.size, view.resize))
        return represent(network, source, view, *rest, **named)

    monkeypatch.setattr("nonsemantic_negatives.zoo.textures_alone.represent", watched)
    for view in (center(224, 256), center(299, 342)):
        texture_accuracy(replace(small, view=view), images, textures, EvalContext("cpu"))
    assert seen == [(224, 256), (224, None), (299, 342), (299, 299)]
