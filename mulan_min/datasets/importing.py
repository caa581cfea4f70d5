"""Turns the rows of `label_files` into a manifest folder: finds the audio, checks it, writes the files, prints statistics."""
import os
import re
import shlex
from contextlib import suppress
from pathlib import Path
from unicodedata import normalize

from tqdm import tqdm

from mulan_min.audio import AudioError, check, duration
from mulan_min.data import SPLITS
from mulan_min.datasets import label_files
from mulan_min.datasets.tables import AUDIO_SUFFIXES, UNREADABLE_SUFFIXES, by_source, require, suffix_of
from mulan_min.errors import UserError
from mulan_min.files import write_json, write_jsonl, write_text
from mulan_min.report import format_table

# names with one dot in front (not "...And Justice for All"), and folders of deleted files and of copies ("Trash" can be an album)
HIDDEN = re.compile(r"\.(?!\.)|(\$recycle\.bin|system volume information|lost\+found|#recycle|@recycle|@eadir|__macosx)$", re.I)


def files_below(folder, suffixes, left_out=None):
    """Relative paths of the files with these suffixes, with "/" and in order. HIDDEN names are left out. Links to folders are
    followed, after the other folders and not upwards; a folder is searched once. `left_out`, a list, gets what is not searched."""
    files, waiting, visited, home, left_out = [], [folder], set(), Path(folder).resolve(), left_out if left_out is not None else []
    for top in waiting:      # the loop appends to it
        for parent, folders, names in os.walk(top, onerror=lambda error: left_out.append(f"{error.filename} ({error.strerror})")):
            real, prefix = os.path.realpath(parent), f"{os.path.relpath(parent, folder)}/".replace(os.sep, "/").removeprefix("./")
            names = [name for name in names if suffix_of(name) in suffixes]
            if real in visited or visited and home.is_relative_to(real):
                folders[:] = names = []
            visited.add(real)
            left_out += [prefix + name for name in sorted(folders) if HIDDEN.match(name)]
            folders[:] = [name for name in sorted(folders) if not HIDDEN.match(name)]
            waiting += [path for name in folders if os.path.islink(path := os.path.join(parent, name))]
            files += [prefix + name for name in names if not HIDDEN.match(name)]
            left_out += [f"files with a dot in front in {parent}"] * any(map(HIDDEN.match, names))
    return sorted(files, key=lambda path: (path.split("/")[:-1], path))


def without_suffix(path):
    """Removes a suffix of audio files and composes accents: "a/01. x.mp3" -> "a/01. x". "a/01. x" stays as it is."""
    return normalize("NFC", os.path.splitext(path)[0] if suffix_of(path) in AUDIO_SUFFIXES else path).replace(os.sep, "/")


def index_by_name(paths):
    """{name without folder and audio suffix: [relative paths]}."""
    index = {}
    for path in paths:
        index.setdefault(without_suffix(path).rpartition("/")[2], []).append(path)
    return index


def find_audio(index, folder, names):
    """The first of `names` for which there is a file -> (path, name), or (None, None). A name matches every path that ends in it,
    with any audio suffix and Unicode form. Of several, readable ones come first, then the name's suffix, then the alphabet."""
    for name in filter(None, names):
        forms = [name, normalize("NFC", name), normalize("NFD", name)]
        if os.path.isabs(name) and any(os.path.isfile(found := path) for path in forms):
            return found, name
        ending = without_suffix(os.path.normpath(name))
        matches = [path for path in index.get(ending.rpartition("/")[2], ()) if f"/{without_suffix(path)}".endswith(f"/{ending}")]
        if matches:
            order = ((suffix_of(path) in UNREADABLE_SUFFIXES, *(not path.endswith(f) for f in forms), path) for path in matches)
            return os.path.join(folder, min(order)[-1]), name
    return None, None


def path_in_manifest(path, out):
    """The path to write in a manifest in `out`: relative for files below `out`, so that the folder can be moved as a whole."""
    return os.path.relpath(path, out) if Path(path).is_relative_to(out) else str(path)


def resolve(rows, folder, index, args):
    """Rows of `label_files` -> (manifest lines of the recordings whose audio exists, {reason: [(id, detail) left out]}, notes).
    Raises UserError for the first file that is named after a video and much longer than its clip, unless args.whole_videos."""
    lines, left_out, seen, probed = [], {"missing": [], "empty": [], "unreadable": [], "twice": []}, set(), False
    files = {}      # real path of an audio file: (the path by which it is found first, its rows)
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
                check(path, row.get("start", 0.0), row.get("duration"))
        except AudioError as error:
            reason, detail = "unreadable", str(error)
        if reason:
            left_out[reason].append((row["id"], detail))
        else:
            files.setdefault(os.path.realpath(path), (path, []))[1].append(row)
            row["audio"] = path_in_manifest(path, args.out)
            lines.append(row)
    return lines, left_out, choose_splits(list(files.values()), folder)


def choose_splits(files, folder):
    """Chooses the splits that are None, by the path in `folder`; `files` has (path, rows) of each audio file, whose rows are on one
    side. Of few files, up to two more are valid, because training needs two. Returns notes for the report."""
    chosen = {path: rows for path, rows in files if rows[0]["split"] is None}
    splits = {path: label_files.split_by_hash(without_suffix(path_in_manifest(path, folder)), 0.1, 0.1) for path in chosen}
    train, short = [path for path in sorted(splits) if splits[path] == "train"], max(0, 2 - [*splits.values()].count("valid"))
    splits |= dict.fromkeys(train[:short] if len(train) >= short + 2 else [], "valid")
    for row, split in ((row, splits[path]) for path in chosen for row in chosen[path]):
        row["split"] = split
    divided = [path for path, rows in files if len({row["split"] for row in rows}) > 1]
    return [f"{len(divided)} audio files are in more than one split, such as {divided[0]}"] if divided else []


def import_dataset(args):
    """Writes a collection to `args.out` -> report. `args` comes from __main__.py. After a UserError nothing is written."""
    kind, home = ("file", args.source.parent) if args.dataset == "csv" else ("folder", args.source)
    check_paths(args.source, kind, args.out, args.overwrite)
    folder, skipped = args.audio_dir or home, []
    require(folder.is_dir(), f"--audio-dir {folder}: no such folder")
    text_files = [str(home / name) for name in files_below(home, {".csv", ".tsv", ".txt", ".json"})]
    audio_files = files_below(folder, AUDIO_SUFFIXES, skipped)
    rows, labels, notes = getattr(label_files, args.dataset)(args, text_files, audio_files)
    if args.labels_only:
        write_json(args.out / "labels.json", labels)
        return "\n".join([*notes, f"{args.out / 'labels.json'} written"])
    lines, left_out, divided = resolve(rows, str(folder), index_by_name(audio_files), args)
    for line in lines if args.tags_as_aset else []:
        line["text"] |= by_source(aset=line["tags"])
    # text-to-music retrieval: a caption of the test split must find its recording
    captions = [{"set": "caption", "title": line["text"]["lf"][0], "tracks": [line["id"]]} for line in lines
                if args.dataset == "musiccaps" and line["split"] == "test" and "lf" in line["text"]]
    return write_collection(folder, args.out, lines, left_out, skipped, notes + divided, labels, captions)


def check_paths(source, kind, out, overwrite):
    """Raises UserError if `source` is not a `kind` ("file" or "folder"), or if there is something in the way of `out`."""
    for path in (out / "manifest.jsonl", out / "labels.json", out / "playlists.jsonl"):
        require(overwrite or not path.exists(), f"{path} already exists; give --overwrite to replace it, or another folder")
    require(out.is_dir() or not out.exists(), f"{out}: not a folder; name one to write to")
    require(source.is_file() if kind == "file" else source.is_dir(), f"{source}: no such {kind}")


def write_collection(folder, out, lines, left_out, skipped, notes, labels, playlists, **columns):
    """Writes manifest.jsonl, labels.json, playlists.jsonl and left_out.txt to `out` -> report. lines: of the manifest; left_out:
    {reason: [(id, detail)]}; skipped: see `files_below`; columns: see `split_table`. Raises UserError when there are no lines."""
    entries = [(reason, *entry) for reason in left_out for entry in left_out[reason]]
    counts = ", ".join(f"{len(left_out[reason])} {reason}" for reason in left_out)
    unreadable = conversion([line["audio"] for line in lines] + [d.partition(": ")[0] for _, d in left_out["unreadable"]], folder)
    if not lines:
        hints = [f"the first: {', '.join(e[1:])}" for e in entries[:1]] + unreadable + ["see --audio-dir"] * ("missing" in left_out)
        raise UserError(f"{folder}: no recording to import ({counts}); {'; '.join(hints)}")
    for name, content, write in (("labels.json", labels, write_json), ("playlists.jsonl", playlists, write_jsonl)):
        (out / name).unlink(missing_ok=True) if not content else write(out / name, content)
    write_text(out / "left_out.txt", "".join("\t".join(" ".join(part.split()) for part in entry) + "\n" for entry in entries))
    write_jsonl(out / "manifest.jsonl", lines)      # last: a folder with a manifest is complete
    notes = notes + unreadable + ([f"not searched: {', '.join(skipped[:5])}{', ...' * (len(skipped) > 5)}"] if skipped else [])
    notes += [f"{reason}: {detail}" for reason in ("unreadable", "twice") for _, detail in left_out[reason][:20]]
    notes += [f"left out: {counts}" + (f"; listed in {out / 'left_out.txt'}" if entries else "")]
    return "\n".join([split_table(lines, **columns), "", text_table(lines), "", *notes, advice(lines, out)])


def conversion(paths, folder):
    """[how to convert the files below `folder` whose suffix libsndfile cannot read], or [] if there are none."""
    kinds = sorted({suffix_of(path) for path in paths} & UNREADABLE_SUFFIXES)
    names = " -o ".join(f"-iname '*{kind}'" for kind in kinds)
    command = rf"""find {shlex.quote(str(folder))} \( {names} \) -exec sh -c 'ffmpeg -n -i "$1" -vn "${{1%.*}}.flac"' - {{}} \;"""
    return [f"libsndfile cannot read {' '.join(kinds)}; convert these files and import again: {command}"] if kinds else []


def advice(lines, out):
    """The command that trains on manifest lines in `out`, or the reason why they are not enough, and what to do."""
    lines = [line for line in lines if line["text"] and suffix_of(line["audio"]) not in UNREADABLE_SUFFIXES]
    ratio = {source for line in lines if line["split"] == "train" for source in line["text"]}
    lines = [line for line in lines if ratio & line["text"].keys()]
    train, valid = (len({(line["audio"], line.get("start")) for line in lines if line["split"] == s}) for s in ("train", "valid"))
    if min(train, valid) >= 2:
        shares = ",".join(f"{source}={share}" for source, share in label_files.SOURCES.items() if source in ratio)
        data, run = shlex.quote(path_in_manifest(out, Path.cwd())), shlex.quote(f"runs/{out.name}")
        return f"python train.py --audio resnet50 --data {data} --ratio {shares} --run {run}"
    remedy = "add recordings or change the splits" if lines else "give text: titles in the files, --sf COLUMN or --tags-as-aset"
    return f"training needs two train and two valid recordings with text, here are {train} and {valid}; {remedy}"


def split_table(lines, **extra):
    """Recordings of each split, and how many have text of each source and tags. `extra`: heading=function of a split's lines."""
    rows = []
    for split in SPLITS:
        part = [line for line in lines if line["split"] == split]
        with_text = (sum(source in line["text"] for line in part) for source in label_files.SOURCES)
        with_tags = sum(bool(line.get("tags")) for line in part)
        rows.append([split, len(part), *(column(part) for column in extra.values()), *with_text, with_tags])
    return format_table(rows, ["split", "recordings", *extra, *(f"with {s.upper()}" for s in label_files.SOURCES), "with tags"])


def text_table(lines):
    """The paper's Table 2, over all splits. For each source: recordings with text of it, annotations, annotations per recording,
    and words per annotation (the paper counts tokens, but these depend on the vocabulary)."""
    rows = []
    for source in label_files.SOURCES:
        texts = [line["text"][source] for line in lines if source in line["text"]]
        n, words = sum(map(len, texts)), sum(len(text.split()) for part in texts for text in part)
        rows.append([source.upper(), len(texts), n, *((f"{n / len(texts):.2f}", f"{words / n:.2f}") if n else "--")])
    return format_table(rows, ["source", "recordings", "annotations", "per recording", "words each"])
