"""Several processes train one model: PyTorch's DDP and FSDP2 under `torchrun`, with the same `train.fit`.

    with distributed.launched() as device:          # alone: this machine's best device; under torchrun: this process's
        model = distributed.wrap(Transformer(config).to(device), "ddp")
        fit(model, batches, steps)                  # torchrun --nproc-per-node 8 script.py

Every process makes the whole batch, which is a pure function of the step, and takes every size()-th row of it. So the
number of targets in all of it is known without asking: a process weighs its loss by (its targets / all targets), and
the sum over processes is the loss of the whole batch, however the targets are spread. (What a loss takes from other
things than its targets, such as the balance of a mixture of experts, is taken from each process's own rows.)

DDP (arXiv 2006.15704) keeps a whole copy of the model in each process and averages the gradients. FSDP (arXiv
2304.11277) keeps 1/size() of the weights, gradients and optimizer state in each, and puts a block's weights together
just before they are used. Departure: the model is first built whole in every process, on the CPU if need be. Proved
equal to one process with two on a CPU (gloo); GPUs speak NCCL.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from llmkit.data import map_tensors, n_targets
from llmkit.device import best_device
from llmkit.model import Transformer


@contextmanager
def launched() -> Iterator[torch.device]:
    """Join the processes that `torchrun` started, and leave them at the end; yields the device of this one."""
    if "RANK" not in os.environ:
        yield best_device().value
        return
    device = best_device().value
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"  # a few numbers travel by way of the CPU
    dist.init_process_group(backend)
    try:
        yield device
    finally:
        dist.destroy_process_group()


def size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """The number of this process among them, from 0."""
    return dist.get_rank() if size() > 1 else 0


def is_main() -> bool:
    """Whether this is the process that writes files and talks."""
    return rank() == 0


def wait() -> None:
    """Go on when all processes are here."""
    if size() > 1:
        dist.barrier()


def gather(numbers: Sequence[float]) -> list[list[float]]:
    """What each process gives, in their order; the same in all of them."""
    if size() == 1:
        return [list(numbers)]
    mine = torch.tensor(numbers, dtype=torch.float64)
    everyones = [torch.empty_like(mine) for _ in range(size())]
    dist.all_gather(everyones, mine)
    return [numbers.tolist() for numbers in everyones]


# --- Models --------------------------------------------------------------------------------------------------------


def wrap(model: nn.Module, how: str) -> nn.Module:
    """The model as `how` = "ddp" or "fsdp" trains it, with the first process's weights; alone, the model as it is.

    Make the optimizer afterwards: FSDP divides the parameters of the model itself. What fits no GPU whole may come on
    the CPU, and is moved to the GPUs a block at a time. Call `compute_in` and `train.compiled` before.
    """
    if how not in ("ddp", "fsdp"):
        raise ValueError(f'how must be "ddp" or "fsdp", not {how!r}')
    if size() == 1:
        return model
    if how == "ddp":
        return DistributedDataParallel(model)
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    for tensor in [*model.parameters(), *model.buffers()]:
        tensor.data = tensor.data.contiguous()  # llmkit's Linear stores columns; FSDP wants rows
        dist.broadcast(tensor.data, src=0)
    mesh = init_device_mesh(best_device().value.type, (size(),))
    for block in model.blocks:
        fully_shard(block, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def share_buffers(model: nn.Module) -> None:
    """Give the first process's buffers to all: `on_step` may have changed them there, say `moe.update_bias`."""
    if size() > 1:
        for buffer in model.buffers():
            dist.broadcast(buffer, src=0)


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside DDP; any other as it is."""
    return model.module if isinstance(model, DistributedDataParallel) else model


def is_sharded(model: nn.Module) -> bool:
    return any(hasattr(p, "full_tensor") for p in model.parameters())


def gathered(model: nn.Module) -> nn.Module:
    """A plain model to save or to use, in every process, and all have to call it: for FSDP a copy on the CPU."""
    model = unwrapped(model)
    if not is_sharded(model):
        return model
    whole = Transformer(model.config)
    whole.load_state_dict({name: full(tensor).cpu() for name, tensor in model.state_dict().items()})
    return whole.compute_in(model.compute_dtype)


def full(tensor: Tensor) -> Tensor:
    """A sharded tensor put together, in every process; any other as it is."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def divided(tensor: Tensor, like: Tensor) -> Tensor:
    """`full`'s inverse: this process's part of a tensor, sharded as `like` is."""
    if not hasattr(like, "full_tensor"):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements)


# --- Batches and gradients -----------------------------------------------------------------------------------------


def share(batch) -> tuple:
    """(this process's rows of the batch, the share of the batch's targets that they hold).

    Without a target of its own a process still has to take part: it computes a row that has some, at weight 0.
    """
    if size() == 1:
        return batch, 1.0

    def rows(which: slice):
        return map_tensors(batch, lambda t: t[which])

    mine = rows(slice(rank(), None, size()))
    if n := n_targets(mine):
        return mine, n / n_targets(batch)
    alone = (rows(slice(i, i + 1)) for i in range(len(batch[0])))
    return next(row for row in alone if n_targets(row)), 0.0


def accumulating(model: nn.Module, last: bool):
    """A context in which gradients stay in their process until the update's last batch: DDP then sends them once."""
    return model.no_sync() if isinstance(model, DistributedDataParallel) and not last else nullcontext()
