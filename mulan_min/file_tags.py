"""The texts in the tags of a music file: ID3, Vorbis comments, RIFF INFO, AIFF. mutagen, not one of our packages, does it better."""
import re
from contextlib import suppress
from itertools import islice
from pathlib import Path

GENRES = {str(n): name for n, name in enumerate(Path(__file__).with_name("id3_genres.txt").read_text("utf-8").splitlines())}
NAMES = {"title": b"TIT2 TT2 INAM NAME TITLE", "artist": b"TPE1 TP1 IART AUTH ARTIST", "album": b"TALB TAL IPRD ALBUM",
         "genre": b"TCON TCO IGNR GENRE", "comment": b"COMM COM ICMT ANNO COMMENT DESCRIPTION"}
KEYS = {name: key for key, names in NAMES.items() for name in names.split()}
LONGEST, TAG_LIMIT, COUNT = 2**16, 2**24, 1000      # bytes of a text, bytes read at once, records in a row; our choice
# French, German and Estonian, Spanish, Portuguese, Italian, Scandinavian, Icelandic. Czech, Turkish: mostly in no single line.
WESTERN = "àâæçèéêëîïôùûüÿœ äöüßõ áéíñóúü àáâãçéêíóôõúü àèéìíòóùú åäöæøéü áéíóúæö".split()
CYRILLIC, COMMON = set("абвгдеёжзийклмнопрстуфхцчшщъыьэюяіїєґў"), set("оеаинтсрвлкмдпуяіы")
SIGNS = r"[\0-\x7f\xa0‘’“”–—…«»°©®™´№]|(?<!\w)[¡¿]|(?<=\w)[ªº]"


def code_page(raw):
    """Bytes that are not UTF-8 -> "cp1252", "cp1251", or None in doubt (our choice). Western: the letters beyond ASCII are all in one
    line of WESTERN, and in words with ASCII letters; or alone beside such words, if they are no word of Russian. Cyrillic: no word
    mixes them with ASCII letters, the case is usual, there is a capital, a word of three letters, and six in ten are COMMON."""
    latin, cyrillic = (raw.decode(page, "replace") for page in ("cp1252", "cp1251"))
    words = [word for word in re.findall(r"[^\W\d_]+(?:['’][^\W\d_]+)*", cyrillic) if not word.isascii()]
    mixed, letters = [re.search("[A-Za-z]", word) for word in words], "".join(words)
    if any({*re.sub(SIGNS, "", latin).lower()} <= {*line} for line in WESTERN) and all(m or len(w) == 1 for m, w in zip(mixed, words)):
        alone = not words or re.search(r"(?i)(?<!\w)[àéåöøäæü](?!\w)", latin)
        return "cp1252" if any(mixed) or alone and re.search("[A-Za-z]", latin) else None
    usual = all(word[1:].islower() or word.isupper() or len(word) == 1 for word in words) and not letters.islower()
    known = not any(mixed) and {*re.sub(SIGNS, "", cyrillic).lower()} <= CYRILLIC and max(map(len, words), default=0) > 2
    return "cp1251" if usual and known and sum(letter in COMMON for letter in letters.lower()) > 0.6 * len(letters) else None


def read_tags(path):
    """A music file -> ({"title": [text, ...], "artist", "album", "genre", "comment"}, number of texts dropped). Genres are split at
    ; , / and ID3's numbers become names. Damage raises nothing. A file that cannot be opened, or of another format, has no tags.

    A text is dropped if it has control characters or U+FFFD, or is neither UTF-8 nor of a certain code page: that of all such texts
    of the file together, or else its own."""
    found, dropped = {key: [] for key in NAMES}, 0      # of bytes, or of text where the tag is certain of its encoding
    with suppress(OSError), open(path, "rb") as file:
        for tag in all_tags(file):      # the first that has a key gives it
            pairs = [(key, value) for key, values in islice(tag, COUNT) for value in values if value.strip()]
            found = {name: texts or [value for key, value in pairs if key == name] for name, texts in found.items()}
    odd = {v for texts in found.values() for v in texts if isinstance(v, bytes) and v.decode("utf-8", "ignore").encode() != v}
    page = code_page(b"\n".join(sorted(odd)))
    for key in NAMES:
        pages = [page or code_page(value) or "ascii" if value in odd else "utf-8" for value in found[key]]
        texts = [v if isinstance(v, str) else v.decode(page, "replace") for v, page in zip(found[key], pages)]
        good = [text.strip() for text in texts if not re.search("[\0-\x08\x0e-\x1f\x7f-\x9f\ufffd]", text)]
        dropped += len(texts) - len(good)
        good = [name for text in good for part in re.split("[;,/]", text) for name in genres(part)] if key == "genre" else good
        found[key] = list(dict.fromkeys(good))
    return found, dropped


def genres(text):
    """"17" and "(17)" -> ["Rock"]; "(4)Eurodisco" -> ["Disco", "Eurodisco"]. A number without a name gives nothing."""
    codes, rest = re.match(r"\s*((?:\((?:\d+|RX|CR)\))*)(.*)", text.replace("((", "("), re.S).groups()
    names = GENRES | {"RX": "Remix", "CR": "Cover"}
    return [names.get(code, code) for code in (*re.findall(r"\w+", codes), rest.strip()) if code in names or code.strip("0123456789")]


def number(raw, bits=8):      # of each byte; the highest byte first
    return sum((byte & 2**bits - 1) << bits * i for i, byte in enumerate(reversed(raw)))


def records(read, at, end, head, size_of):
    """Yields (header, first byte, size) of records in a row: `head` bytes, and size_of(header, first byte) more."""
    for _ in range(COUNT):
        header, at = read(at, head), at + head
        if at > end or at + (size := size_of(header, at)) > end:
            return
        yield header, at, size
        at += size


def all_tags(file):
    """Yields the tags of an open file, ID3v1 last, each as pairs (key, [bytes or text, ...])."""
    def read(at, size):
        file.seek(at)
        return file.read(max(0, min(size, TAG_LIMIT)))

    end, at = file.seek(0, 2), 0
    if read(0, 3) == b"ID3":
        yield id3v2(read, 0, end)
        at = 10 + number(read(6, 4), 7) + (10 if number(read(5, 1)) & 16 else 0)
    magic = read(at, 4)
    if magic == b"fLaC":
        blocks = records(read, at + 4, end, 4, lambda header, _: number(header[1:]))
        yield next((vorbis(read, first, first + size) for header, first, size in blocks if header[0] % 128 == 4), ())
    elif magic == b"OggS":      # the comments are the packet after the first page
        packet = b""
        pages = records(read, at, end, 27, lambda header, first: header[26] + sum(read(first, header[26])))
        for header, first, size in islice(pages, 1, None):
            packet += read(first + header[26], size - header[26])
            if header[:4] != b"OggS" or min(read(first, header[26]), default=0) < 255 or len(packet) > TAG_LIMIT:
                break
        start = len(re.match(rb"(?s)\x03vorbis|OpusTags|.{0,4}", packet)[0])
        yield vorbis(lambda first, size: packet[first:first + size], start, len(packet))
    elif magic in (b"RIFF", b"RIFX", b"FORM"):
        part = slice(7, 3, -1) if magic == b"RIFF" else slice(4, 8)
        walk = lambda at, end: list(records(read, at, end + 1, 8, lambda header, _: (number(header[part]) + 1) // 2 * 2))
        chunks = walk(12, end)
        yield from (id3v2(read, first, first + size) for header, first, size in chunks if header[:4].lower() == b"id3 ")
        chunks += [inner for header, first, size in chunks if header[:4] == b"LIST" for inner in walk(first + 4, first + size)]
        yield ((KEYS[h[:4]], read(first, size).split(b"\0")) for h, first, size in chunks if h[:4] in KEYS.keys() - {b"COMM"} and size <= LONGEST)
    old = read(max(0, end - 128), 128)
    if old[:3] == b"TAG" and len(old) == 128:
        fields = ("title", old[3:33]), ("artist", old[33:63]), ("album", old[63:93]), ("comment", old[97:127])
        yield [(key, text.split(b"\0")[:1]) for key, text in fields] + [("genre", [b"%d" % old[127]])]


def vorbis(read, at, end):      # yields the pairs of a Vorbis comment
    at += 4 + number(read(at, 4)[::-1])
    entries = records(read, at + 4, end, 4, lambda header, _: number(header[::-1]))
    for _, first, size in islice(entries, number(read(at, 4)[::-1])):
        name, _, value = read(first, min(size, LONGEST)).partition(b"=")
        if name.upper() in KEYS:
            yield KEYS[name.upper()], [value]


def id3v2(read, at, end):      # yields the pairs of an ID3v2.2, 2.3 or 2.4 tag
    head = read(at, 10).ljust(10, b"\0")
    version, flags, at, end = head[3], head[5], at + 10, min(end, at + 10 + number(head[6:], 7))
    if flags & 128 and version < 4:      # a zero byte was put after each FF
        plain = read(at, end - at).replace(b"\xff\0", b"\xff")
        read, at, end = lambda first, size: plain[first:first + size], 0, len(plain)
    if flags & 64:      # an extended header
        at += number(read(at, 4), 7) if version == 4 else 4 + number(read(at, 4))

    def size_of(header, first):      # some programs write the sizes of 2.3 into 2.4
        size = number(header[3:6] if version == 2 else header[4:8], 7 if version == 4 else 8)
        wrong = version == 4 and first + size != end and not re.match(rb"[A-Z0-9]{4}|\0", read(first + size, 4))
        return number(header[4:8]) if wrong else size

    for header, first, size in records(read, at, end, 6 if version == 2 else 10, size_of):
        name, bits = header[:3 if version == 2 else 4], 0 if version == 2 else header[9]
        if name in KEYS and size <= LONGEST and not bits & (12 if version == 4 else 192):      # compressed, encrypted
            data = read(first, size)[bool(bits & (64 if version == 4 else 32)) + 4 * (version == 4 and bits & 1):]
            data = data.replace(b"\xff\0", b"\xff") if version == 4 and (flags & 128 or bits & 2) else data
            text, comment = data[1:], name[:3] == b"COM"
            text = text[3 * comment:]      # a comment begins with a language and a description
            if data[:1] in (b"\1", b"\2"):
                big = data[:1] == b"\2" or re.findall(b"\xff\xfe|\xfe\xff", text)[:1] == [b"\xfe\xff"]
                text = text[:len(text) // 2 * 2].decode("utf-16-be" if big else "utf-16-le", "replace").replace("\ufeff", "")
            yield KEYS[name], text.split("\0" if isinstance(text, str) else b"\0")[comment:]
