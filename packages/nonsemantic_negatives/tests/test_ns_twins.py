"""The command that makes a texture twin of a folder of images."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from nonsemantic_negatives.textures import cut_exemplars, synthesize
from nonsemantic_negatives.textures.__main__ import main
from nonsemantic_negatives.textures.quilting import Quilting
from nonsemantic_negatives.textures.twins import number_of
from retable.data.decoding import decode
from retable.data.derived import files as derived_files
from retable.data.sources import open_source
from retable.random import derive_key

SMALL = ["--size", "20", "--exemplar", "12", "--quiet", "--workers", "1"]


def photograph(path: Path, size: tuple[int, int] = (40, 30), mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(sum(path.name.encode()))
    noise = torch.randint(0, 256, (size[1], size[0], 3), generator=generator).to(torch.uint8)
    Image.fromarray(noise.numpy()).convert(mode).save(path)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    for split in ("train", "val"):
        photograph(folder / split / "n01" / "a.jpg")
        photograph(folder / split / "n01" / "grey.png", mode="L")
        photograph(folder / split / "n02" / "cmyk.jpg", mode="CMYK")
        photograph(folder / split / "n02" / "low.jpeg", (50, 7))
    return folder


def pixels(folder: Path) -> dict[str, bytes]:
    paths = sorted(folder.rglob("*.png"))
    return {str(path.relative_to(folder)): Image.open(path).tobytes() for path in paths}


def test_each_image_has_one_twin_in_the_same_place(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "twins"
    assert main([str(source), str(target), *SMALL]) == 0
    images = {str(p.relative_to(source).with_suffix("")) for p in source.rglob("*.*")}
    assert {name.removesuffix(".png") for name in pixels(target)} == images
    for path in target.rglob("*.png"):
        with Image.open(path) as twin:
            assert (twin.size, twin.mode) == ((20, 20), "RGB")
    output = capsys.readouterr().out
    assert "8 images, 0 twins are there." in output
    assert "8 twins made" in output


def test_a_twin_is_the_texture_of_its_image(source: Path, tmp_path: Path) -> None:
    main([str(source), str(tmp_path / "twins"), *SMALL, "--seed", "4"])
    name = "train/n01/a.jpg"
    image = decode((source / name).read_bytes(), name)
    exemplars = cut_exemplars(image, 4, number_of(name), side=12)
    (expected,) = synthesize(
        exemplars[None],
        20,
        derive_key(4, "textures"),
        torch.tensor([number_of(name)]),
        backend=Quilting(4, 1),
    )
    with Image.open(tmp_path / "twins/train/n01/a.png") as found:
        assert found.tobytes() == expected.permute(1, 2, 0).contiguous().numpy().tobytes()
    colours = {tuple(pixel) for pixel in exemplars.transpose(0, 1).flatten(1).T.tolist()}
    assert {tuple(pixel) for pixel in expected.flatten(1).T.tolist()} <= colours


def test_the_folder_source_serves_twins_as_companions(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "twins"
    main([str(source), str(target), *SMALL])
    images = open_source(f"imagefolder:{source}?companion={target}", "train")
    sample = images.sample(0, ("companion",))
    with Image.open(target / "train/n01/a.png") as twin:
        expected = torch.frombuffer(bytearray(twin.tobytes()), dtype=torch.uint8)
    assert torch.equal(sample.layers["companion"].permute(1, 2, 0).flatten(), expected)


@pytest.mark.parametrize("backend", ["quilting", "stochastic"])
def test_processes_batches_and_interruptions_do_not_change_a_twin(
    source: Path, tmp_path: Path, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = [*SMALL[:-1], "1", "--backend", backend]
    main([str(source), str(tmp_path / "whole"), *options])
    calls = 0
    write = derived_files._write

    def interrupted(*arguments: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        write(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(derived_files, "_write", interrupted)
        assert main([str(source), str(tmp_path / "parts"), *options]) == 130
    assert len(pixels(tmp_path / "parts")) == 3
    before = (tmp_path / "parts/train/n01/a.png").stat().st_mtime_ns
    assert main([str(source), str(tmp_path / "parts"), *options]) == 0
    assert pixels(tmp_path / "parts") == pixels(tmp_path / "whole")
    assert (tmp_path / "parts/train/n01/a.png").stat().st_mtime_ns == before


def test_an_image_that_has_changed_gets_a_new_twin(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "twins"
    main([str(source), str(target), *SMALL])
    before = pixels(target)
    photograph(source / "train/n01/a.jpg", (90, 70))
    (target / "val/n02/cmyk.png").write_bytes(b"no image")
    main([str(source), str(target), *SMALL])
    after = pixels(target)
    assert [name for name in before if before[name] != after[name]] == ["train/n01/a.png"]


def test_seeds_give_other_twins_and_images_of_equal_pixels_too(tmp_path: Path) -> None:
    for name in ("a", "b"):
        photograph(tmp_path / "images" / "n01" / "same.png")
        (tmp_path / "images" / "n01" / f"{name}.png").write_bytes(
            (tmp_path / "images" / "n01" / "same.png").read_bytes()
        )
    found = []
    for seed in ("0", "1"):
        main([str(tmp_path / "images"), str(tmp_path / seed), *SMALL, "--seed", seed])
        found += list(pixels(tmp_path / seed).values())
    assert len(set(found)) == len(found) == 6


def test_an_unreadable_image_is_named_or_left_out(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (source / "train/n01/broken.jpg").write_bytes(b"\xff\xd8\xff no image")
    command = [str(source), str(tmp_path / "twins"), *SMALL]
    assert main(command) == 2
    assert "broken.jpg is unreadable" in capsys.readouterr().err
    assert main([*command, "--skip-unreadable"]) == 0
    assert len(pixels(tmp_path / "twins")) == 8
    assert "left out: train/n01/broken.jpg" in capsys.readouterr().out


def test_wrong_usage_ends_with_a_sentence(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(*words: object) -> str:
        assert main([str(word) for word in words]) == 2
        return capsys.readouterr().err

    assert "`SOURCE` must be a folder of images" in said(tmp_path / "none", tmp_path / "t")
    (tmp_path / "empty").mkdir()
    assert "has no image" in said(tmp_path / "empty", tmp_path / "t")
    for target in (source, source / "twins", source.parent):
        assert "`TARGET` must lie beside" in said(source, target)
    assert "`block` must be at most `exemplar`, 12 pixels, got 13" in said(
        source, tmp_path / "t", *SMALL, "--block", 13
    )
    main([str(source), str(tmp_path / "t"), *SMALL])
    capsys.readouterr()
    other = said(source, tmp_path / "t", *SMALL, "--seed", 5)
    assert "`TARGET` must hold twins of this recipe" in other
    provenance = tmp_path / "t" / "twins.json"
    provenance.write_text(provenance.read_text().replace("20", "21"))
    assert "is damaged" in said(source, tmp_path / "t", *SMALL)
    photograph(source / "train/n01/a.png")
    assert "would have one twin" in said(source, tmp_path / "u", *SMALL)


def test_provenance_names_the_recipe(source: Path, tmp_path: Path) -> None:
    main([str(source), str(tmp_path / "twins"), *SMALL])
    content = json.loads((tmp_path / "twins/twins.json").read_text())["content"]
    assert content["twins_of"] == "images"
    assert content["recipe"]["backend"]["kind"] == "Quilting"
    assert (content["recipe"]["size"], content["recipe"]["exemplar"]) == (20, 12)


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_killed_command_continues_to_the_same_bits(tmp_path: Path) -> None:
    source = tmp_path / "images"
    for number in range(24):
        photograph(source / "n01" / f"{number}.png", (60, 60))
    options = ["--size", "64", "--exemplar", "24", "--workers", "2", "--quiet"]
    command = [sys.executable, "-m", "nonsemantic_negatives.textures", str(source)]
    killed = subprocess.Popen([*command, str(tmp_path / "parts"), *options])
    deadline = time.monotonic() + 120
    while not list((tmp_path / "parts").rglob("*.png")) and killed.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert 0 < len(list((tmp_path / "parts").rglob("*.png"))) < 24
    for target in ("parts", "whole"):
        subprocess.run([*command, str(tmp_path / target), *options], check=True)
    assert pixels(tmp_path / "parts") == pixels(tmp_path / "whole")
    assert len(pixels(tmp_path / "whole")) == 24
    assert not list((tmp_path / "parts").rglob("*.tmp"))
