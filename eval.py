"""Evaluate a run: python eval.py --task tagging|probe|retrieval|triplet|autotag|all [--run runs/ast] [--data DIR]

Prints a table for each task, the chance level beside every figure, and writes RUN/eval/TASK.json. With --triplets audioset
the triplets are AudioSet's class names and descriptions. With --text-encoder they judge any BERT instead of a run:

    python eval.py --task triplet --text-encoder DIR --pool mean --triplets audioset --ontology FILE
"""

import argparse
import json
import sys
import time
from pathlib import Path

from mulan_min import checkpoint, tasks
from mulan_min.bert_weights import TextEncoder
from mulan_min.command_line import run_script
from mulan_min.companion.autotag import autotag
from mulan_min.companion.joint_tagger import JointTagger
from mulan_min.device import default_device
from mulan_min.errors import MissingData, UserError
from mulan_min.files import write_atomically
from mulan_min.mulan import MuLan
from mulan_min.report import results_table
from mulan_min.tag_classifier import TagClassifier

TASKS = {task.__name__: task for task in (tasks.tagging, tasks.probe, tasks.retrieval, tasks.triplet, autotag)}


def main(argv=None):
    """Returns {task: result} as written to the JSON files. Raises UserError."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--task", default="all", help=", ".join(TASKS) + " or all [all]")
    parser.add_argument("--run", metavar="DIR", help="run folder or checkpoint file [the newest under runs/]")
    parser.add_argument("--data", metavar="DIR", action="append", help="may be repeated [the run's own]")
    parser.add_argument("--triplets", metavar="audioset", help="triplets of the --ontology instead of a collection's")
    parser.add_argument("--ontology", metavar="FILE", help="AudioSet's ontology.json")
    parser.add_argument("--text-encoder", metavar="DIR", help="judge this BERT, not a run; writes below runs/")
    parser.add_argument("--pool", help="mean (SBERT) or cls (SimCSE): how --text-encoder makes one vector [mean]")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap intervals [0]")
    args = parser.parse_args(argv)
    if args.task not in (*TASKS, "all"):
        raise UserError(f"--task '{args.task}' is not one of {', '.join(TASKS)}, all")
    if args.seed < 0:
        raise UserError(f"--seed {args.seed} must be 0 or more")
    names = list(TASKS) if args.task == "all" else [args.task]
    check_text_options(args)

    if args.text_encoder:
        pool = args.pool or "mean"
        name = "-".join(Path(args.text_encoder).resolve().parts[-2:])      # often the folder is just "model"
        model, run = TextEncoder(args.text_encoder, pool), Path("runs") / f"{name}-{pool}"
        print("\n".join(model.report))
    else:
        run = Path(args.run) if args.run else newest_run(Path("runs"))
        model = load_run(run)
        joint = isinstance(model, JointTagger)      # it reads no text, and has one task of its own
        if args.task == "all":
            names = [name for name in names if (name == "autotag") == joint]
        elif joint and args.task != "autotag":
            raise UserError(f"{run}: a run of --objective joint-tags has --task autotag alone")
    if args.triplets:
        started = time.perf_counter()
        rows, notes = tasks.ontology_triplets(args.ontology)
        result = tasks.judge_triplets(model, rows, args.seed)
        seconds = round(time.perf_counter() - started, 2)
        result = {"data": f"audioset ({args.ontology})", "seconds": seconds, **result, "notes": notes}
        show("triplet", run, result)
        return {"triplet": save("triplet", run, args.seed, [result], "triplet_audioset")}
    folders = args.data or (model.config.data.data if not args.text_encoder else [])
    if not folders:
        raise UserError(f"{run}: its config names no collection; give one with --data DIR")

    for folder in folders:
        if not Path(folder).is_dir():
            raise UserError(f"{folder}: no such folder; name a collection with --data DIR")

    results, missing = {name: [] for name in names}, []
    for folder in folders:
        heard = tasks.listener(model, folder)
        for name in names:
            started = time.perf_counter()
            try:
                result = TASKS[name](model, folder, heard, args.seed)
            except MissingData as error:
                missing.append(f"{name}: {error}")
                continue
            seconds = round(time.perf_counter() - started, 2)
            results[name].append({"data": str(folder), "seconds": seconds, **result})
            show(name, run, results[name][-1])
    if not any(results.values()):
        raise UserError("; ".join(missing))
    for line in missing:
        print(f"skipped {line}", file=sys.stderr)
    return {name: save(name, run, args.seed, parts) for name, parts in results.items() if parts}


def check_text_options(args):
    """Raises UserError for options that do not go together."""
    if args.triplets not in (None, "audioset"):
        raise UserError(f"--triplets {args.triplets} is not audioset; a collection's own triplets need no --triplets")
    if bool(args.triplets) != bool(args.ontology):
        raise UserError("--triplets audioset and --ontology FILE go together")
    if (args.triplets or args.text_encoder) and args.task != "triplet":
        raise UserError("--triplets and --text-encoder need --task triplet")
    if args.triplets and args.data:
        raise UserError("--triplets audioset needs no --data; leave one of them out")
    if args.text_encoder and args.run:
        raise UserError("--text-encoder stands instead of --run; leave one of them out")
    if args.text_encoder and not (args.triplets or args.data):
        raise UserError("--text-encoder needs triplets: --data DIR, or --triplets audioset --ontology FILE")
    if args.pool and not args.text_encoder:
        raise UserError("--pool goes with --text-encoder")


MODELS = {"contrastive": MuLan, "tags": TagClassifier, "joint-tags": JointTagger}


def load_run(run):
    """The model of a run folder or checkpoint file, whatever its objective, in eval mode. Raises UserError."""
    path = checkpoint.best_of(run)
    state = checkpoint.load(path)
    return MODELS.get(checkpoint.objective_of(state), MuLan).from_state(state, path).to(default_device()).eval()


def newest_run(root):
    """The run folder under `root` whose checkpoint was written last."""
    runs = [path.parent for name in ("best.pt", "last.pt") for path in root.glob(f"*/{name}")]
    if not runs:
        raise UserError(f"no run under {root}/; train one (python train.py --audio ast) or give --run")
    return max(runs, key=lambda run: checkpoint.best_of(run).stat().st_mtime)


def show(name, run, result):
    heard = f", {result['recordings']} recordings" if result["recordings"] else ""
    print(f"\n{name}: {run} on {result['data']}{heard}, {result['seconds']:.1f} s")
    print(results_table(result["sets"]))
    for note in result["notes"]:
        print(f"note: {note}", file=sys.stderr)


def save(name, run, seed, collections, file=None):
    """Write RUN/eval/TASK.json, or `file`.json there, and return what is in it."""
    result = {"task": name, "run": str(run), "seed": seed, "collections": collections}
    folder = (run.parent if run.is_file() else run) / "eval"
    text = json.dumps(result, indent=1, allow_nan=False)
    write_atomically(folder / f"{file or name}.json", lambda path: path.write_text(text))
    return result


if __name__ == "__main__":
    run_script(main)
