"""Public datasets, csv files and folders of music to manifest folders: python -m mulan_min.datasets DATASET SOURCE OUT

datasets.py and music_folder.py read what is known about the recordings; here their audio is found, checked and counted.
"""
import argparse
import json
import os
import sys
from collections import Counter
from pathlib import Path

from tqdm import tqdm

from mulan_min.audio import AudioError, duration, read_window
from mulan_min.data import SPLITS
from mulan_min.datasets import label_files as datasets
from mulan_min.datasets.music_folder import SUFFIXES, import_folder, write_jsonl
from mulan_min.errors import UserError
from mulan_min.files import write_atomically

TEXTS = {".csv", ".tsv", ".txt", ".json"}
SOURCES = ("sf", "lf", "pl", "aset")
REASONS = ("missing", "empty", "unreadable", "twice")


# ---- finding audio ---------------------------------------------------------------------


def files_below(folder):
    """Paths relative to the folder, with "/", in order; links to folders are followed, hidden files are not taken."""
    found, seen = [], set()
    for place, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if os.path.realpath(place) in seen:      # a link to a folder above would never end
            folders.clear()
            continue
        seen.add(os.path.realpath(place))
        inside = os.path.relpath(place, folder).replace(os.sep, "/")
        prefix = "" if inside == "." else inside + "/"
        found += [prefix + name for name in sorted(names) if not name.startswith(".")]
    return found


def bare(path):
    """A path without its suffix, if that is a suffix of sound files: "a/01. x.mp3" -> "a/01. x", "a/01. x" stays."""
    stem, suffix = os.path.splitext(path)
    return stem if suffix.lower() in SUFFIXES else path


def by_name(sounds):
    """{name without folder and suffix: [relative paths]}."""
    index = {}
    for path in sounds:
        index.setdefault(bare(path).rpartition("/")[2], []).append(path)
    return index


def find_sound(index, folder, names):
    """(path, name) for the first of `names` that is there, or (None, None). Where several files end like it, one with the
    suffix asked for comes first, then the order of their paths."""
    for name in filter(None, names):
        if os.path.isabs(name):
            if os.path.isfile(name):
                return name, name
            continue
        wanted = bare(os.path.normpath(name).replace(os.sep, "/"))
        ends = [path for path in index.get(wanted.rpartition("/")[2], ()) if f"/{bare(path)}".endswith(f"/{wanted}")]
        if ends:
            return os.path.join(folder, min(ends, key=lambda path: (not path.endswith(name), path))), name
    return None, None


# ---- from rows to a manifest -----------------------------------------------------------


def resolve(rows, folder, index, args):
    """Rows of datasets.py -> (lines of the manifest whose audio is there, {reason: [(id, detail)]})."""
    lines, left_out, seen, probed = [], {reason: [] for reason in REASONS}, set(), False
    for row in tqdm(rows, desc="recordings", unit="", disable=None):
        names, clip, suspect = row["audio"], row.pop("clip", None), row.pop("suspect", False)
        path, name = find_sound(index, folder, names)
        if row["id"] in seen:
            left_out["twice"].append((row["id"], names[0]))
            continue
        seen.add(row["id"])
        if path is None or not os.path.isfile(path):      # a link to nowhere is listed, but no file
            left_out["missing"].append((row["id"], names[0]))
            continue
        if not os.path.getsize(path):
            left_out["empty"].append((row["id"], path))
            continue
        if clip and name == names[-1]:      # the file has the video's name: is it the video, or the clip?
            if args.whole_videos:
                row["start"], row["duration"] = clip
            elif not probed:
                probed = True
                refuse_whole_video(path, clip[1])
        try:
            if args.check or suspect:
                read_window(path, row.get("start", 0.0), row.get("duration"))
        except AudioError as error:
            left_out["unreadable"].append((row["id"], str(error)))
            continue
        inside = Path(path).is_relative_to(args.out)      # then the collection can be moved as a whole
        lines.append({**row, "audio": os.path.relpath(path, args.out) if inside else path})
    return lines, left_out


def refuse_whole_video(path, seconds):
    try:
        length = duration(path)
    except AudioError:
        return      # --check reports it
    if length > 1.5 * seconds + 1:
        raise UserError(f"{path}: {length:.0f} s long, but the recording has {seconds:g} s; if the files are whole videos, give "
                        "--whole-videos to use that part of them")


def import_dataset(args):
    """Writes args.out/manifest.jsonl with labels.json and left_out.txt, or nothing; returns the report. Raises UserError."""
    written = [name for name in ("manifest.jsonl", "labels.json") if (args.out / name).exists()]
    if written and not args.overwrite:
        raise UserError(f"{args.out / written[0]} is there already; give --overwrite to replace it, or another folder")
    if args.out.exists() and not args.out.is_dir():
        raise UserError(f"{args.out}: not a folder; name one to write to")
    if not (args.source.is_file() if args.dataset == "csv" else args.source.is_dir()):
        raise UserError(f"{args.source}: no such {'file' if args.dataset == 'csv' else 'folder'}")
    home = args.source.parent if args.dataset == "csv" else args.source
    folder = args.audio_dir or home
    if not folder.is_dir():
        raise UserError(f"--audio-dir {folder}: no such folder")
    files = files_below(home)
    texts = [str(home / name) for name in files if Path(name).suffix.lower() in TEXTS]
    sounds = [name for name in (files if folder == home else files_below(folder)) if Path(name).suffix.lower() in SUFFIXES]
    read = datasets.table if args.dataset == "csv" else getattr(datasets, args.dataset)
    rows, labels, notes = read(args, texts, sounds)
    if getattr(args, "labels_only", False):
        write_json(args.out / "labels.json", labels)
        return "\n".join([*notes, f"{args.out / 'labels.json'} written"])
    lines, left_out = resolve(rows, str(folder), by_name(sounds), args)
    counts = ", ".join(f"{len(left_out[reason])} {reason}" for reason in REASONS)
    if not lines:
        first = f"; the first: {', '.join(next(filter(None, left_out.values()))[0])}" if any(left_out.values()) else ""
        raise UserError(f"{folder}: no recording to import ({counts}{first}); is the audio elsewhere? See --audio-dir")
    for line in lines if getattr(args, "tags_as_aset", False) else ():
        line["text"] |= {"aset": line["tags"]} if line["tags"] else {}
    captions = [line for line in lines if args.dataset == "musiccaps" and line["split"] == "test" and "lf" in line["text"]]
    if labels:
        write_json(args.out / "labels.json", labels)
    if captions:      # text to music: which recording does a caption describe?
        queries = [{"set": "caption", "title": line["text"]["lf"][0], "tracks": [line["id"]]} for line in captions]
        write_jsonl(args.out / "playlists.jsonl", queries)
    listed = ["\t".join(" ".join(part.split()) for part in (reason, *entry)) for reason in REASONS for entry in left_out[reason]]
    write_text(args.out / "left_out.txt", "".join(f"{line}\n" for line in listed))
    write_jsonl(args.out / "manifest.jsonl", lines)      # last: a folder with a manifest is complete
    for name, made in (("labels.json", labels), ("playlists.jsonl", captions)):
        if not made:      # what an earlier import left would be taken for this one's
            (args.out / name).unlink(missing_ok=True)
    report = [split_table(lines), "", text_table(lines), "", *notes]
    report += [f"unreadable: {detail}" for _, detail in left_out["unreadable"][:20]]
    return "\n".join([*report, f"left out: {counts}" + (f"; listed in {args.out / 'left_out.txt'}" if listed else "")])


def write_json(path, value):
    write_text(path, json.dumps(value, ensure_ascii=False, indent=1) + "\n")


def write_text(path, text):
    write_atomically(path, lambda new: new.write_text(text, encoding="utf-8", errors="backslashreplace"))


# ---- statistics ------------------------------------------------------------------------


def split_table(lines):
    """Recordings of each split, and how many have text of each source and tags."""
    columns = [(source.upper(), lambda line, s=source: s in line["text"]) for source in SOURCES]
    columns.append(("tags", lambda line: bool(line.get("tags"))))
    rows = [f"{'split':8}{'recordings':>12}" + "".join(f"{'with ' + name:>11}" for name, _ in columns)]
    for split in SPLITS:
        mine = [line for line in lines if line["split"] == split]
        rows.append(f"{split:8}{len(mine):12d}" + "".join(f"{sum(map(has, mine)):11d}" for _, has in columns))
    return "\n".join(rows)


def text_table(lines):
    """The paper's Table 2 over all splits: for each source the recordings that have text of it, annotations, annotations per
    recording, and tokens per annotation, counted as words, since every vocabulary cuts them otherwise."""
    recordings, annotations, words = Counter(), Counter(), Counter()
    for line in lines:
        for source, texts in line["text"].items():
            recordings[source] += 1
            annotations[source] += len(texts)
            words[source] += sum(len(text.split()) for text in texts)
    rows = [f"{'source':8}{'recordings':>12}{'annotations':>13}{'per recording':>15}{'words each':>12}"]
    for source in SOURCES:
        n, a = recordings[source], annotations[source]
        means = (f"{a / n:.2f}", f"{words[source] / a:.2f}") if n else ("-", "-")
        rows.append(f"{source.upper():8}{n:12d}{a:13d}{means[0]:>15}{means[1]:>12}")
    return "\n".join(rows)


# ---- command line ----------------------------------------------------------------------


def make_parser():
    parser = argparse.ArgumentParser(prog="python -m mulan_min.datasets", description="Music to manifests.")
    commands = parser.add_subparsers(dest="dataset", required=True)
    folder = commands.add_parser("folder", help="any folder of music files, described by their own tags")
    folder.add_argument("music", help="folder of music, searched with all its folders")
    folder.add_argument("out", help="folder to write manifest.jsonl and playlists.jsonl to")
    folder.add_argument("--seed", type=int, default=0, help="decides between albums of equal size")
    folder.add_argument("--test-share", type=float, default=0.2, help="of all tracks; valid gets half of it")
    folder.add_argument("--min-seconds", type=float, default=10.0, help="leave out shorter files")
    folder.add_argument("--check", action="store_true", help="decode every file to its end (slow)")

    made = {}
    for name, what in (("mtat", "MagnaTagATune"), ("audioset", "AudioSet"), ("musiccaps", "MusicCaps"),
                       ("jamendo", "MTG-Jamendo"), ("fma", "Free Music Archive"), ("gtzan", "GTZAN"),
                       ("csv", "any csv file with named columns")):
        command = made[name] = commands.add_parser(name, help=what)
        command.add_argument("source", type=Path, help="the csv file" if name == "csv" else "folder that holds the dataset")
        command.add_argument("out", type=Path, help="folder to write manifest.jsonl, labels.json and left_out.txt to")
        command.add_argument("--audio-dir", type=Path, help="folder that holds the audio, if it is not in or below the source")
        command.add_argument("--check", action="store_true", help="decode every recording, leave out the bad ones (slow)")
        command.add_argument("--overwrite", action="store_true", help="replace what an earlier import has written")
        command.set_defaults(whole_videos=False)
        if name in ("mtat", "jamendo", "fma", "gtzan"):
            command.add_argument("--tags-as-aset", action="store_true", help="tags become ASET text too, to train on them")
    made["mtat"].add_argument("--tagged", action="store_true", help="leave out clips without one of the 50 most used tags")
    for name in ("audioset", "musiccaps"):
        made[name].add_argument("--whole-videos", action="store_true", help="files named after a video are the whole video")
    made["audioset"].add_argument("--all-sounds", action="store_true", help="keep recordings without a class of music")
    made["audioset"].add_argument("--labels-only", action="store_true", help="write labels.json alone; needs no audio")
    made["jamendo"].add_argument("--split", type=int, default=0, help="which of the five splits, 0 to 4")
    made["jamendo"].add_argument("--subset", default="top50tags", choices="all top50tags genre instrument moodtheme".split())
    made["fma"].add_argument("--subset", default="large", choices=("small", "medium", "large"),
                             help="which tracks should be there; large is all, also for the full-length files")
    for name in ("audio", "id", "split", "start", "duration"):
        made["csv"].add_argument(f"--{name}", metavar="COLUMN", required=name == "audio", help=f"column of the {name}")
    for name in (*SOURCES, "tags"):
        made["csv"].add_argument(f"--{name}", metavar="COLUMN", action="append", default=[], help="may be repeated")
    made["csv"].add_argument("--separator", default="", help="cuts a cell of text or tags into several, e.g. ';'")
    return parser


def main(argv=None) -> int:
    """Run a subcommand; returns the exit status: 2 with one line on stderr for what the user can mend."""
    args = make_parser().parse_args(argv)
    try:
        if args.dataset == "folder":
            if not 0 <= args.test_share <= 0.5:
                raise UserError(f"--test-share {args.test_share:g} must be between 0 and 0.5")
            report = import_folder(args.music, args.out, args.seed, args.test_share, args.min_seconds, args.check)
        else:
            args.source, args.out = args.source.resolve(), args.out.resolve()
            args.audio_dir = args.audio_dir and args.audio_dir.resolve()
            report = import_dataset(args)
    except (UserError, OSError) as error:      # OSError: a file that may not be read; its message names it
        print(printable(error), file=sys.stderr)
        return 2
    print(printable(report))
    return 0


def printable(text):
    """File names that are not UTF-8 cannot be printed as they are."""
    return str(text).encode("utf-8", "backslashreplace").decode()


if __name__ == "__main__":
    sys.exit(main())
