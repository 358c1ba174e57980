"""One training by several processes, each with a GPU (or a processor) of its own: what the loop needs for it.

`torchrun` starts the processes, on one machine or on several, and numbers them. Each holds a copy of the network and
takes its share of every batch. Before a step, PyTorch's DistributedDataParallel averages the gradients of all
processes, so that all copies take the same step and stay the same. What cannot be shared, the first process does.

In a process by itself every function here does nothing.
"""

from __future__ import annotations

import hashlib
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from datetime import timedelta
from typing import Any, ParamSpec, TypeVar, cast

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

Result = TypeVar("Result")
Network = TypeVar("Network", bound=nn.Module)
Arguments = ParamSpec("Arguments")

WAIT = timedelta(hours=1)
"""How long a process waits for the others, such as for the first while it validates. A process that has died is noticed
much earlier, by torchrun."""


@contextmanager
def processes(device: str = "auto") -> Iterator[bool]:
    """Join the processes that torchrun has started beside this one, if any. Gives whether this one is the first, which
    alone prints and writes files.

    They talk through NCCL where they have GPUs, else through gloo. Whoever can reach the port where they meet can join
    them and run programs as you: keep it inside a network that you trust.

    Args:
        device: as in `TrainConfig`. Of several GPUs, each process takes the one with its number on this machine.

    Raises:
        ValueError: if this machine has fewer GPUs than processes, or `device` names one GPU for all.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield True
        return
    gpu = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    if gpu:
        torch.cuda.set_device(_own_gpu(device))
    distributed.init_process_group("nccl" if gpu else "gloo", timeout=WAIT)
    first = rank() == 0
    with redirect_stdout(sys.stdout if first else None):
        yield first
    distributed.destroy_process_group()    # not after an error: it could wait for processes that wait for this one


def _own_gpu(device: str) -> int:
    if device not in ("auto", "cuda"):
        raise ValueError(f"several processes cannot share {device}; say cuda, and each takes a GPU of its own")
    number, there = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if number >= there:
        raise ValueError(f"this machine has {there} GPUs for {os.environ['LOCAL_WORLD_SIZE']} processes; start one for "
                         "each GPU with --nproc-per-node, or say --device cpu")
    return number


def world() -> int:
    """How many processes train together."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def rank() -> int:
    """The number of this process, from 0."""
    return distributed.get_rank() if world() > 1 else 0


def share() -> slice:
    """Which rows of a batch are this process's: every n-th of n processes, so that a batch sorted by where its samples
    lie in the set gives all of them a fair mixture. The last ones have none if the batch is smaller than n."""
    return slice(rank(), None, world())


def replicate(network: Network) -> Network | DistributedDataParallel:
    """The network to call in a training step, so that its gradients become the mean of all processes'.

    Batch norm takes mean and spread over the whole batch on GPUs; PyTorch cannot do that on a CPU.
    """
    if world() == 1:
        return network
    if any(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in network.modules()):
        if next(network.parameters()).is_cuda:
            nn.SyncBatchNorm.convert_sync_batchnorm(network)
        elif rank() == 0:
            warnings.warn("batch norm on a CPU takes mean and spread over each process's share of a batch, not over "
                          "the whole, so the curve is not that of one process", stacklevel=2)
    return DistributedDataParallel(network)


def original(network: Network | DistributedDataParallel) -> Network:
    """Undo `replicate`."""
    return cast(Network, network.module) if isinstance(network, DistributedDataParallel) else network


def means(shares: dict[str, torch.Tensor],
          counts: dict[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """Mean losses over the whole batch, from those over the processes' shares of it.

    A share may hold fewer labels than another one, or none, so the mean of the shares' means would be wrong. Each
    counts by its number of labels instead.

    Args:
        shares: name -> mean over this process's share; counts: name -> over how many numbers.

    Returns:
        name -> this process's part, to go backward from: averaged over processes its gradient is that of the mean;
        and name -> the mean, the same number in all processes.
    """
    if world() == 1:
        return shares, {name: mean.item() for name, mean in shares.items()}
    sums = torch.stack([torch.stack([shares[name].detach() * counts[name], counts[name]]) for name in shares]).double()
    distributed.all_reduce(sums)
    wholes = dict(zip(shares, sums[:, 1].clamp(min=1), strict=True))
    parts = {name: mean * (counts[name] / wholes[name] * world()).to(mean.dtype) for name, mean in shares.items()}
    return parts, dict(zip(shares, (sums[:, 0] / sums[:, 1].clamp(min=1)).tolist(), strict=True))


def on_first(work: Callable[Arguments, Result], *arguments: Arguments.args, **options: Arguments.kwargs) -> Result:
    """Let the first process do something while the others wait. All get what it returns, or fail as it fails."""
    if world() == 1:
        return work(*arguments, **options)
    answer: list[Any] = [None, None]
    if rank() == 0:
        try:
            answer[0] = work(*arguments, **options)
        except Exception as error:
            answer[1] = error
    distributed.broadcast_object_list(answer)
    if answer[1] is not None:
        raise answer[1]
    return cast(Result, answer[0])


def agree(run: str) -> None:
    """Make sure that all processes are about to train the same.

    Raises:
        ValueError: in all of them, if `run` is not the same text everywhere.
    """
    if world() == 1:
        return
    found = [""] * world()
    distributed.all_gather_object(found, hashlib.sha256(run.encode()).hexdigest())
    if other := next((number for number, text in enumerate(found) if text != found[0]), 0):
        raise ValueError(f"process {other} has other settings, data or initial weights than process 0: start all with "
                         "the same command and seed, and give every machine the same data")
