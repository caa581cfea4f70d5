"""The command line: it finds, checks and counts the audio, and writes the manifest completely or not at all."""
import json
import os
import shutil
import subprocess
import sys

import pytest
from commands import run_command
from docs import ROOT
from test_music_folder import music, song  # noqa: F401  (a fixture)

from mulan_min.data import read_manifest
from mulan_min.datasets.importing import files_below, find_audio, index_by_name, split_table, text_table
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
