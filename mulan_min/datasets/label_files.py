"""Label files of public datasets to recordings, one function a dataset. Audio is not looked at here; importers.py does that.

Each function takes (args, texts, sounds): the command line's values, the paths of all .csv, .tsv, .txt and .json files below
`args.source`, and the paths of all sound files relative to the audio folder. It returns (rows, labels, notes): an iterable
of dicts, the label sets for labels.json, and lines for the report. A row is a line of the manifest (see data.py), but

    "audio"     is a list of names, of which the first that is found counts: "f/song.mp3" is any file whose path ends like
                that with any sound suffix, "song" that file in any folder;
    "clip"      (start, seconds), where the last name is the whole video from which the recording was cut;
    "suspect"   True, where the file is known to be damaged in some copies.

Bad files raise UserError naming file and line. What a dataset leaves open is our choice, and its function says so.
"""
import ast
import csv
import html
import json
import re
import zlib
from collections import Counter
from fnmatch import fnmatch
from pathlib import Path

from mulan_min.datasets.music_folder import clean, distinct
from mulan_min.errors import UserError

SPLIT_NAMES = {name: split for split, names in {
    "train": "train training tr", "valid": "valid validation val dev", "test": "test testing eval evaluation",
}.items() for name in names.split()}


# ---- reading ---------------------------------------------------------------------------


def read_table(path, delimiter=",", quoted=True):
    """Yields (place, cells) for each line of a csv file that is not blank, the header too; `place` names file and line.

    UTF-8 with or without a byte order mark, any line end, line ends inside quotes. `quoted=False`: a quote is a character.
    """
    csv.field_size_limit(1 << 27)      # biographies are longer than the default allows
    with open(path, encoding="utf-8-sig", errors="replace", newline="") as file:
        reader = csv.reader(file, delimiter=delimiter, skipinitialspace=delimiter == ",",
                            quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE)
        try:
            for cells in reader:
                if any(cells):
                    yield f"{path}, line {reader.line_num}", cells
        except csv.Error as error:
            raise UserError(f"{path}, line {reader.line_num}: {error}; unpack or download the file again") from None


def read_records(path, columns, delimiter=",", quoted=True):
    """Yields (place, {column: cell}) under a header that must have `columns`; cells that a line lacks are empty."""
    table = read_table(path, delimiter, quoted)
    header = [cell.strip() for cell in next(table, ("", []))[1]]
    lacking = [column for column in columns if column not in header]
    if lacking:
        shown = ", ".join(header[:20]) + (", ..." if len(header) > 20 else "")
        raise UserError(f"{path}: no column {', '.join(map(repr, lacking))}; there are: {shown or 'none'}")
    for place, cells in table:
        if len(cells) > len(header):
            raise UserError(f"{place}: {len(cells)} cells under {len(header)} columns; is a quote missing?")
        yield place, dict(zip(header, cells + [""] * (len(header) - len(cells))))


def find_texts(args, texts, pattern):
    """The paths in `texts` whose file name matches. Raises UserError when there is none."""
    found = [path for path in texts if fnmatch(Path(path).name.lower(), pattern)]
    if not found:
        raise UserError(f"{args.source}: no {pattern} in it or below; tutorials/datasets.md says where to get it")
    return found


def find_text(args, texts, pattern):
    """The one path in `texts` whose file name matches. Raises UserError when there are none or several."""
    found = find_texts(args, texts, pattern)
    if len(found) > 1:
        raise UserError(f"{args.source}: {pattern} is there {len(found)} times ({', '.join(found[:3])}); leave one")
    return found[0]


def number(cell, place, column):
    """A cell as seconds. Raises UserError unless it is a finite number, 0 or more."""
    try:
        value = float(cell)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise UserError(f"{place}: {column} '{cell}' is not a time in seconds")
    return value


def literal_list(cell, place, column):
    """A cell that holds a Python list, such as "['soft', 'piano']", without running anything; [] when it is empty."""
    try:
        value = ast.literal_eval(cell) if cell.strip() else []
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        value = None
    if not isinstance(value, list):
        raise UserError(f"{place}: {column} '{cell[:40]}' is not a list like ['one', 'two']")
    return value


def one_line(text):
    return " ".join(str(text).split())


def plain_text(page):
    """HTML to one line of text: "<p>Slow&amp;sad<br/>loops</p>" -> "Slow&sad loops"."""
    return one_line(html.unescape(re.sub(r"<[^>]*>", " ", page)))


def sources(**texts):
    """{source: texts that are not empty, each once}, without the sources that have none."""
    return {source: found for source, found in ((source, distinct(t)) for source, t in texts.items()) if found}


def held_out(key, share):
    """True for `share` of all keys, the same ones on every machine."""
    return zlib.crc32(key.encode("utf-8", "surrogateescape")) < share * 2**32


# ---- the datasets ----------------------------------------------------------------------


def mtat(args, texts, sounds):
    """MagnaTagATune. SF: title, artist and album of the track that the clip was cut from. Tags: the annotations.

    Folders 0-b train, c valid, d-f test, the usual split. `top50` are the most used tags in order of their use, equal
    ones in the file's order. With --tagged, clips without any of them are left out, as much later work does.
    """
    names = {}
    for place, row in read_records(find_text(args, texts, "clip_info_final.csv"), ("clip_id", "title", "artist", "album"), "\t"):
        names[row["clip_id"]] = [clean(row[column]) for column in ("title", "artist", "album")]
    counts, rows, header = Counter(), [], None
    annotations = find_text(args, texts, "annotations_final.csv")
    for place, row in read_records(annotations, ("clip_id", "mp3_path"), "\t"):
        header = header or [column for column in row if column not in ("clip_id", "mp3_path")]
        path, tags = row["mp3_path"], [tag for tag in header if row[tag] == "1"]
        if not re.match(r"[0-9a-f]/.", path):
            raise UserError(f"{place}: mp3_path '{path}' does not begin with one of the folders 0/ to f/")
        counts.update(tags)
        split = "train" if path[0] <= "b" else "valid" if path[0] == "c" else "test"
        rows.append({"id": row["clip_id"], "audio": [path, Path(path).name], "split": split,
                     "text": sources(sf=names.get(row["clip_id"], [])), "tags": tags})
    order = sorted(header or [], key=lambda tag: -counts[tag])      # sorted() keeps the file's order among equals
    kept = [row for row in rows if not args.tagged or set(row["tags"]) & set(order[:50])]
    notes = [f"{len(rows) - len(kept)} clips have none of the 50 tags; left out"] if args.tagged else []
    return kept, {"top50": order[:50], f"all{len(order)}": order}, notes


def ontology_sets(ontology, labelled):
    """AudioSet's classes ([{"id", "name", "child_ids"}]) and the set of ids that recordings are labelled with -> ({id: name},
    {ids at or below "Music"}, {"Gen-25": names, "Mu-141": names}), names in the ontology's order.

    The paper gives the two sets' sizes, not their members; this derivation is ours and gives these sizes. Gen-25 is the
    labelled children of "Music genre" (all 25 of its children). Mu-141 is what is labelled at or below "Musical instrument"
    (80), below "Music genre" (52) and below "Music role" (9); that is all labelled music but "Music" itself, the seven
    moods and "Song".
    """
    names = {entry["id"]: entry["name"] for entry in ontology}
    ids = {name: key for key, name in names.items()}
    children = {entry["id"]: entry["child_ids"] for entry in ontology}
    lacking = {"Music", "Music genre", "Musical instrument", "Music role"} - ids.keys()
    if lacking:
        raise UserError(f"the ontology has no class named {', '.join(sorted(lacking))}; is it AudioSet's?")

    def below(name):
        found, ahead = {ids[name]}, [ids[name]]
        while ahead:
            new = set(children.get(ahead.pop(), ())) - found      # a class may have two parents
            found |= new
            ahead += new
        return found

    wide = below("Musical instrument") | below("Music genre") | below("Music role")
    sets = {"Gen-25": set(children[ids["Music genre"]]), "Mu-141": wide}
    return names, below("Music"), {name: [names[key] for key in names if key in members & labelled]
                                   for name, members in sets.items()}


def clip_names(ytid, start, end):
    """Under which names the usual downloaders keep seconds start..end of a video; the last is the video itself."""
    clips = [f"{ytid}_{start:g}", f"{ytid}_{start:.3f}", f"{ytid}_{start:g}_{end:g}", f"{ytid}_{start:.3f}_{end:.3f}",
             f"{ytid}_{1000 * start:.0f}", f"{ytid}_{1000 * start:.0f}_{1000 * end:.0f}", f"[{ytid}]-[{start:g}-{end:g}]"]
    return [*clips, *("Y" + name for name in clips[:-1]), "Y" + ytid, ytid]


def audioset(args, texts, sounds):
    """AudioSet. ASET: the names of the classes, which are the tags too. Only recordings with a class at or below "Music",
    unless --all-sounds. eval_segments.csv is test, 2 % of the others are valid (our choice)."""
    path = find_text(args, texts, "*ontology*.json")
    try:
        ontology = json.loads(Path(path).read_text(encoding="utf-8-sig"))
        names = {entry["id"]: entry["name"] for entry in ontology if isinstance(entry["child_ids"], list)}
    except (ValueError, KeyError, TypeError, RecursionError):
        raise UserError(f"{path}: not AudioSet's ontology, a JSON list of classes with id, name, child_ids") from None
    # only the id counts: names stand there with quotes or without, and some hold commas
    labelled = {cells[1] for _, cells in read_table(find_text(args, texts, "*class_labels_indices*.csv")) if len(cells) > 2}
    names, music, labels = ontology_sets(ontology, labelled)
    segments = [] if args.labels_only else find_texts(args, texts, "*segments*.csv")

    def rows():
        for segment_file in segments:
            evaluation = "eval" in Path(segment_file).name.lower()
            for place, cells in read_table(segment_file):
                if cells[0].startswith("#") or cells[0].upper() == "YTID":
                    continue
                if len(cells) < 4:
                    raise UserError(f"{place}: {len(cells)} cells; there should be YTID, start, end, labels")
                ytid, start, end = cells[0], number(cells[1], place, "start"), number(cells[2], place, "end")
                classes = list(filter(None, (cell.strip(' "') for cell in ",".join(cells[3:]).split(","))))
                unknown = [key for key in classes if key not in names]
                if unknown:
                    raise UserError(f"{place}: class {unknown[0]} is not in {path}; take both from the same place")
                if end <= start:
                    raise UserError(f"{place}: end {end:g} is not after start {start:g}")
                if not args.all_sounds and music.isdisjoint(classes):
                    continue
                tags = [names[key] for key in classes]
                split = "test" if evaluation else "valid" if held_out(ytid, 0.02) else "train"
                yield {"id": f"{ytid}_{start:g}", "audio": clip_names(ytid, start, end), "clip": (start, end - start),
                       "split": split, "text": sources(aset=tags), "tags": tags}

    return rows(), labels, [f"{name}: {len(members)} classes (our derivation)" for name, members in labels.items()]


def musiccaps(args, texts, sounds):
    """MusicCaps. LF: the caption; SF: the aspects. Recordings of AudioSet's evaluation are test, 10 % of the others valid
    (our choice)."""
    columns = ("ytid", "start_s", "end_s", "aspect_list", "caption", "is_audioset_eval")
    path = find_text(args, texts, "*musiccaps*.csv")

    def rows():
        for place, row in read_records(path, columns):
            ytid, start, end = row["ytid"], number(row["start_s"], place, "start_s"), number(row["end_s"], place, "end_s")
            if end <= start:
                raise UserError(f"{place}: end_s {end:g} is not after start_s {start:g}")
            aspects = map(one_line, literal_list(row["aspect_list"], place, "aspect_list"))
            evaluation = row["is_audioset_eval"].strip().lower() in ("true", "1")
            yield {"id": f"{ytid}_{start:g}", "audio": clip_names(ytid, start, end), "clip": (start, end - start),
                   "split": "test" if evaluation else "valid" if held_out(ytid, 0.1) else "train",
                   "text": sources(sf=aspects, lf=[one_line(row["caption"])])}

    return rows(), {}, []


def jamendo(args, texts, sounds):
    """MTG-Jamendo. Tags: without their category, which names the label sets beside one of all. SF: title, artist and album
    where raw.meta.tsv is there; without it there is no text."""
    stem = "autotagging" if args.subset == "all" else f"autotagging_{args.subset}"
    files = {}
    for path in find_texts(args, texts, f"{stem}-*.tsv"):
        folder, split = Path(path).parent.name, SPLIT_NAMES.get(Path(path).stem.rpartition("-")[2])
        if split and (not folder.startswith("split-") or folder == f"split-{args.split}"):
            if split in files:
                raise UserError(f"{args.source}: two files for '{split}', {files[split]} and {path}; leave one")
            files[split] = path
    if not files:
        raise UserError(f"{args.source}: no {stem}-train.tsv, -validation.tsv or -test.tsv for split {args.split}")
    names, columns = {}, ("TRACK_NAME", "ARTIST_NAME", "ALBUM_NAME")
    for path in (path for path in texts if Path(path).name == "raw.meta.tsv"):
        for _, row in read_records(path, ("TRACK_ID", *columns), "\t", quoted=False):
            names[row["TRACK_ID"]] = [clean(row[column]) for column in columns]
    rows, sets = [], {args.subset: Counter()}
    for split in filter(files.get, ("train", "valid", "test")):
        for place, cells in read_table(files[split], "\t", quoted=False):      # more tags than the header has columns
            if cells[0] == "TRACK_ID":
                continue
            if len(cells) < 6:
                raise UserError(f"{place}: {len(cells)} cells, not TRACK_ID, ARTIST_ID, ALBUM_ID, PATH, DURATION, TAGS")
            tags = [tuple(cell.strip().rpartition("---")[::2]) for cell in cells[5:] if cell.strip()]      # (category, tag)
            for category, tag in tags:
                sets[args.subset][tag] += 1
                sets.setdefault(category, Counter())[tag] += 1
            path, name = cells[3].removesuffix(".mp3"), Path(cells[3]).stem
            rows.append({"id": cells[0], "audio": [path, path + ".low", name, name + ".low"],      # low: the smaller download
                         "split": split, "text": sources(sf=names.get(cells[0], [])),
                         "tags": list(dict.fromkeys(tag for _, tag in tags))})
    lacking = [split for split in ("train", "valid", "test") if split not in files]
    labels = {name: [tag for tag, _ in counts.most_common()] for name, counts in sets.items() if name}
    return rows, labels, [f"{args.source}: no {stem} file for {split}" for split in lacking]


def fma(args, texts, sounds):
    """FMA. SF: title, artist, album and the track's own tags; LF: what is written about track and album (about artists it is
    mostly not about music: our choice). Tags: all genres of a track, with those above them."""
    genres, roots = {}, []
    for place, row in read_records(find_text(args, texts, "genres.csv"), ("genre_id", "parent", "title")):
        genres[row["genre_id"]] = one_line(row["title"])
        roots += [genres[row["genre_id"]]] if row["parent"] in ("0", "") else []
    path = find_text(args, texts, "tracks.csv")
    wanted = {"small": ("small",), "medium": ("small", "medium")}.get(args.subset)
    needed = [("set", "split"), ("set", "subset"), ("track", "title"), ("artist", "name"), ("album", "title"), ("track", "tags"),
              ("track", "information"), ("album", "information"), ("track", "genres_all")]

    def rows():
        table = read_table(path)
        above, below, last = (next(table, ("", []))[1] for _ in range(3))      # group, column, and the name of the index
        place = {column: i for i, column in enumerate(zip(above, below))}
        if last[:1] != ["track_id"] or not set(needed) <= place.keys():
            raise UserError(f"{path}: not FMA's tracks.csv, whose three header lines are groups, columns and track_id")
        for where, cells in table:
            if len(cells) != len(above) or not cells[0].isdigit():
                raise UserError(f"{where}: {len(cells)} cells beginning with '{cells[0][:20]}' under {len(above)} columns")
            split, subset, title, artist, album, tags, *about, all_genres = (cells[place[column]] for column in needed)
            if wanted and subset not in wanted:
                continue
            if split not in SPLIT_NAMES:
                raise UserError(f"{where}: split '{split}' is not training, validation or test")
            track, ids = f"{int(cells[0]):06d}", map(str, literal_list(all_genres, where, "genres_all"))
            own_tags = map(one_line, literal_list(tags, where, "tags"))
            yield {"id": track, "audio": [f"{track[:3]}/{track}", track], "split": SPLIT_NAMES[split],
                   "text": sources(sf=[clean(title), clean(artist), clean(album), *own_tags], lf=map(plain_text, about)),
                   "tags": [genres[key] for key in ids if key in genres]}

    return rows(), {"top": list(dict.fromkeys(roots)), "all": list(dict.fromkeys(genres.values()))}, []


def gtzan(args, texts, sounds):
    """GTZAN. Tags: the genre; there is no text. With train_filtered.txt, valid_filtered.txt and test_filtered.txt beside the
    audio the fault-filtered split, else one by the files' numbers (our choice), with artists on both sides of it."""
    tracks, notes = {}, []      # "jazz.00054": split
    files = {split: [p for p in texts if Path(p).name == f"{split}_filtered.txt"] for split in ("train", "valid", "test")}
    if any(files.values()):
        for split in files:
            path = find_text(args, texts, f"{split}_filtered.txt")
            for count, line in enumerate(Path(path).read_text(encoding="utf-8-sig").splitlines(), 1):
                match = re.search(r"([a-z]+\.\d{5})(\.\w+)?$", line.strip())
                if line.strip() and not match:
                    raise UserError(f"{path}, line {count}: '{line[:40]}' should be like blues/blues.00029.wav")
                if match:
                    tracks[match[1]] = split
    else:
        for sound in sounds:
            match = re.search(r"(?:^|/)([a-z]+\.\d{4}(\d))\.\w+$", sound)
            if match:
                tracks[match[1]] = "train" if match[2] < "7" else "valid" if match[2] == "7" else "test"
        notes = ["no train_filtered.txt: split by number, artists are on both sides, so figures will be too good"]
    rows = [{"id": track, "audio": [f"{track.split('.')[0]}/{track}", track], "split": split, "text": {},
             "tags": [track.split(".")[0]], "suspect": track == "jazz.00054"} for track, split in sorted(tracks.items())]
    return rows, {"genre": sorted({row["tags"][0] for row in rows})}, notes


def table(args, texts, sounds):
    """Any csv file with a header. Without a column for it, 10 % are valid and 10 % test. A cell is one text, or several as a
    Python list or between `args.separator`."""
    path = args.source
    with open(path, encoding="utf-8-sig", errors="replace") as file:
        first = file.readline()
    delimiter = max("\t,;", key=first.count)
    columns = {source: getattr(args, source) for source in ("sf", "lf", "pl", "aset")}
    single = {name: getattr(args, name) for name in ("id", "audio", "split", "start", "duration")}
    needed = [*filter(None, single.values()), *args.tags, *(column for several in columns.values() for column in several)]

    def cell_texts(row, several, place):
        texts = []
        for column in several:
            cell = row[column].strip()
            if cell.startswith("[") and cell.endswith("]"):
                texts += literal_list(cell, place, column)
            else:
                texts += cell.split(args.separator) if args.separator else [cell]
        return distinct(map(one_line, texts))

    rows, used = [], Counter()
    for place, row in read_records(path, needed, delimiter):
        cells = {name: row[column].strip() if column else "" for name, column in single.items()}
        name = cells["id"] or cells["audio"] or place
        split = "test" if held_out(name, 0.1) else "valid" if held_out(name, 0.2) else "train"
        if args.split and cells["split"].lower() not in SPLIT_NAMES:
            raise UserError(f"{place}: split '{cells['split']}' is not one of {', '.join(SPLIT_NAMES)}")
        text = {source: cell_texts(row, several, place) for source, several in columns.items()}
        line = {"id": name, "audio": [cells["audio"], cells["audio"].replace("\\", "/")],      # the second: written on Windows
                "split": SPLIT_NAMES.get(cells["split"].lower(), split), "tags": cell_texts(row, args.tags, place),
                "text": {source: found for source, found in text.items() if found}}
        line |= {key: number(cells[key], place, single[key]) for key in ("start", "duration") if cells[key]}
        used.update(line["tags"])
        rows.append(line)
    labels = {"tags": [tag for tag, _ in used.most_common()]} if used else {}
    return rows, labels, [] if args.split else ["no --split column: 80 % train, 10 % valid, 10 % test, by the id"]
