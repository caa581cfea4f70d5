"""Finds and reads csv files, and cleans the texts in their cells."""
import ast
import csv
import os
import re
from contextlib import suppress
from fnmatch import fnmatch
from itertools import chain
from pathlib import Path
from unicodedata import normalize

from mulan_min.errors import UserError
from mulan_min.mining.text_rules import ADDRESS

# libsndfile cannot read the first line's files; they are tried anyway, so that the report names them
UNREADABLE_SUFFIXES = set(".m4a .m4b .mp4 .aac .wma .webm .mka .ape .wv .mpc".split())
AUDIO_SUFFIXES = UNREADABLE_SUFFIXES | set(".wav .flac .ogg .oga .opus .mp3 .aif .aiff .aifc .au .caf .w64 .rf64".split())
NO_NAME = re.compile(r"(unknown|various|untitled|none|no)?\W*(artists?|album|title|genre|(audio ?)?track|misc|other)?\W*\d*", re.I)
MISSING = {"", "nan", "none", "null", "n/a", "<na>"}      # what programs write for a missing value, in lower case
ITEM = r"""(?:np\.\w+\()?('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|(?i:none|nan|null|true|false)\b|[-+]?\.?\d[\w.+-]*)\)?"""
LIST = re.compile(rf"[\[({{](?:\s*{ITEM}(?:\s*,|(?=[\s\])}}])))*\s*[\])}}]", re.S)


def require(condition, message):
    """Raises UserError with this message unless the condition is true."""
    if not condition:
        raise UserError(message)


def suffix_of(name):
    """The suffix of a file name in lower case."""
    return os.path.splitext(name)[1].lower()


def find_text(args, text_files, pattern, optional=False, several=False):
    """The path in `text_files` whose file name matches; a missing optional file is None. With `several`, a list of paths. Raises
    UserError when there are too few or too many."""
    paths = [path for path in text_files if fnmatch(Path(path).name.lower(), pattern)]
    require(paths or optional, f"{args.source}: no {pattern} in it or below; tutorials/datasets.md says where to get it")
    require(len(paths) < 2 or several, f"{args.source}: has {len(paths)} files {pattern} ({', '.join(paths[:3])}); keep only one")
    return paths if several else paths[0] if paths else None


def read_csv(path, delimiter=",", quoted=True):
    """Yields (where, cells) for each row of a csv file that is not blank, also for the header. `where` names file and line. The
    file is UTF-8, with or without a byte order mark, and may have any line ends, also inside quotes. With quoted=False a quote is
    an ordinary character. Raises UserError for a damaged file, and as `check_quotes` does."""
    csv.field_size_limit(1 << 27)      # biographies are longer than the default limit
    lines, width = [], 0      # the lines of one row; the number of cells of the first row
    with open(path, encoding="utf-8-sig", errors="replace", newline="") as file:
        kept = (lines.append(line) or line for line in chain(file, [""]))      # "" belongs to a row with an open quote
        reader = csv.reader(kept, delimiter=delimiter, skipinitialspace=delimiter == ",",
                            quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE)
        try:
            for cells in reader:
                width = width or len(cells)
                if quoted and (len(lines) > 1 or len(cells) < width):
                    check_quotes(path, reader.line_num, lines, delimiter, width, cells)
                lines.clear()
                if any(map(str.strip, cells)):
                    yield f"{path}, line {reader.line_num}", cells
        except csv.Error as error:
            raise UserError(f"{path}, line {reader.line_num}: {error}; unpack or download the file again") from None


def check_quotes(path, last, lines, delimiter, width, cells):
    """Raises UserError if a quote opens a cell of a row and closes too late. `lines` are the row's; `last` numbers the last one. A
    cell may have many lines. Its quote closes too late at the end of the file, before more text (if there are line ends in it, or
    too few `cells`), or after a line that looks like a row: `width` cells, an audio file where `cells` have one (our choice)."""
    text, space = "".join(lines), " *" if delimiter == "," else ""
    pattern = rf'(?:^|{delimiter}){space}(?:"([^"]*(?:""[^"]*)*)("?) *(?=({delimiter}|[\r\n]|$)?)|[^{delimiter}\r\n]*)'
    for column, cell in enumerate(re.finditer(pattern, text)):
        rows = [line.split(delimiter) for line in re.split(r"\r\n?|\n", cell[1] or "")[1:]]
        swallowed = any(len(row) == (column + 1 if row is rows[-1] else width) and
                        any({suffix_of(a), suffix_of(b)} <= AUDIO_SUFFIXES for a, b in zip(row, cells)) for row in rows)
        first = last - len(lines) + 1 + len(re.findall(r"\r\n?|\n", text[:cell.start()]))
        require(cell[1] is None or cell[2] and not swallowed and (cell[3] is not None or not rows and len(cells) >= width),
                f"{path}, line {first}: a quote opens here and is not closed in its own row; close it, double it or delete it")


def read_records(path, columns, delimiter=",", quoted=True):
    """Yields (where, {column: cell}) for each line below the header. Missing cells at the end of a line are "". Raises UserError
    when the header lacks one of `columns` or a line has more cells than the header."""
    table = read_csv(path, delimiter, quoted)
    header = [cell.strip() for cell in next(table, ("", []))[1]]
    missing = ", ".join(repr(column) for column in columns if column not in header)
    require(not missing, f"{path}: no column {missing}; there are: {', '.join(header[:20]) or 'none'}")
    for where, cells in table:
        require(len(cells) <= len(header), f"{where}: {len(cells)} cells under {len(header)} columns; is a quote missing?")
        yield where, dict(zip(header, cells + [""] * (len(header) - len(cells))))


def read_seconds(cell, where, column):
    """A cell as a number of seconds. Raises UserError unless it is finite and at least 0."""
    with suppress(ValueError):
        if 0 <= float(cell) < float("inf"):
            return float(cell)
    raise UserError(f"{where}: {column} '{cell}' is not a time in seconds")


def read_list(cell, where, column, needed=True):
    """A cell that holds a list as Python, numpy or JSON print it -> its items as texts, without missing values. "['soft' 'piano']",
    '["soft", "piano"]' and "('soft', 'piano')" are the same. Items may be numbers, but not lists. An empty cell, also one of
    MISSING, gives []. For another cell raises UserError, or returns None if no list is `needed`."""
    body = "[]" if cell.strip().lower() in MISSING else cell.strip()
    if LIST.fullmatch(body) and (body[0] == "[" or not {"'", '"'}.isdisjoint(body)):
        items = [match[1] for match in re.finditer(ITEM, body, re.S) if match[1].lower() not in MISSING]
        with suppress(ValueError, SyntaxError):      # JSON may write / as \/, and an emoji as two surrogates
            return [ast.literal_eval(item.replace(r"\/", "/")).encode("utf-16", "surrogatepass").decode("utf-16", "replace")
                    if item[0] in "'\"" else item for item in items]
    require(not needed, f"{where}: {column} '{' '.join(cell.split())[:40]}' is not a list like ['one', 'two']")


def clean_text(text):
    """A title or name on one line, without addresses and underscores; "" for a placeholder such as "Unknown Artist"."""
    text = "".join(c if c.isprintable() and c != "_" else " " for c in ADDRESS.sub(" ", normalize("NFC", text)))
    text = " ".join(text.split()).strip(" -/:;,<>|")
    return text if any(map(str.isalpha, text)) and not NO_NAME.fullmatch(text) else ""


def distinct(texts):
    """The texts in their order, each on one line, without empty or undecodable ones (U+FFFD), and ones that differ only in case."""
    first = {}
    for text in (" ".join(normalize("NFC", text).split()) for text in texts if text.strip() and "\ufffd" not in text):
        first.setdefault(text.lower(), text)
    return list(first.values())


def by_source(**texts):
    """The `text` of a manifest line: {source: distinct texts}, without the sources that have none."""
    return {source: kept for source, t in texts.items() if (kept := distinct(t))}
