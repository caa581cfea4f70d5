"""Evaluate a run: python eval.py --task tagging|probe|retrieval|triplet|autotag|all [--run runs/ast] [--data DIR]

Prints a table for each task, with the chance level beside each value, and writes RUN/eval/TASK.json. With --ontology the
triplets are AudioSet's class names and descriptions. With --text-encoder the triplet task evaluates any BERT instead of a run:

    python eval.py --task triplet --text-encoder DIR --pool mean --ontology FILE
"""
import os
import sys
import time
from pathlib import Path

from mulan_min import checkpoint, tasks
from mulan_min.command_line import Parser, run_script
from mulan_min.companion.joint_tagger import JointTagger, autotag
from mulan_min.device import default_device
from mulan_min.embedding import split_embedder
from mulan_min.errors import MissingData, UserError
from mulan_min.files import write_json
from mulan_min.mulan import MuLan
from mulan_min.report import results_table
from mulan_min.tag_classifier import TagClassifier
from mulan_min.weights.bert import TextEncoder

TASKS = {task.__name__: task for task in (tasks.tagging, tasks.probe, tasks.retrieval, tasks.triplet, autotag)}
MODELS = {"contrastive": MuLan, "tags": TagClassifier, "joint-tags": JointTagger}


def main(argv=None):
    """Evaluates a run or a text encoder. Returns {task: result} as written to the JSON files. Raises UserError."""
    args = parse(argv)
    if args.text_encoder:
        model = TextEncoder(args.text_encoder, args.pool or "mean")
        name = "-".join(Path(args.text_encoder).resolve().parts[-2:])  # two parts, as the folder itself is often called "model"
        run = Path("runs") / f"{name}-{model.pool}"
        print("\n".join(model.report))
    else:
        run = Path(args.run) if args.run else newest_run(Path("runs"))
        model = load_run(run)
    names = task_names(args.task, model, run)
    if args.ontology:
        result = run_task("triplet", run, f"audioset ({args.ontology})", tasks.judge_triplets,
                          model, *tasks.ontology_triplets(args.ontology), args.seed)
        return {"triplet": save("triplet", run, args.seed, [result], "triplet_audioset")}

    folders = args.data or model.config.data.data  # a text encoder always comes with --data here
    if not folders:
        raise UserError(f"{run}: its config names no collection; give one with --data DIR")
    if missing := [folder for folder in folders if not Path(folder).is_dir()]:
        raise UserError(f"{missing[0]}: no such folder; name a collection with --data DIR")
    results, skipped = {name: [] for name in names}, []
    for folder in folders:
        embeddings = split_embedder(model, folder)
        for name in names:
            try:
                results[name].append(run_task(name, run, shown(folder), TASKS[name], model, folder, embeddings, args.seed))
            except MissingData as error:
                skipped.append(f"{name}: {error}")
    if not any(results.values()):
        raise UserError("; ".join(skipped))
    for line in skipped:
        print(f"skipped {line}", file=sys.stderr)
    return {name: save(name, run, args.seed, collections) for name, collections in results.items() if collections}


def parse(argv):
    """The command line as a namespace. Raises UserError for a wrong value and for options that cannot be combined."""
    parser = Parser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--task", default="all", help=", ".join(TASKS) + " or all [all]")
    parser.add_argument("--run", metavar="DIR", help="run folder or checkpoint file [the newest under runs/]")
    parser.add_argument("--data", metavar="DIR", action="append", help="collection; may be repeated [those of the run]")
    parser.add_argument("--ontology", metavar="FILE", help="AudioSet's ontology.json: use its triplets instead of a collection's")
    parser.add_argument("--text-encoder", metavar="DIR", help="evaluate this BERT instead of a run; results go below runs/")
    parser.add_argument("--pool", help="how --text-encoder makes one vector: mean (SBERT) or cls (SimCSE) [mean]")
    parser.add_argument("--seed", type=int, default=0, help="seed of the bootstrap intervals [0]")
    args = parser.parse_args(argv)
    for is_wrong, message in (
        (args.task not in (*TASKS, "all"), f"--task '{args.task}' is not one of {', '.join(TASKS)}, all"),
        (args.seed < 0, f"--seed {args.seed} must be 0 or more"),
        ((args.ontology or args.text_encoder) and args.task != "triplet", "--ontology and --text-encoder need --task triplet"),
        (args.ontology == "", "--ontology is empty; name AudioSet's ontology.json"),
        (args.ontology and args.data, "--ontology needs no --data; leave one of them out"),
        (args.text_encoder and args.run, "--text-encoder is used instead of --run; leave one of them out"),
        (args.text_encoder and not (args.ontology or args.data), "--text-encoder needs triplets: add --data or --ontology"),
        (args.pool and not args.text_encoder, "--pool goes with --text-encoder; leave it out or add --text-encoder DIR"),
    ):
        if is_wrong:
            raise UserError(message)
    return args


def load_run(run):
    """Loads the model of a run folder or checkpoint file, of any objective, in eval mode. Raises UserError."""
    path = checkpoint.best_of(run)
    state = checkpoint.load(path)
    return MODELS.get(checkpoint.objective_of(state), MuLan).from_state(state, path).to(default_device()).eval()


def newest_run(root):
    """The run folder under `root` whose checkpoint was written last. Raises UserError if there is none."""
    runs = [path.parent for name in ("best.pt", "last.pt") for path in root.glob(f"*/{name}")]
    if not runs:
        raise UserError(f"no run under {root}/; train one (python train.py --audio ast) or give --run")
    return max(runs, key=lambda run: checkpoint.best_of(run).stat().st_mtime)


def task_names(task, model, run):
    """The names of the tasks to run. A joint tagger reads no text, so autotag is its only task; other models do not have it."""
    joint = isinstance(model, JointTagger)
    if task == "all":
        return [name for name in TASKS if (name == "autotag") == joint]
    if joint and task != "autotag":
        raise UserError(f"{run}: a run of --objective joint-tags needs --task autotag")
    return [task]


def run_task(name, run, data, task, *arguments):
    """Calls task(*arguments), prints its table, and its notes on stderr. Returns its result with `data` and the seconds it took."""
    started = time.perf_counter()
    result = task(*arguments)
    result = {"data": data, "seconds": round(time.perf_counter() - started, 2), **result}
    recordings = f", {result['recordings']} recordings" if result["recordings"] else ""
    print(f"\n{name}: {run} on {data}{recordings}, {result['seconds']:.1f} s")
    print(results_table(result["sets"]))
    for note in result["notes"]:
        print(f"note: {note}", file=sys.stderr)
    return result


def shown(folder):
    """A collection's folder as it is printed and stored: relative to the working folder if it is below it."""
    return os.path.relpath(folder) if Path(folder).absolute().is_relative_to(Path.cwd()) else str(folder)


def save(name, run, seed, collections, file=None):
    """Writes RUN/eval/TASK.json (or `file`.json) and returns its content."""
    result = {"task": name, "run": str(run), "seed": seed, "collections": collections}
    write_json((run.parent if run.is_file() else run) / "eval" / f"{file or name}.json", result)
    return result


if __name__ == "__main__":
    run_script(main)
