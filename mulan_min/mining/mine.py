"""Mined text, filtered: rules for titles and tags, rules and a learned filter for comments.

    python -m mulan_min.mining DIR OUT                              # a manifest folder to a cleaned one; rules only
    python -m mulan_min.mining DIR OUT --filter                     # and the learned filter, a small BERT from scratch
    python -m mulan_min.mining DIR OUT --text-init BERT_FOLDER      # the same filter, warm-started
    python -m mulan_min.mining --evaluate [--data DIR]              # how well the filter judges sentences it never saw

The paper cleans SF by rules and keeps of LF what a BERT fine-tuned on 700 labelled sentences takes for a description of
music; it found models trained without the filter about as good. The 700 sentences here (relevance_train.tsv) and 200 more,
written apart as a test (relevance_test.tsv), are this project's own. Playlist titles and class labels stay as they are.
"""
import argparse
import json
import os
import shutil
from collections import Counter, defaultdict
from pathlib import Path
from statistics import mean, stdev

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

from mulan_min import metrics
from mulan_min.bert import Bert
from mulan_min.bert_weights import load_bert
from mulan_min.command_line import run_script
from mulan_min.data import COMPANIONS, read_manifest
from mulan_min.device import default_device
from mulan_min.errors import UserError
from mulan_min.mining.text_rules import RULES_LF, RULES_SF, clean, count_words
from mulan_min.report import format_table
from mulan_min.wordpiece import encode, train_wordpiece

RULES = {"sf": RULES_SF, "lf": RULES_LF}     # a source that is not here stays as it is
TRAIN, TEST = (Path(__file__).with_name(f"relevance_{part}.tsv") for part in ("train", "test"))
COPIED = (*COMPANIONS, "lf_truth.jsonl")
VOCABULARY = 2000       # pieces of a filter from scratch; our choice
MAX_TOKENS = 64         # of a sentence; our choice
TRUTH_SENTENCES = 2000  # of lf_truth.jsonl are judged, drawn at random: a minute with a BERT of six layers; our choice


# ---- the learned filter ----------------------------------------------------------------


class RelevanceFilter(nn.Module):
    """BERT and a linear layer on [CLS]: tokens (B, L) and their mask -> logits (B,) of "describes music"."""

    def __init__(self, bert, dropout):
        super().__init__()
        self.bert, self.dropout = bert, nn.Dropout(dropout)
        self.head = nn.Linear(bert.words.embedding_dim, 1)
        nn.init.normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    def forward(self, ids, mask):
        return self.head(self.dropout(self.bert(ids, mask)[:, 0]))[:, 0]


def read_pairs(path):
    """[(1 or 0, sentence)] of a file of `label<TAB>sentence` lines. Raises UserError naming the line."""
    pairs = []
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); give UTF-8 lines of label, tab, sentence") from error
    for number, line in enumerate(lines, 1):
        label, _, sentence = line.partition("\t")
        if label not in ("0", "1") or not sentence.strip():
            raise UserError(f"{path}, line {number}: must be 0 or 1, a tab and a sentence")
        pairs.append((int(label), sentence))
    if len({label for label, _ in pairs}) < 2:
        raise UserError(f"{path}: needs sentences of both labels, 1 (describes music) and 0")
    return pairs


def train_filter(pairs, seed, text_init=None, texts=(), epochs=None, lr=None, say=print):
    """pairs [(1 or 0, sentence)] -> (RelevanceFilter in eval mode, tokenizer), the same for the same seed.

    `text_init` is the folder of a public BERT to start from. Without it a small BERT starts from random weights, and a
    WordPiece is trained on the sentences and on `texts`, unlabelled ones such as the collection's own. Epochs and rates were
    chosen by cross-validation on the 700 sentences. Raises UserError for a folder that cannot be loaded.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if text_init is None:
            tokenizer = train_wordpiece([sentence for _, sentence in pairs] + list(texts), VOCABULARY)
            bert = Bert(tokenizer.get_vocab_size(), 128, 2, 2, 512, MAX_TOKENS, dropout=0.3)
            epochs, lr, dropout = epochs or 15, lr or 1e-3, 0.3
        else:
            bert, tokenizer, report = load_bert(text_init, MAX_TOKENS, dropout=0.1)
            say("\n".join(report))
            epochs, lr, dropout = epochs or 3, lr or 1e-4, 0.1
        model = RelevanceFilter(bert, dropout).to(default_device()).train()
        fine_tune(model, tokenizer, pairs, seed, epochs, lr)
    return model.eval(), tokenizer


def fine_tune(model, tokenizer, pairs, seed, epochs, lr, batch=32):
    """Trains in place by binary cross entropy, each epoch in another order."""
    device, size = model.head.weight.device, -(-len(pairs) // batch)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, epochs * size, pct_start=0.1)
    with tqdm(total=epochs * size, desc="training the filter", unit="step", disable=None) as bar:
        for epoch in range(epochs):
            order = np.random.default_rng((seed, epoch)).permutation(len(pairs))
            for part in np.array_split(order, size):
                labels = torch.tensor([float(pairs[i][0]) for i in part], device=device)
                ids, mask = encode(tokenizer, [pairs[i][1] for i in part], model.bert.positions.num_embeddings)
                loss = F.binary_cross_entropy_with_logits(model(ids.to(device), mask.to(device)), labels)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                schedule.step()
                bar.update()


@torch.inference_mode()
def judge(relevance, texts, batch=64):
    """(model, tokenizer), N texts -> probabilities (N,) float64 that they describe music, whatever stands beside them."""
    model, tokenizer = relevance
    device, chances = model.head.weight.device, np.zeros(len(texts))
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))       # like lengths together: little padding
    with tqdm(total=len(texts), desc="judging", unit="sentence", disable=None) as bar:
        for start in range(0, len(texts), batch):
            part = order[start:start + batch]
            ids, mask = encode(tokenizer, [texts[i] for i in part], model.bert.positions.num_embeddings)
            chances[part] = model(ids.to(device), mask.to(device)).double().sigmoid().cpu().numpy()
            bar.update(len(part))
    return chances


def score(relevance, pairs):
    """{"accuracy", "ROC-AUC"} of the filter on labelled sentences."""
    truth = np.array([label for label, _ in pairs])
    chances = judge(relevance, [sentence for _, sentence in pairs])
    return {"accuracy": float(((chances >= 0.5) == truth).mean()), "ROC-AUC": float(metrics.roc_auc(chances, truth))}


def evaluate(seeds, text_init=None, folder=None, say=print):
    """Train a filter for each seed, say how it does on the test sentences and on the demo world's truth in `folder`."""
    train, tests, texts = read_pairs(TRAIN), {TEST.name: read_pairs(TEST)}, []
    if folder is not None:
        truth = read_truth(folder)
        texts = [sentence for _, sentence in truth]
        drawn = np.random.default_rng(0).permutation(len(truth))[:TRUTH_SENTENCES]
        tests[f"{len(drawn)} of lf_truth.jsonl"] = [truth[i] for i in drawn]
    found = defaultdict(list)
    for seed in seeds:
        relevance = train_filter(train, seed, text_init, texts, say=say if seed == seeds[0] else lambda line: None)
        for name, pairs in tests.items():
            for metric, value in score(relevance, pairs).items():
                found[name, metric].append(value)
    rows = []
    for (name, metric), values in found.items():
        positive = mean(label for label, _ in tests[name])
        spread = [f"{stdev(values):.3f}" if len(values) > 1 else "-"]
        chance = max(positive, 1 - positive) if metric == "accuracy" else 0.5
        rows.append([name, metric, *(f"{v:.3f}" for v in values), f"{mean(values):.3f}", *spread, f"{chance:.3f}"])
    start = "from scratch" if text_init is None else f"started from {text_init}"
    say(f"filter {start}, {len(train)} sentences\n"
        + format_table(rows, ["test", "metric", *(f"seed {seed}" for seed in seeds), "mean", "sd", "chance"]))


def read_truth(folder):
    """[(1 or 0, comment)] of a demo world's lf_truth.jsonl. Raises UserError."""
    path = Path(folder) / "lf_truth.jsonl"
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        pairs = [(int(row["about_music"]), row["text"]) for row in rows]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); --data takes the folder of a demo world") from error
    if len({label for label, _ in pairs}) < 2:
        raise UserError(f"{path}: needs comments of both kinds, about music and not; --data takes the folder of a demo world")
    return pairs


# ---- from manifest to manifest ---------------------------------------------------------


def mine(folder, out, relevance=None, threshold=0.5, join=False):
    """Write folder's manifest to `out` with its SF and LF cleaned; -> report (str). `folder` is only read.

    relevance: (model, tokenizer) of `train_filter`, or None; LF sentences it gives less than `threshold` are dropped.
    join puts what is left of a comment together again; else each sentence becomes a text. `out` appears by one rename, with
    dropped.tsv (recording, source, rule, text) and copies of the folder's labels, playlists, triplets and truth; audio is
    not copied. Recordings without a text left are left out. Raises UserError when `out` is there already or lies in
    `folder`, or nothing is left.
    """
    folder, out = Path(folder).resolve(), Path(out).resolve()
    if out == folder or folder in out.parents or out in folder.parents:
        raise UserError(f"{out}: must lie outside of {folder}, which stays as it is; give another OUT")
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(f"{out}: is there already; delete it or give another OUT")
    read_manifest(folder)       # says what is wrong with it, and where
    lines = (folder / "manifest.jsonl").read_text(encoding="utf-8", errors="replace").split("\n")
    rows = [json.loads(line) for line in lines if line.strip()]
    found, counts = run_rules(rows)
    if relevance is not None:
        run_filter(found, relevance, threshold)
    new, dropped = [], []
    for row, sources in zip(rows, found):
        text = {}
        for source, pieces in sources.items():
            kept = [piece for kept, _ in pieces for piece in ([" ".join(kept)] if join and source == "lf" and kept else kept)]
            kept, repeats = unique_texts(kept) if source in RULES else (kept, [])
            dropped += [(row["id"], source, rule, piece) for _, lost in pieces for rule, piece in lost]
            dropped += [(row["id"], source, "duplicate", piece) for piece in repeats]
            text |= {source: kept} if kept else {}
        audio = row["audio"] if os.path.isabs(row["audio"]) else moved((folder / row["audio"]).resolve(), out)
        new += [{**row, "audio": audio, "text": text}] if text else []
    if not new:
        raise UserError(f"{folder}: no recording has a text left; nothing is written to {out}")
    write_folder(folder, out, new, dropped)
    without = Counter(row["split"] for row in rows) - Counter(row["split"] for row in new)
    listed = ", ".join(f"{count} {split}" for split, count in without.items())
    return "\n\n".join([source_table(rows, new), rule_table(counts, dropped),
                        f"{len(new)} of {len(rows)} recordings are in {out}"
                        + (f"; left out, without any text: {listed}" if listed else "")])


def run_rules(rows):
    """Manifest rows -> for each row {source: [(pieces kept, [(rule, piece dropped)]) of each text]}, and a Counter of the
    texts changed by (source, rule)."""
    found, counts = [], Counter()
    for row in tqdm(rows, desc="rules", unit="recording", disable=None):
        sources = {}
        for source, texts in row["text"].items():
            changed = Counter()
            sources[source] = [clean(text, RULES.get(source, ()), changed) for text in texts]
            counts.update({(source, rule): count for rule, count in changed.items()})
        found.append(sources)
    return found, counts


def run_filter(found, relevance, threshold):
    """Moves the LF pieces that the filter thinks little of from kept to dropped, in what `run_rules` found."""
    comments = [comment for sources in found for comment in sources.get("lf", [])]
    pieces = sorted({piece for kept, _ in comments for piece in kept})
    low = {piece for piece, chance in zip(pieces, judge(relevance, pieces)) if chance < threshold}
    for kept, dropped in comments:
        dropped += [("filter", piece) for piece in kept if piece in low]
        kept[:] = [piece for piece in kept if piece not in low]


def unique_texts(texts):
    """-> (each text once whatever its case, the repeats)."""
    seen, kept, repeats = set(), [], []
    for text in texts:
        (repeats if text.casefold() in seen else kept).append(text)
        seen.add(text.casefold())
    return kept, repeats


def moved(audio, out):
    """The path of an audio file as a manifest in `out` must give it; absolute where there is no relative one (Windows)."""
    try:
        return Path(os.path.relpath(audio, out)).as_posix()
    except ValueError:
        return str(audio)


def write_folder(folder, out, rows, dropped):
    """Make `out` under another name beside it, then rename. Raises UserError when the disk refuses."""
    making = out.with_name(f".{out.name}.making-{os.getpid()}")
    try:
        making.mkdir(parents=True)
        lines = [json.dumps(row, ensure_ascii=False) for row in rows]
        table = ["\t".join(" ".join(cell.split()) for cell in row) for row in [("recording", "source", "rule", "text"), *dropped]]
        for name, content in (("dropped.tsv", table), ("manifest.jsonl", lines)):
            # half a surrogate pair has no UTF-8; Python's escape for it is JSON's too
            (making / name).write_text("\n".join(content) + "\n", encoding="utf-8", errors="backslashreplace")
        for name in COPIED:
            if (folder / name).is_file():
                shutil.copyfile(folder / name, making / name)
        making.replace(out)
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error}); make room, or give another OUT") from error
    finally:
        shutil.rmtree(making, ignore_errors=True)


def source_table(before, after):
    """Two lines a source: how many recordings and texts, how long, how many a recording, which share of the words is left."""
    lines = []
    for source in dict.fromkeys(source for row in before for source in row["text"]):
        words = {}
        for when, rows in (("before", before), ("after", after)):
            texts = [row["text"][source] for row in rows if row["text"].get(source)]
            count, words[when] = sum(map(len, texts)), sum(count_words(text) for some in texts for text in some)
            lines.append([source if when == "before" else "", when, len(texts), count, f"{words[when] / max(1, count):.1f}",
                          f"{count / max(1, len(texts)):.1f}",
                          "" if when == "before" else f"{words['after'] / max(1, words['before']):.3f}"])
    return format_table(lines, ["source", "", "recordings", "texts", "words per text", "texts per recording", "words kept"])


def rule_table(counts, dropped):
    """A line for each rule that did something: how many texts it changed or split, and dropped."""
    gone = Counter((source, rule) for _, source, rule, _ in dropped)
    reasons = {(source, name): reason for source, rules in RULES.items() for name, _, reason in rules}
    reasons[("lf", "filter")] = "the learned filter takes it for no description of music"
    lines = []
    for source in sorted({source for source, _ in counts | gone}, reverse=True):
        named = [rule for key, rule in reasons if key == source] + ["duplicate"]
        lines += [[f"{source} {rule}", reasons.get((source, rule), "the recording has it already"), counts[source, rule],
                   gone[source, rule]] for rule in named if counts[source, rule] or gone[source, rule]]
    return format_table(lines, ["rule", "why", "changed", "dropped"])


def main(argv=None):
    parser = argparse.ArgumentParser("python -m mulan_min.mining", description="Clean the text of a manifest folder.")
    parser.add_argument("folder", metavar="DIR", nargs="?", help="folder with manifest.jsonl; it is only read")
    parser.add_argument("out", metavar="OUT", nargs="?", help="folder to make")
    parser.add_argument("--filter", action="store_true", help="drop LF sentences that are not about music (paper)")
    parser.add_argument("--text-init", metavar="DIR", help="public BERT for the filter to start from (paper); implies --filter")
    parser.add_argument("--threshold", type=float, default=0.5, help="least probability of what stays [0.5]; our choice")
    parser.add_argument("--join", action="store_true", help="put the sentences left of a comment together again")
    parser.add_argument("--seed", type=int, default=0, help="of the filter [0]")
    parser.add_argument("--evaluate", action="store_true", help="accuracy and ROC-AUC of the filter instead; needs no DIR")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of --evaluate [0 1 2]")
    parser.add_argument("--data", metavar="DIR", help="demo world whose hidden truth --evaluate judges as well")
    args = parser.parse_args(argv)
    if min(args.seed, *args.seeds) < 0:
        raise UserError("--seed and --seeds must be 0 or more")
    if args.evaluate:
        return evaluate(args.seeds, args.text_init, args.data)
    if args.out is None:
        parser.error("DIR and OUT are needed, or --evaluate")
    if not 0 <= args.threshold <= 1:
        raise UserError(f"--threshold {args.threshold:g} must be between 0 and 1")
    relevance = None
    if args.filter or args.text_init:
        texts = [text for recording in read_manifest(args.folder) for text in recording.text.get("lf", [])]
        relevance = train_filter(read_pairs(TRAIN), args.seed, args.text_init, texts)
    print(mine(args.folder, args.out, relevance, args.threshold, args.join))


if __name__ == "__main__":
    run_script(main)
