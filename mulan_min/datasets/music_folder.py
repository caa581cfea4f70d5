"""Turns a folder of music into a manifest folder. The texts come from the tags and names of the files."""
import math
import re
from collections import Counter, defaultdict, namedtuple
from pathlib import Path

import numpy as np
from tqdm import tqdm

from mulan_min.audio import AudioError, open_audio, read_window
from mulan_min.datasets.importing import AUDIO_SUFFIXES, counts, path_in_manifest, split_table
from mulan_min.datasets.tables import by_source, clean_text, distinct
from mulan_min.errors import UserError
from mulan_min.file_tags import read_tags
from mulan_min.files import write_jsonl
from mulan_min.mining.text_rules import FILE_COMMENT

# words in folder names that describe the storage and not the music
STORAGE = set("music audio sound sounds snd song songs track tracks album albums data dat usr share games game home media core "
              "files mp3 flac ogg opus wav cd disc disk vol misc various unknown artist downloads library itunes".split())


# The description of a music file by its tags and names. All texts are cleaned; a missing one is "" or (). `id` is the path
# relative to the music folder; `folders` are the names of the folders above the file, nearest first, and `folder` is the same
# as one key; `group` is the album, the same for all its discs, or without an album the folder.
Track = namedtuple("Track", "id seconds title artist album genres comments folders folder group")


def clean_name(name):
    """The name of a folder, or of a file without its suffix, as words: "03-darkForest2" -> "dark Forest 2"."""
    name = re.sub(r"^\d{1,3}(\s*[-_.)]+\s*|\s+)(?=\D)", "", name)      # a track number in front
    if " " not in name:
        name = re.sub(r"(?<!\d)\.|\.(?!\d)|-|(?<=[a-z])(?=[A-Z])|(?<=[a-z]{3})(?=\d+\b)", " ", name)
    return clean_text(name)


def clean_folder(name):
    """The name of a folder as words, without words that describe only the storage; may be ""."""
    words = clean_name(name).split()
    return clean_text(" ".join(w for w in words if not STORAGE & {w.lower(), w.lower().strip("0123456789()[]")}))


def clean_comment(text):
    """The lines of a comment that may be about the music: without boilerplate, and with three or more words."""
    lines = [clean_text(line) for line in text.splitlines() if not FILE_COMMENT.search(line)]
    return tuple(line for line in lines if len(line.split()) >= 3)


def read_track(path, music, dropped=None):
    """Reads the header and the tags of one file below the folder `music` -> Track. `dropped`, a list, gets the track's id once for each
    text of its tags that cannot be decoded. Raises AudioError."""
    with open_audio(path) as file:
        seconds = file.frames / file.samplerate
    relative, (tags, lost) = path.relative_to(music), read_tags(path)
    (dropped if dropped is not None else []).extend([relative.as_posix()] * lost)
    title, artist, album = (", ".join(filter(None, map(clean_text, tags[key]))) for key in ("title", "artist", "album"))
    genres = map(clean_text, tags["genre"])
    folders = tuple(filter(None, map(clean_folder, reversed(relative.parts[:-1])))) or (clean_folder(music.name),)
    folder = "/" + "/".join(folders)
    group = re.sub(r"\W*\b(cd|dis[ck]|vol(ume)?)\b\W*\d+\W*$", "", album.lower()) or folder
    return Track(relative.as_posix(), math.floor(seconds * 100) / 100, title or clean_name(path.stem), artist, album,
                 tuple(filter(None, genres)), clean_comment("\n".join(tags["comment"])), folders, folder, group)


def read_tracks(files, music, min_seconds, check):
    """Reads the tags of all files -> (list of Track, {reason: [ids or messages of the files left out]})."""
    tracks, left_out = {}, {"unreadable": [], "too short": [], "twice": []}
    for path in tqdm(files, desc="reading tags", unit="file", disable=None):
        try:
            track = read_track(path, music)
            if check:
                read_window(path)
        except AudioError as error:
            left_out["unreadable"].append(str(error))
            continue
        key = (track.title.lower() or path, track.seconds)      # a copy in another folder could be in another split
        if track.seconds < min_seconds:
            left_out["too short"].append(track.id)
        elif key in tracks:
            left_out["twice"].append(track.id)
        else:
            tracks[key] = track
    return list(tracks.values()), left_out


def joined_groups(tracks):
    """The group of each track that must not be split: albums, joined where a folder has tracks without an album."""
    parent = {}

    def root(name):
        while parent.setdefault(name, name) != name:
            name = parent[name]
        return name

    untagged = {track.folder for track in tracks if track.group == track.folder}
    for track in tracks:
        if track.folder in untagged:
            parent[root(track.group)] = root(track.folder)
    return [root(track.group) for track in tracks]


def split_groups(groups, test_share, seed):
    """The group of each track -> the split of each track; a group is never divided. valid gets half of the test share.

    Groups are taken from the largest to the smallest, and each goes to the split that lacks most tracks. So the sizes come
    close to the shares even with few albums. The largest group is always in train. The seed orders groups of equal size.
    """
    sizes = Counter(groups)
    order = sorted(sizes)
    np.random.default_rng((seed, 0)).shuffle(order)
    shares = {"train": 1 - 1.5 * test_share, "test": test_share, "valid": test_share / 2}
    lacking = {split: share * len(groups) for split, share in shares.items() if share > 0}
    splits = {}
    for group in sorted(order, key=lambda g: -sizes[g]):
        empty = lacking.keys() - splits.values()
        fill = len(order) - len(splits) <= len(empty)      # only as many groups are left as there are empty splits
        splits[group] = max(sorted(empty) if fill else lacking, key=lacking.get) if splits else "train"
        lacking[splits[group]] -= sizes[group]
    return [splits[group] for group in groups]


def playlists(tracks):
    """Rows of playlists.jsonl, queries for the test tracks: each title, and each album or folder with two or more of them."""
    titles, groups = defaultdict(list), defaultdict(list)
    for track in tracks:
        titles[track.title.lower()].append(track)          # tracks with the same title answer the same query
        groups[track.group].append(track)
    queries = [("track", members[0].title, [text for track in members for text in (track.artist, track.album)], members)
               for members in titles.values()]
    queries += [("album", members[0].album or members[0].folders[0], [track.artist for track in members], members)
                for members in groups.values() if 2 <= len(members) < len(tracks)]
    return [{"set": kind, "title": title, **({"description": ", ".join(distinct(texts))} if any(texts) else {}),
             "tracks": [track.id for track in members]} for kind, title, texts, members in queries if title]


def import_folder(music, out, seed=0, test_share=0.2, min_seconds=10.0, check=False):
    """Writes out/manifest.jsonl and out/playlists.jsonl for all music files below the folder `music` -> report as text.

    SF text is a file's title (or its name), artist, album and genres; LF its comment; PL the names of the two nearest
    folders. There is no ASET text. Files are not copied. `check` decodes each file to its end instead of trusting its
    header. Raises UserError when there is nothing to import.
    """
    music, out = Path(music).resolve(), Path(out).resolve()
    if not music.is_dir():
        raise UserError(f"{music}: no such folder of music")
    if not 0 <= test_share <= 0.5:
        raise UserError(f"--test-share {test_share:g} must be between 0 and 0.5")
    files = sorted(p for p in music.rglob("*") if p.suffix.lower() in AUDIO_SUFFIXES and not p.name.startswith("."))
    tracks, left_out = read_tracks(files, music, min_seconds, check)
    if not tracks:
        raise UserError(f"{music}: nothing to import of {len(files)} music files ({counts(left_out)})")
    groups = joined_groups(tracks)
    by_album = len(set(groups)) >= 3      # fewer cannot fill three splits
    splits = split_groups(groups if by_album else [track.id for track in tracks], test_share, seed)
    rows = [{"id": track.id, "audio": path_in_manifest(music / track.id, out), "split": split, "duration": track.seconds,
             "text": by_source(sf=(track.title, track.artist, track.album, *track.genres), lf=track.comments,
                               pl=distinct(track.folders)[:2])} for track, split in zip(tracks, splits)]
    write_jsonl(out / "playlists.jsonl", playlists([track for track, split in zip(tracks, splits) if split == "test"]))
    write_jsonl(out / "manifest.jsonl", rows)      # last: a folder with a manifest is complete
    group_of = {track.id: group for track, group in zip(tracks, groups)}
    lines = [split_table(rows, hours=lambda part: f"{sum(row['duration'] for row in part) / 3600:.1f}",
                         albums=lambda part: len({group_of[row["id"]] for row in part}))]
    lines += [f"unreadable: {message}" for message in left_out["unreadable"]] + [f"left out: {counts(left_out)}"]
    lines += [] if by_album else ["fewer than three albums or folders: split by track, so figures will be too good"]
    return "\n".join(lines)
