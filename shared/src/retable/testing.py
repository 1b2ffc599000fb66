"""Tools for tests: a tiny encoder, batches, steps, checks of encoders, wrong tensors, processes.

With equal shares of a global batch, the mean of the processes' losses is the loss of the global
batch, the mean of their gradients is its gradient, and state that all processes hold (queues,
running statistics) is equal everywhere: `run_processes` serves to test this.
"""

from __future__ import annotations

import copy
import importlib.util
import inspect
import multiprocessing
import operator
import os
import pickle
import re
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from retable import distributed
from retable.encoders import Encoder, EncoderRecipe
from retable.errors import UserError
from retable.methods.method import Batch, Method, Progress
from retable.random import derive_key, initialising, normal

Result = TypeVar("Result")


class StoppedError(Exception):
    """The end of a process, where a test raises it."""


class TinyEncoder(nn.Module):
    """One convolution, averaged over pixels: images (B, 3, H, W) of any size to (B, 12).

    Without ``norm`` it has no batch norm, so that each image is embedded independently.
    """

    feature_dim = 12

    def __init__(self, norm: bool = False) -> None:
        super().__init__()
        with initialising(5):
            self.conv = nn.Conv2d(3, 12, 3)
        self.norm = nn.BatchNorm2d(12) if norm else nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        """Return the features of images."""
        return torch.tanh(2 * self.norm(self.conv(images))).mean(dim=(2, 3))


def make_batch(
    step: int = 0,
    size: int = 8,
    *,
    sides: Sequence[int] = (4, 4),
    noise: float = 0.5,
    labels: Sequence[int] | None = None,
    steps_per_epoch: int = 5,
    epochs: int = 4,
) -> Batch:
    """Return the global batch of a step, in which views of an image differ by noise.

    Different steps have different images, of deviation 1; ``noise`` is the deviation of the noise.
    ``sides`` are those of the views in pixels, the labels 0, 1, 2, 0, ... unless given.
    """
    images = normal(derive_key(step, "images"), torch.arange(size * 3)).view(size, 3, 1, 1)
    views = []
    for number, side in enumerate(sides):
        pixels = normal(derive_key(step, "view", number), torch.arange(size * 3 * side * side))
        views.append(images + noise * pixels.view(size, 3, side, side))
    return Batch(
        views=tuple(views),
        labels=torch.arange(size) % 3 if labels is None else torch.tensor(labels),
        indices=torch.arange(size),
        positions=torch.arange(size),
        progress=Progress(step, steps_per_epoch, epochs),
        rng_key=derive_key(0, "step", step),
    )


def own_share(batch: Batch) -> Batch:
    """Return this process's equal share of a global batch."""
    return batch.rows(distributed.own_slice(torch.arange(len(batch.positions))))


def train_steps(
    method: Method,
    steps: Iterable[int],
    batch_of: Callable[[int], Batch] = make_batch,
    lr: float = 0.1,
) -> list[float]:
    """Make steps of SGD with gradients averaged over processes; return the losses.

    ``batch_of`` returns the global batch of a step. Every trained parameter must get a gradient, as
    DDP requires.
    """
    losses = []
    for step in steps:
        batch = batch_of(step)
        output = method(own_share(batch))
        method.zero_grad()
        output.loss.backward()
        with torch.no_grad():
            for parameter in method.parameters():
                if parameter.requires_grad:
                    assert parameter.grad is not None
                    parameter.sub_(lr * distributed.mean(parameter.grad))
        method.after_step(batch.progress)
        losses.append(float(distributed.mean(output.loss)))
    return losses


def equal_states(one: nn.Module, other: nn.Module) -> bool:
    """Return whether two modules have states of equal names and bits."""
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return all(a[0] == b[0] and torch.equal(a[1], b[1]) for a, b in pairs)


def run_processes(
    function: Callable[..., Result], count: int, *args: object, timeout: float = 300.0
) -> list[Result]:
    """Call ``function(*args)`` in ``count`` processes of one gloo group, each with one thread.

    Return the results in rank order. The function is at the top level of a module, also of a test
    module that only pytest can import; inside it, `retable.distributed` knows rank and number of
    processes. A RuntimeError is raised if a process raised (its traceback is in the message), died
    or did not end, imports included, within ``timeout`` seconds.
    """
    start = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(start)
    if start == "forkserver":
        # The server, of which each process is a fork, imports their common modules once.
        loaded = [name for name in ("pytest", "hypothesis") if name in sys.modules]
        context.set_forkserver_preload(["__main__", __name__, *loaded])
    module = (function.__module__, inspect.getfile(function))
    call = pickle.dumps((function.__qualname__, args))
    with tempfile.TemporaryDirectory() as folder:
        processes: list[BaseProcess] = []
        pipes: list[Connection] = []
        for rank in range(count):
            receiver, sender = context.Pipe(duplex=False)
            place = (rank, count, str(Path(folder) / "store"), timeout)
            process = context.Process(  # type: ignore[attr-defined]
                target=_work, args=(sender, module, call, place), daemon=True
            )
            process.start()
            sender.close()
            processes.append(process)
            pipes.append(receiver)
        try:
            return _collect(pipes, time.monotonic() + timeout)
        except BaseException:
            for process in processes:
                process.kill()
            raise
        finally:
            for pipe, process in zip(pipes, processes, strict=True):
                pipe.close()
                process.join()
                process.close()


def announce_processes() -> None:
    """Set the variables by which Accelerate learns of the processes of `run_processes`."""
    number, count = str(distributed.process_index()), str(distributed.process_count())
    os.environ |= {"RANK": number, "LOCAL_RANK": number, "ACCELERATE_USE_CPU": "true"}
    os.environ |= {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "OMP_NUM_THREADS": "1"}


def _collect(pipes: list[Connection], deadline: float) -> list[Any]:
    """Wait for every process; stop at the first failure, since the others wait for that process."""
    pending: dict[Any, int] = {pipe: rank for rank, pipe in enumerate(pipes)}
    results: list[Any] = [None] * len(pipes)
    while pending:
        ready = wait(pending, max(0.0, deadline - time.monotonic()))
        if not ready:
            late = list(pending.values())
            raise RuntimeError(f"processes {late} did not finish within the timeout")
        for pipe in ready:
            rank = pending.pop(pipe)
            try:
                failure, results[rank] = pickle.loads(pipes[rank].recv_bytes())
            except EOFError:
                raise RuntimeError(f"process {rank} died without a result") from None
            if failure:
                raise RuntimeError(f"process {rank} failed:\n{failure}")
    return results


def _work(
    sender: Connection, module: tuple[str, str], call: bytes, place: tuple[int, int, str, float]
) -> None:
    """Join the group, call the function, send ``(traceback, None)`` or ``("", result)``."""
    rank, count, store, timeout = place
    try:
        torch.set_num_threads(1)
        _import(*module)
        name, args = pickle.loads(call)
        function = operator.attrgetter(name)(sys.modules[module[0]])
        # Otherwise gloo resolves the host's name to an address that may not be reachable.
        loopback = [name for _, name in socket.if_nameindex() if name.startswith("lo")]
        if loopback:
            os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback[0])
        dist.init_process_group(
            "gloo",
            init_method=f"file://{store}",
            rank=rank,
            world_size=count,
            timeout=timedelta(seconds=timeout),
        )
        result = function(*args)
        dist.barrier()
        dist.destroy_process_group()
        answer = pickle.dumps(("", result))
    except BaseException:
        answer = pickle.dumps((traceback.format_exc(), None))
    sender.send_bytes(answer)
    sender.close()


def _import(name: str, path: str) -> None:
    """Import a module from its file under the name that it has in the parent."""
    if name in sys.modules:
        return
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)


def check_encoder(recipe: EncoderRecipe, side: int = 32) -> None:
    """Assert what Retable relies on in an encoder: taps, initialisation, copies, the meta device.

    ``recipe`` should build a small encoder of convolutions and batch or group norms; ``side`` is
    that of its images in pixels.
    """
    images = torch.randn(4, 3, side, side, generator=torch.Generator().manual_seed(0))
    _check_weights(recipe, images)
    for training in (True, False):  # the features are the last tap
        encoder = recipe.build(1).train(training)
        assert encoder.tap_names[-1] == "pre_logits"
        features = encoder(images)
        assert features.shape == (len(images), encoder.feature_dim)
        again = recipe.build(1).train(training).taps(images, ["pre_logits"])["pre_logits"]
        assert torch.equal(features, again)
    # Taps are those of one pass, in any order, and no later layer changes them in place.
    every = encoder.taps(images, encoder.tap_names)
    assert tuple(every) == encoder.tap_names
    assert all(every[name].ndim == 4 for name in encoder.tap_names[:-1])
    backwards = encoder.taps(images, encoder.tap_names[::-1])
    assert tuple(backwards) == encoder.tap_names[::-1]
    for name in encoder.tap_names:
        assert torch.equal(encoder.taps(images, [name])[name], every[name])
        assert torch.equal(backwards[name], every[name])
    _check_depth(encoder, images)
    assert encoder.taps(images, ()) == {}
    refused = ""
    try:
        encoder.taps(images, ("pre_logits", "no such tap"))
    except UserError as error:
        refused = str(error)
    assert "no tap 'no such tap'" in refused


Described = Mapping[str, tuple[str, Tensor]]
"""Argument -> its dimensions, as `retable.nn.checks.Shaped` writes them, and a tensor that fits."""

SENTENCES = re.compile(r"`[\w.\[\]]+`[\w ]* must [^\n]+, got [^\n]+\. [A-Z][^\n]+\.")
"""Form of the message of a refused argument."""


def check_refusals(function: Callable[..., object], described: Described) -> int:
    """Assert that a function takes arguments that fit and refuses those of `wrong_tensors`.

    Returns:
        The number of refused ones.
    """
    function(**{name: tensor for name, (_, tensor) in described.items()})
    count = 0
    for label, arguments in wrong_tensors(described):
        said = "accepted"
        try:
            function(**arguments)
        except UserError as error:
            said = str(error)
        assert SENTENCES.fullmatch(said), f"{label}: {said}"
        count += 1
    return count


def wrong_tensors(described: Described) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield arguments of which one tensor is wrong, each with a label.

    Sizes that only one tensor has are not changed.
    """
    tensors = {name: tensor for name, (_, tensor) in described.items()}
    dims = {name: text for name, (text, _) in described.items()}
    everywhere = [dim for text in dims.values() for dim in text.replace("1+", "").split()]
    real = [name for name, tensor in tensors.items() if tensor.is_floating_point()]
    for name, tensor in tensors.items():
        wrong: dict[str, Any] = dict(_wrong_shapes(tensor, dims[name].split(), everywhere))
        wrong["a list"] = tensor.tolist()
        if "C H W" not in dims[name]:  # images have any type
            wrong["another kind"] = tensor.long() if name in real else tensor.float()
        if len(tensors) > 1:
            wrong["another device"] = tensor.to("meta")
        if name in real and len(real) > 1:
            wrong["another precision"] = tensor.double()
        for label, changed in wrong.items():
            yield f"{name}: {label}", {**tensors, name: changed}


def _wrong_shapes(
    tensor: Tensor, dims: list[str], everywhere: list[str]
) -> Iterator[tuple[str, Tensor]]:
    dims = [dim for dim in dims if dim != "..."]
    shared = [everywhere.count(dim.replace("1+", "")) > 1 for dim in dims]
    for axis, dim in enumerate(dims, start=-len(dims)):
        if shared[axis]:
            yield f"one more of {dim}", torch.cat([tensor, tensor.narrow(axis, 0, 1)], dim=axis)
            yield f"one of {dim}", tensor.narrow(axis, 0, 1)
        if not dim.islower():
            yield f"none of {dim}", tensor.narrow(axis, 0, 0)
    if len(dims) == 2 and any(shared) and tensor.shape[-1] != tensor.shape[-2]:
        yield "transposed", tensor.mT
    yield "a dimension less", tensor.flatten()[0] if len(dims) == 1 else tensor[..., 0].flatten()
    if "..." not in everywhere:
        yield "a dimension more", tensor[None]


def _check_weights(recipe: EncoderRecipe, images: torch.Tensor) -> None:
    """Weights depend on the key alone, leave the global generator, and are copied deeply."""
    before = torch.random.get_rng_state()
    encoder, same, other = (recipe.build(key) for key in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    weight, *_ = encoder.parameters()
    assert torch.equal(weight, next(same.parameters()))
    assert not torch.equal(weight, next(other.parameters()))
    copied = copy.deepcopy(encoder)
    copied(images).sum().backward()
    assert all(parameter.grad is not None for parameter in copied.parameters())
    assert all(parameter.grad is None for parameter in encoder.parameters())
    own = {value.data_ptr() for value in encoder.parameters()}
    assert own.isdisjoint(value.data_ptr() for value in copied.parameters())
    with torch.device("meta"):
        empty = recipe.build(1).state_dict()
    assert all(value.is_meta for value in empty.values())
    state = encoder.state_dict()
    assert {name: value.shape for name, value in empty.items()} == {
        name: value.shape for name, value in state.items()
    }


def _check_depth(encoder: Encoder, images: torch.Tensor) -> None:
    """No convolution runs twice in a pass, or beyond the deepest tap."""
    layers = [layer for layer in encoder.modules() if isinstance(layer, nn.Conv2d)]
    calls: list[nn.Module] = []
    hooks = [layer.register_forward_hook(lambda layer, *_: calls.append(layer)) for layer in layers]
    counts = []
    for name in encoder.tap_names:
        calls.clear()
        encoder.taps(images, (name, encoder.tap_names[0]))
        assert len(set(calls)) == len(calls)
        counts.append(len(calls))
    for hook in hooks:
        hook.remove()
    assert counts == sorted(counts)
    assert counts[0] < counts[-2]
    assert counts[-1] == len(layers)
