"""Several processes, one batch: torch's process group, embeddings gathered with their gradients, batch norm over all.

Started by torchrun, every process takes its slice of the global batch through its own copy of the model, gathers the others'
embeddings, and computes only its own rows and columns of the loss. DistributedDataParallel then averages the gradients of the
parameters. Started by itself, a process is alone, and nothing here talks to anybody.
"""
import inspect
import os
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
import torch.distributed.nn.functional as with_gradient
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mulan_min.errors import UserError
from mulan_min.mulan import default_device

# The first process may render the demo world or validate meanwhile; who is gone, not slow, is noticed at once. Our choice.
WAIT = timedelta(minutes=30)


def start():
    """-> (rank, number of processes, device). Joins the group that torchrun's environment names: NCCL between GPUs, one each,
    else gloo."""
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return 0, 1, default_device()
    device = default_device()
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        torch.cuda.set_device(device)
    store, rank, world = next(dist.rendezvous("env://", timeout=WAIT))
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        # torchrun's own store outlives its processes: begun again, they would look for the dead at their old addresses.
        store = dist.PrefixStore(os.environ["TORCHELASTIC_RESTART_COUNT"], store)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", store=store, rank=rank, world_size=world, timeout=WAIT,
                            device_id=device if device.type == "cuda" else None)
    return rank, world, device


def stop():
    """Leaves the group, if there is one. A DistributedDataParallel must be gone by then: as the group's last owner it would
    wait for gloo's threads while it holds Python's lock, which they need to let go of their tensors; one run in fifty stood
    still at its end."""
    if dist.is_initialized():
        dist.destroy_process_group()


def replicate(model, unused=False):
    """The model as DistributedDataParallel: one copy a process, gradients averaged. Batch norm's buffers stay each process's own.
    `unused`: a step may leave some parameters without a gradient."""
    parameters = inspect.signature(DistributedDataParallel).parameters
    name = "forward_sync_buffers" if "forward_sync_buffers" in parameters else "broadcast_buffers"      # renamed in torch 2.13
    return DistributedDataParallel(model, find_unused_parameters=unused, **{name: False})


@contextmanager
def peers():
    """What torch raises inside when another process is gone, or silent for WAIT, becomes a UserError."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):
            raise
        if dist.is_initialized() and dist.get_backend() == "gloo":
            stop()      # its threads, waiting for the others, would crash this process at its end
        raise UserError("another process of this run has ended or is silent: its own message, or torchrun's table, says why; the last "
                        "checkpoint is kept, go on with --resume") from error


def restarted(device):
    """Whether torchrun has begun again (--max-restarts) after a process died. Only the machine it died on counts that, hence the
    sum."""
    return bool(total(torch.tensor(float(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)), device=device)))


def agree(value):
    """What process 0 holds, on every process; any picklable value, from our own processes alone."""
    if not dist.is_initialized():
        return value
    values = [value]
    dist.broadcast_object_list(values)
    return values[0]


def gather(value):
    """[what each process holds] on all of them; any picklable value, from our own processes alone."""
    if not dist.is_initialized():
        return [value]
    values = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def total(x):
    """The sum of a tensor over the processes, without a gradient."""
    x = x.detach().clone()
    if dist.is_initialized():
        dist.all_reduce(x)
    return x


def shares(size, world):
    """How many clips of a batch each process has."""
    return [size * (rank + 1) // world - size * rank // world for rank in range(world)]


class Gather(torch.autograd.Function):
    """(b, d) of each process -> (B, d) on all. The gradient of a row is the sum of what every process says of it."""

    @staticmethod
    def forward(ctx, x, sizes):
        ctx.sizes = sizes
        padded = F.pad(x, (0, 0, 0, max(sizes) - len(x)))       # a collective call wants equal shapes
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded.contiguous())
        return torch.cat([part[:size] for part, size in zip(parts, sizes)])

    @staticmethod
    def backward(ctx, gradient):
        first, gradient = sum(ctx.sizes[:dist.get_rank()]), gradient.contiguous()
        dist.all_reduce(gradient)
        return gradient[first:first + ctx.sizes[dist.get_rank()]], None


def everyone(audio, text, size):
    """This process's embeddings (b, d) of a batch of `size` -> what `cmc_loss` takes as `everyone`, or None where there is one
    process."""
    if not dist.is_initialized():
        return None
    sizes = shares(size, dist.get_world_size())
    return Gather.apply(audio, sizes), Gather.apply(text, sizes), sum(sizes[:dist.get_rank()])


class SyncedBatchNorm2d(nn.BatchNorm2d):
    """Batch norm with mean and variance over the clips of all processes. torch's own SyncBatchNorm needs CUDA; this one runs
    wherever a process group does, so that its equality with one process is tested. The variance is taken around the common
    mean, in float32 at least."""

    def forward(self, x):
        if not (self.training and dist.is_initialized()):
            return super().forward(x)
        wide = x.to(torch.promote_types(x.dtype, torch.float32))                                # (b, C, F, T)
        count = total(torch.tensor(float(wide.numel() // wide.shape[1]), dtype=wide.dtype, device=x.device))
        mean = with_gradient.all_reduce(wide.sum((0, 2, 3))) / count                            # (C,)
        centred = wide - mean[:, None, None]
        variance = with_gradient.all_reduce(centred.square().sum((0, 2, 3))) / count
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
            self.running_var.lerp_((variance * count / (count - 1)).to(self.running_var.dtype), self.momentum)
        scale = self.weight * (variance + self.eps).rsqrt()
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)


def sync_batch_norm(model):
    """Makes every batch norm of a model a synced one, in place; parameters and buffers stay what they are."""
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SyncedBatchNorm2d      # the same parameters under another `forward`
