"""Processes that read batches ahead of need, and what becomes of the run when they cannot, die, or hang."""
import multiprocessing
import signal
from contextlib import contextmanager

import torch
from torch.utils.data import DataLoader, IterableDataset

from mulan_min.errors import UserError

LOST_SHARE = 0.01      # of the recordings may be unreadable before training stops; our choice
PATIENCE = 600         # s without a batch before training stops; our choice


def check_lost(lost, total):
    """Stops a run that loses more than LOST_SHARE of its `total` recordings; `lost` is {id: why}."""
    if len(lost) > LOST_SHARE * total:
        listed = "; ".join(sorted(lost.values())[:20]) + ("; ..." if len(lost) > 20 else "")
        raise UserError(f"{len(lost)} of {total} recordings cannot be read, more than {LOST_SHARE:.0%}: {listed}")


def loader(batches, first_step, workers):
    """Yields batches first_step, first_step + 1, ...; each worker process reads whole batches ahead of need. A stream
    (shards.ShardStream) knows its first step by itself. Raises UserError when a batch cannot be had, or not within PATIENCE."""
    order = {} if isinstance(batches, IterableDataset) else {"sampler": range(first_step, len(batches))}
    with readers():
        for batch in DataLoader(batches, batch_size=None, num_workers=workers, prefetch_factor=3 if workers else None,
                                worker_init_fn=quiet_worker, pin_memory=torch.cuda.is_available(),
                                timeout=PATIENCE if workers else 0, **order):
            if "error" in batch:
                raise UserError(batch["error"])
            yield batch


@contextmanager
def readers():
    """The death of a process that reads, which torch raises wherever the trainer is at that moment, and its silence for PATIENCE
    become a UserError."""
    before = multiprocessing.active_children()
    try:
        yield
    except RuntimeError as error:
        if "DataLoader" not in str(error):
            raise
        for process in set(multiprocessing.active_children()) - set(before):
            process.kill()      # one that hangs in a read hears nothing less, and the end of this process would wait for it
        why = (f"no batch was read within {PATIENCE} s: a disk does not answer, or the batch is too large for so few --workers"
               if "timed out" in str(error) else
               f"a process that reads audio has died ({str(error).split('. ')[0]}): perhaps for want of memory, then lower --workers")
        raise UserError(f"{why}; the last checkpoint is kept, go on with --resume") from error


def quiet_worker(_):
    """Ctrl-C, and SIGTERM to a process group, reach the workers too; the trainer alone answers them, and saves."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(1)
