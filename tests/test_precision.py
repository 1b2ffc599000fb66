"""Options of how a recipe is run: half precision is marked, compiling changes nothing."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from retable.files import read_record


@pytest.mark.slow
def test_bf16_is_another_recipe_and_events_are_written(reproduce: Any, tmp_path: Path) -> None:
    options = ("--scale", "smoke", "--rows", "mochi_1024_1024_128")
    ended = reproduce.run(
        "table1", tmp_path, *options, "--mixed-precision", "bf16", "--tensorboard"
    )
    assert "the recipe was changed by --mixed-precision bf16" in " ".join(ended.stdout.split())

    (directory,) = tmp_path.glob("mochi-*")
    assert read_record(directory / "recipe.json")["recipe"]["pretrain"]["precision"] == "bf16"
    result = read_record(directory / "result.json")
    assert all(math.isfinite(epoch["loss"]) for epoch in result["epochs"])
    weights = load_file(directory / "encoder.safetensors")
    assert {value.dtype for value in weights.values() if value.is_floating_point()} == {
        torch.float32
    }

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events: Any = EventAccumulator(str(directory / "events"))  # type: ignore[no-untyped-call]
    events.Reload()
    logged = [event.value for event in events.Scalars("epoch/loss")]
    assert logged == pytest.approx([epoch["loss"] for epoch in result["epochs"]])


@pytest.mark.slow
def test_compiled_encoders_train_to_the_same_weights(reproduce: Any, tmp_path: Path) -> None:
    options = ("--scale", "smoke", "--rows", "moco_v2", "--max-steps", "2")
    reproduce.run("table1", tmp_path / "eager", *options)
    reproduce.run("table1", tmp_path / "compiled", *options, "--compile")
    (eager,) = (tmp_path / "eager").glob("moco-*/encoder.safetensors")
    compiled = load_file(tmp_path / "compiled" / eager.parent.name / eager.name)
    for name, value in load_file(eager).items():
        # Other kernels sum in another order; two steps hardly amplify it.
        torch.testing.assert_close(compiled[name], value, rtol=1e-4, atol=1e-5, msg=name)
