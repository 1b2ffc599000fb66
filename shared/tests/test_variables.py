"""Variables that other programs leave change no number and end in no library's traceback."""

from __future__ import annotations

import pytest
import torch

from retable import cli
from retable.errors import UserError
from retable.reproduce import launch
from retable.train.pretrain import make_accelerator
from retable.variables import check_variables, world_size

LAUNCH = {
    "WORLD_SIZE": "2",
    "RANK": "0",
    "LOCAL_RANK": "0",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29500",
}


@pytest.fixture(autouse=True)
def _no_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)


def refuse(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], gpus: int = 0) -> str:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError) as refused:
        check_variables(gpus=gpus)
    return str(refused.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ACCELERATE_USE_FSDP", "true"),
        ("ACCELERATE_USE_DEEPSPEED", "True"),
        ("ACCELERATE_USE_MEGATRON_LM", "1"),
        ("ACCELERATE_USE_PARALLELISM_CONFIG", "true"),
        ("ACCELERATE_USE_SAGEMAKER", "true"),
        ("ACCELERATE_TORCH_DEVICE", "meta"),
        ("ACCELERATE_USE_CPU", "perhaps"),
        ("ACCELERATE_USE_CPU", ""),
        ("ACCELERATE_DEBUG_MODE", "2"),
        ("ONEDNN_DEFAULT_FPMATH_MODE", "BF16"),
        ("DNNL_DEFAULT_FPMATH_MODE", "any"),
        ("WORLD_SIZE", ""),
        ("WORLD_SIZE", "two"),
        ("WORLD_SIZE", "0"),
        ("WORLD_SIZE", "-1"),
        ("WORLD_SIZE", "\u0662"),
        ("RANK", ""),
        ("RANK", "1"),
        ("LOCAL_RANK", "x"),
        ("PMI_SIZE", "4"),
        ("OMPI_COMM_WORLD_SIZE", "many"),
    ],
)
def test_a_variable_in_the_way_is_named_with_its_value_and_the_remedy(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = refuse(monkeypatch, {name: value})
    assert said.startswith(f"The environment variable `{name}` must be ")
    assert f"got {value!r}. " in said
    assert "nset" in said


@pytest.mark.parametrize("name", ["NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE"])
def test_precision_of_gpus_is_refused_only_where_there_are_some(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "1")
    check_variables(gpus=0)
    assert "precision of float32" in refuse(monkeypatch, {}, gpus=1)


@pytest.mark.parametrize(
    ("present", "said"),
    [
        (["WORLD_SIZE"], "WORLD_SIZE is 2, but RANK, LOCAL_RANK, MASTER_ADDR, MASTER_PORT are mis"),
        (["WORLD_SIZE", "RANK", "LOCAL_RANK"], "but MASTER_ADDR, MASTER_PORT are missing. Unset W"),
        (["WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_PORT"], "but MASTER_ADDR is missing"),
        (["LOCAL_RANK"], "LOCAL_RANK is 0, but WORLD_SIZE, RANK, MASTER_ADDR, MASTER_PORT are"),
    ],
)
def test_an_incomplete_launch_names_what_is_missing(
    present: list[str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert said in refuse(monkeypatch, {name: LAUNCH[name] for name in present})


@pytest.mark.parametrize(
    "changed", [{"RANK": "2"}, {"LOCAL_RANK": "5"}, {"MASTER_PORT": "70000"}, {"MASTER_PORT": "x"}]
)
def test_a_launch_that_contradicts_itself_is_refused(
    changed: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (name,) = changed
    assert f"`{name}` must be" in refuse(monkeypatch, {**LAUNCH, **changed})


def test_complete_launches_and_harmless_values_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    check_variables(gpus=0)
    assert world_size() == 1
    for name, value in {**LAUNCH, "OMPI_COMM_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "false")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "1")
    monkeypatch.setenv("ONEDNN_DEFAULT_FPMATH_MODE", "STRICT")
    check_variables(gpus=2)
    assert world_size() == 2


def test_one_process_of_a_job_system_needs_no_meeting_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("PMI_SIZE", "1")
    check_variables(gpus=0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4"),
        ("ACCELERATE_MIXED_PRECISION", "bf16"),
        ("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR"),
    ],
)
def test_what_a_run_is_given_explicitly_is_not_read_from_the_environment(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    monkeypatch.setenv(name, value)
    made = make_accelerator("float32", cpu=True)
    try:
        assert made.gradient_accumulation_steps == 1
        assert made.mixed_precision == "no"
        assert str(made.state.dynamo_plugin.backend).endswith("NO")
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.parametrize(
    "variables", [{"WORLD_SIZE": ""}, {"WORLD_SIZE": "2"}, {"ACCELERATE_USE_FSDP": "true"}]
)
def test_every_command_checks_before_any_work(
    variables: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert cli.main(["evaluate", "untrained:small_resnet8", "--protocol", "knn"]) == 2
    assert next(iter(variables)) in capsys.readouterr().err
    with pytest.raises(UserError, match=next(iter(variables))):
        launch.wanted_processes(None)
    with pytest.raises(UserError, match=next(iter(variables))):
        make_accelerator("float32")


@pytest.mark.parametrize("device", ["cuda:x", "cuda", "cuda:0", "cpu:0", "0", "gpu", "", "cuda:-1"])
def test_a_device_that_is_not_here_is_refused(
    device: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["evaluate", "untrained:small_resnet8", "--protocol", "knn", "--device", device]
    assert cli.main(words) == 2
    said = capsys.readouterr().err
    assert f"`--device` must be cpu, since this machine has no GPU, got {device!r}." in said
