"""Reading 10 s windows of 30 s files, 44.1 kHz stereo to 16 kHz mono, with two processes: ours against librosa.load."""
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import librosa
import numpy as np
import soundfile
from common import compare

from mulan_min.audio import read_window


def ours(path, start):
    return len(read_window(path, start, 10.0, 16000))


def theirs(path, start):
    return len(librosa.load(path, sr=16000, offset=start, duration=10.0)[0])


def main():
    rng, starts = np.random.default_rng(0), np.linspace(0, 20, 16)
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(2) as pool:
        for kind in ("flac", "ogg", "mp3"):
            path = Path(folder) / f"song.{kind}"
            noise = rng.standard_normal((30 * 44100, 2)) * 0.02
            tone = np.sin(np.arange(30 * 44100)[:, None] * np.array([[0.03, 0.05]])) * 0.3
            soundfile.write(path, noise + tone, 44100)
            calls = {name: lambda f=f: list(pool.map(f, [path] * 16, starts)) for name, f in (("ours", ours), ("librosa", theirs))}
            compare(f"16 windows of 10 s from 30 s of {kind.upper()}, two processes", calls, repeats=5)


if __name__ == "__main__":
    main()
