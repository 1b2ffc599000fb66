"""Names of devices on a command line: cpu, cuda, cuda:N."""

from __future__ import annotations

from retable.errors import UserError


def check_device(wanted: str | None) -> None:
    """Raise a UserError unless a name is that of a device of this machine; None is any."""
    import torch

    gpus = torch.cuda.device_count()
    known = {"cpu", *(["cuda"] if gpus else []), *(f"cuda:{index}" for index in range(gpus))}
    if wanted is not None and wanted not in known:
        raise UserError(
            f"`--device` must be {_named(gpus)}, got {wanted!r}. Leave it out to use "
            f"{'a GPU' if gpus else 'the CPU'}."
        )


def _named(gpus: int) -> str:
    last = f" to cuda:{gpus - 1}" if gpus > 1 else ""
    return f"cpu, cuda or cuda:0{last}" if gpus else "cpu, since this machine has no GPU"
