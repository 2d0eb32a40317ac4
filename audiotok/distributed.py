"""The processes of one run: the only user of torch.distributed. Without torchrun there is one process, and every function says so.

Rank 0 writes files and logs. The batches of a step are dealt to the ranks; their gradients are averaged after the last (`average`), or by
FSDP2 as each is made (`shard`), where a rank holds a part of every weight, gradient and optimizer state.
"""

import atexit
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, distributed, nn


def start() -> None:
    """Join the other processes when launched by torchrun; nothing otherwise, or where that is done."""
    if "WORLD_SIZE" not in os.environ or distributed.is_initialized():
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    store, own_rank, size = next(distributed.rendezvous("env://"))
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        # kept over restarts, and since PyTorch 2.14 with what the dead left in it, for which their successors would wait
        store = distributed.PrefixStore(f"attempt_{os.environ['TORCHELASTIC_RESTART_COUNT']}", store)
    distributed.init_process_group(backend, store=store, rank=own_rank, world_size=size)
    atexit.register(stop)


def stop() -> None:
    if distributed.is_initialized():
        distributed.destroy_process_group()


def device(choice: str) -> torch.device:
    """The device that `choice` names: auto, cpu, cuda, cuda:1 ...; auto is this process's GPU where there is one, else the CPU.

    Raises ValueError for what PyTorch does not know or this machine does not have.
    """
    if choice == "auto":
        choice = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"
    try:
        found = torch.device(choice)
    except RuntimeError as error:
        raise ValueError(f"device={choice}: {str(error).splitlines()[0]}; set device=auto, cpu or cuda") from error
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device={choice}: there are {torch.cuda.device_count()} GPUs here; set device=auto or cpu")
    return found


def rank() -> int:
    return distributed.get_rank() if distributed.is_initialized() else 0


def world_size() -> int:
    return distributed.get_world_size() if distributed.is_initialized() else 1


def is_main() -> bool:
    """Whether this process writes files and logs."""
    return rank() == 0


def barrier() -> None:
    """Return when every process has come here."""
    if world_size() > 1:
        distributed.barrier()


def told(value: Any) -> Any:
    """Rank 0's value, on every process."""
    if world_size() == 1:
        return value
    held = [value]
    distributed.broadcast_object_list(held)
    return held[0]


@torch.no_grad()
def share(tensors: Iterable[Tensor]) -> None:
    """Replace each tensor by rank 0's."""
    if world_size() > 1:
        for tensor in tensors:
            held = tensor.contiguous()
            distributed.broadcast(held, src=0)
            tensor.copy_(held)


def average(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The mean of each scalar over the processes, which have the same names."""
    if world_size() == 1 or not values:
        return dict(values)
    mean_V = torch.stack(list(values.values()))
    distributed.all_reduce(mean_V)
    return dict(zip(values, mean_V / world_size()))


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace each gradient by its mean over the processes; a parameter without one on this rank counts as zero, on all as none.

    What FSDP2 has averaged is left alone.
    """
    if world_size() == 1:
        return
    whole = [parameter for parameter in parameters if parameter.requires_grad and not _is_sharded(parameter)]
    if not whole:
        return
    found = torch.tensor([parameter.grad is not None for parameter in whole], dtype=whole[0].dtype, device=whole[0].device)
    gradients = [torch.zeros_like(one) if one.grad is None else one.grad for one in whole]
    flat = torch.cat([found, *(gradient.flatten() for gradient in gradients)])
    distributed.all_reduce(flat)
    ranks, *means = flat.split([len(whole), *(gradient.numel() for gradient in gradients)])
    for parameter, num, mean in zip(whole, ranks.tolist(), means):
        parameter.grad = (mean / world_size()).view_as(parameter) if num else None


def shard(model: nn.Module, *, parts: Sequence[nn.Module]) -> None:
    """Keep a part of every weight on each rank (FSDP2, ZeRO-3 of arXiv 1910.02054); `model.loss` then gathers what it needs.

    Each of `parts`, modules that every batch calls as such, is gathered by itself, while it is used, and what is left at once. Of that, a
    weight that no batch uses has a gradient of zero, where a whole one has none and does not decay. Raises ValueError without torchrun.
    """
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method  # noqa: PLC0415, a second that few need

    if not distributed.is_initialized():
        raise ValueError(
            "train.sharding=fsdp shares a model out among the processes of torchrun; start with it, or set train.sharding=none"
        )
    kind = next(model.parameters()).device.type
    mesh = distributed.init_device_mesh(kind, (world_size(),))
    for module in (*parts, model):
        fully_shard(module, mesh=mesh, reshard_after_forward=True)  # a part again, also where no gradient is wanted
    apart = {id(weight) for part in parts for weight in part.parameters()}
    _touch_all(model, [name for name, weight in model.named_parameters() if weight.requires_grad and id(weight) not in apart])
    register_fsdp_forward_method(model, "loss")


def _touch_all(model: Any, names: Sequence[str]) -> None:
    """Have `model.loss` use all of the weights: ranks whose batches use different ones would reduce gradients of different sizes."""
    plain = model.loss

    def loss(batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        found, values = plain(batch)
        return found + sum(0.0 * model.get_parameter(name).flatten()[:1].sum() for name in names), values

    model.loss = loss


def local(tensor: Tensor) -> Tensor:
    """This rank's part of a tensor that is shared out, any other as it is; writing to it writes to the tensor."""
    return tensor.to_local() if _is_sharded(tensor) else tensor  # type: ignore[attr-defined]


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor that is shared out, on every process; any other as it is. Every process has to come here."""
    return tensor.full_tensor() if _is_sharded(tensor) else tensor  # type: ignore[attr-defined]


def collected(tensor: Tensor) -> Tensor:
    """As `whole`, but in rank 0's main memory; the others are left with nothing, so that no GPU holds two tensors at a time."""
    if not _is_sharded(tensor):
        return tensor
    found = whole(tensor)
    return found.cpu() if is_main() else found.new_empty(0)


def shared_out(tensor: Tensor, *, like: Tensor) -> Tensor:
    """This rank's part of a whole tensor, shared out as `like`, of the same shape, is; the tensor where `like` is whole."""
    if not _is_sharded(like):
        return tensor
    from torch.distributed.tensor import distribute_tensor  # noqa: PLC0415, a second that few need

    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)  # type: ignore[attr-defined]


def _is_sharded(tensor: Tensor) -> bool:
    return hasattr(tensor, "placements")
