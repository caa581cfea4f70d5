"""A tar shard to samples: nothing that it says is trusted, nothing of it is written to disk, and what cannot be used is named.

A shard is read from front to back, one sample in memory at a time. Members next to each other that share their name up to its
first dot are a sample, as in the webdataset library: key.flac (or .ogg, ...) and key.json {"id", "text", "start", "duration"}.
"""
import itertools
import json
import os
import re
import tarfile
from collections import namedtuple
from pathlib import Path

from mulan_min import audio
from mulan_min.data import make_recording
from mulan_min.errors import UserError

AUDIO = "flac wav ogg oga opus mp3 aif aiff aifc au caf w64 rf64 audio".split()      # `audio`: any other suffix
SAMPLE_LIMIT, JSON_LIMIT, HEADER_LIMIT = 2**29, 2**20, 2**16      # bytes of a sample, its JSON, a long name; our choice
HELD_LIMIT = 2**30      # bytes of the recordings that are kept in memory for good; our choice

# place: (of the shard in its list, of the sample in the shard); recording: its audio is SoundBytes, named shard/key
Sample = namedtuple("Sample", "place recording")


def silent(name, why):
    """A `note` that tells nobody."""


def find_shards(places, split="train"):
    """Folders with SPLIT-000000.tar, ..., and paths of single shards, which are all of split train -> [Path]. Raises UserError
    where there is none."""
    paths = []
    for place in map(Path, [places] if isinstance(places, (str, Path)) else places):
        found = sorted(place.glob(f"{split}-*.tar")) if place.is_dir() else [place][:split == "train"]
        if not found or not all(path.is_file() for path in found):
            raise UserError(f"{place}: no shard, nor a folder with {split}-000000.tar, ...; mulan_min.shards.stream pack makes one")
        paths += found
    return paths


def count_samples(paths):
    """Samples in all the shards as the index.json beside them tell, or None where one does not."""
    told = {}
    for folder in {path.parent for path in paths}:
        try:
            rows = json.loads((folder / "index.json").read_text(encoding="utf-8"))["shards"]
            told |= {folder / row["name"]: int(row["samples"]) for row in rows}
        except (OSError, ValueError, LookupError, TypeError):      # webdataset writes none, or another
            continue
    return sum(told[path] for path in paths) if told.keys() >= set(paths) else None


def shown(name):
    """A name out of a shard as messages show it: on one line, without signs that cannot be printed, not endless."""
    return repr(name[:200])[1:-1]


def members(file, tell):
    """Yields (name, size) of the regular members of an open tar, the file standing at the first of their bytes, which need not be
    read. What is odd goes to tell(name, why): members with a path outside, links and devices are passed over; a header that
    cannot be believed ends the shard."""
    length, offset, path = os.fstat(file.fileno()).st_size, 0, None
    while True:
        file.seek(offset)      # forward, or no step at all
        block = file.read(512)
        if block == bytes(512):
            return
        try:
            header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")      # checks its sum
        except tarfile.TarError as error:
            what = f"no tar header ({error})" if block else "cut off, for the end of a tar is missing"
            return tell("", f"{what} at byte {offset} of {length}; the rest is left out")
        name, size, offset = path or header.name, header.size, offset + 512
        if header.islnk() or header.issym() or header.isdir() or header.isdev():
            size = 0      # whatever they say, nothing follows them
        if not 0 <= size <= length - offset:
            return tell(name, f"claims {size} bytes at byte {offset} of {length}; the rest is left out")
        offset += -(-size // 512) * 512
        if header.type in (tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME):      # a name too long for the next member's header
            if size > HEADER_LIMIT:
                tell(name, f"a header of {size} bytes, more than {HEADER_LIMIT}; passed over")
                continue
            body = file.read(size)
            # PAX has lines such as b"26 path=some long name.flac\n"; its other fields, sizes from 8 GB on, are of no use here.
            found = re.search(rb"^\d+ path=(.*)", body, re.M) if header.type == tarfile.XHDTYPE else re.match(rb"([^\0]*)", body)
            path = found[1].decode("utf-8", "surrogateescape") if found else path
        elif header.type not in (tarfile.XGLTYPE, tarfile.GNUTYPE_LONGLINK):
            path = None
            if name.startswith(("/", "\\")) or "\0" in name or ".." in re.split(r"[/\\]", name):
                tell(name, "its path leads outside; passed over")
            elif header.type in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE):
                yield name, size
            elif not header.isdir():
                tell(name, "a link, a device or another member that is no plain file; passed over")


def read_shard(path, skip=0, note=silent, wanted=None, hear=True):
    """Yields (key, {suffix: bytes}) of each sample in order. `skip` samples are passed over unread, or all but those whose
    numbers are in the set `wanted`. Where they are not to be heard, sound is passed over as b"".

    Raises nothing for what is in the file: a damaged shard ends early, and note(name, why) gets a line for whatever is left out
    behind what is skipped. Memory: one sample of at most SAMPLE_LIMIT bytes."""
    shard, number, key, parts, held = Path(path).name, 0, None, {}, 0

    def asked_for():
        return number >= skip if wanted is None else number in wanted

    def tell(member, why):
        if wanted is None and number >= skip:
            name = f"{shard}/{shown(member)}" if member else shard
            note(name, f"{name}: {why}")

    try:
        with open(path, "rb") as file:
            for name, size in members(file, tell):
                folder, slash, base = name.rpartition("/")
                stem, dot, ext = base.partition(".")
                if not stem or not dot or re.match(r"__[^/]*__($|/)", name):      # no sample, or notes on the shard
                    continue
                if key not in (None, folder + slash + stem):
                    if asked_for():
                        yield key, parts
                    number, parts, held = number + 1, {}, 0
                key, ext, held = folder + slash + stem, ext.lower(), held + 512 + size
                if ext in parts or held > SAMPLE_LIMIT:
                    why = "the second of its name" if ext in parts else f"a sample of more than {SAMPLE_LIMIT} bytes"
                    tell(name, f"{why}; passed over")
                    held -= size
                else:
                    parts[ext] = file.read(size) if asked_for() and (hear or ext not in AUDIO) else b""
    except OSError as error:
        tell("", f"{error.strerror}; the rest is left out")
    if key is not None and asked_for():
        yield key, parts


def read_samples(path, shard, sources, skip=0, note=silent, wanted=None, split="train", hear=True):
    """Yields (number, Sample, or None where it has no text of `sources` or cannot be used); the rest is as in read_shard."""
    numbers = itertools.count(skip) if wanted is None else sorted(wanted)
    for number, (key, parts) in zip(numbers, read_shard(path, skip, note, wanted, hear)):
        name = f"{Path(path).name}/{shown(key)}"
        try:
            recording = parse_sample(name, parts, sources, split)
        except UserError as error:
            note(name, str(error))
            recording = None
        yield number, recording and Sample((shard, number), recording)


def parse_sample(name, parts, sources, split):
    """The Recording, with its text of `sources`, or None where it has none. Raises UserError for a sample that cannot be used."""
    sound = next((content for ext, content in parts.items() if ext in AUDIO), None)
    if sound is None or len(parts.get("json", bytes(JSON_LIMIT))) >= JSON_LIMIT:
        raise UserError(f"{name}: needs an audio file and a .json below {JSON_LIMIT} bytes, has {shown(', '.join(parts))}")
    try:
        row = json.loads(parts["json"])
    except (ValueError, RecursionError) as error:
        raise UserError(f"{name}: its .json is not JSON ({error})") from None
    if not isinstance(row, dict) or not isinstance(row.get("text"), dict):
        raise UserError(f'{name}: its .json must be an object with a "text" like {{"sf": ["..."]}}')
    ident = row["id"] if isinstance(row.get("id"), str) and row["id"] else name
    row["text"] = {source: row["text"][source] for source in sources if row["text"].get(source)}
    recording = make_recording(row, ident, audio.SoundBytes(sound, name), split, name)
    return recording if recording.text else None


def first_recordings(paths, split, sources, count, hear):
    """The first recordings with text of `sources` in shards: at most `count`, of HELD_LIMIT bytes in all. Where they are not to be
    heard, their sound is not read."""
    found, held = [], 0
    for number, path in enumerate(paths):
        for _, sample in read_samples(path, number, sources, split=split, hear=hear):
            if sample:
                found.append(sample.recording)
                held += len(sample.recording.audio.content)
            if len(found) == count or held > HELD_LIMIT:
                return found
    return found
