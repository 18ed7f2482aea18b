"""One student trained by several processes (torchrun, or srun with its variables), as data-parallel through Accelerate.

Order and views of an epoch are functions of (seed, key, epoch), so every rank knows the whole batch and takes its slice
of it. A step is that of one process, to the rounding of sums:

* logits of all ranks are put together, and the loss is that of the whole batch, whatever it divides by: unequal slices,
  unknown labels and losses that compare images with each other come out as they should;
* batch normalisation takes mean and variance of the whole batch. torch's and timm's SyncBatchNorm do so on GPUs alone;
  here `functional.batch_norm` itself is replaced, which holds on a CPU too and leaves the model as it is;
* gradients are added up by DistributedDataParallel.

Dropout and its kind draw other numbers in each rank. Rank 0 alone evaluates, writes and reports.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from ...cache.errors import StudentError
from ...cache.machine.processes import count_ranks

__all__ = ["ALONE", "Ranks", "join_ranks"]

# Rank 0 evaluates while the others wait for the next step, and reads dataset and cache before the first.
_PATIENCE = timedelta(hours=6)
# What torch.distributed's errors speak of when a process is gone; most of them have no class of their own.
_LOST = re.compile(r"gloo|NCCL|connection (closed|reset)|broken pipe", re.IGNORECASE)


class Ranks:
    """The processes that train one student together.

    Attributes
    ----------
    rank, size : which of how many this one is; rank 0 leads
    """

    def __init__(self, rank: int = 0, size: int = 1, accelerator: Any = None) -> None:
        self.rank, self.size = rank, size
        self._accelerator = accelerator

    @property
    def leads(self) -> bool:
        """Whether this is the process that evaluates, writes and reports."""
        return self.rank == 0

    def share(self, count: int) -> slice:
        """Return which of the `count` rows of a batch are this rank's: as many as any other's, or one more."""
        edges = [count * rank // self.size for rank in (self.rank, self.rank + 1)]
        return slice(*edges)

    def check(self, smallest: int) -> None:
        """Refuse batches of which a rank would have no row."""
        if smallest < self.size:
            raise StudentError(
                f"A batch of {smallest} images is too few for {self.size} ranks; raise --batch-size, or start "
                "fewer ranks."
            )

    def wrap(self, model: nn.Module) -> Callable[[Tensor], Tensor]:
        """Return what is called in the model's place: its gradients are the mean over all ranks."""
        if self._accelerator is None:
            return model
        self._accelerator.free_memory()  # the member before is done with
        wrapped: Callable[[Tensor], Tensor] = self._accelerator.prepare(model)
        return wrapped

    def normalising(self) -> AbstractContextManager[Any]:
        """Return the context in which batch normalisation is over all ranks."""
        return nullcontext() if self._accelerator is None else _WholeBatchNorm()

    def whole(self, logits: Tensor, count: int) -> Tensor:
        """Put the logits of all ranks together, (count, C); this rank's are those that a gradient goes back into."""
        if self._accelerator is None:
            return logits
        shares = [Ranks(rank, self.size).share(count) for rank in range(self.size)]
        # Each rank gives as many rows as the largest share has; what is too many is cut off.
        most = max(share.stop - share.start for share in shares)
        padded = functional.pad(logits.detach(), (0, 0, 0, most - len(logits)))
        found = [torch.empty_like(padded) for _ in shares]
        torch.distributed.all_gather(found, padded)
        parts = [part[: share.stop - share.start] for part, share in zip(found, shares, strict=True)]
        parts[self.rank] = logits
        # The mean of the ranks' gradients is to be that of the whole batch, which is their sum.
        enlarged: Tensor = _Enlarged.apply(torch.cat(parts), self.size)
        return enlarged

    def average(self, module: nn.Module) -> None:
        """Take the mean over all ranks of the gradients of what is learned beside the model."""
        if self._accelerator is not None:
            for value in module.parameters():
                if value.grad is not None:
                    value.grad = _summed(value.grad) / self.size

    def say(self, value: Any) -> None:
        """Let the others know something, as rank 0."""
        if self._accelerator is not None:
            torch.distributed.broadcast_object_list([value], src=0)

    def hear(self) -> Any:
        """Wait for what rank 0 says."""
        heard = [None]
        torch.distributed.broadcast_object_list(heard, src=0)
        return heard[0]


class _Enlarged(torch.autograd.Function):
    """The same values, and a gradient of that many times the size."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, times: int) -> Tensor:
        ctx.times = times
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.times, None


class _Sum(torch.autograd.Function):
    """The sum over all ranks, and so that of their gradients."""

    @staticmethod
    def forward(_ctx: Any, values: Tensor) -> Tensor:
        return _summed(values)

    @staticmethod
    def backward(_ctx: Any, gradient: Tensor) -> Tensor:
        return _summed(gradient)


def _summed(values: Tensor) -> Tensor:
    values = values.clone(memory_format=torch.contiguous_format)
    torch.distributed.all_reduce(values)
    return values


class _WholeBatchNorm(TorchFunctionMode):
    """Within it, batch normalisation in training is over the images of all ranks."""

    def __torch_function__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is functional.batch_norm:
            return _batch_norm(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _batch_norm(
    input: Tensor,  # noqa: A002 - torch's own names
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Do what `functional.batch_norm` does, over all ranks (Ioffe and Szegedy 2015); sums are float32."""
    if not training:
        return functional.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
    x = input.float()  # (B, C, …)
    others = [axis for axis in range(x.ndim) if axis != 1]
    shape = [1, -1, *(1 for _ in others[1:])]
    count = x.new_full((1,), x.numel() / x.shape[1])  # a number that is copied to a device waits for it
    *sums, total = _Sum.apply(torch.cat([x.sum(others), count])).split([x.shape[1], 1])
    mean = sums[0] / total  # (C,)
    centred = x - mean.view(shape)
    variance = _Sum.apply(centred.square().sum(others)) / total
    with torch.no_grad():
        if running_mean is not None and running_var is not None:
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
            running_var.lerp_((variance * total / (total - 1)).to(running_var.dtype), momentum)
    scale = torch.rsqrt(variance + eps) if weight is None else torch.rsqrt(variance + eps) * weight
    result = centred * scale.view(shape)
    shifted: Tensor = result if bias is None else result + bias.view(shape)
    return shifted.to(input.dtype)


ALONE = Ranks()


@contextmanager
def join_ranks(device: str) -> Iterator[Ranks]:
    """Meet the other processes of the command, if torchrun or srun started several; without them, there is one.

    Whatever rank 0 ends with, the others hear None at last.

    Parameters
    ----------
    device : ``auto``, ``cpu`` or ``cuda``; of several GPUs each rank of a machine takes one
    """
    if count_ranks() == 1:
        yield ALONE
        return
    from accelerate import Accelerator
    from accelerate.utils import InitProcessGroupKwargs

    accelerator = Accelerator(
        cpu=device == "cpu" or not torch.cuda.is_available(),
        kwargs_handlers=[InitProcessGroupKwargs(timeout=_PATIENCE)],
    )
    ranks = Ranks(accelerator.process_index, accelerator.num_processes, accelerator)
    try:
        yield ranks
    except RuntimeError as error:
        if not _LOST.search(str(error)):
            raise
        told = str(error).splitlines()[0][:200]
        raise StudentError(
            f"Rank {ranks.rank} stops because another rank cannot be reached ({told}); see its message, and run the "
            "same command again: finished epochs are kept."
        ) from error
    finally:
        if ranks.leads:
            with suppress(RuntimeError):  # the others may be gone
                ranks.say(None)
        accelerator.end_training()
