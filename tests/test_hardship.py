"""What happens on long runs: a full disk, a folder that may not be written to, a damaged checkpoint, readers and processes that die
or hang. Each ends in one line and exit code 2, the last checkpoint is kept, and the run goes on to the same weights.

SIGKILL at random moments is in test_kill.py."""
import ctypes
import json
import multiprocessing
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from datetime import timedelta
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

import train
from mulan_min import audio, checkpoint, contrastive, data, distributed, loader, run_folder
from mulan_min.audio import AudioError
from mulan_min.command_line import run_script
from mulan_min.config import resolve
from mulan_min.errors import UserError
from mulan_min.wordpiece import train_wordpiece

ROOT = Path(__file__).resolve().parent.parent
LIMIT = 300      # s; what takes seconds here may take so long on a busy machine, and a test that waits longer has failed
# As in test_kill.py: a server that has imported train.py once and forks.
context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(["train"])
full_disk = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="the full disk is /dev/full")
find_children = pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="children are found in /proc")


def run_command(arguments, log, prepare, environment):
    """What `python train.py ARGUMENTS` does in its process, or `prepare` where it returns another main(argv)."""
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{log}.{name}", os.O_WRONLY | os.O_CREAT, 0o644), number)
    os.environ |= environment
    sys.argv = ["train.py", *arguments]
    multiprocessing.set_start_method("fork", force=True)      # for the readers, as where Python was started by hand
    torch.set_num_threads(1)
    run_script(prepare() or train.main if prepare else train.main)


class Command:
    """train.py in a process of its own; `out` and `err` are what it has printed."""

    def __init__(self, log, *arguments, prepare=None, **environment):
        self.log = log
        self.process = context.Process(target=run_command, args=(list(map(str, arguments)), str(log), prepare, environment))
        self.process.start()

    def __getattr__(self, name):
        return Path(f"{self.log}.{name}").read_text() if Path(f"{self.log}.{name}").exists() else ""

    def wait_for(self, text):
        while text not in self.out:
            assert self.process.is_alive(), self.err
            time.sleep(0.01)

    def refusal(self):
        """The one line with which it ends."""
        self.process.join(LIMIT)
        assert self.process.exitcode == 2 and self.err.startswith("error: ") and self.err.count("\n") == 1, self.out + self.err
        return self.err


def arguments(world, run, *more):
    return ["--preset", "smoke", "--data", str(world), "--run", str(run), "--workers", "0", "--precision", "fp32", *map(str, more)]


def content(run):
    return {path.name: path.read_bytes() for path in run.iterdir()}


def same_end(run, other):
    """Both runs have ended with the same weights and state of the optimiser."""
    a, b = (checkpoint.load(folder / "last.pt") for folder in (run, other))
    assert a["step"] == b["step"] and a["best"] == b["best"]
    assert all(torch.equal(x, b["model"][name]) for name, x in a["model"].items())
    for key, state in a["optimizer"]["state"].items():
        assert all(torch.equal(x, b["optimizer"]["state"][key][name]) for name, x in state.items())
    return True


@pytest.fixture(scope="module")
def runs(small_world, tmp_path_factory):
    """Two runs of 12 steps: one that nothing disturbs, one with a power cut at step 9, whose checkpoints are of step 6."""
    folder, steps, clamp = tmp_path_factory.mktemp("runs"), [], contrastive.clamp_temperature

    def crash(*given):
        steps.append(1)
        if len(steps) == 9:
            raise RuntimeError("power cut")
        return clamp(*given)

    train.main(arguments(small_world, folder / "whole"))
    with pytest.MonkeyPatch.context() as patch, pytest.raises(RuntimeError, match="power cut"):
        patch.setattr(contrastive, "clamp_temperature", crash)
        train.main(arguments(small_world, folder / "begun"))
    assert checkpoint.load(folder / "begun" / "last.pt")["step"] == checkpoint.load(folder / "begun" / "best.pt")["step"] == 6
    return folder


@pytest.fixture
def whole(runs):
    return runs / "whole"


@pytest.fixture
def begun(runs, tmp_path):
    return shutil.copytree(runs / "begun", tmp_path / "run")


# ---- disks and files ---------------------------------------------------------------------------


@full_disk
def test_a_full_disk_is_named_and_what_was_saved_is_gone_on_with(whole, begun, small_world, tmp_path):
    """The disk is full for checkpoints in one folder, for the log in the other, and then has room again."""
    other, before = shutil.copytree(begun, tmp_path / "other"), content(begun)
    for name in ("best.pt", "last.pt"):
        (begun / f"{name}.part").symlink_to("/dev/full")      # where the new file is written
    (other / "metrics.jsonl.part").symlink_to("/dev/full")
    commands = [Command(run, *arguments(small_world, run, "--resume")) for run in (begun, other)]
    for run, command, names in zip((begun, other), commands, (("best.pt", "last.pt"), ("metrics.jsonl",))):
        message = command.refusal()
        assert any(f"{run / name}: cannot be written (No space left on device)" in message for name in names), message
        assert all((run / name).read_bytes() == before[name] for name in ("best.pt", "last.pt"))
        assert (run / "metrics.jsonl").read_bytes().startswith(before["metrics.jsonl"][:20])
        for part in run.glob("*.part"):
            part.unlink()
        train.main(arguments(small_world, run, "--resume"))
        assert same_end(run, whole)


@full_disk
def test_a_log_without_room_is_named(small_world, tmp_path, monkeypatch):
    monkeypatch.setattr(run_folder, "open_metrics", lambda path, step: open("/dev/full", "w"))
    with pytest.raises(UserError, match=r"^/dev/full: cannot be written \(No space left on device\); the last checkpoint is kept"):
        train.main(arguments(small_world, tmp_path / "run"))


def test_a_file_as_large_as_is_allowed_is_whole_or_not_there(tmp_path):
    """Wherever in the file the room ends: the old one is kept, and never half of the new one."""
    resource = pytest.importorskip("resource", reason="limits are POSIX")
    path, state = tmp_path / "last.pt", {"model": {f"w{i}": torch.randn(50 + i, 7) for i in range(12)}}
    checkpoint.save(path, {"step": 1})
    checkpoint.save(tmp_path / "size", state)
    size, limits, kept = (tmp_path / "size").stat().st_size, resource.getrlimit(resource.RLIMIT_FSIZE), 0
    for room in [0, 1, 63, 64, 1000, size // 2, *range(size - 2000, size + 2, 77), size - 1, size]:
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))      # Python ignores the signal; writing fails
            checkpoint.save(path, state)
            assert room >= size
            break
        except UserError as error:
            assert str(error) == f"{path}: cannot be written (File too large); what was there before is kept"
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert checkpoint.load(path)["step"] == 1 and sorted(os.listdir(tmp_path)) == ["last.pt", "size"]
        kept += 1
    assert kept > 25 and all(torch.equal(x, state["model"][name]) for name, x in checkpoint.load(path)["model"].items())


def keep_to_permissions():
    """Root, too, is asked for its permissions from here on: it gives CAP_DAC_OVERRIDE away."""
    header, sets, libc = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)(), ctypes.CDLL(None)
    failed = libc.capget(header, sets)
    sets[0], sets[1] = sets[0] & ~2, sets[1] & ~2      # effective and permitted, which access(2) asks
    if failed or libc.capset(header, sets):
        os._exit(77)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="root is kept to permissions by a call of Linux")
def test_a_folder_that_may_not_be_written_to(begun, small_world, tmp_path):
    (tmp_path / "new").mkdir()
    before, folders = content(begun), (begun, tmp_path / "new")
    for folder in folders:
        folder.chmod(0o555)
    try:
        old, new = (Command(tmp_path / f"log{i}", *arguments(small_world, folder, *["--resume"][i:]), prepare=keep_to_permissions)
                    for i, folder in enumerate(folders))
        new.process.join(LIMIT)
        if new.process.exitcode == 77:
            pytest.skip("root may not give up its rights here")
        assert f"{tmp_path / 'new'}: may not be written to; choose another --run" in new.refusal()
        assert f"{begun / 'config.json'}: cannot be written (Permission denied); what was there before is kept" in old.refusal()
    finally:
        for folder in folders:
            folder.chmod(0o755)
    assert content(begun) == before and not os.listdir(tmp_path / "new")


def test_damaged_checkpoints_are_told_with_the_remedy_and_it_helps(whole, begun, small_world, tmp_path):
    """Cut in half; with a flipped bit; with a setting of another version."""
    cut, flipped, foreign = (shutil.copytree(begun, tmp_path / name) for name in ("cut", "flipped", "foreign"))
    before = bytearray((begun / "last.pt").read_bytes())
    (cut / "last.pt").write_bytes(before[:len(before) // 2])
    before[len(before) // 2] ^= 1
    (flipped / "last.pt").write_bytes(before)
    state = checkpoint.load(begun / "last.pt")
    state["config"]["optim"]["magic"] = 1
    checkpoint.save(foreign / "last.pt", state)
    commands = {run: Command(tmp_path / f"log of {run.name}", *arguments(small_world, run, "--resume")) for run in (cut, flipped, foreign)}
    assert "last.pt: config section 'optim' differs from this version in magic; use the version" in commands[foreign].refusal()
    for run in (cut, flipped):
        message = commands[run].refusal()
        assert f"{run / 'last.pt'}: not a checkpoint or file of weights that can be read; perhaps it is damaged or truncated" in message
        assert f"if {run / 'best.pt'} is intact, copy it to {run / 'last.pt'} to go on from there" in message
    shutil.copy(cut / "best.pt", cut / "last.pt")
    train.main(arguments(small_world, cut, "--resume"))
    assert same_end(cut, whole)


@pytest.mark.parametrize("change", [{"optimizer": {}}, {"step": None}, {"config": None}, {"config": {"front": 3}}, {"model": []},
                                    {"tokenizer": "{}"}, {"best": "x"}])
def test_a_checkpoint_that_lacks_a_part_is_one_line(begun, small_world, change):
    checkpoint.save(begun / "last.pt", checkpoint.load(begun / "last.pt") | change)
    with pytest.raises(UserError, match="last.pt: "):
        train.main(arguments(small_world, begun, "--resume"))


# ---- readers -----------------------------------------------------------------------------------


def small_batches(world):
    config = resolve({"preset": "smoke", "seconds": 1.0})
    targets = partial(contrastive.encode_texts, train_wordpiece(["a waltz"], 100), 64)
    return data.Batches(data.read_collection([world], "train"), config, targets)


def children(pid):
    """Process ids of the children of a process."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(path.read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(path.parent.name))
        except (OSError, ValueError):      # gone meanwhile
            pass
    return found


@find_children
def test_a_killed_reader_ends_the_run_in_one_line(small_world, tmp_path):
    run = tmp_path / "run"
    command = Command(tmp_path / "log", *arguments(small_world, run, "--workers", 2, "--steps", 100000, "--log-every", 1, "--valid-every", 2))
    command.wait_for("step     5  loss")
    os.kill(children(command.process.pid)[0], signal.SIGKILL)
    message = command.refusal()
    assert "a process that reads audio has died (DataLoader worker" in message and "go on with --resume" in message
    assert "lower --workers" in message and checkpoint.load(run / "last.pt")["step"] >= 4
    assert not list(run.glob("*.part"))


def test_a_reader_that_crashes_is_one_line(small_world, monkeypatch):
    batches = small_batches(small_world)
    monkeypatch.setattr(data.Batches, "batch", lambda self, step: os._exit(3))
    with pytest.raises(UserError, match="^a process that reads audio has died .*; the last checkpoint is kept, go on with --resume$"):
        next(loader.loader(batches, 0, 2))
    start = multiprocessing.process.BaseProcess.start
    monkeypatch.setattr(loader, "start_worker", lambda _: os._exit(3))      # before torch has started the other one
    monkeypatch.setattr(multiprocessing.process.BaseProcess, "start", lambda process: (start(process), process.join(30)))
    with pytest.raises(UserError, match="^a process that reads audio has died .a DataLoader worker ended at its start.: if it ran"):
        next(loader.loader(batches, 0, 2))
    with pytest.raises(RuntimeError, match="of another kind"), loader.worker_errors():
        raise RuntimeError("of another kind")


def hang_in_a_read():
    batch, loader.PATIENCE = data.Batches.batch, 5      # s; the batches before take 0.1 s
    data.Batches.batch = lambda self, step: time.sleep(1000) if step == 8 else batch(self, step)


def test_a_read_that_hangs_ends_the_run_and_its_reader(small_world, tmp_path):
    """Not only the training: the process, too, must end, though the reader listens to nothing."""
    command = Command(tmp_path / "log", *arguments(small_world, tmp_path / "run", "--workers", 1), prepare=hang_in_a_read)
    assert "error: no batch was read within 5 s: a disk does not answer, or the batch is too large" in command.refusal()
    assert checkpoint.load(tmp_path / "run" / "last.pt")["step"] == 6


def divide_by_zero():
    return 1 / 0


def fill_the_gpu():
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nGPU 0 has none.")


def fail_at_the_third_call(module, name, error):
    def fail(*args, calls=iter(range(1000)), original=getattr(module, name), **kwargs):
        return error() if next(calls) == 2 else original(*args, **kwargs)

    setattr(module, name, fail)


def fail_in_training(error):
    fail_at_the_third_call(contrastive, "backward", error)


def fail_in_validation():
    fail_at_the_third_call(contrastive, "validate", partial(np.empty, 2**50))      # more than any CPU's memory


def fail_in_a_checkpoint():
    fail_at_the_third_call(checkpoint, "save", partial(torch.empty, 2**50))


def fail_in_a_reader():
    def collate(*arguments):
        raise MemoryError

    data.collate = collate


@pytest.mark.parametrize("prepare, message", [
    (partial(fail_in_training, divide_by_zero), None),
    (partial(fail_in_training, fill_the_gpu), "out of memory (CUDA out of memory. Tried to allocate 20.00 GiB.);"),
    (fail_in_validation, "out of memory (Unable to allocate 8.00 PiB"),
    (fail_in_a_checkpoint, "can't allocate memory: you tried to allocate 4503599627370496 bytes"),
    (fail_in_a_reader, "out of memory (Caught MemoryError in DataLoader worker process 0.);"),
])  # fmt: skip
def test_an_unexpected_error_ends_the_run_and_its_readers(small_world, tmp_path, prepare, message):
    """The readers ignore SIGTERM, with which Python ends them at exit. Out of memory is one line, wherever it happens."""
    command = Command(tmp_path / "log", *arguments(small_world, tmp_path / "run", "--workers", 2, "--valid-every", 2), prepare=prepare)
    command.process.join(LIMIT)
    assert not command.process.is_alive()
    if message:
        line = command.refusal()
        assert message in line and "--batch-size" in line and "--chunk-size" in line
    else:
        assert command.process.exitcode == 1 and "ZeroDivisionError" in command.err


def test_a_pipe_is_no_recording(tmp_path):
    """To open it would wait for ever for somebody who writes."""
    os.mkfifo(tmp_path / "pipe.wav")
    row = {"id": "a", "audio": "pipe.wav", "split": "train", "text": {"sf": ["a waltz"]}}
    (tmp_path / "manifest.jsonl").write_text(json.dumps(row))
    failures = []

    def ask():
        for read in (audio.duration, audio.read_window, lambda path: data.read_manifest(path.parent)):
            with pytest.raises((AudioError, UserError), match="pipe.wav"):
                read(tmp_path / "pipe.wav")
            failures.append(read)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(LIMIT)
    assert len(failures) == 3


# ---- several processes -------------------------------------------------------------------------


def together(log, *given, **options):
    """Two processes that train together, without torchrun."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    return [Command(f"{log}{rank}", *given, RANK=str(rank), **group, **options) for rank in range(2)]


def done(commands):
    for command in commands:
        command.process.join(LIMIT)
        assert command.process.exitcode == 0, command.err


@find_children
def test_a_rank_that_dies_ends_the_job_soon_and_torchrun_goes_on(small_world, tmp_path):
    """Killed by SIGKILL, twice. After the first time torchrun begins again, and the job goes on; after the second, more than it was
    allowed, it is over within seconds, with a line from the other process and torchrun's table. Gone on with by hand, it ends with the
    weights of a job that nothing disturbs."""
    run = tmp_path / "run"
    more = ["--audio", "ast", "--precision", "fp32", "--seconds", 1, "--valid-every", 4, "--log-every", 1, "--steps", 24]
    done(together(tmp_path / "log", *arguments(small_world, tmp_path / "whole", *more)))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "--max-restarts=1", "--",
               str(ROOT / "train.py"), *arguments(small_world, run, *more)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}) as process:
        steps, kills = [], {6: 0, 14: 1}      # step: which process
        for line in process.stdout:
            if step := re.match(r"step +(\d+)  loss", line):
                steps.append(int(step[1]))
                if steps[-1] in kills:
                    victim, killed = children(process.pid)[kills.pop(steps[-1])], time.monotonic()
                    os.kill(victim, signal.SIGKILL)
        err = process.stderr.read()
    assert process.returncode == 1 and not kills and time.monotonic() - killed < LIMIT < distributed.TIMEOUT.total_seconds()
    assert steps.count(4) == 1 and steps.count(5) == 2      # it went on from step 4
    assert err.count("error: another process of this run has ended or is silent: its own message, or torchrun's table") == 2
    assert f"Signal 9 (SIGKILL) received by PID {victim}" in err and "Traceback" not in err.split("error: ")[0]
    assert checkpoint.load(run / "last.pt")["step"] == 12
    done(together(tmp_path / "again", *arguments(small_world, run, *more, "--resume")))
    assert same_end(run, tmp_path / "whole")


def test_a_restart_does_not_take_an_earlier_run_for_its_own(begun, small_world, monkeypatch):
    """As torchrun tells it: with --overwrite nobody knows whose checkpoint it is."""
    before = content(begun)
    for restarts, more in (("1", ["--overwrite"]), ("0", [])):
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", restarts)
        with pytest.raises(UserError, match="holds a run already: go on with --resume"):
            train.main(arguments(small_world, begun, *more))
        assert content(begun) == before
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    train.main(arguments(small_world, begun))
    assert checkpoint.load(begun / "last.pt")["step"] == 12


def wait_for_a_silent_process():
    distributed.TIMEOUT = timedelta(seconds=3)

    @distributed.rank_errors()
    def main(argv):
        rank, _, _ = distributed.start()
        print(f"together {distributed.all_reduce_sum(torch.ones(())):.0f}", flush=True)
        time.sleep(10_000 * rank)
        distributed.all_reduce_sum(torch.ones(1))

    return main


def test_a_silent_process_is_not_waited_for_for_ever(tmp_path):
    waiting, silent = together(tmp_path / "log", prepare=wait_for_a_silent_process)
    try:
        assert "error: another process of this run has ended or is silent" in waiting.refusal()
        assert "together 2" in waiting.out and silent.process.is_alive()
    finally:
        silent.process.kill()
