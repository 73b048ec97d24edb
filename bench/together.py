"""Processes that train one model together: each takes its part of every batch, and they add up what depends on all.

torchrun starts them.  A recipe means the same on any number of them: the batch is the whole one, its images and their
draws are the same, batch statistics are those of all its images, and so are the gradients.  The first process leads: it
alone writes, attacks and publishes; the others follow it through the trainings.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import torch
from torch import Tensor, distributed, nn

from bench.errors import IncompleteError, RampartError, UsageError

if TYPE_CHECKING:
    from bench.place import Place

JOINING = timedelta(minutes=30)  # between the first process and the last one
PATIENCE = timedelta(days=2)  # torchrun ends all when one dies; so long a training may wait for one of another run
CPU = torch.device("cpu")


def ranks() -> int:
    """How many processes train together; 1 is this one alone."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def rank() -> int:
    """Which of them this one is; 0 leads."""
    return distributed.get_rank() if ranks() > 1 else 0


def local_ranks() -> int:
    """How many of them are on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if ranks() > 1 else 1


def share(images: int) -> slice:
    """This process's part of a batch of so many images."""
    if ranks() == 1:
        return slice(0, images)
    if images < ranks():
        raise UsageError(
            f"a batch of {images} images for {ranks()} processes: each needs one; expected a batch size that leaves "
            "more for the last batch of an epoch, or fewer processes"
        )
    return slice(images * rank() // ranks(), images * (rank() + 1) // ranks())


def sum_over_ranks(values: Tensor) -> Tensor:
    """The sum over all processes that train together, the same on each; no gradient flows.  Alone: the values."""
    if ranks() == 1:
        return values
    total = values.detach().clone()
    try:
        distributed.all_reduce(total)
    except RuntimeError as error:
        raise _parted(error) from error
    return total


def _parted(error: RuntimeError) -> IncompleteError:
    """What it means when the others cannot be reached."""
    why = (str(error).splitlines() or ["no reason given"])[0]
    return IncompleteError(
        f"another of the {ranks()} processes that train together has ended ({why}); the same command continues from "
        "the last checkpoint, as torchrun --max-restarts=3 does by itself"
    )


def add_up(parameters: Sequence[nn.Parameter], loss: Tensor, images: int, asked: bool) -> tuple[Tensor, int, bool]:
    """Make gradients of a loss that was summed over the own images those of the mean over all images.

    Gives the sum of the losses, the number of images, and whether any process was asked to stop: in one exchange, so
    that all stop after the same step.
    """
    grads = [p.grad for p in parameters if p.grad is not None]
    said = loss.new_tensor([0.0, images, float(asked)])
    said[0] = loss
    flat = sum_over_ranks(torch.cat([*(g.flatten() for g in grads), said]))
    count = round(float(flat[-2]))
    for grad, total in zip(grads, flat[:-3].split([g.numel() for g in grads]), strict=True):
        grad.copy_(total.view_as(grad) / count)
    return flat[-3], count, bool(flat[-1] > 0)


def of_the_first(path: Path) -> bytes | None:
    """The content of a file that the first process has, for each; None where it has none.

    The others may lie on machines that do not see it.
    """
    content = [path.read_bytes() if rank() == 0 and path.exists() else None]
    _share(content)
    return content[0]


def _share(things: list[Any]) -> None:
    """Put the first process's things into the lists of the others."""
    try:
        distributed.broadcast_object_list(things, device=CPU)
    except RuntimeError as error:
        raise _parted(error) from error


def announce(task: object) -> None:
    """Tell those who follow what to do next: a lesson, or None to leave.  Alone: nothing."""
    if ranks() > 1 and rank() == 0:
        _share([task])
        if task is None:
            distributed.destroy_process_group()


def leads(device: str) -> bool:
    """Whether this process is the first of those that torchrun started, which it joins."""
    if not distributed.is_available():
        raise UsageError("this build of torch has no torch.distributed; start bench without torchrun")
    from torch.distributed import PrefixStore  # type: ignore[attr-defined]
    from torch.distributed.rendezvous import rendezvous

    local, visible = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count() if device != "cpu" else 0
    if device != "cpu":
        if local >= visible:
            raise UsageError(
                f"process {local} of this machine has no GPU: there are {visible}; expected no more of them"
            )
        torch.cuda.set_device(local)
    store, mine, size = next(rendezvous("env://", timeout=JOINING))
    store = PrefixStore(f"bench/{_met(store, mine, size)}", store)
    backend = "gloo" if device == "cpu" else "cpu:gloo,cuda:nccl"
    distributed.init_process_group(backend, store=store, rank=mine, world_size=size, timeout=PATIENCE)
    return rank() == 0


def _met(store: Any, mine: int, size: int) -> str:
    """A name that only those processes know which live now.

    torchrun's store outlives a restart, and with it the addresses of the dead, which a process that comes early would
    take for those of the living.  So each of those who follow says a word that was never said before and waits for an
    answer to it; the first one answers whatever it finds until all have answered back.
    """
    name = uuid4().hex
    if mine:
        store.set(f"bench/hello/{mine}", name)
        first: str = store.get(f"bench/welcome/{name}").decode()  # waits for it
        store.set(f"bench/here/{first}/{mine}", "")
        return first
    missing, until = set(range(1, size)), time.monotonic() + JOINING.total_seconds()
    while missing:
        for other in sorted(missing):
            if store.check([f"bench/hello/{other}"]):
                store.set(f"bench/welcome/{store.get(f'bench/hello/{other}').decode()}", name)
            if store.check([f"bench/here/{name}/{other}"]):
                missing.discard(other)
        if time.monotonic() > until:
            raise IncompleteError(f"processes {sorted(missing)} of {size} did not come; are all machines up?")
        time.sleep(0.02)
    return name


def follow(place: Place) -> None:
    """Train what the first process announces, until it says that there is nothing left."""
    while True:
        task: list[Any] = [None]
        _share(task)
        if task[0] is None:
            distributed.destroy_process_group()
            return
        with suppress(RampartError):  # the first process says it
            task[0].beside(place)


class _Sum(torch.autograd.Function):
    """The sum over all processes, through which gradients flow back to each."""

    @staticmethod
    def forward(_ctx: Any, values: Tensor) -> Tensor:
        """The same on each."""
        return sum_over_ranks(values)

    @staticmethod
    def backward(_ctx: Any, *grads: Tensor) -> Tensor:
        """What all of them lose by it."""
        return sum_over_ranks(grads[0].contiguous())


def synced(module: nn.Module) -> nn.Module:
    """Let batch normalisation in training mode see the whole batch, of which every process has a part.

    torch's own SyncBatchNorm does so on a GPU alone.  Names and shapes of the weights stay.
    """
    if ranks() > 1:
        for child in module.modules():
            if isinstance(child, nn.modules.batchnorm._BatchNorm) and "forward" not in vars(child):  # noqa: SLF001
                child.forward = partial(_normed, child)  # type: ignore[method-assign]
    return module


def _normed(norm: nn.modules.batchnorm._BatchNorm, x: Tensor) -> Tensor:
    """(N, C, ...) to the same shape; as the module does by itself, but with mean and variance of the whole batch."""
    if not norm.training:
        return type(norm).forward(norm, x)
    values = x.float() if x.dtype in {torch.float16, torch.bfloat16} else x
    axes, shape = [0, *range(2, x.ndim)], (1, -1, *[1] * (x.ndim - 2))
    said = torch.cat([values.sum(axes), values.new_tensor([values.numel() / values.shape[1]])])
    total = _summed(said)
    count = total[-1].detach()
    mean = total[:-1] / count
    centred = values - mean.view(shape)
    variance = _summed(centred.square().sum(axes)) / count
    if norm.track_running_stats and norm.running_mean is not None and norm.running_var is not None:
        with torch.no_grad():
            assert norm.num_batches_tracked is not None
            norm.num_batches_tracked += 1
            part = 1 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
            norm.running_mean.lerp_(mean.detach(), part)
            norm.running_var.lerp_(variance.detach() * count / (count - 1), part)
    out = centred * (variance + norm.eps).rsqrt().view(shape)
    if norm.affine:
        out = out * norm.weight.view(shape) + norm.bias.view(shape)
    return out.to(x.dtype)


def _summed(values: Tensor) -> Tensor:
    """As sum_over_ranks, but gradients flow."""
    total: Tensor = _Sum.apply(values)  # type: ignore[no-untyped-call]
    return total
