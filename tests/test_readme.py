"""The README's examples run."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from retable.data.transfer.classification.opening import HUB
from retable.data.transfer.classification.sets import CLASSIFICATION_SETS
from retable.nn.scores import score_statistics
from retable.tables import compare, load_reference, save_comparison
from retable.train.gradients import GradientLandscape
from retable.train.traces import TraceLog

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
NOX = 'python3 -m venv .venv && .venv/bin/pip install "nox[uv]" && .venv/bin/nox'


def blocks(language: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
    return [text for name, text in found if name == language]


def run(command: list[str], folder: Path) -> str:
    variables = {**os.environ, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_the_two_commands_come_first() -> None:
    sessions = ["reproduce-mochi-table1", "tests"]
    assert blocks("")[:2] == [f"{NOX} -s {session}\n" for session in sessions]
    for session in sessions:
        assert f'`uvx --from "nox[uv]" nox -s {session}`' in README


def test_the_continuous_check_runs_the_second_command_as_it_is_printed() -> None:
    script = (ROOT / ".ci" / "run").read_text()
    (extraction,) = re.findall(r"test_command=\$\((.*?)\)", script)
    found = subprocess.run(extraction, shell=True, cwd=ROOT, capture_output=True, text=True)
    assert found.stdout == blocks("")[1]
    assert 'bash -c "$test_command"' in script
    assert ".venv/\n" in (ROOT / ".gitignore").read_text()


def test_the_loop_of_your_own_runs() -> None:
    names: dict[str, torch.Tensor] = {}
    exec(compile(blocks("python")[0], "README.md", "exec"), names)
    assert names["mixed"].shape == (64, 256 + 32)
    assert names["loss"].isfinite()


def snippets() -> list[tuple[str, str, str]]:
    """Return package, name of the example and code of all that READMEs take from examples."""
    pattern = re.compile(r"<!-- from examples/(\S+) -->\n+```python\n(.*?)^```$", re.S | re.M)
    return [
        (readme.parent.name, name, code)
        for readme in sorted(ROOT.glob("packages/*/README.md"))
        for name, code in pattern.findall(readme.read_text(encoding="utf-8"))
    ]


def test_every_example_of_a_package_stands_in_its_readme() -> None:
    examples = {(path.parts[-3], path.name) for path in ROOT.glob("packages/*/examples/*.py")}
    assert {(package, name) for package, name, _ in snippets()} == examples
    assert {package for package, _ in examples} == {p.name for p in ROOT.glob("packages/*")}


@pytest.mark.parametrize(("package", "name", "code"), snippets())
def test_a_package_s_readme_shows_lines_that_its_example_runs(
    package: str, name: str, code: str
) -> None:
    example = (ROOT / "packages" / package / "examples" / name).read_text(encoding="utf-8")
    lines = {line.strip() for line in example.splitlines()}
    missing = [line for line in code.splitlines() if line.strip() not in lines | {""}]
    assert missing == []


@pytest.mark.slow
def test_a_checkpoint_is_evaluated_and_exported(tmp_path: Path) -> None:
    make_moco_checkpoint(tmp_path / "moco_v2_200ep_pretrain.pth.tar")
    make_image_folder(tmp_path / "imagenet")
    evaluate, export = (shlex.split(line) for line in blocks("sh")[0].splitlines())
    assert "top1" in run(program(evaluate), tmp_path)
    run(program(export), tmp_path)
    assert (tmp_path / "backbone.pth").stat().st_size > 0


def test_transfer_knows_the_data_sets_and_names_the_archive_of_a_missing_one(
    tmp_path: Path,
) -> None:
    make_backbone(tmp_path / "backbone.pth")
    folder, hub = (shlex.split(line, comments=True) for line in blocks("sh")[1].splitlines())
    ended = subprocess.run(program(folder), cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == 2
    assert "as the archive of DTD, split 1 unpacks (https://" in ended.stderr
    name, _, place = hub[-1].partition(":")
    assert place == HUB
    assert CLASSIFICATION_SETS[name].copy is not None


def test_detection_and_segmentation_find_their_folders(tmp_path: Path) -> None:
    make_backbone(tmp_path / "backbone.pth")
    make_voc(tmp_path / "VOCdevkit")
    make_boundaries(tmp_path / "benchmark_RELEASE/dataset")
    for line in blocks("sh")[2].splitlines():
        printed = run([*program(shlex.split(line)), "--dry-run"], tmp_path)
        assert "FLOP in the encoder" in printed


def make_backbone(path: Path) -> None:
    """Write an encoder under Detectron2's names."""
    make_moco_checkpoint(path.with_name("moco.pth.tar"))
    export = ["export", str(path.with_name("moco.pth.tar")), "--layout", "detectron2", str(path)]
    run([sys.executable, "-m", "retable.cli", *export], path.parent)


def make_voc(folder: Path) -> None:
    """Write the files of VOC that are opened before a training."""
    from PIL import Image

    size = "<size><width>8</width><height>6</height></size>"
    box = "<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>5</xmax><ymax>6</ymax></bndbox>"
    text = f"<annotation>{size}<object><name>cat</name>{box}</object></annotation>"
    for year in ("VOC2007", "VOC2012"):
        for part in ("Annotations", "JPEGImages", "SegmentationClass"):
            (folder / year / part).mkdir(parents=True)
        for kind, lists in (("Main", ("trainval", "test")), ("Segmentation", ("train", "val"))):
            (folder / year / "ImageSets" / kind).mkdir(parents=True)
            for number, name in enumerate(lists):
                names = "".join(f"{number}{place}\n" for place in range(16))
                (folder / year / "ImageSets" / kind / f"{name}.txt").write_text(names)
        for name in (f"{number}{place}" for number in (0, 1) for place in range(16)):
            (folder / year / "Annotations" / f"{name}.xml").write_text(text)
            Image.new("RGB", (8, 6)).save(folder / year / "JPEGImages" / f"{name}.jpg")
            Image.new("P", (8, 6)).save(folder / year / "SegmentationClass" / f"{name}.png")


def make_boundaries(folder: Path) -> None:
    """Write the files of the Semantic Boundaries Dataset that are opened before a training."""
    from PIL import Image

    for part in ("img", "cls"):
        (folder / part).mkdir(parents=True)
    for name, number in (("train", "30"), ("val", "31")):
        (folder / f"{name}.txt").write_text(f"{number}\n")
        Image.new("RGB", (8, 6)).save(folder / "img" / f"{number}.jpg")
        (folder / "cls" / f"{number}.mat").touch()


def test_a_training_is_plotted(tmp_path: Path) -> None:
    scores, gradients = (shlex.split(line, comments=True) for line in blocks("sh")[3].splitlines())
    for name in scores[3:]:
        record_run(tmp_path / name)
    run(program(scores), tmp_path)
    run(program(gradients), tmp_path)
    for picture in ("scores.png", "gradients.png"):
        assert (tmp_path / picture).read_bytes().startswith(b"\x89PNG")


def test_a_table_is_written_for_others(tmp_path: Path) -> None:
    reference = load_reference(ROOT / "reproductions/mochi/table1.toml")
    measured = {"moco_v2": {"top1": {0: 77.9, 1: 78.2}}}
    place = tmp_path / "runs/tables/mochi-table1-paper"
    save_comparison(place, compare(reference, measured, scale="paper"))
    for line in blocks("sh")[4].splitlines():
        run(program(shlex.split(line, comments=True)), tmp_path)
    assert r"\toprule" in (tmp_path / "table1.tex").read_text()
    rows = (tmp_path / "table1.csv").read_text().splitlines()
    assert rows[0].startswith("row,row_label,column,")
    assert any(row.startswith("moco_v2,") and ",match," in row for row in rows)


def record_run(folder: Path) -> None:
    """Record two epochs of a small network, as a loop of one's own would."""
    network = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 4))
    landscape = GradientLandscape(network)
    with TraceLog(folder / "metrics.jsonl") as trace:
        for step in range(1, 7):
            features = torch.nn.functional.normalize(network(torch.randn(8, 4)), dim=1)
            scores = features @ features.T
            scores.square().sum().backward()  # type: ignore[no-untyped-call]
            landscape.measure()
            statistics = score_statistics(scores.diagonal(), scores[:, :4])
            trace.add(step, statistics.named())
            if step % 3 == 0:
                trace.write()
                landscape.write(folder, step, step // 3)


def program(words: list[str]) -> list[str]:
    """Return the command as this environment's Python runs it."""
    assert words[0] == "retable"
    return [sys.executable, "-m", "retable.cli", *words[1:]]


def make_moco_checkpoint(path: Path) -> None:
    """Write what MoCo's repository releases, with a smaller network and random weights."""
    import torchvision

    weights = torchvision.models.resnet18().state_dict()
    state = {f"module.encoder_q.{name}": weight for name, weight in weights.items()}
    torch.save({"epoch": 200, "arch": "resnet18", "state_dict": state}, path)


def make_image_folder(folder: Path) -> None:
    from PIL import Image

    random = torch.Generator().manual_seed(0)
    for split in ("train", "val"):
        for name in ("n01440764", "n01443537"):
            place = folder / split / name
            place.mkdir(parents=True)
            for number in range(4):
                shape = (40 + number, 50, 3)
                image = torch.randint(256, shape, dtype=torch.uint8, generator=random)
                Image.fromarray(image.numpy()).save(place / f"{number}.jpg")


@pytest.mark.slow
def test_a_row_is_added_in_one_file(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "reproductions", tmp_path / "reproductions")
    script = tmp_path / "reproductions" / "mochi" / "table1_hardest.py"
    script.write_text(blocks("python")[1])
    (command,) = (shlex.split(text) for text in blocks("") if script.name in text)
    assert command[0].endswith("/bin/python")
    changes = ["--rows", "moco_v2_hardest", "--scale", "smoke", "--quiet"]
    table = run([sys.executable, *command[1:], *changes], tmp_path)
    assert re.search(r"^  moco_v2_hardest +\d", table, re.MULTILINE)


def test_every_table_is_named() -> None:
    rows = [line for line in README.splitlines() if line.startswith("| [`")]
    for script in ROOT.glob("reproductions/*/*.py"):
        if script.with_suffix(".toml").exists():
            (row,) = (line for line in rows if f"/{script.parent.name}) |" in line)
            assert f"`{script.stem}`" in row


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\(([^)#]+)\)", README))))
def test_links_lead_somewhere(target: str) -> None:
    assert target.startswith("https://") or (ROOT / target).exists()
