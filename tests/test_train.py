"""train.py: what it saves, what it resumes, and how it stops."""
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import entropy
from test_distributed import make
from test_loss import brute_force

import eval as evaluate
import train
from mulan_min import checkpoint, contrastive, run_folder, tag_classifier
from mulan_min.audio import read_window
from mulan_min.config import TOWERS, resolve
from mulan_min.errors import UserError
from mulan_min.loss import recall_at_1
from mulan_min.mulan import MuLan
from mulan_min.shards.pack import pack
from mulan_min.tag_classifier import TagClassifier
from mulan_min.weights import __main__ as export

ROOT = Path(__file__).parent.parent
PRECISIONS = {"ast": "bf16", "resnet50": "fp32"}      # of the runs that are compared, so every machine trains in both


def smoke(world, run, *more):
    """A run in float32, unless `more` says otherwise: --precision auto would depend on the machine."""
    return train.main(["--preset", "smoke", "--data", world, "--run", str(run), "--workers", "0", "--precision", "fp32", *more])


def of(audio):
    """The flags of the uninterrupted run of a tower."""
    return ["--audio", audio, "--precision", PRECISIONS[audio]]


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
    smoke(small_world, run, *of(request.param))
    return run


def test_a_run_leaves_what_it_says(whole):
    assert {p.name for p in whole.iterdir() if p.name != "eval"} == {"config.json", "tokenizer.json", "metrics.jsonl", "last.pt", "best.pt"}
    rows = [json.loads(line) for line in (whole / "metrics.jsonl").open()]
    steps = [row for row in rows if "loss" in row]
    assert [row["step"] for row in steps] == [4, 8, 12] and [row["step"] for row in rows if "valid_auc" in row] == [6, 12]
    for row in steps:
        assert row["chance"] == pytest.approx(math.log(2 * 11)) and row["r1_chance"] == pytest.approx(1 / 12)
        assert 0 <= row["wait"] <= 1 and row["clips_per_s"] > 0 and math.isfinite(row["grad_norm"])
        assert abs(row["loss"] - row["chance"]) < 0.3      # it has learned nothing yet
    assert MuLan.load(whole).embed_text(["waltz"]).norm().item() == pytest.approx(1, abs=1e-6)
    assert json.loads((whole / "config.json").read_text())["optim"]["precision"] == PRECISIONS[whole.name]


def test_the_log_says_whether_it_learns(small_world, tmp_path, capsys, monkeypatch):
    """In a pipe: plain lines, no progress bar; loss and R@1 beside what chance would give, and nothing hidden. The loss is the
    formula's, of the embeddings of that step."""
    expected, real = [], contrastive.cmc_loss

    def watched(audio, text, tau, gathered, keys):
        expected.append(brute_force(audio.tolist(), text.tolist(), tau.item(), keys.tolist()))
        return real(audio, text, tau, gathered, keys)

    monkeypatch.setattr(contrastive, "cmc_loss", watched)
    smoke(small_world, tmp_path / "run")
    printed = capsys.readouterr()
    lines = [line for line in printed.out.splitlines() if re.match(r"step +\d+  loss", line)]
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    assert len(lines) == 3 and "\r" not in printed.out and "step" not in printed.err
    for line, row in zip(lines, (row for row in rows if "loss" in row)):
        assert f"loss {row['loss']:.3f} (chance 3.091)" in line and f"R@1 {row['r1']:.3f} (chance 0.083)" in line
        assert all(name in line for name in ("tau ", "grad ", "clips/s", "data wait"))
        assert row["loss"] == pytest.approx(expected[row["step"] - 1], abs=1e-5)


def test_clips_per_second_are_those_since_the_last_line(small_world, tmp_path, monkeypatch):
    counted, rates = [], run_folder.Clock.rates
    monkeypatch.setattr(run_folder.Clock, "rates", lambda self, clips: counted.append(clips) or rates(self, clips))
    smoke(small_world, tmp_path, "--steps", "5", "--log-every", "2", "--seconds", "1", "--text-warmup", "0")
    assert counted == [24, 24, 12]      # 12 clips a step; the last line comes after one step


def test_recall_at_1_by_hand():
    audio, text = torch.tensor([[1.0, 0], [0, 1.0], [0.6, 0.8]]), torch.tensor([[1.0, 0], [0.8, 0.6], [0.6, 0.8]])
    assert recall_at_1(audio, text) == pytest.approx(2 / 3)      # nearest texts: 0, 2, 2


def test_gradients_are_clipped(small_world, tmp_path, monkeypatch):
    """All are larger before, as the log says, which gives their norm before clipping."""
    norms, step = [], torch.optim.AdamW.step

    def watched(self, *args, **kwargs):
        norms.append(torch.stack([p.grad.norm() for g in self.param_groups for p in g["params"] if p.grad is not None]).norm().item())
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", watched)
    logged = []
    for clip in ("0.01", "1e6"):
        smoke(small_world, tmp_path / clip, "--clip-norm", clip, "--text-warmup", "0", "--log-every", "1", "--steps", "6", "--valid-every", "6")
        logged += [row["grad_norm"] for row in map(json.loads, open(tmp_path / clip / "metrics.jsonl")) if "loss" in row]
    assert norms[:6] == pytest.approx([0.01] * 6, rel=1e-3) and min(logged) > 0.1
    assert norms[6:] == pytest.approx(logged[6:], rel=1e-4) and logged[0] == pytest.approx(logged[6], rel=1e-4)


@pytest.mark.parametrize("objective, audio", [("contrastive", "ast"), ("tags", "resnet50"), ("joint-tags", "sample-cnn")])
def test_all_objectives_train_in_bfloat16_and_validate_in_float32(small_world, tmp_path, objective, audio):
    """By the outputs of the layers: of the text warm-up and of the steps, and of the validation, which computes no gradients. A step
    of the joint tagger may compute none either; its validation is in inference mode."""
    found, grad = {False: set(), True: set()}, objective != "joint-tags"

    def watch(module, _, out):
        if isinstance(module, (torch.nn.Linear, torch.nn.Conv1d, torch.nn.Conv2d)):
            found[not torch.is_grad_enabled() if grad else torch.is_inference_mode_enabled()].add(out.dtype)

    handle = torch.nn.modules.module.register_module_forward_hook(watch)
    try:
        model = smoke(small_world, tmp_path, "--objective", objective, "--audio", audio, "--precision", "bf16", "--steps", "3")
    finally:
        handle.remove()
    assert found == {False: {torch.bfloat16}, True: {torch.float32}}
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("audio", [*TOWERS, "tags"])
def test_weight_decay_and_learning_rates_of_all_parameters(audio):
    """Of each module's parameters one by one: weights of layers and tables decay, norms, biases and the temperature do not."""
    if audio == "tags":
        model = TagClassifier(resolve({"preset": "smoke", "objective": "tags"}), ["a", "b"])
    else:
        model, _ = make(audio, torch.float32)
    model.config.optim = replace(model.config.optim, lr=0.3, text_lr=0.1, weight_decay=0.7)
    expected = {}
    for path, module in model.named_modules():
        for name, p in module.named_parameters(recurse=False):
            layer = isinstance(module, (torch.nn.Linear, torch.nn.Conv2d, torch.nn.Embedding)) and name == "weight"
            slow = path.startswith("text") or name == "temperature"
            expected[p] = 0.1 if slow else 0.3, 0.7 if layer or name in ("prefix", "positions", "vectors") else 0
    groups = train.make_optimizer(model, model.config.optim).param_groups
    assert sum(len(group["params"]) for group in groups) == len(expected) == len(list(model.parameters()))
    assert {p: (group["max_lr"], group["weight_decay"]) for group in groups for p in group["params"]} == expected
    assert {decay for _, decay in expected.values()} == {0, 0.7}


def test_steps_are_those_of_adamw():
    """Loshchilov and Hutter 2019, in float64, with betas .9 and .98; the gradients differ much, which the second beta is for."""
    model, _ = make("ast", torch.float32)
    optimizer = train.make_optimizer(model, model.config.optim)
    parameters = [(p, group) for group in optimizer.param_groups for p in group["params"]]
    expected = [(p.detach().double(), torch.zeros_like(p).double(), torch.zeros_like(p).double()) for p, _ in parameters]
    torch.manual_seed(0)
    for step in range(1, 9):
        for i, (p, group) in enumerate(parameters):
            group["lr"], p.grad = group["max_lr"], torch.randn_like(p) * 10.0 ** (step % 3)
            x, m, v = expected[i]
            m, v = 0.9 * m + 0.1 * p.grad, 0.98 * v + 0.02 * p.grad.double() ** 2
            moved = m / (1 - 0.9 ** step) / ((v / (1 - 0.98 ** step)).sqrt() + 1e-8)
            expected[i] = x - group["lr"] * (group["weight_decay"] * x + moved), m, v
        optimizer.step()
    for (p, _), (x, _, _) in zip(parameters, expected):
        torch.testing.assert_close(p.double(), x, atol=2e-6, rtol=0)


@pytest.mark.parametrize("objective, audio, best", [("contrastive", "ast", 2), ("tags", "resnet50", 2), ("joint-tags", "sample-cnn", 4)])
def test_the_best_checkpoint_is_the_first_with_the_highest_auc(small_world, tmp_path, monkeypatch, objective, audio, best):
    """Neither the last one nor a later one as good, after a power cut too. Of joint-tags, whose first two steps are stage 1, it is
    one of stage 2."""
    aucs, states, module = [0.9, 0.95, 0.6, 0.8, 0.8, 0.7], {}, train.OBJECTIVES[objective]
    cuts = [5]      # the step after whose validation the power is cut, once

    def validate(model, recordings, step):
        if step in cuts:
            raise RuntimeError(f"power cut {cuts.pop()}")
        states[step] = {name: x.clone() for name, x in model.state_dict().items()}
        return {"valid_auc": aucs[step - 1], "valid_loss": 0.0, "valid_chance": 0.0}

    monkeypatch.setattr(module, "validate", validate)
    with pytest.raises(RuntimeError, match="power cut 5"):
        smoke(small_world, tmp_path, "--objective", objective, "--audio", audio, "--steps", "6", "--valid-every", "1")
    smoke(small_world, tmp_path, "--audio", audio, "--resume")
    for name, step in (("best.pt", best), ("last.pt", 6)):
        state = checkpoint.load(tmp_path / name)
        assert state["step"] == step and state["best"] == aucs[best - 1]
        assert same(dict(state["model"]), states[step]) and not same(states[step], states[3])


def interrupted(world, run, audio, monkeypatch, at, action):
    calls, clamp = [], contrastive.clamp_temperature

    def counted(*args):
        calls.append(1)
        if len(calls) == at:
            action()
        return clamp(*args)

    monkeypatch.setattr(contrastive, "clamp_temperature", counted)
    try:
        smoke(world, run, *of(audio))
    except RuntimeError:
        pass
    monkeypatch.setattr(contrastive, "clamp_temperature", clamp)


def test_a_signal_to_the_whole_group_is_answered_by_the_trainer_alone(small_world, tmp_path):
    """As a terminal's Ctrl-C or a scheduler's SIGTERM: the reading process gets it too, and must not tear down the batch."""
    run = tmp_path / "run"
    command = [sys.executable, ROOT / "train.py", "--preset", "smoke", "--data", small_world, "--run", run, "--workers", "1",
               "--steps", "100000", "--log-every", "1", "--valid-every", "100000"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    for line in process.stdout:
        if line.startswith("step     3"):
            os.killpg(process.pid, signal.SIGTERM)
            break
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0 and "Traceback" not in err and "stopped after step" in out
    assert checkpoint.load(run / "last.pt")["step"] >= 3


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopped_by_a_signal_and_resumed_is_the_same_to_the_bit(whole, small_world, tmp_path, monkeypatch, number):
    run, handler = tmp_path / "run", signal.getsignal(number)
    interrupted(small_world, run, whole.name, monkeypatch, 5, lambda: os.kill(os.getpid(), number))
    assert checkpoint.load(run / "last.pt")["step"] == 5                  # the step in hand is finished, then saved
    assert signal.getsignal(number) == handler
    smoke(small_world, run, *of(whole.name), "--resume")
    assert same(weights(run), weights(whole))
    assert [json.loads(line)["step"] for line in (run / "metrics.jsonl").open()] == [4, 6, 8, 12, 12]


def test_crashed_and_resumed_is_the_same_to_the_bit(whole, small_world, tmp_path, monkeypatch):
    def crash():
        raise RuntimeError("power cut")

    run = tmp_path / "run"
    interrupted(small_world, run, whole.name, monkeypatch, 9, crash)
    assert checkpoint.load(run / "last.pt")["step"] == 6
    smoke(small_world, run, *of(whole.name), "--resume", "--workers", "1")      # nor do workers matter
    assert same(weights(run), weights(whole))
    assert [json.loads(line)["step"] for line in (run / "metrics.jsonl").open()] == [4, 6, 8, 12, 12]


@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs g++ on a CPU, and it is not here")
def test_compiled_towers_take_the_same_steps(small_world, tmp_path, monkeypatch):
    monkeypatch.setattr(contrastive, "validate", lambda *_: {"valid_auc": 0.5})      # without it, half of the compiling is for another mode
    models, graphs = [], torch._dynamo.utils.counters["stats"]
    for flag in ("--no-compile", "--compile"):
        before = graphs["unique_graphs"]
        models.append(smoke(small_world, tmp_path / flag, flag, "--steps", "2", "--precision", "fp32", "--text-warmup", "0"))
        assert (graphs["unique_graphs"] > before + 1) == (flag == "--compile")
    plain, compiled = (model.state_dict() for model in models)
    start = MuLan(models[0].config, models[0].tokenizer).state_dict()
    moved = max(float((plain[name] - start[name]).abs().max()) for name in plain)
    assert plain.keys() == compiled.keys() and moved > 1e-3
    assert all(torch.allclose(plain[name], compiled[name], atol=0.02 * moved, rtol=0) for name in plain)


def test_without_a_compiler_the_flag_is_one_line(small_world, tmp_path, monkeypatch):
    def missing(*_, **__):
        raise RuntimeError("InvalidCxxCompiler: no compiler\nand a page of more")

    monkeypatch.setattr(torch, "compile", missing)
    with pytest.raises(UserError, match=r"--compile does not work here \(InvalidCxxCompiler: no compiler\): it needs"):
        smoke(small_world, tmp_path, "--compile")


@pytest.fixture(scope="module")
def packed(small_world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("packed") / "shards"
    pack(small_world, folder, 2**21)
    return str(folder)


def stream(packed, run, *more):
    return train.main(["--preset", "smoke", "--shards", packed, "--run", str(run), "--workers", "0", "--precision", "fp32", *more])


def test_a_run_on_shards_has_the_words_and_the_validation_of_their_folder(small_world, packed, tmp_path, monkeypatch, capsys):
    judged, words = [], []
    monkeypatch.setattr(contrastive, "validate", lambda _, valid, *__: judged.append({r.id for r in valid}) or {"valid_auc": 0.5})
    for name, run in (("folder", lambda: smoke(small_world, tmp_path / "a", "--steps", "1")),
                      ("shards", lambda: stream(packed, tmp_path / "b", "--steps", "1"))):
        model = run()
        words.append(set(model.tokenizer.get_vocab()))
        assert "; 58 recordings, 1 steps" in capsys.readouterr().out
    assert judged[0] == judged[1] and len(judged[0]) > 4
    assert len(words[0]) > 400 and len(words[0] ^ words[1]) < 10      # equally frequent pairs may be merged in another order
    assert model.config.data.shards == [packed] and model.config.data.data == []


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_run_on_shards_crashed_and_resumed_is_the_same_to_the_bit(packed, tmp_path, monkeypatch, workers):
    stream(packed, tmp_path / "whole", "--workers", workers)
    saved, save = [], checkpoint.save

    def power_cut(path, state):
        save(path, state)
        saved.append(path)
        if path.name == "last.pt":
            raise RuntimeError("power cut")

    monkeypatch.setattr(checkpoint, "save", power_cut)
    with pytest.raises(RuntimeError):
        stream(packed, tmp_path / "cut", "--workers", workers)
    monkeypatch.setattr(checkpoint, "save", save)
    state = checkpoint.load(tmp_path / "cut" / "last.pt")
    assert state["step"] == 6 and state["cursors"][0].keys() == ({0, 1} if workers == "2" else {0})
    stream(packed, tmp_path / "cut", "--workers", workers, "--resume")
    assert same(weights(tmp_path / "cut"), weights(tmp_path / "whole"))
    with pytest.raises(UserError, match="saved with other workers"):
        stream(packed, tmp_path / "cut", "--workers", "1" if workers == "2" else "2", "--resume", "--log-every", "1")


@pytest.mark.parametrize("more, message", [
    (["--objective", "tags"], "--shards does not go with"), (["--data", "x"], "--shards does not go with"),
    (["--shuffle-pairs"], "--shards does not go with"), (["--workers", "99"], "shards for 1 ranks of 99 workers"),
    (["--ratio", "lf=1,none=1"], "no 'none' text")])
def test_shards_and_what_does_not_go_with_them(packed, tmp_path, more, message):
    with pytest.raises(UserError, match=message):
        stream(packed, tmp_path / "run", *more)


def test_readers_get_the_cores_that_were_asked_for(small_world, tmp_path):
    smoke(small_world, tmp_path, "--reader-cores", str(os.cpu_count()), "--steps", "1")
    assert torch.get_num_threads() == 1
    smoke(small_world, tmp_path, "--reader-cores", "0", "--steps", "1", "--overwrite")
    assert torch.get_num_threads() == 1      # never more than there were, as set by OMP_NUM_THREADS


def test_the_seed_matters(whole, small_world, tmp_path):
    smoke(small_world, tmp_path / "run", *of(whole.name), "--seed", "1")
    assert not same(weights(tmp_path / "run")["model"], weights(whole)["model"])


def test_a_loss_that_is_not_finite_names_the_step_and_the_batch(small_world, tmp_path, monkeypatch):
    losses, real = [], contrastive.cmc_loss

    def broken(*args):
        losses.append(real(*args))
        return losses[-1] * (math.nan if len(losses) == 8 else 1)

    monkeypatch.setattr(contrastive, "cmc_loss", broken)
    with pytest.raises(UserError, match=r"step 7: the loss is nan; .*: r0\d+, r0"):
        smoke(small_world, tmp_path / "run")
    assert checkpoint.load(tmp_path / "run" / "last.pt")["step"] == 6     # the last good one


def test_nothing_saved_is_lost_by_starting_again(whole, small_world):
    before = (whole / "last.pt").read_bytes()
    with pytest.raises(UserError, match="--resume.*--overwrite"):
        smoke(small_world, whole, *of(whole.name))
    with pytest.raises(UserError, match="--lr 0.5 differs from the run's"):
        smoke(small_world, whole, *of(whole.name), "--resume", "--lr", "0.5")
    assert (whole / "last.pt").read_bytes() == before


def test_overwrite_waits_until_the_new_run_can_begin_and_then_takes_old_figures_along(small_world, tmp_path):
    run = tmp_path / "run"
    smoke(small_world, run)
    (run / "eval").mkdir()
    (run / "eval" / "tagging.json").write_text("{}")
    before = weights(run)
    for wrong in (["--data", str(tmp_path / "typo")], ["--ratio", "sf=1,other=1"]):
        with pytest.raises(UserError, match="typo|other"):
            smoke(small_world, run, "--overwrite", *wrong)
        assert same(weights(run), before) and (run / "eval" / "tagging.json").exists()
    smoke(small_world, run, "--overwrite", "--seed", "1")
    assert not same(weights(run), before) and not (run / "eval" / "tagging.json").exists()


@pytest.fixture
def own_world(small_world, tmp_path):
    """The small world's manifest, to change: its rows and a function that writes them."""
    rows = [json.loads(line) for line in open(Path(small_world) / "manifest.jsonl")]
    for row in rows:
        row["audio"] = str(Path(small_world) / row["audio"])
    (tmp_path / "own").mkdir()

    def write(changed):
        (tmp_path / "own" / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in changed))
        return str(tmp_path / "own")

    return rows, write


def test_a_source_nobody_has_is_told_before_the_text_warm_up(own_world, tmp_path, monkeypatch):
    rows, write = own_world
    monkeypatch.setattr(contrastive, "warm_up_text", lambda *_: pytest.fail("warmed up first"))
    for row in rows:
        row["text"].pop("aset", None)
    for ratio in (["--ratio", "sf=2,aset=1"], ["--ratio", "aset=1"]):
        with pytest.raises(UserError, match="'aset' text|split 'valid' with text"):
            smoke(write(rows), tmp_path / "run", *ratio)


def test_validation_leaves_out_what_cannot_be_read_and_needs_two(own_world, tmp_path, capsys):
    rows, write = own_world
    valid = [row for row in rows if row["split"] == "valid"]
    (tmp_path / "broken.flac").write_bytes(b"no music at all")
    valid[0]["audio"] = str(tmp_path / "broken.flac")
    smoke(write(rows), tmp_path / "run")
    assert f"left out of validation: {valid[0]['id']}: " in capsys.readouterr().out
    few = [row for row in rows if row["split"] != "valid"] + valid[:2]
    with pytest.raises(UserError, match="own: two or more recordings of split 'valid'.*not 1"):
        smoke(write(few), tmp_path / "other")


def test_half_a_line_in_the_metrics_does_not_stop_a_resumed_run(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 4}\n{"step": 8}\n{"step": 12}\n{"st')
    run_folder.open_metrics(path, 12).close()
    assert path.read_text() == '{"step": 4}\n{"step": 8}\n{"step": 12}\n'
    run_folder.open_metrics(path, 8).close()
    assert path.read_text() == '{"step": 4}\n{"step": 8}\n'


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


def test_validation_counts_how_often_the_own_text_wins(monkeypatch):
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

    monkeypatch.setattr(contrastive, "middle_windows", lambda *_: None)
    value = contrastive.validate(Known(), [Recording(t) for t in ("zero", "one", "two")], 1)["valid_auc"]
    assert value == pytest.approx(((0.5 + 1) / 2 + (0 + 0.5) / 2 + 1) / 3)


# ---- --objective tags -------------------------------------------------------------------


def tags(world, run, *more):
    return smoke(world, run, "--objective", "tags", "--audio", "resnet50", *more)


def tables(folder, split):
    """(recordings, their tags as 0 and 1, the tags in alphabetical order) of a world, from its manifest."""
    rows = [json.loads(line) for line in (Path(folder) / "manifest.jsonl").open()]
    counts = Counter(tag for row in rows if row["split"] == "train" for tag in set(row["tags"]))
    labels = sorted(tag for tag, count in counts.items() if count >= 2)
    rows = [row for row in rows if row["split"] == split]
    return rows, np.array([[label in row["tags"] for label in labels] for row in rows]), labels


def test_labels_loss_by_hand_and_its_chance(small_world, tmp_path):
    roc_auc_score = pytest.importorskip("sklearn.metrics", reason="the oracle is scikit-learn").roc_auc_score
    model = tags(small_world, tmp_path / "run").eval()
    rows, truth, labels = tables(small_world, "train")
    assert model.labels == labels
    waves = torch.from_numpy(np.stack([read_window(Path(small_world) / row["audio"], 0.0, 10.0, 16000) for row in rows[:3]]))
    model.config.optim = replace(model.config.optim, batch_size=3, chunk_size=2, precision="fp32")
    batch = {"waveforms": waves, "targets": torch.tensor(truth[:3]).float()}
    loss, recall, _ = tag_classifier.backward(model, batch, 0, model, 1)
    audio = model.audio(waves).detach().double().numpy()
    vectors, bias, tau = (x.detach().double().numpy() for x in (model.classifier.vectors, model.classifier.bias, model.temperature))
    logits = np.array([[sum(a * v) / tau + b for v, b in zip(vectors, bias)] for a in audio])
    chance = 1 / (1 + np.exp(-logits))
    assert loss.item() == pytest.approx(-np.where(truth[:3], np.log(chance), np.log(1 - chance)).mean(), rel=1e-5)
    assert recall.item() == pytest.approx(np.mean([truth[i, logits[i].argmax()] for i in range(3)]))
    # who always answers with the labels' shares pays their mean entropy
    share = truth.mean(0)
    row = json.loads((tmp_path / "run" / "metrics.jsonl").open().readline())
    assert row["chance"] == pytest.approx(np.mean([entropy([p, 1 - p]) for p in share]), rel=1e-5)
    assert row["r1_chance"] == pytest.approx(share.max(), rel=1e-6)
    # validation: the macro ROC-AUC of those logits, over the labels that can be judged
    _, truth, _ = tables(small_world, "valid")
    audio = torch.nn.functional.normalize(torch.randn(len(truth), 128, generator=torch.Generator().manual_seed(0)), dim=-1)
    kept = truth.any(0) & ~truth.all(0)
    logits = (audio.double().numpy() @ vectors.T / tau + bias)[:, kept]
    with torch.no_grad():
        found = tag_classifier.label_auc(model.classifier(audio, model.temperature), torch.tensor(truth))
    assert found == pytest.approx(roc_auc_score(truth[:, kept], logits, average="macro"), abs=1e-6)


def test_a_classifier_learns_its_labels_and_another_run_starts_from_it(small_world, tmp_path, capsys):
    """Learned by heart: 57 recordings, 150 steps; with labels that belong to other recordings it learns those instead, which
    say nothing of the tags. Then its audio tower goes into a MuLan, and its own labels are all that it reads."""
    roc_auc_score = pytest.importorskip("sklearn.metrics", reason="the oracle is scikit-learn").roc_auc_score
    rows, truth, labels = tables(small_world, "train")
    waves = [str(Path(small_world) / row["audio"]) for row in rows]
    found = {}
    for name, more in (("true", []), ("shuffled", ["--shuffle-pairs"])):
        model = tags(small_world, tmp_path / name, "--steps", "150", "--valid-every", "150", "--lr", "2e-2", "--seconds", "4", *more).eval()
        logits = model.classifier(model.embed_audio(waves).clone(), model.temperature).detach().numpy()
        found[name] = roc_auc_score(truth, logits, average="macro")
    assert found["true"] > 0.75 and abs(found["shuffled"] - 0.5) < 0.12
    model = TagClassifier.load(tmp_path / "true")
    row = model.classifier.vectors.detach()[labels.index("waltz")]
    torch.testing.assert_close(model.embed_text(["waltz"])[0], row / row.norm(), atol=1e-6, rtol=0)
    with pytest.raises(UserError, match="'a song' is no label of this model"):
        model.embed_text(["waltz", "a song"])
    evaluate.main(["--task", "tagging", "--run", str(tmp_path / "true")])
    export.main([str(tmp_path / "true"), str(tmp_path / "out")])
    assert TagClassifier.load(tmp_path / "out").labels == model.labels and not (tmp_path / "out" / "bert").exists()
    with pytest.raises(UserError, match="is no label of this model"):
        evaluate.main(["--task", "triplet", "--run", str(tmp_path / "true")])
    capsys.readouterr()
    started = smoke(small_world, tmp_path / "next", "--audio", "resnet50", "--audio-init", str(tmp_path / "true"), "--lr", "1e-12")
    assert "tensors of a run of ours" in capsys.readouterr().out
    ours, theirs = started.audio.net.stem[0].weight, model.audio.net.stem[0].weight
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)


def test_a_classifier_resumes_to_the_bit(small_world, tmp_path, monkeypatch):
    tags(small_world, tmp_path / "whole", "--ratio", "aset=1")
    tags(small_world, tmp_path / "part", "--ratio", "aset=1", "--steps", "12")
    def crash():
        raise RuntimeError("power cut")
    calls, clamp = [], contrastive.clamp_temperature
    monkeypatch.setattr(contrastive, "clamp_temperature", lambda *args: (calls.append(1), crash() if len(calls) == 9 else clamp(*args)))
    with pytest.raises(RuntimeError, match="power cut"):
        tags(small_world, tmp_path / "part", "--ratio", "aset=1", "--overwrite")
    monkeypatch.setattr(contrastive, "clamp_temperature", clamp)
    smoke(small_world, tmp_path / "part", "--resume", "--audio", "resnet50")
    assert same(weights(tmp_path / "part"), weights(tmp_path / "whole"))
    state = checkpoint.load(tmp_path / "part" / "best.pt")
    listed = [t for row in tables(small_world, "train")[0] for t in row["text"].get("aset", [])]
    assert state["labels"] and set(state["labels"]) <= {label.strip() for text in listed for label in text.split(",")}


def test_labels_that_cannot_be_learned_are_one_line(small_world, tmp_path):
    with pytest.raises(UserError, match="--objective tagz is not one of contrastive, tags"):
        tags(small_world, tmp_path / "run", "--objective", "tagz")
    with pytest.raises(UserError, match=r"none of \d+ labels in --ratio tags=1 is on 99 or more training recordings"):
        tags(small_world, tmp_path / "run", "--label-recordings", "99")
    with pytest.raises(UserError, match="--text-init does not go with --objective tags"):
        tags(small_world, tmp_path / "run", "--text-init", "bert")


def test_validation_labels_are_looked_for_before_the_first_step(own_world, tmp_path, monkeypatch):
    rows, write = own_world
    world = write([row | ({"tags": ["unheard of"]} if row["split"] == "valid" else {}) for row in rows])
    monkeypatch.setattr(tag_classifier, "backward_in_chunks", None)
    with pytest.raises(UserError, match="no label is on some but not all recordings of split 'valid'"):
        tags(world, tmp_path / "run")
