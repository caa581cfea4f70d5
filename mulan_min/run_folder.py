"""The folder of a training run: makes or resumes it, and writes its log; and the clock of a run.

It holds config.json, tokenizer.json (if the run reads text), metrics.jsonl, last.pt (to resume) and best.pt (to use).
"""
import json
import os
import time
import zlib
from contextlib import contextmanager, suppress
from pathlib import Path

from mulan_min import checkpoint
from mulan_min.config import check, config_from_dict, resolve
from mulan_min.device import faster_precision
from mulan_min.errors import UserError
from mulan_min.files import write_text

# Settings that --resume may change, because the weights do not depend on them. A collection may have been moved: `progress_of`
# checks that it is still the same.
FREE_TO_CHANGE = ("workers", "log_every", "data", "shards")


def open_run(typed, device, restarted=False):
    """typed: {flag: value} of the command line -> (folder, Config, state to resume from or None). Raises UserError.

    restarted: True if torchrun has restarted the processes. Then the run resumes from its checkpoint, if there is one. With
    --overwrite a checkpoint is an error, because it may be an older run's, from before the first start.
    """
    folder = Path(typed.pop("run", None) or f"runs/{typed.get('audio', 'ast')}")
    typed |= {name: list(map(os.path.abspath, typed[name])) for name in ("data", "shards") if name in typed}
    resume, overwrite = typed.pop("resume", False), typed.pop("overwrite", False)
    if restarted:
        resume, overwrite = resume or not overwrite and (folder / "last.pt").exists(), False
    return (folder, *resume_run(folder, typed)) if resume else (folder, new_run(folder, typed, overwrite, device), None)


def new_run(folder, typed, overwrite, device):
    """Makes a run's folder and returns its Config. Raises UserError if the folder holds a run, or cannot be written to."""
    config = resolve(typed)
    if config.optim.precision == "auto":
        config.optim.precision = faster_precision(device)
    if (folder / "last.pt").exists() and not overwrite:
        raise UserError(f"{folder} holds a run already: go on with --resume, choose another --run, or delete it with --overwrite")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be used as run folder ({error})") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"{folder}: may not be written to; choose another --run")
    return config


def resume_run(folder, typed):
    """Returns (Config, state) of the folder's last checkpoint. Raises UserError when a typed setting differs from the run's."""
    last, best = folder / "last.pt", folder / "best.pt"
    try:
        state = checkpoint.load(last)
    except UserError as error:
        remedy = f"; if {best} is intact, copy it to {last} to go on from there" if best.is_file() else ""
        raise UserError(f"{error}{remedy}") from error
    config = config_from_dict(state.get("config"), last)
    typed.pop("preset", None)
    for section in vars(config).values():
        for name in typed.keys() & vars(section).keys():
            if name in FREE_TO_CHANGE:
                setattr(section, name, typed[name])
            elif typed[name] != getattr(section, name):
                raise UserError(f"--{name.replace('_', '-')} {typed[name]} differs from the run's {getattr(section, name)}: "
                                "a resumed run keeps its settings; start another with --run")
    check(config)
    return config, state


def fingerprint(recordings):
    """A number that differs when the recordings, their order, clips, texts or tags differ. Their paths may differ."""
    return zlib.crc32(json.dumps([(r.id, r.start, r.duration, r.text, r.tags) for r in recordings]).encode())


def progress_of(state, optimizer, path, collection):
    """Loads the optimiser's state. Returns (step, best AUC, seconds) of a checkpoint. Raises UserError, which names `path`, also when
    the run was trained on another collection: its fingerprint is not `collection`."""
    if state.get("collection", collection) != collection:
        raise UserError(f"{path}: was trained on another collection, or its manifest has changed since: give the same recordings with "
                        "--data, or start another run with --run")
    try:
        optimizer.load_state_dict(state["optimizer"])
        return int(state["step"]), float(state["best"]), float(state["seconds"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: cannot be resumed, because a part is missing or invalid ({error})") from error


def clear(folder):
    """Removes the checkpoints, the log and the evaluation results of an earlier run from the folder."""
    for path in [folder / "last.pt", folder / "best.pt", folder / "metrics.jsonl", *(folder / "eval").glob("*.json")]:
        path.unlink(missing_ok=True)


def open_metrics(path, step):
    """Opens metrics.jsonl for appending. The lines of later steps than `step` are removed."""
    lines = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            if json.loads(line)["step"] > step:
                break
        except ValueError:      # a power cut may leave half a line
            break
        lines.append(line + "\n")
    write_text(path, "".join(lines))
    return open(path, "a")


def log(metrics_file, row):
    """Appends one row to metrics.jsonl. Raises UserError when it cannot be written."""
    try:
        metrics_file.write(json.dumps(row) + "\n")
        metrics_file.flush()
    except OSError as error:
        with suppress(OSError):
            metrics_file.close()
        raise UserError(f"{metrics_file.name}: cannot be written ({error.strerror}); the last checkpoint is kept, "
                        "go on with --resume") from error


class Clock:
    """Seconds of training, and two rates since the last log line: clips per second, and the share of time spent waiting for data.

        with clock.waiting(): batch = next(batches)
        with clock.paused(): validate()      # this time is part of the seconds, but not of the rates
    """

    def __init__(self, seconds=0.0):
        self.began = time.perf_counter() - seconds      # a resumed run has `seconds` of training already
        self.mark, self.waited = time.perf_counter(), 0.0

    def seconds(self):
        return time.perf_counter() - self.began

    @contextmanager
    def waiting(self):
        began = time.perf_counter()
        yield
        self.waited += time.perf_counter() - began

    @contextmanager
    def paused(self):
        began = time.perf_counter()
        yield
        self.mark += time.perf_counter() - began

    def rates(self, clips):
        """{"clips_per_s", "wait", "seconds"}; clips: how many were trained on since the last call."""
        elapsed, waited = time.perf_counter() - self.mark, self.waited
        self.mark, self.waited = time.perf_counter(), 0.0
        return {"clips_per_s": clips / elapsed, "wait": waited / elapsed, "seconds": self.seconds()}
