"""Content that no committed file may have."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# One-letter classes keep these patterns from matching themselves.
FORBIDDEN = {
    "a path of one machine": r"(?<![\w.~-])/(?:wor[k]|roo[t]|hom[e]|User[s]|mn[t]|scratc[h])/\w",
    "the address of a package index": r"(?:inde[x]-url|pypi\.or[g]|download\.pytorc[h])",
    "unfinished work": r"\b(?:TOD[O]|FIXM[E]|XX[X])\b",
}


def committed_texts() -> list[Path]:
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listing.returncode:
        pytest.skip("not a git repository")
    return [ROOT / name for name in listing.stdout.split("\0") if (ROOT / name).is_file()]


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_file_holds(what: str) -> None:
    pattern = re.compile(FORBIDDEN[what])
    found = []
    for path in committed_texts():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.splitlines(), 1):
            if match := pattern.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {match.group()}")
    assert found == []


@pytest.mark.parametrize("bad", ["cd /hom[e]/me", "pip --inde[x]-url", "# TOD[O] later"])
def test_the_patterns_match_what_they_name(bad: str) -> None:
    text = re.sub(r"\[(\w)\]", r"\1", bad)
    assert any(re.search(pattern, text) for pattern in FORBIDDEN.values())


def test_every_test_file_has_a_name_of_its_own() -> None:
    names = [path.name for path in committed_texts() if path.name.startswith("test_")]
    assert sorted(names) == sorted(set(names))
