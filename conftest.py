"""The order of tests on several workers: the longest first, so that none is left at the end."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Move slow tests to the front, and before them those at paper scale.

    A worker begins with one part of the list, and takes from the end of another's when its own is
    done. Tests at paper scale take up to 12 GiB, and this order leaves them to one worker.
    """
    if hasattr(config, "workerinput"):
        items.sort(key=_rank)


def _rank(item: pytest.Item) -> int:
    if item.get_closest_marker("slow") is None:
        return 2
    return 0 if item.path.name.startswith("test_paper_scale") else 1
