"""Environment variables that launchers, job systems and containers set, read and checked once.

A variable left by another program must not change a number, nor end in a library's traceback.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from retable.errors import UserError

_FALSE = ("", "0", "n", "no", "f", "false", "off")
_TRUE = ("1", "y", "yes", "t", "true", "on")

_FLAGS = ("ACCELERATE_USE_CPU", "ACCELERATE_DEBUG_MODE", "ACCELERATE_CPU_AFFINITY")
"""Flags that accelerate reads at every start; any other text is a traceback there."""

_ENGINES = (
    "ACCELERATE_USE_FSDP",
    "ACCELERATE_USE_DEEPSPEED",
    "ACCELERATE_USE_MEGATRON_LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG",
    "ACCELERATE_USE_SAGEMAKER",
)
"""Variables by which accelerate trains through an engine that Retable does not drive."""

_PRECISION = {
    "NVIDIA_TF32_OVERRIDE": _FALSE[:1],
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": _FALSE,
    "HIPBLASLT_ALLOW_TF32": _FALSE,
    "ONEDNN_DEFAULT_FPMATH_MODE": ("", "strict"),
    "DNNL_DEFAULT_FPMATH_MODE": ("", "strict"),
}
"""Variables that change the precision of float32, with the values that do not."""

_SIZES_OF_MPI = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
_RANKS = ("RANK", "LOCAL_RANK")
_MEETING = ("MASTER_ADDR", "MASTER_PORT")


def world_size() -> int:
    """Return the number of processes that a launcher has started, 1 without one.

    Raises:
        UserError: ``WORLD_SIZE`` is no such number.
    """
    return _integer("WORLD_SIZE", 1) if "WORLD_SIZE" in os.environ else 1


def rank() -> int:
    """Return this process's number, known before the processes are connected; 0 if unreadable."""
    text = os.environ.get("RANK", "0")
    return int(text) if text.isdecimal() else 0


def check_variables(*, gpus: int, connected: bool = False) -> None:
    """Check the variables before anything is computed.

    Args:
        gpus: GPUs of this machine.
        connected: Whether the processes have found each other already.

    Raises:
        UserError: a variable changes the numbers, or describes no complete launch.
    """
    for name in _FLAGS:
        if os.environ.get(name, "0").lower() not in (*_FALSE[1:], *_TRUE):
            raise _refused(name, "true or false", "Unset it")
    for name in _ENGINES:
        if os.environ.get(name, "").lower() not in _FALSE:
            raise _refused(name, "unset, since Retable trains without that engine", "Unset it")
    if "ACCELERATE_TORCH_DEVICE" in os.environ:
        remedy = "Unset it and use CUDA_VISIBLE_DEVICES"
        raise _refused("ACCELERATE_TORCH_DEVICE", "unset", remedy)
    for name, harmless in _PRECISION.items():
        on_cpu = "FPMATH" in name
        if (gpus or on_cpu) and os.environ.get(name, "").lower() not in harmless:
            raise _refused(name, "unset, since it changes the precision of float32", "Unset it")
    if not connected:
        _check_launch(os.environ)


def _check_launch(found: Mapping[str, str]) -> None:
    """Check that the variables of a launch are complete and consistent."""
    size = world_size()
    for name in _RANKS:
        if name in found and _integer(name, 0) >= size:
            raise _refused(name, f"below WORLD_SIZE = {size}", "Set both, or unset both")
    if size > 1 or "LOCAL_RANK" in found:
        missing = [name for name in (*_RANKS, *_MEETING) if not found.get(name)]
        if "WORLD_SIZE" not in found:
            missing.insert(0, "WORLD_SIZE")
        if missing:
            known = "WORLD_SIZE" if "WORLD_SIZE" in found else "LOCAL_RANK"
            verb = "are" if len(missing) > 1 else "is"
            raise UserError(
                f"{known} is {found[known]}, but {', '.join(missing)} {verb} missing. Unset "
                f"{known}, or start the processes with torchrun or accelerate launch."
            )
        if not 1 <= _integer("MASTER_PORT", 1) <= 65535:
            raise _refused("MASTER_PORT", "a port from 1 to 65535", "Choose a free one")
    for name in _SIZES_OF_MPI:
        if name in found and found[name] != str(size):
            raise _refused(name, f"the number of processes, {size}", f"Unset it (unset {name})")


def _integer(name: str, least: int) -> int:
    text = os.environ.get(name, "")
    if not (text.isascii() and text.isdecimal()) or len(text) > 9 or int(text) < least:
        expected = f"an integer of at least {least}"
        raise _refused(name, expected, f"Unset it (unset {name}), or start with torchrun")
    return int(text)


def _refused(name: str, expected: str, remedy: str) -> UserError:
    value = os.environ.get(name, "")
    return UserError(
        f"The environment variable `{name}` must be {expected}, got {value!r}. {remedy}."
    )
