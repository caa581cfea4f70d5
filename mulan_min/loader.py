"""Worker processes that read batches in advance, and the errors when one of them fails, dies or hangs."""
import multiprocessing
import signal
from contextlib import contextmanager

import torch
from torch.utils.data import DataLoader, IterableDataset

from mulan_min.errors import UserError

SKIPPED_SHARE = 0.01      # training stops if a larger share of the recordings is unreadable; our choice
PATIENCE = 600            # training stops after so many seconds without a batch; our choice


def check_skipped(skipped, total):
    """Raises UserError when more than SKIPPED_SHARE of the `total` recordings cannot be read; `skipped` is {id: reason}."""
    if len(skipped) > SKIPPED_SHARE * total:
        listed = "; ".join(sorted(skipped.values())[:20]) + ("; ..." if len(skipped) > 20 else "")
        raise UserError(f"{len(skipped)} of {total} recordings cannot be read, more than {SKIPPED_SHARE:.0%}: {listed}")


def loader(batches, first_step, workers):
    """Yields batches first_step, first_step + 1, ...; each worker process reads whole batches in advance. A stream
    (shards.ShardStream) stores its own first step. Raises UserError when a batch cannot be read, or not within PATIENCE."""
    order = {} if isinstance(batches, IterableDataset) else {"sampler": range(first_step, len(batches))}
    with worker_errors():
        for batch in DataLoader(batches, batch_size=None, num_workers=workers, prefetch_factor=3 if workers else None,
                                worker_init_fn=start_worker, pin_memory=torch.cuda.is_available(),
                                timeout=PATIENCE if workers else 0, **order):
            if "error" in batch:
                raise UserError(batch["error"])
            yield batch


@contextmanager
def worker_errors():
    """A context that turns torch's errors about a worker process that has died, or has given no batch for PATIENCE, into a
    UserError. torch may raise them at any point of the training process, so the context surrounds all of it."""
    before = multiprocessing.active_children()
    try:
        yield
    except RuntimeError as error:
        if "DataLoader" not in str(error):
            raise
        for process in set(multiprocessing.active_children()) - set(before):
            process.kill()      # a process that hangs in a read ignores other signals, and Python would wait for it at exit
        reason = (f"no batch was read within {PATIENCE} s: a disk does not answer, or the batch is too large for so few --workers"
                  if "timed out" in str(error) else
                  f"a process that reads audio has died ({str(error).split('. ')[0]}): if it ran out of memory, lower --workers")
        raise UserError(f"{reason}; the last checkpoint is kept, go on with --resume") from error


def start_worker(_):
    """Runs first in each worker process. The worker ignores Ctrl-C and SIGTERM: the training process handles them, and saves."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(1)
