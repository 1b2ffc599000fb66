"""A UserError passes where the ValueError of something else is caught."""

import io
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from retable.data.decoding import UnreadableImageError, decode_map
from retable.data.readers import _open_splits
from retable.errors import UserError
from retable.nn.patches import PatchGrid
from retable.plots.recorded import _no_damage
from retable.settings import from_plain

SAID = "`x` must be 1, got 2. Use 1."


def test_a_fault_of_a_map_is_said_once() -> None:
    file = io.BytesIO()
    Image.new("I;16", (4, 4)).save(file, "PNG")
    with pytest.raises(UnreadableImageError) as refused:
        decode_map(file.getvalue(), "map.png")
    assert str(refused.value).count("map.png") == 1
    assert "is no map of 8 bits" in str(refused.value)


def test_a_damaged_line_of_a_log_is_not_said_to_be_another_damage(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"^{re.escape(SAID)}$"), _no_damage(tmp_path):
        raise UserError(SAID)
    with pytest.raises(UserError, match="is damaged"), _no_damage(tmp_path):
        raise ValueError(SAID)


def test_a_data_set_that_cannot_be_read_is_not_taken_for_one_without_the_split() -> None:
    def make(**_: Any) -> object:
        raise RuntimeError("Dataset not found")

    with pytest.raises(UserError, match=r"cannot be read \(Dataset not found\)"):
        _open_splits(make, "data", {}, None)

    def without_split(**_: Any) -> object:
        raise ValueError("Unknown split")

    assert _open_splits(without_split, "data", {}, None) == {}


def test_a_refused_field_is_one_of_all_faults_of_a_file() -> None:
    with pytest.raises(ValueError, match="`patch` must be at most `cell`, 8 pixels, got 9"):
        from_plain(PatchGrid, {"patch": 9, "cell": 8})
