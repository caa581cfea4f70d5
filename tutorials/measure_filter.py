"""How well does the learned filter (mulan_min/mining/relevance.py) judge sentences that it was not trained on?

    python tutorials/measure_filter.py                              # filters from scratch, on the 200 test sentences
    python tutorials/measure_filter.py --text-init BERT_DIR         # filters that start from a public BERT
    python tutorials/measure_filter.py --data data/demo-4400        # also on comments of the demo world, against its hidden truth

Trains one filter for each seed. Prints accuracy and ROC-AUC of each, their mean, standard deviation and chance level.
The figures are in tutorials/mined_text.md.
"""
import argparse
import json
import sys
from collections import defaultdict
from pathlib import Path
from statistics import mean, stdev

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from mulan_min import metrics
from mulan_min.command_line import run_script
from mulan_min.errors import UserError
from mulan_min.mining.relevance import TEST, TRAIN, judge, read_pairs, train_filter
from mulan_min.report import format_table

TRUTH_SENTENCES = 2000  # comments drawn at random from lf_truth.jsonl: one minute with a BERT of six layers; our choice


def read_truth(folder):
    """lf_truth.jsonl of a demo world -> [(label, comment)], label 1 (about music) or 0. Raises UserError."""
    path = Path(folder) / "lf_truth.jsonl"
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        pairs = [(int(row["about_music"]), row["text"]) for row in rows]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); --data takes the folder of a demo world") from error
    if len({label for label, _ in pairs}) < 2:
        raise UserError(f"{path}: needs comments about music and others; --data takes the folder of a demo world")
    return pairs


def score(relevance, pairs):
    """(model, tokenizer) and labelled sentences -> {"accuracy", "ROC-AUC"}. Accuracy uses the threshold 0.5."""
    labels = np.array([label for label, _ in pairs])
    probabilities = judge(relevance, [sentence for _, sentence in pairs])
    return {"accuracy": float(((probabilities >= 0.5) == labels).mean()), "ROC-AUC": float(metrics.roc_auc(probabilities, labels))}


def evaluate(seeds, text_init=None, folder=None):
    """Trains a filter for each seed and prints the table. `folder`: a demo world, to judge its comments too."""
    train, tests, texts = read_pairs(TRAIN), {TEST.name: read_pairs(TEST)}, []
    if folder is not None:
        truth = read_truth(folder)
        texts = [sentence for _, sentence in truth]
        drawn = np.random.default_rng(0).permutation(len(truth))[:TRUTH_SENTENCES]
        tests[f"{len(drawn)} of lf_truth.jsonl"] = [truth[i] for i in drawn]
    scores = defaultdict(list)
    for seed in seeds:
        relevance = train_filter(train, seed, text_init, texts, log=print if seed == seeds[0] else lambda line: None)
        for name, pairs in tests.items():
            for metric, value in score(relevance, pairs).items():
                scores[name, metric].append(value)
    rows = []
    for (name, metric), values in scores.items():
        positive = mean(label for label, _ in tests[name])
        chance = max(positive, 1 - positive) if metric == "accuracy" else 0.5
        deviation = f"{stdev(values):.3f}" if len(values) > 1 else "-"
        rows.append([name, metric, *(f"{v:.3f}" for v in values), f"{mean(values):.3f}", deviation, f"{chance:.3f}"])
    print(f"filter {'from scratch' if text_init is None else f'started from {text_init}'}, {len(train)} sentences")
    print(format_table(rows, ["test", "metric", *(f"seed {seed}" for seed in seeds), "mean", "sd", "chance"]))


def main(argv=None):
    parser = argparse.ArgumentParser("python tutorials/measure_filter.py", description=__doc__.split("\n")[0])
    parser.add_argument("--data", metavar="DIR", help="a demo world: judge its comments too (lf_truth.jsonl)")
    parser.add_argument("--text-init", metavar="DIR", help="public BERT from which the filter starts")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="one filter for each [0 1 2]")
    args = parser.parse_args(argv)
    if min(args.seeds) < 0:
        raise UserError("--seeds must be 0 or more")
    evaluate(args.seeds, args.text_init, args.data)


if __name__ == "__main__":
    run_script(main)
