"""Train a MuLan. `python train.py --audio ast` makes the demo world, trains on it, validates, and saves runs/ast/.
`--objective tags` trains the audio tower alone, as a classifier; another run may start from it: `--audio-init runs/tags`.
`--objective joint-tags` trains the companion paper's tagger with joint embeddings: `--audio sample-cnn [--no-joint]`.

A run folder holds config.json, tokenizer.json (if the run reads text), metrics.jsonl, last.pt (for --resume), best.pt (to use).
"""
import math
import os
import sys
from contextlib import closing
from pathlib import Path

# This must come before `import torch`: by default its waiting threads occupy cores that the process which reads audio needs.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch
from tqdm import tqdm

from mulan_min import checkpoint, contrastive, distributed, run_folder, tag_classifier
from mulan_min.command_line import parser, print0, run_script, stop_requested
from mulan_min.companion import joint_tagger
from mulan_min.config import parse_ratio
from mulan_min.data import Batches, read_collection, shuffle_pairs
from mulan_min.demo.world import make_world
from mulan_min.errors import UserError
from mulan_min.files import write_json, write_text
from mulan_min.loader import check_skipped, loader, worker_errors
from mulan_min.shards.reader import find_shards, first_recordings
from mulan_min.shards.stream import ShardStream
from mulan_min.validation import VALID_RECORDINGS, choose_valid
from mulan_min.weights.start import init_towers, sizes_as_flags

OBJECTIVES = {"contrastive": contrastive, "tags": tag_classifier, "joint-tags": joint_tagger}
WORD_RECORDINGS = 10_000      # recordings of a stream from which the vocabulary and the text warm-up learn; our choice


@worker_errors()
@distributed.rank_errors()
def main(argv=None):
    """Trains with the settings in argv, a list of flags. Returns the model. Raises UserError."""
    typed = parse(argv)
    rank, world, device = distributed.start()
    folder, config, state = run_folder.open_run(typed, device, distributed.restarted(device))
    config.optim.precision = distributed.broadcast_object(config.optim.precision)
    optim, objective = config.optim, OBJECTIVES[config.optim.objective]

    # Data. Only the first process validates, logs and saves.
    recordings, valid = map(objective.prepare, read_recordings(config, rank))
    collection = run_folder.fingerprint(recordings)
    valid = [] if rank else choose_valid(valid, config, print0)
    if config.data.shuffle_pairs:
        recordings = shuffle_pairs(recordings, optim.seed)

    # Model
    torch.manual_seed(optim.seed)
    if state:
        model = objective.load(state, folder / "last.pt", recordings, valid)
    else:
        model = objective.build(config, recordings, valid)
        for line in init_towers(model):
            print0(line)
    model.to(device).train()
    if optim.compile:
        compile_networks(model.networks(), device)

    # Batches. On a CPU the reading processes compute the spectrograms too; a GPU computes them from the waveforms.
    front_end = getattr(model.audio, "spectrogram", None) if device.type == "cpu" else None
    if front_end:
        torch.set_num_threads(min(torch.get_num_threads(), max(1, os.cpu_count() - config.data.reader_cores)))
    saved = state["cursors"] if state and config.data.shards else [{}]
    cursors = saved[min(rank, len(saved) - 1)]      # {worker: its position}
    arguments = config, objective.make_targets(model), rank, world, front_end
    batches = ShardStream(config.data.shards, *arguments, cursors) if config.data.shards else Batches(recordings, *arguments)
    if not state:
        objective.warm_up(model, recordings, device)

    # Optimiser
    if world > 1 and optim.sync_batch_norm:
        distributed.sync_batch_norm(model)
    net = distributed.replicate(model, objective.LEAVES_UNUSED) if world > 1 else model
    optimizer = make_optimizer(model, optim)
    step, best, seconds, stage_1 = 0, -math.inf, 0.0, objective.stage_1_steps(config)
    if state:
        step, best, seconds = run_folder.progress_of(state, optimizer, folder / "last.pt", collection)
    elif not rank:
        run_folder.clear(folder)
    if not rank:
        write_json(folder / "config.json", config.to_dict())
        if model.tokenizer:
            write_text(folder / "tokenizer.json", model.tokenizer.to_str(pretty=True))
    metrics_file = open(os.devnull, "w") if rank else run_folder.open_metrics(folder / "metrics.jsonl", step)

    def save(name):
        all_cursors = distributed.all_gather_object(cursors)
        if not rank:
            checkpoint.save(folder / name, {
                "step": step, "best": best, "seconds": clock.seconds(), "config": config.to_dict(), "collection": collection,
                "labels": getattr(model, "labels", []), "tokenizer": model.tokenizer.to_str() if model.tokenizer else "",
                "model": model.state_dict(), "optimizer": optimizer.state_dict(), "cursors": all_cursors})

    print0(describe(model, batches, objective, f"{world} x {device.type}" if world > 1 else device))
    skipped, clock, r1_chance = {}, run_folder.Clock(seconds), objective.chances(model)[1]
    bar = tqdm(total=optim.steps, initial=step, unit="step", disable=rank or not sys.stderr.isatty(), dynamic_ncols=True)
    with stop_requested() as stop, bar, closing(loader(batches, step, config.data.workers)) as stream:
        logged = step
        while step < optim.steps and not distributed.all_reduce_sum(torch.tensor(float(stop.is_set()), device=device)):
            with clock.waiting():
                batch = next(stream)
            for name in batch["skipped"].keys() - skipped.keys():
                print0(f"left out: {name}: {batch['skipped'][name]}", every_rank=True)
                skipped[name] = batch["skipped"][name]
            check_skipped(skipped, batches.total or max(WORD_RECORDINGS, (step + 1) * optim.batch_size))
            cursors[batch["cursor"]["worker"]] = batch["cursor"]

            # One step. The random state (dropout, masks) depends only on the seed, the step and the process, as the batch does.
            torch.manual_seed((optim.seed * 1_000_003 + step) * world + rank)
            for group in optimizer.param_groups:
                group["lr"] = group["max_lr"] * schedule(step, optim, stage_1)
            batch |= {key: x.to(device, non_blocking=True) for key, x in batch.items() if torch.is_tensor(x) and key != "mask"}
            optimizer.zero_grad(set_to_none=True)
            loss, recall, chance = objective.backward(net, batch, step, model, world)
            if not math.isfinite(loss):
                raise UserError(f"step {step}: the loss is {float(loss)}; the last checkpoint is kept; lower --lr or look at "
                                f"the batch: {', '.join(batch['ids'])}")
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), optim.clip_norm)
            optimizer.step()
            more = objective.after_step(model)
            step += 1
            bar.update()

            if step % optim.log_every == 0 or step == optim.steps:
                row = {"step": step, "loss": float(loss), "chance": float(chance), "r1": float(recall), "r1_chance": r1_chance,
                       "grad_norm": float(norm), **clock.rates((step - logged) * optim.batch_size), **more}
                run_folder.log(metrics_file, row)
                print0(objective.LOG_LINE.format(**row))
                logged = step
            if step % optim.valid_every == 0 or step == optim.steps:
                with clock.paused():
                    row = distributed.broadcast_object(None if rank else {"step": step, **objective.validate(model, valid, step)})
                    run_folder.log(metrics_file, row)
                    better = step > stage_1 and row["valid_auc"] > best      # in a first stage the model is not usable yet
                    print0(objective.VALID_LINE.format(**row) + ("  best so far" if better else ""))
                    if better:
                        best = row["valid_auc"]
                        save("best.pt")
                    save("last.pt")
        if step < optim.steps:
            save("last.pt")
            print0(f"stopped after step {step}, saved {folder / 'last.pt'}; go on with --resume --run {folder}")
    metrics_file.close()
    del net      # must come before stop(), whose docstring gives the reason
    distributed.stop()
    if step == optim.steps:
        print0(f"done, {clock.seconds():.0f} s of training steps, best validation AUC {best:.3f}, {len(skipped)} recordings left "
               f"out; now: python eval.py --task all --run {folder}")
    return model


def parse(argv):
    """Returns {flag: value} of the flags in argv. The sizes of a --text-init folder are added to them, unless a run is resumed."""
    p = parser(__doc__)
    p.add_argument("--run", metavar="DIR", help="run folder [runs/AUDIO]")
    p.add_argument("--resume", action="store_true", help="continue exactly where the run stopped, with the settings of that run")
    p.add_argument("--overwrite", action="store_true", help="delete the run that the folder holds, and start a new one")
    typed = vars(p.parse_args(argv))
    return typed | (sizes_as_flags(typed) if typed.get("text_init") and "resume" not in typed else {})


def read_recordings(config, rank):
    """Returns (training recordings, validation recordings). They come from the demo world, which the first process makes if it does
    not exist, from the user's manifests, or from the first shards of a stream. Raises UserError."""
    data = config.data
    if data.shards:
        sources = parse_ratio(data.ratio)
        return [first_recordings(find_shards(data.shards, split), split, sources, count, split == "valid")
                for split, count in (("train", WORD_RECORDINGS), ("valid", VALID_RECORDINGS))]
    if not data.data:
        world = Path(f"data/demo-{data.demo_recordings}").absolute()      # a run may be resumed from another folder
        data.data = [str(world if rank else make_world(world, recordings=data.demo_recordings))]
        distributed.broadcast_object(None)      # the other processes wait here until the demo world exists
    return [read_collection(data.data, split) for split in ("train", "valid")]


def make_optimizer(model, optim):
    """AdamW with one learning rate for the audio tower and one for the rest. Weight decay applies to matrices and kernels only, as
    is usual (our choice)."""
    groups = []
    for is_audio, max_lr in ((True, optim.lr), (False, optim.text_lr if model.tokenizer else optim.lr)):
        part = [p for name, p in model.named_parameters() if name.startswith("audio.") == is_audio and name != "temperature"]
        groups += [{"params": [p for p in part if p.ndim > 1], "max_lr": max_lr, "weight_decay": optim.weight_decay},
                   {"params": [p for p in part if p.ndim <= 1], "max_lr": max_lr, "weight_decay": 0.0}]
    if hasattr(model, "temperature"):
        groups.append({"params": [model.temperature], "max_lr": optim.text_lr, "weight_decay": 0.0})
    return torch.optim.AdamW(groups, betas=(0.9, 0.98), fused=True)


def compile_networks(networks, device):
    """Compiles modules in place with torch.compile. networks: [(module, dynamic)]; dynamic: True if the input shapes change from
    step to step. Raises UserError if a compiler is missing."""
    try:
        torch.compile(lambda x: x + 1)(torch.ones(2, device=device))
    except Exception as error:      # torch._dynamo and torch._inductor raise types that change from version to version
        reason = str(error).strip().splitlines()[0][:200]
        raise UserError(f"--compile does not work here ({reason}): it needs a compiler (g++ on a CPU); leave it out") from error
    for module, dynamic in networks:
        module.compile(dynamic=dynamic)


def schedule(step, optim, stage_1=0):
    """The share of the maximal learning rate at `step`: a linear warm-up, then half a cosine down to zero. A first stage of
    `stage_1` steps has its own schedule of this shape."""
    steps = stage_1 if step < stage_1 else optim.steps - stage_1
    step = step if step < stage_1 else step - stage_1
    warm = max(1, round(optim.warmup * steps))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def describe(model, batches, objective, device):
    """The line that is printed before the first step: sizes, device, data, and the loss of a model that has learned nothing."""
    optim, audio = model.config.optim, sum(p.numel() for p in model.audio.parameters())
    rest = sum(p.numel() for p in model.parameters()) - audio
    rest_name = "bert" if model.tokenizer else f"{len(model.labels)} labels"
    return (f"{model.config.tower.audio} {audio / 1e6:.1f} M + {rest_name} {rest / 1e6:.1f} M parameters on {device} in "
            f"{optim.precision}; {batches.total or 'an unknown number of'} recordings, "
            f"{optim.steps} steps of {optim.batch_size} clips; chance loss {objective.chances(model)[0]:.3f}")


if __name__ == "__main__":
    run_script(main)
