"""Reads the label files of public datasets: one function for each dataset. `importing` finds the audio.

Each function takes (args, text_files, audio_files): the values of the command line, the paths of all .csv, .tsv, .txt and
.json files in or below `args.source`, and the paths of all audio files relative to the audio folder. It returns (rows,
labels, notes): an iterable of dicts, the label sets for labels.json, and lines for the report. A row is a line of the
manifest (see data.py), with these differences:

    "audio"     a list of names; the first one that exists is used. "f/song.mp3" stands for any file whose path ends in it,
                with any audio suffix; "song" for such a file in any folder.
    "clip"      (start, duration) in seconds, if the last name is the whole video from which the recording was cut
    "suspect"   True if the file is known to be damaged in some copies

Bad files raise UserError with file and line. What a dataset leaves open is our choice, and the function says so.
"""
import re
from collections import Counter
from pathlib import Path

from mulan_min.data import SPLITS
from mulan_min.datasets.tables import (
    clean_text,
    distinct,
    find_text,
    find_texts,
    held_out,
    html_to_text,
    one_line,
    read_list,
    read_records,
    read_seconds,
    read_table,
    text_by_source,
)
from mulan_min.errors import UserError
from mulan_min.ontology import below, read_ontology

SOURCES = ("sf", "lf", "pl", "aset")
SPLIT_NAMES = {name: split for split, names in {
    "train": "train training tr", "valid": "valid validation val dev", "test": "test testing eval evaluation",
}.items() for name in names.split()}


def read_names(path, key, columns, quoted=True):
    """A table with tabs between its cells -> {cell of column `key`: [cleaned cells of the other columns]}."""
    return {row[key]: [clean_text(row[column]) for column in columns]
            for _, row in read_records(path, (key, *columns), "\t", quoted)}


def mtat(args, text_files, audio_files):
    """MagnaTagATune. SF: title, artist and album of the track from which the clip was cut. Tags: the annotations.

    The split is the usual one: folders 0 to b train, c valid, d to f test. `top50` holds the most used tags, ordered by use
    and then by the file's columns. With --tagged, clips without any of these 50 tags are left out, as in much later work.
    """
    names = read_names(find_text(args, text_files, "clip_info_final.csv"), "clip_id", ("title", "artist", "album"))
    counts, rows, header = Counter(), [], None
    for where, row in read_records(find_text(args, text_files, "annotations_final.csv"), ("clip_id", "mp3_path"), "\t"):
        header = header or [column for column in row if column not in ("clip_id", "mp3_path")]
        path, tags = row["mp3_path"], [tag for tag in header if row[tag] == "1"]
        if not re.match(r"[0-9a-f]/.", path):
            raise UserError(f"{where}: mp3_path '{path}' does not begin with one of the folders 0/ to f/")
        counts.update(tags)
        split = "train" if path[0] <= "b" else "valid" if path[0] == "c" else "test"
        rows.append({"id": row["clip_id"], "audio": [path, Path(path).name], "split": split,
                     "text": text_by_source(sf=names.get(row["clip_id"], [])), "tags": tags})
    order = sorted(header or [], key=lambda tag: -counts[tag])      # sorted() keeps the file's order among equals
    kept = [row for row in rows if not args.tagged or set(row["tags"]) & set(order[:50])]
    notes = [f"{len(rows) - len(kept)} clips have none of the 50 tags; left out"] if args.tagged else []
    return kept, {"top50": order[:50], f"all{len(order)}": order}, notes


def ontology_sets(classes, labelled):
    """Derives the paper's label sets from AudioSet's ontology -> (ids at or below "Music", {"Gen-25": names, "Mu-141": names}).

    `classes` comes from `read_ontology`; `labelled` is the set of the class ids that recordings are labelled with. Names are
    in the order of the ontology. The paper gives the sizes of the two sets but not their members. The derivation is our
    choice and gives these sizes. Gen-25 is the labelled children of "Music genre" (all its 25 children). Mu-141 is the
    labelled classes at or below "Musical instrument" (80), below "Music genre" (52) and below "Music role" (9). Of all
    labelled music this leaves out only "Music" itself, the seven moods and "Song". Raises UserError for a missing class.
    """
    ids = {entry["name"]: key for key, entry in classes.items()}
    missing = {"Music", "Music genre", "Musical instrument", "Music role"} - ids.keys()
    if missing:
        raise UserError(f"the ontology has no class named {', '.join(sorted(missing))}; is it AudioSet's?")
    parts = [{ids[name], *below(classes, name)} for name in ("Musical instrument", "Music genre", "Music role")]
    sets = {"Gen-25": set(classes[ids["Music genre"]]["child_ids"]), "Mu-141": set.union(*parts)}
    return {ids["Music"], *below(classes, "Music")}, {
        name: [entry["name"] for key, entry in classes.items() if key in members & labelled] for name, members in sets.items()}


def clip_row(ytid, start, end, where):
    """Three cells -> id, audio and clip of a row. Raises UserError unless both times are valid and `end` is after `start`."""
    start, end = read_seconds(start, where, "start"), read_seconds(end, where, "end")
    if end <= start:
        raise UserError(f"{where}: end {end:g} is not after start {start:g}")
    return {"id": f"{ytid}_{start:g}", "audio": clip_names(ytid, start, end), "clip": (start, end - start)}


def clip_names(ytid, start, end):
    """The file names under which the usual downloaders store seconds start..end of a video. The last one is the whole video."""
    clips = [f"{ytid}_{start:g}", f"{ytid}_{start:.3f}", f"{ytid}_{start:g}_{end:g}", f"{ytid}_{start:.3f}_{end:.3f}",
             f"{ytid}_{1000 * start:.0f}", f"{ytid}_{1000 * start:.0f}_{1000 * end:.0f}", f"[{ytid}]-[{start:g}-{end:g}]"]
    return [*clips, *("Y" + name for name in clips[:-1]), "Y" + ytid, ytid]


def audioset(args, text_files, audio_files):
    """AudioSet. ASET: the names of the classes; they are the tags too. Only recordings with a class at or below "Music" are
    kept, unless --all-sounds. eval_segments.csv is test; 2 % of the others are valid (our choice)."""
    path = find_text(args, text_files, "*ontology*.json")
    classes = read_ontology(path)
    # only the ids matter: the names may have quotes or not, and some contain commas
    label_file = find_text(args, text_files, "*class_labels_indices*.csv")
    music, labels = ontology_sets(classes, {cells[1] for _, cells in read_table(label_file) if len(cells) > 2})
    segments = [] if args.labels_only else find_texts(args, text_files, "*segments*.csv")

    def rows():
        for segment_file in segments:
            evaluation = "eval" in Path(segment_file).name.lower()
            for where, cells in read_table(segment_file):
                if cells[0].startswith("#") or cells[0].upper() == "YTID":
                    continue
                if len(cells) < 4:
                    raise UserError(f"{where}: {len(cells)} cells; there should be YTID, start, end, labels")
                ids = list(filter(None, (cell.strip(' "') for cell in ",".join(cells[3:]).split(","))))
                unknown = [key for key in ids if key not in classes]
                if unknown:
                    raise UserError(f"{where}: class {unknown[0]} is not in {path}; take both from the same page")
                if not args.all_sounds and music.isdisjoint(ids):
                    continue
                tags = [classes[key]["name"] for key in ids]
                split = "test" if evaluation else "valid" if held_out(cells[0], 0.02) else "train"
                yield clip_row(*cells[:3], where) | {"split": split, "text": text_by_source(aset=tags), "tags": tags}

    return rows(), labels, [f"{name}: {len(members)} classes (our derivation)" for name, members in labels.items()]


def musiccaps(args, text_files, audio_files):
    """MusicCaps. LF: the caption. SF: the aspects. Recordings of AudioSet's evaluation are test; 10 % of the others are valid
    (our choice)."""
    columns = ("ytid", "start_s", "end_s", "aspect_list", "caption", "is_audioset_eval")
    path = find_text(args, text_files, "*musiccaps*.csv")

    def rows():
        for where, row in read_records(path, columns):
            aspects = map(one_line, read_list(row["aspect_list"], where, "aspect_list"))
            evaluation = row["is_audioset_eval"].strip().lower() in ("true", "1")
            split = "test" if evaluation else "valid" if held_out(row["ytid"], 0.1) else "train"
            yield clip_row(row["ytid"], row["start_s"], row["end_s"], where) | {
                "split": split, "text": text_by_source(sf=aspects, lf=[one_line(row["caption"])])}

    return rows(), {}, []


def jamendo(args, text_files, audio_files):
    """MTG-Jamendo. SF: title, artist and album, if raw.meta.tsv exists; otherwise recordings have no text. Tags: without their
    category. Label sets: one with all tags and one for each category."""
    stem = "autotagging" if args.subset == "all" else f"autotagging_{args.subset}"
    files = {}
    for path in find_texts(args, text_files, f"{stem}-*.tsv"):
        folder, split = Path(path).parent.name, SPLIT_NAMES.get(Path(path).stem.rpartition("-")[2])
        if split and (not folder.startswith("split-") or folder == f"split-{args.split}"):
            if split in files:
                raise UserError(f"{args.source}: two files for '{split}', {files[split]} and {path}; keep only one")
            files[split] = path
    if not files:
        raise UserError(f"{args.source}: no {stem}-train.tsv, -validation.tsv or -test.tsv for split {args.split}")
    names = {}
    for path in (path for path in text_files if Path(path).name == "raw.meta.tsv"):
        names |= read_names(path, "TRACK_ID", ("TRACK_NAME", "ARTIST_NAME", "ALBUM_NAME"), quoted=False)
    rows, sets = [], {args.subset: Counter()}
    for split in filter(files.get, SPLITS):
        for where, cells in read_table(files[split], "\t", quoted=False):      # lines have more tags than the header has columns
            if cells[0] == "TRACK_ID":
                continue
            if len(cells) < 6:
                raise UserError(f"{where}: {len(cells)} cells, not TRACK_ID, ARTIST_ID, ALBUM_ID, PATH, DURATION, TAGS")
            tags = [tuple(cell.strip().rpartition("---")[::2]) for cell in cells[5:] if cell.strip()]      # (category, tag)
            for category, tag in tags:
                sets[args.subset][tag] += 1
                sets.setdefault(category, Counter())[tag] += 1
            path, name = cells[3].removesuffix(".mp3"), Path(cells[3]).stem
            rows.append({"id": cells[0], "audio": [path, path + ".low", name, name + ".low"],      # low: the smaller download
                         "split": split, "text": text_by_source(sf=names.get(cells[0], [])),
                         "tags": list(dict.fromkeys(tag for _, tag in tags))})
    labels = {name: [tag for tag, _ in counts.most_common()] for name, counts in sets.items() if name}
    return rows, labels, [f"{args.source}: no {stem} file for {split}" for split in SPLITS if split not in files]


def fma(args, text_files, audio_files):
    """FMA. SF: title, artist, album and the track's own tags. LF: the descriptions of track and album; those of artists are
    mostly not about music (our choice). Tags: all genres of a track, including the parent genres."""
    genres, roots = {}, []
    for _, row in read_records(find_text(args, text_files, "genres.csv"), ("genre_id", "parent", "title")):
        genres[row["genre_id"]] = one_line(row["title"])
        roots += [genres[row["genre_id"]]] if row["parent"] in ("0", "") else []
    path = find_text(args, text_files, "tracks.csv")
    subsets = {"small": ("small",), "medium": ("small", "medium")}.get(args.subset)
    columns = [("set", "split"), ("set", "subset"), ("track", "title"), ("artist", "name"), ("album", "title"), ("track", "tags"),
               ("track", "information"), ("album", "information"), ("track", "genres_all")]

    def rows():
        table = read_table(path)
        groups, names, last = (next(table, ("", []))[1] for _ in range(3))      # three header lines
        index = {column: i for i, column in enumerate(zip(groups, names))}
        if last[:1] != ["track_id"] or not set(columns) <= index.keys():
            raise UserError(f"{path}: not FMA's tracks.csv, whose three header lines are groups, columns and track_id")
        for where, cells in table:
            if len(cells) != len(groups) or not cells[0].isdigit():
                raise UserError(f"{where}: {len(cells)} cells beginning with '{cells[0][:20]}' under {len(groups)} columns")
            split, subset, title, artist, album, tags, *about, all_genres = (cells[index[column]] for column in columns)
            if subsets and subset not in subsets:
                continue
            if split not in SPLIT_NAMES:
                raise UserError(f"{where}: split '{split}' is not training, validation or test")
            track, ids = f"{int(cells[0]):06d}", map(str, read_list(all_genres, where, "genres_all"))
            own_tags = map(one_line, read_list(tags, where, "tags"))
            sf = [clean_text(title), clean_text(artist), clean_text(album), *own_tags]
            yield {"id": track, "audio": [f"{track[:3]}/{track}", track], "split": SPLIT_NAMES[split],
                   "text": text_by_source(sf=sf, lf=map(html_to_text, about)),
                   "tags": [genres[key] for key in ids if key in genres]}

    return rows(), {"top": list(dict.fromkeys(roots)), "all": list(dict.fromkeys(genres.values()))}, []


def gtzan(args, text_files, audio_files):
    """GTZAN. Tags: the genre. There is no text. The split is the fault-filtered one if train_filtered.txt, valid_filtered.txt
    and test_filtered.txt exist. Otherwise it follows the files' numbers (our choice), and artists are on both sides of it."""
    tracks, notes = {}, []      # {"jazz.00054": split}
    files = {split: [path for path in text_files if Path(path).name == f"{split}_filtered.txt"] for split in SPLITS}
    if any(files.values()):
        for split in files:
            path = find_text(args, text_files, f"{split}_filtered.txt")
            for number, line in enumerate(Path(path).read_text(encoding="utf-8-sig").splitlines(), 1):
                match = re.search(r"([a-z]+\.\d{5})(\.\w+)?$", line.strip())
                if line.strip() and not match:
                    raise UserError(f"{path}, line {number}: '{line[:40]}' should be like blues/blues.00029.wav")
                if match:
                    tracks[match[1]] = split
    else:
        for name in audio_files:
            match = re.search(r"(?:^|/)([a-z]+\.\d{4}(\d))\.\w+$", name)
            if match:
                tracks[match[1]] = "train" if match[2] < "7" else "valid" if match[2] == "7" else "test"
        notes = ["no train_filtered.txt: split by number, artists are on both sides, so figures will be too good"]
    rows = [{"id": track, "audio": [f"{track.split('.')[0]}/{track}", track], "split": split, "text": {},
             "tags": [track.split(".")[0]], "suspect": track == "jazz.00054"} for track, split in sorted(tracks.items())]
    return rows, {"genre": sorted({row["tags"][0] for row in rows})}, notes


def csv(args, text_files, audio_files):
    """Any csv file with a header; the options name its columns. A cell holds one text, or several as a Python list or between
    `args.separator`. Without a column for the split, 10 % are valid and 10 % test (our choice)."""
    with open(args.source, encoding="utf-8-sig", errors="replace") as file:
        header = file.readline()
    text_columns = {source: getattr(args, source) for source in SOURCES}
    columns = {name: getattr(args, name) for name in ("id", "audio", "split", "start", "duration")}
    needed = [*filter(None, columns.values()), *args.tags, *sum(text_columns.values(), [])]

    def cell_texts(row, names, where):
        texts = []
        for column in names:
            cell = row[column].strip()
            if cell.startswith("[") and cell.endswith("]"):
                texts += read_list(cell, where, column)
            else:
                texts += cell.split(args.separator) if args.separator else [cell]
        return distinct(map(one_line, texts))

    rows, counts = [], Counter()
    for where, row in read_records(args.source, needed, max("\t,;", key=header.count)):
        cells = {name: row[column].strip() if column else "" for name, column in columns.items()}
        name = cells["id"] or cells["audio"] or where
        split = "test" if held_out(name, 0.1) else "valid" if held_out(name, 0.2) else "train"
        if args.split and cells["split"].lower() not in SPLIT_NAMES:
            raise UserError(f"{where}: split '{cells['split']}' is not one of {', '.join(SPLIT_NAMES)}")
        line = {"id": name, "audio": [cells["audio"], cells["audio"].replace("\\", "/")],      # the second: written on Windows
                "split": SPLIT_NAMES.get(cells["split"].lower(), split), "tags": cell_texts(row, args.tags, where),
                "text": text_by_source(**{source: cell_texts(row, names, where) for source, names in text_columns.items()})}
        line |= {key: read_seconds(cells[key], where, columns[key]) for key in ("start", "duration") if cells[key]}
        counts.update(line["tags"])
        rows.append(line)
    labels = {"tags": [tag for tag, _ in counts.most_common()]} if counts else {}
    return rows, labels, [] if args.split else ["no --split column: 80 % train, 10 % valid, 10 % test, by the id"]
