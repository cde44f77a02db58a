"""How a model lies on the ranks: whole on each (DDP) or in shards (FSDP2), and its state in both.

A training loop differs in four places only, and they are here: wrapping the model, a step without
communication, clipping, and the state for a checkpoint. The state has the same names and the same
whole tensors whatever wrote it, so a run may go on with another strategy or on another number of
ranks. In one process nothing is wrapped and no process group is needed.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from aiinfra_lab.errors import InputError
from aiinfra_lab.training.reduce import world_size

Strategy = Literal["ddp", "fsdp"]
Compression = Literal["none", "bf16", "powersgd"]

# Parameters from which a module gets gathers of its own. Below 4 MB of float32 a gather costs
# latency more than bytes, and with the whole model in one gather nothing overlaps.
GROUP_NUMEL = 1_000_000
POWERSGD_WARM_UP = 10  # steps with whole gradients: the first ones are the least of low rank


def parallel(
    model: nn.Module,
    *,
    strategy: Strategy = "ddp",
    compress: Compression = "none",
    device: torch.device | str,
) -> nn.Module:
    """Spread ``model`` over the ranks; build the optimiser from what this returns.

    Every rank starts from rank 0's parameters and buffers. The gradient after ``backward`` is the
    mean over the ranks.

    Parameters
    ----------
    model : torch.nn.Module
        Moved to ``device``. FSDP changes it in place.
    strategy : {"ddp", "fsdp"}
        ``ddp`` keeps a whole copy on each rank. ``fsdp`` (FSDP2) keeps each rank's share of
        parameters, gradients and optimiser state, and gathers parameters when they are needed.
    compress : {"none", "bf16", "powersgd"}
        What DDP sends. ``bf16`` halves the bytes and rounds each gradient to 8 bits of mantissa.
        ``powersgd`` sends matrices of rank 1 after ``POWERSGD_WARM_UP`` steps (Vogels et al.,
        2019), all layers together after backward, and keeps what it left out for the next step.
        That rest is not part of ``full_state``: a run that resumes ends with other bits.
    device : torch.device or str

    Returns
    -------
    torch.nn.Module
        With one rank the model itself.

    Raises
    ------
    InputError
        An unknown word, a compression with FSDP, or powersgd with parameters of two dtypes.

    Notes
    -----
    DDP runs with ``find_unused_parameters=False``: looking for them costs time in every step, and
    a model that needs it is told so by DDP in its second step. Buffers (the running means of
    BatchNorm) follow rank 0 under DDP; under FSDP each rank keeps its own.
    """
    for what, word, words in (
        ("strategy", strategy, ("ddp", "fsdp")),
        ("compression", compress, ("none", "bf16", "powersgd")),
    ):
        if word not in words:
            raise InputError(f"unknown {what} {word!r}", needed=f"one of {', '.join(words)}")
    if strategy == "fsdp" and compress != "none":
        raise InputError(
            f"compress={compress!r} is a hook of DDP; FSDP sends no buckets that it could compress",
            fix="Take strategy='ddp' or compress='none'.",
        )
    device = torch.device(device)
    model.to(device)
    if world_size() == 1:
        return model
    return _shard(model, device) if strategy == "fsdp" else _replicate(model, device, compress)


@contextmanager
def accumulating(model: nn.Module) -> Iterator[None]:
    """Keep gradients on their ranks: for every micro-batch of a step but the last.

    Both forward and backward belong inside. The first backward outside sends the sum of all.
    """
    if isinstance(model, DistributedDataParallel):
        with model.no_sync():
            yield
    elif _is_sharded(model):
        model.set_requires_gradient_sync(False)  # type: ignore[operator]
        try:
            yield
        finally:
            model.set_requires_gradient_sync(True)  # type: ignore[operator]
    else:
        yield


def clip_gradients(model: nn.Module, max_norm: float) -> Tensor:
    """Scale all gradients so that their common 2-norm is at most ``max_norm``.

    Call it after the last backward of a step, when the ranks agree; under FSDP on all of them.

    Returns
    -------
    Tensor
        The norm before clipping, a scalar on the model's device, the same on every rank. Looking
        at its value waits for a GPU.

    Raises
    ------
    InputError
        ``max_norm`` is not above 0.
    """
    if not 0 < max_norm <= math.inf:
        raise InputError("max_norm must be above 0", found=repr(max_norm))
    parameters = list(model.parameters())
    norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    norm = _whole(norm)  # of shards it is a DTensor; callers print and compare plain ones
    nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
    return norm


def full_state(model: nn.Module, optimizer: Optimizer) -> dict[str, Any]:
    """Everything the model and the optimiser hold, whole, in the host's memory, by plain names.

    The tensors are copies: they may be written to a disk while training goes on. Call it between
    two steps. Of a model that lies on several ranks, rank 0 gets the state and the others ``{}``;
    under FSDP, which gathers it, all of them must call.

    Returns
    -------
    dict
        ``{"model": {name: tensor}, "optimizer": {"state": {name: {key: value}}, "param_groups":
        [...]}}``, where a group's ``params`` are names.

    Raises
    ------
    InputError
        The optimiser holds a parameter that the model does not have.

    Notes
    -----
    ``torch.distributed.checkpoint.state_dict.get_state_dict`` gives the same, except that for an
    optimiser without a state yet it takes a step with zero gradients to make one. That is not
    neutral: Adam's step counter then starts at 1, and weight decay enters SGD's momentum.
    """
    plain = _plain(model)
    spread = isinstance(model, DistributedDataParallel) or _is_sharded(model)
    keep = not spread or dist.get_rank() == 0
    tensors = {name: _copied(value, keep) for name, value in plain.state_dict().items()}
    names = _names(plain, optimizer)
    order = [name for group in names for name in group]
    packed = optimizer.state_dict()
    state = {
        order[i]: {key: _copied(value, keep) for key, value in packed["state"][i].items()}
        for i in range(len(order))
        if i in packed["state"]
    }
    groups = [
        {key: _copied(value, keep) for key, value in group.items()} | {"params": members}
        for group, members in zip(packed["param_groups"], names, strict=True)
    ]
    if not keep:
        return {}
    return {"model": tensors, "optimizer": {"state": state, "param_groups": groups}}


def load_full_state(model: nn.Module, optimizer: Optimizer, state: Mapping[str, Any]) -> None:
    """Put back what ``full_state`` gave, on whatever strategy and number of ranks it was given.

    Every rank passes the same state and takes its share; nothing is sent. ``state`` is copied.

    Raises
    ------
    InputError
        The state is of another model (names, shapes, dtypes) or of another optimiser (groups and
        their options). Nothing has been changed then.
    """
    plain = _plain(model)
    held = plain.state_dict()
    names = _names(plain, optimizer)
    if not {"model", "optimizer"} <= state.keys():
        raise InputError("the state holds no model and optimiser", found=", ".join(state) or "{}")
    _check_model(held, state["model"])
    saved = state["optimizer"]
    _check_optimizer(optimizer, names, saved)
    with torch.no_grad():
        for name, target in held.items():
            if isinstance(target, Tensor):
                target.copy_(_placed(state["model"][name], target))
    order = [name for group in names for name in group]
    parameters = dict(plain.named_parameters())
    index = {name: i for i, name in enumerate(order)}
    optimizer.load_state_dict(
        {
            "state": {
                index[name]: {k: _placed(v, parameters[name]) for k, v in values.items()}
                for name, values in saved["state"].items()
            },
            "param_groups": [
                copy.deepcopy(group) | {"params": [index[name] for name in group["params"]]}
                for group in saved["param_groups"]
            ],
        }
    )


# The two strategies.


def _replicate(model: nn.Module, device: torch.device, compress: Compression) -> nn.Module:
    replica = DistributedDataParallel(
        model,
        device_ids=[device.index] if device.type == "cuda" else None,
        gradient_as_bucket_view=True,  # gradients live in the buckets: no copy of them
        bucket_cap_mb=_one_bucket_mb(model) if compress == "powersgd" else None,
    )
    if compress == "bf16":
        from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook

        replica.register_comm_hook(None, bf16_compress_hook)
    elif compress == "powersgd":
        from torch.distributed.algorithms.ddp_comm_hooks import powerSGD_hook as powersgd

        options = powersgd.PowerSGDState(
            process_group=None,
            matrix_approximation_rank=1,
            start_powerSGD_iter=POWERSGD_WARM_UP,
            # A layer whose gradient is zero (all its units dead) has no direction to normalise.
            orthogonalization_epsilon=1e-8,
        )
        replica.register_comm_hook(options, powersgd.powerSGD_hook)
    return replica


def _one_bucket_mb(model: nn.Module) -> int:
    """A size of bucket, in MiB, into which all gradients go.

    torch's PowerSGD sends three times for each bucket, the later ones from callbacks. With gloo
    those run in threads of their own, so with two buckets the ranks send in different orders and
    the process is aborted.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    if len(kinds := {p.dtype for p in trained}) > 1:  # DDP makes buckets of one dtype
        raise InputError(
            "powersgd needs parameters of one dtype", found=", ".join(sorted(map(str, kinds)))
        )
    return 1 + sum(p.numel() * p.element_size() for p in trained) // 2**20


def _shard(model: nn.Module, device: torch.device) -> nn.Module:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    # As DDP does: without it each rank would keep its shard of its own start.
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            dist.broadcast(tensor, src=0)
    mesh = init_device_mesh(device.type, (world_size(),))
    # From the inside out, as fully_shard wants it; a module's group leaves out its parts' groups.
    for part in reversed(list(model.modules())):
        own = isinstance(part, nn.ModuleList | nn.ModuleDict)  # has no forward
        if part is not model and not own and _numel(part) >= GROUP_NUMEL:
            fully_shard(part, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def _numel(module: nn.Module) -> int:
    """Elements of the module's parameters that are not in a group yet."""
    return sum(p.numel() for p in module.parameters() if not hasattr(p, "full_tensor"))


def _is_sharded(model: nn.Module) -> bool:
    return hasattr(model, "set_requires_gradient_sync")  # FSDPModule's; its import is slow


def _plain(model: nn.Module) -> nn.Module:
    inner: nn.Module = model.module if isinstance(model, DistributedDataParallel) else model
    return inner


# Tensors between their shards and their whole.


def _whole(tensor: Tensor) -> Tensor:
    """Of a sharded tensor (a DTensor) the whole, which all ranks ask for; any other as it is."""
    gather = getattr(tensor, "full_tensor", None)
    whole: Tensor = tensor if gather is None else gather()
    return whole


def _copied(value: Any, keep: bool) -> Any:
    if not isinstance(value, Tensor):
        return copy.deepcopy(value)
    whole = _whole(value.detach())
    return whole.to("cpu", copy=True) if keep else None


def _placed(value: Any, like: Tensor) -> Any:
    """A copy of ``value`` on the device of ``like``, and in its shards if it has its shape."""
    if not isinstance(value, Tensor):
        return copy.deepcopy(value)
    if hasattr(like, "full_tensor") and value.shape == like.shape:
        from torch.distributed.tensor import distribute_tensor

        mesh, placements = like.device_mesh, like.placements  # type: ignore[attr-defined]
        # None: every rank cuts its share out of what it has (a copy) and sends nothing.
        return distribute_tensor(value.to(like.device), mesh, placements, src_data_rank=None)
    # A scalar (Adam's step) stays where it is: the optimiser keeps it in the host's memory.
    return value.to(like.device if value.dim() else value.device, copy=True)


# What a state must fit.


def _names(plain: nn.Module, optimizer: Optimizer) -> list[list[str]]:
    """The names of the parameters of each of the optimiser's groups."""
    by_id = {id(parameter): name for name, parameter in plain.named_parameters()}
    try:
        return [[by_id[id(p)] for p in group["params"]] for group in optimizer.param_groups]
    except KeyError:
        raise InputError(
            "the optimiser holds a parameter that the model does not have",
            fix="Build the optimiser from what parallel() returns.",
        ) from None


def _check_model(held: Mapping[str, Any], saved: Mapping[str, Any]) -> None:
    for name in (*held, *saved):
        needed, found = (_kind(side[name]) if name in side else "none" for side in (held, saved))
        if needed != found:
            raise InputError(
                f"the state is of another model: {name!r} does not fit", found=found, needed=needed
            )


def _kind(value: Any) -> str:
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else "no tensor"


def _check_optimizer(
    optimizer: Optimizer, names: list[list[str]], saved: Mapping[str, Any]
) -> None:
    groups = saved["param_groups"]
    if [group["params"] for group in groups] != names:
        raise InputError(
            "the state is of an optimiser with other groups of parameters",
            found=f"{len(groups)} groups of {', '.join(str(len(g['params'])) for g in groups)}",
            needed=f"{len(names)} groups of {', '.join(str(len(g)) for g in names)}",
        )
    if strangers := saved["state"].keys() - {name for group in names for name in group}:
        raise InputError(
            "the state is of an optimiser with other parameters", found=", ".join(sorted(strangers))
        )
    for group, mine in zip(groups, optimizer.param_groups, strict=True):
        if other := group.keys() - mine.keys():
            raise InputError(
                "the state is of another kind of optimiser",
                found=f"its options {', '.join(sorted(other))}",
                needed=f"one of {type(optimizer).__name__}",
            )
