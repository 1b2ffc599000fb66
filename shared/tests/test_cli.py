import json
import math
import multiprocessing
import os
import time
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from PIL import Image

import retable.evaluate
from retable import cli
from retable.encoders import ResNetRecipe
from retable.train import checkpoint as training_checkpoint
from retable.weights import load_encoder, save_encoder

DATA = "shapes?count=120&test_count=60&classes=4"


@pytest.fixture
def checkpoint(tmp_path: Path) -> str:
    recipe = ResNetRecipe("small_resnet8", width=0.5)
    path = tmp_path / "encoder.safetensors"
    save_encoder(path, recipe.build(rng_key=0), recipe, {"epoch": 3})
    return str(path)


def evaluate(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    status = cli.main(["evaluate", *arguments, "--data", DATA, "--device", "cpu", "--json"])
    assert status == 0
    report: dict[str, Any] = json.loads(capsys.readouterr().out)
    return report


def test_a_report_says_how_sure_an_accuracy_is_and_whose_the_settings_are(
    checkpoint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [checkpoint, "--protocol", "knn", "--data", DATA, "--size", "16", "--set", "k=5"]
    assert cli.main(["evaluate", *words, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    share, images = report["results"]["top1"] / 100, report["images"]["test"]
    expected = 100 * math.sqrt(share * (1 - share) / images)
    assert report["standard_errors"]["top1"] == pytest.approx(expected)
    assert cli.main(["evaluate", *words]) == 0
    said = capsys.readouterr().out
    assert f"±: standard error over {images} test images" in said
    assert "  settings: k 5, temperature 0.07" in said
    assert "  defaults: Wu et al. (arXiv:1805.01978) on ImageNet; for another data set" in said


@pytest.mark.parametrize(
    ("protocol", "settings", "metrics"),
    [
        ("linear", ["epochs=2", "milestones=[1]", "lr=1"], {"top1", "top5", "best_top1"}),
        ("logistic", ["l2=[0.1,0.01]", "iterations=20"], {"top1", "top5", "l2"}),
        ("mlp", ["epochs=2", "hidden=8"], {"top1", "top5", "best_top1"}),
        ("knn", ["k=5"], {"top1", "top5"}),
        ("finetune", ["epochs=1", "milestones=[]", "data.labels=0.2"], {"top1", "images"}),
        ("geometry", [], {"alignment", "uniformity", "effective_rank"}),
        ("ood", ["variants=[\"sketch\",\"corrupted:fog:1\"]", "probe.iterations=20"],
         {"clean", "sketch", "corrupted", "corrupted:fog", "corrupted:fog:1"}),
    ],
)  # fmt: skip
def test_every_protocol_evaluates_a_checkpoint(
    protocol: str,
    settings: list[str],
    metrics: set[str],
    checkpoint: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = [option for setting in settings for option in ("--set", setting)]
    report = evaluate(capsys, checkpoint, "--protocol", protocol, *options)
    assert metrics <= report["results"].keys()
    assert report["encoder"]["metadata"] == {"epoch": 3}
    assert report["data"]["test"]["images"] == 60
    assert ("train" in report["data"]) == (protocol != "geometry")


EXTENSION = """
from dataclasses import dataclass, field
from retable.evaluate import register_protocol
from retable.evaluate.data import EvalData
from retable.evaluate.protocol import Evaluation, MetricSpec

@dataclass(frozen=True)
class Weights(Evaluation):
    factor: float = 1.0
    data: EvalData = field(default_factory=EvalData)
    name: str = "weights"

    @property
    def metrics(self):
        return {"weights": MetricSpec("Weights")}

    def run(self, encoder, open_source, context, *, seed):
        return {"weights": self.factor * sum(p.numel() for p in encoder.parameters())}

register_protocol("weights", lambda size: Weights())
"""


def test_a_module_brings_a_protocol(
    checkpoint: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "own_protocol.py").write_text(EXTENSION)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("retable.evaluate._PROTOCOLS", dict(retable.evaluate._PROTOCOLS))
    words = ["--import", "own_protocol", "--protocol", "weights", "--set", "factor=2"]
    report = evaluate(capsys, checkpoint, *words)
    expected = sum(value.numel() for value in load_encoder(checkpoint).encoder.parameters())
    assert report["results"] == {"weights": 2 * expected}


def test_settings_reach_the_protocol(checkpoint: str, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--set", "k=3", "--set", "temperature=1", "--size", "24", "--seed", "7"]
    report = evaluate(capsys, checkpoint, "--protocol", "knn", *options)
    assert report["protocol"]["k"] == 3
    assert report["protocol"]["temperature"] == 1.0
    assert report["protocol"]["view"]["size"] == 24
    assert report["seed"] == 7


@pytest.mark.parametrize(("split", "read"), [("val", "val"), ("validation", "train")])
def test_the_report_describes_the_split_that_is_tested_on(
    split: str, read: str, checkpoint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--set", "k=5", "--set", f"data.split={split}"]
    report = evaluate(capsys, checkpoint, "--protocol", "knn", *options)
    assert report["data"]["test"]["split"] == read
    assert report["data"]["train"]["split"] == "train"


def test_other_data_a_share_of_its_labels_and_several_layers_can_be_judged(
    checkpoint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    other = "shapes?count=80&test_count=50&classes=3"
    report = evaluate(
        capsys, checkpoint, "--protocol", "mlp", "--set", f"data.source={other}",
        "--set", "data.labels=0.5", "--set", 'representation.taps=["layer1","layer3"]',
        "--set", "hidden=8", "--set", "epochs=2",
    )  # fmt: skip
    assert report["data"]["test"]["images"] == 50
    assert report["data"]["train"]["data"] == other
    assert report["protocol"]["data"]["labels"] == 0.5
    assert {"top1", "top1@layer1", "top1@layer3"} <= report["results"].keys()


def test_features_are_kept_where_asked(
    checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--features", str(tmp_path / "features"), "--protocol"]
    evaluate(capsys, checkpoint, *options, "knn", "--set", "k=5")
    kept = sorted((tmp_path / "features").rglob("*.safetensors"))
    assert len(kept) == 2
    times = [path.stat().st_mtime_ns for path in kept]
    evaluate(capsys, checkpoint, *options, "geometry")
    evaluate(capsys, checkpoint, *options, "logistic", "--set", "l2=[0.1]")
    assert sorted((tmp_path / "features").rglob("*.safetensors")) == kept
    assert [path.stat().st_mtime_ns for path in kept] == times


def save_images(folder: Path, counts: dict[str, int], classes: int = 2, side: int = 16) -> str:
    for split, count in counts.items():
        for label in range(classes):
            (folder / split / str(label)).mkdir(parents=True)
            for number in range(count):
                values = numpy.full((side, side, 3), 20 * number + 90 * label, "uint8")
                Image.fromarray(values).save(folder / split / str(label) / f"{number}.png")
    return f"imagefolder:{folder}"


def test_small_images_of_a_folder_are_judged_as_they_are_and_the_report_says_so(
    checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = save_images(tmp_path / "images", {"train": 2, "val": 3})
    words = ["evaluate", checkpoint, "--protocol", "geometry", "--data", data, "--device", "cpu"]
    reports = []
    for size in ([], ["--size", "16"], ["--size", "24"]):
        assert cli.main([*words, *size, "--json"]) == 0
        reports.append(json.loads(capsys.readouterr().out))
    assert reports[0]["results"] == reports[1]["results"] != reports[2]["results"]
    chosen = [report["views"]["view"] for report in reports]
    assert chosen[0] == {"size": 16, "resize": None, "chosen_by": "size of the images"}
    assert chosen[2] == {"size": 24, "resize": 24, "chosen_by": "settings"}
    assert reports[0]["protocol"]["view"]["size"] == 16
    assert reports[0]["images"] == {"test": 6}
    assert cli.main(words) == 0
    said = capsys.readouterr().out
    assert "  test: 6 images of 2 classes\n" in said
    assert "  view: 16 pixels, chosen by the size of the images\n" in said


def test_counts_and_what_is_left_out_are_shown(
    checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = save_images(tmp_path / "images", {"train": 3, "val": 2})
    train = tmp_path / "images" / "train"
    (train / "0" / "more.bmp").write_bytes(b"BM")
    (train / "0" / "up").symlink_to("..")
    with open(os.fsencode(train / "1") + b"/caf\xe9.jpg", "wb") as file:
        file.write(b"no image")
    words = ["evaluate", checkpoint, "--protocol", "knn", "--set", "k=1", "--data", data]
    words += ["--device", "cpu", "--skip-unreadable"]
    assert cli.main(words) == 0
    said = capsys.readouterr().out
    assert "  train: 6 images of 2 classes; left out: unreadable images (1: 1/caf\\xe9.jpg)" in said
    assert "(1: 0/more.bmp)" in said
    assert "left out: links back into the data set (1: 0/up)" in said
    assert cli.main([*words, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)["data"]["train"]
    assert facts["unreadable_first"] == ["1/caf\\xe9.jpg"]
    assert facts["skipped"]["links back into the data set"] == {"count": 1, "first": ["0/up"]}


def test_images_that_cannot_be_decoded_are_counted_where_they_are_skipped(
    checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = save_images(tmp_path / "images", {"train": 3, "val": 2})
    path = tmp_path / "images" / "train" / "0" / "1.png"
    path.write_bytes(path.read_bytes()[:50])
    words = ["evaluate", checkpoint, "--protocol", "knn", "--set", "k=1", "--data", data]
    words += ["--device", "cpu"]
    assert cli.main(words) == 2
    assert "0/1.png is unreadable" in capsys.readouterr().err
    assert cli.main([*words, "--skip-unreadable"]) == 0
    said = capsys.readouterr().out
    assert (
        "train: 6 images of 2 classes; unreadable when decoded, replaced by the next image: 1\n"
        in said
    )


@pytest.mark.parametrize(
    ("protocol", "settings", "status"),
    [
        ("knn", ["k=1"], 0),
        ("linear", ["epochs=1", "milestones=[]"], 0),
        ("mlp", ["epochs=1", "milestones=[]"], 0),
        ("logistic", ["l2=[0.1]"], 0),
        ("logistic", [], 2),
        ("geometry", [], 2),
        ("knn", [], 2),
    ],
)
def test_one_image_to_learn_from_and_one_to_test_on_give_numbers_or_a_sentence(
    protocol: str,
    settings: list[str],
    status: int,
    checkpoint: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = save_images(tmp_path / "images", {"train": 1, "val": 1}, classes=1)
    words = [word for setting in settings for word in ("--set", setting)]
    words = ["evaluate", checkpoint, "--protocol", protocol, "--data", data, *words]
    assert cli.main([*words, "--device", "cpu"]) == status
    said = capsys.readouterr().err
    assert (said.count("\n") == 1) == (status == 2)
    assert "Traceback" not in said


def test_metrics_are_printed_for_people(
    checkpoint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [checkpoint, "--protocol", "knn", "--data", DATA, "--set", "k=5", "--device", "cpu"]
    assert cli.main(["evaluate", *arguments]) == 0
    printed = capsys.readouterr().out
    assert "small_resnet8 of width 0.5 with the imagenet stem" in printed
    assert "top1" in printed


def test_an_interrupted_probe_is_kept_where_asked(
    checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--set", "epochs=2", "--directory", str(tmp_path / "state")]
    first = evaluate(capsys, checkpoint, *options)
    assert list((tmp_path / "state").iterdir())
    assert evaluate(capsys, checkpoint, *options) == first


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nowhere.pth"], "nowhere.pth"),
        (["CHECKPOINT", "--data", "cifar"], "cifar"),
        (["CHECKPOINT", "--protocol", "guess"], "'guess' is unknown: expected one of linear"),
        (["CHECKPOINT", "--import", "no_such_module"], "No module named 'no_such_module'"),
        (["CHECKPOINT", "--set", "speed=3"], "got 'speed'. Choose from lr"),
        (["CHECKPOINT", "--set", "lr"], "`--set lr` must have a value"),
        (["CHECKPOINT", "--set", "lr=fast"], "`lr` must be a number, got 'fast'"),
        (["CHECKPOINT", "--set", "lr.x=1"], "must end at 'lr', which has no fields"),
        (["CHECKPOINT", "--device", "cuda:99"], "got 'cuda:99'"),
        (["CHECKPOINT", "--device", "tpu"], "got 'tpu'"),
        (["CHECKPOINT", "--protocol", "knn", "--data", DATA], "kNN with k = 200 has 120"),
        (["CHECKPOINT", "--protocol", "ood", "--data", DATA, "--set", "variants=[\"snowy\"]",
          "--set", "probe.iterations=1"], "snowy"),
    ],
)  # fmt: skip
def test_mistakes_end_with_one_sentence_and_status_2(
    arguments: list[str], sentence: str, checkpoint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [checkpoint if word == "CHECKPOINT" else word for word in arguments]
    assert cli.main(["evaluate", *arguments]) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert said.count("\n") == 1
    assert "Traceback" not in said


@pytest.mark.parametrize("arguments", [[], ["judge"], ["evaluate", "x", "--seed", "one"]])
def test_wrong_usage_has_status_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(arguments) == 2
    assert capsys.readouterr().err.endswith("(see --help).\n")


def test_an_interruption_has_status_130_and_one_line(
    checkpoint: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli.evaluate, "run", interrupted)
    assert cli.main(["evaluate", checkpoint]) == 130
    assert capsys.readouterr().err == "retable: interrupted.\n"


def test_an_export_opens_in_torchvision(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "exported.pth"
    arguments = ["untrained:resnet18", "--layout", "torchvision", str(output)]
    assert cli.main(["export", *arguments]) == 0
    from torchvision.models import resnet18

    model = resnet18()
    model.fc = torch.nn.Identity()
    model.load_state_dict(torch.load(output, weights_only=True))
    encoder = load_encoder("untrained:resnet18").encoder
    images = torch.linspace(-1, 1, 2 * 3 * 64 * 64).view(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(images), encoder(images))


def test_an_export_that_the_layout_cannot_hold_ends_with_a_sentence(
    checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [checkpoint, "--layout", "timm", str(tmp_path / "x.pth")]
    assert cli.main(["export", *arguments]) == 2
    assert "small_resnet8" in capsys.readouterr().err


def newest(directory: Path) -> int:
    return max((int(path.stem.rsplit("-", 1)[1]) for path in directory.glob("linear-*")), default=0)


def state_after(directory: Path) -> dict[str, Any]:
    found = training_checkpoint.load_newest(directory, name="linear")
    assert found is not None
    epoch, state = found
    assert epoch == 40
    return state


@pytest.mark.slow
def test_a_probe_killed_three_times_ends_with_the_same_bits(
    checkpoint: str, tmp_path: Path
) -> None:
    context: Any = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["retable.testing"])

    def start(directory: Path) -> Any:
        options = ["--set", "epochs=40", "--set", "lr=1", "--directory", str(directory)]
        arguments = ["evaluate", checkpoint, "--data", DATA, "--device", "cpu", *options]
        process = context.Process(target=cli.main, args=(arguments,), daemon=True)
        process.start()
        return process

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    killed.mkdir()
    start(whole).join(120)
    for epoch in (1, 4, 7):
        process = start(killed)
        while newest(killed) < epoch and process.is_alive():
            time.sleep(0.002)
        assert process.is_alive(), "the probe ended before it could be killed"
        process.kill()
        process.join()
    start(killed).join(120)
    state, expected = state_after(killed), state_after(whole)
    tensors = state.pop("tensors")
    assert all(torch.equal(tensors[name], value) for name, value in expected.pop("tensors").items())
    assert state == expected


def test_sets_of_shifted_images_are_named_on_the_command_line(
    checkpoint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ["--set", "probe.l2=[0.1]", "--set", "probe.iterations=5"]
    words = [checkpoint, "--protocol", "ood", *settings]
    report = evaluate(capsys, *words, "--ood", "sketch", "--ood", "r")
    names = ["clean", "sketch", "sketch_masked", "r", "r_masked"]
    assert list(report["results"]) == sorted(names)
    assert [one["name"] for one in report["protocol"]["sets"]] == ["sketch", "r"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--protocol", "knn", "--ood", "sketch"], "`--ood` belongs to --protocol ood, got knn"),
        (["--protocol", "ood", "--ood", "r", "--ood", "r"], "`--ood` must name each set once"),
        (["--protocol", "ood", "--ood", "imagenet-c=x"], "`--ood` must be NAME=DIR with a name of"),
        (["--protocol", "ood", "--ood", "c=nowhere"], "must be those of ImageNet"),
        (["--protocol", "ood", "--ood", "v2"], "The set 'v2' must be a folder"),
    ],
)
def test_wrong_sets_end_with_a_sentence(
    checkpoint: str, words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["evaluate", checkpoint, *words, "--data", DATA, "--device", "cpu"]) == 2
    assert sentence in capsys.readouterr().err
