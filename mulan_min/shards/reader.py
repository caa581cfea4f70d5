"""Reads samples from a tar shard. It does not trust the file, writes nothing to disk, and reports everything that it skips.

A shard, a tar or a tar in gzip, is read from front to back, with one sample in memory at a time. Consecutive members with names
that are equal up to the first dot form a sample, as in webdataset: key.flac (or .ogg, ...) and key.json {"id", "text", "start",
"duration"}. Other programs write captions: "text", "caption" or "captions" in the .json is a text or a list, or key.txt is one.
"""
import gzip
import json
import os
import re
import tarfile
import zlib
from collections import namedtuple
from contextlib import suppress
from pathlib import Path

from mulan_min import audio
from mulan_min.data import make_recording
from mulan_min.errors import UserError
from mulan_min.files import parse_json

AUDIO = "flac wav ogg oga opus mp3 aif aiff aifc au caf w64 rf64 audio".split()      # `audio` stands for other formats
SAMPLE_LIMIT, JSON_LIMIT, HEADER_LIMIT = 2**29, 2**20, 2**16      # bytes of a sample, its JSON, a long name; our choice
HELD_LIMIT = 2**30      # bytes of the recordings that `first_recordings` returns; our choice
UNPACKED, ROOM = 100, 2**24      # a gzip file may unpack to so many times its size, and so many bytes more; our choice
CAPTIONS = "lf"      # the source of captions, which are long-form text; our choice

# position: (index of the shard in its list, number of the sample in the shard); recording: a Recording whose audio is a SoundBytes
# with the name shard/key
Sample = namedtuple("Sample", "position recording")
ignore = lambda name, reason: None      # an `on_skip` that does nothing


def find_shards(paths, split="train"):
    """paths: folders with SPLIT-000000.tar (or .tar.gz, .tgz), ... or with shards in a folder SPLIT; or single shards, which belong
    to split train -> [Path of a shard]. Raises UserError if there is none."""
    shards = []
    for path in map(Path, [paths] if isinstance(paths, (str, Path)) else paths):
        found = (file for place in ("-", "/") for tar in ("tar", "tar.gz", "tgz") for file in path.glob(f"{split}{place}*.{tar}"))
        new = sorted(found) or [path][:split == "train"]
        if not new or not all(shard.is_file() for shard in new):
            raise UserError(f"{path}: no shard, nor a folder with {split}-000000.tar, ...; mulan_min.shards pack makes one; "
                            f"rename shards of others to {split}-*.tar (.tar.gz, .tgz), or move some to {path / split}")
        shards += new
    return shards


def count_samples(paths):
    """The number of samples in all shards, from the index.json beside them; None if an index.json does not give it."""
    samples = {}
    for folder in {path.parent for path in paths}:
        with suppress(OSError, ValueError, LookupError, TypeError):      # webdataset writes none, other tools a different one
            rows = json.loads((folder / "index.json").read_text(encoding="utf-8"))["shards"]
            samples |= {folder / row["name"]: int(row["samples"]) for row in rows}
    return sum(samples[path] for path in paths) if samples.keys() >= set(paths) else None


def printable(name):
    """A name from a shard in the form for messages: one line, unprintable characters escaped, at most 200 characters of it."""
    return repr(name[:200])[1:-1]


def members(file, on_skip):
    """Yields (name, size) of each regular member of an open tar. The file is then at the member's first byte; the caller need not
    read it. on_skip(name, reason) reports links, devices and members with a path to the outside, which are skipped, and an
    invalid header, which ends the shard. Python's tarfile would end silently at a damaged header, so this function parses it."""
    length, offset, path = os.fstat(file.fileno()).st_size, 0, None
    length = UNPACKED * length + ROOM if isinstance(file, gzip.GzipFile) else length      # gzip does not say its true length
    while True:
        file.seek(offset)      # forwards only
        block = file.read(512)
        if block == bytes(512):
            return
        try:
            header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")      # verifies its checksum
        except tarfile.TarError as error:
            problem = f"no tar header ({error})" if block else "cut off, the end of the tar is missing"
            return on_skip("", f"{problem} at byte {offset} of {length}; the rest is left out")
        bare = header.islnk() or header.issym() or header.isdir() or header.isdev()      # no content follows, whatever it says
        name, size, offset = path or header.name, 0 if bare else header.size, offset + 512
        if not 0 <= size <= length - offset:
            return on_skip(name, f"claims {size} bytes at byte {offset} of {length}; the rest is left out")
        offset += -(-size // 512) * 512
        if header.type in (tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME):      # the next member's name, too long for its own header
            if size > HEADER_LIMIT:
                on_skip(name, f"a header of {size} bytes, more than {HEADER_LIMIT}; skipped")
                continue
            body = file.read(size)
            # PAX has lines such as b"26 path=some long name.flac\n"; its other fields (sizes from 8 GB on) are not needed here.
            match = re.search(rb"^\d+ path=(.*)", body, re.M) if header.type == tarfile.XHDTYPE else re.match(rb"([^\0]*)", body)
            path = match[1].decode("utf-8", "surrogateescape") if match else path
        elif header.type not in (tarfile.XGLTYPE, tarfile.GNUTYPE_LONGLINK):
            path = None
            if name.startswith(("/", "\\")) or "\0" in name or ".." in re.split(r"[/\\]", name):
                on_skip(name, "its path leads outside; skipped")
            elif header.type in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE):
                yield name, size
            elif not header.isdir():
                on_skip(name, "a link, a device or another member that is no regular file; skipped")


def read_shard(path, skip=0, on_skip=ignore, wanted=None, with_audio=True):
    """Yields (key, {suffix: bytes}) of each sample in order, without the first `skip` samples. If `wanted`, a set of numbers, is
    given, it yields only the samples with these numbers. with_audio=False gives b"" for audio.

    Invalid content raises no error: a damaged shard ends early, and on_skip(name, reason) reports everything that is left out
    after the first `skip` samples. Memory: one sample of at most SAMPLE_LIMIT bytes.
    """
    shard, number, key, parts, held = Path(path).name, 0, None, {}, 0
    chosen = range(skip, 2**63) if wanted is None else wanted

    def report(member, reason):
        if wanted is None and number >= skip:
            name = f"{shard}/{printable(member)}" if member else shard
            on_skip(name, f"{name}: {reason}")

    try:
        with open(path, "rb") as raw:
            file = gzip.GzipFile(fileobj=raw) if raw.peek(2)[:2] == b"\x1f\x8b" else raw
            for name, size in members(file, report):
                folder, slash, base = name.rpartition("/")
                stem, dot, ext = base.partition(".")
                if not stem or not dot or re.match(r"__[^/]*__($|/)", name):      # not part of a sample, or metadata of the shard
                    continue
                if key not in (None, folder + slash + stem):
                    if number in chosen:
                        yield key, parts
                    number, parts, held = number + 1, {}, 0
                key, ext, held = folder + slash + stem, ext.lower(), held + 512 + size
                if ext in parts or held > SAMPLE_LIMIT:
                    reason = "the second of its name" if ext in parts else f"a sample of more than {SAMPLE_LIMIT} bytes"
                    report(name, f"{reason}; skipped")
                    held -= size
                else:
                    due = size if number in chosen and (with_audio or ext not in AUDIO) else 0
                    content = file.read(due)
                    if len(content) < due:      # in gzip; else `members` has compared the size with the file's
                        raise EOFError(f"{printable(name)} is cut off")
                    parts[ext] = content
    except (OSError, EOFError, zlib.error) as error:
        report("", f"{getattr(error, 'strerror', None) or error}; the rest is left out")
    if key is not None and number in chosen:
        yield key, parts


def read_samples(path, shard, sources, skip=0, on_skip=ignore, wanted=None, split="train", with_audio=True):
    """Yields (number, Sample), or (number, None) for a sample that has no text of `sources` or cannot be used. shard: the shard's
    index for Sample.position; the other arguments as in read_shard."""
    numbers = range(skip, 2**63) if wanted is None else sorted(wanted)
    for number, (key, parts) in zip(numbers, read_shard(path, skip, on_skip, wanted, with_audio)):
        name = f"{Path(path).name}/{printable(key)}"
        try:
            recording = parse_sample(name, parts, sources, split)
        except UserError as error:
            on_skip(name, str(error))
            recording = None
        yield number, recording and Sample((shard, number), recording)


def parse_sample(name, parts, sources, split):
    """{suffix: bytes} -> Recording with its text of `sources`, or None if it has no such text. Captions are text of source CAPTIONS,
    and of their .json only "id" is used besides. Raises UserError for a sample that cannot be used."""
    content = next((content for ext, content in parts.items() if ext in AUDIO), None)
    sizes = [len(parts[ext]) for ext in ("json", "txt") if ext in parts]
    if content is None or not sizes or max(sizes) >= JSON_LIMIT:
        raise UserError(f"{name}: needs audio and a .json or .txt below {JSON_LIMIT} bytes, has {printable(', '.join(parts))}")
    row = parse_json(parts.get("json", b"{}"), f"{name}: its .json")
    row = row if isinstance(row, dict) else {}
    if not isinstance(row.get("text"), dict):
        found = row.get("text") or row.get("caption") or row.get("captions") or parts.get("txt", b"").decode("utf-8-sig", "replace")
        found = found if isinstance(found, list) else [found]
        texts = [text for text in found if isinstance(text, str) and text.strip() and "\ufffd" not in text]
        row = {"id": row.get("id"), "text": {CAPTIONS: texts}}
        if not texts:
            raise UserError(f'{name}: its .json must be an object with "text": {{"sf": ["..."]}} or ["..."], or its .txt UTF-8')
        if CAPTIONS not in sources:
            raise UserError(f"{name}: captions are text of source '{CAPTIONS}'; give it a share with --ratio {CAPTIONS}=1")
    ident = row["id"] if isinstance(row.get("id"), str) and row["id"] else name
    row["text"] = {source: row["text"][source] for source in sources if row["text"].get(source)}
    recording = make_recording(row, ident, audio.SoundBytes(content, name), split, name)
    return recording if recording.text else None


def first_recordings(paths, split, sources, count, with_audio):
    """The first recordings in shards that have text of `sources`: at most `count` recordings, and about HELD_LIMIT bytes in all.
    with_audio=False leaves out their audio. Raises UserError if there is none, or in split valid only one."""
    recordings, held, why = [], 0, {}
    skips = 0, lambda _, reason: why.setdefault("first", reason), None
    samples = (pair[1] for n, path in enumerate(paths) for pair in read_samples(path, n, sources, *skips, split, with_audio))
    for sample in filter(None, samples):
        recordings.append(sample.recording)
        held += len(sample.recording.audio.content)
        if len(recordings) == count or held > HELD_LIMIT:
            return recordings
    if len(recordings) < 1 + (split == "valid"):
        reason = why.get("first", f"none; the shards have no more, or no text of {', '.join(sources)}: see --ratio")
        raise UserError(f"{paths[0].parent}: {len(recordings)} usable recordings of split '{split}'; the first left out: {reason}")
    return recordings
