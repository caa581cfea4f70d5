"""Reads tar shards as an endless stream of batches, for collections that do not fit in one manifest.

Memory does not grow with the collection: a reader holds one buffer of samples. To find text of a rare source it may drop samples of
the other sources. So each shard should contain all sources: pack them from one manifest.
"""
import json
import zlib

import numpy as np
from torch.utils.data import IterableDataset, get_worker_info

from mulan_min.audio import AudioError
from mulan_min.config import parse_ratio
from mulan_min.data import collate, read_clip_window
from mulan_min.errors import UserError
from mulan_min.sampler import ratio_pattern
from mulan_min.shards.reader import count_samples, find_shards, read_samples

BUFFER, BUFFER_BYTES = 512, 2**30      # samples and bytes in a reader's shuffle buffer; our choice
TRIES, NOTES = 100, 1000      # so many unreadable samples in a row end the stream; most reasons reported per batch; our choice


class ShardStream(IterableDataset):
    """This rank's slices of the global batches, as in data.Batches, with the same source in each slot.

    A reader is one worker of one rank. In every epoch it has its own shards, and it makes every `workers`-th batch. The batches
    depend only on the seed, the shards, `world` and the number of workers (0 is the same as 1). batch["cursor"], of plain values,
    is the reader's position after the batch; with cursors = {worker: its last cursor} the stream continues exactly there.
    batch["skipped"] holds what the reader has skipped since its last batch. make_targets, front_end: as in data.collate. Raises
    UserError for fewer shards than readers, and for cursors of other shards or readers.
    """

    def __init__(self, shards, config, make_targets, rank=0, world=1, front_end=None, cursors=None, split="train"):
        self.paths, self.config, self.make_targets = find_shards(shards, split), config, make_targets
        self.rank, self.world, self.front_end = rank, world, front_end
        self.cursors = {int(worker): cursor for worker, cursor in (cursors or {}).items()}
        self.ratio, size = parse_ratio(config.data.ratio), config.optim.batch_size
        self.pattern = ratio_pattern(self.ratio)
        self.slots = range(size * rank // world, size * (rank + 1) // world)
        self.total = count_samples(self.paths)
        self.shards = zlib.crc32(json.dumps([(path.name, path.stat().st_size) for path in self.paths]).encode())
        self.check(max(1, config.data.workers))

    def check(self, workers):
        if len(self.paths) < self.world * workers:
            raise UserError(f"{len(self.paths)} shards for {self.world} ranks of {workers} workers: {self.world * workers} or "
                            "more are needed; pack with a smaller --size, or use fewer --workers")
        for cursor in self.cursors.values():
            for name, now in (("shards", self.shards), ("rank", self.rank), ("world", self.world), ("workers", workers)):
                if cursor[name] != now:
                    raise UserError(f"the stream was saved with other {name} ({cursor[name]}, now {now}): give the same again")

    def __iter__(self):
        info = get_worker_info()
        turn, workers = (info.id, info.num_workers) if info else (0, 1)
        try:
            self.check(workers)
            # DataLoader takes the first batch from worker 0, even if without the stop another worker would have made it.
            first = turn + min(self.cursors[w]["step"] if w in self.cursors else w for w in range(workers))
            reader = Reader(self, first % workers, workers)
            for step in range(first, self.config.optim.steps, workers):
                yield reader.batch(step)
        except UserError as error:      # an exception from a worker process would reach the user with a long traceback
            yield {"error": str(error)}


class Reader:
    """A position in the reader's own shards, and a queue of samples for each source. A sample waits in the queues of all sources
    that it has text of. A queue's size is fixed: the number of samples it got from the first BUFFER samples or the first epoch, at
    most BUFFER / number of sources."""

    def __init__(self, stream, worker, workers):
        self.stream, self.worker, self.workers, self.seed = stream, worker, workers, stream.config.optim.seed
        self.epoch = self.turn = self.sample = self.reads = 0      # turn: index of the shard; sample: the next there
        self.queues, self.skipped = {source: [] for source in stream.ratio}, {}
        self.room = dict.fromkeys(stream.ratio, max(1, BUFFER // len(stream.ratio)))
        self.samples = self.walk()
        if worker in stream.cursors:
            return self.restore(stream.cursors[worker])
        while self.reads < BUFFER and any(len(self.queues[s]) < self.room[s] for s in self.queues) and self.read_one():
            pass
        self.room = {source: max(1, len(queue)) for source, queue in self.queues.items()}

    def walk(self):
        """Yields samples without end, and None after each epoch. The readers get other shards, in a new order, in each epoch."""
        stream, readers = self.stream, self.stream.world * self.workers
        while True:
            order = np.random.default_rng((self.seed, 3, self.epoch)).permutation(len(stream.paths))
            own = order[stream.rank * self.workers + self.worker::readers].tolist()
            while self.turn < len(own):
                shard = own[self.turn]
                for number, sample in read_samples(stream.paths[shard], shard, stream.ratio, self.sample, self.skip):
                    self.sample = number + 1
                    if sample:
                        yield sample
                self.turn, self.sample = self.turn + 1, 0
            self.epoch, self.turn = self.epoch + 1, 0
            yield None

    def skip(self, name, reason):
        if len(self.skipped) < NOTES:
            self.skipped.setdefault(name, reason)

    def read_one(self):
        """Reads a sample into its queues; in a full queue it replaces a random one. Returns False at the end of an epoch."""
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
        # A sample is counted once for each queue that it is in, so the true memory is at most this sum.
        while sum(len(s.recording.audio.content) for queue in self.queues.values() for s in queue) > BUFFER_BYTES:
            source = max(self.queues, key=lambda name: len(self.queues[name]))
            if len(self.queues[source]) == 1:
                break
            self.queues[source].pop(int(rng.integers(len(self.queues[source]))))
            self.room[source] = len(self.queues[source])
        return True

    def pick(self, source, rng):
        """Takes a random Recording out of a source's queue. Raises UserError for a source without recordings."""
        queue, epochs = self.queues[source], 0
        while len(queue) < self.room[source] and not (epochs and queue):
            epochs += not self.read_one()
            if epochs == 2 and not queue:
                rest = ",".join(f"{name}={share}" for name, share in self.stream.ratio.items() if self.queues[name])
                raise UserError(f"no '{source}' text in an epoch of this reader, one of {self.stream.world * self.workers}; "
                                + (f"leave the source out with --ratio {rest}" if rest else self.reason()))
        return queue.pop(int(rng.integers(len(queue)))).recording

    def reason(self):
        return "the first that was left out: " + next(iter(self.skipped.values()), "none, the shards are empty")

    def batch(self, step):
        """This rank's slice of global batch `step`, see ShardStream."""
        stream, front = self.stream, self.stream.config.front
        waveforms, texts, recordings = [], [], []
        for slot in stream.slots:
            rng = np.random.default_rng((self.seed, 2, step, slot))
            source = stream.pattern[(step * stream.config.optim.batch_size + slot) % len(stream.pattern)]
            for _ in range(TRIES):
                recording = self.pick(source, rng)
                try:
                    waveforms.append(read_clip_window(recording, front.seconds, front.sample_rate, rng.random()))
                    break
                except AudioError as error:
                    self.skip(recording.audio.name, str(error))
            else:
                raise UserError(f"{TRIES} samples of source '{source}' in a row cannot be read; {self.reason()}")
            texts.append(recording.text[source][rng.integers(len(recording.text[source]))])
            recordings.append(recording)
        batch = collate(waveforms, recordings, texts, stream.make_targets, stream.front_end)
        skipped, self.skipped = self.skipped, {}
        return batch | {"skipped": skipped, "cursor": self.cursor(step + self.workers)}

    def cursor(self, step):
        queues = {source: [list(sample.position) for sample in queue] for source, queue in self.queues.items()}
        return {"step": step, "shards": self.stream.shards, "rank": self.stream.rank, "world": self.stream.world,
                "worker": self.worker, "workers": self.workers, "epoch": self.epoch, "turn": self.turn, "sample": self.sample,
                "reads": self.reads, "room": dict(self.room), "queues": queues}

    def restore(self, cursor):
        """Goes to the position of the cursor. Reads the samples of the queues again, and each of their shards only once."""
        self.epoch, self.turn, self.sample, self.reads = (cursor[name] for name in ("epoch", "turn", "sample", "reads"))
        wanted, samples, self.room = {}, {}, dict(cursor["room"])
        for shard, number in (position for queue in cursor["queues"].values() for position in queue):
            wanted.setdefault(shard, set()).add(number)
        for shard, numbers in wanted.items():
            samples |= {(shard, n): s for n, s in read_samples(self.stream.paths[shard], shard, self.stream.ratio, wanted=numbers)}
            if not all(samples.get((shard, number)) for number in numbers):
                raise UserError(f"{self.stream.paths[shard]}: has changed since the stream was saved; start a new run")
        self.queues = {source: [samples[tuple(position)] for position in cursor["queues"][source]] for source in self.stream.ratio}
