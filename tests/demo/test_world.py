"""The world on disk: its contracts, and what remains when its making is stopped, repeated or run twice at once."""
import hashlib
import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from mulan_min.data import read_manifest
from mulan_min.demo import world as world_module
from mulan_min.demo.pieces import plan_pieces
from mulan_min.demo.rendering import render
from mulan_min.demo.world import make_world, write_words
from mulan_min.errors import UserError

ROOT = Path(__file__).parents[2]
TINY = {"recordings": 24, "seconds": 0.5, "workers": 1, "progress": False}


def rows(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def digests(folder):
    return {path.relative_to(folder): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("made") / "world", **TINY)


@pytest.fixture(scope="module")
def full_size(tmp_path_factory):
    """The texts of the default world, without its audio."""
    folder = tmp_path_factory.mktemp("words")
    write_words(folder, plan_pieces(4400, 0))
    return folder


def test_audio_files_hold_the_rendered_waveforms(world):
    for piece in plan_pieces(24, 0):
        info = soundfile.info(world / "audio" / f"{piece.id}.flac")
        assert (info.samplerate, info.channels, info.frames) == (16000, 1, 8000)
        assert (info.format, info.subtype) == ("FLAC", "PCM_16")
        waveform = soundfile.read(world / "audio" / f"{piece.id}.flac", dtype="float64")[0] * 2048 / 2047
        np.testing.assert_allclose(waveform, render(piece, 0.5), atol=0.51 / 2047)      # 12 bits


def test_read_manifest_accepts_it(world):
    recordings = read_manifest(world)
    assert [recording.id for recording in recordings] == [f"r{i:05d}" for i in range(24)]
    assert all(Path(recording.audio).exists() for recording in recordings)
    assert json.loads((world / "world.json").read_text())["recordings"] == 24
    assert rows(world / "playlists.jsonl") and rows(world / "triplets.jsonl")


def test_files_of_the_full_size_keep_their_contracts(full_size):
    manifest, labels = rows(full_size / "manifest.jsonl"), json.loads((full_size / "labels.json").read_text())
    by_id = {row["id"]: row for row in manifest}
    assert len(by_id) == len(manifest) == 4400
    for row in manifest:
        assert row.keys() == {"id", "audio", "split", "text", "tags"}
        assert row["split"] in ("train", "valid", "test") and row["audio"] == f"audio/{row['id']}.flac"
        assert {"sf"} <= row["text"].keys() <= {"sf", "lf", "pl", "aset"} and all(row["text"].values())
        assert set(row["tags"]) <= {*labels["all"], *labels["held_out_synonyms"]}
    playlists = rows(full_size / "playlists.jsonl")
    assert len(playlists) >= 60
    for row in playlists:
        assert row.keys() == {"title", "description", "tracks"}
        assert len(set(row["tracks"])) == len(row["tracks"]) >= 3
        assert {by_id[track]["split"] for track in row["tracks"]} == {"test"}
    triplets = rows(full_size / "triplets.jsonl")
    assert {row["set"] for row in triplets} == {"ontology", "playlist"}
    assert all(row.keys() == {"set", "anchor", "positive", "negative"} for row in triplets)
    truth = rows(full_size / "lf_truth.jsonl")
    assert [(row["id"], row["text"]) for row in truth] == [
        (row["id"], text) for row in manifest for text in row["text"].get("lf", [])]
    assert {row["about_music"] for row in truth} == {True, False}


def test_no_training_pair_of_genre_and_lead_is_in_test_or_valid(full_size):
    manifest = rows(full_size / "manifest.jsonl")
    pairs = {split: {tuple(row["tags"][:2]) for row in manifest if row["split"] == split}
             for split in ("train", "valid", "test")}
    assert all(len(pair) >= 10 for pair in pairs.values())
    assert not pairs["train"] & (pairs["test"] | pairs["valid"])


def test_same_seed_same_bytes_with_any_number_of_workers(world, tmp_path):
    again = make_world(tmp_path / "again", **{**TINY, "workers": 2})
    assert len(digests(world)) == 24 + 6 and digests(again) == digests(world)
    other = make_world(tmp_path / "other", seed=1, **TINY)
    changed = {path for path, digest in digests(other).items() if digest != digests(world)[path]}
    assert changed == set(digests(world)) - {Path("labels.json")}


def test_a_finished_world_is_reused_and_never_overwritten(world, monkeypatch):
    before = digests(world)
    monkeypatch.setattr(world_module, "_make", lambda *_: pytest.fail("made again"))
    assert make_world(world, **TINY) == world
    for settings in ({"seed": 1}, {"recordings": 25}, {"seconds": 1.0}):
        with pytest.raises(UserError, match="delete it or choose another folder") as error:
            make_world(world, **{**TINY, **settings})
        assert str(world) in str(error.value) and "\n" not in str(error.value)
    assert digests(world) == before


def test_folders_with_other_things_are_left_alone(tmp_path):
    (tmp_path / "music").mkdir()
    (tmp_path / "music" / "song.wav").write_text("precious")
    (tmp_path / "file").write_text("precious")
    for name in ("music", "file"):
        with pytest.raises(UserError, match="no demo world; choose another folder"):
            make_world(tmp_path / name, **TINY)
    assert (tmp_path / "music" / "song.wav").read_text() == (tmp_path / "file").read_text() == "precious"
    with pytest.raises(UserError, match="cannot make the demo world here"):
        make_world(tmp_path / "file" / "below", **TINY)
    (tmp_path / "empty").mkdir()
    assert (make_world(tmp_path / "empty", **TINY) / "world.json").exists()


@pytest.mark.parametrize("settings", [{"recordings": 2}, {"seed": -1}, {"seconds": -1.0}, {"seconds": 0.0}])
def test_settings_out_of_range_are_refused(tmp_path, settings):
    with pytest.raises(UserError):
        make_world(tmp_path / "world", **{**TINY, **settings})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, MemoryError, soundfile.LibsndfileError(1)])
def test_an_interrupted_making_leaves_nothing(world, tmp_path, monkeypatch, interruption):
    def render_some(piece, seconds):
        if piece.id == "r00007":
            raise interruption
        return render(piece, seconds)

    with monkeypatch.context() as patch:
        patch.setattr(world_module, "render", render_some)
        with pytest.raises((KeyboardInterrupt, MemoryError, UserError)):
            make_world(tmp_path / "world", **TINY)
    assert not list(tmp_path.iterdir())
    assert digests(make_world(tmp_path / "world", **TINY)) == digests(world)


def test_a_killed_making_is_cleaned_up_and_made_again(tmp_path):
    script = "import sys, mulan_min.demo.world as world; world.make_world(sys.argv[1], 400, workers=2)"
    making = subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "world")], cwd=ROOT, stdout=subprocess.PIPE)
    rendered = lambda: len(list(tmp_path.glob(".world.making-*/audio/*.flac")))
    deadline = time.monotonic() + 300
    while not rendered():
        assert time.monotonic() < deadline and making.poll() is None
        time.sleep(0.05)
    os.kill(making.pid, signal.SIGKILL)
    making.wait()
    before = rendered()
    making.communicate(timeout=300)  # returns when both workers have stopped, because they hold the pipe's other end
    assert 0 < before <= rendered() <= before + 2   # each worker finished the piece in progress and noticed that its parent is gone
    assert not (tmp_path / "world").exists()
    make_world(tmp_path / "world", **TINY)
    assert [path.name for path in tmp_path.iterdir()] == ["world"]
    assert len(digests(tmp_path / "world")) == 24 + 6


def test_two_makings_at_once_give_one_world(world, tmp_path, monkeypatch):
    rendered, failures = [], []

    def slow_render(piece, seconds):
        rendered.append(piece.id)
        time.sleep(0.005)
        return render(piece, seconds)

    def make():
        try:
            make_world(tmp_path / "world", **TINY)
        except BaseException as error:
            failures.append(error)

    monkeypatch.setattr(world_module, "render", slow_render)
    threads = [threading.Thread(target=make) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures and sorted(rendered) == [f"r{i:05d}" for i in range(24)]   # the other threads waited
    assert digests(tmp_path / "world") == digests(world) and len(list(tmp_path.iterdir())) == 1


def test_two_processes_at_once_both_work(world, tmp_path):
    code = "import sys; from mulan_min.demo.world import make_world; make_world(sys.argv[1], 24, seconds=0.5, workers=2)"
    processes = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "world")], cwd=ROOT) for _ in range(2)]
    assert [process.wait(timeout=300) for process in processes] == [0, 0]
    assert digests(tmp_path / "world") == digests(world) and len(list(tmp_path.iterdir())) == 1


def test_workers_find_the_package_where_it_is_not_installed(world, tmp_path):
    """`python some/checkout/train.py` works from any folder, without an installation: the workers import the same package."""
    shutil.copytree(ROOT / "mulan_min", tmp_path / "checkout" / "mulan_min")
    mark = tmp_path / "checkout" / "mulan_min" / "demo" / "rendering.py"
    mark.write_text(mark.read_text() + "\nprint(__file__)\n")
    code = "import sys; sys.path.insert(0, sys.argv[1]); from mulan_min.demo.world import make_world; make_world('world', 24, " \
        "seconds=0.5, workers=2)"
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "checkout")], cwd=tmp_path, env=env,
                          check=True, capture_output=True, text=True)
    assert done.stdout.split() == [str(mark)] * 3 and digests(tmp_path / "world") == digests(world)


def test_without_locks_the_first_to_finish_is_kept(world, tmp_path, monkeypatch):
    def render_late(piece, seconds):
        if not (tmp_path / "world").exists():
            shutil.copytree(world, tmp_path / "world")   # another process finishes first
            (tmp_path / "world" / "mark").touch()
        return render(piece, seconds)

    monkeypatch.setattr(world_module, "fcntl", None)
    monkeypatch.setattr(world_module, "render", render_late)
    make_world(tmp_path / "world", **TINY)
    assert (tmp_path / "world" / "mark").exists() and len(list(tmp_path.iterdir())) == 1


def test_a_failing_worker_is_one_clear_line(tmp_path, monkeypatch):
    monkeypatch.setattr(world_module, "_WORKER", "raise SystemExit('no disk')")
    with pytest.raises(UserError, match="rendering process failed"):
        make_world(tmp_path / "world", **{**TINY, "workers": 2})
    assert not list(tmp_path.iterdir())


def test_the_command(tmp_path, monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["mulan_min.demo", str(tmp_path), *arguments])
        runpy.run_module("mulan_min.demo", run_name="__main__")

    calls = []
    with monkeypatch.context() as patch:
        patch.setattr(world_module, "make_world", lambda *arguments: calls.append(arguments) or tmp_path)
        run("--recordings", "30", "--seed", "7")
    assert calls == [(str(tmp_path), 30, 7)] and capsys.readouterr().out == f"{tmp_path}: 30 recordings, 0 MB, 0 s\n"
    (tmp_path / "something").touch()
    with pytest.raises(SystemExit) as stop:
        run()
    assert stop.value.code == 2 and capsys.readouterr().err.count("\n") == 1
