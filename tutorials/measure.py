"""The results of the README: trains and evaluates with several seeds, saves the figures, prints the table.

    python tutorials/measure.py --audio ast --seeds 0 1 2          # writes tutorials/results/ast-seed0.json, ...
    python tutorials/measure.py --audio ast --seeds 0 --control    # the control: trained on shuffled pairs
    python tutorials/measure.py --audio ast --arm warm --text-init DIR    # a variation; unknown flags go to train.py
    python tutorials/measure.py --table                            # mean and sd over the seeds of the saved results
"""
import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from statistics import mean, stdev

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "tutorials" / "results"
FAMILIES = ("genre", "instrument", "mood", "tempo", "density", "production")
ROWS = [("zero-shot tagging, all labels, macro ROC-AUC", "tagging, all, roc_auc"),      # title, key of the figure
        ("... macro PR-AUC", "tagging, all, average_precision"),
        *((f"... {family}, ROC-AUC", f"tagging, {family}, roc_auc") for family in FAMILIES),
        ("... synonyms that no training text uses, ROC-AUC", "tagging, held_out_synonyms, roc_auc"),
        ("linear probe, all labels, macro ROC-AUC", "probe, all, roc_auc"),
        ("... above zero-shot by", "gain"),
        ("playlist title to its members, ROC-AUC", "retrieval, playlist/title, roc_auc"),
        ("... mAP", "retrieval, playlist/title, average_precision"),
        ("playlist description to its members, ROC-AUC", "retrieval, playlist/description, roc_auc"),
        ("... mAP", "retrieval, playlist/description, average_precision"),
        ("triplets, label and its description", "triplet, ontology, accuracy"),
        ("triplets, playlist title and its description", "triplet, playlist, accuracy"),
        ("track title to its recording, ROC-AUC", "retrieval, track/title, roc_auc"),
        ("... mAP", "retrieval, track/title, average_precision"),
        ("album title to its tracks, ROC-AUC", "retrieval, album/title, roc_auc"),
        ("... mAP", "retrieval, album/title, average_precision")]


def hardware():
    """Name of the processor and number of cores, as the system reports them."""
    name = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        name = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), name)
    return f"{name}, {os.cpu_count()} cores"


def run(*command):
    """Runs a script of the repository with the current Python -> its seconds. Raises CalledProcessError when it fails."""
    print("$ python " + " ".join(command), flush=True)
    began = time.perf_counter()
    subprocess.run([sys.executable, ROOT / command[0], *command[1:]], check=True)
    return time.perf_counter() - began


def measure(audio, seed, control, label, arm, evaluate_only, more):
    """Trains and evaluates one run and saves its figures, command, commit, hardware and times as JSON in RESULTS.

    control: shuffled pairs. evaluate_only: the run exists already and its training time is kept. more: flags for train.py,
    in which SEED stands for the seed.
    """
    name = "-".join(filter(None, (label, audio, arm, "control" if control else "", f"seed{seed}")))
    command = ["train.py", "--audio", audio, "--seed", str(seed), "--run", f"runs/{name}", "--overwrite",
               *(["--shuffle-pairs"] if control else []), *(part.replace("SEED", str(seed)) for part in more)]
    old = RESULTS / f"{name}.json"
    train_seconds = json.loads(old.read_text())["train_seconds"] if evaluate_only else run(*command)
    eval_seconds = run("eval.py", "--task", "all", "--run", f"runs/{name}")
    tasks = {path.stem: json.loads(path.read_text()) for path in sorted(Path(f"runs/{name}/eval").glob("*.json"))}
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    row = {"command": "python " + " ".join(command), "label": label, "audio": audio, "arm": arm, "seed": seed, "control": control,
           "commit": commit, "hardware": hardware(), "train_seconds": round(train_seconds), "eval_seconds": round(eval_seconds),
           "figures": {f"{task}, {group}, {metric}": {"value": figure["value"], "chance": figure["chance"]}
                       for task, result in tasks.items() for group, content in result["collections"][0]["sets"].items()
                       for metric, figure in content.items() if isinstance(figure, dict) and "value" in figure}}
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(row, indent=1) + "\n")


def gain(figures):
    """Figures of one run -> ROC-AUC of the linear probe minus ROC-AUC of zero-shot tagging; None without both."""
    probe, zero_shot = (figures.get(f"{task}, all, roc_auc") for task in ("probe", "tagging"))
    return {"value": probe["value"] - zero_shot["value"], "chance": 0.0} if probe and zero_shot else None


def tables():
    """Prints one table for each set of runs: a line for each of ROWS, a column for each tower, arm and control, with mean ± sd
    over the seeds. The arms of the demo world have a separate table, which also shows the same towers without an arm."""
    sets = defaultdict(lambda: defaultdict(list))
    found = [json.loads(path.read_text()) for path in RESULTS.glob("*.json")]
    for row in sorted(found, key=lambda row: (row["control"], row["audio"], row.get("arm", ""), row["seed"])):
        row["figures"]["gain"] = gain(row["figures"])
        arm, control = row.get("arm", ""), row["control"]
        column = " ".join(filter(None, (row["audio"], arm, "control" if control else "")))
        if row["label"] or not arm:
            sets[row["label"] or "demo world"][column].append(row)
        compared = any(r.get("arm") and not r["label"] and r["audio"] == row["audio"] for r in found)
        if compared and not row["label"] and not control:
            sets["demo world, arms"][column].append(row)
    for label, runs in sorted(sets.items()):
        print(f"\n{label}\n\n| | " + " | ".join(runs) + " | chance |\n|---|" + "---|" * (len(runs) + 1))
        for title, name in ROWS:
            columns = [[row["figures"][name] for row in found if row["figures"].get(name)] for found in runs.values()]
            if any(columns):
                chance = next(column for column in columns if column)[0]["chance"]
                print(f"| {title} | {' | '.join(show([f['value'] for f in column]) for column in columns)} | {chance:.3f} |")
        for title, key in (("seeds", "seed"), ("training, s", "train_seconds"), ("evaluation, s", "eval_seconds")):
            print(f"| {title} | " + " | ".join(", ".join(str(row[key]) for row in found) for found in runs.values()) + " | |")


def show(values):
    """Mean ± sd as text; "" without values."""
    return "" if not values else f"{mean(values):.3f}" + (f" ± {stdev(values):.3f}" if len(values) > 1 else "")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--audio", choices=("ast", "resnet50"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--control", action="store_true", help="train on shuffled pairs")
    parser.add_argument("--evaluate-only", action="store_true", help="evaluate existing runs; their training time is kept")
    parser.add_argument("--label", default="", help="name of a set of runs, such as one with --data; without a name: the README's")
    parser.add_argument("--arm", default="", help="name of a variation; in flags for train.py, SEED becomes the seed")
    parser.add_argument("--table", action="store_true", help="print the tables of the saved results")
    args, more = parser.parse_known_args()      # unknown flags go to train.py
    if args.audio:
        for seed in args.seeds:
            measure(args.audio, seed, args.control, args.label, args.arm, args.evaluate_only, more)
    if args.table or not args.audio:
        tables()
