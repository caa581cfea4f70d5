"""The demo world on disk: a collection with a manifest, made from a seed instead of downloaded.

    python -m mulan_min.demo FOLDER [--recordings N] [--seed S]

Training reads it by the same path as real music. All of it is our choice; the paper has no such data.
"""

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import soundfile
from tqdm import tqdm

from mulan_min.demo import words as synth_words
from mulan_min.demo.instruments import SAMPLE_RATE
from mulan_min.demo.pieces import plan_pieces, render
from mulan_min.errors import UserError

try:
    import fcntl
except ImportError:   # Windows: no lock, so two makings at once both work and the first to finish is kept
    fcntl = None

RECIPE = 5   # raise it when the same settings would give another world, so that old ones are not reused


def make_world(folder, recordings=4400, seed=0, seconds=12.0, workers=None, progress=True):
    """Make the demo world in `folder`, or reuse it at once if it is there with the same settings; -> Path.

    Recordings are 16 kHz mono FLAC files of `seconds` each, rendered by `workers` processes (None: up to one
    per CPU core). The world appears by one rename when complete: an interrupted making leaves nothing there.
    Raises UserError when a setting makes no sense, or the folder holds anything else or cannot be written.
    """
    if seed < 0 or seconds < 0:
        raise UserError(f"demo world: seed = {seed} and seconds = {seconds} must be 0 or more")
    folder, workers = Path(os.path.abspath(folder)), workers or min(os.cpu_count(), 1 + recordings // 100)
    settings = {"recipe": RECIPE, "recordings": recordings, "seed": seed, "seconds": seconds}
    if _is_made(folder, settings):
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _locked(folder.parent):
            if not _is_made(folder, settings):   # another process may have made it while we waited
                _make(folder, settings, workers, progress)
    except (OSError, soundfile.SoundFileError) as error:
        raise UserError(f"{folder}: cannot make the demo world here ({error}); make room, or choose another "
                        "folder") from error
    return folder


def write_words(folder, pieces, seed=0):
    """Write every file of the world but the audio and world.json: they need no rendering."""
    manifest, truth = [], []
    for piece in pieces:
        text, about_music = synth_words.texts(piece)
        manifest.append({"id": piece.id, "audio": f"audio/{piece.id}.flac", "split": piece.split,
                         "text": text, "tags": synth_words.tags(piece)})
        truth += [{"id": piece.id, "text": comment, "about_music": about} for comment, about in about_music]
    playlists = synth_words.playlists([piece for piece in pieces if piece.split == "test"], seed)
    for name, rows in [("manifest", manifest), ("lf_truth", truth), ("playlists", playlists),
                       ("triplets", synth_words.triplets(playlists, seed))]:
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    (folder / "labels.json").write_text(json.dumps(synth_words.labels(), indent=1) + "\n", encoding="utf-8")


def _is_made(folder, settings):
    """Whether the world with these settings is there; UserError when something else is."""
    if not folder.exists() or folder.is_dir() and not any(folder.iterdir()):
        return False
    try:
        found = json.loads((folder / "world.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise UserError(f"{folder}: is there already and is no demo world; choose another folder") from None
    if found != settings:
        raise UserError(f"{folder}: holds another demo world ({found}, not {settings}); delete it or choose "
                        "another folder")
    return True


@contextlib.contextmanager
def _locked(folder):
    """One process at a time; the system lets go of the lock when its holder dies, however that happens."""
    if fcntl is None:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _make(folder, settings, workers, progress):
    prefix = f".{folder.name}.making-"
    leftovers = [path for path in folder.parent.iterdir() if path.name.startswith(prefix)]
    for leftover in leftovers if fcntl else []:   # we hold the lock, so whoever made these was killed
        shutil.rmtree(leftover, ignore_errors=True)
    making = folder.parent / f"{prefix}{os.getpid()}"
    try:
        (making / "audio").mkdir(parents=True)
        pieces = plan_pieces(settings["recordings"], settings["seed"])
        write_words(making, pieces, settings["seed"])
        with tqdm(total=len(pieces), desc="making the demo world", unit="clip",
                  disable=None if progress else True) as bar:   # None: only on a terminal
            if workers > 1:
                _render_in_processes(making, settings, workers, bar)
            else:
                for _ in render_part(making, settings, 0, 1):
                    bar.update()
        (making / "world.json").write_text(json.dumps(settings) + "\n", encoding="utf-8")
        _rename(making, folder, settings)
    finally:
        shutil.rmtree(making, ignore_errors=True)


def _rename(making, folder, settings):
    try:
        if folder.exists():
            folder.rmdir()   # it was empty; a rename onto an empty folder is refused on Windows
        making.rename(folder)
    except OSError:
        if not _is_made(folder, settings):   # else another process was first, and its world is as good
            raise


def render_part(folder, settings, part, parts):
    """Render pieces part, part + parts, part + 2 parts, ... into folder/audio; yields after each."""
    for piece in plan_pieces(settings["recordings"], settings["seed"])[part::parts]:
        wave = np.clip(render(piece, settings["seconds"]), -1, 1)
        pcm = 16 * np.round(wave * 2047).astype(np.int16)   # 12 of 16 bits: noise at -74 dB, less disk
        soundfile.write(folder / "audio" / f"{piece.id}.flac", pcm, SAMPLE_RATE, subtype="PCM_16")
        yield


# Stops by itself when its parent is gone, so that a killed making does not go on in the background.
_WORKER = """
import json, os, pathlib, sys
from mulan_min.demo.world import render_part
folder, settings, part, parts, parent = sys.argv[1:]
for _ in render_part(pathlib.Path(folder), json.loads(settings), int(part), int(parts)):
    if os.getppid() != int(parent):
        sys.exit(1)
"""


def _render_in_processes(folder, settings, workers, bar):
    """Plain processes, not multiprocessing: fit for notebooks and for scripts without a __main__ guard."""
    path = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
    one_thread = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
    processes = []
    try:
        for part in range(workers):
            arguments = [str(folder), json.dumps(settings), str(part), str(workers), str(os.getpid())]
            processes.append(subprocess.Popen([sys.executable, "-c", _WORKER, *arguments],
                                              env={**os.environ, "PYTHONPATH": path, **one_thread},
                                              start_new_session=True))   # Ctrl-C reaches this process alone
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


def main(argv=None):
    parser = argparse.ArgumentParser("python -m mulan_min.demo", description="Make the demo world.")
    parser.add_argument("folder")
    parser.add_argument("--recordings", type=int, default=4400)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)
    try:
        began = time.perf_counter()
        folder = make_world(arguments.folder, arguments.recordings, arguments.seed)
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        print(f"{folder}: {arguments.recordings} recordings, {size / 1e6:.0f} MB, {time.perf_counter() - began:.0f} s")
    except UserError as error:
        parser.exit(2, f"error: {error}\n")


if __name__ == "__main__":
    main()
