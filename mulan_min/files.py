"""Files and folders that are either complete or do not exist; text, JSON and JSON lines."""
import json
import os
import shutil
from contextlib import contextmanager, suppress
from pathlib import Path

from mulan_min.errors import UserError


def write_atomically(path, write):
    """Calls write(temporary path), then renames that file to `path`: a reader sees either the old file or the new one. Raises
    UserError if the file cannot be written; the old file is then unchanged."""
    path = Path(path)
    temporary = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error}); what was there before is kept") from error
    finally:
        with suppress(OSError):
            temporary.unlink()      # it still exists only after a failure


def write_text(path, text):
    """Writes a text file atomically, in UTF-8. Lone surrogates, which Python uses in file names that are not UTF-8, are escaped as
    in JSON. Raises UserError as `write_atomically` does."""
    write_atomically(path, lambda new: new.write_text(text, encoding="utf-8", errors="backslashreplace"))


def write_json(path, value):
    """Writes one JSON value atomically. Raises UserError as `write_atomically` does."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=1, allow_nan=False) + "\n")


def write_jsonl(path, rows):
    """Writes one JSON value per line, atomically. Raises UserError as `write_atomically` does."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def parse_json(content, where):
    """JSON as text or as UTF-8 bytes -> its value. Raises UserError, which begins with `where`."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:      # ValueError: also for bytes that are not UTF-8
        raise UserError(f"{where}: not JSON ({error})") from None


def read_jsonl(path):
    """Yields (line number, row) for every line of a UTF-8 file that is not blank; a row is a JSON object. Raises UserError that
    names the line."""
    with open(path, "rb") as lines:      # in binary mode, lines end only at line feeds; JSON texts may contain other line ends
        for number, line in enumerate(lines, 1):
            if line.strip():
                row = parse_json(line, f"{path}, line {number}")
                if not isinstance(row, dict):
                    raise UserError(f"{path}, line {number}: must be a JSON object")
                yield number, row


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
