"""python -m mulan_min.weights RUN OUT: writes OUT/mulan.safetensors, the whole model, and OUT/bert/, the text tower's BERT in the
format of the transformers library."""
from pathlib import Path

from mulan_min import checkpoint
from mulan_min.command_line import Parser, run_script
from mulan_min.errors import UserError
from mulan_min.mulan import MuLan
from mulan_min.tag_classifier import TagClassifier
from mulan_min.weights.export import save_model, save_text


def main(argv=None):
    """Runs the command. Raises UserError when the run cannot be read or a file exists already."""
    parser = Parser("python -m mulan_min.weights", description="Write a run's model for other programs.")
    parser.add_argument("run", help="run folder or checkpoint file")
    parser.add_argument("out", help="folder to write: mulan.safetensors and bert/")
    args = parser.parse_args(argv)
    out, path = Path(args.out), checkpoint.best_of(args.run)
    state = checkpoint.load(path)
    model = (TagClassifier if checkpoint.objective_of(state) == "tags" else MuLan).from_state(state, path)
    for path in (out / "mulan.safetensors", out / "bert"):
        if path.exists():
            raise UserError(f"{path}: exists already; delete it or give another OUT")
    save_model(model, out / "mulan.safetensors")
    print(f"{out / 'mulan.safetensors'}: the whole model; {type(model).__name__}.load reads it")
    if not model.tokenizer:
        return print("a classifier (--objective tags) has no text tower, so bert/ is not written")
    save_text(model, out / "bert")
    print(f"{out / 'bert'}: the text tower's BERT, without the projection; transformers' AutoModel reads it")


if __name__ == "__main__":
    run_script(main)
