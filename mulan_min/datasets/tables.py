"""Finds and reads csv files, and cleans the texts in their cells."""
import ast
import csv
import html
import re
import zlib
from fnmatch import fnmatch
from pathlib import Path

from mulan_min.errors import UserError
from mulan_min.mining.text_rules import ADDRESS

NO_NAME = re.compile(r"(unknown|various|untitled|none|no)?\W*(artists?|album|title|genre|(audio ?)?track|misc|other)?\W*\d*", re.I)


def find_texts(args, text_files, pattern):
    """The paths in `text_files` whose file name matches. Raises UserError when there is none."""
    paths = [path for path in text_files if fnmatch(Path(path).name.lower(), pattern)]
    if not paths:
        raise UserError(f"{args.source}: no {pattern} in it or below; tutorials/datasets.md says where to get it")
    return paths


def find_text(args, text_files, pattern):
    """The one path in `text_files` whose file name matches. Raises UserError when there are none or several."""
    paths = find_texts(args, text_files, pattern)
    if len(paths) > 1:
        raise UserError(f"{args.source}: has {len(paths)} files {pattern} ({', '.join(paths[:3])}); keep only one")
    return paths[0]


def read_table(path, delimiter=",", quoted=True):
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
                if any(cells):
                    yield f"{path}, line {reader.line_num}", cells
        except csv.Error as error:
            raise UserError(f"{path}, line {reader.line_num}: {error}; unpack or download the file again") from None


def read_records(path, columns, delimiter=",", quoted=True):
    """Yields (where, {column: cell}) for each line below the header. Missing cells at the end of a line are "".

    Raises UserError when the header lacks one of `columns` or a line has more cells than the header.
    """
    table = read_table(path, delimiter, quoted)
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
    try:
        value = float(cell)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise UserError(f"{where}: {column} '{cell}' is not a time in seconds")
    return value


def read_list(cell, where, column):
    """A cell that holds a Python list such as "['soft', 'piano']", read without running any code. An empty cell gives []."""
    try:
        value = ast.literal_eval(cell) if cell.strip() else []
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        value = None
    if not isinstance(value, list):
        raise UserError(f"{where}: {column} '{cell[:40]}' is not a list like ['one', 'two']")
    return value


def one_line(text):
    """Any value as text on one line, with single spaces."""
    return " ".join(str(text).split())


def html_to_text(page):
    """HTML to one line of text: "<p>Slow&amp;sad<br/>loops</p>" -> "Slow&sad loops"."""
    return one_line(html.unescape(re.sub(r"<[^>]*>", " ", page)))


def clean_text(text):
    """A title or name on one line, without addresses and underscores; "" for a placeholder such as "Unknown Artist"."""
    text = "".join(c if c.isprintable() and c != "_" else " " for c in ADDRESS.sub(" ", text))
    text = one_line(text).strip(" -/:;,<>|")
    return text if any(map(str.isalpha, text)) and not NO_NAME.fullmatch(text) else ""


def distinct(texts):
    """The texts that are not empty, in their order. Of texts that differ only in case, the first one stays."""
    first = {}
    for text in filter(None, texts):
        first.setdefault(text.lower(), text)
    return list(first.values())


def text_by_source(**texts):
    """The `text` of a manifest line: {source: distinct texts}, without the sources that have none."""
    return {source: kept for source, kept in ((source, distinct(t)) for source, t in texts.items()) if kept}


def held_out(key, share):
    """True for about `share` of all keys, by a hash: the same keys on every machine."""
    return zlib.crc32(key.encode("utf-8", "surrogateescape")) < share * 2**32
