"""Folders that are either complete or do not exist."""
import os
import shutil
from contextlib import contextmanager
from pathlib import Path

from mulan_min.errors import UserError


@contextmanager
def new_folder(folder, locked=False):
    """`with new_folder(out) as making` gives a temporary folder beside `out`. One rename at the end turns it into `out`.

    After an interruption or an error nothing is left behind. `out` may exist before as an empty folder. `locked` means that the
    caller holds a lock, so no other process is making `out`: temporary folders that killed processes have left are deleted first.
    Raises UserError for an error of the file system.
    """
    folder = Path(folder)
    prefix = f".{folder.name}.making-"
    making = folder.with_name(f"{prefix}{os.getpid()}")
    try:
        for leftover in [path for path in folder.parent.iterdir() if path.name.startswith(prefix)] if locked else []:
            shutil.rmtree(leftover, ignore_errors=True)
        making.mkdir(parents=True)
        yield making
        if folder.is_dir():
            folder.rmdir()      # it is empty; Windows cannot rename onto an existing folder
        making.rename(folder)
    except OSError as error:
        raise UserError(f"{folder}: cannot be made ({error}); nothing is left of it") from error
    finally:
        shutil.rmtree(making, ignore_errors=True)
