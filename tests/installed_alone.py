"""Fail unless the named packages come from this environment and others cannot be imported.

``python installed_alone.py REPOSITORY NAME... --absent NAME...``
"""

import argparse
import importlib.util
import sys
from pathlib import Path


def faults(repository: Path, present: list[str], absent: list[str]) -> list[str]:
    """Return what is wrong, in words."""
    found = []
    for name in present:
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            found.append(f"{name} cannot be imported")
        elif not Path(spec.origin).resolve().is_relative_to(Path(sys.prefix).resolve()):
            found.append(f"{name} comes from {spec.origin}, not from this environment")
    found += [f"{name} can be imported" for name in absent if importlib.util.find_spec(name)]
    for entry in sys.path:
        path = Path(entry).resolve()
        if any(path.is_relative_to(repository / part) for part in ("shared", "packages")):
            found.append(f"{path} is on the import path")
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("repository", type=Path)
    parser.add_argument("present", nargs="+")
    parser.add_argument("--absent", nargs="*", default=[])
    options = parser.parse_args()
    problems = faults(options.repository.resolve(), options.present, options.absent)
    print("\n".join(problems) or f"alone: {', '.join(options.present)}")
    sys.exit(1 if problems else 0)
