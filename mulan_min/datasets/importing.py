"""Turns the rows of `label_files` into a manifest folder: finds the audio, checks it, writes the files, prints statistics."""
import os
from contextlib import suppress
from pathlib import Path

from tqdm import tqdm

from mulan_min.audio import AudioError, duration, read_window
from mulan_min.data import SPLITS
from mulan_min.datasets import label_files
from mulan_min.datasets.tables import by_source
from mulan_min.errors import UserError
from mulan_min.files import write_json, write_jsonl, write_text
from mulan_min.report import format_table

# libsndfile cannot read AAC and WMA; these files are tried anyway, so that the report names them as unreadable
AUDIO_SUFFIXES = set(".wav .flac .ogg .oga .opus .mp3 .aif .aiff .aifc .au .caf .w64 .rf64 .m4a .aac .wma".split())
TEXT_SUFFIXES = {".csv", ".tsv", ".txt", ".json"}


def files_below(folder, suffixes):
    """Relative paths of the files with these suffixes, with "/" and in order. Links to folders are followed; hidden files are
    left out."""
    files, visited = [], set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if os.path.realpath(parent) in visited:      # a link to a folder above would never end
            folders.clear()
            continue
        visited.add(os.path.realpath(parent))
        prefix = os.path.relpath(parent, folder).replace(os.sep, "/")
        files += [f"{prefix}/{name}".removeprefix("./") for name in sorted(names)
                  if not name.startswith(".") and os.path.splitext(name)[1].lower() in suffixes]
    return files


def without_suffix(path):
    """Removes a suffix of audio files: "a/01. x.mp3" -> "a/01. x". "a/01. x" stays as it is."""
    stem, suffix = os.path.splitext(path)
    return stem if suffix.lower() in AUDIO_SUFFIXES else path


def index_by_name(paths):
    """{name without folder and audio suffix: [relative paths]}."""
    index = {}
    for path in paths:
        index.setdefault(without_suffix(path).rpartition("/")[2], []).append(path)
    return index


def find_audio(index, folder, names):
    """The first of `names` for which there is a file -> (path, name), or (None, None).

    A name matches every path that ends in it, whatever the audio suffix. If several match, a path with the suffix of the
    name comes first, then the alphabetical order decides.
    """
    for name in filter(None, names):
        if os.path.isabs(name) and os.path.isfile(name):
            return name, name
        ending = without_suffix(os.path.normpath(name).replace(os.sep, "/"))
        matches = [path for path in index.get(ending.rpartition("/")[2], ()) if f"/{without_suffix(path)}".endswith(f"/{ending}")]
        if matches:
            return os.path.join(folder, min(matches, key=lambda path: (not path.endswith(name), path))), name
    return None, None


def path_in_manifest(path, out):
    """The path to write in a manifest in `out`: relative for files below `out`, so that the folder can be moved as a whole."""
    return os.path.relpath(path, out) if Path(path).is_relative_to(out) else str(path)


def resolve(rows, folder, index, args):
    """Rows of `label_files` -> (manifest lines of the recordings whose audio exists, {reason: [(id, detail) left out]}).

    Raises UserError for the first file that is named after a video and much longer than its clip, unless args.whole_videos.
    """
    lines, left_out, seen, probed = [], {"missing": [], "empty": [], "unreadable": [], "twice": []}, set(), False
    for row in tqdm(rows, desc="recordings", unit="", disable=None):
        names, clip, suspect = row["audio"], row.pop("clip", None), row.pop("suspect", False)
        path, name = find_audio(index, folder, names)
        reason, detail = None, names[0]
        if row["id"] in seen:
            reason = "twice"
        elif not os.path.isfile(path or ""):      # a broken link is in the index, but it is not a file
            reason = "missing"
        elif not os.path.getsize(path):
            reason, detail = "empty", path
        elif clip and name == names[-1] and args.whole_videos:
            row["start"], row["duration"] = clip
        elif clip and name == names[-1] and not probed:      # named after the video: it may be the whole video or the clip
            probed = True
            with suppress(AudioError):      # --check reports unreadable files
                if (seconds := duration(path)) > 1.5 * clip[1] + 1:
                    raise UserError(f"{path}: {seconds:.0f} s long, but the recording has {clip[1]:g} s; if the files are whole "
                                    "videos, give --whole-videos to use that part of them")
        seen.add(row["id"])
        try:
            if not reason and (args.check or suspect):
                read_window(path, row.get("start", 0.0), row.get("duration"))
        except AudioError as error:
            reason, detail = "unreadable", str(error)
        if reason:
            left_out[reason].append((row["id"], detail))
        else:
            lines.append({**row, "audio": path_in_manifest(path, args.out)})
    return lines, left_out


def import_dataset(args):
    """Writes manifest.jsonl, labels.json, playlists.jsonl and left_out.txt to `args.out` -> report as text.

    `args` is the command line of __main__.py. Nothing is written when a UserError is raised.
    """
    for path in (args.out / "manifest.jsonl", args.out / "labels.json"):
        if path.exists() and not args.overwrite:
            raise UserError(f"{path} already exists; give --overwrite to replace it, or another folder")
    if args.out.exists() and not args.out.is_dir():
        raise UserError(f"{args.out}: not a folder; name one to write to")
    kind, home = ("file", args.source.parent) if args.dataset == "csv" else ("folder", args.source)
    if not (args.source.is_file() if kind == "file" else args.source.is_dir()):
        raise UserError(f"{args.source}: no such {kind}")
    folder = args.audio_dir or home
    if not folder.is_dir():
        raise UserError(f"--audio-dir {folder}: no such folder")
    text_files, audio_files = [str(home / name) for name in files_below(home, TEXT_SUFFIXES)], files_below(folder, AUDIO_SUFFIXES)
    rows, labels, notes = getattr(label_files, args.dataset)(args, text_files, audio_files)
    if args.labels_only:
        write_json(args.out / "labels.json", labels)
        return "\n".join([*notes, f"{args.out / 'labels.json'} written"])
    lines, left_out = resolve(rows, str(folder), index_by_name(audio_files), args)
    if not lines:
        first = f"; the first: {', '.join(next(filter(None, left_out.values()))[0])}" if any(left_out.values()) else ""
        raise UserError(f"{folder}: no recording to import ({counts(left_out)}{first}); is the audio elsewhere? See --audio-dir")
    for line in lines if args.tags_as_aset else []:
        line["text"] |= by_source(aset=line["tags"])
    # text-to-music retrieval: a caption of the test split must find its recording
    captions = [{"set": "caption", "title": line["text"]["lf"][0], "tracks": [line["id"]]} for line in lines
                if args.dataset == "musiccaps" and line["split"] == "test" and "lf" in line["text"]]
    for name, content, write in (("labels.json", labels, write_json), ("playlists.jsonl", captions, write_jsonl)):
        if content:
            write(args.out / name, content)
        else:      # a file of an earlier import would be mistaken for one of this import
            (args.out / name).unlink(missing_ok=True)
    listed = ["\t".join(" ".join(part.split()) for part in (reason, *entry)) for reason in left_out for entry in left_out[reason]]
    write_text(args.out / "left_out.txt", "".join(f"{line}\n" for line in listed))
    write_jsonl(args.out / "manifest.jsonl", lines)      # last: a folder with a manifest is complete
    report = [split_table(lines), "", text_table(lines), "", *notes]
    report += [f"unreadable: {detail}" for _, detail in left_out["unreadable"][:20]]
    return "\n".join([*report, f"left out: {counts(left_out)}" + (f"; listed in {args.out / 'left_out.txt'}" if listed else "")])


def counts(left_out):
    """{reason: recordings} -> "2 missing, 0 empty"."""
    return ", ".join(f"{len(entries)} {reason}" for reason, entries in left_out.items())


def split_table(lines, **extra):
    """Recordings of each split, and how many of them have text of each source and tags. `extra` holds more columns as
    heading=function of a split's lines."""
    rows = []
    for split in SPLITS:
        part = [line for line in lines if line["split"] == split]
        with_text = (sum(source in line["text"] for line in part) for source in label_files.SOURCES)
        rows.append([split, len(part), *(column(part) for column in extra.values()), *with_text,
                     sum(bool(line.get("tags")) for line in part)])
    headings = [f"with {source.upper()}" for source in label_files.SOURCES]
    return format_table(rows, ["split", "recordings", *extra, *headings, "with tags"])


def text_table(lines):
    """The paper's Table 2, over all splits. For each source: recordings with text of it, annotations, annotations per
    recording, and words per annotation (the paper counts tokens, but these depend on the vocabulary)."""
    rows = []
    for source in label_files.SOURCES:
        texts = [line["text"][source] for line in lines if source in line["text"]]
        n, words = sum(map(len, texts)), sum(len(text.split()) for part in texts for text in part)
        rows.append([source.upper(), len(texts), n, *((f"{n / len(texts):.2f}", f"{words / n:.2f}") if n else "--")])
    return format_table(rows, ["source", "recordings", "annotations", "per recording", "words each"])
