"""Content that no committed file may have."""

import importlib
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = sorted(path.parent for path in ROOT.glob("packages/*/pyproject.toml"))

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


def test_the_citation_names_the_version_and_every_paper() -> None:
    from retable import __version__

    yaml: Any = importlib.import_module("yaml")
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert cited["cff-version"] == "1.2.0"
    assert cited["version"] == __version__
    papers = {reference["url"].rpartition("/")[2] for reference in cited["references"]}
    readmes = [path.read_text(encoding="utf-8") for path in ROOT.glob("packages/*/README.md")]
    assert len(papers) == len(readmes)
    assert all(any(paper in readme for readme in readmes) for paper in papers)


@pytest.mark.parametrize("folder", ["shared", *(f"packages/{p.name}" for p in PACKAGES)])
def test_every_distribution_has_a_changelog_that_begins_with_its_version(folder: str) -> None:
    settings = tomllib.loads((ROOT / folder / "pyproject.toml").read_text(encoding="utf-8"))
    changes = (ROOT / folder / "CHANGELOG.md").read_text(encoding="utf-8")
    assert changes.startswith(f"# Changelog\n\n## {settings['project']['version']}\n")
