"""From a folder with manifest.jsonl to training batches.

One line of the manifest is one recording. Its audio path is relative to the folder:

    {"id": "r00042", "audio": "audio/r00042.flac", "split": "train",
     "text": {"sf": [...], "lf": [...], "pl": [...], "aset": [...]}, "tags": ["waltz", "piano"]}

A recording belongs to a source when it has text of that source. `tags` are ground truth for evaluation; a MuLan is never trained
on them. Optional `start` and `duration` (s) select a clip of a long file.
"""
import os
import zlib
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from unicodedata import normalize

import numpy as np
import torch
from torch.utils.data import Dataset

from mulan_min import audio
from mulan_min.config import parse_ratio
from mulan_min.errors import UserError
from mulan_min.files import read_jsonl
from mulan_min.sampler import Sampler

SPLITS = ("train", "valid", "test")
COMPANIONS = ("labels.json", "playlists.jsonl", "triplets.jsonl")      # optional files beside a manifest


@dataclass
class Recording:
    """One line of a manifest, for example Recording("r00042", Path("audio/r00042.flac"), "train", {"sf": ["Old waltz"]}).

    audio: a path, or a SoundBytes from a shard. text: {source: [text, ...]}. start, duration: the clip in the file, in
    seconds; without a duration the clip ends with the file.
    """
    id: str
    audio: Path
    split: str
    text: dict
    tags: list = field(default_factory=list)
    start: float = 0.0
    duration: float | None = None


def read_manifest(folder):
    """A folder with manifest.jsonl -> [Recording]. Raises UserError that names the line: bad JSON, a key that is missing or
    invalid, an id used twice, a missing audio file, an empty text."""
    path = Path(folder) / "manifest.jsonl"
    if not path.is_file():
        raise UserError(f"{path}: no such file; a collection is a folder with manifest.jsonl")
    recordings, seen = [], {}
    for number, row in read_jsonl(path):
        recording = parse_row(row, Path(folder), f"{path}, line {number}")
        if recording.id in seen:
            raise UserError(f"{path}, line {number}: id '{recording.id}' occurs in line {seen[recording.id]} already")
        seen[recording.id] = number
        recordings.append(recording)
    if not recordings:
        raise UserError(f"{path}: no recordings in it")
    return recordings


def parse_row(row, folder, where):
    """A row of the manifest, a JSON object -> Recording. Raises UserError, which begins with `where`."""
    for key, kind in (("id", str), ("audio", str), ("split", str), ("text", dict)):
        if not isinstance(row.get(key), kind) or (kind is str and not row[key]):
            raise UserError(f"{where}: key '{key}' is missing or not a {'text' if kind is str else 'JSON object'}")
    if row["split"] not in SPLITS:
        raise UserError(f"{where}: split '{row['split']}' is not one of {', '.join(SPLITS)}")
    forms = row["audio"], *(normalize(form, row["audio"]) for form in ("NFC", "NFD"))      # programs write accents in two ways
    file = next((folder / name for name in forms if os.path.isfile(folder / name)), None)
    if not file:
        raise UserError(f"{where}: audio file {folder / row['audio']} is not there")
    return make_recording(row, row["id"], file, row["split"], where)


def make_recording(row, ident, file, split, where):
    """`row`, a JSON object, and `file`, a path or SoundBytes -> Recording. Raises UserError, which begins with `where`."""
    for source, texts in row["text"].items():
        if not isinstance(texts, list) or not all(isinstance(t, str) and t.strip() for t in texts):
            raise UserError(f"{where}: text '{source}' must be a list of non-empty texts")
    tags = row.get("tags", [])
    if not isinstance(tags, list) or not all(isinstance(t, str) for t in tags):
        raise UserError(f"{where}: tags must be a list of texts")
    start, duration = row.get("start", 0.0), row.get("duration")
    if not is_seconds(start) or start < 0 or not (duration is None or (is_seconds(duration) and duration > 0)):
        raise UserError(f"{where}: start and duration must be seconds, 0 or more and above 0")
    text = {source: texts for source, texts in row["text"].items() if texts}
    return Recording(ident, file, split, text, tags, float(start), duration)


def is_seconds(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e15      # False for NaN


def read_collection(folders, split):
    """The recordings of one split in several manifest folders: [Recording]. Raises UserError when there are none."""
    recordings = [r for folder in folders for r in read_manifest(folder) if r.split == split]
    if not recordings:
        raise UserError(f"no recording with split '{split}' in {', '.join(map(str, folders))}: set it in some lines of the manifest, or "
                        "import the music again with a larger --test-share")
    return recordings


def shuffle_pairs(recordings, seed):
    """The control experiment: each recording gets the text of a random recording, the same one in every epoch. A model that is
    trained on it has seen the same audio and the same texts, but hardly any true pair."""
    order = np.random.default_rng((seed, 1)).permutation(len(recordings))
    return [replace(r, text=recordings[j].text) for r, j in zip(recordings, order)]


file_seconds = lru_cache(maxsize=200_000)(audio.duration)      # reads each header once


def clip_seconds(recording):
    """Length of a recording's clip in s. Raises AudioError when the file cannot be opened."""
    in_memory = isinstance(recording.audio, audio.SoundBytes)      # file_seconds would keep it in its cache
    rest = (audio.duration if in_memory else file_seconds)(recording.audio) - recording.start
    return rest if recording.duration is None else min(rest, recording.duration)


def read_clip_window(recording, seconds, sample_rate, position):
    """A window of the recording's clip: float32 (samples,), padded with zeros if the clip is shorter. position: 0 is at the clip's
    start, 1 at its end, 0.5 in its middle. Raises AudioError."""
    clip = clip_seconds(recording)
    start = recording.start + position * max(0.0, clip - seconds)
    waveform = audio.read_window(recording.audio, start, min(seconds, clip), sample_rate)
    return audio.pad_to(waveform, round(seconds * sample_rate))


def collate(waveforms, recordings, texts, make_targets, front_end):
    """One batch, the same for files and shards, as a dictionary:

    "ids"          [str]
    "keys"         (B,) int64, a number for each clip, see `cmc_loss`
    "waveforms"    (B, samples) float32; with a `front_end` (waveforms -> spectrograms) the batch has instead of them
    "spectrograms" (B, mels, frames)
    and what make_targets(recordings, texts) returns: {"tokens", "mask"} for texts, {"targets"} for labels. Pairs with texts are
    sorted by their number of tokens, so that neighbours need little padding (see TextTower).
    """
    targets = make_targets(recordings, texts)
    order = targets["mask"].sum(1).argsort(stable=True) if "mask" in targets else torch.arange(len(texts))
    recordings, waveforms = ([items[i] for i in order] for items in (recordings, waveforms))
    keys = [zlib.crc32(f"{r.audio} {r.start}".encode(errors="backslashreplace")) for r in recordings]
    batch = {"ids": [r.id for r in recordings], "keys": torch.tensor(keys), **{name: x[order] for name, x in targets.items()}}
    waveforms = torch.from_numpy(np.stack(waveforms))
    if front_end is None:
        return batch | {"waveforms": waveforms}
    with torch.no_grad():
        return batch | {"spectrograms": front_end(waveforms)}


def audio_of(batch):
    """The input of the audio tower: a batch's spectrograms, or its waveforms if there was no front end to make spectrograms."""
    return batch["spectrograms"] if "spectrograms" in batch else batch["waveforms"]


class Batches(Dataset):
    """The batches of a collection in files: item `step` is this rank's slice of global batch `step`, see `collate`. Two more keys:
    "skipped" {id: reason} names the unreadable recordings that this worker has found. "cursor" is the position of its reader.

    An item depends only on the seed and the step, not on the worker or on earlier items. recordings: [Recording] of the training
    split; make_targets, front_end: as in `collate`. Raises UserError for a source without recordings.
    """

    def __init__(self, recordings, config, make_targets, rank=0, world=1, front_end=None):
        self.recordings, self.config, self.make_targets, self.front_end = recordings, config, make_targets, front_end
        self.total = len(recordings)
        self.ratio = parse_ratio(config.data.ratio)
        members = {source: [i for i, r in enumerate(recordings) if source in r.text] for source in self.ratio}
        self.sampler = Sampler(members, self.ratio, config.optim.batch_size, config.optim.seed)
        size = config.optim.batch_size
        self.slots = range(size * rank // world, size * (rank + 1) // world)
        self.skipped = {}      # id: reason

    def __len__(self):
        return self.config.optim.steps

    def __getitem__(self, step):
        try:
            return self.batch(step)
        except UserError as error:      # an exception from a worker process would reach the user with a long traceback
            return {"error": str(error)}

    def batch(self, step):
        plan = self.sampler.batch(step)
        waveforms, texts, chosen = [], [], []
        for slot in self.slots:
            rng = np.random.default_rng((self.config.optim.seed, 2, step, slot))
            source, index = plan[slot]
            waveform, recording = self.read(source, index, rng.random())
            waveforms.append(waveform)
            texts.append(recording.text[source][rng.integers(len(recording.text[source]))])
            chosen.append(recording)
        batch = collate(waveforms, chosen, texts, self.make_targets, self.front_end)
        return batch | {"skipped": dict(self.skipped), "cursor": {"worker": 0, "step": step + 1}}

    def read(self, source, index, position):
        """Returns (waveform, recording) of the recording `index` or, if it cannot be read, of the next readable one of its source.
        A recording that could not be read before is tried again: a damaged file may have readable windows, and a batch must not
        depend on what this worker has read before."""
        front, members = self.config.front, self.sampler.members[source]
        first = int(np.searchsorted(members, index))
        for offset in range(len(members)):
            recording = self.recordings[members[(first + offset) % len(members)]]
            try:
                return read_clip_window(recording, front.seconds, front.sample_rate, position), recording
            except audio.AudioError as error:
                self.skipped.setdefault(recording.id, str(error))
        raise UserError(f"no recording of source '{source}' can be read; the first: {next(iter(self.skipped.values()))}")
