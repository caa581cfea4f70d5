"""From a folder with manifest.jsonl to training batches.

One line of the manifest is one recording (audio path relative to the folder):

    {"id": "r00042", "audio": "audio/r00042.flac", "split": "train",
     "text": {"sf": [...], "lf": [...], "pl": [...], "aset": [...]}, "tags": ["waltz", "piano"]}

A recording belongs to a source when it has text of that source. `tags` are ground truth for evaluation, never shown to
training. Optional `start` and `duration` (s) cut a clip out of a long file.
"""
import json
import os
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from mulan_min import audio
from mulan_min.config import parse_ratio
from mulan_min.errors import UserError
from mulan_min.labels import label_table
from mulan_min.sampler import Sampler
from mulan_min.wordpiece import encode

SPLITS = ("train", "valid", "test")
COMPANIONS = ("labels.json", "playlists.jsonl", "triplets.jsonl")      # what may lie beside a manifest


class ManifestError(UserError):
    """A manifest line that cannot be used; the message names the file and the line."""


@dataclass
class Recording:
    id: str
    audio: Path      # or SoundBytes, out of a shard
    split: str
    text: dict
    tags: list = field(default_factory=list)
    start: float = 0.0
    duration: float | None = None      # s; None: to the end of the file


def read_manifest(folder):
    """folder with manifest.jsonl -> [Recording]. Raises ManifestError naming the line: bad JSON, a missing or odd key, a
    duplicate id, audio that is not there, an empty text."""
    path = Path(folder) / "manifest.jsonl"
    if not path.is_file():
        raise ManifestError(f"{path}: no such file; a collection is a folder with manifest.jsonl")
    recordings, seen = [], {}
    with open(path, encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            recording = parse_line(line, Path(folder), f"{path}, line {number}")
            if recording.id in seen:
                raise ManifestError(f"{path}, line {number}: id '{recording.id}' occurs in line {seen[recording.id]} already")
            seen[recording.id] = number
            recordings.append(recording)
    if not recordings:
        raise ManifestError(f"{path}: no recordings in it")
    return recordings


def parse_line(line, folder, where):
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:      # ValueError: bad JSON, or a number of thousands of digits
        raise ManifestError(f"{where}: not JSON ({error})") from None
    if not isinstance(row, dict):
        raise ManifestError(f"{where}: must be a JSON object with id, audio, split, text")
    for key, kind in (("id", str), ("audio", str), ("split", str), ("text", dict)):
        if not isinstance(row.get(key), kind) or (kind is str and not row[key]):
            raise ManifestError(f"{where}: key '{key}' is missing or not a {'text' if kind is str else 'JSON object'}")
    if row["split"] not in SPLITS:
        raise ManifestError(f"{where}: split '{row['split']}' is not one of {', '.join(SPLITS)}")
    file = folder / row["audio"]
    if "\0" in row["audio"] or not os.path.isfile(file):
        raise ManifestError(f"{where}: audio file {file} is not there")
    return make_recording(row, row["id"], file, row["split"], where)


def make_recording(row, ident, sound, split, where):
    """A Recording with the text, tags, start and duration of a JSON object; `sound` is a path or SoundBytes. Raises ManifestError
    that begins with `where`."""
    for source, texts in row["text"].items():
        if not isinstance(texts, list) or not all(isinstance(t, str) and t.strip() for t in texts):
            raise ManifestError(f"{where}: text '{source}' must be a list of non-empty texts")
    tags = row.get("tags", [])
    if not isinstance(tags, list) or not all(isinstance(t, str) for t in tags):
        raise ManifestError(f"{where}: tags must be a list of texts")
    start, duration = row.get("start", 0.0), row.get("duration")
    if not is_seconds(start) or start < 0 or not (duration is None or (is_seconds(duration) and duration > 0)):
        raise ManifestError(f"{where}: start and duration must be seconds, 0 or more and above 0")
    text = {source: texts for source, texts in row["text"].items() if texts}
    return Recording(ident, sound, split, text, tags, float(start), duration)


def is_seconds(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e15      # NaN is not


def read_collection(folders, split):
    """The recordings of one split in several manifest folders."""
    recordings = [r for folder in folders for r in read_manifest(folder) if r.split == split]
    if not recordings:
        raise UserError(f"no recording with split '{split}' in {', '.join(map(str, folders))}")
    return recordings


def shuffle_pairs(recordings, seed):
    """The control: every recording gets the text of another one, for good. What is learned then is not about the pairs."""
    order = np.random.default_rng((seed, 1)).permutation(len(recordings))
    return [replace(r, text=recordings[j].text) for r, j in zip(recordings, order)]


@lru_cache(maxsize=200_000)
def file_seconds(path):
    return audio.duration(path)


def clip_seconds(recording):
    """Usable length in s. Raises AudioError when the file cannot be opened."""
    held = isinstance(recording.audio, audio.SoundBytes)      # to remember its length would keep it in memory
    rest = (audio.duration if held else file_seconds)(recording.audio) - recording.start
    return rest if recording.duration is None else min(rest, recording.duration)


def read_clip_window(recording, seconds, sample_rate, place):
    """A window of the recording's clip, zero-padded if the clip is shorter: float32 (samples,). `place` in [0, 1] says
    where it lies: 0 at the clip's start, 1 at its end."""
    clip = clip_seconds(recording)
    start = recording.start + place * max(0.0, clip - seconds)
    wave = audio.read_window(recording.audio, start, min(seconds, clip), sample_rate)
    return audio.pad_to(wave, round(seconds * sample_rate))


class Batches(Dataset):
    """Item s is this rank's slice of global batch s: a function of (seed, s) alone, whoever computes it and when.

    `prepare`, a function of waveforms (B, samples), is applied where they are read; without it, `sound` is the waveforms.
    With `labels` there are `targets` instead of texts.
    """

    def __init__(self, recordings, config, tokenizer, rank=0, world=1, prepare=None, labels=()):
        self.recordings, self.config, self.tokenizer, self.prepare = recordings, config, tokenizer, prepare
        self.labels = labels
        self.ratio = parse_ratio(config.data.ratio)
        members = {source: [i for i, r in enumerate(recordings) if source in r.text] for source in self.ratio}
        self.sampler = Sampler(members, self.ratio, config.optim.batch_size, config.optim.seed)
        size = config.optim.batch_size
        self.slots = range(size * rank // world, size * (rank + 1) // world)
        self.lost = {}                  # recording id -> why, found by this worker so far

    def __len__(self):
        return self.config.optim.steps

    def __getitem__(self, step):
        try:
            return self.batch(step)
        except UserError as error:      # an exception would leave the worker process as a page of traceback
            return {"error": str(error)}

    def batch(self, step):
        plan = self.sampler.batch(step)
        planned = {index for _, index in plan}
        waves, texts, chosen = [], [], []
        for slot in self.slots:
            rng = np.random.default_rng((self.config.optim.seed, 2, step, slot))
            source, index = plan[slot]
            wave, recording = self.read(source, index, rng.random(), planned)
            waves.append(torch.from_numpy(wave))
            texts.append(recording.text[source][rng.integers(len(recording.text[source]))])
            chosen.append(recording)
        sound = torch.stack(waves)                                       # (B, samples)
        with torch.no_grad():
            sound = self.prepare(sound) if self.prepare else sound       # or (B, mels, frames)
        batch = {"sound": sound, "ids": [recording.id for recording in chosen], "lost": dict(self.lost)}
        if self.labels:
            return batch | {"targets": label_table(chosen, self.labels, self.ratio)}
        tokens, mask = encode(self.tokenizer, texts, self.config.text.max_tokens)
        return batch | {"tokens": tokens, "mask": mask}

    def read(self, source, index, place, planned):
        """(window, recording): of the one asked for, or of its source's next one that can be read and is not `planned` for
        this batch anyway. What was unreadable before is tried again, for a damaged file may have good windows and the
        batch must not depend on what this worker has met."""
        front, members = self.config.front, self.sampler.members[source]
        first, count = int(np.searchsorted(members, index)), len(members)
        for turn in range(2 * count):      # all that are not planned, then the others too
            index = int(members[(first + turn) % count])
            if turn and (index in planned) == (turn < count):
                continue
            recording = self.recordings[index]
            try:
                return read_clip_window(recording, front.seconds, front.sample_rate, place), recording
            except audio.AudioError as error:
                self.lost.setdefault(recording.id, str(error))
        raise UserError(f"no recording of source '{source}' can be read; the first: {next(iter(self.lost.values()))}")
