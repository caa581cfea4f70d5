"""Shards: does the reader's memory grow with the collection, and what does a clip of 30 s cost? Needs 2.1 GB of temporary disk.

    python tests/benchmarks/stream.py                  10,000 to 1,000,000 small samples: samples/s and peak memory
    python tests/benchmarks/stream.py --music DIR      real music, format by format: bytes, packing, reading, windows of 10 s
"""
import argparse
import io
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import soundfile
from common import hardware
from scipy import signal

from mulan_min.audio import read_window
from mulan_min.config import resolve
from mulan_min.contrastive import encode_texts
from mulan_min.data import read_clip_window
from mulan_min.shards.pack import pack
from mulan_min.shards.reader import find_shards, read_samples
from mulan_min.shards.stream import Reader, ShardStream
from mulan_min.wordpiece import train_wordpiece

SOURCES, IN_SHARD, CLIPS, TIMES = ("sf", "lf", "pl", "aset"), 2000, 24, 8
FORMATS = {      # name: (channels, rate, soundfile's options); MP3 and Opus at libsndfile's own quality
    "FLAC, 44.1 kHz stereo": (2, 44100, {"format": "FLAC"}), "MP3, 44.1 kHz stereo": (2, 44100, {"format": "MP3"}),
    "Opus, 48 kHz stereo": (2, 48000, {"format": "OGG", "subtype": "OPUS"}), "FLAC, 16 kHz mono": (1, 16000, {"format": "FLAC"}),
    "MP3, 16 kHz mono": (1, 16000, {"format": "MP3"}), "Opus, 16 kHz mono": (1, 16000, {"format": "OGG", "subtype": "OPUS"})}


def write_small(folder, samples):
    """Shards of IN_SHARD samples, each 0.1 s of FLAC and its JSON, 2 KiB with both headers."""
    file = io.BytesIO()
    soundfile.write(file, np.full(800, 0.1), 8000, format="FLAC")
    for first in range(0, samples, IN_SHARD):
        with open(folder / f"train-{first // IN_SHARD:06d}.tar", "wb") as shard:
            for i in range(first, min(first + IN_SHARD, samples)):
                notes = {"id": f"r{i}", "text": {SOURCES[i % 4]: [f"words about number {i}"]}, "start": 0.0, "duration": None}
                for ext, content in (("flac", file.getvalue()), ("json", json.dumps(notes).encode())):
                    member = tarfile.TarInfo(f"{i:09d}.{ext}")
                    member.size = len(content)
                    shard.write(member.tobuf() + content + bytes(-len(content) % 512))
            shard.write(bytes(1024))


def pass_over(folder):
    """In a process of its own: four batches of 96, every sample through the reader's queues, undecoded, then four batches."""
    config = resolve({"batch_size": 96, "ratio": "sf=1,lf=1,pl=1,aset=1", "seconds": 0.1, "sample_rate": 8000, "workers": 0})
    targets = partial(encode_texts, train_wordpiece(["words about number 0123456789"], 200), config.text.max_tokens)
    reader = Reader(ShardStream([folder], config, targets), 0, 1)
    for step in range(4):
        reader.batch(step)
    began, before, resident = time.perf_counter(), reader.reads, mebibytes("VmRSS")
    while reader.read_one():
        pass
    rate, grown, reads = (reader.reads - before) / (time.perf_counter() - began), mebibytes("VmRSS") - resident, reader.reads
    for step in range(4, 8):
        reader.batch(step)
    print(json.dumps([reads, rate, mebibytes("VmHWM"), grown]))


def mebibytes(field):
    """Of this process's memory now (VmRSS) or at its peak (VmHWM), since a child's ru_maxrss begins with its parent's."""
    status = Path("/proc/self/status")
    return (int(status.read_text().split(f"{field}:")[1].split()[0]) if status.exists()
            else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) / 1024


def memory():
    print(f"one reader over small samples, whole epoch\n{hardware()}\n\n| samples | shards, MB | samples/s | peak memory, MiB "
          "| grown in the epoch, MiB |\n|---|---|---|---|---|")
    for samples in (10_000, 100_000, 1_000_000):
        with tempfile.TemporaryDirectory() as folder:
            write_small(Path(folder), samples)
            size = sum(path.stat().st_size for path in find_shards(folder))
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
            done = subprocess.run([sys.executable, __file__, "--child", folder], env=environment, stdout=subprocess.PIPE,
                                  text=True, check=True)
        reads, rate, peak, grown = json.loads(done.stdout)
        assert reads == samples, (reads, samples)
        print(f"| {samples:,} | {size / 1e6:.0f} | {rate:,.0f} | {peak:.0f} | {grown:.1f} |", flush=True)


def clips_of(folder):
    """Up to CLIPS times 30 s from the half minute of tracks at 44.1 kHz in stereo, spread over the folder: [(1323000, 2)]."""
    found = []
    for path in sorted(p for p in Path(folder).rglob("*") if p.suffix.lower() in (".ogg", ".mp3", ".flac", ".wav")):
        info = soundfile.info(path)
        if info.duration >= 60 and info.samplerate == 44100 and info.channels == 2:
            found.append(path)
    chosen = found[::max(1, len(found) // CLIPS)][:CLIPS]
    return [soundfile.read(path, 30 * 44100, 30 * 44100, dtype="float32")[0] for path in chosen]


def encode(sound, path, channels, rate, options):
    sound = sound if channels == 2 else sound.mean(1)
    if rate != 44100:
        divisor = math.gcd(rate, 44100)
        sound = signal.resample_poly(sound, rate // divisor, 44100 // divisor)
    soundfile.write(path, np.clip(sound, -1, 1), rate, **options)


def per_second(count, call, repeats=3):
    """count divided by the median of the seconds that the call takes."""
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    return count / statistics.median(seconds)


def costs(music):
    sounds, rng = clips_of(music), np.random.default_rng(0)
    print(f"{len(sounds)} clips of 30 s of music, one process\n{hardware()}\n\n| format | bytes/s, mean | encoded, clips/s "
          "| packed, clips/s | read out of shards, clips/s | windows of 10 s decoded to 16 kHz mono, /s |\n|---|---|---|---|---|---|")
    for name, (channels, rate, options) in FORMATS.items():
        with tempfile.TemporaryDirectory() as place:
            folder, out = Path(place) / "in", Path(place) / "out"
            folder.mkdir()
            paths = [folder / f"{i}.{name.split(',')[0].lower()}" for i in range(len(sounds))]
            encoded = per_second(len(sounds), lambda: [encode(s, p, channels, rate, options) for s, p in zip(sounds, paths)], 1)
            rows = [{"id": f"{i}-{t}", "audio": p.name, "split": "train", "text": {"sf": ["a title"]}}
                    for t in range(TIMES) for i, p in enumerate(paths)]
            (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
            packed = per_second(len(rows), lambda: pack(folder, out, 10**8), 1)
            stored = lambda: (sample.recording for i, p in enumerate(find_shards(out)) for _, sample in read_samples(p, i, ["sf"]))
            reading = per_second(len(rows), lambda: sum(len(recording.audio.content) for recording in stored()))
            recordings = [recording for recording in stored() if recording.id.endswith("-0")]
            decode = lambda: [read_clip_window(recording, 10.0, 16000, rng.random()) for recording in recordings]
            windows = per_second(len(recordings), decode, 5)
            size = statistics.mean(p.stat().st_size / 30 for p in paths)
            assert abs(read_window(paths[0])).max() > 0      # it is music, not silence
        print(f"| {name} | {size:,.0f} | {encoded:.1f} | {packed:,.0f} | {reading:,.0f} | {windows:.0f} |", flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--music", metavar="DIR", help="folder with tracks of a minute or more, 44.1 kHz stereo")
    parser.add_argument("--child", metavar="DIR", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        pass_over(args.child)
    elif args.music:
        costs(args.music)
    else:
        memory()


if __name__ == "__main__":
    main()
