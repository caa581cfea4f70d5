"""The demo world on disk: a collection with a manifest, made from a seed instead of downloaded.

Training reads it by the same path as real music. All of it is our choice; the paper has no such data.
"""
import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import soundfile
from tqdm import tqdm

from mulan_min.demo import words
from mulan_min.demo.instruments import SAMPLE_RATE
from mulan_min.demo.pieces import plan_pieces
from mulan_min.demo.rendering import render
from mulan_min.errors import UserError
from mulan_min.files import new_folder, write_json, write_jsonl, write_text

try:
    import fcntl
except ImportError:   # Windows has no such lock: two processes then both make the world, and the first to finish is kept
    fcntl = None

RECIPE = 5   # raise it when the same settings would give another world, so that old worlds are not reused


def make_world(folder, recordings=4400, seed=0, seconds=12.0, workers=None, progress=True):
    """Makes the demo world in `folder` and returns its Path. A world made earlier with the same settings is reused.

    Recordings are 16 kHz mono FLAC files of `seconds` each, rendered by `workers` processes (None: up to one per CPU core).
    `progress` shows a progress bar, on a terminal only.
    The complete world appears by one rename; an interrupted making leaves nothing. Several processes may call this at once.
    Raises UserError when a setting is out of range, or when the folder holds anything else or cannot be written.
    """
    if seed < 0 or seconds < 0.1:
        raise UserError(f"demo world: seed = {seed} must be 0 or more, and seconds = {seconds} must be 0.1 or more")
    folder, workers = Path(os.path.abspath(folder)), workers or min(os.cpu_count(), 1 + recordings // 100)
    settings = {"recipe": RECIPE, "recordings": recordings, "seed": seed, "seconds": seconds}
    if _is_made(folder, settings):
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _locked(folder.parent) if fcntl else contextlib.nullcontext():
            if not _is_made(folder, settings):   # another process may have made it while this one waited
                _make(folder, settings, workers, progress)
    except UserError:
        if not _is_made(folder, settings):       # without locks another process may have finished first: same settings, same world
            raise
    except (OSError, soundfile.SoundFileError) as error:
        raise UserError(f"{folder}: cannot make the demo world here ({error}); make room, or choose another folder") from error
    return folder


def write_words(folder, pieces, seed=0):
    """Writes every file of the world except the audio and world.json; this needs no rendering. Raises UserError."""
    manifest, truth = [], []
    for piece in pieces:
        texts, about_music = words.texts(piece)
        manifest.append({"id": piece.id, "audio": f"audio/{piece.id}.flac", "split": piece.split,
                         "text": texts, "tags": words.tags(piece)})
        truth += [{"id": piece.id, "text": comment, "about_music": about} for comment, about in about_music]
    playlists = words.playlists([piece for piece in pieces if piece.split == "test"], seed)
    write_jsonl(folder / "manifest.jsonl", manifest)
    write_jsonl(folder / "lf_truth.jsonl", truth)
    write_jsonl(folder / "playlists.jsonl", playlists)
    write_jsonl(folder / "triplets.jsonl", words.triplets(playlists, seed))
    write_json(folder / "labels.json", words.labels())


def _is_made(folder, settings):
    """Returns whether the world with these settings exists. Raises UserError when the folder holds anything else."""
    if not folder.exists() or folder.is_dir() and not any(folder.iterdir()):
        return False
    try:
        existing = json.loads((folder / "world.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise UserError(f"{folder}: exists already and is no demo world; choose another folder") from None
    if existing != settings:
        raise UserError(f"{folder}: holds another demo world ({existing}, not {settings}); delete it or choose another folder")
    return True


@contextlib.contextmanager
def _locked(folder):
    """Holds a lock on `folder`. The system releases it when the process ends, even if the process is killed."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _make(folder, settings, workers, progress):
    with new_folder(folder, locked=fcntl is not None) as making:
        pieces = plan_pieces(settings["recordings"], settings["seed"])
        (making / "audio").mkdir()
        write_words(making, pieces, settings["seed"])
        with tqdm(total=len(pieces), desc="making the demo world", unit="clip", disable=None if progress else True) as bar:
            if workers > 1:
                _render_in_processes(making, settings, workers, bar)
            else:
                for _ in render_part(making, settings, 0, 1):
                    bar.update()
        write_text(making / "world.json", json.dumps(settings) + "\n")


def render_part(folder, settings, part, parts):
    """Renders the pieces part, part + parts, part + 2 parts, ... into folder/audio. A generator: it yields after each piece."""
    for piece in plan_pieces(settings["recordings"], settings["seed"])[part::parts]:
        pcm = 16 * np.round(render(piece, settings["seconds"]) * 2047).astype(np.int16)   # 12 bits: noise at -74 dB, smaller files
        soundfile.write(folder / "audio" / f"{piece.id}.flac", pcm, SAMPLE_RATE, subtype="PCM_16")
        yield


# The worker stops when its parent is gone. Otherwise it would go on in the background after the parent is killed.
_WORKER = """
import json, os, pathlib, sys
package, folder, settings, parts, parent, part = sys.argv[1:]
sys.path.insert(0, package)   # mulan_min may be a checkout that is not installed
from mulan_min.demo.world import render_part
for _ in render_part(pathlib.Path(folder), json.loads(settings), int(part), int(parts)):
    if os.getppid() != int(parent):
        sys.exit(1)
"""


def _render_in_processes(folder, settings, workers, bar):
    """Uses plain processes instead of multiprocessing, which fails in notebooks and in scripts without a __main__ guard."""
    arguments = (Path(__file__).parents[2], folder, json.dumps(settings), workers, os.getpid())
    command = [sys.executable, "-c", _WORKER, *map(str, arguments)]
    one_thread = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    processes = []
    try:
        for part in range(workers):   # in new sessions: Ctrl-C reaches only this process, which kills the others
            processes.append(subprocess.Popen([*command, str(part)], env={**os.environ, **one_thread}, start_new_session=True))
        codes = [None]
        while None in codes and not any(codes):
            time.sleep(0.05)
            codes = [process.poll() for process in processes]
            bar.update(len(os.listdir(folder / "audio")) - bar.n)
        if any(codes):
            raise OSError("a rendering process failed, its message is above")
    finally:
        for process in processes:
            process.kill()
            process.wait()
