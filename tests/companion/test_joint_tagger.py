"""The companion paper's tagger and its path through train.py and eval.py. Oracles: the formulas in numpy with the module's own
weights, finite differences, windows cut by soundfile and plain indices, scikit-learn's areas, one process for two."""
import json
import math
import os
import re
import shutil
import socket
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
import torch.multiprocessing as mp
from test_distributed import BATCH as SHARED
from test_distributed import sliced
from test_train import own_world, same, smoke, weights  # noqa: F401  (a fixture)
from torch import nn

import eval as evaluate
import train
from mulan_min import checkpoint, distributed, loader
from mulan_min.companion import joint_tagger
from mulan_min.companion.joint_tagger import BATCH, JointTagger, pair_loss
from mulan_min.config import resolve
from mulan_min.data import read_clip_window, read_manifest
from mulan_min.errors import UserError
from mulan_min.labels import label_table, with_tags
from mulan_min.mulan import MuLan
from mulan_min.tag_classifier import backward_in_chunks, choose_labels
from mulan_min.wordpiece import train_wordpiece

AUDIOS = ("harmonic-cnn", "sample-cnn-res-se", "sincnet", "ast", "resnet50")
SMALL = {"ast": ["--seconds", "1"], "resnet50": ["--seconds", "1"], "harmonic-cnn": ["--extractor-width", "2"]}
RATE = 16000


def joint(world, run, audio, *more):
    # One thread for every run: a run of another audio network leaves fewer threads behind, and sums then run in another order.
    return smoke(world, run, "--objective", "joint-tags", "--audio", audio, "--precision", "fp32", "--reader-cores", str(os.cpu_count()),
                 *SMALL.get(audio, []), *more)


def make(audio, labels=5, seconds=None, **changes):
    """A small tagger whose norms are all away from 0 and 1, so that none can be left out unseen."""
    typed = {"preset": "smoke", "objective": "joint-tags", "audio": audio, "precision": "fp32", "extractor_width": 2,
             "resnet_width": 2}
    seconds = seconds or {"ast": 1.0, "resnet50": 1.0}.get(audio)
    config = resolve(typed | ({"seconds": seconds} if seconds else {}) | changes)
    torch.manual_seed(0)
    model = JointTagger(config, [f"label {i}" for i in range(labels)])
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm2d, nn.LayerNorm)):
            for name, tensor in {**dict(module.named_parameters()), **dict(module.named_buffers())}.items():
                if tensor.is_floating_point():
                    nn.init.uniform_(tensor, *((0.5, 1.5) if name in ("weight", "running_var") else (-0.3, 0.3)))
    return model.eval()


def noise(model, count, seed=0):
    """(sound (count, samples), targets (count, C)): noises of unlike colour and loudness, tags by chance."""
    rng, front = np.random.default_rng(seed), model.config.front
    waves = rng.standard_normal((count, round(front.seconds * RATE))).cumsum(1) * rng.uniform(0.1, 1, (count, 1)) ** 2
    waves = 0.1 * np.diff(waves, axis=1, prepend=0) + 0.002 * waves * rng.uniform(0, 1, (count, 1))
    return torch.from_numpy(waves.astype(np.float32)), torch.from_numpy(rng.integers(0, 2, (count, len(model.labels)))).float()


UNMASKED = {"freq_mask": 0, "time_mask": 0, "tag_dropout": 0.0}


def gradients(model):
    return {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}


def one_line(match):
    return pytest.raises(UserError, match=r"(?s)\A(?!.*\n).*" + match)


# ---- the pair loss ---------------------------------------------------------------------


def pair_by_hand(a, b):
    """(..., d), (..., d) -> (...): the paper's formula in float64."""
    def cosine(x, y):
        return (x * y).sum(-1) / np.sqrt((x * x).sum(-1) * (y * y).sum(-1))

    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return (1 - cosine(a, b)) + (1 - cosine(1 - a, 1 - b))


def test_pair_loss_is_the_formula_and_nothing_for_equal_rows():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 500, 3)) * rng.uniform(0.1, 5, (2, 500, 1))
    found = pair_loss(torch.from_numpy(a), torch.from_numpy(b))
    np.testing.assert_allclose(found.numpy(), pair_by_hand(a, b), atol=1e-12)
    assert -1e-12 < found.min() < 0.2 and 3 < found.max() < 4 + 1e-12
    assert pair_loss(torch.from_numpy(a), torch.from_numpy(a)).abs().max() < 1e-12
    # by hand: opposite from 0, and opposite from 1; right angles from both
    assert pair_loss(torch.full((1, 2), 2.0), torch.full((1, 2), -2.0)).item() == pytest.approx(4)
    assert pair_loss(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])).item() == pytest.approx(2)
    assert pair_loss(torch.tensor([[2.0, 0.0]]), torch.tensor([[1.0, 0.0]])).item() == pytest.approx(1 - 1 / math.sqrt(2))


def test_pair_losss_gradient_by_finite_differences():
    rows = torch.randn(2, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for end in (0, 1):
        ends = [row.clone().requires_grad_(i == end) for i, row in enumerate(rows)]
        pair_loss(*ends).sum().backward()
        for place in np.ndindex(4, 5):
            around = np.repeat(rows[None].numpy(), 2, 0)
            around[:, end, place[0], place[1]] += [-1e-6, 1e-6]
            low, high = (pair_by_hand(*pair).sum() for pair in around)
            assert ends[end].grad[place].item() == pytest.approx((high - low) / 2e-6, abs=1e-7)


def test_the_pair_loss_alone_brings_random_pairs_together():
    torch.manual_seed(0)
    rows = torch.randn(2, 64, 16, requires_grad=True)
    optimizer, before = torch.optim.SGD([rows], 1.0), pair_by_hand(*rows.detach().numpy()).mean()
    for _ in range(200):
        optimizer.zero_grad()
        pair_loss(*rows).sum().backward()
        optimizer.step()
    after = rows.detach()
    assert before > 1 and pair_by_hand(*after.numpy()).max() < 0.05
    assert torch.cosine_similarity(after[0], after[1]).min() > 0.95


# ---- both stages by hand ---------------------------------------------------------------


def dense(x, state, name):
    x = x @ state[f"{name}.0.weight"].T + state[f"{name}.0.bias"]
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    x = x * state[f"{name}.1.weight"] + state[f"{name}.1.bias"]
    return np.where(x > 0, x, 0.3 * x)


def linear(x, state, name):
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def by_hand(model, waves):
    """A tagger in eval mode -> (its float64 state, the sound's features (B, width))."""
    with torch.no_grad():
        return {name: x.double().numpy() for name, x in model.state_dict().items()}, model.audio(waves).double().numpy()


def project_by_hand(model, waves):
    state, features = by_hand(model, waves)
    return dense(dense(features, state, "project.0"), state, "project.1")


def encode_by_hand(model, targets):
    state = {name: x.double().numpy() for name, x in model.state_dict().items()}
    return dense(dense(targets.double().numpy(), state, "encode.0"), state, "encode.1")


def classify_by_hand(model, waves):
    state, features = by_hand(model, waves)
    return linear(dense(dense(features, state, "classify.0"), state, "classify.1"), state, "classify.3")


def cross_entropy(logits, truth):
    return -np.where(truth > 0.5, np.log(sigmoid(logits)), np.log(1 - sigmoid(logits))).mean(1)


def test_stage_1_by_hand():
    """L_AE + L_pair of each recording; `others` with the tags one place on; logits: the autoencoder's reading of the sound."""
    model = make("sample-cnn-res")
    waves, targets = noise(model, 6)
    losses, others, logits = model(waves, targets, True)
    (state, _), truth = by_hand(model, waves), targets.double().numpy()
    sound, tags = project_by_hand(model, waves), encode_by_hand(model, targets)
    rebuilt = sigmoid(linear(dense(tags, state, "decode.0"), state, "decode.1"))
    rebuilding = np.array([np.mean([(r - t) ** 2 for r, t in zip(*rows)]) for rows in zip(rebuilt, truth)])
    own = [pair_by_hand(s, t) for s, t in zip(sound, tags)]
    next_ones = [pair_by_hand(sound[i], tags[i - 1]) for i in range(6)]
    np.testing.assert_allclose(losses.detach(), rebuilding + own, atol=1e-5)
    np.testing.assert_allclose(others.detach(), rebuilding + next_ones, atol=1e-5)
    np.testing.assert_allclose(logits.detach(), linear(dense(sound, state, "decode.0"), state, "decode.1"), atol=1e-5)
    assert rebuilding.min() > 0.05 and np.ptp(own) > 0.05 and len(losses) == 6      # both terms count, and rows differ


def test_held_tags_feel_the_autoencoder_alone():
    """--detach-tags: the same losses; the encoder's gradient is L_AE's, and that of projection and extractor stays."""
    found = {}
    for held in (False, True):
        model = make("ast", detach_tags=held, **UNMASKED)
        waves, targets = noise(model, 6)
        losses, others, _ = model(waves, targets, True)
        losses.mean().backward()
        found[held] = gradients(model) | {"losses": losses.detach(), "others": others.detach()}
    model.zero_grad(set_to_none=True)
    (model.decode(model.encode(targets)).sigmoid() - targets).square().mean().backward()
    for name, grad in gradients(model).items():
        free, held, encoder = found[False][name], found[True][name], name.startswith("encode")
        if not name.startswith("classify"):
            torch.testing.assert_close(held, grad if encoder else free, atol=1e-6, rtol=1e-5, msg=lambda m: f"{name}: {m}")
            assert not encoder or (held - free).abs().max() > 1e-3, name
    assert all(torch.equal(found[False][name], found[True][name]) for name in ("losses", "others"))


@pytest.mark.parametrize("changes", [{}, {"finetune_extractor": True}, {"joint": False}])
def test_stage_2_by_hand(changes):
    model = make("sample-cnn-res", **changes)
    waves, targets = noise(model, 6)
    losses, others, logits = model(waves, targets, False)
    wanted, truth = classify_by_hand(model, waves), targets.numpy()
    np.testing.assert_allclose(logits.detach(), wanted, atol=1e-5)
    np.testing.assert_allclose(losses.detach(), cross_entropy(wanted, truth), atol=1e-5)
    np.testing.assert_allclose(others.detach(), cross_entropy(wanted, truth[[-1, 0, 1, 2, 3, 4]]), atol=1e-5)


def test_dropout_before_the_last_layer_and_masks_are_for_training_alone():
    model = make("ast", tag_dropout=0.5, joint=False)
    waves, targets = noise(model, 3)
    quiet = model(waves, targets, False)[2]
    assert torch.equal(quiet, model(waves, targets, False)[2])
    model.train()
    assert not torch.equal(model(waves, targets, False)[2], model(waves, targets, False)[2])
    frozen = make("ast", tag_dropout=0.0).train()      # stage 2 after stage 1: the extractor hears without masks
    assert torch.equal(frozen(waves, targets, False)[2], frozen(waves, targets, False)[2])
    assert frozen.audio.training and not torch.equal(frozen(waves, targets, True)[0], frozen(waves, targets, True)[0])


@pytest.mark.parametrize("first", [True, False])
def test_in_bf16_the_losses_are_those_of_float32(first):
    model = make("sincnet")
    waves, targets = noise(model, 4)
    plain = model(waves, targets, first)
    with torch.autocast("cpu", torch.bfloat16):
        rough = model(waves, targets, first)
    for a, b in zip(plain, rough):
        assert b.dtype == torch.float32
        torch.testing.assert_close(a, b, atol=0.05, rtol=0.05)


@pytest.mark.parametrize("audio", ["ast", "sample-cnn-res-se", "harmonic-cnn"])
@pytest.mark.parametrize("first", [True, False])
def test_an_answer_does_not_depend_on_the_batch(audio, first):
    model = make(audio, tag_dropout=0.5).train()
    count = BATCH + 2 if audio == "ast" else 5
    waves, targets = noise(model, count)
    losses, others, logits = model.predict(waves.numpy(), targets, first)
    assert model.training and logits.shape == (count, 5) and logits.std(0).min() > 1e-3
    for i in (0, 3, count - 1):
        alone = model.predict(waves[i:i + 1].numpy(), targets[i:i + 1], first)
        torch.testing.assert_close(alone[0][0], losses[i], atol=1e-5, rtol=0)
        torch.testing.assert_close(alone[2][0], logits[i], atol=1e-5, rtol=0)
    torch.testing.assert_close(model.predict(waves.numpy(), in_stage_1=first)[2], logits, atol=1e-6, rtol=0)      # without targets


# ---- gradients: chunks, processes ------------------------------------------------------


def backward(model, net, batch, first, world=1):
    model.zero_grad(set_to_none=True)
    found = backward_in_chunks(partial(net, in_stage_1=first), net, batch, model.config.optim, world)
    return found, gradients(model)


def close(found, expected, what):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert (found[name] is None) == (value is None), f"{what}: {name}"
        if value is not None:
            torch.testing.assert_close(found[name], value, atol=1e-5, rtol=1e-4, msg=lambda m: f"{what}: {name}: {m}")


@pytest.mark.parametrize("audio, changes", [("ast", {}), ("sample-cnn-res-se", {}), ("harmonic-cnn", {}),
                                            ("resnet50", {"finetune_extractor": True}), ("ast", {"joint": False})])
@pytest.mark.parametrize("first", [True, False])
def test_gradients_in_chunks_are_those_of_the_whole_batch(audio, changes, first):
    """By batch norms in eval mode, and by AST, which has none, in training mode. The loss, R@1 too, against a plain mean."""
    found = {}
    for chunk in (0, 3):
        model = make(audio, batch_size=8, chunk_size=chunk, **UNMASKED, **changes).train(audio == "ast")
        waves, targets = noise(model, 8)
        sums, found[chunk] = backward(model, model, {"waveforms": waves, "targets": targets}, first)
        model.zero_grad(set_to_none=True)
        losses, others, logits = model(waves, targets, first)
        losses.mean().backward()
        close(found[chunk], gradients(model), f"chunks of {chunk}")
        right = [targets[i, row.argmax()].item() for i, row in enumerate(logits)]
        assert 0 < sum(right) < 8 and sums[0].item() == pytest.approx(losses.mean().item(), abs=1e-6)
        assert sums[1].item() == pytest.approx(np.mean(right))
        assert chunk or sums[2].item() == pytest.approx(others.mean().item(), abs=1e-6)
    moved = {name.split(".")[0] for name, grad in found[3].items() if grad is not None and grad.abs().max() > 1e-6}
    assert moved == ({"audio", "encode", "decode", "project"} if first else {"audio", "classify"} if changes else {"classify"})


DISTRIBUTED = {"joint": {}, "tune": {"finetune_extractor": True}, "chunks": {"chunk_size": 2}}


def distributed_model(changes):
    model = make("ast", seconds=0.5, batch_size=SHARED, **UNMASKED, **changes).train()
    waves, targets = noise(model, SHARED)
    return model, {"waveforms": waves, "targets": targets}


def worker(rank, world, port, folder):
    """One of two processes: each stage's loss, R@1 and gradients, one after the other by the same replica."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    distributed.start()
    found = {}
    for case, changes in DISTRIBUTED.items():
        model, batch = distributed_model(changes)
        net = distributed.replicate(model, find_unused=True)
        for first in (True, False):
            sums, found[case, first] = backward(model, net, sliced(batch, rank, world), first, world)
            found[case, first, "sums"] = sums
    torch.save(found, f"{folder}/{rank}.pt")
    del net
    distributed.stop()


def test_gradients_of_two_processes_are_those_of_one(tmp_path):
    """Those of a stage's own modules; what the stage leaves alone has none, so that no weight decay moves it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(worker, (2, port, str(tmp_path)), 2)
    for rank in (0, 1):
        found = torch.load(tmp_path / f"{rank}.pt")
        for case, changes in DISTRIBUTED.items():
            model, batch = distributed_model(changes)
            for first in (True, False):
                sums, expected = backward(model, model, batch, first)
                assert {g is None for g in expected.values()} == {True, False}
                close(found[case, first], expected, f"{case}, stage {2 - first}, process {rank}")
                torch.testing.assert_close(found[case, first, "sums"][:2], sums[:2], atol=1e-5, rtol=0)


# ---- train.py --------------------------------------------------------------------------


def test_the_rate_rises_and_falls_in_each_stage():
    optim = resolve({"steps": 100, "warmup": 0.1}).optim
    rates = [train.schedule(step, optim, 40) for step in range(101)]
    assert [round(r, 6) for r in rates[:5]] == [0.25, 0.5, 0.75, 1, 1]                                   # 4 of 40 steps
    assert rates[22] == pytest.approx(0.5) and rates[39] == pytest.approx((1 + math.cos(math.pi * 35 / 36)) / 2)
    assert [round(6 * r, 6) for r in rates[40:47]] == [1, 2, 3, 4, 5, 6, 6]                              # 6 of 60 steps
    assert rates[73] == pytest.approx(0.5) and rates[100] == pytest.approx(0)
    assert [train.schedule(s, optim, 0) for s in range(101)] == [train.schedule(s, optim) for s in range(101)]


STAGES = ["--joint-share", "0.5", "--valid-every", "3"]      # 6 steps each, saved at 3, 6, 9 and 12


def watched(world, run, audio, *more):
    """A run -> its folder, the model's state at the start and at every save, and the steps of its first stage."""
    states, stages, save, optimizer, schedule = {}, set(), checkpoint.save, train.make_optimizer, train.schedule

    def keep(step, state):
        states[step] = {name: x.clone() for name, x in state.items()}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "make_optimizer", lambda model, optim: keep(0, model.state_dict()) or optimizer(model, optim))
        patch.setattr(checkpoint, "save", lambda path, state: keep(state["step"], state["model"]) or save(path, state))
        patch.setattr(train, "schedule", lambda *args: stages.add(args[2]) or schedule(*args))
        model = joint(world, run, audio, *STAGES, *more)
    return SimpleNamespace(folder=run, states=states, first_steps=stages, model=model)


@pytest.fixture(scope="module")
def runs(small_world, tmp_path_factory):
    """runs(audio, *flags): an uninterrupted run, made once."""
    return cache(lambda *args: watched(small_world, tmp_path_factory.mktemp("runs") / args[0], *args))


def moved(run, before, after):
    """Which modules' parameters, and which buffers, are not the same to the bit: {"audio", "audio buffers", ...}."""
    names = {name for name, _ in run.model.named_parameters()}
    return {name.split(".")[0] + (" buffers" if name not in names else "") for name, x in run.states[after].items()
            if not torch.equal(x, run.states[before][name])}


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").open()]


@pytest.mark.parametrize("audio", AUDIOS)
def test_a_run_leaves_what_it_says(runs, audio):
    folder = runs(audio).folder
    assert {p.name for p in folder.iterdir()} == {"config.json", "metrics.jsonl", "last.pt", "best.pt"}
    rows = lines(folder)
    steps, judged = ([row for row in rows if key in row] for key in ("loss", "valid_auc"))
    assert [row["step"] for row in steps] == [4, 8, 12] and [row["step"] for row in judged] == [3, 6, 9, 12]
    for row in rows:
        assert all(math.isfinite(value) for value in row.values()) and "temperature" not in row
    assert all(0 < row["loss"] < 5 and 0 < row["chance"] < 5 and row["clips_per_s"] > 0 for row in steps)
    assert all(0 < row["valid_loss"] < 5 and 0 < row["valid_chance"] < 5 for row in judged)
    # the best is one of stage 2, whose logits are a classifier's
    best = max(judged[2:], key=lambda row: row["valid_auc"])
    state = checkpoint.load(folder / "best.pt")
    assert (state["step"], state["best"], state["tokenizer"]) == (best["step"], best["valid_auc"], "")
    again = evaluate.load_run(folder)
    assert isinstance(again, JointTagger) and not again.training and again.labels == runs(audio).model.labels
    assert same(dict(again.state_dict()), runs(audio).states[best["step"]])


def test_labels_start_as_rare_as_they_are(runs):
    run = runs("ast")
    tags = [r.tags for r in read_manifest(run.model.config.data.data[0]) if r.split == "train"]
    share = np.clip([np.mean([label in listed for listed in tags]) for label in run.model.labels], 1e-3, 1 - 1e-3)
    for name in ("classify.3.bias", "decode.1.bias"):
        np.testing.assert_allclose(run.states[0][name], np.log(share / (1 - share)), atol=1e-5)


@pytest.mark.parametrize("audio", AUDIOS)
def test_each_stage_moves_its_own_modules_alone(runs, audio):
    run = runs(audio)
    norms = {"audio buffers"} if audio != "ast" else set()
    assert run.first_steps == {6}
    assert moved(run, 0, 6) == {"audio", "encode", "decode", "project"} | norms
    assert moved(run, 6, 12) == {"classify"}


@pytest.mark.parametrize("audio", ["ast", "resnet50"])
def test_the_extractor_goes_on_moving_where_it_is_asked_to(runs, audio):
    norms = {"audio buffers"} if audio != "ast" else set()
    run = runs(audio, "--finetune-extractor")
    assert moved(run, 0, 6) == {"audio", "encode", "decode", "project"} | norms and run.first_steps == {6}
    assert moved(run, 6, 12) == {"audio", "classify"} | norms
    run = runs(audio, "--no-joint")
    assert run.first_steps == {0} and moved(run, 0, 12) == moved(run, 6, 12) == {"audio", "classify"} | norms
    judged = [row for row in lines(run.folder) if "valid_auc" in row]
    best = max(judged, key=lambda row: row["valid_auc"])      # of all, as there is no first stage
    assert checkpoint.load(run.folder / "best.pt")["step"] == best["step"]


@pytest.mark.parametrize("audio", ["ast", "sample-cnn-res-se"])
def test_validation_by_hand(runs, audio):
    """The last row's macro ROC-AUC, and the loss with the own tags and the next one's; and stage 1's loss, of the state then."""
    roc_auc_score = pytest.importorskip("sklearn.metrics", reason="the oracle is scikit-learn").roc_auc_score
    run, seconds = runs(audio), runs(audio).model.config.front.seconds
    model = JointTagger(run.model.config, run.model.labels).eval()
    folder = Path(model.config.data.data[0])
    found, rows = [], [row for row in map(json.loads, (folder / "manifest.jsonl").open()) if row["split"] == "valid"]
    for row in rows:
        wave, rate = soundfile.read(folder / row["audio"], dtype="float32")
        size = round(seconds * rate)
        first = round((len(wave) / rate - seconds) / 2 * rate)
        found.append(wave[first:first + size])
        assert rate == RATE and len(found[-1]) == size
    waves = torch.from_numpy(np.stack(found))
    truth = np.array([[label in row["tags"] for label in model.labels] for row in rows])
    stage_1, stage_2 = ([row for row in lines(run.folder) if row["step"] == step][-1] for step in (6, 12))
    model.load_state_dict(run.states[12])
    kept, logits, answers = truth.any(0) & ~truth.all(0), classify_by_hand(model, waves), model.predict(np.stack(found))[2].numpy()
    np.testing.assert_allclose(answers, logits, atol=1e-5)      # whose order may differ where two are all but equal
    assert stage_2["valid_auc"] == pytest.approx(roc_auc_score(truth[:, kept], answers[:, kept], average="macro"), abs=1e-6)
    assert stage_2["valid_loss"] == pytest.approx(cross_entropy(logits, truth).mean(), abs=1e-5)
    assert stage_2["valid_chance"] == pytest.approx(cross_entropy(logits, np.roll(truth, 1, 0)).mean(), abs=1e-5)
    model.load_state_dict(run.states[6])
    sound, tags = project_by_hand(model, waves), encode_by_hand(model, torch.from_numpy(truth))
    rebuilt = sigmoid(linear(dense(tags, by_hand(model, waves)[0], "decode.0"), by_hand(model, waves)[0], "decode.1"))
    rebuilding = ((rebuilt - truth) ** 2).mean()
    assert stage_1["valid_loss"] == pytest.approx(rebuilding + pair_by_hand(sound, tags).mean(), abs=1e-4)
    assert stage_1["valid_chance"] == pytest.approx(rebuilding + pair_by_hand(sound, np.roll(tags, 1, 0)).mean(), abs=1e-4)


@pytest.mark.parametrize("audio, at, saved, more", [("ast", 4, 3, []), ("ast", 7, 6, []), ("ast", 10, 9, ["--workers", "1"]),
                                                    ("sample-cnn-res-se", 4, 3, [])])
def test_crashed_in_either_stage_and_resumed_is_the_same_to_the_bit(runs, small_world, tmp_path, monkeypatch, audio, at, saved,
                                                                             more):
    schedule = train.schedule

    def power_cut(step, *args):
        if step == at:
            raise RuntimeError("power cut")
        return schedule(step, *args)

    monkeypatch.setattr(train, "schedule", power_cut)
    with pytest.raises(RuntimeError, match="power cut"):
        joint(small_world, tmp_path, audio, *STAGES)
    monkeypatch.setattr(train, "schedule", schedule)
    assert checkpoint.load(tmp_path / "last.pt")["step"] == saved and (tmp_path / "best.pt").exists() == (saved > 6)
    joint(small_world, tmp_path, audio, *STAGES, "--resume", *more)
    assert same(weights(tmp_path), weights(runs(audio).folder))
    assert [row["step"] for row in lines(tmp_path)] == [3, 4, 6, 8, 9, 12, 12]


def test_what_compile_compiles(small_world, tmp_path, monkeypatch):
    """The network that is called: of AST and ResNet-50 that after the spectrogram, of the others the whole extractor."""
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda function: function)
    monkeypatch.setattr(nn.Module, "compile", lambda self, **_: compiled.append(self))
    for audio in ("ast", "sincnet", "sample-cnn"):
        compiled.clear()
        model = joint(small_world, tmp_path / audio, audio, "--steps", "2", "--compile")
        assert compiled == [model.audio.net if audio == "ast" else model.audio]


# ---- a toy world: tones with their pitch as tag ----------------------------------------

PITCHES, TONES = 6, 120


@pytest.fixture(scope="module")
def tones(tmp_path_factory):
    """1.5 s of a tone: one of six pitches, in one of two octaves. In the test split some clips are cut out, one shorter than a
    window."""
    folder, rng, rows = tmp_path_factory.mktemp("tones"), np.random.default_rng(0), []
    t = np.arange(3 * RATE // 2) / RATE
    for i in range(TONES):
        octave = int(rng.integers(2))
        wave = rng.uniform(0.1, 0.5) * np.sin(2 * np.pi * (300 * 2 ** (octave + i % PITCHES / PITCHES) * t + rng.random()))
        soundfile.write(folder / f"{i}.wav", wave + 0.02 * rng.standard_normal(len(t)), RATE, "FLOAT")
        split, tags = "train" if i < 72 else "valid" if i < 96 else "test", [f"pitch {i % PITCHES}", ("low", "high")[octave]]
        rows.append({"id": f"t{i}", "audio": f"{i}.wav", "split": split, "text": {}, "tags": tags})
    rows[100] |= {"start": 0.25, "duration": 1.1}
    rows[101] |= {"start": 0.5, "duration": 0.8}
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pitches = [f"pitch {p}" for p in range(PITCHES)]
    (folder / "labels.json").write_text(json.dumps({"pitch": pitches, "octave": ["low", "high", "never heard"]}))
    return str(folder)


@pytest.fixture(scope="module")
def learned(tones, tmp_path_factory):
    """learned(seed, *flags): the model of 57 steps of stage 1 and 3 of stage 2, and its run folder, made once."""
    def run(seed, *more):
        folder = tmp_path_factory.mktemp("learned") / "run"
        flags = "--seconds 1 --steps 60 --joint-share 0.95 --valid-every 19 --lr 5e-3 --test-windows 3 --seed"
        return joint(tones, folder, "ast", *flags.split(), str(seed), *more).eval(), folder

    return cache(run)


def distances(model, folder):
    """Recordings that were not trained on -> L_pair with their own tags, and the mean of that with tags of other pitches."""
    held = [r for r in read_manifest(folder) if r.split != "train" and r.duration is None]
    waves = torch.from_numpy(np.stack([read_clip_window(r, 1.0, RATE, 0.5) for r in held]))
    sound = project_by_hand(model, waves)
    tags = encode_by_hand(model, label_table(with_tags(held), model.labels, ["tags"]))
    table = pair_by_hand(sound[:, None], tags[None])
    pitch = np.array([r.tags[0] for r in held])
    return np.diag(table).mean(), table[pitch[:, None] != pitch].mean()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_stage_1_draws_unheard_sounds_to_their_own_tags_and_a_shuffled_control_does_not(learned, tones, seed):
    """L_pair falls in the control too, as everything there comes to lie in one place; but not nearer to the own tags."""
    model, folder = learned(seed)
    torch.manual_seed(seed)
    before, _ = distances(JointTagger(model.config, model.labels).eval(), tones)
    own, others = distances(model, tones)
    assert before > 0.5 and own < before / 20 and own < 0.3 * others
    first, last = (next(row for row in lines(folder) if row["step"] == step and "valid_loss" in row) for step in (19, 57))
    assert last["valid_loss"] < first["valid_loss"] and last["valid_loss"] < last["valid_chance"] - 0.02
    own, others = distances(learned(seed, "--shuffle-pairs")[0], tones)
    assert own > 0.7 * others


# ---- eval.py ---------------------------------------------------------------------------


def scores_by_hand(model, folder):
    """Each test recording's mean of the sigmoids over three windows, cut by soundfile and plain indices: (N, C), and its tags."""
    scores, rows = [], [json.loads(line) for line in open(Path(folder) / "manifest.jsonl")]
    rows = [row for row in rows if row["split"] == "test"]
    for row in rows:
        wave, _ = soundfile.read(Path(folder) / row["audio"], dtype="float32")
        first = round(row.get("start", 0) * RATE)
        clip = wave[first:first + round(row.get("duration", 99) * RATE)]
        room = max(0, len(clip) - RATE)
        windows = [clip[place:place + RATE] for place in (0, room // 2, room)]
        windows = np.stack([np.concatenate([w, np.zeros(RATE - len(w), np.float32)]) for w in windows])
        scores.append(sigmoid(classify_by_hand(model, torch.from_numpy(windows))).mean(0))
    return np.array(scores), [row["tags"] for row in rows]


def test_autotag_by_hand_and_by_scikit_learn(learned, tones, monkeypatch, capsys):
    sklearn = pytest.importorskip("sklearn.metrics", reason="the oracle is scikit-learn")
    _, folder = learned(0)
    seen, score = [], joint_tagger.score_labels
    monkeypatch.setattr(joint_tagger, "score_labels", lambda *args: seen.append(args) or score(*args))
    result = evaluate.main(["--task", "autotag", "--run", str(folder)])["autotag"]
    assert json.loads((folder / "eval" / "autotag.json").read_text()) == result
    (part,) = result["collections"]
    model = evaluate.load_run(folder)
    wanted, tags = scores_by_hand(model, tones)
    scores = seen[0][4][""]
    assert scores.shape == wanted.shape == (24, 8) and part["recordings"] == 24 and np.ptp(wanted[:, 0]) > 0.01
    np.testing.assert_allclose(scores, wanted, atol=1e-5)
    truth = np.array([[label in listed for label in model.labels] for listed in tags])
    pitch = [label for label in model.labels if label.startswith("pitch")]
    assert list(part["sets"]) == ["all", "pitch", "octave"]
    for name, members in {"all": model.labels, "pitch": pitch, "octave": ["low", "high"]}.items():
        columns, found = [model.labels.index(label) for label in members], part["sets"][name]
        assert list(found["labels"]) == members
        for key, area in (("roc_auc", sklearn.roc_auc_score), ("average_precision", sklearn.average_precision_score)):
            each = [area(truth[:, c], scores[:, c]) for c in columns]
            assert found[key]["value"] == pytest.approx(np.mean(each), abs=1e-9)
            assert [found["labels"][label][key] for label in members] == pytest.approx(each, abs=1e-9)
    assert part["sets"]["octave"]["roc_auc"]["value"] > 0.9      # it has learned something
    everything = evaluate.main(["--task", "all", "--run", str(folder)])
    assert list(everything) == ["autotag"] and everything["autotag"]["collections"][0]["sets"] == part["sets"]
    assert "autotag: " in capsys.readouterr().out


def test_autotag_without_label_sets_and_with_one_window(tones, tmp_path):
    config = make("ast", test_windows=1).config
    model = JointTagger(config, ["low", "high", "pitch 0"]).eval()
    rows = [json.loads(line) for line in open(Path(tones) / "manifest.jsonl")][90:99]
    for row in rows:
        row["audio"] = str(Path(tones) / row["audio"])
    (tmp_path / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:7]))
    with one_line("two or more 'test' recordings are needed, not 1"):
        joint_tagger.autotag(model, tmp_path)
    (tmp_path / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(joint_tagger, "score_labels", lambda *args: seen.append(args))
        joint_tagger.autotag(model, tmp_path)
    _, sets, names, truth, scores, _, notes = seen[0]
    assert notes == []
    middle = torch.from_numpy(np.stack([soundfile.read(row["audio"], dtype="float32")[0][4000:20000] for row in rows[6:]]))
    np.testing.assert_allclose(scores[""], sigmoid(classify_by_hand(model, middle)), atol=1e-5)
    assert sets == {"all": ["low", "high", "pitch 0"]} and names == model.labels
    assert truth.tolist() == [[label in row["tags"] for label in names] for row in rows[6:]]
    model.classify[0][0].weight.data[0, 0] = math.nan
    with one_line("not all finite numbers"):
        joint_tagger.autotag(model, tmp_path)


def test_autotag_leaves_out_what_cannot_be_read_and_refuses_too_much_of_it(tones, tmp_path, monkeypatch):
    """The result of a collection with one unreadable file is that of the collection without it, and a note."""
    model = JointTagger(make("ast", test_windows=2).config, ["low", "high"]).eval()
    rows = [json.loads(line) for line in open(Path(tones) / "manifest.jsonl")][:40]
    for i, row in enumerate(rows):
        row |= {"audio": str(Path(tones) / row["audio"]), "split": "test", "tags": [["low", "high"][i % 2]]}
    (tmp_path / "broken.wav").write_bytes(b"no music")
    results, folders = [], (tmp_path / "less", tmp_path / "more")
    monkeypatch.setattr(loader, "SKIPPED_SHARE", 1 / 41)
    for folder, extra in zip(folders, ([], [rows[0] | {"id": "bad", "audio": str(tmp_path / "broken.wav")}])):
        folder.mkdir()
        (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:7] + extra + rows[7:]))
        results.append(joint_tagger.autotag(model, folder))
    less, more = results
    assert less["notes"] == [] and more["sets"] == less["sets"] and more["recordings"] == less["recordings"] == 40
    assert re.fullmatch(r".*more: 1 of 41 recordings cannot be read; left out: bad \(.*broken.wav: not audio.*\)", more["notes"][0])
    monkeypatch.setattr(loader, "SKIPPED_SHARE", 0.01)
    with one_line(r"^1 of 41 recordings cannot be read, more than 1%: .*broken.wav"):
        joint_tagger.autotag(model, folders[1])


def test_integers_are_predicted_like_the_floats_that_they_mean():
    model = JointTagger(make("ast").config, ["low", "high"]).eval()
    waves = (np.random.default_rng(0).uniform(-0.5, 0.5, (3, RATE)) * 32768).astype(np.int16)
    expected = model.predict((waves / 32768).astype(np.float32))[2]
    torch.testing.assert_close(model.predict(waves)[2], expected, atol=1e-5, rtol=0)
    for bad in (waves + 0j, waves[None], waves[0]):
        with pytest.raises(UserError, match="1-D arrays of finite samples"):
            model.predict(bad)


def contrastive(folder, data):
    """An untrained MuLan's checkpoint; it has read a few words."""
    config = resolve({"preset": "smoke", "audio": "ast", "seconds": 1.0, "data": [data]})
    model = MuLan(config, train_wordpiece(["low high pitch"] * 5, 60))
    state = {"config": config.to_dict(), "tokenizer": model.tokenizer.to_str(), "model": model.state_dict()}
    checkpoint.save(folder / "best.pt", state)
    return folder


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_tasks_of_the_other_kind_of_run_are_one_line(learned, tones, tmp_path):
    (tmp_path / "mulan").mkdir()
    mulan = contrastive(tmp_path / "mulan", tones)
    with one_line("autotag needs a run of --objective joint-tags"):
        evaluate.main(["--task", "autotag", "--run", str(mulan)])
    assert type(evaluate.load_run(mulan)) is MuLan
    assert "autotag" not in evaluate.main(["--task", "all", "--run", str(mulan)])
    for task in ("tagging", "probe", "retrieval", "triplet"):
        with one_line("a run of --objective joint-tags needs --task autotag"):
            evaluate.main(["--task", task, "--run", str(learned(0)[1])])
    with one_line("mulan/best.pt: "):
        JointTagger.load(mulan)


@pytest.mark.parametrize("audio", ["ast", "resnet50", "sample-cnn-res-se"])
def test_a_joint_tagger_is_not_loaded_as_a_mulan(runs, audio):
    with one_line("best.pt: trained with --objective joint-tags, not contrastive"):
        MuLan.load(runs(audio).folder)


@pytest.mark.parametrize("change, message", [
    (lambda c: c["tagger"].update(tag_width=24), "do not fit its config"),
    (lambda c: c["tower"].update(audio="resnet50"), "do not fit its config"),
    (lambda c: c.pop("tagger"), "section 'tagger' differs"),
    (lambda c: c["tagger"].update(magic=1), "section 'tagger' differs .*magic"),
    (lambda c: c.update(optim=None), "differs|do not fit"), (lambda c: c.clear(), "differs")])
def test_a_checkpoint_with_another_config_is_one_line(runs, tmp_path, change, message):
    state = checkpoint.load(runs("ast").folder / "best.pt")
    change(state["config"])
    checkpoint.save(tmp_path / "best.pt", state)
    with one_line(f"best.pt: .*{message}"):
        evaluate.load_run(tmp_path)
    checkpoint.save(tmp_path / "best.pt", state | {"config": None})
    with one_line("best.pt: config section 'data' differs"):
        evaluate.load_run(tmp_path)


# ---- bad input -------------------------------------------------------------------------


@pytest.mark.parametrize("audio, more, message", [
    ("sample-cnn", ["--objective", "contrastive"], "--audio sample-cnn needs --objective joint-tags"),
    ("harmonic-cnn", ["--objective", "tags"], "--audio harmonic-cnn needs --objective joint-tags"),
    ("sample-cnn", ["--seconds", "3.6"], "sample-cnn, .* 59049: give --seconds 3.7 or more"),
    ("harmonic-cnn", ["--seconds", "4.5"], "harmonic-cnn, .* 73472: give --seconds 4.6 or more"),
    ("sincnet", ["--sinc-length", "50"], "--sinc-length 50 is even"),
    ("sincnet", ["--sinc-length", "-1"], "--sinc-length -1 must be 1"),
    ("sincnet", ["--sinc-filters", "0"], "--sinc-filters 0 must be 1"), ("ast", ["--tag-width", "0"], "--tag-width 0 must be 1"),
    ("ast", ["--classifier-width", "-1"], "--classifier-width -1 must be 1"),
    ("ast", ["--extractor-width", "0"], "--extractor-width 0 must be 1"),
    ("ast", ["--test-windows", "0"], "--test-windows 0 must be 1"), ("ast", ["--tag-dropout", "1"], "--tag-dropout 1 must be"),
    ("ast", ["--joint-share", "0"], "--joint-share must be above 0 and below 1; to train without stage 1 use --no-joint"),
    ("ast", ["--joint-share", "1"], "--joint-share must"), ("ast", ["--joint-share", "nan"], "--joint-share nan must"),
    ("ast", ["--steps", "1"], "--joint-share 0.333333 of --steps 1 leaves a stage without steps"),
    ("ast", ["--joint-share", "0.99"], "--joint-share 0.99 of --steps 12 leaves a stage without steps"),
    ("ast", ["--label-set", "top51"], "--label-set top51 is not in labels.json of each --data.* genre, .*all"),
    ("ast", ["--label-recordings", "99"], r"none of \d+ labels in --ratio tags=1 is on 99 or more"),
    ("ast", ["--text-init", "bert"], "--text-init does not go with --objective joint-tags"),
    ("sample-cnn", ["--audio-init", "x"], "--audio-init does not go with --audio sample-cnn"),
    ("ast", ["--shards", "x"], "--shards does not go with"),
])
def test_what_cannot_be_trained_is_one_line(small_world, tmp_path, monkeypatch, audio, more, message):
    monkeypatch.setattr(joint_tagger, "backward_in_chunks", None)      # before a step is lost
    with one_line(message):
        joint(small_world, tmp_path / "run", audio, *more)
    assert not [*tmp_path.rglob("*.*")]


def test_label_sets_need_their_file(own_world, tmp_path):  # noqa: F811
    rows, write = own_world
    with one_line("labels.json: no such file"):
        joint(write(rows), tmp_path / "run", "ast", "--label-set", "all")


def test_without_stage_1_one_step_is_enough_and_mulans_have_no_stages(small_world, tmp_path):
    joint(small_world, tmp_path, "ast", "--no-joint", "--steps", "1")
    assert evaluate.load_run(tmp_path).config.optim.steps == 1
    assert resolve({"preset": "smoke", "steps": 1}).optim.steps == 1


def test_a_label_set_is_learned_exactly(small_world, tmp_path):
    known = json.loads((Path(small_world) / "labels.json").read_text())
    heard = {tag for r in read_manifest(small_world) if r.split == "train" for tag in r.tags}
    for name in ("all", "genre"):
        model = joint(small_world, tmp_path / name, "ast", "--steps", "2", "--label-set", name, "--label-recordings", "1")
        assert model.labels == sorted(heard & set(known[name])) and len(heard - set(model.labels)) > 5
        state = checkpoint.load(tmp_path / name / "last.pt")
        assert state["labels"] == model.labels and len(state["model"]["classify.3.bias"]) == len(model.labels)
    # of two collections what either lists; on which it must be learnable is said of both
    other, recordings = tmp_path / "other", with_tags([r for r in read_manifest(small_world) if r.split == "train"])
    other.mkdir()
    (other / "labels.json").write_text(json.dumps({"genre": ["slow", "nobody's"]}))
    config = resolve({"preset": "smoke", "objective": "joint-tags", "label_set": "genre", "data": [small_world, str(other)]})
    counts = {label: sum(label in r.tags for r in recordings) for label in known["genre"] + ["slow", "nobody's"]}
    assert choose_labels(recordings, config) == sorted(label for label, count in counts.items() if count >= 2)
    assert counts["slow"] >= 2 and counts["nobody's"] == 0
    shutil.rmtree(other)
    with one_line("labels.json: no such file"):
        choose_labels(recordings, config)
