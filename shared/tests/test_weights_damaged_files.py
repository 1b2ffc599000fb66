"""Files that are no weights files, or damaged or hostile ones, end with a sentence, and soon."""

from __future__ import annotations

import gzip
import io
import pickle
import random
import struct
import tarfile
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

from retable.encoders import ResNetRecipe
from retable.errors import UserError
from retable.weights import load_encoder, save_encoder

RECIPE = ResNetRecipe("resnet18", width=0.0625)


def saved(zipped: bool = True, **extra: Any) -> bytes:
    buffer = io.BytesIO()
    content = {"state_dict": RECIPE.build(rng_key=1).state_dict(), **extra}
    torch.save(content, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


def safetensors() -> bytes:
    return save(RECIPE.build(rng_key=1).state_dict())


def archive(**files: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as writer:
        for name, content in files.items():
            writer.writestr(f"a/{name.replace('_', '.')}", content)
    return buffer.getvalue()


def tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as writer:
        writer.addfile(tarfile.TarInfo("weights.pth"), io.BytesIO())
    return buffer.getvalue()


LEVELDB = bytes(100) + bytes.fromhex("57fb808b247547db")

OTHER_FILES: dict[str, tuple[bytes, str]] = {
    "web page": (b"<!DOCTYPE html><html><title>Sign in</title></html>", "is a web page.*login"),
    "web page after lines": (b"\n\n <HTML lang='en'>", "is a web page"),
    "web page with a mark": ("\ufeff<html>é".encode(), "is a web page"),
    "server's XML": (b"<?xml version='1.0'?><Error>AccessDenied</Error>", "is an XML page"),
    "server's JSON": (b'{"message": "not found"}', "is JSON text"),
    "JSON like safetensors": (b'{"err": {"code": 404}}', "is JSON text"),
    "LFS pointer": (b"version https://git-lfs.github.com/spec/v1\n", "LFS pointer.*git lfs pull"),
    "empty": (b"", "is an empty file"),
    "zero bytes": (bytes(4096), "is a file of zero bytes"),
    "text": (b"Access denied.", "is a text file that begins with 'Access denied.'"),
    "another zip": (archive(readme_txt=b"x"), "is a zip archive without PyTorch weights"),
    "cut zip": (saved()[:-2000], "is a zip archive whose end is missing"),
    "TorchScript": (archive(data_pkl=b"", constants_pkl=b""), "is a TorchScript program"),
    "gzip": (gzip.compress(saved()), "is a gzip archive.*Unpack"),
    "tar": (tar(), "is a tar archive.*Unpack"),
    "TensorFlow": (LEVELDB, "is part of a TensorFlow checkpoint"),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(50), "is an HDF5 file"),
    "image": (b"\x89PNG\r\n\x1a\n" + bytes(50), "is a PNG image"),
    "plain pickle": (pickle.dumps({"a": 1}, protocol=2), "pickle that torch.save did not write"),
    "newer pickle": (pickle.dumps({"a": 1}), "pickle that torch.save did not write"),
    "long header": (struct.pack("<Q", 2**60) + b"{}", r"header claims 1,152,921,504,606,846,976"),
    "no header": (struct.pack("<Q", 4) + b"{abc}", "invalid JSON in header"),
    "cut header": (safetensors()[:100], "its header claims"),
    "cut safetensors": (safetensors()[:-100], "shorter or longer than its header"),
    "long safetensors": (safetensors() + b"xx", "shorter or longer than its header"),
}


@pytest.mark.parametrize("kind", OTHER_FILES)
def test_a_file_that_holds_no_weights_is_named_for_what_it_is(tmp_path: Path, kind: str) -> None:
    content, sentence = OTHER_FILES[kind]
    path = tmp_path / "w.pth"
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"(?s)w\.pth .*{sentence}") as caught:
        load_encoder(path)
    assert "weights_only" not in str(caught.value)
    assert str(caught.value).isprintable()


def test_protocols_that_pytorch_does_not_read_name_the_remedy(tmp_path: Path) -> None:
    torch.save(RECIPE.build(0).state_dict(), tmp_path / "w.pth", pickle_protocol=4)
    with pytest.raises(UserError, match=r"instruction FRAME.*Save it again by torch\.save with"):
        load_encoder(tmp_path / "w.pth")


def test_folders_and_prefixes_name_the_file_to_pass(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(safetensors())
    (tmp_path / "model.ckpt-9.index").write_bytes(LEVELDB)
    with pytest.raises(UserError, match=r"Finish the run or name .*model\.safetensors\.$"):
        load_encoder(tmp_path)
    with pytest.raises(UserError, match=r"ckpt-9 is a TensorFlow checkpoint\. Pass"):
        load_encoder(tmp_path / "model.ckpt-9")
    for name in ("a\0b", "a" * 5000, "?", "#x"):
        with pytest.raises(UserError):
            load_encoder(name)


def of_pickle(instructions: bytes) -> bytes:
    return archive(data_pkl=b"\x80\x02" + instructions, version=b"3\n", byteorder=b"little")


HUGE = b"\x8a\x06\0\0\0\0\0\x10"  # 2**44
BOMB = b")q\0" + 64 * b"h\0h\0\x86q\0"  # a tuple of a tuple, twice, of a tuple, ...
NAMES = b"}q\0" + 9 * (b"}(" + b"".join(b"K%ch\0" % i for i in range(100)) + b"uq\0")

HOSTILE: dict[str, tuple[bytes, str]] = {
    "tuples as a key": (b"}" + BOMB + b"K\x01s.", "nested so deeply"),
    "tuples in a set": (b"c__builtin__\nset\n]" + BOMB + b"a\x85R.", "nested so deeply"),
    "tuples in a counter": (b"ccollections\nCounter\n" + BOMB + b"\x85R.", "nested so deeply"),
    "deep tuples": (b"})" + 300_000 * b"\x85" + b"K\x01s.", "nested so deeply"),
    "dictionaries": (NAMES + b".", "names too many values"),
    "long names": (b"}X\x10'\0\0" + 10_000 * b"a" + b"K\x01s.", "or too long"),
    "a huge bytearray": (b"c__builtin__\nbytearray\n" + HUGE + b"\x85R.", "asks for 17,592,186,"),
    "a huge tensor": (b"ctorch\nTensor\n" + HUGE + b"\x85R.", "asks for 17,592,186,"),
    "a huge storage": (
        b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpu" + HUGE + b"tQ.",
        "a tensor claims 17,592,186,044,416 values",
    ),
    "a string beyond the end": (b"X\xff\xff\xff\x7fabc.", "its pickle is damaged"),
    "nothing on the stack": (b"\x86.", "its pickle is damaged"),
    "a command": (b"cos\nsystem\nX\x02\0\0\0ls\x85R.", "holds the Python object os.system"),
    "an evaluation": (b"c__builtin__\neval\nX\x01\0\0\x001\x85R.", "holds the Python object eval"),
    "a control character": (b"cev\x1b[31mil\nx\n.", r"Python object ev\\x1b\[31mil\.x"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_pickle_ends_soon_with_a_sentence(tmp_path: Path, kind: str) -> None:
    instructions, sentence = HOSTILE[kind]
    (tmp_path / "w.pth").write_bytes(of_pickle(instructions))
    started = time.monotonic()
    with pytest.raises(UserError, match=sentence):
        load_encoder(tmp_path / "w.pth")
    assert time.monotonic() - started < 20


def test_a_pickle_of_too_many_instructions_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("retable.weights.pickles._MOST_INSTRUCTIONS", 1000)
    (tmp_path / "w.pth").write_bytes(of_pickle(2000 * b"]" + 1999 * b"a" + b"."))
    with pytest.raises(UserError, match="more than 1,000 instructions"):
        load_encoder(tmp_path / "w.pth")


def test_an_entry_that_stands_twice_in_an_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(saved())
    with zipfile.ZipFile(tmp_path / "w.pth", "a") as writer:
        writer.writestr("other/data.pkl", b"\x80\x02}.")
    with pytest.raises(UserError, match="holds one entry several times"):
        load_encoder(tmp_path / "w.pth")


def test_weights_that_claim_more_values_than_the_file_holds_are_refused(tmp_path: Path) -> None:
    one = torch.zeros(())
    state = {n: one.expand(v.shape) for n, v in RECIPE.build(0).state_dict().items()}
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(UserError, match="claim more values than the file has bytes"):
        load_encoder(tmp_path / "w.pth")


@pytest.fixture(scope="module")
def contents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    recipe = ResNetRecipe("small_resnet8", width=0.0625)
    path = tmp_path_factory.mktemp("own") / "encoder.safetensors"
    save_encoder(path, recipe.build(rng_key=1), recipe, {"method": "moco"})
    small = ResNetRecipe("resnet18", width=1 / 64).build(rng_key=1).state_dict()
    found = {"own": path.read_bytes(), "safetensors": save(small)}
    for kind, zipped in (("zip", True), ("old", False)):
        buffer = io.BytesIO()
        torch.save({"state_dict": small}, buffer, _use_new_zipfile_serialization=zipped)
        found[kind] = buffer.getvalue()
    return found


def altered(content: bytes, draw: random.Random) -> bytes:
    """Flip bits, cut, or exchange bytes, mostly where the structure of the file is."""
    changed = bytearray(content)
    how = draw.randrange(4)
    if how == 0:
        return content[: draw.randrange(len(content))]
    for _ in range(draw.choice((1, 1, 3, 20))):
        end = draw.choice((20, 2000, len(content)))
        position = draw.randrange(min(end, len(content)))
        changed[position] ^= 1 << draw.randrange(8) if how < 3 else draw.randrange(256)
    return bytes(changed)


def with_altered_pickle(content: bytes, draw: random.Random) -> bytes:
    """Damage the pickle of an archive whose checksums hold."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(buffer, "w") as new:
        for name in old.namelist():
            entry = old.read(name)
            new.writestr(name, altered(entry, draw) if name.endswith(".pkl") else entry)
    return buffer.getvalue()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["own", "safetensors", "zip", "old"])
def test_damaged_files_load_or_end_with_one_sentence(
    tmp_path: Path, contents: dict[str, bytes], kind: str
) -> None:
    draw = random.Random(kind)
    path = tmp_path / "w"
    sentences = []
    for _ in range(100):
        path.write_bytes(altered(contents[kind], draw))
        try:
            load_encoder(path)
        except UserError as error:
            sentences.append(str(error))
    assert len(sentences) > 30
    assert all(sentence.isprintable() for sentence in sentences)
    assert not [sentence for sentence in sentences if "weights_only" in sentence]


@pytest.mark.filterwarnings("ignore")
def test_damaged_pickles_in_whole_archives_load_or_end_with_one_sentence(
    tmp_path: Path, contents: dict[str, bytes]
) -> None:
    draw = random.Random(0)
    path = tmp_path / "w"
    for _ in range(60):
        path.write_bytes(with_altered_pickle(contents["zip"], draw))
        try:
            load_encoder(path)
        except UserError as error:
            last = str(error)
    assert last.isprintable()
