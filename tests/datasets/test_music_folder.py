"""A folder of music becomes a manifest: texts from tags and names, splits by album, playlists."""
import itertools
import json
import os
import shutil
from collections import Counter, defaultdict
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from mutagen.flac import FLAC
from mutagen.id3 import ID3, TCON, TIT2, TPE1
from mutagen.oggopus import OggOpus
from mutagen.oggvorbis import OggVorbis

from mulan_min.data import read_manifest
from mulan_min.datasets import music_folder
from mulan_min.datasets.music_folder import clean_comment, clean_folder, clean_name, import_folder, joined_groups, read_track, split_groups
from mulan_min.datasets.tables import clean_text
from mulan_min.tasks import read_rows


def song(path, seconds=12.0, rate=8000, **tags):
    """Writes a tagged audio file; its pitch depends on its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pitch = 100 + sum(str(path).encode()) % 900
    kind = {"format": "OGG", "subtype": "OPUS"} if path.suffix == ".opus" else {}
    with soundfile.SoundFile(path, "w", samplerate=rate, channels=1, **kind) as file:
        for key, value in tags.items():
            setattr(file, key, value)
        file.write(0.3 * np.sin(2 * np.pi * pitch * np.arange(round(seconds * rate)) / rate))


@pytest.fixture
def music(tmp_path):
    """A folder with ten albums or folders and 18 usable tracks."""
    root = tmp_path / "Music"
    club, late = root / "Jazz_Club", {"artist": "Ann Lee", "album": "Late Set"}
    comment = "Recorded live on a rainy night\nhttp://shop.example/ann\nEncoded with Xiph libVorbis 1.3"
    song(club / "01 - x.ogg", title="Blue Hour", genre="Jazz; Swing", comment=comment, **late)
    song(club / "02 - y.flac", seconds=13, title="Red Hour", **late)
    song(club / "cd2" / "z.mp3", seconds=14, title="Grey", artist="Ann Lee", album="Late Set (CD 2)")
    song(root / "sounds" / "03-slowMarch2.wav", artist="Unknown Artist", album="???", genre="(12)")
    song(root / "track07.opus")
    for folder in "abcde":
        song(root / f"album {folder}" / "one.ogg", seconds=20 + ord(folder) % 7, album=f"Album {folder}")
        song(root / f"album {folder}" / "two.ogg", seconds=30 + ord(folder) % 7, album=f"album {folder}")
    song(root / "loose" / "p.ogg", seconds=15)
    song(root / "loose" / "q.ogg", seconds=16)
    (root / "loose" / "copy").mkdir()
    shutil.copy(root / "loose" / "p.ogg", root / "loose" / "copy" / "another name.ogg")
    song(root / "loose" / "r.ogg", seconds=17)
    song(root / "jingle.ogg", seconds=2)
    (root / "broken.mp3").write_bytes(b"no music at all")
    (root / "._hidden.ogg").write_bytes(b"no music at all")
    (root / "notes.txt").write_text("not tried")
    return root


def imported(music, out, **settings):
    report = import_folder(music, out, **settings)
    rows = {row["id"]: row for row in map(json.loads, (out / "manifest.jsonl").read_text().splitlines())}
    return rows, report


def test_words_come_from_tags_comment_and_folders(music, tmp_path):
    rows, report = imported(music, tmp_path / "out")
    assert len(rows) == 18
    assert rows["Jazz_Club/01 - x.ogg"]["text"] == {
        "sf": ["Blue Hour", "Ann Lee", "Late Set", "Jazz", "Swing"],
        "lf": ["Recorded live on a rainy night"],
        "pl": ["Jazz Club"],
    }
    words = {"sf": ["Grey", "Ann Lee", "Late Set (CD 2)"], "pl": ["Jazz Club"]}
    assert rows["Jazz_Club/cd2/z.mp3"]["text"] == words
    assert rows["sounds/03-slowMarch2.wav"]["text"] == {"sf": ["slow March 2"]}  # the file's name alone
    assert rows["track07.opus"]["text"] == {}
    assert rows["album a/two.ogg"]["text"] == {"sf": ["two", "album a"], "pl": ["a"]}
    assert rows["Jazz_Club/02 - y.flac"]["duration"] == pytest.approx(13, abs=0.05)
    assert "unreadable" in report and "broken.mp3" in report and "not audio" in report
    assert "1 unreadable, 1 too short, 1 twice" in report and "hidden" not in report


@pytest.mark.parametrize("suffix, kind", [("flac", FLAC), ("ogg", OggVorbis), ("opus", OggOpus)])
def test_all_genres_and_artists_of_a_file(tmp_path, suffix, kind):
    path = tmp_path / f"x.{suffix}"
    song(path)
    file = kind(path)
    file["genre"], file["artist"] = ["Rock", "Jazz; (4)Eurodisco"], ["Ann Lee", "Unknown Artist", "Bo"]
    file["comment"] = ["nice one", "a quiet song"]
    file.save()
    track = read_track(path, tmp_path, [])
    assert track.genres == ("Rock", "Jazz", "Disco", "Eurodisco") and track.artist == "Ann Lee, Bo" and track.title == "x"
    assert track.comments == ("a quiet song",)


def test_texts_in_other_code_pages_are_read_or_dropped_and_counted(tmp_path):
    """An MP3's ID3v2 frames that claim Latin-1, and hold it, or cp1251, or Shift-JIS."""
    dropped = []
    for name, title, artist in (("a", "Café Noir".encode("latin-1"), "Motörhead".encode("latin-1")),
                                ("b", "Группа крови".encode("cp1251"), "Кино".encode("cp1251")),
                                ("c", "東京".encode("shift_jis"), "日本".encode("shift_jis"))):
        song(tmp_path / f"{name}.mp3")
        tag = ID3()
        tag.add(TIT2(encoding=0, text=[title.decode("latin-1")]))
        tag.add(TPE1(encoding=0, text=[artist.decode("latin-1")]))
        tag.add(TCON(encoding=0, text=["(17)"]))
        tag.save(tmp_path / f"{name}.mp3", v2_version=3)
    tracks = [read_track(tmp_path / f"{name}.mp3", tmp_path, dropped) for name in "abc"]
    assert [(track.title, track.artist) for track in tracks] == [("Café Noir", "Motörhead"), ("Группа крови", "Кино"), ("c", "")]
    assert [track.genres for track in tracks] == [("Rock",)] * 3 and dropped == ["c.mp3", "c.mp3"]


def test_the_manifest_is_read_by_the_trainer(music, tmp_path):
    rows, _ = imported(music, tmp_path / "out")
    recordings = read_manifest(tmp_path / "out")
    assert [r.id for r in recordings] == list(rows)
    assert all(os.path.isfile(r.audio) for r in recordings)
    inside, _ = imported(music, tmp_path)  # the music is below the manifest, so paths are relative
    assert all(row["audio"] == f"Music/{name}" for name, row in inside.items())
    assert len(read_manifest(tmp_path)) == 18


def test_no_album_or_folder_is_on_both_sides(music, tmp_path):
    rows, _ = imported(music, tmp_path / "out", test_share=0.3)
    sides = defaultdict(set)
    for name, row in rows.items():
        folder = name.split("/")[0]  # in this fixture the first folder names the album
        sides[folder].add(row["split"])
    assert all(len(splits) == 1 for splits in sides.values()), sides
    assert {row["split"] for row in rows.values()} == {"train", "valid", "test"}


def test_splits_are_deterministic_and_the_seed_moves_them(music, tmp_path):
    splits = []
    for n, seed in enumerate((0, 0, 1, 2, 3)):
        rows, _ = imported(music, tmp_path / f"out{n}", seed=seed)
        splits.append([row["split"] for row in rows.values()])
    assert splits[0] == splits[1]
    assert any(other != splits[0] for other in splits[2:])


def test_untagged_files_stay_with_the_album_in_whose_folder_they_lie():
    def track(folder, album):
        return SimpleNamespace(folder="/" + folder, group=album or "/" + folder)

    tracks = [track("a", "one"), track("a", ""), track("b", "one"), track("b", "two"), track("c", "three"), track("c", "four"),
              track("d", ""), track("a/cd2", "one")]
    groups = joined_groups(tracks)
    assert len({groups[0], groups[1], groups[2], groups[7]}) == 1      # one album, with the untagged file beside it
    assert len(set(groups)) == 5      # one; two; three; four: all of c is tagged; d


def test_split_sizes():
    rng = np.random.default_rng(0)
    groups = [f"g{g}" for g in range(60) for _ in range(rng.integers(1, 12))]
    splits = split_groups(groups, 0.2, seed=0)
    share = {split: splits.count(split) / len(splits) for split in ("train", "valid", "test")}
    assert share == pytest.approx({"train": 0.7, "valid": 0.1, "test": 0.2}, abs=0.02)
    assert len(set(zip(groups, splits))) == 60  # one split for each group
    few = ["a"] * 50 + ["b"] * 5 + ["c"] * 4
    assert split_groups(few, 0.2, 0) == ["train"] * 50 + ["test"] * 5 + ["valid"] * 4
    assert set(split_groups(groups, 0.0, 0)) == {"train"}


def partitions(n, largest):
    """All ways to write n as a sum of falling numbers."""
    return [()] if n == 0 else [(k, *rest) for k in range(min(n, largest), 0, -1) for rest in partitions(n - k, k)]


@pytest.mark.parametrize("n", range(1, 11))
def test_few_albums_can_be_trained_on_whenever_any_split_can(n):
    """Brute force over all splits of all collections of n tracks: where one has two train and two valid tracks, ours has. Where one
    has a test track as well, ours has."""
    for sizes in partitions(n, n):
        if len(sizes) > 7:
            continue      # 3^8 splits take long; single tracks are tested below
        splits = split_groups([f"g{g}" for g, size in enumerate(sizes) for _ in range(size)], 0.2, seed=0)
        ours = [splits.count(split) for split in ("train", "valid", "test")]
        for least in ([2, 2, 0], [2, 2, 1]):
            possible = any(all(sum(size for size, at in zip(sizes, chosen) if at == s) >= need for s, need in enumerate(least))
                           for chosen in itertools.product(range(3), repeat=len(sizes)))
            assert not possible or all(count >= needed for count, needed in zip(ours, least)), (sizes, ours)


def test_single_tracks_by_hand():
    expected = {1: (1, 0, 0), 2: (2, 0, 0), 3: (2, 1, 0), 4: (2, 2, 0), 5: (2, 2, 1), 8: (5, 2, 1), 12: (8, 2, 2), 20: (14, 2, 4),
                100: (70, 10, 20)}
    for n, counts in expected.items():
        splits = split_groups([str(i) for i in range(n)], 0.2, seed=0)
        assert tuple(splits.count(split) for split in ("train", "valid", "test")) == counts, n


def test_one_album_is_split_by_track_and_the_report_says_so(tmp_path):
    for n in range(10):
        song(tmp_path / "m" / f"song {n}.ogg", seconds=10 + n, title=f"Song {chr(65 + n)}", album="Only")
    rows, report = imported(tmp_path / "m", tmp_path / "out")
    counts = [row["split"] for row in rows.values()]
    assert (counts.count("train"), counts.count("valid"), counts.count("test")) == (7, 2, 1)
    assert "split by track" in report


def test_playlists_ask_for_test_tracks_by_title_and_album(music, tmp_path):
    rows, _ = imported(music, tmp_path / "out", test_share=0.4)
    test = {name for name, row in rows.items() if row["split"] == "test"}
    lists = [json.loads(line) for line in (tmp_path / "out" / "playlists.jsonl").read_text().splitlines()]
    by_title = {row["title"].lower(): row for row in lists if row["set"] == "track"}
    titles = defaultdict(set)
    for name in test:
        titles[rows[name]["text"]["sf"][0].lower()].add(name)
    assert {title: set(row["tracks"]) for title, row in by_title.items()} == titles  # all tracks called "two" are in one row
    albums = [row for row in lists if row["set"] == "album"]
    assert albums and all(len(row["tracks"]) >= 2 and set(row["tracks"]) < test for row in albums)
    assert all(set(row) - {"description"} == {"set", "title", "tracks"} for row in lists)
    assert all(row["description"] for row in lists if "description" in row)      # files without tags have no description
    assert any("description" not in row for row in lists)
    for row in read_rows(tmp_path / "out" / "playlists.jsonl", texts=("title",), optional=("description", "set")):
        assert row[1] in lists      # read as eval.py does


def test_two_folders_name_playlists_and_descriptions_hold_artist_and_album(tmp_path):
    for n in range(6):
        path = tmp_path / "m" / "Far" / "North" / "Winter" / f"{n}.ogg"
        song(path, seconds=10 + n, title="Same", artist="Ann Lee", album=f"Hill {n}")
    rows, _ = imported(tmp_path / "m", tmp_path / "out", test_share=0.5)
    assert all(row["text"]["pl"] == ["Winter", "North"] for row in rows.values())
    (row,) = map(json.loads, (tmp_path / "out" / "playlists.jsonl").read_text().splitlines())
    assert row["title"] == "Same" and len(row["tracks"]) >= 2
    assert row["description"].startswith("Ann Lee, Hill ")


def test_cleaning_by_hand():
    assert clean_text("  Dark__Forest \r\n Keep ") == "Dark Forest Keep"
    assert clean_text("http://site.example/") == clean_text("www.site.example") == clean_text("???") == clean_text("- 12 -") == ""
    assert clean_text("Unknown Artist") == clean_text("Track 07") == clean_text("untitled") == clean_text("Various Artists") == ""
    assert clean_text("Unknown Pleasures") == "Unknown Pleasures" and clean_text("Title Theme") == "Title Theme"
    assert clean_text("Ann <ann@site.example>") == "Ann" and clean_text("Ночь\x00") == "Ночь"
    assert {clean_name(n) for n in ("03 - Blue Moon", "03. Blue Moon", "03_Blue_Moon")} == {"Blue Moon"}
    assert clean_name("voc-dark") == "voc dark" and clean_name("theGreatFair") == "the Great Fair"
    assert clean_name("99 Luftballons") == "Luftballons"  # the price of dropping track numbers
    assert clean_name("1999") == ""
    assert clean_name("ambient2") == "ambient 2" and clean_name("v1.2") == "v1.2"
    assert clean_folder("naev-data") == "naev" and clean_folder("music") == clean_folder("CD1") == ""
    assert clean_folder("Disc 2") == "" and clean_folder("Jazz Music") == "Jazz"
    assert clean_comment("CC-BY-SA v3.00") == clean_comment("Ripped by me") == clean_comment("nice one") == ()
    assert clean_comment("BonkEnc v1.0.14 <http://www.bonkenc.org/>") == ()
    assert clean_comment("Made for the game\r\nhttp://wl.example.org") == ("Made for the game",)
    assert clean_comment("Composer: Ann of the Lee") == clean_comment("Artwork by: a friend\nsee www.x.de") == ()
    assert clean_comment(" 00000A2B 00000C3D 000061D7 0000") == ()
    assert clean_comment("Pence, licence and fence") == () != clean_comment("In frequency and essence")


def test_check_finds_what_headers_hide(tmp_path):
    for n in range(3):
        song(tmp_path / "m" / f"good {n}.flac", seconds=10 + n)
    song(tmp_path / "m" / "cut.flac", seconds=15)
    data = (tmp_path / "m" / "cut.flac").read_bytes()
    (tmp_path / "m" / "cut.flac").write_bytes(data[: len(data) // 2])
    assert len(imported(tmp_path / "m", tmp_path / "out")[0]) == 4
    rows, report = imported(tmp_path / "m", tmp_path / "out", check=True, overwrite=True)
    assert len(rows) == 3 and "cut.flac" in report


def write(path, samples, **tags):
    path.parent.mkdir(parents=True, exist_ok=True)
    with soundfile.SoundFile(path, "w", samplerate=8000, channels=1) as file:
        for key, value in tags.items():
            setattr(file, key, value)
        file.write(samples)
    return path


def test_different_pieces_of_one_title_and_length_are_kept(tmp_path):
    """Songs x stems, all of 30 s: every stem is silent at first, and in the middle, some for long. Six artists' Intro."""
    rng = np.random.default_rng(0)
    for song_number, stem in itertools.product(range(3), ("mixture", "drums", "bass")):
        samples = 0.1 * rng.standard_normal(30 * 8000)
        samples[:5 * 8000] = 0
        samples[10 * 8000:(29 if stem == "bass" else 20) * 8000] = 0
        write(tmp_path / "m" / f"song {song_number}" / f"{stem}.wav", samples)
    for artist in range(6):
        intro = 0.1 * rng.standard_normal(30 * 8000)
        write(tmp_path / "m" / f"{artist}.flac", intro, title="Intro", artist=f"Artist {'ABCDEF'[artist]}")
    rows, report = imported(tmp_path / "m", tmp_path / "out")
    assert len(rows) == 15 and "0 twice" in report


def test_copies_are_found_and_named_whatever_their_name_tags_and_folder(tmp_path):
    rng = np.random.default_rng(0)
    one, two, silent = (scale * rng.standard_normal(12 * 8000) for scale in (0.1, 0.1, 0))
    write(tmp_path / "m" / "a" / "one.ogg", one, title="One", artist="Ann", album="First")
    write(tmp_path / "m" / "b" / "track07.ogg", one, title="Another title", comment="A much longer tag than the other's " * 9)
    write(tmp_path / "m" / "c" / "two.flac", two, title="Two", album="Second")
    samples, _ = soundfile.read(tmp_path / "m" / "c" / "two.flac", dtype="int16")
    write(tmp_path / "m" / "c" / "two.wav", samples)      # the same samples in another container
    write(tmp_path / "m" / "d" / "silence.wav", silent)
    shutil.copy(tmp_path / "m" / "d" / "silence.wav", tmp_path / "m" / "e.wav")
    late = one.copy()
    late[-1] += 0.1      # one sample differs
    write(tmp_path / "m" / "late.flac", late)
    write(tmp_path / "m" / "f" / "not late.flac", one)
    rows, report = imported(tmp_path / "m", tmp_path / "out")
    assert set(rows) == {"a/one.ogg", "c/two.flac", "d/silence.wav", "late.flac", "f/not late.flac"}
    copies = {"b/track07.ogg": "a/one.ogg", "c/two.wav": "c/two.flac", "e.wav": "d/silence.wav"}
    assert "0 too short, 3 twice; listed in" in report
    for copy, first in copies.items():
        assert f"twice: {copy} has the same audio as {first}\n" in report
    listed = [line.split("\t") for line in (tmp_path / "out" / "left_out.txt").read_text().splitlines()]
    assert listed == [["twice", copy, f"{copy} has the same audio as {first}"] for copy, first in copies.items()]


def test_only_files_of_equal_length_are_decoded_and_mostly_a_second_of_them(tmp_path, monkeypatch):
    rng, decoded = np.random.default_rng(0), Counter()
    for n in range(4):
        write(tmp_path / "m" / f"alone {n}.wav", 0.1 * rng.standard_normal((20 + n) * 8000))
        write(tmp_path / "m" / f"clip {n}.wav", 0.1 * rng.standard_normal(15 * 8000))
    shutil.copy(tmp_path / "m" / "clip 0.wav", tmp_path / "m" / "copy 0.wav")

    def counted(path, start, seconds):
        decoded[path.name.split()[0]] += seconds
        return read_window(path, start, seconds)

    read_window = music_folder.read_window
    monkeypatch.setattr(music_folder, "read_window", counted)
    assert len(imported(tmp_path / "m", tmp_path / "out")[0]) == 8
    assert decoded == {"clip": 4 * 1 + 60, "copy": 1 + 60}


def test_files_are_replaced_whole(music, tmp_path, monkeypatch):
    imported(music, tmp_path / "out")
    files = [tmp_path / "out" / "manifest.jsonl", tmp_path / "out" / "playlists.jsonl"]
    before = [file.read_bytes() for file in files]
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        import_folder(music, tmp_path / "out", min_seconds=18, overwrite=True)
    assert [file.read_bytes() for file in files] == before


@pytest.mark.skipif(os.name != "posix", reason="names of bytes exist on POSIX only")
def test_a_name_that_is_not_utf_8_survives(tmp_path):
    folder = tmp_path / "m"
    for n in range(3):
        song(folder / f"good {n}.ogg", seconds=10 + n)
    try:
        os.rename(os.fsencode(folder / "good 0.ogg"), os.fsencode(folder) + b"/caf\xe9 bar.ogg")
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    import_folder(folder, tmp_path / "out")
    assert all(os.path.isfile(r.audio) for r in read_manifest(tmp_path / "out"))
