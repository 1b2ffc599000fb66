"""Features of an encoder on disk, so that protocols, tables and label subsets share one pass.

The images' rows are kept in `retable.evaluate.data.split_permutation`, cut into chunks of
`ROWS`; a chunk of one tap is one file. Shares of the labels are beginnings of that order and the
images held out are its end, so that a tenth of the labels needs a tenth of the chunks, which all of
the labels need too. Every process computes complete chunks and may read any: a chunk is made by the
same calls whatever the number of processes, and what a killed extraction left is used.

A folder's name is a hash of all that its vectors depend on: the encoder's weights and structure,
the code that runs them, view, representation, precision and the pixels, but not the labels. Hence
nothing in it can be out of date.
"""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from retable.code import code_digest
from retable.distributed import gather, process_count, process_index
from retable.evaluate.data import split_permutation
from retable.evaluate.representation import EncoderPasses, not_finite
from retable.files import write_bytes, write_json
from retable.settings import fingerprint, to_plain

ROWS = 2048
"""Images in a chunk: 16 MiB of a ResNet-50's features, 64 calls at most to lose by a kill."""

_CODE = (
    "retable.data",
    "retable.encoders",
    "retable.evaluate.frozen",
    "retable.evaluate.representation",
    "retable.nn.patches",
    "retable.views",
)


class Chunk(NamedTuple):
    """Content of a file: vectors (r, F) float32 and their samples (r,) int64."""

    vectors: Tensor
    samples: Tensor


def checksum(content: Chunk) -> str:
    """Return a checksum of a chunk's content."""
    value = 0
    for tensor in content:
        array: Any = tensor.numpy()  # a buffer, which its type does not say
        value = zlib.crc32(array, value)
    return f"{value:08x}"


def read_chunk(path: Path, what: str) -> Chunk:
    """Map a chunk into memory; ValueError if it is damaged or does not hold ``what``."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            content = Chunk(*(file.get_tensor(name) for name in Chunk._fields))
    except SafetensorError as problem:
        raise ValueError(str(problem)) from problem
    if metadata.get("of") != what:
        raise ValueError("it is another file's content")
    if metadata.get("checksum") != checksum(content):
        raise ValueError("its contents do not match their checksum")
    return content


class FeatureCache:
    """One encoder's vectors of one source and one view in a folder below ``folder``.

    The source's description must name its pixels; the view must be without random draws. Each tap
    of the representation has files of its own.
    """

    def __init__(self, folder: Path, passes: EncoderPasses) -> None:
        self.passes = passes
        self.frozen = passes.frozen
        self.taps = passes.representation.taps
        self.identity = {
            "encoder": self.frozen.digest,
            "structure": self.frozen.structure,
            "code": code_of(self.frozen.encoder),
            "precision": self.frozen.precision,
            "pixels": passes.source.description["pixels"],
            "images": len(passes.source),
            "view": to_plain(passes.view),
            "limit": passes.representation.max_features,
            "patches": to_plain(passes.representation.patches),
        }
        self.name = fingerprint(self.identity)
        self.folder = folder / self.name
        self.order = split_permutation(len(passes.source))

    def vectors(
        self,
        rows: Tensor,
        *,
        gathered: bool = True,
        on_progress: Callable[[int], None] | None = None,
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Return the vectors of some images, computed where they are not kept yet.

        All processes must ask for the same rows (n,) int64 of the source. Returns (n, F) float32 by
        tap, and the samples (n,) that were read for them, which are the rows but for unreadable
        images; on the encoder's device. Every process gets all rows, in their order, or, if not
        ``gathered``, each a part, in none. ``on_progress`` is called with how many images (over all
        processes) are done.
        """
        place = torch.argsort(self.order)[rows]
        by_place = place.argsort()
        needed = torch.unique(place // ROWS).tolist()
        done = self._make_absent(needed, len(rows), on_progress)
        if not gathered:
            by_place = by_place.tensor_split(process_count())[process_index()]
        found = self._read(place[by_place], by_place if gathered else torch.arange(len(by_place)))
        if on_progress is not None:
            on_progress(len(rows) - done)
        return found

    def _path(self, tap: str, chunk: int) -> Path:
        return self.folder / f"{tap}-{chunk:05d}.safetensors"

    def _what(self, tap: str, chunk: int) -> str:
        return f"{self.name} {tap} {chunk}"

    def _rows(self, chunk: int) -> Tensor:
        return self.order[chunk * ROWS : (chunk + 1) * ROWS]

    def _make_absent(
        self, needed: list[int], images: int, on_progress: Callable[[int], None] | None
    ) -> int:
        """Make the chunks that are not there, each process its own, and wait for the others.

        Return how many of ``images`` were reported to ``on_progress``.
        """
        absent: dict[tuple[str, ...], list[int]] = {}
        for chunk in needed[process_index() :: process_count()]:
            if missing := tuple(tap for tap in self.taps if not self._path(tap, chunk).exists()):
                absent.setdefault(missing, []).append(chunk)
        done = odd = read = 0
        for taps, chunks in absent.items():
            for batch, unusable in self._make(taps, chunks):
                step = min(batch * process_count(), images - done)
                done, odd, read = done + step, odd + unusable, read + batch
                if on_progress is not None:
                    on_progress(step)
        counts = torch.tensor([[odd, read]], device=self.frozen.device)
        odd, read = gather(counts).sum(0).tolist()
        if odd:
            raise not_finite(odd, read)
        return done

    def _make(self, taps: tuple[str, ...], chunks: list[int]) -> Iterator[tuple[int, int]]:
        """Make chunks in this process; yield each batch's images, and those of no use in a chunk.

        A chunk with vectors that are not finite is not kept.
        """
        representation = replace(self.passes.representation, taps=taps)
        batches = replace(self.passes, representation=representation).batches(
            torch.cat([self._rows(chunk) for chunk in chunks])
        )
        coming = iter(chunks)
        parts: list[tuple[dict[str, Tensor], Tensor]] = []
        chunk, missing = -1, 0
        for found, _, samples in batches:
            if not parts:
                chunk = next(coming)
                missing = len(self._rows(chunk))
            parts.append((found, samples))
            missing -= len(samples)
            if missing:
                yield len(samples), 0
                continue
            # The chunk is complete: the batch size divides it, unless it is the source's last.
            vectors = {tap: torch.cat([part[tap] for part, _ in parts]).cpu() for tap in taps}
            finite = torch.stack([v.isfinite().all(1) for v in vectors.values()]).all(0)
            if bool(finite.all()):
                read = torch.cat([part for _, part in parts]).cpu()
                for tap in taps:
                    self._write(tap, chunk, Chunk(vectors[tap], read))
            parts = []
            yield len(samples), int((~finite).sum())

    def _write(self, tap: str, chunk: int, content: Chunk) -> None:
        from safetensors.torch import save

        if not (self.folder / "features.json").exists():
            write_json(self.folder / "features.json", self.identity)  # for people
        metadata = {"of": self._what(tap, chunk), "checksum": checksum(content)}
        write_bytes(self._path(tap, chunk), save(content._asdict(), metadata))

    def _read(self, place: Tensor, into: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Copy the vectors at ascending places (n,) of the order to the rows ``into`` (n,)."""
        device = self.frozen.device
        found: dict[str, Tensor] = {}
        samples = torch.empty(len(place), dtype=torch.int64, device=device)
        chunks, counts = torch.unique_consecutive(place // ROWS, return_counts=True)
        sizes = counts.tolist()
        places, targets = torch.split(place, sizes), torch.split(into.to(device), sizes)
        for chunk, inside, target in zip(chunks.tolist(), places, targets, strict=True):
            for tap in self.taps:
                kept = self._chunk(tap, chunk)
                if tap not in found:
                    found[tap] = torch.empty(len(place), kept.vectors.shape[1], device=device)
                found[tap][target] = kept.vectors[inside % ROWS].to(device)
                samples[target] = kept.samples[inside % ROWS].to(device)
        return found, samples

    def _chunk(self, tap: str, chunk: int) -> Chunk:
        """Read one chunk, computed again if it is damaged or missing."""
        path = self._path(tap, chunk)
        try:
            return read_chunk(path, self._what(tap, chunk))
        except FileNotFoundError:
            pass
        except ValueError as problem:
            warnings.warn(f"{path} is damaged ({problem}); computing it again.", stacklevel=2)
        odd = sum(unusable for _, unusable in self._make((tap,), [chunk]))
        if odd:
            raise not_finite(odd, len(self._rows(chunk)))
        return read_chunk(path, self._what(tap, chunk))


def code_of(encoder: nn.Module) -> str:
    """Hash the source of what turns images into vectors: the core's, and the encoder's modules'."""
    return code_digest({type(module) for module in encoder.modules()}, _CODE)
