"""Combine what the ranks hold: gradients, sums and means.

Under ``DistributedDataParallel`` gradients are averaged already, during ``backward``, and nothing
here is needed for them. What is left for a training loop is the mean over *samples*: ranks may
hold different numbers of them, and a mean of the ranks' means then weighs a sample of a small
shard more. Everything here works in one process without a process group, where it changes
nothing.

``ring_all_reduce`` is what a backend does inside ``dist.all_reduce``, written out to be read and
measured, and ``ring_seconds`` is its cost on links that one does not have.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from aiinfra_lab.errors import InputError

# DDP's own size: large enough that a call's latency does not count, small enough to stay a copy.
BUCKET_BYTES = 25 << 20


def world_size(group: dist.ProcessGroup | None = None) -> int:
    """Ranks in the group; 1 where there is no process group."""
    return dist.get_world_size(group) if dist.is_initialized() else 1


def reduce_sums(tensor: Tensor) -> Tensor:
    """The element-wise sum of ``tensor`` over all ranks, as a new tensor on every rank.

    Several sums travel best in one tensor (losses, hits, counts): a call costs latency, not
    bytes. All ranks must call it, with equal shapes and dtypes.
    """
    total = tensor.detach().clone()
    if world_size() > 1:
        dist.all_reduce(total)
    return total


def reduce_value(value_sum: float | Tensor, count: float | Tensor) -> float:
    """The mean over all samples of all ranks, from each rank's sum and number of samples.

    It is ``Σ sums / Σ counts`` in float64, and so independent of how the samples lie on the
    ranks. It is not the mean of the ranks' means, which is right for equal counts only. All
    ranks must call it; a rank without samples gives 0 and 0.

    Parameters
    ----------
    value_sum : float or Tensor of one element
        The rank's sum of the value over its samples (a loss times its count, a number of hits).
        Reading a tensor of a GPU waits for the GPU.
    count : float or Tensor of one element
        Over how many samples; weights other than 0 and 1 may be summed as well.

    Raises
    ------
    InputError
        A sum or count has not one element, or the counts of all ranks add up to nothing.
    """
    pair = torch.stack([_scalar(x) for x in (value_sum, count)])
    total, samples = reduce_sums(pair).tolist()
    if not samples > 0:
        raise InputError(
            "a mean needs samples on at least one rank", found=f"{samples:g} on all ranks together"
        )
    return float(total / samples)


def average_gradients(module: nn.Module, *, count: float, bucket_bytes: int = BUCKET_BYTES) -> None:
    """Make every gradient of a module that is not wrapped the mean over all ranks' samples.

    This is what ``DistributedDataParallel`` does by itself, and faster, because it begins while
    ``backward`` still runs. It is for the cases in which one cannot wrap: gradients that come
    from elsewhere, local steps with an occasional average, or to see what DDP does.

    Parameters
    ----------
    module : torch.nn.Module
        Its gradients are those of the rank's *mean* loss over its own ``count`` samples. They
        are replaced in place. All ranks must hold the same parameters and call it.
    count : float
        Samples behind this rank's gradients. A rank with 0 takes part and adds nothing,
        whatever its gradients are.
    bucket_bytes : int
        Gradients are sent together in flat pieces of about this size.

    Raises
    ------
    InputError
        The module is under DDP or FSDP, whose gradients are averaged already; a gradient is
        sparse; ``count`` is negative or no number; or the counts of all ranks add up to 0.

    Notes
    -----
    A parameter without a gradient counts as zero on its rank. One that has a gradient on no rank
    keeps None on all: a zero in its place would let weight decay and momentum move it.
    """
    _refuse_averaged(module)
    if not 0 <= count < math.inf:
        raise InputError("count must be a number of samples", found=repr(count))
    parameters = [p for p in module.parameters() if p.requires_grad]
    if any(p.grad is not None and p.grad.is_sparse for p in parameters):
        raise InputError("sparse gradients cannot be averaged in flat buckets")
    if world_size() == 1 or not parameters:
        return
    # One call tells all ranks the total and who is used anywhere, so that all build the same
    # buckets. In float64: a count may be past what float32 holds exactly.
    seen = torch.tensor(
        [count, *(float(p.grad is not None) for p in parameters)],
        dtype=torch.float64,
        device=parameters[0].device,
    )
    dist.all_reduce(seen)
    total, *used = seen.tolist()
    if not total > 0:
        raise InputError("the gradients of all ranks together stand for no sample")
    with torch.no_grad():
        wanted = [p for p, users in zip(parameters, used, strict=True) if users]
        for bucket in _buckets(wanted, bucket_bytes):
            # Weighted before the sum and not after it: half precision could overflow.
            flat = torch.cat([_weighted(p, count / total) for p in bucket])
            dist.all_reduce(flat)
            pieces = torch.split(flat, [p.numel() for p in bucket])
            for p, piece in zip(bucket, pieces, strict=True):
                if p.grad is None:
                    p.grad = torch.empty_like(p)
                p.grad.copy_(piece.view_as(p))


def ring_all_reduce(
    tensor: Tensor, op: str = "sum", *, group: dist.ProcessGroup | None = None
) -> Tensor:
    """All-reduce ``tensor`` in place by passing pieces around a ring; returns it.

    The tensor is cut into as many pieces as there are ranks. In *reduce-scatter* each piece
    travels once around the ring and every rank adds its own to it; in *all-gather* the finished
    pieces travel once more. A rank sends ``2 (p-1)/p`` of the tensor, which is the least that is
    possible, in ``2 (p-1)`` messages.

    Parameters
    ----------
    tensor : Tensor
        Of any shape; the same shape and dtype on all ranks of the group.
    op : {"sum", "prod", "max", "min"}
    group : ProcessGroup, optional
        By default all ranks.

    Raises
    ------
    InputError
        The operation is none of these.

    Notes
    -----
    All ranks end with the same bits, but with more than two the order of a sum differs from piece
    to piece, and from ``dist.all_reduce``.

    References
    ----------
    Patarasuk and Yuan, "Bandwidth optimal all-reduce algorithms for clusters of workstations",
    J. Parallel Distrib. Comput. 69 (2009) 117-124.
    """
    if op not in _OPERATIONS:
        raise InputError(f"unknown operation {op!r}", needed=f"one of {', '.join(_OPERATIONS)}")
    world = world_size(group)
    if world == 1:
        return tensor
    combine = _OPERATIONS[op]
    rank = dist.get_rank(group)
    with torch.no_grad():
        flat = tensor.contiguous().view(-1)
        pieces = flat.tensor_split(world)  # sizes differ by at most one, and may be 0
        arrived = torch.empty_like(pieces[0])  # the first piece is the largest
        for step in range(world - 1):
            mine, other = pieces[(rank - step) % world], pieces[(rank - step - 1) % world]
            _pass_on(mine, arrived[: len(other)], rank, world, group)
            combine(other, arrived[: len(other)], out=other)
        for step in range(world - 1):
            mine, other = pieces[(rank - step + 1) % world], pieces[(rank - step) % world]
            _pass_on(mine, other, rank, world, group)
        if flat.data_ptr() != tensor.data_ptr():
            tensor.copy_(flat.view_as(tensor))
    return tensor


def ring_seconds(nbytes: float, world: int, latency_s: float, bytes_per_s: float) -> float:
    """Seconds that a ring all-reduce takes by the α-β model: ``2(p-1) α + 2 (p-1)/p · n/β``.

    The first term grows with the ranks, the second hardly: from 2 to 64 ranks it doubles at most.
    Computing the sums and sharing of links are left out, so it is a lower bound for real rings.

    Parameters
    ----------
    nbytes : float
        Size n of the whole tensor on each rank.
    world : int
        Ranks p, at least 1.
    latency_s : float
        Seconds α that a message costs whatever its size.
    bytes_per_s : float
        Bandwidth β of one link in one direction.

    Raises
    ------
    InputError
        A number is out of its range.

    References
    ----------
    Thakur, Rabenseifner and Gropp, "Optimization of collective communication operations in
    MPICH", Int. J. High Perform. Comput. Appl. 19 (2005) 49-66, section 3 (the model) and 4.5
    (the ring, there with a term for the additions); Patarasuk and Yuan (2009) for its optimality.
    """
    if isinstance(world, bool) or not isinstance(world, int) or world < 1:
        raise InputError("world must be a whole number of ranks, at least 1", found=repr(world))
    if not (0 <= nbytes < math.inf and 0 <= latency_s < math.inf and bytes_per_s > 0):
        raise InputError(
            "bytes and latency must not be negative, and the bandwidth must be above 0",
            found=f"nbytes={nbytes!r}, latency_s={latency_s!r}, bytes_per_s={bytes_per_s!r}",
        )
    steps = world - 1
    return 2 * steps * latency_s + 2 * steps / world * nbytes / bytes_per_s


_OPERATIONS: dict[str, Callable[..., Tensor]] = {
    "sum": torch.add,
    "prod": torch.mul,
    "max": torch.maximum,
    "min": torch.minimum,
}


def _pass_on(
    mine: Tensor, into: Tensor, rank: int, world: int, group: dist.ProcessGroup | None
) -> None:
    """Send ``mine`` to the next rank of the ring while ``into`` comes from the one before."""
    # Both are begun before either is waited for, or a ring of blocking sends would stand still;
    # as a batch, because nccl runs what is not batched one after the other. Both ends know an
    # empty piece by its size and leave it out.
    work = [
        dist.P2POp(act, piece, group=group, group_peer=peer % world)
        for act, piece, peer in ((dist.isend, mine, rank + 1), (dist.irecv, into, rank - 1))
        if piece.numel()
    ]
    for request in dist.batch_isend_irecv(work) if work else ():
        request.wait()


def _scalar(value: float | Tensor) -> Tensor:
    tensor = torch.as_tensor(value).detach()
    if tensor.numel() != 1:
        raise InputError(
            "a sum and a count must be one number each", found=f"shape {tuple(tensor.shape)}"
        )
    # nccl carries nothing that lies in the host's memory.
    on_gpu = dist.is_initialized() and dist.get_backend() == "nccl"
    return tensor.reshape(()).to("cuda" if on_gpu else "cpu", torch.float64)


def _weighted(parameter: nn.Parameter, weight: float) -> Tensor:
    # Not multiplied where it counts nothing: the gradient of a mean over no sample is NaN.
    if parameter.grad is None or weight == 0:
        return parameter.new_zeros(parameter.numel())
    return parameter.grad.reshape(-1) * weight


def _buckets(parameters: Iterable[nn.Parameter], nbytes: int) -> Iterator[list[nn.Parameter]]:
    """Neighbours of one dtype and device, together up to ``nbytes``, or one that is larger."""
    bucket: list[nn.Parameter] = []
    size = 0
    for p in parameters:
        this = p.numel() * p.element_size()
        if bucket and (
            size + this > nbytes or (p.dtype, p.device) != (bucket[0].dtype, bucket[0].device)
        ):
            yield bucket
            bucket, size = [], 0
        bucket.append(p)
        size += this
    if bucket:
        yield bucket


def _refuse_averaged(module: nn.Module) -> None:
    for part in module.modules():
        if isinstance(part, DistributedDataParallel) or hasattr(part, "set_requires_gradient_sync"):
            kind = "DDP" if isinstance(part, DistributedDataParallel) else "FSDP"
            raise InputError(
                f"{kind} has averaged these gradients during backward; averaging them again would "
                "change nothing and cost time",
                fix="Leave the call out.",
            )
