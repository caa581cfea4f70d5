"""train.py: what it saves, what it resumes, and how it stops."""
import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import train
from mulan_min import checkpoint
from mulan_min.config import TOWERS, UserError, resolve
from mulan_min.mulan import MuLan

ROOT = Path(__file__).parent.parent


def smoke(world, run, *more):
    return train.main(["--preset", "smoke", "--data", world, "--run", str(run), "--workers", "0", *more])


def same(a, b):
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def weights(run):
    state = checkpoint.load(run / "last.pt")
    return {k: state[k] for k in ("step", "model", "optimizer", "best")}


@pytest.fixture(scope="module", params=TOWERS)
def whole(request, small_world, tmp_path_factory):
    """An uninterrupted run of each tower."""
    run = tmp_path_factory.mktemp("runs") / request.param
    smoke(small_world, run, "--audio", request.param)
    return run


def test_a_run_leaves_what_it_says(whole):
    assert {p.name for p in whole.iterdir()} == {"config.json", "tokenizer.json", "metrics.jsonl", "last.pt", "best.pt"}
    rows = [json.loads(line) for line in (whole / "metrics.jsonl").open()]
    steps = [row for row in rows if "loss" in row]
    assert [row["step"] for row in steps] == [4, 8, 12] and [row["step"] for row in rows if "valid_auc" in row] == [6, 12]
    for row in steps:
        assert row["chance"] == pytest.approx(math.log(2 * 11)) and row["r1_chance"] == pytest.approx(1 / 12)
        assert 0 <= row["wait"] <= 1 and row["clips_per_s"] > 0 and math.isfinite(row["grad_norm"])
        assert abs(row["loss"] - row["chance"]) < 3
    assert MuLan.load(whole).embed_text(["waltz"]).norm().item() == pytest.approx(1, abs=1e-6)
    assert json.loads((whole / "config.json").read_text())["optim"]["precision"] in ("bf16", "fp32")


def interrupted(world, run, audio, monkeypatch, at, action):
    calls, clamp = [], train.clamp_temperature

    def counted(*args):
        calls.append(1)
        if len(calls) == at:
            action()
        return clamp(*args)

    monkeypatch.setattr(train, "clamp_temperature", counted)
    try:
        smoke(world, run, "--audio", audio)
    except RuntimeError:
        pass
    monkeypatch.setattr(train, "clamp_temperature", clamp)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopped_by_a_signal_and_resumed_is_the_same_to_the_bit(whole, small_world, tmp_path, monkeypatch, number):
    run, handler = tmp_path / "run", signal.getsignal(number)
    interrupted(small_world, run, whole.name, monkeypatch, 5, lambda: os.kill(os.getpid(), number))
    assert checkpoint.load(run / "last.pt")["step"] == 5                  # the step in hand is finished, then saved
    assert signal.getsignal(number) == handler
    smoke(small_world, run, "--audio", whole.name, "--resume")
    assert same(weights(run), weights(whole))
    assert [json.loads(line)["step"] for line in (run / "metrics.jsonl").open()] == [4, 6, 8, 12, 12]


def test_crashed_and_resumed_is_the_same_to_the_bit(whole, small_world, tmp_path, monkeypatch):
    def crash():
        raise RuntimeError("power cut")

    run = tmp_path / "run"
    interrupted(small_world, run, whole.name, monkeypatch, 9, crash)
    assert checkpoint.load(run / "last.pt")["step"] == 6
    smoke(small_world, run, "--audio", whole.name, "--resume", "--workers", "1")      # nor do workers matter
    assert same(weights(run), weights(whole))
    assert [json.loads(line)["step"] for line in (run / "metrics.jsonl").open()] == [4, 6, 8, 12, 12]


def test_the_seed_matters(whole, small_world, tmp_path):
    smoke(small_world, tmp_path / "run", "--audio", whole.name, "--seed", "1")
    assert not same(weights(tmp_path / "run")["model"], weights(whole)["model"])


def test_a_loss_that_is_not_finite_names_the_step_and_the_batch(small_world, tmp_path, monkeypatch):
    losses, real = [], train.cmc_loss

    def broken(*args):
        losses.append(real(*args))
        return losses[-1] * (math.nan if len(losses) == 8 else 1)

    monkeypatch.setattr(train, "cmc_loss", broken)
    with pytest.raises(UserError, match=r"step 7: the loss is nan; .*: r0\d+, r0"):
        smoke(small_world, tmp_path / "run")
    assert checkpoint.load(tmp_path / "run" / "last.pt")["step"] == 6     # the last good one


def test_nothing_saved_is_lost_by_starting_again(whole, small_world):
    before = (whole / "last.pt").read_bytes()
    with pytest.raises(UserError, match="--resume.*--overwrite"):
        smoke(small_world, whole, "--audio", whole.name)
    with pytest.raises(UserError, match="--lr 0.5 differs from the run's"):
        smoke(small_world, whole, "--audio", whole.name, "--resume", "--lr", "0.5")
    assert (whole / "last.pt").read_bytes() == before


def test_bad_starts_are_one_line_and_exit_code_2(tmp_path):
    (tmp_path / "file").write_text("")
    for arguments, message in ((["--data", "nowhere"], "nowhere/manifest.jsonl: no such file"),
                               (["--resume", "--run", "none"], "none/last.pt: no such checkpoint"),
                               (["--run", "file/x"], "file/x: cannot be used as run folder"),
                               (["--ratio", "sf=x"], "--ratio")):
        done = subprocess.run([sys.executable, ROOT / "train.py", "--preset", "smoke", *arguments], cwd=tmp_path,
                              capture_output=True, text=True)
        assert done.returncode == 2, done.stderr
        assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and message in done.stderr


def test_learning_rate_rises_then_falls_to_zero():
    optim = resolve({"steps": 100, "warmup": 0.1}).optim
    rates = [train.schedule(step, optim) for step in range(101)]
    assert rates[0] == pytest.approx(0.1) and rates[9] == pytest.approx(1.0) and rates[10] == pytest.approx(1.0)
    assert rates[55] == pytest.approx(0.5) and rates[100] == pytest.approx(0.0)
    assert all(a >= b for a, b in zip(rates[10:], rates[11:]))


def test_validation_counts_how_often_the_own_text_wins():
    """Against counting by hand, with a tie: recording 0's text ties with 1's audio."""
    class Known:
        config = resolve({"preset": "smoke"})

        def embed_audio(self, waves):
            return torch.tensor([[1.0, 0], [1.0, 0], [0, 1.0]])

        def embed_text(self, texts):
            return torch.tensor([{"zero": [1.0, 0], "one": [0.0, 1.0], "two": [0.0, 1.0]}[t] for t in texts])

    class Recording:
        def __init__(self, text):
            self.text = {"sf": [text]}

    train_read, train.read_clip_window = train.read_clip_window, lambda *_: None
    try:
        value = train.validate(Known(), [Recording(t) for t in ("zero", "one", "two")])
    finally:
        train.read_clip_window = train_read
    assert value == pytest.approx(((0.5 + 1) / 2 + (0 + 0.5) / 2 + 1) / 3)
