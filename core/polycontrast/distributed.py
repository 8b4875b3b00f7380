"""Several processes that train one model as if they were one.

The rule: gradients averaged over processes equal those of a single process on the concatenated batch. The engine
averages them itself, once per optimiser step, rather than through a wrapper around the module: so methods may run
any number of forwards, alternate between optimisers, and freeze parts, without telling anyone.

All functions are no-ops in a single process.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

_BUCKET_BYTES = 25 * 1024 * 1024


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world_size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def barrier() -> None:
    """Wait until all processes are here."""
    if world_size() > 1:
        dist.barrier()


def sum_over_processes(tensor: Tensor) -> Tensor:
    """The sum of a tensor over processes, in place, without gradient."""
    if world_size() > 1:
        dist.all_reduce(tensor)
    return tensor


def any_process(flags: Sequence[bool], device: torch.device) -> list[bool]:
    """Whether each flag is set in any process, so that all decide alike."""
    if world_size() == 1:
        return list(flags)
    raised = torch.tensor([float(f) for f in flags], device=device)
    dist.all_reduce(raised, op=dist.ReduceOp.MAX)
    return [bool(f) for f in raised.tolist()]


def from_main(values: Sequence[float], device: torch.device) -> list[float]:
    """The numbers of process 0, so that all go on with the same."""
    if world_size() == 1:
        return list(values)
    shared = torch.tensor(values, dtype=torch.float64, device=device)
    dist.broadcast(shared, src=0)
    return shared.tolist()


def text_from_main(text: str, device: torch.device) -> str:
    """The text of process 0, e.g. a directory named after the time."""
    if world_size() == 1:
        return text
    mine = torch.tensor(list(text.encode() if rank() == 0 else b""), dtype=torch.uint8, device=device)
    return bytes(gather(mine).tolist()).decode()


def gather(tensor: Tensor) -> Tensor:
    """The tensors of all processes one after the other along the first dimension, in order of rank, without gradient.

    Sizes of the first dimension may differ; the other dimensions must agree. For ids, labels and per-sample tables.
    """
    if world_size() == 1:
        return tensor.detach()
    return _gathered(tensor, _sizes(tensor))


def _gathered(tensor: Tensor, sizes: list[int]) -> Tensor:
    mine = tensor.detach().contiguous()
    padded = mine.new_zeros((max(sizes), *mine.shape[1:]))
    padded[: len(mine)] = mine
    parts = [torch.empty_like(padded) for _ in range(world_size())]
    dist.all_gather(parts, padded)
    return torch.cat([part[:n] for part, n in zip(parts, sizes, strict=True)])


def share_state(module: nn.Module) -> None:
    """Give every process the parameters and buffers of process 0."""
    if world_size() > 1:
        for tensor in (*module.parameters(), *module.buffers()):
            dist.broadcast(tensor.detach(), src=0)


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace every gradient by its mean over processes, in buckets of 25 MB.

    A parameter that got a gradient in some processes counts as zero in the others; one that got none anywhere
    keeps none, so that optimisers leave it alone as they would in a single process.
    """
    if world_size() == 1:
        return
    learnt = list(parameters)
    has = torch.tensor([float(p.grad is not None) for p in learnt], device=learnt[0].device)
    dist.all_reduce(has, op=dist.ReduceOp.MAX)
    gradients: list[Tensor] = []
    for parameter, anywhere in zip(learnt, has.tolist(), strict=True):
        if anywhere:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            gradients.append(parameter.grad)
    bucket: list[Tensor] = []
    size = 0
    for i, gradient in enumerate(gradients):
        bucket.append(gradient)
        size += gradient.numel() * gradient.element_size()
        last = i + 1 == len(gradients)
        if last or size >= _BUCKET_BYTES or gradients[i + 1].dtype != gradient.dtype:
            flat = torch.cat([g.reshape(-1) for g in bucket])
            dist.all_reduce(flat)
            flat /= world_size()
            for g, part in zip(bucket, torch.split(flat, [g.numel() for g in bucket]), strict=True):
                g.copy_(part.view_as(g))
            bucket, size = [], 0


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        ctx.sizes = _sizes(tensor)
        return _gathered(tensor, ctx.sizes)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        # A reduce-scatter moves half of what an all-reduce would; its parts must be equal, so short ones are padded.
        longest = max(ctx.sizes)
        if min(ctx.sizes) < longest:
            parts = grad.new_zeros((len(ctx.sizes), longest, *grad.shape[1:]))
            for part, own in zip(parts, torch.split(grad, ctx.sizes), strict=True):
                part[: len(own)] = own
            grad = parts.flatten(0, 1)
        mine = grad.new_empty((longest, *grad.shape[1:]))
        dist.reduce_scatter_tensor(mine, grad.contiguous())
        return mine[: ctx.sizes[rank()]]


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        return sum_over_processes(tensor.contiguous().clone())

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return sum_over_processes(grad.contiguous().clone())


class _LogSumExp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, part: Tensor) -> Tensor:
        top = part.clone()
        dist.all_reduce(top, op=dist.ReduceOp.MAX)
        shift = torch.where(top == -torch.inf, torch.zeros_like(top), top)
        whole = sum_over_processes((part - shift).exp()).log() + shift
        ctx.save_for_backward(part, whole)
        return whole

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        part, whole = ctx.saved_tensors
        share = (part - torch.where(whole == -torch.inf, torch.zeros_like(whole), whole)).exp()
        wanted: Tensor = sum_over_processes(grad.contiguous().clone()) * share
        return wanted


def _sizes(tensor: Tensor) -> list[int]:
    sizes = torch.zeros(world_size(), dtype=torch.int64, device=tensor.device)
    sizes[rank()] = len(tensor)
    return [int(n) for n in sum_over_processes(sizes).tolist()]


def sizes(tensor: Tensor) -> list[int]:
    """Rows of this tensor in each process."""
    return [len(tensor)] if world_size() == 1 else _sizes(tensor)


def pass_on(tensor: Tensor, rows: int) -> Tensor:
    """Give a tensor to the next process of the ring and take that of the one before, which has ``rows`` rows."""
    world, mine = world_size(), tensor.contiguous()
    received = mine.new_empty((rows, *mine.shape[1:]))
    exchange = [
        dist.P2POp(dist.isend, mine, (rank() + 1) % world),
        dist.P2POp(dist.irecv, received, (rank() - 1) % world),
    ]
    for work in dist.batch_isend_irecv(exchange):
        work.wait()
    return received


def place_of(tensor: Tensor) -> tuple[int, int]:
    """Number of this process's first row among the gathered ones, and how many there are in all."""
    if world_size() == 1:
        return 0, len(tensor)
    counts = _sizes(tensor)
    return sum(counts[: rank()]), sum(counts)


def gather_with_gradient(tensor: Tensor) -> Tensor:
    """Like :func:`gather`, but gradients flow back: each process gets the sum over processes for its own rows.

    The sum, not the mean: with gradients averaged over processes afterwards, a loss that returns
    ``world * (its share of the mean)`` trains exactly as a single process does. All processes must take part in
    the backward pass, also one without rows.
    """
    if world_size() == 1:
        return tensor
    return _Gather.apply(tensor)  # type: ignore[no-any-return, no-untyped-call]


def sum_with_gradient(tensor: Tensor) -> Tensor:
    """The sum over processes; the gradient is summed over processes, too."""
    if world_size() == 1:
        return tensor
    return _Sum.apply(tensor)  # type: ignore[no-any-return, no-untyped-call]


def logsumexp_with_gradient(part: Tensor) -> Tensor:
    """``log sum_process exp(part)``, elementwise, with gradient; -inf where a process has nothing to add."""
    if world_size() == 1:
        return part
    return _LogSumExp.apply(part)  # type: ignore[no-any-return, no-untyped-call]
