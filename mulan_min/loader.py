"""Worker processes that read batches in advance, and the errors when one of them fails, dies or hangs."""
import multiprocessing
import signal
import threading
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
        raise UserError(f"{len(skipped)} of {total} recordings cannot be read, more than {SKIPPED_SHARE:.0%}: {listed}; "
                        "take them out of the manifest, or import again with --check, which leaves them out")


def loader(batches, first_step, workers):
    """Yields batches first_step, first_step + 1, ...; each worker process reads whole batches in advance. A stream
    (shards.ShardStream) stores its own first step. Close the generator to end the workers: they ignore other requests to stop, and
    Python waits for them at exit. Raises UserError when a batch cannot be read, or not within PATIENCE."""
    order = {} if isinstance(batches, IterableDataset) else {"sampler": range(first_step, len(batches))}
    before = multiprocessing.active_children()
    with worker_errors():
        items = iter(DataLoader(batches, batch_size=None, num_workers=workers, prefetch_factor=3 if workers else None,
                                worker_init_fn=start_worker, pin_memory=torch.cuda.is_available(),
                                timeout=PATIENCE if workers else 0, **order))
        processes = set(multiprocessing.active_children()) - set(before)
        try:
            if len(processes) < workers:      # torch does not notice a process that has ended before it has started the others
                raise RuntimeError("a DataLoader worker ended at its start")
            for batch in items:
                if "error" in batch:
                    raise UserError(batch["error"])
                yield batch
        except (OSError, EOFError) as error:      # of the connection to a process that ends just now, or inside of a worker
            raise error if "Caught" in str(error) or not workers else RuntimeError(f"DataLoader worker: {error}") from error
        finally:
            kill(processes)
            del items      # while torch's iterator exists, it takes the end of its processes for a failure


def kill(processes):
    """Ends worker processes at once, also one that hangs in a read. torch's handler for the end of a child process is switched off
    meanwhile: it would raise an error."""
    is_main = hasattr(signal, "SIGCHLD") and threading.current_thread() is threading.main_thread()
    handler = is_main and signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for process in processes:
        process.kill()
    for process in processes:
        process.join()
    if handler:
        signal.signal(signal.SIGCHLD, handler)


@contextmanager
def worker_errors():
    """A context that turns torch's errors about a worker process that has died, or has given no batch for PATIENCE, into a
    UserError. torch may raise them at any point of the training process, so the context surrounds all of it."""
    try:
        yield
    except RuntimeError as error:
        if "DataLoader" not in str(error) or "Caught" in str(error):      # Caught: an exception inside of a worker
            raise
        reason = (f"no batch was read within {PATIENCE} s: a disk does not answer, or the batch is too large for so few --workers"
                  if "timed out" in str(error) else
                  f"a process that reads audio has died ({str(error).split('. ')[0]}): if it ran out of memory, lower --workers")
        raise UserError(f"{reason}; the last checkpoint is kept, go on with --resume") from error


def start_worker(_):
    """Runs first in each worker process. The worker ignores Ctrl-C and SIGTERM: the training process handles them, and saves."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(1)
