"""Table 1 and figure 2 of the companion paper: does a joint embedding with the tags help a tagger?

    python tutorials/joint_tags.py --seeds 0 1 2            # six extractors, without and with, on the demo world: 36 runs
    python tutorials/joint_tags.py --table                  # mean and sd of the saved results, and paired tests
    python tutorials/joint_tags.py --picture drums          # draws features and tag embeddings of the test recordings
    python tutorials/joint_tags.py --seeds 0 --label mtat --data DIR --preset paper --label-set top50      # MagnaTagATune

Flags that this script does not define are passed to train.py. The results are saved in tutorials/results/tagger.
"""
import argparse
import json
import subprocess
import sys
from pathlib import Path
from statistics import mean, stdev

import numpy as np
from measure import RESULTS, ROOT, hardware, run
from scipy.stats import ttest_rel

sys.path.insert(0, str(ROOT))
from mulan_min.config import EXTRACTORS  # noqa: E402

ARMS = {"without": ["--no-joint"], "with": [], "with, tags held, all trained": ["--detach-tags", "--finetune-extractor"]}
METRICS = ("roc_auc", "average_precision")


def measure(label, audio, arm, seed, more):
    """Trains and evaluates one run and saves its figures as JSON. `arm` is a key of ARMS; `more` are flags for train.py."""
    name = "-".join(filter(None, (label, audio, arm.replace(", ", "-").replace(" ", "-"), f"seed{seed}")))
    command = ["train.py", "--objective", "joint-tags", "--audio", audio, "--seed", str(seed), "--run", f"runs/tagger/{name}",
               "--overwrite", *ARMS[arm], *more]
    seconds = run(*command)
    run("eval.py", "--task", "autotag", "--run", f"runs/tagger/{name}")
    figures = json.loads(Path(f"runs/tagger/{name}/eval/autotag.json").read_text())["collections"][0]["sets"]["all"]
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    row = {"command": "python " + " ".join(command), "label": label, "audio": audio, "arm": arm, "seed": seed, "commit": commit,
           "hardware": hardware(), "train_seconds": round(seconds), "figures": {name: figures[name] for name in METRICS}}
    folder = RESULTS / "tagger"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(row, indent=1) + "\n")


def tables():
    """Prints two tables for each label of the saved results: mean ± sd over the seeds, and the differences between the arms."""
    rows = [json.loads(path.read_text()) for path in sorted((RESULTS / "tagger").glob("*.json"))]
    for label in sorted({row["label"] for row in rows}):
        found = {(r["audio"], r["arm"], r["seed"]): r for r in rows if r["label"] == label}
        arms = [arm for arm in ARMS if any(key[1] == arm for key in found)]
        chances = next(iter(found.values()))["figures"]
        roc, pr = (chances[metric]["chance"] for metric in METRICS)
        print(f"\n{label or 'demo world'}; ROC-AUC (chance {roc:.3f}) / PR-AUC (chance {pr:.3f})\n\n"
              f"| | {' | '.join(arms)} | seeds | training, s |\n|---|" + "---|" * (len(arms) + 2))
        for audio in (audio for audio in (*EXTRACTORS, "ast", "resnet50") if any(key[0] == audio for key in found)):
            own = {arm: [r for (a, m, _), r in found.items() if (a, m) == (audio, arm)] for arm in arms}
            cells = [" / ".join(show([r["figures"][metric]["value"] for r in own[arm]]) for metric in METRICS if own[arm])
                     for arm in arms]
            seconds = [r["train_seconds"] for arm in arms for r in own[arm]]
            seeds = ", ".join(sorted({str(r["seed"]) for arm in arms for r in own[arm]}))
            print(f"| {audio} | {' | '.join(cells)} | {seeds} | {min(seconds)} to {max(seconds)} |")
        for arm in arms[1:]:
            print(f"\n{arm}, minus without (paired t-test over the seeds; in the last line over extractors and seeds):\n\n"
                  "| | ROC-AUC | p | PR-AUC | p |\n|---|---|---|---|---|")
            pairs = {key: (found[key[0], "without", key[2]], r) for key, r in found.items()
                     if key[1] == arm and (key[0], "without", key[2]) in found}
            for audio in (*EXTRACTORS, "ast", "resnet50", "all"):
                compared = [pair for key, pair in pairs.items() if audio in (key[0], "all")]
                if compared:
                    print(f"| {audio} | " + " | ".join(difference(compared, metric) for metric in METRICS) + " |")


def difference(pairs, metric):
    """[(result without, result with)] -> "+0.012 ± 0.004 | 0.030": mean and sd of the gain, and the p-value of a paired t-test."""
    before, after = ([pair[i]["figures"][metric]["value"] for pair in pairs] for i in (0, 1))
    gains = [b - a for a, b in zip(before, after)]
    if len(gains) < 2:
        return f"{gains[0]:+.3f} |"
    p = ttest_rel(after, before).pvalue
    return f"{mean(gains):+.3f} ± {stdev(gains):.3f} | {'below 0.001' if p < 0.001 else f'{p:.3f}'}"


def show(values):
    """Mean ± sd as text; "" without values."""
    return "" if not values else f"{mean(values):.3f}" + (f" ± {stdev(values):.3f}" if len(values) > 1 else "")


def picture(tag, audio, path):
    """Draws three panels: the features of the test recordings without and with joint embedding, and the embeddings of their tags.

    Each is reduced to two dimensions. Recordings that have `tag` are red. Needs matplotlib and the runs of seed 0.
    """
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    import torch

    from mulan_min.companion.joint_tagger import JointTagger
    from mulan_min.data import read_clip_window, read_collection
    from mulan_min.labels import label_table, with_tags

    panels = []
    for arm in ("without", "with"):
        model = JointTagger.load(f"runs/tagger/{audio}-{arm}-seed0")
        front = model.config.front
        recordings = with_tags(read_collection(model.config.data.data, "test"))
        waves = [torch.from_numpy(read_clip_window(r, front.seconds, front.sample_rate, 0.5)) for r in recordings]
        truth = label_table(recordings, model.labels, ["tags"])
        with torch.inference_mode():
            features = torch.cat([model.audio(torch.stack(waves[i:i + 64])) for i in range(0, len(waves), 64)])
            panels.append((f"features {arm} joint embedding", features.double().numpy()))
            if arm == "with":
                panels.append(("embeddings of the tags", model.encode(truth).double().numpy()))
    has = truth[:, model.labels.index(tag)].bool().numpy()
    figure, axes = plt.subplots(1, 3, figsize=(13, 4.4))
    for ax, (title, vectors) in zip(axes, panels):
        how, points = two_dimensions(vectors)
        for mask, colour, name in ((~has, "#b8b8b8", f"not {tag}"), (has, "#c0392b", tag)):
            ax.scatter(*points[mask].T, s=9, c=colour, label=name, linewidths=0)
        ax.set(title=title, xticks=[], yticks=[], xlabel=how)
    axes[0].legend(loc="best", frameon=False)
    figure.suptitle(f"{len(has)} test recordings, {audio}")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    print(f"{path}: {len(has)} test recordings, {int(has.sum())} with the tag {tag}")


def two_dimensions(vectors):
    """(N, d) -> (name of the method, (N, 2)): t-SNE of scikit-learn, or two principal components when it is not installed."""
    centred = vectors - vectors.mean(0)
    try:
        from sklearn.manifold import TSNE
    except ImportError:
        return "two principal components", centred @ np.linalg.svd(centred, full_matrices=False)[2][:2].T
    return "t-SNE", TSNE(random_state=0, init="pca", perplexity=30).fit_transform(centred)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--audio", nargs="+", default=EXTRACTORS, help="also possible: ast and resnet50")
    parser.add_argument("--arms", nargs="+", default=["without", "with"], choices=ARMS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[])
    parser.add_argument("--label", default="", help="name of a set of runs; without a name: the demo world")
    parser.add_argument("--table", action="store_true", help="print the tables of the saved results")
    parser.add_argument("--picture", metavar="TAG", help="draw the runs of seed 0; recordings with this tag are red")
    args, more = parser.parse_known_args()      # unknown flags go to train.py
    for seed in args.seeds:
        for audio in args.audio:
            for arm in args.arms:
                measure(args.label, audio, arm, seed, more)
    if args.table or not (args.seeds or args.picture):
        tables()
    if args.picture:
        picture(args.picture, args.audio[0], ROOT / "tutorials" / "figures" / "joint_tags.png")
