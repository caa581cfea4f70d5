"""Tar shards in WebDataset's naming, for collections that do not fit in one manifest: packed once, read as a stream.

    python -m mulan_min.shards pack DIR OUT --size 1GB

A sample is two members: 000000042.flac (or .ogg, ...; the file as it is) and 000000042.json {"id", "text", "tags", "start",
"duration"}. Memory does not grow with the collection, for a reader holds one buffer of samples. It reads on and drops what finds
no room there, so sources should lie mixed in the shards: pack them from one manifest.
"""
import argparse
import io
import json
import os
import re
import shutil
import tarfile
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info
from tqdm import tqdm

from mulan_min.audio import AudioError
from mulan_min.command_line import run_script
from mulan_min.config import parse_ratio
from mulan_min.data import COMPANIONS, SPLITS, read_clip_window, read_manifest
from mulan_min.errors import UserError
from mulan_min.sampler import Sampler
from mulan_min.shards.reader import AUDIO, SAMPLE_LIMIT, count_samples, find_shards, read_samples
from mulan_min.wordpiece import encode

UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}
BUFFER, BUFFER_BYTES = 512, 2**30      # samples and bytes that a reader holds to shuffle; our choice
TRIES, NOTES = 100, 1000      # unreadable samples in a row that end the stream; notes with one batch; our choice


# ---- packing -----------------------------------------------------------------------------------


def pack(folder, out, size, seed=0):
    """A manifest folder -> out/SPLIT-000000.tar, ... of at most `size` bytes each, index.json with the totals, and the folder's
    companions; returns a line to print. Recordings of a split are dealt in random order, for a stream is shuffled only within
    its buffer. The same folder gives the same bytes. Raises UserError, and then leaves no `out`."""
    out, rows, key = Path(out), [], 0
    if os.path.lexists(out):
        raise UserError(f"{out} is there already: remove it, or give another OUT")
    recordings, making = read_manifest(folder), out.with_name(f".{out.name}.making-{os.getpid()}")
    try:
        making.mkdir(parents=True)
        shards = [(split, number, shard) for split in SPLITS
                  for number, shard in enumerate(cut_series(shuffled(recordings, split, seed), size))]
        with tqdm(total=len(recordings), unit="recording", disable=None) as bar:
            for split, number, shard in shards:
                rows.append(write_shard(making / f"{split}-{number:06d}.tar", shard, key))
                key += len(shard)
                bar.update(len(shard))
        (making / "index.json").write_text(json.dumps({"shards": rows}, indent=1) + "\n", encoding="utf-8")
        for name in COMPANIONS:
            if (Path(folder) / name).is_file():
                shutil.copyfile(Path(folder) / name, making / name)
        making.rename(out)
    except OSError as error:
        raise UserError(f"{out}: cannot be made ({error}); nothing is left of it") from error
    finally:
        shutil.rmtree(making, ignore_errors=True)
    return f"{out}: {key} samples in {len(rows)} shards, {sum(row['bytes'] for row in rows) / 1e9:.3f} GB"


def shuffled(recordings, split, seed):
    series = [recording for recording in recordings if recording.split == split]
    return [series[i] for i in np.random.default_rng((seed, SPLITS.index(split))).permutation(len(series))]


def cut_series(series, size):
    """Yields lists of recordings in their order, each as many as a tar of `size` bytes takes."""
    # A tar ends with two blocks of zeros or more, up to a whole record of 20 blocks.
    shard, filled, room = [], 0, size // tarfile.RECORDSIZE * tarfile.RECORDSIZE - 1024
    for recording in series:
        need = sum(512 + -(-length // 512) * 512 for length in (recording.audio.stat().st_size, len(sample_json(recording))))
        if need > min(room, SAMPLE_LIMIT):
            raise UserError(f"{recording.audio}: takes {need} bytes of a shard with room for {min(room, SAMPLE_LIMIT)}; give a "
                            f"larger --size (a sample may have {SAMPLE_LIMIT} bytes), or cut the file")
        if filled + need > room:
            yield shard
            shard, filled = [], 0
        shard.append(recording)
        filled += need
    if shard:
        yield shard


def sample_json(recording):
    return json.dumps({name: getattr(recording, name) for name in ("id", "text", "tags", "start", "duration")}).encode()


def write_shard(path, recordings, first):
    """Writes a tar whose keys are the numbers from `first` on -> its row of index.json."""
    with open(path, "xb") as file:
        with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for key, recording in enumerate(recordings, first):
                suffix = recording.audio.suffix[1:].lower()
                sound = (suffix if suffix in AUDIO else "audio", recording.audio.read_bytes())
                for suffix, content in (sound, ("json", sample_json(recording))):
                    member = tarfile.TarInfo(f"{key:09d}.{suffix}")      # of user 0, from the year 1970
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
        file.flush()
        os.fsync(file.fileno())
        sources = Counter(source for recording in recordings for source in recording.text)
        return {"name": path.name, "samples": len(recordings), "bytes": file.tell(), "sources": sources}


# ---- reading -----------------------------------------------------------------------------------


class ShardStream(IterableDataset):
    """This rank's slices of the global batches, in the form of data.Batches and with the same sources in the same slots.

    A reader is one worker of one rank: it has shards of its own in every epoch and makes every `workers`-th batch. What comes is
    a function of the seed, the shards, `world` and the number of workers (0 is as 1). batch["cursor"], of plain values, is where
    its reader stands afterwards; `cursors`, the last one of each worker as {worker: cursor}, go on exactly there. batch["lost"]
    is what was left out since the reader's batch before. `prepare` as in data.Batches. Raises UserError for fewer shards than
    readers, and for cursors of other shards or readers.
    """

    def __init__(self, shards, config, tokenizer, rank=0, world=1, prepare=None, split="train", cursors=None):
        self.paths, self.config, self.tokenizer = find_shards(shards, split), config, tokenizer
        self.rank, self.world, self.prepare = rank, world, prepare
        self.cursors = {int(worker): cursor for worker, cursor in (cursors or {}).items()}
        self.ratio, size = parse_ratio(config.data.ratio), config.optim.batch_size
        self.pattern = Sampler({source: [0] for source in self.ratio}, self.ratio, size, 0).pattern
        self.slots = range(size * rank // world, size * (rank + 1) // world)
        self.samples = count_samples(self.paths)
        self.shards = zlib.crc32(json.dumps([(path.name, path.stat().st_size) for path in self.paths]).encode())
        self.check(max(1, config.data.workers))

    def check(self, workers):
        if len(self.paths) < self.world * workers:
            raise UserError(f"{len(self.paths)} shards for {self.world} ranks of {workers} workers: {self.world * workers} or "
                            "more are needed; pack with a smaller --size, or use fewer --workers")
        for cursor in self.cursors.values():
            for name, now in (("shards", self.shards), ("rank", self.rank), ("world", self.world), ("workers", workers)):
                if cursor[name] != now:
                    raise UserError(f"the stream was saved with other {name} ({cursor[name]}, now {now}): go on with the same")

    def __iter__(self):
        info = get_worker_info()
        turn, workers = (info.id, info.num_workers) if info else (0, 1)
        try:
            self.check(workers)
            # The first batch comes from the first process, whichever would have made it in a run without a stop.
            first = turn + min(self.cursors[w]["step"] if w in self.cursors else w for w in range(workers))
            reader = Reader(self, first % workers, workers)
            for step in range(first, self.config.optim.steps, workers):
                yield reader.batch(step)
        except UserError as error:      # an exception would leave the worker process as a page of traceback
            yield {"error": str(error)}


class Reader:
    """A place in the reader's own shards, and a queue for each source: a sample waits in those of all sources it has text of.
    Queues have a fixed room: what they got of the first BUFFER samples or the first epoch, at most a like share of BUFFER."""

    def __init__(self, stream, worker, workers):
        self.stream, self.worker, self.workers, self.seed = stream, worker, workers, stream.config.optim.seed
        self.epoch = self.turn = self.sample = self.reads = 0      # turn: which of its shards; sample: the next one in it
        self.queues, self.lost = {source: [] for source in stream.ratio}, {}
        self.room = dict.fromkeys(stream.ratio, max(1, BUFFER // len(stream.ratio)))
        self.samples = self.walk()
        if worker in stream.cursors:
            return self.go_on(stream.cursors[worker])
        while self.reads < BUFFER and any(len(queue) < self.room[source] for source, queue in self.queues.items()):
            if not self.take_in():
                break
        self.room = {source: max(1, len(queue)) for source, queue in self.queues.items()}

    def walk(self):
        """Yields samples without end, None behind each epoch. Shards are dealt anew in every epoch."""
        stream, readers = self.stream, self.stream.world * self.workers
        while True:
            order = np.random.default_rng((self.seed, 3, self.epoch)).permutation(len(stream.paths))
            own = order[stream.rank * self.workers + self.worker::readers].tolist()
            while self.turn < len(own):
                shard = own[self.turn]
                for number, sample in read_samples(stream.paths[shard], shard, stream.ratio, self.sample, self.note):
                    self.sample = number + 1
                    if sample:
                        yield sample
                self.turn, self.sample = self.turn + 1, 0
            self.epoch, self.turn = self.epoch + 1, 0
            yield None

    def note(self, name, why):
        if len(self.lost) < NOTES:
            self.lost.setdefault(name, why)

    def take_in(self):
        """Reads a sample into its queues, where one is full in the place of any other. False at the end of an epoch."""
        sample = next(self.samples)
        if not sample:
            return False
        self.reads += 1
        rng = np.random.default_rng((self.seed, 4, self.stream.rank, self.worker, self.reads))
        for source in sample.recording.text:
            queue = self.queues[source]
            if len(queue) < self.room[source]:
                queue.append(sample)
            else:
                queue[int(rng.integers(len(queue)))] = sample
        # counted once for every queue, so that less than this is held
        while sum(len(held.recording.audio.content) for queue in self.queues.values() for held in queue) > BUFFER_BYTES:
            source = max(self.queues, key=lambda name: len(self.queues[name]))
            if len(self.queues[source]) == 1:
                break
            self.queues[source].pop(int(rng.integers(len(self.queues[source]))))
            self.room[source] = len(self.queues[source])
        return True

    def pick(self, source, used, rng):
        """Takes a sample out of a source's queue, none whose place is in `used` where that can be helped."""
        queue, ends = self.queues[source], 0
        while len(queue) < self.room[source] and not (ends and queue):
            ends += not self.take_in()
            if ends == 2 and not queue:
                rest = ",".join(f"{name}={share}" for name, share in self.stream.ratio.items() if self.queues[name])
                raise UserError(f"no '{source}' text in an epoch of this reader, one of {self.stream.world * self.workers}; "
                                + (f"leave the source out with --ratio {rest}" if rest else self.reason()))
        while not (fresh := [i for i, sample in enumerate(queue) if sample.place not in used]) and self.spare:
            self.spare -= 1
            self.take_in()
        return queue.pop(fresh[int(rng.integers(len(fresh)))] if fresh else int(rng.integers(len(queue))))

    def reason(self):
        return "the first that was left out: " + next(iter(self.lost.values()), "none, the shards are empty")

    def batch(self, step):
        """This rank's slice of global batch `step`, see ShardStream."""
        stream, front = self.stream, self.stream.config.front
        waves, texts, ids, used, self.spare = [], [], [], set(), len(stream.slots)
        for slot in stream.slots:
            rng = np.random.default_rng((self.seed, 2, step, slot))
            source = stream.pattern[(step * stream.config.optim.batch_size + slot) % len(stream.pattern)]
            for _ in range(TRIES):
                place, recording = self.pick(source, used, rng)
                used.add(place)
                try:
                    waves.append(torch.from_numpy(read_clip_window(recording, front.seconds, front.sample_rate, rng.random())))
                    break
                except AudioError as error:
                    self.note(recording.audio.name, str(error))
            else:
                raise UserError(f"{TRIES} samples of source '{source}' in a row cannot be read; {self.reason()}")
            texts.append(recording.text[source][rng.integers(len(recording.text[source]))])
            ids.append(recording.id)
        sound = torch.stack(waves)                                       # (B, samples)
        with torch.no_grad():
            sound = stream.prepare(sound) if stream.prepare else sound   # or (B, mels, frames)
        tokens, mask = encode(stream.tokenizer, texts, stream.config.text.max_tokens)
        lost, self.lost = self.lost, {}
        return {"sound": sound, "tokens": tokens, "mask": mask, "ids": ids, "lost": lost,
                "cursor": self.cursor(step + self.workers)}

    def cursor(self, step):
        queues = {source: [list(sample.place) for sample in queue] for source, queue in self.queues.items()}
        return {"step": step, "shards": self.stream.shards, "rank": self.stream.rank, "world": self.stream.world,
                "worker": self.worker, "workers": self.workers, "epoch": self.epoch, "turn": self.turn, "sample": self.sample,
                "reads": self.reads, "room": dict(self.room), "queues": queues}

    def go_on(self, cursor):
        """Stands where the cursor says; the samples in the queues are read again, each shard of theirs once."""
        self.epoch, self.turn, self.sample, self.reads = (cursor[name] for name in ("epoch", "turn", "sample", "reads"))
        wanted, found, self.room = {}, {}, dict(cursor["room"])
        for shard, number in (place for queue in cursor["queues"].values() for place in queue):
            wanted.setdefault(shard, set()).add(number)
        for shard, numbers in wanted.items():
            for number, sample in read_samples(self.stream.paths[shard], shard, self.stream.ratio, wanted=numbers):
                found[shard, number] = sample
            if not all(found.get((shard, number)) for number in numbers):
                raise UserError(f"{self.stream.paths[shard]}: has changed since the stream was saved; start the run anew")
        self.queues = {source: [found[tuple(place)] for place in cursor["queues"][source]] for source in self.stream.ratio}


# ---- the command -------------------------------------------------------------------------------


def parse_size(text):
    """"500MB", "1GB", "1048576" -> bytes. Raises UserError."""
    match = re.fullmatch(r"(\d{1,15}(?:\.\d{1,9})?) ?(KB|MB|GB|)", text.strip().upper())
    size = int(float(match[1]) * UNITS[match[2]]) if match else 0
    if size < tarfile.RECORDSIZE:
        raise UserError(f"--size '{text}' is not like 500MB, 1GB or 1048576, and {tarfile.RECORDSIZE} bytes or more")
    return size


def main(argv=None):
    parser = argparse.ArgumentParser("python -m mulan_min.shards", description="Tar shards of a manifest folder.")
    command = parser.add_subparsers(required=True, metavar="pack").add_parser("pack", help="write them")
    command.add_argument("folder", metavar="DIR", help="folder with manifest.jsonl; it is only read")
    command.add_argument("out", metavar="OUT", help="folder to make")
    command.add_argument("--size", default="1GB", help="of a shard at most, as 500MB, 1GB or 1048576 bytes [1GB]")
    command.add_argument("--shuffle-seed", type=int, default=0, help="of the order in which recordings are dealt [0]")
    args = parser.parse_args(argv)
    if args.shuffle_seed < 0:
        raise UserError("--shuffle-seed must be 0 or more")
    print(pack(args.folder, args.out, parse_size(args.size), args.shuffle_seed))


if __name__ == "__main__":
    run_script(main)
