"""Turns a folder of music into a manifest folder. The texts come from the tags and names of the files."""
import math
import re
from collections import Counter, defaultdict, namedtuple
from pathlib import Path

import numpy as np
from tqdm import tqdm

from mulan_min.audio import AudioError, check, open_audio, read_window
from mulan_min.datasets.importing import check_paths, files_below, path_in_manifest, write_collection
from mulan_min.datasets.tables import AUDIO_SUFFIXES, by_source, clean_text, distinct, require
from mulan_min.file_tags.tags import read_tags
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


def read_track(path, music, dropped):
    """Reads the header and the tags of one file below the folder `music` -> Track. `dropped`, a list, gets the track's id once for each
    text of its tags that cannot be decoded. Raises AudioError."""
    with open_audio(path) as file:
        seconds = file.frames / file.samplerate
    relative, (tags, lost) = path.relative_to(music), read_tags(path)
    dropped += [relative.as_posix()] * lost
    title, artist, album = (", ".join(filter(None, map(clean_text, tags[key]))) for key in ("title", "artist", "album"))
    genres = map(clean_text, tags["genre"])
    folders = tuple(filter(None, map(clean_folder, reversed(relative.parts[:-1])))) or (clean_folder(music.name),)
    folder = "/" + "/".join(folders)
    group = re.sub(r"\W*\b(cd|dis[ck]|vol(ume)?)\b\W*\d+\W*$", "", album.lower()) or folder
    return Track(relative.as_posix(), math.floor(seconds * 100) / 100, title or clean_name(path.stem), artist, album,
                 tuple(filter(None, genres)), clean_comment("\n".join(tags["comment"])), folders, folder, group)


def read_tracks(files, music, min_seconds, decode, dropped):
    """Reads the tags of all files -> (list of Track, {reason: [(id, detail)] of the files left out}). `dropped`: see `read_track`."""
    tracks, left_out = [], {"unreadable": [], "too short": [], "twice": []}
    for path in tqdm(files, desc="reading tags", unit="file", disable=None):
        try:
            track = read_track(path, music, dropped)
            if decode:
                check(path)
            tracks.append(track)
        except AudioError as error:
            left_out["unreadable"].append((path.relative_to(music).as_posix(), str(error)))
    left_out["too short"] = [(track.id, f"{track.seconds} s") for track in tracks if track.seconds < min_seconds]
    tracks = [track for track in tracks if track.seconds >= min_seconds]
    copies = find_copies(tracks, music)      # a copy could be in another split
    left_out["twice"] = [(copy, f"{copy} has the same audio as {first}") for copy, first in copies.items()]
    return [track for track in tracks if track.id not in copies], left_out


def find_copies(tracks, music):
    """{id: id of an earlier track with the same audio, sample by sample}; names and tags do not matter. A second in the middle is
    decoded if other tracks have the same length, and everything if that second is the same too, for it may be silent."""
    keys = {track.id: (track.seconds,) for track in tracks}
    for parts in (lambda seconds: [(seconds / 2, 1)], lambda seconds: [(start, 60) for start in range(0, math.ceil(seconds), 60)]):
        common = Counter(keys.values())
        for track in tqdm([t for t in tracks if common[keys[t.id]] > 1], desc="looking for copies", unit="file", disable=None):
            try:
                keys[track.id] += tuple(hash(read_window(music / track.id, *part).tobytes()) for part in parts(track.seconds))
            except AudioError:
                keys[track.id] = (track.id,)      # a damaged file is like no other
    first = {}
    return {track.id: first[keys[track.id]] for track in tracks if first.setdefault(keys[track.id], track.id) != track.id}


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
    """The group of each track -> the split of each track; a group is never divided. valid gets half of the test share. Groups are
    taken from the largest, which is in train, to the smallest; the seed orders equal ones. Each goes to the split that lacks most
    tracks. But the last go where they are needed: train and valid need two tracks for training, test needs one."""
    sizes, left, splits = Counter(groups), len(groups), {}
    order = sorted(sizes)
    np.random.default_rng((seed, 0)).shuffle(order)
    shares = {"train": 1 - 1.5 * test_share, "test": test_share, "valid": test_share / 2}
    lacking = {split: share * len(groups) for split, share in shares.items() if share > 0}
    needs = {split: tracks for split, tracks in (("train", 2), ("valid", 2), ("test", 1)) if split in lacking}
    for group in sorted(order, key=lambda g: -sizes[g]):
        left -= sizes[group]
        after = {split: needs | {split: max(0, needs[split] - sizes[group])} for split in lacking}
        possible = [split for split, rest in after.items()
                    if sum(rest.values()) <= left and sum(map(bool, rest.values())) < len(order) - len(splits)]
        splits[group] = max(possible or [split for split in needs if needs[split]][:1], key=lacking.get) if splits else "train"
        lacking[splits[group]] -= sizes[group]
        needs = after[splits[group]]
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


def import_folder(music, out, seed=0, test_share=0.2, min_seconds=10.0, check=False, overwrite=False):
    """Writes a collection of all music below the folder `music` to `out` -> report. SF text is a file's title (or its name),
    artist, album and genres; LF its comment; PL the names of the two nearest folders. `check` decodes each file to its end. Raises
    UserError when there is nothing to import, and without `overwrite` when there is a collection in `out`."""
    music, out, skipped, dropped = Path(music).resolve(), Path(out).resolve(), [], []
    check_paths(music, "folder", out, overwrite)
    require(seed >= 0, f"--seed {seed} must be 0 or more")
    require(0 <= test_share <= 0.5, f"--test-share {test_share:g} must be between 0 and 0.5")
    files = sorted(music / name for name in files_below(music, AUDIO_SUFFIXES, skipped))
    tracks, left_out = read_tracks(files, music, min_seconds, check, dropped)
    groups = joined_groups(tracks)
    by_album = len(set(groups)) >= 3      # fewer cannot fill three splits
    splits = split_groups(groups if by_album else [track.id for track in tracks], test_share, seed)
    lines = [{"id": track.id, "audio": path_in_manifest(music / track.id, out), "split": split, "duration": track.seconds,
              "text": by_source(sf=(track.title, track.artist, track.album, *track.genres), lf=track.comments,
                                pl=distinct(track.folders)[:2])} for track, split in zip(tracks, splits)]
    group_of = {track.id: group for track, group in zip(tracks, groups)}
    notes = [] if by_album else ["fewer than three albums or folders: split by track, so figures will be too good"]
    notes += [f"{len(dropped)} texts in the tags of {len(set(dropped))} files left out, their encoding is uncertain"] if dropped else []
    test = playlists([track for track, split in zip(tracks, splits) if split == "test"])
    return write_collection(music, out, lines, left_out, skipped, notes, None, test, albums=lambda part: len(
        {group_of[line["id"]] for line in part}), hours=lambda part: f"{sum(line['duration'] for line in part) / 3600:.1f}")
