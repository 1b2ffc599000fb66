import io
import resource
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from retable.data.decoding import decode, decode_map
from retable.data.headers import MAX_PIXELS, header_fault, image_size
from retable.data.loader import iterate
from retable.data.source import SMALL, Source
from retable.data.sources import open_source
from retable.errors import UserError
from retable.evaluate.data import natural_test_view, natural_train_view
from retable.views import center


def encoded(height: int, width: int, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(numpy.zeros((height, width, 3), "uint8")).save(buffer, kind, **options)
    return buffer.getvalue()


KINDS: list[tuple[str, dict[str, Any]]] = [
    ("JPEG", {}),
    ("JPEG", {"progressive": True}),
    ("JPEG", {"comment": b"\xff\xc0\0\x11" * 30}),
    ("PNG", {}),
    ("GIF", {}),
    ("WEBP", {}),
    ("WEBP", {"lossless": True}),
    ("WEBP", {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\0"}),
]


@pytest.mark.parametrize(("kind", "options"), KINDS)
@pytest.mark.parametrize("size", [(1, 1), (17, 40), (300, 5)])
def test_the_stated_size_is_that_of_the_decoded_image(
    kind: str, options: dict[str, Any], size: tuple[int, int]
) -> None:
    # Reference: the decoder.
    data = encoded(*size, kind, **options)
    assert image_size(data) == size
    assert decode(data, "x").shape[1:] == size


@given(st.sampled_from([b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"RIFF1234WEBPVP8X"]),
       st.binary(max_size=64))  # fmt: skip
def test_no_bytes_make_the_size_fail(start: bytes, rest: bytes) -> None:
    size = image_size(start + rest)
    assert size is None or len(size) == 2
    assert header_fault(start + rest) is None or size is None or size[0] * size[1] > MAX_PIXELS


def huge(kind: str, side: int = 60_000) -> bytes:
    """An image of a few bytes whose header claims side x side pixels."""
    if kind.startswith("JPEG"):
        data = encoded(8, 8, "JPEG")
        at = data.index(b"\xff\xc0") + 5
        data = data[:at] + struct.pack(">HH", side, side) + data[at + 4 :]
        # A preview before the frame header, as cameras write it.
        preview = b"\xff\xe1" + struct.pack(">H", 60_000) + bytes(59_998)
        return data[:2] + preview + data[2:] if kind == "JPEG with preview" else data
    if kind == "PNG":
        head = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
        tail = encoded(8, 8, "PNG")[33:]
        length, check = struct.pack(">I", 13), struct.pack(">I", zlib.crc32(head))
        return b"\x89PNG\r\n\x1a\n" + length + head + check + tail
    if kind == "GIF":
        data = encoded(8, 8, "GIF")
        return data[:6] + struct.pack("<HH", side, side) + data[10:]
    head = b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0"
    return head + (side - 1).to_bytes(3, "little") * 2


HUGE = ["JPEG", "JPEG with preview", "PNG", "GIF", "WEBP"]


@pytest.mark.parametrize("kind", HUGE)
def test_an_image_that_claims_gigapixels_is_refused_before_memory_is_taken(kind: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for read in (decode, decode_map):
        with pytest.raises(UserError, match=r"claims 60,000 x 60,000 pixels, more than .* 89,478,"):
            read(huge(kind), "x")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024  # KiB


@pytest.mark.parametrize("kind", [kind for kind in HUGE if kind != "JPEG with preview"])
def test_it_is_refused_when_the_data_set_is_opened(kind: str, tmp_path: Path) -> None:
    (tmp_path / "train" / "a").mkdir(parents=True)
    (tmp_path / "train" / "a" / "0.png").write_bytes(encoded(8, 8, "PNG"))
    (tmp_path / "train" / "a" / "1.png").write_bytes(huge(kind))
    with pytest.raises(UserError, match=r"a/1\.png is unreadable \(it claims 60,000 x"):
        open_source(f"imagefolder:{tmp_path}", "train")
    source = open_source(f"imagefolder:{tmp_path}", "train", skip_unreadable=True)
    assert source.description["unreadable"] == 1


def test_a_large_photograph_is_no_fault() -> None:
    assert header_fault(huge("PNG", 9459)) is None
    assert header_fault(huge("PNG", 9460)) is not None


# --- the size at which images are judged ----------------------------------------------------------


def folder(path: Path, sizes: list[tuple[int, int]], kind: str = "PNG") -> Source:
    (path / "train" / "a").mkdir(parents=True, exist_ok=True)
    for number, size in enumerate(sizes):
        (path / "train" / "a" / f"{number:03}.png").write_bytes(encoded(*size, kind))
    return open_source(f"imagefolder:{path}?split=train", "train")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_small_images_of_one_size_in_a_folder_are_judged_as_they_are(
    kind: str, tmp_path: Path
) -> None:
    source = folder(tmp_path, [(32, 48)] * 3, kind)
    assert source.natural_size() == (32, 48)
    assert natural_test_view(source) == center(32)
    assert natural_train_view(source).size == 32
    assert source.resident() is None  # headers alone were read


@pytest.mark.parametrize(
    "sizes", [[(32, 32)] * 99 + [(32, 33)], [(SMALL, SMALL)] * 2, [(300, 400), (200, 100)]]
)
def test_images_of_several_sizes_or_of_usual_size_are_judged_at_224(
    sizes: list[tuple[int, int]], tmp_path: Path
) -> None:
    assert natural_test_view(folder(tmp_path, sizes)) == center(224, 256)


def test_the_default_does_not_depend_on_whether_images_were_read_into_memory(
    tmp_path: Path,
) -> None:
    source = folder(tmp_path, [(SMALL, SMALL)] * 2)
    assert source.resident(decode=True) is not None
    assert natural_test_view(source) == center(224, 256)


def test_images_are_judged_as_they_are_only_if_both_splits_are_of_one_size(tmp_path: Path) -> None:
    small, other = folder(tmp_path / "a", [(32, 32)] * 2), folder(tmp_path / "b", [(36, 36)] * 2)
    assert natural_test_view(small, small) == center(32)
    assert natural_test_view(small, other) == center(224, 256)


def test_an_unreadable_image_does_not_decide(tmp_path: Path) -> None:
    folder(tmp_path, [(32, 32)] * 2)
    path = tmp_path / "train" / "a" / "001.png"
    path.write_bytes(path.read_bytes()[:12])
    source = open_source(f"imagefolder:{tmp_path}", "train", skip_unreadable=True)
    assert source.natural_size() == (32, 32)
    assert [views.shape[0] for views, _, _ in iterate(source, center(8), 8)] == [2]
