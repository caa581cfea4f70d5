"""Reads the label files of public datasets: one function for each dataset. `importing` finds the audio.

Each function takes (args, text_files, audio_files): the values of the command line, the paths of all .csv, .tsv, .txt and .json
files in or below `args.source`, and the paths of all audio files relative to the audio folder. It returns (rows, labels, notes):
an iterable of dicts, the label sets for labels.json, and lines for the report. A row is a line of the manifest, except for

    "audio"     a list of names, of which the first that exists is used: "f/song.mp3" is any file whose path ends in it, with any
                audio suffix, and "song" is such a file in any folder
    "clip"      (start, duration) in seconds, if the last name is the whole video from which the recording was cut
    "split"     None if it depends on the audio, so that all rows of a file are on one side
    "suspect"   True if the file is known to be damaged in some copies

Bad files raise UserError with file and line. What a dataset leaves open is our choice, and the function says so.
"""
import html
import re
from collections import Counter
from pathlib import Path
from zlib import crc32

from mulan_min.data import SPLITS
from mulan_min.datasets.tables import by_source, clean_text, find_text, read_csv, read_list, read_records, read_seconds, require
from mulan_min.ontology import below, read_ontology

SOURCES = {"sf": 2, "lf": 2, "pl": 1, "aset": 1}      # and their shares of a batch; paper
SPLIT_NAMES = {"train": "train training tr", "valid": "valid validation val dev", "test": "test testing eval evaluation"}


def read_split(cell, where):
    """A cell with a usual name of a split -> "train", "valid" or "test". Raises UserError for another name."""
    splits = [split for split, names in SPLIT_NAMES.items() if cell.lower() in names.split()]
    require(splits, f"{where}: split '{cell}' is not one of {' '.join(SPLIT_NAMES.values())}")
    return splits[0]


def split_by_hash(key, valid, test=0.0):
    """The split of a key by its hash, on every machine the same: about the shares `valid` and `test` of all keys, or train."""
    position = crc32(key.encode("utf-8", "surrogateescape")) / 2**32
    return "test" if position < test else "valid" if position < test + valid else "train"


def read_names(path, key, columns, quoted=True):
    """A table with tabs between its cells -> {cell of column `key`: [cleaned cells of the other columns]}."""
    return {row[key]: [clean_text(row[name]) for name in columns] for _, row in read_records(path, (key, *columns), "\t", quoted)}


def clip_row(ytid, start, end, where, evaluation, valid_share):
    """A row without text: `start` to `end` (two cells, s) of a YouTube video, under the names that the usual downloaders give, the
    whole video's last. AudioSet's evaluation is test; about `valid_share` of the others are valid (our choice)."""
    start, end = read_seconds(start, where, "start"), read_seconds(end, where, "end")
    require(end > start, f"{where}: end {end:g} is not after start {start:g}")
    times = [f"{start:g}", f"{start:.3f}", f"{start:g}_{end:g}", f"{start:.3f}_{end:.3f}", f"{1000 * start:.0f}",
             f"{1000 * start:.0f}_{1000 * end:.0f}"]
    names = [*(f"{ytid}_{t}" for t in times), f"[{ytid}]-[{start:g}-{end:g}]", *(f"Y{ytid}_{t}" for t in times), "Y" + ytid, ytid]
    split = "test" if evaluation else split_by_hash(ytid, valid_share)
    return {"id": f"{ytid}_{start:g}", "audio": names, "clip": (start, end - start), "split": split}


def mtat(args, text_files, audio_files):
    """MagnaTagATune. SF: title, artist and album of the track from which the clip was cut. Tags: the annotations. The split is the
    usual one: folders 0 to b train, c valid, d to f test. `top50` holds the most used tags, ordered by use and then by the file's
    columns. With --tagged, clips without any of these 50 tags are left out, as in much later work."""
    names = read_names(find_text(args, text_files, "clip_info_final.csv"), "clip_id", ("title", "artist", "album"))
    rows, header = [], []
    for where, row in read_records(find_text(args, text_files, "annotations_final.csv"), ("clip_id", "mp3_path"), "\t"):
        header = header or [column for column in row if column not in ("clip_id", "mp3_path")]
        path = row["mp3_path"]
        require(re.match(r"[0-9a-f]/.", path), f"{where}: mp3_path '{path}' does not begin with one of the folders 0/ to f/")
        split = "train" if path[0] <= "b" else "valid" if path[0] == "c" else "test"
        rows.append({"id": row["clip_id"], "audio": [path, Path(path).name], "split": split,
                     "text": by_source(sf=names.get(row["clip_id"], [])), "tags": [tag for tag in header if row[tag] == "1"]})
    used = Counter([*header, *(tag for row in rows for tag in row["tags"])])      # header: also tags without use, in its order
    order = [tag for tag, _ in used.most_common()]
    kept = [row for row in rows if not args.tagged or set(row["tags"]) & set(order[:50])]
    notes = [f"{len(rows) - len(kept)} clips have none of the 50 tags; left out"] if args.tagged else []
    return kept, {"top50": order[:50], f"all{len(order)}": order}, notes


def ontology_sets(classes, labelled):
    """Derives the paper's label sets from AudioSet's ontology -> (ids at or below "Music", {"Gen-25": names, "Mu-141": names}).
    `classes` comes from `read_ontology`, and gives the order; `labelled` is the set of the ids that recordings are labelled with.
    The paper gives the sizes of the sets but not their members. Our choice gives these sizes: Gen-25 is the labelled children of
    "Music genre" (all 25). Mu-141 is the labelled classes at or below "Musical instrument" (80), below "Music genre" (52) and below
    "Music role" (9), so all but "Music" itself, the seven moods and "Song". Raises UserError for a missing class."""
    names, ids = ("Music", "Music genre", "Music role", "Musical instrument"), {entry["name"]: i for i, entry in classes.items()}
    missing = [name for name in names if name not in ids]
    require(not missing, f"the ontology has no class named {', '.join(missing)}; is it AudioSet's?")
    music, *parts = ({ids[name], *below(classes, name)} for name in names)
    sets = {"Gen-25": set(classes[ids["Music genre"]]["child_ids"]), "Mu-141": set.union(*parts)}
    return music, {name: [classes[key]["name"] for key in classes if key in ids & labelled] for name, ids in sets.items()}


def audioset(args, text_files, audio_files):
    """AudioSet. ASET: the names of the classes; they are the tags too. Only recordings with a class at or below "Music" are kept,
    unless --all-sounds. eval_segments.csv is test; 2 % of the others are valid (our choice)."""
    path = find_text(args, text_files, "*ontology*.json")
    classes = read_ontology(path)
    # only the ids matter: the names may have quotes or not, and some contain commas
    label_file = find_text(args, text_files, "*class_labels_indices*.csv")
    music, labels = ontology_sets(classes, {cells[1] for _, cells in read_csv(label_file) if len(cells) > 2})
    segments = [] if args.labels_only else find_text(args, text_files, "*segments*.csv", several=True)

    def rows():
        for segment_file in segments:
            for where, cells in read_csv(segment_file):
                if cells[0].startswith("#") or cells[0].upper() == "YTID":
                    continue
                require(len(cells) > 3, f"{where}: {len(cells)} cells; there should be YTID, start, end, labels")
                ids = re.findall(r'[^\s",]+', ",".join(cells[3:]))
                unknown = ", ".join(key for key in ids if key not in classes)
                require(not unknown, f"{where}: class {unknown} is not in {path}; take both from the same page")
                if args.all_sounds or not music.isdisjoint(ids):
                    tags = [classes[key]["name"] for key in ids]
                    row = clip_row(*cells[:3], where, "eval" in Path(segment_file).name.lower(), 0.02)
                    yield row | {"text": by_source(aset=tags), "tags": tags}

    return rows(), labels, [f"{name}: {len(members)} classes (our derivation)" for name, members in labels.items()]


def musiccaps(args, text_files, audio_files):
    """MusicCaps. LF: the caption. SF: the aspects. AudioSet's evaluation is test; 10 % of the others are valid (our choice)."""
    rows, columns = [], ("ytid", "start_s", "end_s", "aspect_list", "caption", "is_audioset_eval")
    for where, row in read_records(find_text(args, text_files, "*musiccaps*.csv"), columns):
        ytid, start, end, aspects, caption, evaluation = (row[column] for column in columns)
        text = by_source(sf=read_list(aspects, where, "aspect_list"), lf=[caption])
        rows.append(clip_row(ytid, start, end, where, evaluation.strip().lower() in ("true", "1"), 0.1) | {"text": text})
    return rows, {}, []


def jamendo(args, text_files, audio_files):
    """MTG-Jamendo. SF: title, artist and album, if raw.meta.tsv exists; otherwise recordings have no text. Tags: without their
    category. Label sets: one with all tags and one for each category."""
    stem = "autotagging" if args.subset == "all" else f"autotagging_{args.subset}"
    of_split = re.compile(rf"(?!split-)|split-{args.split}$")      # folders of the other splits have such names too
    paths = [path for path in find_text(args, text_files, f"{stem}-*.tsv", several=True) if of_split.match(Path(path).parent.name)]
    files = {split: find_text(args, paths, f"{stem}-{name}.tsv", optional=True)
             for split, name in zip(SPLITS, ("train", "validation", "test"))}
    require(any(files.values()), f"{args.source}: no {stem}-train.tsv, -validation.tsv or -test.tsv for split {args.split}")
    meta = find_text(args, text_files, "raw.meta.tsv", optional=True)
    names = read_names(meta, "TRACK_ID", ("TRACK_NAME", "ARTIST_NAME", "ALBUM_NAME"), quoted=False) if meta else {}
    rows, used = [], Counter()      # used: (category, tag)
    for split in filter(files.get, SPLITS):
        for where, cells in read_csv(files[split], "\t", quoted=False):      # lines have more tags than the header has columns
            if cells[0] == "TRACK_ID":
                continue
            require(len(cells) > 5, f"{where}: {len(cells)} cells, not TRACK_ID, ARTIST_ID, ALBUM_ID, PATH, DURATION, TAGS")
            tags = [tuple(cell.strip().rpartition("---")[::2]) for cell in cells[5:] if cell.strip()]
            used.update(tags)
            path, name, tags = cells[3].removesuffix(".mp3"), Path(cells[3]).stem, list(dict.fromkeys(tag for _, tag in tags))
            rows.append({"id": cells[0], "audio": [path, path + ".low", name, name + ".low"],      # low: the smaller download
                         "split": split, "text": by_source(sf=names.get(cells[0], [])), "tags": tags})
    labels = {name: [tag for (category, tag), _ in used.most_common() if name in (args.subset, category)]
              for name in (args.subset, *(category for category, _ in used if category))}
    return rows, labels, [f"{args.source}: no {stem} file for {split}" for split in SPLITS if not files[split]]


def fma(args, text_files, audio_files):
    """FMA. SF: title, artist, album and the track's own tags. LF: the descriptions of track and album, without HTML; those of
    artists are mostly not about music (our choice). Tags: all genres of a track, including the parent genres."""
    records = [row for _, row in read_records(find_text(args, text_files, "genres.csv"), ("genre_id", "parent", "title"))]
    genres = {row["genre_id"]: " ".join(row["title"].split()) for row in records}
    top = [genres[row["genre_id"]] for row in records if row["parent"] in ("0", "")]
    path, rows = find_text(args, text_files, "tracks.csv"), []
    columns = [("set", "split"), ("set", "subset"), ("track", "title"), ("artist", "name"), ("album", "title"), ("track", "tags"),
               ("track", "information"), ("album", "information"), ("track", "genres_all")]
    table = read_csv(path)
    groups, names, last = (next(table, ("", []))[1] for _ in range(3))      # three header lines
    index = {column: i for i, column in enumerate(zip(groups, names))}
    require(last[:1] == ["track_id"] and set(columns) <= index.keys(),
            f"{path}: not FMA's tracks.csv, whose three header lines are groups, columns and track_id")
    for where, cells in table:
        require(len(cells) == len(groups) and cells[0].isdigit(),
                f"{where}: {len(cells)} cells beginning with '{cells[0][:20]}' under {len(groups)} columns")
        split, subset, title, artist, album, tags, *about, all_genres = (cells[index[column]] for column in columns)
        if args.subset == "large" or subset in ("small", args.subset):      # medium contains small
            track, ids = f"{int(cells[0]):06d}", read_list(all_genres, where, "genres_all")
            sf = [*map(clean_text, (title, artist, album)), *read_list(tags, where, "tags")]
            lf = [html.unescape(re.sub("<[^>]*>", " ", page)) for page in about]
            rows.append({"id": track, "audio": [f"{track[:3]}/{track}", track], "split": read_split(split, where),
                         "text": by_source(sf=sf, lf=lf), "tags": [genres[key] for key in ids if key in genres]})
    return rows, {"top": list(dict.fromkeys(top)), "all": list(dict.fromkeys(genres.values()))}, []


def gtzan(args, text_files, audio_files):
    """GTZAN. Tags: the genre. There is no text. The split is the fault-filtered one if train_filtered.txt, valid_filtered.txt and
    test_filtered.txt exist. Otherwise it follows the files' numbers (our choice), and artists are on both sides of it."""
    tracks, filtered = {}, any(find_text(args, text_files, f"{split}_filtered.txt", optional=True) for split in SPLITS)
    names = ((split, *row) for split in SPLITS
             for row in read_csv(find_text(args, text_files, f"{split}_filtered.txt"), "\t", quoted=False))
    for split, where, (name, *_) in names if filtered else ((None, None, [path]) for path in audio_files):
        match = re.search(r"(?:^|[/\\])([a-z]+\.\d{4}(\d))(\.\w+)?$", name.strip())
        require(match or not filtered, f"{where}: '{name[:40]}' should be like blues/blues.00029.wav")
        if match:
            tracks[match[1]] = split or ("train" if match[2] < "7" else "valid" if match[2] == "7" else "test")
    notes = ["no train_filtered.txt: split by number, artists are on both sides, so figures will be too good"] * (not filtered)
    rows = [{"id": track, "audio": [f"{track.split('.')[0]}/{track}", track], "split": split, "text": {},
             "tags": [track.split(".")[0]], "suspect": track == "jazz.00054"} for track, split in sorted(tracks.items())]
    return rows, {"genre": sorted({row["tags"][0] for row in rows})}, notes


def csv(args, text_files, audio_files):
    """Any csv file with a header; the options name its columns. A cell holds one text, or several as a list (see `read_list`) or
    between `args.separator`. [Untitled] is a text. But a cell that is no list raises UserError if it begins with [ or { and holds
    tags or ASET, and if its first and last item have quotes. Without a split column, 10 % are valid and 10 % test (our choice)."""
    try:
        header = (content := args.source.read_bytes()).decode("utf-8-sig").partition("\n")[0]
    except UnicodeDecodeError as error:      # spreadsheet programs write their machine's own code page, or UTF-16
        require(False, f"{args.source}, line {content[:error.start].count(10) + 1}: not UTF-8; save the table as 'CSV UTF-8'")
    delimiter = max("\t,;", key=header.count)
    columns = {name: getattr(args, name) for name in ("id", "audio", "split", "start", "duration")}      # a column or None
    text_columns = {name: getattr(args, name) for name in (*SOURCES, "tags")}      # a list of columns
    rows = []

    def texts(source, column, where, cell):
        list_like = r"[\[{]" if source in ("aset", "tags") else r"""\[[\s\[({]*(np\.\w+\()?['"].*['"][\s\])}]*\]$"""
        items = read_list(cell, where, column, needed=re.match(list_like, cell, re.S))
        return items if items is not None else cell.split(args.separator) if args.separator else [cell]

    for where, row in read_records(args.source, [*filter(None, columns.values()), *sum(text_columns.values(), [])], delimiter):
        cells = {name: row[column].strip() if column else "" for name, column in columns.items()}
        text = by_source(**{source: [text for column in names for text in texts(source, column, where, row[column].strip())]
                            for source, names in text_columns.items()})
        rows.append({"id": cells["id"] or cells["audio"] or where, "text": text, "tags": text.pop("tags", []),
                     "audio": [cells["audio"], cells["audio"].replace("\\", "/")],      # the second: written on Windows
                     "split": read_split(cells["split"], where) if args.split else None,
                     **{key: read_seconds(cells[key], where, columns[key]) for key in ("start", "duration") if cells[key]}})
    tags = [tag for tag, _ in Counter(tag for row in rows for tag in row["tags"]).most_common()]
    notes = [] if args.split else ["no --split column: 80 % train, 10 % valid, 10 % test, by the path of the audio"]
    return rows, {"tags": tags} if tags else {}, notes
