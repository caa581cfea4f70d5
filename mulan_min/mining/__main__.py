"""python -m mulan_min.mining DIR OUT [--filter]: cleans the text of a collection. See tutorials/mined_text.md."""

from mulan_min.command_line import Parser, run_script
from mulan_min.data import read_manifest
from mulan_min.errors import UserError
from mulan_min.mining.mine import mine
from mulan_min.mining.relevance import TRAIN, read_pairs, train_filter


def main(argv=None):
    parser = Parser("python -m mulan_min.mining", description="Clean the text of a collection.")
    parser.add_argument("folder", metavar="DIR", help="folder with manifest.jsonl; it is not changed")
    parser.add_argument("out", metavar="OUT", help="new folder for the cleaned manifest")
    parser.add_argument("--filter", action="store_true", help="drop LF sentences that do not describe music (paper)")
    parser.add_argument("--text-init", metavar="DIR", help="start the filter from this public BERT (paper); implies --filter")
    parser.add_argument("--threshold", type=float, default=0.5, help="least probability of a kept sentence [0.5]; our choice")
    parser.add_argument("--join", action="store_true", help="join the kept sentences of a comment into one text")
    parser.add_argument("--seed", type=int, default=0, help="seed of the filter's training [0]")
    args = parser.parse_args(argv)
    if args.seed < 0:
        raise UserError(f"--seed {args.seed} must be 0 or more")
    if not 0 <= args.threshold <= 1:
        raise UserError(f"--threshold {args.threshold:g} must be between 0 and 1")
    relevance = None
    if args.filter or args.text_init:
        comments = [text for recording in read_manifest(args.folder) for text in recording.text.get("lf", [])]
        relevance = train_filter(read_pairs(TRAIN), args.seed, args.text_init, comments)
    print(mine(args.folder, args.out, relevance, args.threshold, args.join))


if __name__ == "__main__":
    run_script(main)
