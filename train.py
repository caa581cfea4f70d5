"""Train a MuLan. `python train.py --audio ast` makes the demo world, trains on it, validates, and saves runs/ast/.
`--objective tags` trains the audio tower alone, as a classifier, which another run may start from: `--audio-init runs/tags`.
`--objective joint-tags` trains a tagger with joint embeddings, as the companion paper: `--audio sample-cnn [--no-joint]`.

A run folder holds config.json, tokenizer.json (if text is read), metrics.jsonl, last.pt (to go on with --resume), best.pt (to use).
"""
import json
import math
import os
import signal
import sys
import threading
import time
from collections import Counter
from contextlib import nullcontext, suppress
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path

# Before torch: its threads share the cores with the process that reads audio, and would spin while they wait for one
# another, which on two cores takes from its speed (clips/s in the log).
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm

from mulan_min import checkpoint, distributed, metrics
from mulan_min.audio import AudioError
from mulan_min.command_line import parser, run_script
from mulan_min.companion.joint_tagger import JointTagger
from mulan_min.config import config_from_dict, parse_ratio, resolve, to_json
from mulan_min.data import Batches, read_clip_window, read_collection, shuffle_pairs
from mulan_min.demo.world import make_world
from mulan_min.errors import UserError
from mulan_min.files import write_atomically
from mulan_min.gradcache import chunked_backward
from mulan_min.labels import has_both_classes, label_table, labels_of, read_labels, with_tags
from mulan_min.loader import check_lost, loader, readers
from mulan_min.loss import chance_loss, clamp_temperature, cmc_loss
from mulan_min.mulan import AudioTower, MuLan
from mulan_min.shards.reader import find_shards, first_recordings
from mulan_min.shards.stream import ShardStream
from mulan_min.text_warmup import warm_up_text
from mulan_min.weights import init_audio, init_text, size_text_tower
from mulan_min.wordpiece import load_wordpiece, train_wordpiece

VALID_RECORDINGS = 256                       # at most so many are embedded to validate; our choice
WORD_RECORDINGS = 10_000                     # of shards, so many teach the vocabulary and the text warm-up; our choice
FREE_TO_CHANGE = ("workers", "log_every")    # settings that may differ after --resume: the weights do not depend on them


@readers()
@distributed.peers()
def main(argv=None):
    typed = vars(parse(argv))
    run = Path(typed.pop("run", None) or f"runs/{typed.get('audio', 'ast')}")
    resume, overwrite = typed.pop("resume", False), typed.pop("overwrite", False)
    rank, world, device = distributed.start()
    if distributed.restarted(device):      # what stood in the folder before is not to be taken for this run's
        resume, overwrite = resume or not overwrite and (run / "last.pt").exists(), False
    config, state = (reopen if resume else start)(run, typed, overwrite, device)
    config.optim.precision = distributed.agree(config.optim.precision)

    # Data: the demo world, made by the first process, or the user's manifests, or shards.
    if not config.data.data and not config.data.shards:
        folder = Path(f"data/demo-{config.data.demo_recordings}")
        config.data.data = [str(folder if rank else make_world(folder, recordings=config.data.demo_recordings))]
        distributed.agree(None)      # the others wait until it is there
    sources, objective = parse_ratio(config.data.ratio), config.optim.objective
    classify, tagger = objective != "contrastive", objective == "joint-tags"
    if config.data.shards:      # of a stream, enough to learn words from and to validate with
        recordings, valid = (first_recordings(find_shards(config.data.shards, split), split, sources, count, split == "valid")
                             for split, count in (("train", WORD_RECORDINGS), ("valid", VALID_RECORDINGS)))
    else:
        recordings, valid = (read_collection(config.data.data, split) for split in ("train", "valid"))
    if classify:
        recordings, valid = with_tags(recordings), with_tags(valid)
    valid = [] if rank else choose_valid(valid, config)      # the first process validates, logs and saves
    if config.data.shuffle_pairs:
        recordings = shuffle_pairs(recordings, config.optim.seed)

    # Model and optimiser, new or as they were.
    torch.manual_seed(config.optim.seed)
    if state:
        model = (JointTagger if tagger else MuLan).from_state(state, run / "last.pt")
    else:
        texts, text = [[text for source in sources for text in r.text.get(source, [])] for r in recordings], config.text
        if classify:
            model = (JointTagger if tagger else MuLan)(config, None, choose_labels(recordings, config))
        else:
            vocab = text.text_init or text.vocab
            tokenizer = load_wordpiece(vocab) if vocab else train_wordpiece(chain.from_iterable(texts), text.vocab_size)
            model = MuLan(config, tokenizer)
        if text.text_init:
            say("\n".join(init_text(model, text.text_init)))
        if config.tower.audio_init:
            say("\n".join(init_audio(model, config.tower.audio_init)))
    if classify:
        share = label_table([r for r in recordings if r.text.keys() & sources.keys()], model.labels, sources).mean(0)
        if not rank:
            two_sided(label_table(valid, model.labels, sources).bool())      # before a step is lost
        if not state:
            for end in (model.classify[-1], model.decode[-1]) if tagger else (model.text,):
                end.bias.data = share.logit(1e-3)      # the answer without sound: rare labels start as rare ones
    # Without a GPU the processes that read make the spectrograms too, and may have cores of their own.
    prepare = getattr(model.audio, "spectrogram", None) if device.type == "cpu" else None
    if prepare:
        torch.set_num_threads(min(torch.get_num_threads(), max(1, os.cpu_count() - config.data.reader_cores)))
    model.to(device).train()
    if config.optim.compile:
        compile_towers(model, device)
    if config.data.shards:
        cursors = state["cursors"][min(rank, len(state["cursors"]) - 1)] if state else {}
        batches = ShardStream(config.data.shards, config, model.tokenizer, rank, world, prepare, cursors=cursors)
        total = batches.samples
    else:
        cursors, total = {}, len(recordings)
        batches = Batches(recordings, config, model.tokenizer, rank, world, prepare, model.labels)
    if config.text.text_warmup and not state and not classify:
        warm_up_text(model, [group for group in texts if group], config, device, say)
    if world > 1 and config.optim.sync_batch_norm:
        distributed.sync_batch_norm(model)
    net = distributed.replicate(model, unused=tagger) if world > 1 else model
    optimizer = make_optimizer(model, config)
    step, best, elapsed = 0, -math.inf, 0.0
    if state:
        try:
            optimizer.load_state_dict(state["optimizer"])
            step, best, elapsed = int(state["step"]), float(state["best"]), float(state["seconds"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"{run / 'last.pt'}: nothing to go on from, for a part is missing or odd ({error})") from error
    elif not rank:
        clear(run)
    if not rank:
        save_json(run / "config.json", to_json(config))
        if model.tokenizer:
            save_json(run / "tokenizer.json", model.tokenizer.to_str(pretty=True))
    journal = open(os.devnull, "w") if rank else reopen_metrics(run / "metrics.jsonl", step)

    def save(name):
        places = distributed.gather(cursors)
        if not rank:
            checkpoint.save(run / name, {
                "step": step, "best": best, "seconds": elapsed, "config": config.to_dict(), "labels": model.labels,
                "tokenizer": model.tokenizer.to_str() if model.tokenizer else "", "model": model.state_dict(),
                "optimizer": optimizer.state_dict(), "cursors": places})

    size, optim = config.optim.batch_size, config.optim
    chance, right_chance = label_chances(share) if classify else (chance_loss(size), 1 / size)
    heard = sum(p.numel() for p in model.audio.parameters())
    parameters = heard / 1e6, (sum(p.numel() for p in model.parameters()) - heard) / 1e6
    first_steps = model.first_steps if tagger else 0      # stage 1
    reads = f"{len(model.labels)} labels" if classify else "bert"
    where = f"{world} x {device.type}" if world > 1 else device
    say(f"{config.tower.audio} {parameters[0]:.1f} M + {reads} {parameters[1]:.1f} M parameters on {where} in {optim.precision}; "
        f"{total or 'untold'} recordings, {optim.steps} steps of {size} clips; chance loss {chance:.3f}")
    lost, waited, began = {}, 0.0, time.perf_counter()
    bar = tqdm(total=optim.steps, initial=step, unit="step", disable=rank or not sys.stderr.isatty(), dynamic_ncols=True)
    with stop_requested() as stop, bar:
        stream = iter(loader(batches, step, config.data.workers))
        marked, marked_step = began, step
        while step < optim.steps and not distributed.total(torch.tensor(float(stop.is_set()), device=device)):
            asked = time.perf_counter()
            batch = next(stream)
            waited += time.perf_counter() - asked
            for name in batch["lost"].keys() - lost.keys():
                say(f"left out: {name}: {batch['lost'][name]}", every=True)
                lost[name] = batch["lost"][name]
            check_lost(lost, total or max(WORD_RECORDINGS, (step + 1) * size))

            # One step. The random state (dropout, masks) is a function of the seed and the step, as the batch is.
            torch.manual_seed((optim.seed * 1_000_003 + step) * world + rank)
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * schedule(step, optim, first_steps)
            inputs = {key: x.to(device, non_blocking=True) for key, x in batch.items() if torch.is_tensor(x)}
            optimizer.zero_grad(set_to_none=True)
            if classify:
                answer = partial(net, first=step < first_steps) if tagger else partial(label_losses, net)
                loss, right, others = map(distributed.total, clip_backward(answer, net, inputs, optim, world))
                chance = others.item() if tagger else chance      # measured: the loss with another recording's tags
            else:
                loss, right = map(distributed.total, pair_backward(net, inputs, optim, world))
            if not math.isfinite(loss.item()):
                raise UserError(f"step {step}: the loss is {loss.item()}; the last checkpoint is kept; lower --lr or look at "
                                f"the batch: {', '.join(batch['ids'])}")
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), optim.clip_norm)
            optimizer.step()
            if not tagger:
                clamp_temperature(model.temperature, config.space.temperature_floor)
            step += 1
            bar.update()

            now = time.perf_counter()
            if step % optim.log_every == 0 or step == optim.steps:
                row = {"step": step, "loss": loss.item(), "chance": chance, "r1": right.item(), "r1_chance": right_chance,
                       "grad_norm": norm.item(),
                       "clips_per_s": (step - marked_step) * size / (now - marked), "wait": waited / (now - marked),
                       "seconds": elapsed + now - began}
                row |= {} if tagger else {"temperature": model.temperature.item()}
                log(journal, row)
                tau = "" if tagger else "tau {temperature:.3f}  "
                say(("step {step:5d}  loss {loss:.3f} (chance {chance:.3f})  R@1 {r1:.3f} (chance {r1_chance:.3f})  " + tau +
                     "grad {grad_norm:.2f}  {clips_per_s:.0f} clips/s  data wait {wait:.1%}").format(**row))
                marked, marked_step, waited = now, step, 0.0
            if "cursor" in batch:
                cursors[batch["cursor"]["worker"]] = batch["cursor"]
            if step % optim.valid_every == 0 or step == optim.steps:
                paused = time.perf_counter()
                row = distributed.agree(None if rank else validate(model, valid, sources, step <= first_steps))
                log(journal, {"step": step, **row})
                # of stage 1 the best is no tagger yet
                auc = -math.inf if step <= first_steps else row["valid_auc"]
                what = "labels, macro" if classify else "own text before another's,"
                pairs = "  loss {valid_loss:.3f} (another's tags {valid_chance:.3f})".format(**row) if tagger else ""
                say(f"step {step:5d}  validation: {what} AUC {row['valid_auc']:.3f} (chance 0.500){pairs}"
                    + ("  best so far" if auc > best else ""))
                elapsed, began = elapsed + time.perf_counter() - began, time.perf_counter()
                if auc > best:
                    best = auc
                    save("best.pt")
                save("last.pt")
                marked += time.perf_counter() - paused
        elapsed += time.perf_counter() - began
        if step < optim.steps:
            save("last.pt")
            say(f"stopped after step {step}, saved {run / 'last.pt'}; go on with --resume --run {run}")
    journal.close()
    del net
    distributed.stop()
    if step == optim.steps:
        say(f"done, {elapsed:.0f} s of training steps, best validation AUC {best:.3f}, {len(lost)} recordings left out; now: "
            f"python eval.py --task all --run {run}")
    return model


def parse(argv):
    p = parser(__doc__)
    p.add_argument("--run", metavar="DIR", help="run folder [runs/AUDIO]")
    p.add_argument("--resume", action="store_true", help="go on exactly where the run stopped, with its own settings")
    p.add_argument("--overwrite", action="store_true", help="throw away what the run folder holds")
    return p.parse_args(argv)


def start(run, typed, overwrite, device):
    """A new run folder and its config. Raises UserError when the folder holds a run already."""
    config = resolve(typed)
    if config.text.text_init:
        if config.optim.objective != "contrastive":
            raise UserError(f"--text-init does not go with --objective {config.optim.objective}: leave it out, no text is read")
        size_text_tower(config, typed)
    if config.optim.precision == "auto":
        config.optim.precision = faster_precision(device)
    if (run / "last.pt").exists() and not overwrite:
        raise UserError(f"{run} holds a run already: go on with --resume, choose another --run, or throw it away with --overwrite")
    try:
        run.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{run}: cannot be used as run folder ({error})") from error
    if not os.access(run, os.W_OK | os.X_OK):
        raise UserError(f"{run}: may not be written to; choose another --run")
    return config, None


def clear(run):
    """Removes what an earlier run left in the folder, figures of its evaluation too."""
    for path in [run / "last.pt", run / "best.pt", run / "metrics.jsonl", *(run / "eval").glob("*.json")]:
        path.unlink(missing_ok=True)


def reopen(run, typed, overwrite, device):
    """The config and state that a run was saved with. Raises UserError when a typed setting differs from it."""
    last, best = run / "last.pt", run / "best.pt"
    try:
        state = checkpoint.load(last)
    except UserError as error:
        remedy = f"; if {best} is whole, copy it to {last} to go on from there" if best.is_file() else ""
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
    return config, state


def make_optimizer(model, config):
    """AdamW with a rate for each tower; weight decay on matrices and kernels only, as is usual (our choice)."""
    optim, groups = config.optim, []
    for heard, rate in ((True, optim.lr), (False, optim.lr if model.labels else optim.text_lr)):
        part = [p for name, p in model.named_parameters() if name.startswith("audio.") == heard and name != "temperature"]
        groups += [{"params": [p for p in part if p.ndim > 1], "peak": rate, "weight_decay": optim.weight_decay},
                   {"params": [p for p in part if p.ndim <= 1], "peak": rate, "weight_decay": 0.0}]
    if hasattr(model, "temperature"):
        groups.append({"params": [model.temperature], "peak": optim.text_lr, "weight_decay": 0.0})
    return torch.optim.AdamW(groups, betas=(0.9, 0.98), fused=True)


def schedule(step, optim, first_steps=0):
    """Share of the peak rate: linear warm-up, then half a cosine to zero; in each of two stages where the first has steps."""
    steps = first_steps if step < first_steps else optim.steps - first_steps
    step = step if step < first_steps else step - first_steps
    warm = max(1, round(optim.warmup * steps))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def faster_precision(device):
    """bf16 where a matrix product gains from it: GPUs that have it, and CPUs measured here (AMX, AVX-512 BF16, ...)."""
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16) * 9:      # the fastest of nine: other programs may be running
        a = torch.ones(512, 512, dtype=dtype)
        a @ a
        began = time.perf_counter()
        a @ a
        seconds[dtype] = min(seconds.get(dtype, math.inf), time.perf_counter() - began)
    return "bf16" if seconds[torch.bfloat16] < 0.8 * seconds[torch.float32] else "fp32"


def compile_towers(model, device):
    """torch.compile on the towers' networks, in place. Raises UserError where a compiler is missing."""
    try:
        torch.compile(lambda x: x + 1)(torch.ones(2, device=device))
    except Exception as error:      # of torch._dynamo or torch._inductor, whose types change from version to version
        why = str(error).strip().splitlines()[0][:200]
        raise UserError(f"--compile does not work here ({why}): it needs a compiler, on a CPU g++; leave the flag out") from error
    (model.audio.net if isinstance(model.audio, AudioTower) else model.audio).compile()
    if not model.labels:
        model.text.net.compile(dynamic=True)      # texts of a part are as long as its longest


def pair_backward(net, batch, optim, world):
    """Pairs of sound and text -> (CMC loss, R@1), this process's parts of both, and their gradients in the parameters.
    DistributedDataParallel averages gradients where the loss is a sum over the processes: hence `world`."""
    right = []

    def embed(part):
        with torch.autocast(part["sound"].device.type, torch.bfloat16, enabled=optim.precision == "bf16"):
            return net(part["sound"], part["tokens"], part["mask"])

    def loss_of(audio, text, temperature):
        everyone = distributed.everyone(audio, text, optim.batch_size)
        right.append(recall_at_1(audio, text, everyone))
        return world * cmc_loss(audio, text, temperature, everyone)

    if 0 < optim.chunk_size < len(batch["sound"]):
        loss = chunked_backward(net, batch, optim.chunk_size, embed, loss_of)
    else:
        loss = loss_of(*embed(batch), getattr(net, "module", net).temperature)
        loss.backward()
    return loss / world, right[0]


def recall_at_1(audio, text, everyone=None):
    """Share of the batch whose recording is nearest to its own text; of several processes this one's part, `everyone` as in
    `cmc_loss`."""
    _, all_text, first = everyone or (audio, text, 0)
    nearest = (audio.detach() @ all_text.detach().T).argmax(dim=1)
    return nearest.eq(torch.arange(first, first + len(audio), device=audio.device)).sum() / len(all_text)


def clip_backward(answer, net, batch, optim, world):
    """Sound and labels -> (loss, R@1: share of the recordings whose highest label is one of theirs, the loss with others'
    labels), as `pair_backward`. Clips do not depend on one another, so chunks are simply one after the other.
    answer: (sound, targets) -> (losses (b,), those of others (b,), logits (b, C)), by `net`."""
    targets, size = batch["targets"], len(batch["targets"])
    sums, chunk = torch.zeros(3, device=targets.device), optim.chunk_size or size
    for rows in torch.arange(size, device=targets.device).split(chunk):
        with nullcontext() if world == 1 or rows[-1] == size - 1 else net.no_sync():
            with torch.autocast(targets.device.type, torch.bfloat16, enabled=optim.precision == "bf16"):
                losses, others, logits = answer(batch["sound"][rows], targets[rows])
            (world * losses.sum() / optim.batch_size).backward()
        right = targets[rows].gather(1, logits.argmax(1, keepdim=True))
        sums += torch.stack([losses.detach().sum(), right.sum(), others.detach().sum()])
    return sums / optim.batch_size


def label_losses(net, sound, targets):
    """The answer of a classifier for `clip_backward`: binary cross entropy, the mean over labels."""
    logits = net(sound).float()
    losses = F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(1)
    return losses, losses, logits


def label_chances(share):
    """(binary cross entropy, R@1) of who knows no more than each label's share of the recordings."""
    return F.binary_cross_entropy(share, share).item(), share.max().item()


def choose_labels(recordings, config):
    """The labels on enough recordings to be learned, in alphabetical order. Raises UserError when there are none."""
    sources, least = parse_ratio(config.data.ratio), config.data.label_recordings
    counts = Counter(label for recording in recordings for label in labels_of(recording, sources))
    if name := config.tagger.label_set:
        sets = [read_labels(folder) for folder in config.data.data]
        if not all(name in known for known in sets):
            raise UserError(f"--label-set {name} is not in labels.json of each --data; there are {', '.join(map(', '.join, sets))}")
        counts = Counter({label: counts[label] for known in sets for label in known[name]})
    labels = sorted(label for label, count in counts.items() if count >= least)
    if not labels:
        raise UserError(f"none of {len(counts)} labels in --ratio {config.data.ratio} is on {least} or more training recordings: "
                        "lower --label-recordings, or name another source of labels")
    say(f"{len(labels)} labels are on {least} or more recordings, {len(counts) - len(labels)} others are left out")
    return labels


def choose_valid(recordings, config):
    """VALID_RECORDINGS or fewer, spread over the collections, that can be read and have text of a source in use. Raises
    UserError when fewer than two are left, since each is compared with the others."""
    front, ratio, chosen = config.front, parse_ratio(config.data.ratio), []
    recordings = [replace(r, text={source: r.text[source] for source in ratio if source in r.text}) for r in recordings]
    recordings = [r for r in recordings if r.text]
    count = min(len(recordings), VALID_RECORDINGS)
    for r in (recordings[i * len(recordings) // count] for i in range(count)):
        try:
            read_clip_window(r, front.seconds, front.sample_rate, 0.5)
            chosen.append(r)
        except AudioError as error:
            say(f"left out of validation: {r.id}: {error}")
    if len(chosen) < 2:
        raise UserError(f"{', '.join(config.data.data + config.data.shards)}: two or more recordings of split 'valid' with text and "
                        f"readable audio are needed, not {len(chosen)}")
    return chosen


def validate(model, recordings, sources, first=False):
    """{"valid_auc": how often a validation recording's own text lies nearer to it than to another recording}: chance 0.5. It
    needs no labels, so it chooses checkpoints in the same way on anybody's music. For a classifier its labels' macro ROC-AUC,
    for a joint tagger in its `first` stage or second also the loss, and what it is with another recording's tags."""
    front = model.config.front
    waves = [read_clip_window(r, front.seconds, front.sample_rate, 0.5) for r in recordings]
    if model.labels:
        truth = label_table(recordings, model.labels, sources)
        if not isinstance(model, JointTagger):
            with torch.no_grad():
                audio = model.embed_audio(waves).to(model.temperature.device)
                return {"valid_auc": label_auc(model.text(audio, model.temperature).cpu(), truth.bool())}
        losses, others, logits = model.ask(np.stack(waves), truth, first)
        return {"valid_auc": label_auc(logits, truth.bool()), "valid_loss": losses.mean().item(),
                "valid_chance": others.mean().item()}
    audio = model.embed_audio(waves)
    pairs = [(i, texts[0]) for i, r in enumerate(recordings) for texts in r.text.values()]
    owner = torch.tensor([i for i, _ in pairs])
    scores = model.embed_text([text for _, text in pairs]) @ audio.T                # (texts, recordings)
    own = scores.gather(1, owner[:, None])
    beaten = (scores < own).sum(1) + 0.5 * ((scores == own).sum(1) - 1)             # ties count half, but not itself
    return {"valid_auc": (beaten / (len(recordings) - 1)).mean().item()}


def two_sided(truth):
    """Which labels some of the recordings have, and some have not: (N, C) -> (C,), all bool. Raises UserError for none."""
    kept = has_both_classes(truth)
    if not kept.any():
        raise UserError("no label is on some but not all recordings of split 'valid'; put more recordings there")
    return kept


def label_auc(logits, truth):
    """Macro ROC-AUC over the labels that some of the recordings have, and some have not. Raises UserError."""
    kept = two_sided(truth)
    return float(metrics.roc_auc(logits[:, kept].numpy(), truth[:, kept].numpy()).mean())


def save_json(path, text):
    write_atomically(path, lambda new: new.write_text(text, encoding="utf-8"))


def reopen_metrics(path, step):
    """metrics.jsonl, cut back to what had happened by `step`."""
    kept = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            if json.loads(line)["step"] > step:
                break
        except ValueError:      # a power cut may leave half a line
            break
        kept.append(line + "\n")
    save_json(path, "".join(kept))
    return open(path, "a")


def log(file, row):
    try:
        file.write(json.dumps(row) + "\n")
        file.flush()
    except OSError as error:
        with suppress(OSError):
            file.close()
        raise UserError(f"{file.name}: cannot be written ({error.strerror}); the last checkpoint is kept, go on with --resume") from error


def say(text, every=False):
    """To the terminal, above the progress bar; of several processes the first speaks for all, unless `every` one may."""
    if os.environ.get("RANK", "0") != "0" and not every:
        return
    tqdm.write(text.encode(errors="backslashreplace").decode(), file=sys.stdout)      # a name may hold what UTF-8 cannot
    sys.stdout.flush()


class stop_requested:
    """with stop_requested() as stop: Ctrl-C and SIGTERM set `stop`, and the loop ends after the step in hand."""

    def __enter__(self):
        event = threading.Event()
        main_thread = threading.current_thread() is threading.main_thread()      # Python takes handlers only there
        self.before = {s: signal.signal(s, lambda *_: event.set()) for s in (signal.SIGINT, signal.SIGTERM)} if main_thread else {}
        return event

    def __exit__(self, *_):
        for number, handler in self.before.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    run_script(main)
