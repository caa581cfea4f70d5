"""One batch over several processes: process group, embeddings gathered with their gradients, batch norm over all processes.

torchrun starts the processes. Each one passes its slice of the global batch through its own copy of the model, gathers the
embeddings of all processes, and computes its own rows and columns of the loss. DistributedDataParallel then averages the
parameters' gradients. Without torchrun there is one process, and these functions do not communicate.
"""
import inspect
import os
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mulan_min.device import default_device
from mulan_min.errors import UserError

# The other processes wait at most this long while the first one renders the demo world or validates. They notice at once that a
# process has ended, but only after this time that one hangs. Our choice.
TIMEOUT = timedelta(minutes=30)


def start():
    """Joins the process group that torchrun's environment variables describe. It uses NCCL with one GPU per process, else gloo.
    Returns (rank, number of processes, device)."""
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return 0, 1, default_device()
    device = default_device()
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        torch.cuda.set_device(device)
    store, rank, world = next(dist.rendezvous("env://", timeout=TIMEOUT))
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        # torchrun keeps its store after a failed attempt. Without a prefix a restarted process would read the old addresses in it.
        store = dist.PrefixStore(os.environ["TORCHELASTIC_RESTART_COUNT"], store)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", store=store, rank=rank, world_size=world, timeout=TIMEOUT,
                            device_id=device if device.type == "cuda" else None)
    return rank, world, device


def stop():
    """Leaves the process group, if there is one. Delete every DistributedDataParallel first. Otherwise it destroys the group while
    it holds Python's lock, which gloo's threads need to release their tensors; one run in fifty hung at its end for this reason."""
    if dist.is_initialized():
        dist.destroy_process_group()


def replicate(model, find_unused):
    """The model as DistributedDataParallel: one copy per process, gradients averaged. Batch norm's buffers are not synchronised.
    find_unused: True if some parameters may get no gradient in a step."""
    parameters = inspect.signature(DistributedDataParallel).parameters
    name = "forward_sync_buffers" if "forward_sync_buffers" in parameters else "broadcast_buffers"      # renamed in torch 2.13
    return DistributedDataParallel(model, find_unused_parameters=find_unused, **{name: False})


@contextmanager
def rank_errors():
    """A context that turns torch's errors about another process that has ended or hangs into a UserError."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):
            raise
        if dist.is_initialized() and dist.get_backend() == "gloo":
            stop()      # gloo's threads still wait for the other processes and would crash this process at exit
        raise UserError("another process of this run has ended or is silent: its own message, or torchrun's table, says why; "
                        "the last checkpoint is kept, go on with --resume") from error


def restarted(device):
    """True if torchrun has restarted the processes (--max-restarts). The counts of all processes are added, because only the
    machine with the failed process counts restarts."""
    count = float(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))
    return bool(all_reduce_sum(torch.tensor(count, device=device)))


def broadcast_object(value):
    """Returns process 0's value on every process. Any picklable value; unpickling is safe, as only our own processes send it."""
    if not dist.is_initialized():
        return value
    values = [value]
    dist.broadcast_object_list(values)
    return values[0]


def all_gather_object(value):
    """Returns the list of all processes' values on every process. Any picklable value, as in `broadcast_object`."""
    if not dist.is_initialized():
        return [value]
    values = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


class AllReduceSum(torch.autograd.Function):
    """The sum of a tensor over all processes, with its gradient: the sum over all processes of the output's gradient.
    torch.distributed.nn.functional.all_reduce does the same, but is deprecated since torch 2.13."""

    @staticmethod
    def forward(ctx, x):
        x = x.clone()
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx, gradient):
        return AllReduceSum.apply(gradient.contiguous())


def all_reduce_sum(x):
    """The sum of a tensor over all processes, without a gradient."""
    return AllReduceSum.apply(x.detach()) if dist.is_initialized() else x.detach()


def slice_sizes(size, world):
    """A batch of `size` clips is divided among `world` processes -> [number of clips of each process]."""
    return [size * (rank + 1) // world - size * rank // world for rank in range(world)]


def chunk_count(optim):
    """Into how many chunks of at most --chunk-size clips each process cuts its slice of a batch: 1 without --chunk-size. The count is
    the same on all processes, because every chunk of a network with synced batch norm waits for the others'."""
    sizes = slice_sizes(optim.batch_size, dist.get_world_size() if dist.is_initialized() else 1)
    return min(-(-max(sizes) // optim.chunk_size), min(sizes)) if optim.chunk_size else 1


def gather_rows(x, size):
    """Each process passes its rows (b, ...) of a batch of `size`; returns all rows (B, ...) on every process, with gradients.

    Each process puts its rows into a tensor of zeros, and the sum of these tensors holds all rows. Unlike all_gather this needs
    no equal slices; it sends twice the bytes, 6 MB at the paper's batch of 6144.
    """
    if not dist.is_initialized():
        return x
    rank, sizes = dist.get_rank(), slice_sizes(size, dist.get_world_size())
    whole = x.new_zeros(size, *x.shape[1:])
    whole[sum(sizes[:rank]):sum(sizes[:rank + 1])] = x
    return AllReduceSum.apply(whole)


def gather_embeddings(audio, text, size):
    """This process's embeddings (b, d), (b, d) of a batch of `size` -> the argument `gathered` of `cmc_loss`: (audio (B, d), text
    (B, d), index of this process's first pair), or None if there is only one process."""
    if not dist.is_initialized():
        return None
    first = sum(slice_sizes(size, dist.get_world_size())[:dist.get_rank()])
    return gather_rows(audio, size), gather_rows(text, size), first


class SyncedBatchNorm2d(nn.BatchNorm2d):
    """Batch norm with the mean and variance over the clips of all processes.

    torch's SyncBatchNorm needs CUDA. This one runs wherever a process group does, so tests can compare it with one process. The
    variance is taken around the common mean, in float32 or the input's precision if that is higher.
    """

    def forward(self, x):
        if not (self.training and dist.is_initialized()):
            return super().forward(x)
        wide = x.to(torch.promote_types(x.dtype, torch.float32))                                # (b, C, F, T)
        count = all_reduce_sum(torch.tensor(float(wide.numel() // wide.shape[1]), dtype=wide.dtype, device=x.device))
        mean = AllReduceSum.apply(wide.sum((0, 2, 3))) / count                                  # (C,)
        centred = wide - mean[:, None, None]
        variance = AllReduceSum.apply(centred.square().sum((0, 2, 3))) / count
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
            self.running_var.lerp_((variance * count / (count - 1)).to(self.running_var.dtype), self.momentum)
        scale = self.weight * (variance + self.eps).rsqrt()
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)


def sync_batch_norm(model):
    """Turns every BatchNorm2d of a model into a SyncedBatchNorm2d, in place; parameters and buffers do not change."""
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SyncedBatchNorm2d      # the same parameters under another `forward`
