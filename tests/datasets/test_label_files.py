"""Label files in the layouts of the datasets: small ones with the irregularities of the real ones, and real ones where present.

Expected results are worked out by hand, or computed from the same files by code that does not use the importer.
"""
import ast
import csv
import io
import json
import re
from argparse import Namespace
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from commands import run_command
from docs import ROOT

from mulan_min.data import read_manifest
from mulan_min.datasets import label_files
from mulan_min.datasets.label_files import split_by_hash
from mulan_min.datasets.tables import by_source, read_csv, read_list
from mulan_min.errors import UserError

DATA = ROOT.parent / "shared" / "data"


def real(name):
    if not (DATA / name).is_file():
        pytest.skip(f"{name} is not in ../shared/data")
    return DATA / name


def put(folder, files):
    """Writes {relative path: text or bytes} to files below the folder."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def audio_files(*names):
    return {name: b"never opened" for name in names}


def imported(source, *options, dataset):
    """Runs the command -> (rows by id, labels, lines of left_out.txt). `read_manifest` must be able to read the result."""
    out = Path(source).parent / "out"
    assert run_command(dataset, source, out, *options) == 0
    rows = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    assert [r.id for r in read_manifest(out)] == [row["id"] for row in rows]
    labels = json.loads((out / "labels.json").read_text()) if (out / "labels.json").exists() else None
    return {row["id"]: row for row in rows}, labels, (out / "left_out.txt").read_text().splitlines()


def refused(capsys, *argv):
    """The one-line error message of a command that must fail."""
    assert run_command(*argv) == 2
    error = capsys.readouterr().err.strip()
    assert "\n" not in error
    return error


# ---- MagnaTagATune ---------------------------------------------------------------------

CLIP_INFO = '''"clip_id"\t"track_number"\t"title"\t"artist"\t"album"\t"url"\t"mp3_path"
"2"\t"1"\t"BWV54 - I ""Aria"""\t"Some Soloists"\t"Solo Cantatas"\t"http://shop.example/x"\t"f/solo-aria-0-29.mp3"
"6"\t"2"\t"Two\tTabs"\t""\t"Solo Cantatas"\t""\t"f/solo-aria-29-58.mp3"
"35644"\t"8"\t"Gently"\t"A Singer"\t"Now, and Zen"\t""\t"6/gently-117-146.mp3"
'''
ANNOTATIONS = '''"clip_id"\t"no voice"\t"singer"\t"slow"\t"mp3_path"
"2"\t"1"\t"0"\t"1"\t"f/solo-aria-0-29.mp3"
"6"\t"0"\t"0"\t"1"\t"f/solo-aria-29-58.mp3"
"11"\t"0"\t"0"\t"0"\t"c/nothing-0-29.mp3"
"12"\t"0"\t"1"\t"0"\t"b/far-0-29.mp3"
"35644"\t"0"\t"1"\t"0"\t"6/gently-117-146.mp3"
"12"\t"0"\t"1"\t"0"\t"b/far-0-29.mp3"
"13"\t"0"\t"1"\t"0"\t"0/nowhere-0-29.mp3"
'''


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_magnatagatune(tmp_path, capsys, end, mark):
    home = put(tmp_path / "mtat", {
        "annotations_final.csv": mark + ANNOTATIONS.replace("\n", end),
        "clip_info_final.csv": mark + CLIP_INFO.replace("\n", end),
        "6/gently-117-146.mp3": b"",      # three of the published mp3s have no bytes
        **audio_files("f/solo-aria-0-29.mp3", "mp3/f/solo-aria-29-58.wav", "b/far-0-29.mp3", "c/nothing-0-29.mp3")})
    rows, labels, left_out = imported(home, dataset="mtat")
    assert {name: row["split"] for name, row in rows.items()} == {"2": "test", "6": "test", "11": "valid", "12": "train"}
    assert rows["2"]["text"] == {"sf": ['BWV54 - I "Aria"', "Some Soloists", "Solo Cantatas"]}
    assert rows["6"]["text"] == {"sf": ["Two Tabs", "Solo Cantatas"]} and rows["11"]["text"] == {}
    assert [rows[name]["tags"] for name in ("2", "6", "11", "12")] == [["no voice", "slow"], ["slow"], [], ["singer"]]
    assert labels == {"top50": ["singer", "slow", "no voice"], "all3": ["singer", "slow", "no voice"]}
    assert [line.split("\t")[:2] for line in left_out] == [["missing", "13"], ["empty", "35644"], ["twice", "12"]]
    report = capsys.readouterr().out
    assert "1 missing, 1 empty, 0 unreadable, 1 twice" in report
    assert re.search(r"^SF +2 +5 +2\.50 +2\.40$", report, re.M)      # 2 recordings, 5 annotations of 12 words

    (home / "annotations_final.csv").write_text(ANNOTATIONS.replace("b/far", "music/far"))
    error = refused(capsys, "mtat", home, tmp_path / "out2")
    assert "line 5: mp3_path 'music/far-0-29.mp3'" in error
    (home / "annotations_final.csv").write_text(ANNOTATIONS)
    rows, _, _ = imported(home, "--tagged", "--tags-as-aset", "--overwrite", dataset="mtat")
    assert list(rows) == ["2", "6", "12"] and rows["2"]["text"]["aset"] == rows["2"]["tags"] == ["no voice", "slow"]


def test_real_magnatagatune(tmp_path):
    """The tags of 400 test clips, and the split of every clip. Without the empty files the usual split has 18,706, 1,825 and
    5,329 clips."""
    index = [line.split("\t") for line in real("mtt_index.tsv").read_text().splitlines()]
    tags = real("mtat_top50_tags.txt").read_text().split()
    truth = {name: ast.literal_eval(values) for name, values in
             (line.split("\t") for line in real("mtt_test_gt_head.tsv").read_text().splitlines())}
    zeros = [0] * len(tags)
    lines = ["\t".join(f'"{cell}"' for cell in ("clip_id", *tags, "mp3_path"))]
    lines += ["\t".join(f'"{cell}"' for cell in (name, *map(int, truth.get(name, zeros)), path)) for name, path in index]
    home = put(tmp_path, {"annotations_final.csv": "\n".join(lines), "clip_info_final.csv": CLIP_INFO})
    texts = [str(home / "annotations_final.csv"), str(home / "clip_info_final.csv")]
    rows, labels, _ = label_files.mtat(Namespace(source=home, tagged=False), texts, [])
    assert {row["id"]: row["audio"][0] for row in rows} == dict(index)
    assert Counter(row["split"] for row in rows) == {"train": 18709, "valid": 1825, "test": 5329}
    empty = {"35644", "55753", "57881"}
    assert sum(row["split"] == "train" for row in rows if row["id"] not in empty) == 18706
    assert {row["id"]: row["tags"] for row in rows if row["id"] in truth} == {
        name: [tag for tag, value in zip(tags, values) if value == 1.0] for name, values in truth.items()}
    assert all(row["split"] == "test" for row in rows if row["id"] in truth)
    sums = np.array(list(truth.values())).sum(0)
    assert labels["top50"] == [tags[i] for i in np.argsort(-sums, kind="stable")]


# ---- AudioSet --------------------------------------------------------------------------

ONTOLOGY = [{"id": f"/m/{name}", "name": name, "child_ids": [f"/m/{child}" for child in children.split("|") if child]}
            for name, children in {
                "Speech": "", "Music": "Music genre|Musical instrument|Music role|Music mood", "Music genre": "Rock|Jazz, slow",
                "Rock": "Grunge", "Grunge": "", "Jazz, slow": "", "Musical instrument": "Drum", "Drum": "Cowbell", "Cowbell": "",
                "Music role": "Cowbell|Lullaby", "Lullaby": "", "Music mood": "Sad", "Sad": ""}.items()]
CLASSES = ["Speech", "Music", "Musical instrument", "Rock", "Grunge", "Jazz, slow", "Drum", "Cowbell", "Lullaby", "Sad"]
LABELLED = "index,mid,display_name\n" + "".join(f'{i},/m/{name},"{name}"\n' for i, name in enumerate(CLASSES)).replace(
    "/m/Jazz, slow", '"/m/Jazz, slow"')
COMMENTS = """# Segments csv created Sun Mar  5 10:54:31 2017
# num_ytids=3, num_segs=3, num_unique_labels=3, num_positive_labels=4
# YTID, start_seconds, end_seconds, positive_labels
"""


def audioset_home(folder, **files):
    return put(folder / "as", {"ontology.json": json.dumps(ONTOLOGY), "class_labels_indices.csv": LABELLED, **files})


def test_audioset(tmp_path, capsys):
    home = audioset_home(tmp_path, **{
        "balanced_train_segments.csv": COMMENTS + '--aE2O5G5WE, 30.000, 40.000, "/m/Rock,/m/Speech"\n'
                                                  '_b_CDEFGHIJ, 0.000, 10.000, "/m/Speech"\n'
                                                  'cCDEFGHIJKL, 5.500, 15.500, "/m/Drum"\n',
        "unbalanced_train_segments.csv": COMMENTS + '--aE2O5G5WE, 30.000, 40.000, "/m/Rock,/m/Speech"\r\n'
                                                    'goneGHIJKLM, 30.000, 40.000, /m/Grunge,/m/Rock\r\n',      # quotes lost
        "eval_segments.csv": COMMENTS + 'eCDEFGHIJKL, 0.000, 8.000, /m/Grunge,/m/Rock\n',
        **audio_files("audio/train/--aE2O5G5WE.flac", "audio/train/_b_CDEFGHIJ.flac", "audio/cCDEFGHIJKL_5.500.wav",
                      "audio/eval/YeCDEFGHIJKL_0_8.m4a", "audio/ECDEFGHIJKL.wav", "audio/goneGHIJKLM_60.wav")})
    rows, labels, left_out = imported(home, dataset="audioset")
    assert {name: (row["split"], Path(row["audio"]).name) for name, row in rows.items()} == {
        "--aE2O5G5WE_30": ("train", "--aE2O5G5WE.flac"), "cCDEFGHIJKL_5.5": ("train", "cCDEFGHIJKL_5.500.wav"),
        "eCDEFGHIJKL_0": ("test", "YeCDEFGHIJKL_0_8.m4a")}
    assert rows["--aE2O5G5WE_30"]["text"] == {"aset": ["Rock", "Speech"]}
    assert rows["eCDEFGHIJKL_0"]["tags"] == ["Grunge", "Rock"]
    assert not {"start", "duration"} & rows["--aE2O5G5WE_30"].keys()
    assert [line.split("\t")[:2] for line in left_out] == [["missing", "goneGHIJKLM_30"], ["twice", "--aE2O5G5WE_30"]]
    by_hand = {"Gen-25": ["Rock", "Jazz, slow"],
               "Mu-141": ["Rock", "Grunge", "Jazz, slow", "Musical instrument", "Drum", "Cowbell", "Lullaby"]}
    assert labels == by_hand      # not Sad, not Music

    rows, _, _ = imported(home, "--all-sounds", "--whole-videos", "--overwrite", dataset="audioset")
    assert rows["_b_CDEFGHIJ_0"]["tags"] == ["Speech"]
    assert (rows["--aE2O5G5WE_30"]["start"], rows["--aE2O5G5WE_30"]["duration"]) == (30.0, 10.0)
    assert "start" not in rows["cCDEFGHIJKL_5.5"]      # by its name it is the clip, not the video

    capsys.readouterr()
    assert run_command("audioset", home, tmp_path / "only", "--labels-only") == 0
    assert json.loads((tmp_path / "only" / "labels.json").read_text()) == by_hand
    assert [p.name for p in (tmp_path / "only").iterdir()] == ["labels.json"]


@pytest.mark.parametrize("line, message", [
    ("abc, 30.000, forty, /m/Rock", "end 'forty'"), ("abc, 30.000, 20.000, /m/Rock", "not after"),
    ("abc, nan, 20, /m/Rock", "start 'nan'"), ("abc, 30.000", "2 cells"), ("abc, 30.000, 40.000, /m/Polka", "/m/Polka"),
])
def test_audioset_names_the_bad_line(tmp_path, capsys, line, message):
    home = audioset_home(tmp_path, **{"eval_segments.csv": f"# comment\n{line}\n", "abc.wav": b"x"})
    error = refused(capsys, "audioset", home, tmp_path / "out")
    assert "eval_segments.csv, line 2" in error and message in error and not (tmp_path / "out").exists()


def test_real_audioset_sets(tmp_path):
    """Gen-25 and Mu-141 on the real ontology, derived in another way, for class labels written with and without quotes."""
    ontology, classes = real("audioset_ontology.json"), real("audioset_class_labels_indices.csv").read_text().splitlines()
    entries = {entry["name"]: entry for entry in json.loads(ontology.read_text())}
    by_id = {entry["id"]: entry for entry in entries.values()}
    labelled = {line.split(",")[1] for line in classes[1:]}
    parents = {}
    for entry in entries.values():
        for child in entry["child_ids"]:
            parents.setdefault(child, []).append(entry["id"])

    def above(key):      # from the class upwards; the importer walks downwards
        return {by_id[key]["name"]}.union(*(above(parent) for parent in parents.get(key, ())))

    music = {key for key in labelled if "Music" in above(key) and by_id[key]["name"] not in ("Music", "Song")}
    expected = {by_id[key]["name"] for key in music if "Music mood" not in above(key)}
    cells = [line.split(",", 2) for line in classes[1:]]
    quoted = [classes[0]] + [f'{number},{key},"{name.replace("_", " ")}"' for number, key, name in cells]
    for name, lines in (("as here", classes), ("as shipped", quoted)):
        home = put(tmp_path / name, {"ontology.json": ontology.read_bytes(), "class_labels_indices.csv": "\n".join(lines)})
        assert run_command("audioset", home, home / "out", "--labels-only") == 0
        labels = json.loads((home / "out" / "labels.json").read_text())
        assert len(labels["Gen-25"]) == 25 and len(labels["Mu-141"]) == 141
        assert set(labels["Mu-141"]) == expected
        assert {entries[name]["id"] for name in labels["Gen-25"]} == set(entries["Music genre"]["child_ids"])


# ---- MusicCaps -------------------------------------------------------------------------

MUSICCAPS = '''ytid,start_s,end_s,audioset_positive_labels,aspect_list,caption,author_id,is_balanced_subset,is_audioset_eval
-0Gj8-vB1q4,30,40,"/m/0140xf,/m/02cjck","['low quality', ""singer's voice"", 'low quality', 'no ""drums""']","A voice, slow.
It says ""hello"".",4,False,True
-0SdAVK79lg,30,40,/m/0155w,"['guitar song']","Guitars play.",0,False,False
_gone,30,40,/m/0155w,[],"Gone.",0,False,False
noaspects01,0,10,/m/0155w,[],,0,True,True
'''


def test_musiccaps(tmp_path, capsys):
    home = put(tmp_path / "mc", {"musiccaps-public.csv": MUSICCAPS.replace("\n", "\r\n"), **audio_files(
        "wav/[-0Gj8-vB1q4]-[30-40].wav", "wav/-0SdAVK79lg.wav", "wav/noaspects01_0_10.wav")})
    rows, labels, left_out = imported(home, dataset="musiccaps")
    assert rows["-0Gj8-vB1q4_30"]["text"] == {"sf": ["low quality", "singer's voice", 'no "drums"'],
                                              "lf": ['A voice, slow. It says "hello".']}
    assert {row["split"] for name, row in rows.items() if name != "-0SdAVK79lg_30"} == {"test"}
    assert rows["-0SdAVK79lg_30"]["split"] in ("train", "valid") and rows["noaspects01_0"]["text"] == {}
    assert labels is None and left_out == ["missing\t_gone_30\t_gone_30"]
    playlists = [json.loads(line) for line in (tmp_path / "out" / "playlists.jsonl").read_text().splitlines()]
    assert playlists == [{"set": "caption", "title": 'A voice, slow. It says "hello".', "tracks": ["-0Gj8-vB1q4_30"]}]

    (home / "musiccaps-public.csv").write_text(MUSICCAPS.replace("['guitar song']", "__import__('os').abort()"))
    error = refused(capsys, "musiccaps", home, tmp_path / "out2")
    assert "line 4: aspect_list" in error
    (home / "musiccaps-public.csv").write_text(MUSICCAPS.replace("caption", "words", 1))
    assert "no column 'caption'" in refused(capsys, "musiccaps", home, tmp_path / "out2")


def test_a_split_by_hash_has_its_share():
    keys = [f"{i:x}video" for i in range(20000)]
    for share in (0.02, 0.1):
        assert sum(split_by_hash(key, share) == "valid" for key in keys) / len(keys) == pytest.approx(share, rel=0.1)
    splits = [split_by_hash(key, 0.1, 0.2) for key in keys]
    assert splits.count("test") / len(keys) == pytest.approx(0.2, rel=0.1)
    assert splits.count("valid") / len(keys) == pytest.approx(0.1, rel=0.1)
    assert [key for key in keys[:60] if split_by_hash(key, 0.1) == "valid"] == ["0video", "7video", "19video", "27video"]


# ---- MTG-Jamendo -----------------------------------------------------------------------

HEADER = "TRACK_ID\tARTIST_ID\tALBUM_ID\tPATH\tDURATION\tTAGS\n"
JAMENDO = {
    "data/splits/split-0/autotagging_top50tags-train.tsv": HEADER +
    'track_0000214\tartist_000014\talbum_000031\t14/214.mp3\t124.6\tgenre---punkrock\tinstrument---guitar\tmood/theme---"sad"\n'
    'track_0000300\tartist_000014\talbum_000031\t00/300.mp3\t99.0\tgenre---rock\t"loud\tinstrument---guitar\n',
    "data/splits/split-0/autotagging_top50tags-validation.tsv": HEADER + "track_0000248\ta\tb\t48/248.mp3\t9.0\tgenre---rock\n",
    "data/splits/split-0/autotagging_top50tags-test.tsv": HEADER + "track_0001\ta\tb\t01/1.mp3\t9.0\tinstrument---guitar\n",
    "data/splits/split-1/autotagging_top50tags-train.tsv": HEADER + "track_0001\ta\tb\t01/1.mp3\t9.0\tinstrument---guitar\n",
    "data/splits/split-0/autotagging-train.tsv": HEADER + "track_0001\ta\tb\t01/1.mp3\t9.0\tgenre---x\n",
}
META = ("TRACK_ID\tARTIST_ID\tALBUM_ID\tTRACK_NAME\tARTIST_NAME\tALBUM_NAME\tRELEASEDATE\tURL\n"
        'track_0000214\tartist_000014\talbum_000031\t7" Mix\t"Q" Band\t\t2004-12-17\thttp://www.jamendo.com/track/214\n')


def test_jamendo(tmp_path, capsys):
    home = put(tmp_path / "mtg", {**JAMENDO, "data/raw.meta.tsv": META, **audio_files(
        "audio/14/214.mp3", "audio/00/300.low.mp3", "audio/48/248.mp3", "audio/1.mp3")})
    rows, labels, left_out = imported(home, dataset="jamendo")
    assert {name: row["split"] for name, row in rows.items()} == {
        "track_0000214": "train", "track_0000300": "train", "track_0000248": "valid", "track_0001": "test"}
    assert rows["track_0000214"]["tags"] == ["punkrock", "guitar", '"sad"'] and left_out == []
    assert rows["track_0000214"]["text"] == {"sf": ['7" Mix', '"Q" Band']} and rows["track_0000300"]["text"] == {}
    assert rows["track_0000300"]["tags"] == ["rock", '"loud', "guitar"]
    assert labels == {"top50tags": ["guitar", "rock", "punkrock", '"sad"', '"loud'], "genre": ["rock", "punkrock"],
                      "instrument": ["guitar"], "mood/theme": ['"sad"']}
    rows, labels, _ = imported(home, "--split", "1", "--overwrite", dataset="jamendo")
    assert {name: row["split"] for name, row in rows.items()} == {"track_0001": "train"}
    assert "no autotagging_top50tags file for valid" in capsys.readouterr().out
    rows, labels, _ = imported(home, "--subset", "all", "--overwrite", dataset="jamendo")
    assert labels == {"all": ["x"], "genre": ["x"]}
    assert "autotagging_genre-*.tsv" in refused(capsys, "jamendo", home, tmp_path / "out2", "--subset", "genre")


def test_real_jamendo(tmp_path):
    lines = real("jamendo_test_head.tsv").read_bytes().decode().split("\r\n")
    cells = [line.split("\t") for line in lines[1:] if line]
    put(tmp_path / "mtg", {"autotagging_top50tags-test.tsv": real("jamendo_test_head.tsv").read_bytes(),
                           **audio_files(*(row[3] for row in cells))})
    rows, labels, left_out = imported(tmp_path / "mtg", dataset="jamendo")
    assert len(rows) == len(cells) >= 299 and left_out == []
    assert {name: row["tags"] for name, row in rows.items()} == {
        row[0]: [tag.split("---")[1] for tag in row[5:]] for row in cells}
    assert all(row["audio"].endswith("/" + cell[3]) for row, cell in zip(rows.values(), cells))
    used = Counter(tag for row in cells for tag in row[5:])
    assert set(labels["instrument"]) == {tag.removeprefix("instrument---") for tag in used if tag.startswith("instrument")}
    assert len(labels["top50tags"]) == len(used) <= 50


# ---- FMA -------------------------------------------------------------------------------

FMA_COLUMNS = ("album,information album,title artist,bio artist,name set,split set,subset track,genre_top track,genres_all "
               "track,information track,tags track,title")


def fma_home(folder, *rows):
    groups, columns = zip(*(column.split(",") for column in FMA_COLUMNS.split()))
    lines = ["," + ",".join(groups), "," + ",".join(columns), "track_id" + "," * len(columns), *rows]
    return put(folder / "fma", {
        "fma_metadata/tracks.csv": "\n".join(lines) + "\n",
        "fma_metadata/raw_tracks.csv": "x", "fma_metadata/raw_genres.csv": "y",
        "fma_metadata/genres.csv": "genre_id,#tracks,parent,title,top_level\n1,8693,38,Avant-Garde,38\n"
                                   "38,38154,0,Experimental,38\n12,32923,0,Rock,12\n"})


def test_fma(tmp_path, capsys):
    home = fma_home(
        tmp_path,
        '2,"<p>Slow&amp;sad,\nwith ""loops""</p><p></p>","Way, a Life",<p>Born in 1975.</p>,AWOL,training,small,Rock,'
        '"[12, 1, 38]",' "<br/>Recorded\u00a0live,\"['lo-fi', \"\"drummer's\"\"]\",Food",
        "3,,Way,,AWOL,validation,medium,,[],,[],Untitled", "155320,,,,,test,large,,[12],,[],Last",
        "7,,,,,test,small,,[12],,[],Gone")
    put(home, audio_files("fma_large/000/000002.mp3", "fma_large/000/000003.mp3", "fma_large/155/155320.mp3"))
    rows, labels, left_out = imported(home, dataset="fma")
    assert {name: row["split"] for name, row in rows.items()} == {"000002": "train", "000003": "valid", "155320": "test"}
    assert rows["000002"]["text"] == {"sf": ["Food", "AWOL", "Way, a Life", "lo-fi", "drummer's"],
                                      "lf": ["Recorded live", 'Slow&sad, with "loops"']}
    assert rows["000003"]["text"] == {"sf": ["AWOL", "Way"]} and rows["000003"]["tags"] == []
    assert rows["000002"]["tags"] == ["Rock", "Avant-Garde", "Experimental"]
    assert labels == {"top": ["Experimental", "Rock"], "all": ["Avant-Garde", "Experimental", "Rock"]}
    assert left_out == ["missing\t000007\t000/000007"]
    for subset, there in (("small", ["000002"]), ("medium", ["000002", "000003"])):
        rows, _, _ = imported(home, "--subset", subset, "--overwrite", dataset="fma")
        assert list(rows) == there

    for bad, message in (("9,x", "line 4: 2 cells"), ("9,,,,,train1,large,,[12],,[],T", "split 'train1'"),
                         ("9,,,,,test,large,,{12},,[],T", "genres_all '{12}'")):
        home = put(fma_home(tmp_path, bad), audio_files("000/000009.mp3"))
        assert message in refused(capsys, "fma", home, tmp_path / "out2")
    put(home, {"fma_metadata/tracks.csv": "track_id,title\n2,Food\n"})
    assert "three header lines" in refused(capsys, "fma", home, tmp_path / "out2")


# ---- GTZAN -----------------------------------------------------------------------------


def test_gtzan(tmp_path, capsys):
    names = [f"{genre}/{genre}.000{n:02d}" for genre in ("hiphop", "jazz") for n in (1, 7, 18, 29, 54)]
    home = put(tmp_path / "gtzan", audio_files("Data/x.wav", *(f"Data/genres_original/{name}.wav" for name in names)))
    rows, labels, left_out = imported(home, dataset="gtzan")
    splits = {"01": "train", "07": "valid", "18": "test", "29": "test", "54": "train"}
    assert {name: row["split"] for name, row in rows.items()} == {
        n.split("/")[1]: splits[n[-2:]] for n in names if n != "jazz/jazz.00054"}
    assert rows["hiphop.00001"]["tags"] == ["hiphop"] and labels == {"genre": ["hiphop", "jazz"]}
    assert len(left_out) == 1 and left_out[0].startswith("unreadable\tjazz.00054\t")      # opened even without --check
    assert "too good" in capsys.readouterr().out

    put(home, {"train_filtered.txt": "hiphop/hiphop.00018.wav\r\njazz/jazz.00001.au\r\n",
               "valid_filtered.txt": "jazz/jazz.00007.wav",
               "test_filtered.txt": "jazz/jazz.00018.wav\n\njazz/jazz.00099.wav\n"})
    rows, labels, left_out = imported(home, "--overwrite", dataset="gtzan")
    assert {name: row["split"] for name, row in rows.items()} == {
        "hiphop.00018": "train", "jazz.00001": "train", "jazz.00007": "valid", "jazz.00018": "test"}
    assert left_out == ["missing\tjazz.00099\tjazz/jazz.00099"] and "too good" not in capsys.readouterr().out
    put(home, {"valid_filtered.txt": "  30\n  31\n"})
    assert "valid_filtered.txt, line 1: '  30'" in refused(capsys, "gtzan", home, tmp_path / "out2")
    (home / "valid_filtered.txt").unlink()
    assert "no valid_filtered.txt" in refused(capsys, "gtzan", home, tmp_path / "out2")


# ---- any csv file ----------------------------------------------------------------------


@pytest.mark.parametrize("suffix, mark", [(".tsv", "\t"), (".csv", ","), (".csv", ";")])
def test_csv(tmp_path, capsys, suffix, mark):
    rows = [["file", "name", "who", "what", "about", "list", "fold", "from"],
            ["a/01.wav", "One", "Ann", "rock|jazz", "Two\nlines", "['x', 'y']", "Training", "2.5"],
            ["b/01.wav", "", "Ann", "", "", "", "dev", ""], ["c\\02.wav", "Три", "ann", "rock", " ", "[]", "TEST", "0"],
            ["d/01.wav", "Not a's", "", "", "", "", "test"]]      # the last cell is missing
    lines = [mark.join(f'"{cell}"' if "\n" in cell or mark in cell else cell for cell in row) for row in rows]
    home = put(tmp_path / "x", {"table" + suffix: "\ufeff" + "\r\n".join(lines),
                                **audio_files("snd/a/01.wav", "snd/b/01.wav", "snd/c/02.wav")})
    options = "--audio file --id file --split fold --sf name --sf who --lf about --pl list --tags what --separator | --start from"
    out = tmp_path / "out"
    assert run_command("csv", home / ("table" + suffix), out, *options.split()) == 0
    found = {r.id: r for r in read_manifest(out)}
    assert list(found) == ["a/01.wav", "b/01.wav", "c\\02.wav"]
    one, two, three = found.values()
    assert one.text == {"sf": ["One", "Ann"], "lf": ["Two lines"], "pl": ["x", "y"]} and one.tags == ["rock", "jazz"]
    assert (one.start, one.split, two.split, three.split) == (2.5, "train", "valid", "test")
    assert two.text == {"sf": ["Ann"]} and two.tags == [] and three.text == {"sf": ["Три", "ann"]}
    assert three.audio.name == "02.wav" and two.audio.parent.name == "b"      # never 01.wav of the other folder
    assert (out / "left_out.txt").read_text() == "missing\td/01.wav\td/01.wav\n"
    assert json.loads((out / "labels.json").read_text()) == {"tags": ["rock", "jazz"]}


def test_csv_without_splits_and_with_faults(tmp_path, capsys):
    home = put(tmp_path / "x", {"t.csv": "f,t\n" + "".join(f"{n}.wav,Song {n}\n" for n in range(300)),
                                **audio_files(*(f"{n}.wav" for n in range(300)))})
    assert run_command("csv", home / "t.csv", home / "out", "--audio", "f", "--sf", "t") == 0
    counts = Counter(r.split for r in read_manifest(home / "out"))
    assert counts["train"] > 200 and 10 < counts["valid"] < 60 and 10 < counts["test"] < 60
    assert "no --split column" in capsys.readouterr().out
    for text, options, message in (
            ("f,t\na.wav,x\n", ["--sf", "title"], "no column 'title'; there are: f, t"),
            ("", [], "no column 'f'; there are: none"),
            ("f,t\na.wav,x\n", ["--split", "t"], "line 2: split 'x'"), ("f,t\na.wav,x\n", ["--start", "t"], "line 2: t 'x'"),
            ("f,t\na.wav,x,y\n", [], "line 2: 3 cells under 2 columns"),
            ("f,t\na.wav,[1]]\n", ["--tags", "t"], "line 2: t '[1]]'")):
        put(home, {"t.csv": text})
        assert message in refused(capsys, "csv", home / "t.csv", tmp_path / "o", "--audio", "f", *options)
        assert not (tmp_path / "o").exists()


# ---- lists -----------------------------------------------------------------------------

LISTS = [["rock", "pop"], ["one"], [], ["singer's voice", 'no "drums"', "both ' and \""], ["AC/DC", "a\\b", "x, y", "[z]"],
         ["Café 😀", "шансон", "歌"], ["line\nend", "tab\t"], [f"tag {n} of a long list" for n in range(60)]]


@pytest.mark.parametrize("items", LISTS)
def test_a_list_is_read_as_each_program_prints_it(items):
    """The oracles are the programs: Python, numpy (with commas and without, in one line and in many), JSON in both its forms."""
    array = np.array(items)
    printed = [str(items), str(tuple(items)), json.dumps(items), json.dumps(items, ensure_ascii=False).replace("/", "\\/"),
               np.array2string(array, separator=", ", threshold=99), np.array2string(array, threshold=99), str(list(array)),
               f" {items}\n", str(items)[:-1] + (",]" if items else "]")]
    printed += ["{" + str(items)[1:-1] + "}"] if items else ["", " ", "nan", "None", "NULL", "NaN"]
    for cell in printed:
        if cell != "()":
            assert read_list(cell, "here", "tags") == items, cell


def test_values_and_missing_values_of_a_list():
    assert read_list("['a', None, nan, 'None', \"nan\"]", "", "") == ["a", "None", "nan"]
    assert read_list('["a", null, NaN, "", true, 3]', "", "") == ["a", "", "true", "3"]
    assert read_list("[12, 1, 38]", "", "") == read_list("[12  1\n 38]", "", "") == ["12", "1", "38"]
    assert read_list("[1. 2.5 -3e-05]", "", "") == ["1.", "2.5", "-3e-05"]
    for cell in ("['a', ['b']]", "[['a'], ['b']]", "[('a', 'b')]", "[{'a': 'b'}]", "{'a': 'b'}", "['a',, 'b']",
                 "['a' ... 'z']", "['a'", "'a', 'b'", "['it's']", "['a'b]", "[rock, pop]", "['a'; 'b']", "[", "]",
                 "rock", "{12}", "(1975)", "array(['a'])",
                 "['a' + 'b']", "['" + "x" * 100_000, "[" * 100_000, "['x'" + " 'x'" * 30_000 + "?]", "['\\x']"):
        with pytest.raises(UserError, match="^t.csv, line 7: tags .{3,50} is not a list like") as error:
            read_list(cell, "t.csv, line 7", "tags")
        assert "\n" not in str(error.value)


def test_text_in_brackets_is_a_text_and_a_bad_list_is_an_error(tmp_path, capsys):
    titles = ["[Untitled]", "[Official Video] Song [HD]", "[2019] Mix [[x]", "(Sittin' On) The Dock", "{x}", "['Til Dawn] Live",
              "[a, b]", "[rock; pop]", "Live [", "[1]]"]
    lists = {"['rock' 'pop']": ["rock", "pop"], '["rock", "pop"]': ["rock", "pop"], "nan": [], "['Untitled']": ["Untitled"],
             "[]": []}
    cells = [*titles, *lists]
    table = io.StringIO()
    csv.writer(table).writerows([("f", "t"), *((f"{n}.wav", cell) for n, cell in enumerate(cells))])
    home = put(tmp_path / "x", {"t.csv": table.getvalue(), **audio_files(*(f"{n}.wav" for n in range(len(cells))))})
    rows, _, _ = imported(home / "t.csv", "--audio", "f", "--sf", "t", dataset="csv")
    assert [row["text"].get("sf", []) for row in rows.values()] == [[title] for title in titles] + list(lists.values())
    for bad, options in (("['rock', 'pop'", ["--tags"]), ("[rock, pop]", ["--aset", "--tags"]), ("{'rock': 1}", ["--tags"]),
                         ("['rock'; 'pop']", ["--sf", "--pl", "--tags"]), ("[['rock'], ['pop']]", ["--sf", "--tags"]),
                         ("[{'name': 'rock'}]", ["--lf", "--aset"]), ("['rock' ... 'pop']", ["--sf"])):
        put(home, {"t.csv": f'f,t\n0.wav,ok\n1.wav,"{bad}"\n'})
        for option in options:
            error = refused(capsys, "csv", home / "t.csv", tmp_path / "o", "--audio", "f", option, "t", "--separator", ";")
            assert f"t.csv, line 3: t '{bad}' is not a list like" in error
    put(home, {"t.csv": "f,t\n0.wav,a; [b]\n"})
    rows, _, _ = imported(home / "t.csv", "--audio", "f", "--tags", "t", "--separator", ";", "--overwrite", dataset="csv")
    assert rows["0.wav"]["tags"] == ["a", "[b]"]


# ---- quotes ----------------------------------------------------------------------------

WORDS = ["Heroes", "a, b", 'say "hi"', "two\nlines", "so, many\ncommas, here\n\nand, there", "", "12\" mix", "see song.mp3",
         "x\r\ny", "Ж"]


@pytest.mark.parametrize("delimiter", [",", "\t", ";"])
def test_only_an_unclosed_quote_is_refused(tmp_path, delimiter):
    """Random tables as Python's csv writes them are read as Python's csv reads them. If a closing quote is then deleted, the
    error names the line of its opening quote, which is counted here in the text."""
    rng, path, found = np.random.default_rng(0), tmp_path / "t.csv", 0
    for trial in range(150):
        rows = [[f"{n}.wav", *(WORDS[i] for i in rng.integers(len(WORDS), size=3))] for n in range(6)]
        text = io.StringIO()
        csv.writer(text, delimiter=delimiter, lineterminator=("\n", "\r\n")[trial % 2]).writerows([["f", "a", "b", "c"], *rows])
        text = text.getvalue()
        path.write_bytes(text.encode())
        assert [cells for _, cells in read_csv(path, delimiter)] == [["f", "a", "b", "c"], *rows]
        cells = list(re.finditer(rf'(?<=[{delimiter}])"((?:[^"]|"")*)"(?=[{delimiter}\r\n])', text))
        # another quote in the cell or in its line may close it there, so it swallows no row
        cells = [cell for cell in cells if '""' not in cell[1] and '"' not in text[cell.end():].splitlines()[0]]
        if cells:
            cell = cells[rng.integers(len(cells))]
            path.write_bytes((text[:cell.end() - 1] + text[cell.end():]).encode())
            line = text[:cell.start()].count("\n") + 1
            with pytest.raises(UserError, match=f"t.csv, line {line}: a quote opens here") as error:
                list(read_csv(path, delimiter))
            assert "\n" not in str(error.value)
            found += 1
    assert found > 100


@pytest.mark.parametrize("rest", ["b.wav,Foo,2\nc.wav,Bar,3\n", 'b.wav,"Foo,2\nc.wav,Bar,3\n', 'b.wav,Remix 12",2\nc.wav,Bar,3\n',
                                  "", 'b.wav,"",2\n', 'b.wav,"""Foo"" live",2\n', 'b.wav,"Foo, bar",2\n', "b.wav,Foo,2"])
def test_an_unclosed_quote_ends_the_import(tmp_path, capsys, rest):
    text = 'f,t,n\nz.wav,"Two\nlines, of text",0\na.wav,"Heroes,1\n' + rest
    home = put(tmp_path / "x", {"t.csv": text, **audio_files(*(f"{name}.wav" for name in "abcz"))})
    error = refused(capsys, "csv", home / "t.csv", tmp_path / "out", "--audio", "f", "--sf", "t")
    assert "t.csv, line 4: a quote opens here" in error and not (tmp_path / "out").exists()


def test_quotes_in_the_datasets_files(tmp_path, capsys):
    """Each table with quotes: the quote that closes a text is missing. A text of many lines is no error."""
    home = put(tmp_path / "mtat", {"annotations_final.csv": ANNOTATIONS,
                                   "clip_info_final.csv": CLIP_INFO.replace('Cantatas"', "Cantatas", 1)})
    assert "clip_info_final.csv, line 2: a quote opens here" in refused(capsys, "mtat", home, tmp_path / "out")
    home = put(tmp_path / "mc", {"musiccaps-public.csv": MUSICCAPS.replace('play."', "play.")})
    assert "musiccaps-public.csv, line 4: a quote opens here" in refused(capsys, "musiccaps", home, tmp_path / "out")
    home = audioset_home(tmp_path, **{"eval_segments.csv": 'abc, 0.000, 8.000, "/m/Rock\ndef, 0.000, 8.000, "/m/Rock"\n'})
    assert "eval_segments.csv, line 1: a quote opens here" in refused(capsys, "audioset", home, tmp_path / "out")
    biography = '"<p>Born in 1975,\n\nlives, plays, sings,\nhere.mp3, there</p>"'
    for text, line in ((biography, None), (biography[:-1], 4)):
        home = fma_home(tmp_path, f'2,{text},"Way, a Life",,AWOL,training,small,Rock,[12],,[],Food',
                        "3,,Way,,AWOL,test,medium,,[],,[],Untitled")
        put(home, audio_files("000/000002.mp3", "000/000003.mp3"))
        if line:
            assert f"tracks.csv, line {line}: a quote opens here" in refused(capsys, "fma", home, tmp_path / "out2")
        else:
            rows, _, _ = imported(home, dataset="fma")
            assert rows["000002"]["text"]["lf"] == ["Born in 1975, lives, plays, sings, here.mp3, there"]


def test_messages_name_missing_files(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    for dataset, name in (("mtat", "clip_info_final.csv"), ("audioset", "*ontology*.json"), ("musiccaps", "*musiccaps*.csv"),
                          ("jamendo", "autotagging_top50tags-*.tsv"), ("fma", "genres.csv"), ("gtzan", "no recording")):
        assert name in refused(capsys, dataset, tmp_path / "empty", tmp_path / "out")
    home = put(tmp_path / "two", {"a/genres.csv": "", "b/genres.csv": ""})
    assert "has 2 files genres.csv" in refused(capsys, "fma", home, tmp_path / "out")
    for ontology in ("{", '{"a": 1}', '[{"id": 1}]', "[" * 100000):
        home = put(tmp_path / "as", {"ontology.json": ontology, "class_labels_indices.csv": LABELLED})
        assert "not AudioSet's ontology" in refused(capsys, "audioset", home, tmp_path / "out")
    with pytest.raises(UserError, match="no class named Music, "):
        label_files.ontology_sets({"1": {"name": "Speech", "child_ids": []}}, {"1"})


@pytest.mark.parametrize("encoding, line", [("utf-16", 1), ("cp1252", 3), ("utf-8", None), ("utf-8-sig", None)])
def test_a_csv_in_the_code_page_of_a_spreadsheet_program_is_refused_with_the_line(tmp_path, capsys, encoding, line):
    (tmp_path / "t.csv").write_bytes("f;t\na.wav;Waltz\nb.wav;Café\n".encode(encoding))
    (tmp_path / "a.wav").write_bytes(b"sound")
    (tmp_path / "b.wav").write_bytes(b"sound")
    code, printed = run_command("csv", tmp_path / "t.csv", tmp_path / "out", "--audio", "f", "--sf", "t"), capsys.readouterr()
    if line:
        assert code == 2 and not (tmp_path / "out").exists()
        assert printed.err == f"error: {tmp_path}/t.csv, line {line}: not UTF-8; save the table as 'CSV UTF-8'\n"
    else:
        texts = [json.loads(row)["text"]["sf"] for row in (tmp_path / "out" / "manifest.jsonl").read_text(encoding="utf-8").splitlines()]
        assert code == 0 and texts == [["Waltz"], ["Café"]]


def test_a_text_with_bytes_that_were_not_decoded_is_no_text():
    assert by_source(sf=["Caf\ufffd", "Waltz"], lf=["\ufffd"]) == {"sf": ["Waltz"]}
