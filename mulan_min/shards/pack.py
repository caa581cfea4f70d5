"""Packs a manifest folder into tar shards, with WebDataset's file names.

A sample is two members: 000000042.flac (or .ogg, ...; a copy of the file) and 000000042.json {"id", "text", "tags", "start",
"duration"}.
"""
import io
import json
import os
import re
import shutil
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
from tqdm import tqdm

from mulan_min.data import COMPANIONS, SPLITS, read_manifest
from mulan_min.errors import UserError
from mulan_min.files import new_folder, write_json
from mulan_min.shards.reader import AUDIO, SAMPLE_LIMIT

UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}


def pack(folder, out, size, seed=0):
    """Writes a manifest folder as out/SPLIT-000000.tar, ... of at most `size` bytes each, index.json with the totals, and copies of
    the folder's COMPANIONS. Returns a line to print.

    The recordings of a split are written in random order, because a stream is shuffled only within its buffer. The same folder
    gives the same bytes. If it raises UserError, `out` does not exist afterwards.
    """
    out, rows, key = Path(out), [], 0
    if os.path.lexists(out):
        raise UserError(f"{out} is there already: remove it, or give another OUT")
    recordings = read_manifest(folder)
    with new_folder(out) as making, tqdm(total=len(recordings), unit="recording", disable=None) as bar:
        shards = [(split, number, shard) for split in SPLITS
                  for number, shard in enumerate(cut_into_shards(recordings, split, seed, size))]
        for split, number, shard in shards:
            rows.append(write_shard(making / f"{split}-{number:06d}.tar", shard, key))
            key += len(shard)
            bar.update(len(shard))
        write_json(making / "index.json", {"shards": rows})
        for name in COMPANIONS:
            if (Path(folder) / name).is_file():
                shutil.copyfile(Path(folder) / name, making / name)
    return f"{out}: {key} samples in {len(rows)} shards, {sum(row['bytes'] for row in rows) / 1e9:.3f} GB"


def cut_into_shards(recordings, split, seed, size):
    """Yields lists of a split's recordings, in random order, each with as many as fit in a tar of `size` bytes. Raises UserError for
    a recording that is too large for a shard."""
    # A tar ends with at least two blocks of zeros, as many as complete a record of 20 blocks.
    shard, filled, room = [], 0, size // tarfile.RECORDSIZE * tarfile.RECORDSIZE - 1024
    recordings = [recording for recording in recordings if recording.split == split]
    for recording in (recordings[i] for i in np.random.default_rng((seed, SPLITS.index(split))).permutation(len(recordings))):
        need = sum(512 + -(-length // 512) * 512 for length in (recording.audio.stat().st_size, len(sample_json(recording))))
        if need > min(room, SAMPLE_LIMIT):
            raise UserError(f"{recording.audio}: needs {need} bytes, but a shard has room for {min(room, SAMPLE_LIMIT)}; give a "
                            f"larger --size (a sample may have {SAMPLE_LIMIT} bytes), or cut the file")
        if filled + need > room:
            yield shard
            shard, filled = [], 0
        shard.append(recording)
        filled += need
    if shard:
        yield shard


def sample_json(recording):
    """The bytes of a sample's .json member."""
    return json.dumps({name: getattr(recording, name) for name in ("id", "text", "tags", "start", "duration")}).encode()


def write_shard(path, recordings, first):
    """Writes a tar with the keys `first`, `first` + 1, ... Returns its row of index.json."""
    with open(path, "xb") as file:
        with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for key, recording in enumerate(recordings, first):
                suffix = recording.audio.suffix[1:].lower()
                members = {suffix if suffix in AUDIO else "audio": recording.audio.read_bytes(), "json": sample_json(recording)}
                for suffix, content in members.items():
                    member = tarfile.TarInfo(f"{key:09d}.{suffix}")      # user 0 and the year 1970, the same on every machine
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
        file.flush()
        os.fsync(file.fileno())
        return {"name": path.name, "samples": len(recordings), "bytes": file.tell(),
                "sources": Counter(source for recording in recordings for source in recording.text)}


def parse_size(text):
    """"500MB", "1GB", "1048576" -> bytes. Raises UserError."""
    match = re.fullmatch(r"(\d{1,15}(?:\.\d{1,9})?) ?(KB|MB|GB|)", text.strip().upper())
    size = int(float(match[1]) * UNITS[match[2]]) if match else 0
    if size < tarfile.RECORDSIZE:
        raise UserError(f"--size '{text}' is not like 500MB, 1GB or 1048576, and {tarfile.RECORDSIZE} bytes or more")
    return size
