"""eval.py on a checkpoint of a tiny untrained model, and the message for each wrong call."""

import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from mulan_min import checkpoint, loader
from mulan_min.command_line import run_script
from mulan_min.config import preset
from mulan_min.data import read_manifest
from mulan_min.embedding import embed_recordings
from mulan_min.errors import UserError
from mulan_min.metrics import roc_auc
from mulan_min.mulan import MuLan
from mulan_min.wordpiece import train_wordpiece

SCRIPT = Path(__file__).parents[1] / "eval.py"
spec = importlib.util.spec_from_file_location("eval_script", SCRIPT)
evaluate = importlib.util.module_from_spec(spec)
spec.loader.exec_module(evaluate)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with a collection `songs` of 24 short noises, and a run `runs/tiny` whose config names that collection."""
    root = tmp_path_factory.mktemp("world")
    songs, rng = root / "songs", np.random.default_rng(0)
    songs.mkdir()
    rows = []
    for i in range(24):
        soundfile.write(songs / f"{i}.wav", 0.1 * rng.normal(size=16000) * (i % 2 + 0.1), 16000)
        split = ("train", "valid", "test")[i % 3]
        tags = ["loud" if i % 2 else "quiet"] + ["odd"] * (i % 5 == 0)
        text = {"sf": [f"song {i}"]}
        rows.append({"id": f"s{i}", "audio": f"{i}.wav", "split": split, "text": text, "tags": tags})
    rows[2] |= {"start": 0.25, "duration": 0.5}
    write_lines(songs / "manifest.jsonl", rows)
    labels = {"volume": ["loud", "quiet"], "all": ["loud", "quiet", "odd"]}
    (songs / "labels.json").write_text(json.dumps(labels))
    test = [row["id"] for row in rows if row["split"] == "test"]
    playlist = {"title": "some", "description": "a few of them", "tracks": test[:3]}
    write_lines(songs / "playlists.jsonl", [playlist])
    triplet = {"set": "s", "anchor": "loud", "positive": "noisy", "negative": "quiet"}
    write_lines(songs / "triplets.jsonl", [triplet])

    config = preset("smoke", "ast")
    config.data.data = [str(songs)]
    torch.manual_seed(0)
    model = MuLan(config, train_wordpiece(["loud noisy quiet odd song some a few of them"], 100))
    state = {"config": config.to_dict(), "tokenizer": model.tokenizer.to_str(), "model": model.state_dict()}
    (root / "runs" / "tiny").mkdir(parents=True)
    checkpoint.save(root / "runs" / "tiny" / "best.pt", state)
    return root


def write_lines(path, rows):
    path.write_text("\n".join(json.dumps(row) for row in rows))


def copy_songs(world, folder, leave_out):
    folder.mkdir(exist_ok=True)
    for path in (world / "songs").iterdir():
        if path.name not in leave_out:
            os.link(path, folder / path.name)
    return folder


def test_all_tasks_write_what_they_return(world, monkeypatch, capsys):
    monkeypatch.chdir(world)
    results = evaluate.main(["--task", "all"])
    assert list(results) == ["tagging", "probe", "retrieval", "triplet"]
    for name, result in results.items():
        assert json.loads((world / "runs" / "tiny" / "eval" / f"{name}.json").read_text()) == result
        assert result["run"] == "runs/tiny" and result["seed"] == 0
        (part,) = result["collections"]
        assert part["data"] == "songs" and part["recordings"] == (0 if name == "triplet" else 8)      # below the working folder
    # The same value from the model itself, one recording at a time.
    model = MuLan.load(world / "runs" / "tiny")
    test = [r for r in read_manifest(world / "songs") if r.split == "test"]
    audio = np.stack([embed_recordings(model, [r])[0] for r in test])
    areas = []
    for label in ("loud", "quiet"):
        scores = audio @ model.embed_text([label]).numpy()[0]
        areas.append(roc_auc(scores, [label in r.tags for r in test]))
    volume = results["tagging"]["collections"][0]["sets"]["volume"]
    assert volume["roc_auc"]["value"] == pytest.approx(np.mean(areas), abs=1e-9)
    printed = capsys.readouterr().out
    assert all(f"\n{name}: runs/tiny on " in printed for name in results)
    value, (low, high) = volume["roc_auc"]["value"], volume["roc_auc"]["interval"]
    row = next(line for line in printed.splitlines() if line.startswith("volume"))
    assert row.split() == ["volume", "ROC-AUC", f"{value:.3f}", f"{low:.3f}", "-", f"{high:.3f}", "0.500"]


def test_unreadable_recordings_are_left_out_named_and_refused_above_the_share_of_training(world, tmp_path, monkeypatch, capsys):
    """The values are those of the collection without the broken file."""
    run = tmp_path / "runs" / "tiny"
    run.mkdir(parents=True)
    os.link(world / "runs" / "tiny" / "best.pt", run / "best.pt")
    songs = copy_songs(world, tmp_path / "songs", {"manifest.jsonl"})
    rows = [json.loads(line) for line in (world / "songs" / "manifest.jsonl").read_text().splitlines()]
    (songs / "broken.wav").write_bytes(b"no music")
    broken = [rows[i] | {"id": f"bad {split}", "audio": "broken.wav"} for i, split in ((0, "train"), (2, "test"))]
    write_lines(songs / "manifest.jsonl", [*broken, *rows])
    call = ["--run", str(run), "--data", str(songs)]
    monkeypatch.setattr(loader, "SKIPPED_SHARE", 1 / 9)
    results = evaluate.main(["--task", "all", *call])
    expected = evaluate.main(["--task", "all", "--run", str(run), "--data", str(world / "songs")])
    printed = capsys.readouterr().err
    for name, bad in (("tagging", ["test"]), ("probe", ["train", "test"]), ("retrieval", ["test"]), ("triplet", [])):
        (part,), (other,) = results[name]["collections"], expected[name]["collections"]
        assert part["sets"] == other["sets"] and part["recordings"] == other["recordings"]
        lines = [f"{songs}: 1 of 9 recordings cannot be read; left out: bad {split} ({songs / 'broken.wav'}: not audio" for split in bad]
        found = [note for note in part["notes"] if note not in other["notes"]]
        assert len(found) == len(lines) and all(note.startswith(line) for note, line in zip(found, lines))
        assert all(f"note: {note}\n" in printed for note in found)
    evaluate.main(["--task", "probe", *call])
    assert "bad train" in (run / "eval" / "probe.json").read_text()
    monkeypatch.setattr(loader, "SKIPPED_SHARE", 0.01)
    for task in ("tagging", "probe", "retrieval"):
        with pytest.raises(UserError, match=r"^1 of 9 recordings cannot be read, more than 1%: .*broken.wav: not audio"):
            evaluate.main(["--task", task, *call])
    evaluate.main(["--task", "triplet", *call])      # needs no audio


def test_two_evaluations_are_equal(world):
    call = ["--task", "probe", "--run", str(world / "runs" / "tiny")]
    first, second = (evaluate.main(call)["probe"]["collections"][0] for _ in range(2))
    assert first["sets"] == second["sets"]


def test_the_newest_run_is_the_default(world, tmp_path, monkeypatch):
    for i, name in enumerate(("new", "old")):
        (tmp_path / "runs" / name).mkdir(parents=True)
        target = tmp_path / "runs" / name / ("last.pt" if name == "new" else "best.pt")
        os.link(world / "runs" / "tiny" / "best.pt", target) if name == "new" else target.write_bytes(b"")
        os.utime(target, (time.time() - 100 * i,) * 2)
    (tmp_path / "runs" / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    assert evaluate.main(["--task", "triplet"])["triplet"]["run"] == "runs/new"


def test_a_missing_file_skips_its_task_only_if_another_works(world, tmp_path, capsys):
    songs = copy_songs(world, tmp_path / "songs", {"labels.json"})
    call = ["--run", str(world / "runs" / "tiny"), "--data", str(songs)]
    assert list(evaluate.main(["--task", "all", *call])) == ["retrieval", "triplet"]
    skipped = [line for line in capsys.readouterr().err.splitlines() if line.startswith("skipped")]
    assert skipped == [f"skipped {name}: {songs}/labels.json: no such file; it should hold "
                       '{"set name": ["label", ...]}' for name in ("tagging", "probe")]  # fmt: skip
    with pytest.raises(UserError, match="labels.json: no such file"):
        evaluate.main(["--task", "tagging", *call])


def test_each_collection_gets_its_own_result(world, tmp_path):
    bare = copy_songs(world, tmp_path / "bare", {"labels.json"})
    twin = copy_songs(world, tmp_path / "twin", set())
    data = [arg for folder in (world / "songs", bare, twin) for arg in ("--data", str(folder))]
    result = evaluate.main(["--task", "tagging", "--run", str(world / "runs" / "tiny"), *data])["tagging"]
    parts = result["collections"]
    assert [part["data"] for part in parts] == [str(world / "songs"), str(twin)]
    assert parts[0]["sets"] == parts[1]["sets"]


@pytest.mark.parametrize("arguments, message", [
    (["--task", "dancing"], "--task 'dancing' is not one of tagging, probe, retrieval, triplet, autotag, all"),
    ([], "no run under runs/"),
    (["--run", "nowhere"], "nowhere: no checkpoint"),
    (["--run", "RUN", "--data", "nowhere"], "nowhere: no such folder"),
    (["--run", "RUN", "--data", ".", "--task", "triplet"], "triplets.jsonl: no such file"),
    (["--run", "RUN", "--data", ".", "--task", "retrieval"], "manifest.jsonl: no such file"),
])  # fmt: skip
def test_a_wrong_call_is_one_line_and_exit_code_2(world, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    arguments = [str(world / "runs" / "tiny") if a == "RUN" else a for a in arguments]
    monkeypatch.setattr(sys, "argv", ["eval.py", *arguments])
    with pytest.raises(SystemExit) as end:
        run_script(evaluate.main)
    err = capsys.readouterr().err
    assert end.value.code == 2 and err.startswith("error: ") and err.count("\n") == 1 and message in err


def test_the_script_itself(tmp_path):
    call = [sys.executable, str(SCRIPT), "--task", "tagging"]
    done = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: no run under runs/") and done.stderr.count("\n") == 1
