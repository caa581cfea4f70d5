"""The run folder: a run goes on from another folder, and with a collection that has moved."""
import json
import shutil
from dataclasses import replace

import pytest
import torch

import train
from mulan_min import checkpoint, run_folder
from mulan_min.config import resolve
from mulan_min.data import read_collection
from mulan_min.errors import UserError


def arguments(*more):
    return ["--preset", "smoke", "--workers", "0", "--precision", "fp32", "--text-warmup", "0", *more]


def test_a_run_goes_on_from_another_folder_and_with_a_collection_that_has_moved(small_world, tmp_path, monkeypatch):
    """The config holds absolute paths. The final weights are those of a run that was neither stopped nor moved."""
    home, away = tmp_path / "home", tmp_path / "away"
    home.mkdir()
    away.mkdir()
    shutil.copytree(small_world, home / "mine")
    monkeypatch.chdir(home)
    whole = train.main(arguments("--data", "mine", "--run", "whole"))
    assert json.loads((home / "whole" / "config.json").read_text())["data"]["data"] == [str(home / "mine")]

    def stop_after_6(*_, step=iter(range(100)), original=torch.optim.AdamW.step, **__):
        if next(step) == 6:
            raise KeyboardInterrupt
        return original(*_, **__)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(torch.optim.AdamW, "step", stop_after_6)
        train.main(arguments("--data", "mine", "--run", "cut"))
    shutil.copytree(home / "cut", home / "again")
    monkeypatch.chdir(away)
    weights = [train.main(["--resume", "--run", str(home / "cut")]).state_dict()]
    (home / "mine").rename(away / "ours")
    with pytest.raises(UserError, match="mine.manifest.jsonl: no such file"):
        train.main(["--resume", "--run", str(home / "again")])
    weights.append(train.main(["--resume", "--run", str(home / "again"), "--data", "ours"]).state_dict())
    assert checkpoint.load(home / "again" / "last.pt")["config"]["data"]["data"] == [str(away / "ours")]
    for state in weights:
        assert all(torch.equal(value, state[name]) for name, value in whole.state_dict().items())


def test_a_resumed_run_needs_the_same_recordings(small_world, tmp_path):
    shutil.copytree(small_world, tmp_path / "mine")
    manifest = tmp_path / "mine" / "manifest.jsonl"
    first, *rest = manifest.read_text().splitlines(keepends=True)
    run = str(tmp_path / "run")
    train.main(arguments("--data", str(tmp_path / "mine"), "--run", run, "--steps", "2"))
    manifest.write_text("".join(rest) + first)
    with pytest.raises(UserError, match="last.pt: was trained on another collection, .* with --data, or start another run with --run$"):
        train.main(["--resume", "--run", run])
    with pytest.raises(UserError, match="--shards does not go with --data"):
        train.main(["--resume", "--run", run, "--shards", small_world])


def test_the_fingerprint_depends_on_everything_that_training_reads_but_not_on_paths(small_world):
    recordings = read_collection([small_world], "train")
    number = run_folder.fingerprint(recordings)
    assert run_folder.fingerprint([replace(r, audio=tmp) for r, tmp in zip(recordings, "abc" * 100)]) == number
    changes = {"id": "x", "start": 0.5, "duration": 1.0, "text": {"sf": ["x"]}, "tags": ["x"]}
    others = [[replace(recordings[0], **{name: value}), *recordings[1:]] for name, value in changes.items()]
    assert number not in {run_folder.fingerprint(other) for other in [*others, recordings[1:], recordings[::-1]]}


def test_paths_are_absolute_in_a_new_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, config, _ = run_folder.open_run({"data": ["a", "../b"], "run": "r"}, torch.device("cpu"))
    assert config.data.data == [str(tmp_path / "a"), str(tmp_path.parent / "b")]
    assert resolve({}).data.data == []


def test_the_clock_by_hand(monkeypatch):
    """A wait counts as a share of the time since the last line; a pause, as for validation, does not count there at all."""
    now = [50.0]
    monkeypatch.setattr(run_folder.time, "perf_counter", lambda: now[0])

    def passes(seconds):
        now[0] += seconds

    clock = run_folder.Clock(100.0)      # resumed after 100 s of training
    passes(6)
    with clock.waiting():
        passes(2)
    with clock.paused():
        passes(30)
    assert clock.rates(24) == {"clips_per_s": 24 / 8, "wait": 2 / 8, "seconds": 138.0}
    with clock.paused():
        passes(5)
    passes(4)
    assert clock.rates(12) == {"clips_per_s": 12 / 4, "wait": 0.0, "seconds": 147.0} and clock.seconds() == 147.0
