"""SIGKILL at twenty moments, saving included: every time the run goes on, and ends with the weights of an undisturbed one."""
import multiprocessing
import os
import random
import shutil
import socket
import sys
import time

import pytest
import torch

from mulan_min import checkpoint
from mulan_min.shards.pack import pack

KILLS = 20
# A server that has imported train.py once and forks: a new process within milliseconds, and no thread of this one in it.
context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(["train"])


def train_quietly(arguments, environment):
    os.environ |= environment
    sys.stdout = sys.stderr = open(os.devnull, "w")
    import train
    torch.set_num_threads(1)
    train.main(arguments)


def begin(arguments, world):
    """Starts `world` processes that train together; -> them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    group = {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    processes = [context.Process(target=train_quietly, args=(arguments, group | {"RANK": str(rank)} if world > 1 else {}))
                 for rank in range(world)]
    for process in processes:
        process.start()
    return processes


def version(path):
    """Changes whenever the file is replaced; None where there is none."""
    return (path.stat().st_ino, path.stat().st_mtime_ns) if path.exists() else None


def finish(processes):
    for process in processes:
        process.join(600)
        assert process.exitcode == 0


@pytest.mark.parametrize("world, wanted, source", [(1, KILLS, "--data"), (2, KILLS // 4, "--data"), (2, KILLS // 4, "--shards")])
def test_killed_again_and_again_it_ends_with_the_same_weights(small_world, tmp_path, world, wanted, source):
    folder = small_world if source == "--data" else str(tmp_path / "shards")
    if source == "--shards":
        pack(small_world, folder, 2**22)

    def arguments(name):
        return ["--preset", "smoke", source, folder, "--run", str(tmp_path / name), "--workers", "0", "--audio", "ast",
                "--seconds", "1", "--steps", "80", "--valid-every", "1", "--log-every", "10", "--precision", "fp32"]

    finish(begin(arguments("whole"), world))
    files = [(tmp_path / "whole" / name).stat().st_mtime for name in ("config.json", "last.pt")]
    a_step = (files[1] - files[0]) / 80      # s, with its validation and checkpoint
    moments, last = random.Random(world), tmp_path / "cut" / "last.pt"
    kills, steps, parts = 0, [], 0
    while kills < wanted:
        processes = begin(arguments("cut") + (["--resume"] if last.exists() else []), world)
        for _ in range(moments.randint(1, 2)):      # checkpoints
            before = version(last)
            while processes[0].is_alive() and version(last) == before:
                time.sleep(0.001)
        time.sleep(moments.uniform(0.0, 1.5 * a_step))
        if not all(process.is_alive() for process in processes):      # too late, this run is over: begin another
            finish(processes)
            shutil.rmtree(tmp_path / "cut")
            steps.clear()
            continue
        for process in processes:
            process.kill()
        for process in processes:
            process.join()
        kills += 1
        parts += (tmp_path / "cut" / "last.pt.part").exists() or (tmp_path / "cut" / "best.pt.part").exists()
        steps.append(checkpoint.load(last)["step"])     # whole at every moment
    assert steps == sorted(steps)
    print(f"{kills} kills, {parts} of them while saving, after steps {steps}")
    if checkpoint.load(last)["step"] < 80:
        finish(begin(arguments("cut") + ["--resume"], world))
    whole, cut = (checkpoint.load(tmp_path / name / "last.pt") for name in ("whole", "cut"))
    assert cut["step"] == whole["step"] == 80 and cut["best"] == whole["best"]
    assert all(torch.equal(x, cut["model"][name]) for name, x in whole["model"].items())
    for key, state in whole["optimizer"]["state"].items():
        assert all(torch.equal(x, cut["optimizer"]["state"][key][name]) for name, x in state.items())
