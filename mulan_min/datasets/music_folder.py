"""Music of your own, described by its own tags, to a manifest folder."""

import json
import math
import os
import re
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from mulan_min.audio import AudioError, open_audio, read_window
from mulan_min.errors import UserError
from mulan_min.files import write_atomically

# libsndfile reads no AAC or WMA; they are tried all the same, so that the report of unreadable files names
# them
SUFFIXES = set(".wav .flac .ogg .oga .opus .mp3 .aif .aiff .aifc .au .caf .w64 .rf64 .m4a .aac .wma".split())
ADDRESS = re.compile(r"<?(https?://\S+|www\.\S+|\S+@\S+\.\w+)>?", re.I)
NO_NAME = re.compile(
    r"(unknown|various|untitled|none|no)?\W*(artists?|album|title|genre|(audio ?)?track|misc|other)?\W*\d*",
    re.I,
)
# comments written by encoders, rippers and shops, and licences, tell nothing about the music
BOILERPLATE = re.compile(
    r"enc\b|encode|lib(vorbis|opus|flac|sndfile)|xiph|\blame\b|lav[fc]\d|itunes|audio copy|ripped|jamendo"
    r"|bandcamp|soundcloud|^visit |licen[sc]e|copyright|creative commons|all rights|\bcc[- ]?(by|0)|\(c\)"
    r"|[0-9a-f]{8} [0-9a-f]{8}",
    re.I,
)
# folder names that say where files are kept, not what is in them
PLACES = set(
    "music audio sound sounds snd song songs track tracks album albums data dat usr share games game home "
    "media core files mp3 flac ogg opus wav cd disc disk vol misc various unknown artist downloads library "
    "itunes".split()
)


@dataclass(frozen=True)
class Track:
    """What a music file tells about itself; texts are cleaned, "" or () where there is nothing."""

    path: Path
    id: str  # path relative to the music folder
    seconds: float
    title: str
    artist: str
    album: str
    genres: tuple[str, ...]
    comments: tuple[str, ...]
    folders: tuple[str, ...]  # names of the folders it lies in, nearest first

    @property
    def group(self) -> str:
        """The album, whatever the disc, or else the folders."""
        album = re.sub(r"\W*\b(cd|dis[ck]|vol(ume)?)\b\W*\d+\W*$", "", self.album.lower())
        return album or self.folder

    @property
    def folder(self) -> str:
        return "/" + "/".join(self.folders)


def clean(text: str) -> str:
    """One line without addresses, underscores, odd spaces; "" for a placeholder such as "Unknown Artist"."""
    text = "".join(c if c.isprintable() and c != "_" else " " for c in ADDRESS.sub(" ", text))
    text = " ".join(text.split()).strip(" -/:;,<>|")
    return text if any(c.isalpha() for c in text) and not NO_NAME.fullmatch(text) else ""


def clean_name(name: str) -> str:
    """A file's name without suffix, or a folder's name, as words: "03-darkForest2" -> "dark Forest 2"."""
    name = re.sub(r"^\d{1,3}(\s*[-_.)]+\s*|\s+)(?=\D)", "", name)  # a track number in front
    if " " not in name:
        name = re.sub(r"(?<!\d)\.|\.(?!\d)|-|(?<=[a-z])(?=[A-Z])|(?<=[a-z]{3})(?=\d+\b)", " ", name)
    return clean(name)


def clean_folder(name: str) -> str:
    """A folder's name as words without those that only say that files are kept there; may be ""."""
    words = clean_name(name).split()
    return clean(" ".join(w for w in words if not PLACES & {w.lower(), w.lower().strip("0123456789()[]")}))


def clean_comment(text: str) -> tuple[str, ...]:
    """The lines of a comment that may be about the music: three words or more, no boilerplate."""
    lines = [clean(line) for line in text.splitlines() if not BOILERPLATE.search(line)]
    return tuple(line for line in lines if len(line.split()) >= 3)


def read_track(path: Path, music: Path) -> Track:
    """Read the header and tags of one file. Raises AudioError."""
    with open_audio(path) as file:
        seconds, tags = file.frames / file.samplerate, file.copy_metadata()
    inside = path.relative_to(music)
    genres = [clean(genre) for genre in re.split(r"[;,/\0]", tags.get("genre", ""))]
    folders = [clean_folder(name) for name in reversed(inside.parts[:-1])]
    return Track(
        path=path,
        id=inside.as_posix(),
        seconds=math.floor(seconds * 100) / 100,
        title=clean(tags.get("title", "")) or clean_name(path.stem),
        artist=clean(tags.get("artist", "")),
        album=clean(tags.get("album", "")),
        genres=tuple(genre for genre in genres if genre),
        comments=clean_comment(tags.get("comment", "")),
        folders=tuple(filter(None, folders)) or (clean_folder(music.name),),
    )


def distinct(texts) -> list[str]:
    """The texts that are not empty, in order, each once whatever its case."""
    found = {}
    for text in filter(None, texts):
        found.setdefault(text.lower(), text)
    return list(found.values())


def joined_groups(tracks: list[Track]) -> list[str]:
    """A group for each track, such that neither an album nor a folder with untagged tracks is in two of them."""
    leader = {}

    def find(name):
        while leader.setdefault(name, name) != name:
            name = leader[name]
        return name

    untagged = {track.folder for track in tracks if track.group == track.folder}
    for track in tracks:
        if track.folder in untagged:
            leader[find(track.group)] = find(track.folder)
    return [find(track.group) for track in tracks]


def split_groups(groups: list[str], test_share: float, seed: int) -> list[str]:
    """Each track's group -> its split, the same for a whole group; valid gets half of the test share.

    The largest group first, each goes to the split that lacks most tracks: with few albums the sizes come out
    as near as they can, and the largest is always trained on. The seed decides between groups of equal size.
    """
    sizes = Counter(groups)
    order = sorted(sizes)
    np.random.default_rng((seed, 0)).shuffle(order)
    shares = {"train": 1 - 1.5 * test_share, "test": test_share, "valid": test_share / 2}
    lacking = {split: share * len(groups) for split, share in shares.items() if share > 0}
    splits = {}
    for group in sorted(order, key=lambda g: -sizes[g]):
        empty = lacking.keys() - splits.values()
        last = len(order) - len(splits) <= len(empty)  # as many groups left as splits that have none
        splits[group] = max(sorted(empty) if last else lacking, key=lacking.get) if splits else "train"
        lacking[splits[group]] -= sizes[group]
    return [splits[group] for group in groups]


def playlists(tracks: list[Track]) -> list[dict]:
    """Retrieval queries over test tracks: each title, and each album or folder with two or more of them."""
    titles, albums = defaultdict(list), defaultdict(list)
    for track in tracks:
        titles[track.title.lower()].append(track)
        albums[track.group].append(track)
    rows = []
    for same in titles.values():  # tracks of the same title answer the same query
        if same[0].title:
            description = ", ".join(distinct(text for track in same for text in (track.artist, track.album)))
            rows.append(query("track", same[0].title, description, same))
    for same in albums.values():
        title = same[0].album or " ".join(same[0].folders[:1])
        if title and 2 <= len(same) < len(tracks):
            rows.append(query("album", title, ", ".join(distinct(track.artist for track in same)), same))
    return rows


def query(kind: str, title: str, description: str, tracks: list[Track]) -> dict:
    row = {"set": kind, "title": title, "description": description, "tracks": [track.id for track in tracks]}
    return row if description else {key: value for key, value in row.items() if key != "description"}


def write_jsonl(path: Path, rows: list[dict]) -> None:
    """Write atomically: the file is either the old one or the whole new one. Raises UserError when the disk refuses."""
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    # a file name that is not UTF-8 has lone surrogates, for which Python's escape is JSON's escape too
    write_atomically(path, lambda new: new.write_text(text, encoding="utf-8", errors="backslashreplace"))


def read_tracks(files: list[Path], music: Path, min_seconds: float, check: bool):
    """A list of Track for the files that can be used; {reason to leave a file out: [ids or messages]}."""
    tracks, left_out, seen = [], {"unreadable": [], "too short": [], "twice": []}, set()
    for path in tqdm(files, desc="reading tags", unit="file", disable=None):
        try:
            track = read_track(path, music)
            if check:
                read_window(path)
        except AudioError as error:
            left_out["unreadable"].append(str(error))
            continue
        # the same piece in two folders would be on both sides of the split
        same = (track.title.lower(), track.seconds)
        if track.seconds < min_seconds:
            left_out["too short"].append(track.id)
        elif track.title and same in seen:
            left_out["twice"].append(track.id)
        else:
            seen.add(same)
            tracks.append(track)
    return tracks, left_out


def import_folder(music, out, seed=0, test_share=0.2, min_seconds=10.0, check=False) -> str:
    """Write out/manifest.jsonl and out/playlists.jsonl for every music file below the folder `music`.

    SF text is a file's title (or its name), artist, album and genre; LF its comment; PL the names of the two
    nearest folders; there is no ASET. Files are not copied. `check` decodes each file to its end instead of
    trusting its header. Returns a table of what came out; raises UserError when there is nothing to import.
    """
    music, out = Path(music).resolve(), Path(out).resolve()
    if not music.is_dir():
        raise UserError(f"{music}: no such folder of music")
    files = sorted(p for p in music.rglob("*") if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
    tracks, left_out = read_tracks(files, music, min_seconds, check)
    if not tracks:
        counts = ", ".join(f"{len(names)} {reason}" for reason, names in left_out.items())
        raise UserError(f"{music}: nothing to import of {len(files)} music files ({counts})")
    groups = joined_groups(tracks)
    by_album = len(set(groups)) >= 3  # fewer cannot fill three splits
    splits = split_groups(groups if by_album else [track.id for track in tracks], test_share, seed)
    rows = []
    for track, split in zip(tracks, splits):
        texts = {
            "sf": distinct((track.title, track.artist, track.album, *track.genres)),
            "lf": distinct(track.comments),
            "pl": distinct(track.folders)[:2],
        }
        # below out the path is relative, so that the collection can be moved; elsewhere the music stays put
        audio = os.path.relpath(track.path, out) if track.path.is_relative_to(out) else str(track.path)
        text = {source: words for source, words in texts.items() if words}
        rows.append({"id": track.id, "audio": audio, "split": split, "duration": track.seconds, "text": text})
    out.mkdir(parents=True, exist_ok=True)
    test = [track for track, split in zip(tracks, splits) if split == "test"]
    write_jsonl(out / "playlists.jsonl", playlists(test))
    write_jsonl(out / "manifest.jsonl", rows)  # last: a folder with a manifest is complete
    lines = [table(rows, groups)] + [f"unreadable: {message}" for message in left_out["unreadable"]]
    lines.append("left out: " + ", ".join(f"{len(names)} {reason}" for reason, names in left_out.items()))
    if not by_album:
        lines.append("fewer than three albums or folders: split by track, so figures will be too good")
    return "\n".join(lines)


def table(rows: list[dict], groups: list[str]) -> str:
    """Statistics of a manifest as text, one line a split; groups names each row's album or folder."""
    lines = [f"{'split':8}{'tracks':>8}{'hours':>8}{'albums':>8}{'with SF':>9}{'with LF':>9}{'with PL':>9}"]
    for split in ("train", "valid", "test"):
        mine = [row for row in rows if row["split"] == split]
        albums = len({group for row, group in zip(rows, groups) if row["split"] == split})
        hours = sum(row["duration"] for row in mine) / 3600
        counts = "".join(f"{sum(source in row['text'] for row in mine):9d}" for source in ("sf", "lf", "pl"))
        lines.append(f"{split:8}{len(mine):8d}{hours:8.1f}{albums:8d}{counts}")
    return "\n".join(lines)
