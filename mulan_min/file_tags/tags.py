"""The texts in the tags of a music file: ID3, Vorbis comments, RIFF INFO, AIFF. mutagen, none of our packages, does it better."""
import re
from contextlib import suppress
from itertools import islice
from pathlib import Path

GENRES = dict(zip(map(str, range(192)), Path(__file__).with_name("id3_genres.txt").read_text("utf-8").splitlines()))
GENRES |= {"RX": "Remix", "CR": "Cover"}
NAMES = {"title": b"TIT2 TT2 INAM NAME TITLE", "artist": b"TPE1 TP1 IART AUTH ARTIST", "album": b"TALB TAL IPRD ALBUM",
         "genre": b"TCON TCO IGNR GENRE", "comment": b"COMM COM ICMT ANNO COMMENT DESCRIPTION"}
KEYS = {name: key for key, names in NAMES.items() for name in names.split()}
LONGEST, TAG_LIMIT, COUNT = 2**16, 2**24, 1000      # bytes of a text, bytes read at once, records in a row; our choice
# French, German and Estonian, Spanish, Portuguese, Italian, Scandinavian, Icelandic. Czech, Turkish: mostly in no single line.
WESTERN = "àâæçèéêëîïôùûüÿœ äöüßõ áéíñóúü àáâãçéêíóôõúü àèéìíòóùú åäöæøéü áéíóúæö".split()
CYRILLIC, COMMON = set("абвгдеёжзийклмнопрстуфхцчшщъыьэюяіїєґў"), set("оеаинтсрвлкмдпуяіы")
SIGNS = r"[\0-\x7f\xa0‘’“”–—…«»°©®™´№]|(?<!\w)[¡¿]|(?<=\w)[ªº]"
# Bytes, the highest first, of which `bits` bits count -> an unsigned number
number = lambda raw, bits=8: sum((byte & 2**bits - 1) << bits * i for i, byte in enumerate(reversed(raw)))


def code_page(raw):
    """Bytes that are not UTF-8 -> "cp1252", "cp1251", or None in doubt (our choice). Western: the letters beyond ASCII are all in
    one line of WESTERN, and in words with ASCII letters; or alone beside such words, if they are no word of Russian. Cyrillic: no word
    mixes them with ASCII letters, the case is usual, there is a capital, a word of three letters, and six in ten are COMMON."""
    latin, cyrillic = (raw.decode(page, "replace") for page in ("cp1252", "cp1251"))
    words = [word for word in re.findall(r"[^\W\d_]+(?:['’][^\W\d_]+)*", cyrillic) if not word.isascii()]
    mixed, letters = [re.search("[A-Za-z]", word) for word in words], "".join(words)
    western = any({*re.sub(SIGNS, "", latin).lower()} <= {*line} for line in WESTERN)
    if western and all(m or len(word) == 1 for m, word in zip(mixed, words)):
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
    page = code_page(b"\n".join(sorted(odd))[:LONGEST])
    for key, values in found.items():
        pages = [page or code_page(value) or "ascii" if value in odd else "utf-8" for value in values]
        texts = [value if isinstance(value, str) else value.decode(page, "replace") for value, page in zip(values, pages)]
        good = [text.strip() for text in texts if not re.search("[\0-\x08\x0e-\x1f\x7f-\x9f\ufffd]", text)]
        dropped += len(texts) - len(good)
        if key == "genre":      # "(17)" and "17" are Rock; "(4)Eurodisco" is Disco and Eurodisco; "((x)" is "(x)"
            parts = [part.strip() for text in good for part in re.findall(r"\s*\((?:\d+|RX|CR)\)|[^;,/]+", text)]
            good = [GENRES.get(part.strip("()"), "" if part.strip("()").isdecimal() else part.replace("((", "(")) for part in parts]
        found[key] = list(dict.fromkeys(filter(None, good)))
    return found, dropped


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
    elif magic in (b"RIFF", b"RF64", b"RIFX", b"FORM"):
        size_of = lambda header, _: (number(header[4:8] if magic in (b"RIFX", b"FORM") else header[7:3:-1]) + 1) // 2 * 2
        chunks = list(records(read, 12, end + 1, 8, size_of))
        yield from (id3v2(read, first, first + size) for header, first, size in chunks if header[:4].lower() == b"id3 ")
        lists = (records(read, first + 4, first + size, 8, size_of) for header, first, size in chunks if header[:4] == b"LIST")
        texts = ((header[:4], first, size) for part in (chunks, *lists) for header, first, size in part if size <= LONGEST)
        yield ((KEYS[name], read(first, size).split(b"\0")) for name, first, size in texts if name in KEYS and name != b"COMM")
    old = read(max(0, end - 128), 128)
    if old[:3] == b"TAG" and len(old) == 128:
        fields = old[3:33], old[33:63], old[63:93], b"%d" % old[127], old[97:127]      # in the order of NAMES
        yield [(key, text.split(b"\0")[:1]) for key, text in zip(NAMES, fields)]


def vorbis(read, at, end):      # the pairs of a Vorbis comment
    at += 4 + number(read(at, 4)[::-1])
    entries = islice(records(read, at + 4, end, 4, lambda header, _: number(header[::-1])), number(read(at, 4)[::-1]))
    texts = (read(first, min(size, LONGEST)).partition(b"=") for _, first, size in entries)
    return ((KEYS[name.upper()], [text]) for name, _, text in texts if name.upper() in KEYS)


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
        name, bits = header[:3 if version == 2 else 4], number(header[9:])
        if name not in KEYS or size > LONGEST or bits & (12 if version == 4 else 192):      # 12, 192: compressed, encrypted
            continue
        data = read(first, size)[bool(bits & (64 if version == 4 else 32)) + 4 * (version == 4 and bits & 1):]
        data = data.replace(b"\xff\0", b"\xff") if version == 4 and (flags & 128 or bits & 2) else data
        comment, text, mark = name[:3] == b"COM", data[4 if name[:3] == b"COM" else 1:], b"\0"      # a comment has a language first
        if data[:1] in (b"\1", b"\2"):
            big = data[:1] == b"\2" or re.findall(b"\xff\xfe|\xfe\xff", text)[:1] == [b"\xfe\xff"]
            text, mark = text[:len(text) // 2 * 2].decode(f"utf-16-{'lb'[big]}e", "replace").replace("\ufeff", ""), "\0"
        yield KEYS[name], text.split(mark)[comment:]      # and a description
