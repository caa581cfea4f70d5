"""Makes a manifest folder: python -m mulan_min.datasets DATASET SOURCE OUT (tutorials/datasets.md describes each dataset)."""
from pathlib import Path

from mulan_min.command_line import Parser, run_script
from mulan_min.datasets.importing import import_dataset
from mulan_min.datasets.label_files import SOURCES
from mulan_min.datasets.music_folder import import_folder


def make_parser():
    """One subcommand for each dataset, one for csv files and one for folders of music."""
    parser = Parser(prog="python -m mulan_min.datasets", description="Music to manifests.")
    commands, made = parser.add_subparsers(dest="dataset", required=True), {}
    for name, title in (("folder", "any folder of music files, described by their own tags"), ("mtat", "MagnaTagATune"),
                        ("audioset", "AudioSet"), ("musiccaps", "MusicCaps"), ("jamendo", "MTG-Jamendo"),
                        ("fma", "Free Music Archive"), ("gtzan", "GTZAN"), ("csv", "any csv file with named columns")):
        command = made[name] = commands.add_parser(name, help=title)
        command.add_argument("source", type=Path, help="the csv file" if name == "csv" else "folder that holds the dataset")
        command.add_argument("out", type=Path, help="folder to write manifest.jsonl, left_out.txt and other files to")
        command.add_argument("--check", action="store_true", help="decode every recording, leave out unreadable ones (slow)")
        command.add_argument("--overwrite", action="store_true", help="replace the files of an earlier import")
        command.set_defaults(whole_videos=False, labels_only=False, tags_as_aset=False, audio_dir=None)
        if name != "folder":
            command.add_argument("--audio-dir", type=Path, help="folder that holds the audio, if it is not in or below the source")
        if name in ("mtat", "jamendo", "fma", "gtzan"):
            command.add_argument("--tags-as-aset", action="store_true", help="copy tags to the ASET text, to train on them")
    made["folder"].add_argument("--seed", type=int, default=0, help="chooses between albums of equal size [0]")
    made["folder"].add_argument("--test-share", type=float, default=0.2, help="share of the tracks; valid gets half of it [0.2]")
    made["folder"].add_argument("--min-seconds", type=float, default=10.0, help="leave out shorter files [10]")
    made["mtat"].add_argument("--tagged", action="store_true", help="leave out clips without one of the 50 most used tags")
    for name in ("audioset", "musiccaps"):
        made[name].add_argument("--whole-videos", action="store_true", help="files named after a video are the whole video")
    made["audioset"].add_argument("--all-sounds", action="store_true", help="keep recordings without a class of music")
    made["audioset"].add_argument("--labels-only", action="store_true", help="write labels.json alone; needs no audio")
    made["jamendo"].add_argument("--split", type=int, default=0, help="which of the five splits, 0 to 4 [0]")
    made["jamendo"].add_argument("--subset", default="top50tags", choices="all top50tags genre instrument moodtheme".split())
    made["fma"].add_argument("--subset", default="large", choices=("small", "medium", "large"), help="large has all tracks [large]")
    for name in ("audio", "id", "split", "start", "duration"):
        made["csv"].add_argument(f"--{name}", metavar="COLUMN", required=name == "audio", help=f"column of the {name}")
    for name in (*SOURCES, "tags"):
        made["csv"].add_argument(f"--{name}", metavar="COLUMN", action="append", default=[], help="may be repeated")
    made["csv"].add_argument("--separator", default="", help="splits a cell of text or tags into several, e.g. ';'")
    return parser


def main(argv=None):
    """Runs one subcommand and prints its report. Raises UserError."""
    args = make_parser().parse_args(argv)
    args.source, args.out, args.audio_dir = (path and path.resolve() for path in (args.source, args.out, args.audio_dir))
    report = import_dataset(args) if args.dataset != "folder" else import_folder(
        args.source, args.out, args.seed, args.test_share, args.min_seconds, args.check, args.overwrite)
    print(report.encode("utf-8", "backslashreplace").decode())      # file names that are not UTF-8 cannot be printed as they are


if __name__ == "__main__":
    run_script(main)
