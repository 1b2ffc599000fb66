"""Modules that commands must not import, because each costs seconds at every start."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from retable.encoders import ResNetRecipe
from retable.weights import save_encoder

HEAVY = ("sympy", "torch._dynamo")


def imported_by(program: str, *arguments: str) -> set[str]:
    """Return the heavy modules that a program has imported at its end."""
    listing = f"\nimport sys\nprint(*[name for name in {HEAVY!r} if name in sys.modules])"
    ended = subprocess.run(
        [sys.executable, "-c", program + listing, *arguments],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(ended.stdout.split())


def test_loading_an_encoder_and_counting_its_operations_import_no_compiler(tmp_path: Path) -> None:
    recipe = ResNetRecipe("small_resnet8", width=0.5)
    path = tmp_path / "encoder.safetensors"
    save_encoder(path, recipe.build(rng_key=0), recipe, {})
    program = (
        "import sys\n"
        "from retable.weights import load_encoder\n"
        "from retable.train.cost import forward_flops\n"
        "encoder = load_encoder(sys.argv[1]).encoder\n"
        "assert forward_flops(encoder, 16) > 0\n"
    )
    assert imported_by(program, str(path)) == set()
