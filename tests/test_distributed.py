"""Many processes against one and the whole batch: the same gradients, in float64."""
import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from torch import nn

import train
from mulan_min import checkpoint, contrastive, distributed
from mulan_min.config import resolve
from mulan_min.loss import clamp_temperature, cmc_loss, recall_at_1
from mulan_min.mulan import MuLan
from mulan_min.wordpiece import encode, train_wordpiece

ROOT = Path(__file__).resolve().parent.parent
WORDS = ["slow", "sad", "piano", "waltz", "fast", "happy", "banjo", "reel", "dry", "choir"]
BATCH = 11      # divisible by neither 2, 3 nor chunks of 4


def make(audio, dtype=torch.float64, seed=0, **changes):
    """A small MuLan and a batch of spectrograms and texts of unequal length, the same whoever calls."""
    config = resolve({"preset": "smoke", "audio": audio, "seconds": 2.0, "batch_size": BATCH, "freq_mask": 0, "time_mask": 0,
                      "text_dropout": 0.0, "precision": "fp32", "resnet_width": 2, **changes})
    torch.manual_seed(0)
    model = MuLan(config, train_wordpiece([" ".join(WORDS)] * 20, 60)).to(dtype).train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):      # blocks that count, unlike at gamma = 0
            nn.init.uniform_(module.weight, 0.5, 1.5)
    rng = np.random.default_rng(seed)
    texts = [" ".join(rng.choice(WORDS, rng.integers(1, 9))) for _ in range(BATCH)]
    tokens, mask = encode(model.tokenizer, texts, 32)
    spectrograms = torch.from_numpy(rng.standard_normal((BATCH, config.front.n_mels, 40))).to(dtype)      # frames of 50 ms
    keys = torch.tensor([*range(BATCH - 2), 0, 3])      # the last two pairs are of recordings that are in the batch already
    return model, {"spectrograms": spectrograms, "tokens": tokens, "mask": mask, "keys": keys}


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters()}


def whole(audio, **changes):
    """Loss, R@1, gradients and buffers of one process and the whole batch, by the plain formula."""
    model, batch = make(audio, **changes)
    audio_rows, text_rows = model(batch["spectrograms"], batch["tokens"], batch["mask"])
    loss = cmc_loss(audio_rows, text_rows, model.temperature, keys=batch["keys"])
    loss.backward()
    return {"loss": loss.detach(), "recall": recall_at_1(audio_rows, text_rows), **gradients(model), **dict(model.named_buffers())}


def ten_steps(net, model, rank, world):
    """Ten steps, float32, each on another batch; -> the weights. Not by Adam, which makes steps of full length out of the
    rounding of gradients near zero."""
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    for step in range(10):
        batch = sliced(make("ast", torch.float32, seed=step)[1], rank, world)
        optimizer.zero_grad(set_to_none=True)
        contrastive.backward(net, batch, step, model, world)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        clamp_temperature(model.temperature, 0.02)
    return {name: p.detach() for name, p in model.named_parameters()}


def sliced(batch, rank, world):
    first = sum(distributed.slice_sizes(BATCH, world)[:rank])
    return {name: x[first:first + distributed.slice_sizes(BATCH, world)[rank]] for name, x in batch.items()}


CASES = {"ast": ("ast", {}), "ast, chunks of 2": ("ast", {"chunk_size": 2}), "resnet50": ("resnet50", {})}


def worker(rank, world, port, folder):
    """What one of `world` processes does in the tests below; it leaves its figures in a file."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    assert distributed.start()[:2] == (rank, world)
    found = {}
    for case, (audio, changes) in CASES.items():
        model, batch = make(audio, **changes)
        distributed.sync_batch_norm(model)
        net = distributed.replicate(model, find_unused=False)
        loss, recall, _ = contrastive.backward(net, sliced(batch, rank, world), 0, model, world)
        found[case] = {"loss": loss, "recall": recall, **gradients(model), **dict(model.named_buffers())}
    model, _ = make("ast", torch.float32)
    found["ten steps"] = ten_steps(distributed.replicate(model, find_unused=False), model, rank, world)
    found["agreed"] = distributed.broadcast_object(f"from {rank}")
    torch.save(found, f"{folder}/{rank}.pt")
    del net
    distributed.stop()


@pytest.fixture(scope="module", params=[2, 3])
def several(request, tmp_path_factory):
    """What each of 2 or 3 processes found."""
    folder = tmp_path_factory.mktemp("ranks")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(worker, (request.param, port, str(folder)), request.param)
    return [torch.load(folder / f"{rank}.pt") for rank in range(request.param)]


@pytest.mark.parametrize("case", CASES)
def test_gradients_of_many_processes_are_those_of_one(several, case):
    """Every parameter's, the temperature's too, to 1e-9; the loss, R@1, and the running statistics of batch norm."""
    audio, changes = CASES[case]
    expected = whole(audio)
    assert expected["temperature"].abs() > 1e-3 and len(several) in (2, 3)
    for found in several:
        assert found[case].keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(found[case][name].double(), value.double(), atol=1e-9, rtol=1e-9, msg=lambda m: f"{name}: {m}")


def test_ten_steps_of_many_processes_are_those_of_one(several):
    model, _ = make("ast", torch.float32)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    expected = ten_steps(model, model, 0, 1)
    assert max((expected[name] - before[name]).abs().max() for name in before) > 5e-3
    for found in several:
        for name, value in expected.items():
            torch.testing.assert_close(found["ten steps"][name], value, atol=1e-6, rtol=0)


def test_the_first_process_decides(several):
    assert [found["agreed"] for found in several] == ["from 0"] * len(several)


def draw(arguments, environment, path):
    """A process of a run; what its random state gives at the start of each step goes into a file."""
    os.environ |= environment
    torch.set_num_threads(1)
    drawn, backward = [], contrastive.backward
    contrastive.backward = lambda *given: drawn.append(tuple(torch.rand(4).tolist())) or backward(*given)
    train.main(arguments)
    torch.save(drawn, path)


def test_each_process_and_step_has_dropout_and_masks_of_its_own(small_world, tmp_path):
    """Both come from the random state of torch."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["train"])      # a server that has imported it once, as in test_kill.py
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    arguments = ["--preset", "smoke", "--data", small_world, "--run", str(tmp_path / "run"), "--workers", "0", "--precision", "fp32",
                 "--seconds", "1", "--steps", "3", "--text-warmup", "0"]
    ranks = [context.Process(target=draw, args=(arguments, group | {"RANK": str(rank)}, tmp_path / f"{rank}")) for rank in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(300)
        assert process.exitcode == 0
    drawn = [numbers for rank in range(2) for numbers in torch.load(tmp_path / f"{rank}")]
    assert len(drawn) == len(set(drawn)) == 2 * 3


# ---- torchrun --------------------------------------------------------------------------


def torchrun(*arguments, check=True, wait=True):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "--", str(ROOT / "train.py"), *arguments]
    if not wait:
        return subprocess.Popen(command, env=environment, start_new_session=True, stdout=subprocess.DEVNULL)
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


def test_torchrun_trains_and_resumes_to_the_bit(small_world, tmp_path):
    """Two processes: one log, one set of files, the losses of one process; stopped and gone on with, the same weights."""
    common = ["--preset", "smoke", "--data", small_world, "--workers", "0", "--audio", "ast", "--precision", "fp32", "--seconds", "2",
              "--freq-mask", "0", "--time-mask", "0", "--text-dropout", "0", "--valid-every", "4", "--log-every", "1"]
    common += ["--steps", "24"]
    printed = torchrun(*common, "--run", str(tmp_path / "two")).stdout
    assert printed.count("step     1  loss") == 1 and "2 x cpu" in printed
    train.main([*common, "--run", str(tmp_path / "one")])
    one, two = ([row for row in map(json.loads, open(tmp_path / run / "metrics.jsonl")) if "loss" in row] for run in ("one", "two"))
    assert len(one) == len(two) == 24
    for a, b in zip(one[:8], two):
        assert b["loss"] == pytest.approx(a["loss"], abs=2e-3) and b["r1"] == pytest.approx(a["r1"], abs=1e-6)
    # killed some time after its first checkpoint
    cut = tmp_path / "cut" / "last.pt"
    with torchrun(*common, "--run", str(tmp_path / "cut"), wait=False) as running:
        while not cut.exists():
            assert running.poll() is None
            time.sleep(0.01)
        os.killpg(running.pid, signal.SIGKILL)
    assert 4 <= checkpoint.load(cut)["step"] < 24
    torchrun(*common, "--run", str(tmp_path / "cut"), "--resume")
    state, again = checkpoint.load(tmp_path / "two" / "last.pt"), checkpoint.load(cut)
    assert again["step"] == 24 and all(torch.equal(x, again["model"][name]) for name, x in state["model"].items())


def test_a_fault_of_the_user_ends_all_processes_in_one_message(small_world, tmp_path):
    done = torchrun("--preset", "smoke", "--data", str(tmp_path / "nowhere"), "--run", str(tmp_path / "run"), check=False)
    assert done.returncode and "nowhere" in done.stderr


def test_alone_nothing_talks_to_anybody(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    assert distributed.start()[:2] == (0, 1) and distributed.broadcast_object([1]) == [1] and distributed.gather_embeddings(None, None, 11) is None
    assert distributed.slice_sizes(11, 3) == [3, 4, 4] and sum(distributed.slice_sizes(6144, 7)) == 6144
