"""The command line: it finds, checks and counts the audio, and writes the manifest completely or not at all."""
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from unicodedata import normalize

import pytest
from commands import run_command
from docs import ROOT
from test_music_folder import music, song  # noqa: F401  (a fixture)

from mulan_min.data import read_manifest
from mulan_min.datasets.importing import advice, files_below, find_audio, index_by_name, split_table, text_table
from mulan_min.datasets.music_folder import import_folder
from mulan_min.errors import UserError


def table(folder, *names):
    """Writes a csv file with a row and a text for each of these audio files."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "t.csv").write_text("f,t,s\n" + "".join(f"{name},Song of {name},{split}\n" for name, split in
                                                      zip(names, ["train", "valid", "test"] * len(names))))
    return folder / "t.csv"


def run(source, out, *options, dataset="csv"):
    columns = ["--audio", "f", "--sf", "t", "--split", "s"] if dataset == "csv" else []
    return run_command(dataset, source, out, *columns, *options)


# ---- finding audio ---------------------------------------------------------------------


def test_audio_is_found_by_the_end_of_its_path(tmp_path):
    files = ["a/b/one.mp3", "a/one.wav", "c/one.mp3", "x.y/two.0.OGG", "three", "a.mp3/four.flac", "ba/five.wav"]
    index = index_by_name([path for path in files if path != "three"])

    def found(*names):
        path, name = find_audio(index, "/m", names)
        return path and os.path.relpath(path, "/m"), name

    assert found("b/one.mp3") == ("a/b/one.mp3", "b/one.mp3")
    assert found("a/one.mp3") == ("a/one.wav", "a/one.mp3")      # the same folder, another suffix
    assert found("one.wav")[0] == "a/one.wav" and found("one")[0] == "a/b/one.mp3"
    assert found("one.mp3")[0] == "a/b/one.mp3"      # two paths match: the first in order
    assert found("d/one.mp3", "./c//one.mp3") == ("c/one.mp3", "./c//one.mp3")
    for absent in ("ne.mp3", "d/one.mp3", "/a/one.mp3", "a/five.wav", "three", ""):
        assert found(absent) == (None, None)
    assert found("two.0.ogg")[0] == found("two.0")[0] == "x.y/two.0.OGG" and found("two") == (None, None)
    assert found("a.mp3/four.mp3")[0] == "a.mp3/four.flac"
    assert found("TWO.0.ogg") == (None, None)      # YouTube's ids are case-sensitive


@pytest.mark.skipif(os.name != "posix", reason="links need no privilege on POSIX only")
def test_linked_folders_are_entered_once_and_hidden_files_not_taken(tmp_path):
    home, far = tmp_path / "home", tmp_path / "far"
    for path in (home / "b" / "1.wav", home / ".git" / "2.wav", home / "b" / "._3.wav", far / "4.wav"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    (home / "a").symlink_to(far)
    (far / "loop").symlink_to(home)
    (home / "gone.wav").symlink_to(home / "nothing.wav")
    assert files_below(home, {".wav"}) == ["gone.wav", "a/4.wav", "b/1.wav"]
    assert run(table(home, "1.wav", "gone.wav"), tmp_path / "out") == 0
    assert (tmp_path / "out" / "left_out.txt").read_text().startswith("missing\tgone.wav")


@pytest.mark.skipif(os.name != "posix", reason="links need no privilege on POSIX only")
def test_one_walk_for_all_importers_leaves_trash_out_and_says_so(tmp_path, capsys):
    kept = ["...And Justice/...one.wav", "Trash/two.wav", "z/three.wav", "zz/shared/four.wav"]
    trash = [".Trash-1000/files/a.wav", "$RECYCLE.BIN/b.wav", "z/@eaDir/c.wav", "__MACOSX/d.wav", "System Volume Information/e.wav",
             "z/._f.wav"]
    home = tmp_path / "home"
    for n, name in enumerate([*kept, *trash]):
        song(home / name, seconds=10 + n, title=f"Song {'ABCDEFGHIJ'[n]}", album=f"Album {'ABCDEFGHIJ'[n]}")
    (home / "a").symlink_to(home / "zz")      # a link has another name than the folder, and a folder is searched once
    (home / "b").symlink_to(home / "zz" / "shared")
    song(tmp_path / "far" / "five.wav", seconds=30, title="Song Far", album="Far")
    (home / "link").symlink_to(tmp_path / "far")
    (home / "up").symlink_to(tmp_path)      # a link upwards could lead to the whole disk
    song(tmp_path / "above.wav", title="Above")
    kept.insert(2, "link/five.wav")
    left_out = []
    assert files_below(home, {".wav"}, left_out) == kept
    assert sorted(left_out) == sorted({name.split("/")[0] for name in trash[:2]} | {"z/@eaDir", "__MACOSX", trash[4].split("/")[0]}
                                      | {f"files with a dot in front in {home / 'z'}"})
    assert run_command("folder", home, tmp_path / "out") == 0
    assert {r.id for r in read_manifest(tmp_path / "out")} == set(kept)
    report = capsys.readouterr().out
    assert re.search(r"^not searched: \$RECYCLE\.BIN, \.Trash-1000, ", report, re.M)
    assert run(table(home, *(os.path.basename(name) for name in kept)), tmp_path / "out2") == 0
    assert {str(r.audio.relative_to(home)) for r in read_manifest(tmp_path / "out2")} == set(kept)
    assert "not searched: $RECYCLE.BIN, .Trash-1000, " in capsys.readouterr().out


def test_unicode_forms_of_a_name_are_the_same_name(tmp_path):
    for on_disk, in_text in (("NFD", "NFC"), ("NFC", "NFD")):
        home, name = tmp_path / on_disk, "Björk/Jóga é.wav"
        song(home / normalize(on_disk, name))
        (home / "t.csv").write_text(f"f,t,s\n{normalize(in_text, name)},Jo\u0301ga,train\n"
                                    f"{normalize(in_text, str(home / name))},Jóga,train\n")
        assert run(home / "t.csv", home / "out") == 0
        rows = read_manifest(home / "out")
        assert len(rows) == 2 and all(os.path.samefile(r.audio, home / normalize(on_disk, name)) for r in rows)
        assert [r.text for r in rows] == [{"sf": ["J\u00f3ga"]}] * 2
    forms = [normalize(form, "é.wav") for form in ("NFC", "NFD")]      # both on one disk: each name finds its own file
    assert [find_audio(index_by_name(forms), "", [form])[0] for form in forms] == forms


def test_paths_are_relative_below_the_manifest_and_absolute_elsewhere(tmp_path, capsys):
    song(tmp_path / "in" / "snd" / "1.flac")
    source = table(tmp_path / "in", "1.mp3", str(tmp_path / "in" / "snd" / "1.flac"))
    assert run(source, tmp_path / "in") == 0
    rows = [json.loads(line) for line in (tmp_path / "in" / "manifest.jsonl").read_text().splitlines()]
    assert [row["audio"] for row in rows] == ["snd/1.flac"] * 2
    (tmp_path / "in").rename(tmp_path / "moved")
    assert len(read_manifest(tmp_path / "moved")) == 1 + 1
    source = tmp_path / "moved" / "t.csv"
    assert run(source, tmp_path / "out", "--audio-dir", tmp_path / "moved" / "snd") == 0
    assert read_manifest(tmp_path / "out")[0].audio == tmp_path / "moved" / "snd" / "1.flac"
    capsys.readouterr()
    assert run(source, tmp_path / "no", "--audio-dir", tmp_path / "out") == 2
    assert "--audio-dir" in capsys.readouterr().err and not (tmp_path / "no").exists()


# ---- checking --------------------------------------------------------------------------


def test_check_decodes_every_recording(tmp_path, capsys):
    names = ["good.flac", "cut.flac", "text.mp3", "empty.wav", "late.ogg"]
    for name in names:
        song(tmp_path / "x" / name.replace("text.mp3", "text.ogg"), seconds=4)
    data = (tmp_path / "x" / "cut.flac").read_bytes()
    (tmp_path / "x" / "cut.flac").write_bytes(data[:len(data) // 2])
    (tmp_path / "x" / "text.ogg").write_text("not audio")
    (tmp_path / "x" / "empty.wav").write_bytes(b"")
    source = table(tmp_path / "x", *names)
    source.write_text("".join(line + (",b\n" if line[0] == "f" else ",9\n" if "late" in line else ",\n")
                              for line in source.read_text().splitlines()))
    options = ("--start", "b", "--overwrite")
    assert run(source, tmp_path / "out", *options) == 0
    assert [r.id for r in read_manifest(tmp_path / "out")] == ["good.flac", "cut.flac", "text.mp3", "late.ogg"]
    capsys.readouterr()
    assert run(source, tmp_path / "out", *options, "--check") == 0
    assert [r.id for r in read_manifest(tmp_path / "out")] == ["good.flac"]
    report = capsys.readouterr().out
    assert "0 missing, 1 empty, 3 unreadable" in report
    listed = (tmp_path / "out" / "left_out.txt").read_text().splitlines()
    assert [line.split("\t")[:2] for line in listed] == [["empty", "empty.wav"]] + [
        ["unreadable", name] for name in ("cut.flac", "text.mp3", "late.ogg")]
    assert "truncated" in listed[1] and "not audio" in listed[2] and "outside" in listed[3]
    assert all(line.split("\t")[2] in report for line in listed[1:])


def test_whole_videos_are_not_taken_for_clips(tmp_path, capsys):
    home = tmp_path / "mc"
    song(home / "abc.ogg", seconds=60)
    (home / "musiccaps.csv").write_text("ytid,start_s,end_s,aspect_list,caption,is_audioset_eval\nabc,30,40,['x'],Y.,True\n")
    assert run(home, tmp_path / "out", dataset="musiccaps") == 2
    error = capsys.readouterr().err
    assert "abc.ogg: 60 s" in error and "--whole-videos" in error and not (tmp_path / "out").exists()
    assert run(home, tmp_path / "out", "--whole-videos", "--check", dataset="musiccaps") == 0
    (recording,) = read_manifest(tmp_path / "out")
    assert (recording.start, recording.duration) == (30.0, 10.0)
    song(home / "abc.ogg", seconds=10)      # now it is the clip
    assert run(home, tmp_path / "out2", dataset="musiccaps") == 0
    (recording,) = read_manifest(tmp_path / "out2")
    assert (recording.start, recording.duration) == (0.0, None)


# ---- splits ----------------------------------------------------------------------------


@pytest.mark.skipif(os.name != "posix", reason="links need no privilege on POSIX only")
def test_all_rows_of_one_file_are_in_one_split(tmp_path, capsys):
    home = tmp_path / "x"
    for n in range(40):
        song(home / "d" / f"{n}.wav", seconds=1)
    (home / "other name.wav").symlink_to(home / "d" / "7.wav")
    names = [[f"d/{n}.wav", f"./d/{n}.wav", f"{n}", f"d/{n}.mp3", str(home / "d" / f"{n}.wav")] for n in range(40)]
    names[7].append("other name")
    rows = [(n, name) for n in range(40) for name in names[n]]
    (home / "t.csv").write_text("i,f,t\n" + "".join(f"row {k},{name},Text {k}\n" for k, (_, name) in enumerate(rows)))
    for source, out in ((home, "one"), (tmp_path / "elsewhere", "two")):      # the path below the csv file decides, on any machine
        if source != home:
            shutil.copytree(home / "d", source / "d")
            (source / "t.csv").write_text("f,t\n" + "".join(f"{n}.wav,Text {n}\n" for n in range(40)))
        options = ["--audio", "f", "--sf", "t", *(["--id", "i"] if source == home else [])]
        assert run_command("csv", source / "t.csv", tmp_path / out, *options) == 0
    sides = {}
    for recording in read_manifest(tmp_path / "one"):
        sides.setdefault(rows[int(recording.id.split()[1])][0], set()).add(recording.split)
    assert all(len(splits) == 1 for splits in sides.values()) and len(sides) == 40
    assert {split for splits in sides.values() for split in splits} == {"train", "valid", "test"}
    assert {int(r.audio.stem): {r.split} for r in read_manifest(tmp_path / "two")} == sides
    assert "more than one split" not in capsys.readouterr().out
    # a split of the user's own stays as it is, but the report names the file
    (home / "t.csv").write_text("f,t,s\nd/1.wav,A,train\n./d/1.wav,B,test\nd/2.wav,C,valid\n")
    assert run(home / "t.csv", tmp_path / "own") == 0
    assert [r.split for r in read_manifest(tmp_path / "own")] == ["train", "test", "valid"]
    assert f"1 audio files are in more than one split, such as {home / 'd' / '1.wav'}\n" in capsys.readouterr().out


@pytest.mark.parametrize("files", range(1, 31))
def test_two_of_few_files_are_valid(tmp_path, files):
    """By hand: two valid files, if two are left to train on; the shares of 300 files are tested in test_label_files.py."""
    home = tmp_path / "x"
    home.mkdir()
    for n in range(files):
        (home / f"{n}.wav").write_bytes(b"never opened")
    (home / "t.csv").write_text("f,t\n" + "".join(f"{n}.wav,Text {n}\n" for n in range(files)))
    assert run_command("csv", home / "t.csv", tmp_path / "out", "--audio", "f", "--sf", "t") == 0
    splits = [r.split for r in read_manifest(tmp_path / "out")]
    assert splits.count("test") <= max(2, files / 4)
    if files - splits.count("test") >= 4:
        assert splits.count("valid") >= 2 and splits.count("train") >= 2
    else:
        assert splits.count("train") >= min(2, files - splits.count("test"))


# ---- whether it can be trained on ------------------------------------------------------


def test_the_report_says_how_to_train(tmp_path, capsys, monkeypatch):
    """The printed command, with the smallest preset, trains. Five files in one folder without a name are SF text alone."""
    import train

    for n in range(5):
        song(tmp_path / "Music" / f"{n}.ogg", title=f"Song {'ABCDE'[n]} of the day")
    monkeypatch.chdir(tmp_path)
    assert run_command("folder", "Music", "data/my music") == 0
    command = shlex.split(capsys.readouterr().out.splitlines()[-1])
    assert command[2:] == ["--audio", "resnet50", "--data", "data/my music", "--ratio", "sf=2", "--run", "runs/my music"]
    train.main([*command[2:], "--preset", "smoke", "--steps", "2", "--workers", "0"])
    assert (tmp_path / "runs" / "my music" / "best.pt").exists()


def test_advice_by_hand(tmp_path):
    def lines(train, valid, *sources, tags=()):
        return [{"audio": f"{n}.wav", "split": "train" if n < train else "valid", "text": {s: ["x"] for s in sources}, "tags": tags}
                for n in range(train + valid)]

    assert " --ratio sf=2,lf=2,pl=1,aset=1 " in advice(lines(2, 2, "aset", "pl", "lf", "sf"), tmp_path)
    assert " --ratio lf=2,pl=1 " in advice(lines(2, 2, "pl", "lf"), tmp_path)
    assert "here are 2 and 1; add recordings" in advice(lines(2, 1, "sf"), tmp_path)
    assert "here are 0 and 0; give text" in advice([*lines(9, 0), *lines(0, 5, "sf")], tmp_path)
    assert "here are 0 and 0; give text" in advice(lines(9, 9, tags=["rock"]), tmp_path)
    assert "here are 2 and 0" in advice([*lines(2, 0, "sf"), *lines(0, 9, "lf")], tmp_path)      # valid has no source of train
    one_file = [line | {"audio": "0.wav"} for line in lines(9, 9, "sf")]
    assert "here are 1 and 1" in advice(one_file, tmp_path)
    assert "python train.py" in advice([line | {"start": float(n)} for n, line in enumerate(one_file)], tmp_path)      # its clips
    assert "here are 0 and 0" in advice([line | {"audio": f"{n}.M4A"} for n, line in enumerate(lines(9, 9, "sf"))], tmp_path)


@pytest.mark.skipif(not shutil.which("ffmpeg"), reason="ffmpeg makes and converts the files")
def test_files_that_libsndfile_cannot_read_have_a_remedy(tmp_path, capsys):
    home = tmp_path / "my music"
    home.mkdir()
    for n in range(4):
        subprocess.run(["ffmpeg", "-loglevel", "error", "-f", "lavfi", "-i", f"sine=f={300 + n}:d=11", home / f"song {n}.m4a"],
                       check=True)
    shutil.copy(home / "song 0.m4a", home / "song 4.WMA")      # the name decides
    assert run_command("folder", home, tmp_path / "out") == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "5 unreadable" in error and "libsndfile cannot read .m4a .wma; convert" in error
    home_csv = home / "t.csv"
    home_csv.write_text("f,t\n" + "".join(f"song {n}.m4a,Text {n}\n" for n in range(4)))
    options = ["--audio", "f", "--sf", "t", "--overwrite"]
    assert run_command("csv", home_csv, tmp_path / "out", *options) == 0
    report = capsys.readouterr().out
    assert "libsndfile cannot read .m4a; convert" in report and "training needs" in report
    subprocess.run(["sh", "-c", error.partition("import again: ")[2]], check=True, capture_output=True)
    assert run_command("csv", home_csv, tmp_path / "out", *options) == 0
    assert [r.audio.suffix for r in read_manifest(tmp_path / "out")] == [".flac"] * 4      # not the .m4a of the same name
    assert "cannot read" not in capsys.readouterr().out
    assert run_command("folder", home, tmp_path / "out", "--overwrite") == 0
    assert [r.text["sf"] for r in read_manifest(tmp_path / "out")] == [[f"song {n}"] for n in range(4)]
    assert "5 unreadable, 0 too short, 1 twice" in capsys.readouterr().out      # song 4 is a copy of song 0


# ---- writing ---------------------------------------------------------------------------


def test_files_are_replaced_only_with_overwrite_and_old_ones_removed(tmp_path, capsys):
    song(tmp_path / "x" / "1.wav")
    source, out = table(tmp_path / "x", "1.wav"), tmp_path / "out"
    assert run(source, out, "--tags", "t") == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert set(before) == {"manifest.jsonl", "labels.json", "left_out.txt"}
    capsys.readouterr()
    assert run(source, out) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    (out / "playlists.jsonl").write_text("of an earlier import")
    assert run(source, out, "--overwrite") == 0
    assert {path.name for path in out.iterdir()} == {"manifest.jsonl", "left_out.txt"}


def test_a_folder_is_replaced_only_with_overwrite_too(tmp_path, capsys):
    for n in range(5):
        song(tmp_path / "m" / f"{n}.ogg", seconds=10 + n, title=f"Song {'ABCDE'[n]}")
    out = tmp_path / "out"
    assert run_command("folder", tmp_path / "m", out) == 0
    (out / "manifest.jsonl").write_text((out / "manifest.jsonl").read_text() + "\n")      # edited by hand
    (out / "labels.json").write_text("{}")
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    capsys.readouterr()
    assert run_command("folder", tmp_path / "m", out) == 2
    error = capsys.readouterr().err.strip()
    assert "manifest.jsonl already exists; give --overwrite" in error and "\n" not in error
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert run_command("folder", tmp_path / "m", out, "--overwrite") == 0
    assert {path.name for path in out.iterdir()} == {"manifest.jsonl", "playlists.jsonl", "left_out.txt"}
    assert run_command("folder", tmp_path / "m", tmp_path / "m" / "0.ogg") == 2 and "not a folder" in capsys.readouterr().err


def test_a_failure_leaves_what_was_there(tmp_path, capsys, monkeypatch):
    song(tmp_path / "x" / "1.wav")
    source, out = table(tmp_path / "x", "1.wav"), tmp_path / "out"
    assert run(source, out) == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        assert run(source, out, "--overwrite", "--tags", "t") == 2
    error = capsys.readouterr().err.strip()
    assert "No space left" in error and "\n" not in error
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    (tmp_path / "file").write_text("in the way")
    assert run(source, tmp_path / "file") == 2 and (tmp_path / "file").read_text() == "in the way"
    assert "not a folder" in capsys.readouterr().err


@pytest.mark.skipif(os.name != "posix", reason="names of bytes exist on POSIX only")
def test_a_name_that_is_not_utf_8_survives(tmp_path, capsys):
    home, name = tmp_path / "genres", os.fsdecode(b"caf\xe9")
    song(home / "cafe" / "rock.00001.wav")
    song(home / "cafe" / "rock.00008.wav")
    try:
        (home / "cafe").rename(home / name)
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    assert run(home, tmp_path / "out", dataset="gtzan") == 0
    assert all(os.path.isfile(recording.audio) for recording in read_manifest(tmp_path / "out"))
    (home / name / "rock.00001.wav").write_text("no audio")
    assert run(home, tmp_path / "out2", "--check", dataset="gtzan") == 0
    assert "caf\\udce9/rock.00001.wav: not audio" in capsys.readouterr().out


# ---- statistics ------------------------------------------------------------------------


def test_statistics_by_hand():
    lines = [{"split": "train", "tags": ["x"], "text": {"sf": ["one", "two words"], "lf": ["five words are in here"]}},
             {"split": "train", "tags": [], "text": {"sf": ["drei kleine Wörter"]}}, {"split": "test", "text": {}}]
    assert [line.split() for line in text_table(lines).splitlines()[2:]] == [
        ["SF", "2", "3", "1.50", "2.00"], ["LF", "1", "1", "1.00", "5.00"], ["PL", *"00--"], ["ASET", *"00--"]]
    assert [line.split() for line in split_table(lines).splitlines()[2:]] == [
        ["train", "2", "2", "1", "0", "0", "1"], ["valid", *"000000"], ["test", "1", *"00000"]]


# ---- size ------------------------------------------------------------------------------

MEASURED = """
import sys, time
from mulan_min.datasets.__main__ import main
began = time.perf_counter()
main(sys.argv[1:])
print("seconds", time.perf_counter() - began)
print(open("/proc/self/status").read())
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="peak memory is read from /proc, which Linux has")
def test_fifty_thousand_recordings(tmp_path):
    """MagnaTagATune's layout, which has the widest table. All audio files are links to one file, because none is opened.

    VmHWM is the peak memory of the child process alone; ru_maxrss of a child would start at the value of its parent.
    """
    home, count = tmp_path / "mtat", 50_000
    for digit in "0123456789abcdef":
        (home / digit).mkdir(parents=True)
    (home / "one").write_bytes(b"x")
    tags, paths = [f"tag {n}" for n in range(188)], [f"{n % 16:x}/a_singer-an_album-{n:05d}-0-29.mp3" for n in range(count)]
    for path in paths:
        os.link(home / "one", home / path)
    cells = "\t".join('"1"' if n % 50 == 0 else '"0"' for n in range(188))
    with open(home / "annotations_final.csv", "w") as annotations, open(home / "clip_info_final.csv", "w") as info:
        annotations.write("\t".join(f'"{name}"' for name in ("clip_id", *tags, "mp3_path")) + "\n")
        info.write("clip_id\ttitle\tartist\talbum\n")
        for n, path in enumerate(paths):
            annotations.write(f'"{n}"\t{cells}\t"{path}"\n')
            info.write(f'"{n}"\t"Title of number {n}"\t"A Singer"\t"An Album"\n')
    done = subprocess.run([sys.executable, "-c", MEASURED, "mtat", str(home), str(tmp_path / "out")], cwd=ROOT, text=True,
                          capture_output=True, timeout=240, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    rows = sum(1 for _ in open(tmp_path / "out" / "manifest.jsonl"))
    shutil.rmtree(home)      # pytest keeps folders of earlier runs
    seconds = float(done.stdout.split("seconds")[1].split()[0])
    megabytes = int(done.stdout.split("VmHWM:")[1].split()[0]) / 1024
    print(f"{count} recordings: {seconds:.1f} s, {megabytes:.0f} MiB")
    assert rows == count and megabytes < 1024 and seconds < 120      # 30 s is the aim; the machine may be busy


# ---- a folder of music -----------------------------------------------------------------


def test_command_line(music, tmp_path, capsys):  # noqa: F811
    options = ["--test-share", "0.3", "--min-seconds", "1"]
    assert run_command("folder", music, tmp_path / "out", *options) == 0
    out = capsys.readouterr().out
    assert "train" in out and "0 too short" in out
    assert len(read_manifest(tmp_path / "out")) == 19
    for argv, part in (
        (["folder", str(tmp_path / "nowhere"), str(tmp_path / "o")], "nowhere"),
        (["folder", str(music), str(tmp_path / "o"), "--min-seconds", "999"], "too short"),
        (["folder", str(music), str(tmp_path / "o"), "--test-share", "0.9"], "--test-share"),
        (["gtzan", str(tmp_path / "nowhere"), str(tmp_path / "o")], "nowhere: no such folder"),
        (["csv", str(music), str(tmp_path / "o"), "--audio", "x"], "no such file"),
    ):
        assert run_command(*argv) == 2
        error = capsys.readouterr().err.strip()
        assert part in error and "\n" not in error
    with pytest.raises(UserError):
        import_folder(tmp_path / "nowhere", tmp_path / "o")


def test_it_runs_as_a_module():
    done = subprocess.run([sys.executable, "-m", "mulan_min.datasets", "--help"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0
    page = (ROOT / "tutorials" / "datasets.md").read_text(encoding="utf-8")      # messages about missing files name this page
    for name in "folder mtat audioset musiccaps jamendo fma gtzan csv".split():
        assert f"    {name} " in done.stdout and f"mulan_min.datasets {name} " in page
