"""Finds and reads csv files, and cleans the texts in their cells."""
import ast
import csv
import re
from contextlib import suppress
from fnmatch import fnmatch
from pathlib import Path

from mulan_min.errors import UserError
from mulan_min.mining.text_rules import ADDRESS

NO_NAME = re.compile(r"(unknown|various|untitled|none|no)?\W*(artists?|album|title|genre|(audio ?)?track|misc|other)?\W*\d*", re.I)


def find_texts(args, text_files, pattern, optional=False):
    """The paths in `text_files` whose file name matches. Raises UserError when there is none, unless it is optional."""
    paths = [path for path in text_files if fnmatch(Path(path).name.lower(), pattern)]
    if not paths and not optional:
        raise UserError(f"{args.source}: no {pattern} in it or below; tutorials/datasets.md says where to get it")
    return paths


def find_text(args, text_files, pattern, optional=False):
    """The one path in `text_files` whose file name matches. Raises UserError when there are several, or none; a missing
    optional file is None."""
    paths = find_texts(args, text_files, pattern, optional)
    if len(paths) > 1:
        raise UserError(f"{args.source}: has {len(paths)} files {pattern} ({', '.join(paths[:3])}); keep only one")
    return paths[0] if paths else None


def read_csv(path, delimiter=",", quoted=True):
    """Yields (where, cells) for each line of a csv file that is not blank, also for the header. `where` names file and line.

    The file is UTF-8, with or without a byte order mark, and may have any line ends, also inside quotes. With quoted=False
    a quote is an ordinary character. Raises UserError for a damaged file.
    """
    csv.field_size_limit(1 << 27)      # biographies are longer than the default limit
    with open(path, encoding="utf-8-sig", errors="replace", newline="") as file:
        reader = csv.reader(file, delimiter=delimiter, skipinitialspace=delimiter == ",",
                            quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE)
        try:
            for cells in reader:
                if any(map(str.strip, cells)):
                    yield f"{path}, line {reader.line_num}", cells
        except csv.Error as error:
            raise UserError(f"{path}, line {reader.line_num}: {error}; unpack or download the file again") from None


def read_records(path, columns, delimiter=",", quoted=True):
    """Yields (where, {column: cell}) for each line below the header. Missing cells at the end of a line are "".

    Raises UserError when the header lacks one of `columns` or a line has more cells than the header.
    """
    table = read_csv(path, delimiter, quoted)
    header = [cell.strip() for cell in next(table, ("", []))[1]]
    missing = [column for column in columns if column not in header]
    if missing:
        shown = ", ".join(header[:20]) + (", ..." if len(header) > 20 else "")
        raise UserError(f"{path}: no column {', '.join(map(repr, missing))}; there are: {shown or 'none'}")
    for where, cells in table:
        if len(cells) > len(header):
            raise UserError(f"{where}: {len(cells)} cells under {len(header)} columns; is a quote missing?")
        yield where, dict(zip(header, cells + [""] * (len(header) - len(cells))))


def read_seconds(cell, where, column):
    """A cell as a number of seconds. Raises UserError unless it is finite and at least 0."""
    with suppress(ValueError):
        if 0 <= float(cell) < float("inf"):
            return float(cell)
    raise UserError(f"{where}: {column} '{cell}' is not a time in seconds")


def read_list(cell, where, column):
    """A cell that holds a Python list such as "['soft', 'piano']", read without running any code. An empty cell gives [].
    Raises UserError for anything else."""
    with suppress(ValueError, SyntaxError, RecursionError, MemoryError):
        value = ast.literal_eval(cell) if cell.strip() else []
        if isinstance(value, list):
            return value
    raise UserError(f"{where}: {column} '{cell[:40]}' is not a list like ['one', 'two']")


def clean_text(text):
    """A title or name on one line, without addresses and underscores; "" for a placeholder such as "Unknown Artist"."""
    text = "".join(c if c.isprintable() and c != "_" else " " for c in ADDRESS.sub(" ", text))
    text = " ".join(text.split()).strip(" -/:;,<>|")
    return text if any(map(str.isalpha, text)) and not NO_NAME.fullmatch(text) else ""


def distinct(texts):
    """The texts in their order, each on one line with single spaces. Empty texts are left out. If texts differ only in case,
    the first one stays."""
    first = {}
    for text in filter(None, (" ".join(str(text).split()) for text in texts)):
        first.setdefault(text.lower(), text)
    return list(first.values())


def by_source(**texts):
    """The `text` of a manifest line: {source: distinct texts}, without the sources that have none."""
    return {source: kept for source, t in texts.items() if (kept := distinct(t))}
