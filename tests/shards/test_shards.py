"""Shards: packing, reading beside the webdataset library, damage of all kinds, and the stream of batches."""
import errno
import gc
import gzip
import io
import json
import os
import re
import sys
import tarfile
import time
import tracemalloc
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch.utils.data import DataLoader

from mulan_min import data
from mulan_min.audio import AudioError, SoundBytes
from mulan_min.command_line import run_script
from mulan_min.config import resolve
from mulan_min.contrastive import encode_texts
from mulan_min.data import Batches, read_manifest
from mulan_min.errors import UserError
from mulan_min.loader import start_worker
from mulan_min.shards import reader as shard_reader
from mulan_min.shards import stream as shards
from mulan_min.shards.__main__ import main
from mulan_min.shards.pack import pack, parse_size
from mulan_min.shards.reader import count_samples, find_shards, first_recordings, read_samples, read_shard
from mulan_min.shards.stream import ShardStream
from mulan_min.wordpiece import train_wordpiece

RATE = 16000
SOURCES = ("sf", "lf", "pl", "aset")


def make_folder(folder, count=48, seconds=0.6, split=lambda i: "train", sources=lambda i: SOURCES):
    """`count` recordings; number i is a ramp that starts at i / 100."""
    folder.mkdir(parents=True)
    rows = []
    for i in range(count):
        sound = (i / 100 + np.arange(round(seconds * RATE)) / RATE / 1000).astype(np.float32)
        soundfile.write(folder / f"{i}.wav", sound, RATE, subtype="FLOAT")
        rows.append({"id": f"r{i}", "audio": f"{i}.wav", "split": split(i), "tags": ["secret"],
                     "text": {s: [f"{s} one number{i}", f"{s} two number{i}"] for s in sources(i)}})
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def make_config(**typed):
    return resolve({"preset": "smoke", "batch_size": 6, "seconds": 0.25, "steps": 12, "workers": 0, **typed})


TOKENIZER = train_wordpiece([f"{s} one two number{i}" for s in SOURCES for i in range(60)], 400)


def stream(places, rank=0, world=1, cursors=None, **typed):
    config = make_config(**typed)
    return ShardStream(places, config, partial(encode_texts, TOKENIZER, config.text.max_tokens), rank, world, cursors=cursors)


def have_the_quotas(batches, size):
    """Whether each batch of (source, number) has the sources of its slots; a batch is sorted by length, so in any order."""
    slots = ["sf", "lf", "pl", "aset", "sf", "lf"] * 100
    return all(sorted(source for source, _ in batch) == sorted(slots[i * size:(i + 1) * size]) for i, batch in enumerate(batches))


def words(batch):
    """[(source, number)] of the texts of a batch."""
    texts = [TOKENIZER.decode(row.tolist()).replace(" ", "") for row in batch["tokens"]]
    found = [re.fullmatch(r"([a-z]+?)(one|two)?number(\d+)", text) for text in texts]
    return [(match[1], int(match[3])) for match in found]


def contents(path):
    with tarfile.open(path) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}


def listen():
    """(notes, a callback that fills them), which checks that a note is one printable line with its name."""
    notes = {}

    def note(name, why):
        assert why.startswith(name) and why.isprintable() and len(why) < 1000, why
        notes.setdefault(name, why)
    return notes, note


def add(tar, name, content=b"", **fields):
    member = tarfile.TarInfo(name)
    member.size = len(content)
    for field, value in fields.items():
        setattr(member, field, value)
    tar.addfile(member, io.BytesIO(content) if content else None)


def write_tar(path, *members, end=True, **how):
    """A tar of (name, content, {field of its header: value})."""
    with tarfile.open(path, "w", **how) as tar:
        for name, content, *fields in members:
            add(tar, name, content, **(fields[0] if fields else {}))
    if not end:
        with open(path, "rb+") as file:
            file.truncate(sum(512 + -(-len(content) // 512) * 512 for _, content, *_ in members))
    return path


def sound_bytes(seconds=0.3, level=0.1, kind="WAV", rate=8000):
    file = io.BytesIO()
    soundfile.write(file, np.full(round(seconds * rate), level), rate, format=kind)
    return file.getvalue()


def notes_bytes(ident="x", text=None, **more):
    return json.dumps({"id": ident, "text": {"sf": ["words"]} if text is None else text, **more}).encode()


# ---- packing -----------------------------------------------------------------------------------


def test_pack_keeps_every_recording_byte_for_byte(tmp_path):
    folder = make_folder(tmp_path / "in", 20, split=lambda i: ("train", "train", "valid", "test")[i % 4],
                         sources=lambda i: SOURCES[:1 + i % 4])
    rows = [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]
    rows[4] |= {"start": 0.125, "duration": 0.25}
    os.rename(folder / "5.wav", folder / "5.XYZ")
    rows[5]["audio"] = "5.XYZ"
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "labels.json").write_text('{"genre": ["waltz"]}')
    out = tmp_path / "deep" / "out"
    size = 4 * 10240 * 4
    message = pack(folder, out, size)
    index = json.loads((out / "index.json").read_text())["shards"]
    assert sorted(row["name"] for row in index) == sorted(path.name for path in out.glob("*.tar"))
    assert {name.rpartition("-")[0] for name in (row["name"] for row in index)} == set(data.SPLITS)
    assert (out / "labels.json").read_bytes() == (folder / "labels.json").read_bytes()
    assert message.startswith(f"{out}: 20 samples in {len(index)} shards")
    packed = {}
    for row in index:
        path = out / row["name"]
        parts = contents(path)
        names = sorted(parts)
        assert path.stat().st_size == row["bytes"] <= size and row["samples"] == len(names) / 2
        keys = [name.split(".")[0] for name in names[::2]]
        assert all(len(key) == 9 and key.isdigit() for key in keys) and not packed.keys() & set(keys)
        counts = Counter()
        for key in keys:
            notes = json.loads(parts[f"{key}.json"])
            [sound] = [content for name, content in parts.items() if name.startswith(key) and not name.endswith(".json")]
            packed[key] = notes
            original = rows[int(notes["id"][1:])]
            assert sound == (folder / original["audio"]).read_bytes()
            assert row["name"].startswith(original["split"] + "-")
            assert notes == {"start": 0.0, "duration": None} | {k: v for k, v in original.items() if k not in ("audio", "split")}
            counts.update(notes["text"].keys())
            assert (f"{key}.audio" if original["audio"].endswith("XYZ") else f"{key}.wav") in parts
        assert counts == row["sources"]
    assert sorted(notes["id"] for notes in packed.values()) == sorted(row["id"] for row in rows)
    assert count_samples(find_shards(out, "train")) == 10 and count_samples(find_shards([out], "test")) == 5
    order = [notes["id"] for key, notes in sorted(packed.items())]
    assert order[:10] != [row["id"] for row in rows if row["split"] == "train"]      # dealt in another order
    (out / "index.json").unlink()
    assert count_samples(find_shards(out, "train")) is None


def test_pack_twice_gives_the_same_bytes_and_full_shards(tmp_path):
    folder = make_folder(tmp_path / "in", 30)
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        pack(folder, tmp_path / name, 200_000, seed)
    a, b, c = ({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in "abc")
    assert a == b and a.keys() == c.keys() and a["train-000000.tar"] != c["train-000000.tar"]
    sizes = [len(content) for name, content in sorted(a.items()) if name.endswith(".tar")]
    one = 40960 + 1024      # what a sample takes, and a bit
    assert len(sizes) > 4 and all(200_000 - one - 10240 < size <= 200_000 for size in sizes[:-1])


def test_shards_are_as_full_as_their_size_allows(tmp_path):
    """Sizes around what two, three and four samples take: none is exceeded, and the next sample would not have fitted."""
    folder = make_folder(tmp_path / "in", 9, seconds=0.15)
    for size in range(20_000 + 10_240, 62_000, 3_000):
        pack(folder, tmp_path / f"{size}", size)
        series = [list(contents(path).values()) for path in find_shards(tmp_path / f"{size}")]
        for parts, following in zip(series, series[1:] + [[]]):
            used, room = (sum(512 + -(-len(content) // 512) * 512 for content in some) for some in (parts, parts + following[:2]))
            whole = [-(-(blocks + 1024) // 10240) * 10240 for blocks in (used, room)]
            assert whole[0] <= size and (not following or whole[1] > size)
        assert all(path.stat().st_size <= size for path in find_shards(tmp_path / f"{size}"))


@pytest.mark.parametrize("text, size", [("500MB", 500_000_000), ("1GB", 10**9), ("1048576", 1048576), ("1.5 mb", 1_500_000),
                                        ("20kb", 20_000)])
def test_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("args, message", [
    (["--size", "1 zebra"], "--size '1 zebra' is not like 500MB"), (["--size=-5MB"], "is not like"),
    (["--size", "10KB"], "10240 bytes or more"), (["--size", "9" * 400], "is not like"), (["--size", "20480"], "0.wav: needs"),
    (["--shuffle-seed", "-1"], "must be 0 or more")])
def test_refusals_are_one_line_and_exit_code_2(tmp_path, monkeypatch, capsys, args, message):
    folder = make_folder(tmp_path / "in", 1)
    monkeypatch.setattr(sys, "argv", ["shards", "pack", str(folder), str(tmp_path / "out"), *args])
    with pytest.raises(SystemExit) as left:
        run_script(main)
    err = capsys.readouterr().err
    assert left.value.code == 2 and not (tmp_path / "out").exists()
    assert message in err and err.startswith("error: ") and err.count("\n") == 1
    assert os.listdir(tmp_path) == ["in"]


def test_an_out_that_exists_and_a_missing_manifest_are_refused(tmp_path, monkeypatch, capsys):
    folder = make_folder(tmp_path / "in", 2)
    (tmp_path / "out").mkdir()
    for place, message in ((folder, "out is there already"), (tmp_path, "manifest.jsonl: no such file")):
        monkeypatch.setattr(sys, "argv", ["shards", "pack", str(place), str(tmp_path / ("out" if place == folder else "new"))])
        with pytest.raises(SystemExit) as left:
            run_script(main)
        assert left.value.code == 2 and message in capsys.readouterr().err
    assert os.listdir(tmp_path / "out") == [] and not (tmp_path / "new").exists()


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    folder, calls = make_folder(tmp_path / "in", 12), []

    def full(_):
        calls.append(1)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="out: cannot be made .*No space left.*nothing is left of it"):
        pack(folder, tmp_path / "out", 200_000)
    assert os.listdir(tmp_path) == ["in"]


# ---- beside the webdataset library -------------------------------------------------------------


def library():
    return pytest.importorskip("webdataset", reason="webdataset, the oracle of the format, is not installed (extra `test`)")


def samples_of_library(wds, path):
    return [{name: value for name, value in sample.items() if name not in ("__url__", "__local_path__")}
            for sample in wds.WebDataset(str(path), shardshuffle=False, empty_check=False)]


def test_the_library_reads_ours_as_we_do(tmp_path):
    wds = library()
    folder = make_folder(tmp_path / "in", 20)
    pack(folder, tmp_path / "out", 400_000)
    seen = []
    for path in find_shards(tmp_path / "out"):
        theirs = samples_of_library(wds, path)
        assert theirs == [{"__key__": key, **parts} for key, parts in read_shard(path)] and theirs
        seen += [(json.loads(sample["json"]), sample["wav"]) for sample in theirs]
    assert sorted(notes["id"] for notes, _ in seen) == sorted(f"r{i}" for i in range(20))
    assert all(sound == (folder / f"{notes['id'][1:]}.wav").read_bytes() for notes, sound in seen)


def test_we_read_what_the_library_wrote(tmp_path):
    wds = library()
    path = tmp_path / "theirs-000000.tar"
    with wds.TarWriter(str(path)) as tar:
        for i in range(7):
            tar.write({"__key__": f"set.a/{i:04d}", "cls": i, "txt": "a caption", "Flac": sound_bytes(level=i / 10, kind="FLAC"),
                       "json": {"id": f"t{i}", "text": {"sf": [f"sf one number{i}"]}}})
        tar.write({"__key__": "untold", "flac": sound_bytes(kind="FLAC"), "cls": 7})
    assert [{"__key__": key, **parts} for key, parts in read_shard(path)] == samples_of_library(wds, path)
    notes, note = listen()
    found = [sample for _, sample in read_samples(path, 0, SOURCES, on_skip=note)]
    assert [sample and (sample.recording.id, sample.recording.audio.name) for sample in found] == \
        [(f"t{i}", f"theirs-000000.tar/set.a/{i:04d}") for i in range(7)] + [None]
    assert notes.keys() == {"theirs-000000.tar/untold"} and "has cls, flac" in notes["theirs-000000.tar/untold"]
    batch = next(iter(stream([path], ratio="sf=1")))
    assert {(ident, number) for ident, (_, number) in zip(batch["ids"], words(batch))} <= {(f"t{i}", i) for i in range(7)}
    levels = [int(ident[1:]) / 10 for ident in batch["ids"]]
    assert batch["waveforms"].mean(1).tolist() == pytest.approx(levels, abs=0.02)


def test_odd_names_group_as_the_library_groups_them(tmp_path):
    """Folders, several dots, notes on the shard, keys that come back, capitals, names too long for a header."""
    wds = library()
    names = ["a/b.c/1.wav", "a/b.c/1.JSON", "2.left.wav", "2.json", "__meta__", "__x__/y.wav", "README", "3.wav", "a/b.c/1.txt",
             "d/.hid", "n" * 150 + ".wav", "n" * 150 + ".json", "é" * 80 + "/ü.wav", "é" * 80 + "/ü.json"]
    for kind in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        path = write_tar(tmp_path / "x.tar", *((name, name.encode()) for name in names), format=kind)
        ours = [{"__key__": key, **parts} for key, parts in read_shard(path)]
        theirs = [sample for sample in samples_of_library(wds, path) if sample["__key__"] != "d/"]      # d/.hid: no name to share
        assert ours == theirs and len(ours) == 6
        for skip in range(7):
            assert list(read_shard(path, skip)) == list(read_shard(path))[skip:]
        assert list(read_shard(path, wanted={1, 4})) == [list(read_shard(path))[i] for i in (1, 4)]


# ---- damage and malice -------------------------------------------------------------------------


def three(path):
    """A shard of three samples, json first, and the offsets at which they begin."""
    members = [(f"{i}.{ext}", content) for i in range(3)
               for ext, content in (("json", notes_bytes(f"s{i}")), ("wav", sound_bytes()))]
    size = [512 + -(-len(content) // 512) * 512 for _, content in members]
    return write_tar(path, *members), [sum(size[:2 * i]) for i in range(4)]


def keys(path, note=shard_reader.ignore, **how):
    return [key for key, _ in read_shard(path, on_skip=note, **how)]


def test_a_truncated_shard_keeps_what_came_before(tmp_path):
    path, starts = three(tmp_path / "x.tar")
    whole, complete = path.read_bytes(), list(read_shard(path))
    assert keys(path) == ["0", "1", "2"]
    for cut in (*range(0, len(whole), 97), starts[1], starts[2], starts[3], starts[3] + 512):
        path.write_bytes(whole[:cut])
        notes, note = listen()
        found = list(read_shard(path, on_skip=note))
        assert [parts for key, parts in found if len(parts) == 2] == [parts for _, parts in complete][:len(found)][:sum(
            len(parts) == 2 for _, parts in found)]
        assert len(found) >= sum(cut >= start for start in starts[1:])      # nothing whole is lost
        if cut < starts[3] + 512:      # one block of zeros is an end
            [why] = notes.values()
            assert why.startswith("x.tar") and f" of {cut}; the rest is left out" in why and "at byte " in why
        else:
            assert not notes
    path.write_bytes(b"")
    notes, note = listen()
    assert keys(path, note) == [] and "cut off" in notes["x.tar"] and "at byte 0 of 0" in notes["x.tar"]


def test_a_corrupt_header_ends_the_shard_and_an_empty_tar_is_none(tmp_path):
    path, starts = three(tmp_path / "x.tar")
    content = bytearray(path.read_bytes())
    content[starts[2] + 3] ^= 1
    path.write_bytes(content)
    notes, note = listen()
    assert keys(path, note) == ["0", "1"]
    assert f"no tar header (bad checksum) at byte {starts[2]} of {len(content)}" in notes["x.tar"]
    for name, problem in (("none.tar", "No such file"), (".", "Is a directory")):
        notes, note = listen()
        assert keys(tmp_path / name, note) == [] and problem in next(iter(notes.values()))
    notes, note = listen()
    assert keys(write_tar(tmp_path / "empty.tar"), note) == [] and not notes
    with pytest.raises(UserError, match="^no 'sf' text in an epoch of this reader.*the shards are empty"):
        run(stream([tmp_path / "empty.tar"], ratio="sf=1"))
    (tmp_path / "zero.tar").write_bytes(b"")
    with pytest.raises(UserError, match="the first that was left out: zero.tar: cut off"):
        run(stream([tmp_path / "zero.tar"], ratio="sf=1"))


def test_members_that_would_leave_the_folder_are_passed_over_by_name(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    evil = [("../x.wav", {}), ("/etc/x.wav", {}), ("a/../../x.wav", {}), ("..\\x.wav", {}),
            ("link.wav", {"type": tarfile.SYMTYPE}), ("hard.wav", {"type": tarfile.LNKTYPE}),
            ("dev.wav", {"type": tarfile.CHRTYPE}), ("fifo.wav", {"type": tarfile.FIFOTYPE}),
            ("sized.wav", {"type": tarfile.SYMTYPE, "size": 5000}), ("odd.wav", {"type": b"V"}), ("new\nline/../x.wav", {})]
    path = home / "x.tar"
    with tarfile.open(path, "w") as tar:
        add(tar, "0.wav", sound_bytes())
        add(tar, "folder", type=tarfile.DIRTYPE)
        for name, fields in evil:
            add(tar, name, linkname="/etc/passwd" if "type" in fields else "", **fields)
        add(tar, "0.json", notes_bytes())
        add(tar, "1.wav", b"2")
    notes, note = listen()
    assert [(key, sorted(parts)) for key, parts in read_shard(path, on_skip=note)] == [("0", ["json", "wav"]), ("1", ["wav"])]
    assert notes.keys() == {f"x.tar/{shard_reader.printable(name)}" for name, _ in evil}
    assert os.listdir(tmp_path) == ["home"] and os.listdir(home) == ["x.tar"]
    notes, note = listen()
    assert keys(path, note, skip=1) == ["1"] and not notes      # told with the sample before


def test_huge_claims_are_not_believed_and_cost_no_memory(tmp_path, monkeypatch):
    """Sizes beyond the file, negative ones, PAX headers and members of hundreds of MB in a file with a hole."""
    path = tmp_path / "x.tar"
    good = [("0.wav", sound_bytes()), ("0.json", notes_bytes())]

    def forge(**fields):
        """The header of a member as it stands in a tar."""
        member = tarfile.TarInfo("big.wav")
        for field, value in fields.items():
            setattr(member, field, value)
        return member.tobuf(tarfile.GNU_FORMAT)

    pax = forge(type=tarfile.XHDTYPE, size=300 * 2**20)
    for head, hole, message, left in (
            (forge(size=10**12), 0, "claims 1000000000000 bytes", ["0"]), (forge(size=-1024), 0, "claims -1024 bytes", ["0"]),
            (forge(type=tarfile.XHDTYPE, size=2**62), 0, "claims 4611686018427387904 bytes", ["0"]),
            (pax, 300 * 2**20, "a header of 314572800 bytes", ["0", "1"]),
            (forge(type=tarfile.GNUTYPE_LONGNAME, size=2**29), 2**29, "a header of 536870912 bytes", ["0", "1"]),
            (forge(size=2**29 + 1), 2**29 + 512, "a sample of more than 536870912 bytes", ["0", "big", "1"])):
        write_tar(path, *good, end=False)
        with open(path, "rb+") as file:
            file.seek(0, 2)
            file.write(head)
            file.seek(hole, 1)
            file.write(write_tar(tmp_path / "tail.tar", ("1.wav", b"1")).read_bytes())
        notes, note = listen()
        tracemalloc.start()
        assert keys(path, note) == left
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 2**20 and message in next(iter(notes.values())), notes
    monkeypatch.setattr(shard_reader, "SAMPLE_LIMIT", 20_000)      # many small members of one sample
    notes, note = listen()
    [(_, parts)] = read_shard(write_tar(path, *((f"0.{i}", b"1") for i in range(100))), on_skip=note)
    assert len(parts) == 20_000 // 513 and "a sample of more than 20000 bytes" in next(iter(notes.values()))


@pytest.mark.parametrize("parts, message", [
    ({"wav": b"1"}, "has wav"), ({"json": notes_bytes(), "txt": b"1"}, "has json, txt"), ({"json": b"{" * 9}, "not JSON"),
    ({"json": b"[" * 100_000}, "not JSON"), ({"json": b"\xff\xfe\xfd"}, "not JSON"), ({"json": b"9" * 5000}, "not JSON"),
    ({"json": b" " * 2**20}, "below 1048576 bytes"), ({"json": b"[1]"}, "must be an object"),
    ({"json": b'{"text": ""}'}, "must be an object"), ({"json": notes_bytes(text={"sf": "words"})}, "list of non-empty texts"),
    ({"json": notes_bytes(text={"sf": [" "]})}, "list of non-empty texts"),
    ({"json": notes_bytes(start=-1)}, "start and duration"), ({"json": notes_bytes(duration=0)}, "start and duration"),
    ({"json": notes_bytes(start=10**400)}, "start and duration"),
    ({"json": notes_bytes(start=float("nan"))}, "start and duration"),
    ({"json": notes_bytes(duration="1")}, "start and duration"), ({"json": notes_bytes(start=True)}, "start and duration")])
def test_a_sample_that_cannot_be_used_is_named(tmp_path, parts, message):
    parts = parts if "wav" in parts or "txt" in parts else {"wav": sound_bytes(), **parts}
    path = write_tar(tmp_path / "x.tar", *((f"k.{ext}", content) for ext, content in parts.items()))
    notes, note = listen()
    assert list(read_samples(path, 0, SOURCES, on_skip=note)) == [(0, None)] and message in notes["x.tar/k"]


def mutants(whole, headers, count):
    """Copies of a shard with flipped bytes, changed headers of which half have a right sum, cuts, and blocks twice."""
    rng = np.random.default_rng(0)
    for i in range(count):
        content = bytearray(whole)
        for _ in range(rng.integers(1, 6)):
            kind, at = rng.integers(5), int(rng.integers(len(content)))
            if kind == 0:
                content[at] ^= 1 << rng.integers(8)
            elif kind in (1, 2):
                start = headers[rng.integers(len(headers))]
                place = start + int(rng.choice([0, 1, 5, 100, 124, 125, 130, 135, 156, 157, 257, 345]))
                if place < len(content):
                    content[place] = rng.choice([0, 0x30, 0x37, 0x78, 0x67, 0x4c, 0x80, 0xff, 0x2f, 0x2e, int(rng.integers(256))])
                    total = sum(content[start:start + 512]) - sum(content[start + 148:start + 156]) + 8 * 32
                    content[start + 148:start + 156] = b"%06o\0 " % total
            elif kind == 3:
                content = content[:at] if rng.random() < 0.3 else content
            else:
                block = 512 * (at // 512)
                content[block:block] = content[block - 512 * int(rng.integers(3)):block + 512]
            if not content:
                break
        yield bytes(content)


def test_2000_mutated_shards_raise_nothing_but_our_errors(tmp_path, monkeypatch):
    printed = []
    monkeypatch.setattr(sys, "unraisablehook", printed.append)      # for exceptions where libsndfile calls Python back
    members = [(f"{name}.{ext}", content) for name, kind in (("0", "WAV"), ("1", "FLAC"), ("n" * 120, "OGG"))
               for ext, content in ((kind.lower(), sound_bytes(0.2, kind=kind)), ("json", notes_bytes(name[:9], start=0.05)))]
    path = write_tar(tmp_path / "x.tar", *members, format=tarfile.PAX_FORMAT)
    with tarfile.open(path) as tar:
        headers = sorted({at for member in tar for at in (member.offset, member.offset_data - 512)})
    whole, read, silent, noted, slowest = path.read_bytes(), 0, 0, Counter(), 0.0
    for content in mutants(whole[:headers[-1] + 2048], headers, 2000):
        path.write_bytes(content)
        notes, note = listen()
        began, held = time.perf_counter(), 0
        for _, sample in read_samples(path, 0, SOURCES, on_skip=note):
            if sample:
                held += len(sample.recording.audio.content)
                try:
                    window = data.read_clip_window(sample.recording, 0.1, RATE, 0.5)
                    assert window.shape == (1600,) and np.isfinite(window).all()
                    read += 1
                except AudioError as error:
                    note(sample.recording.audio.name, str(error))
        slowest = max(slowest, time.perf_counter() - began)
        assert held <= len(content)
        silent += not notes
        noted.update(why.split(": ", 1)[1][:12] for why in notes.values())
    assert os.listdir(tmp_path) == ["x.tar"] and slowest < 5 and not printed
    assert read > 1000 and silent > 20 and len(noted) > 6, (read, silent, noted)      # the mutants reach all parts


# ---- windows -----------------------------------------------------------------------------------


def in_memory(content, start=0.0, duration=None):
    return data.Recording("x", SoundBytes(content, "s/k"), "train", {}, [], start, duration)


@pytest.mark.parametrize("rate", [16000, 44100, 8000])
@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG", "MP3"])
def test_a_window_from_memory_equals_the_one_from_the_file(tmp_path, kind, rate):
    rng = np.random.default_rng(0)
    path = tmp_path / f"x.{kind.lower()}"
    soundfile.write(path, 0.3 * rng.standard_normal((3 * rate, 2)), rate, format=kind)
    for start, duration in ((0.0, None), (0.7, 1.5), (0.7, 0.5), (2.5, 9.0), (2.99, None)):
        recording = data.Recording("x", path, "train", {}, [], start, duration)
        held = in_memory(path.read_bytes(), start, duration)
        for place in (0.0, 0.37, 1.0):
            assert np.array_equal(*(data.read_clip_window(one, 1.0, RATE, place) for one in (held, recording)))
    whole = path.read_bytes()
    # truncated, not audio, empty, outside
    for content, start, match in ((whole[:len(whole) // 2], 0.0, "s/k: "), (b"no sound" * 99, 0.0, "s/k: not audio"),
                                  (b"", 0.0, "s/k: "), (whole, 3.5, "outside")):
        held = in_memory(content, start)
        (tmp_path / "bad").write_bytes(content)
        data.file_seconds.cache_clear()
        recording = data.Recording("x", tmp_path / "bad", "train", {}, [], start, None)
        outcomes = []
        for one in (held, recording):
            try:
                outcomes.append(data.read_clip_window(one, 2.0, RATE, 1.0).tobytes())
            except AudioError as error:
                outcomes.append("error")
                assert one is recording or match in str(error)
        assert outcomes[0] == outcomes[1]
        assert kind == "MP3" or outcomes[0] == "error"


def test_a_seek_before_the_first_byte_prints_no_traceback(monkeypatch):
    """AIFF chunks of odd sizes make libsndfile ask for such places, and an exception in its call back would be printed."""
    printed, whole = [], sound_bytes(0.2, kind="AIFF")
    monkeypatch.setattr(sys, "unraisablehook", printed.append)
    for place in range(64):
        content = whole[:place] + b"\xff\xff\xff\x80" + whole[place + 4:]
        try:
            data.read_clip_window(in_memory(content), 0.1, RATE, 0.5)
        except AudioError as error:
            assert str(error).startswith("s/k: ")
    assert not printed


def test_a_made_up_rate_does_not_fill_the_memory():
    """2 MB of samples at 19 MHz by their header: a filter from there to 16 kHz would need gigabytes."""
    content = bytearray(sound_bytes(250.0))
    content[24:28] = (19_000_001).to_bytes(4, "little")
    tracemalloc.start()
    with pytest.raises(AudioError, match="s/k: 2000000 samples at 19000001 Hz"):
        data.read_clip_window(in_memory(bytes(content)), 0.01, RATE, 0.5)
    assert tracemalloc.get_traced_memory()[1] < 2**24
    tracemalloc.stop()


# ---- the stream --------------------------------------------------------------------------------


def run(batches, workers=0):
    """All batches of a stream, by a DataLoader."""
    found = []
    for batch in DataLoader(batches, batch_size=None, num_workers=workers, worker_init_fn=start_worker if workers else None):
        if "error" in batch:
            raise UserError(batch["error"])
        found.append(batch)
    return found


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """48 recordings with all sources, and 16 shards of three."""
    place = tmp_path_factory.mktemp("packed")
    folder = make_folder(place / "in")
    pack(folder, place / "out", 3 * 41_000 + 2048 + 10240)
    assert len(find_shards(place / "out")) == 16
    return place / "out"


def shard_of(places):
    return {json.loads(parts["json"])["id"]: path.name for path in find_shards(places) for _, parts in read_shard(path)}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) if torch.is_tensor(a[k]) else a[k] == b[k] for k in a)


@pytest.mark.parametrize("buffer", [8, 512])
def test_quotas_are_exact_and_pairs_belong_together(tmp_path, monkeypatch, buffer):
    """Batches of 5, recordings with one to four sources: the shares come out exactly, and in the slots of data.Batches."""
    monkeypatch.setattr(shards, "BUFFER", buffer)
    folder = make_folder(tmp_path / "in", sources=lambda i: SOURCES[i % 4:i % 4 + 1 + i % 3])
    pack(folder, tmp_path / "out", 200_000)
    config = make_config(batch_size=5)
    batches = run(stream(tmp_path / "out", batch_size=5))
    assert len(batches) == 12
    assert have_the_quotas(map(words, batches), 5)
    usual = Batches(read_manifest(folder), config, partial(encode_texts, TOKENIZER, config.text.max_tokens))
    for step, batch in enumerate(batches):
        assert sorted(source for source, _ in words(batch)) == sorted(source for source, _ in words(usual[step]))
        assert batch.keys() == usual[step].keys() and batch["skipped"] == {}
        assert max(map(len, batch["cursor"]["queues"].values())) <= buffer // 4
        assert batch["waveforms"].shape == usual[step]["waveforms"].shape and batch["waveforms"].dtype == torch.float32
        assert batch["tokens"].dtype == torch.int64 and batch["mask"].dtype == torch.bool
        for wave, ident, (source, number) in zip(batch["waveforms"], batch["ids"], words(batch)):
            assert ident == f"r{number}" and source in SOURCES[number % 4:number % 4 + 1 + number % 3]
            begins = (wave[0].item() - number / 100) * 1000
            assert -1e-4 < begins < 0.35 + 1e-4
    assert len({ident for batch in batches for ident in batch["ids"]}) > 20
    texts = {TOKENIZER.decode(row.tolist()).split()[1] for batch in batches for row in batch["tokens"]}
    assert texts == {"one", "two"}


def test_every_sample_is_used_once_an_epoch_and_far_from_the_order_of_the_shard(packed, monkeypatch):
    monkeypatch.setattr(shards, "BUFFER", 16)
    batches = run(stream(packed, ratio="sf=1", steps=30, batch_size=8))
    cursor, place = batches[-1]["cursor"], {}
    paths = find_shards(packed)
    for i, path in enumerate(paths):
        for number, (_, parts) in enumerate(read_shard(path)):
            place[i, number] = json.loads(parts["json"])["id"]
    counts = Counter(ident for batch in batches for ident in batch["ids"])
    counts.update(place[tuple(pointer)] for pointer in cursor["queues"]["sf"])
    assert sum(counts.values()) == cursor["reads"] and len(cursor["queues"]["sf"]) == 15
    assert len(counts) == 48 and set(counts.values()) <= {cursor["epoch"], cursor["epoch"] + 1}
    home = shard_of(packed)
    neighbours = sum(home[a] == home[b] for batch in batches for a, b in zip(batch["ids"], batch["ids"][1:]))
    assert neighbours < 60      # of 210; 140 in the order of the shards


def test_ranks_and_workers_have_shards_of_their_own_and_join_to_the_quotas(packed):
    slices = []
    for rank in range(3):
        batches = run(stream(packed, rank, 3, batch_size=8, steps=9), workers=2)
        assert [batch["cursor"]["worker"] for batch in batches] == [0, 1] * 4 + [0]
        assert [len(batch["ids"]) for batch in batches] == [[2, 3, 3][rank]] * 9
        slices.append(batches)
    joined = [[pair for part in parts for pair in words(part)] for parts in zip(*slices)]
    assert have_the_quotas(joined, 8)


def test_an_epoch_deals_each_shard_to_one_reader(packed):
    dealt, home = [], shard_of(packed)
    for rank in range(3):
        for worker in range(2):
            reader = shards.Reader(stream(packed, rank, 3), worker, 2)
            reader.epoch = reader.turn = reader.sample = 0
            walk = reader.walk()
            dealt.append([[sample.recording.id for sample in iter(lambda walk=walk: next(walk), None)] for _ in range(2)])
    for epoch in range(2):
        assert sorted(ident for own in dealt for ident in own[epoch]) == sorted(home)
        assert not any({home[i] for i in a[epoch]} & {home[i] for i in b[epoch]} for a in dealt for b in dealt if a is not b)
    assert any(set(own[0]) != set(own[1]) for own in dealt)


def test_the_stream_is_a_function_of_the_seed_and_the_readers(packed):
    a, b = run(stream(packed), 2), run(stream(packed), 2)
    assert all(same(x, y) for x, y in zip(a, b)) and len(a) == len(b) == 12
    assert all(same(x, y) for x, y in zip(run(stream(packed)), run(stream(packed), 1)))
    other = run(stream(packed, seed=1))
    assert [x["ids"] for x in other] != [x["ids"] for x in run(stream(packed))]


@pytest.fixture(scope="module")
def damaged(tmp_path_factory):
    """Eight shards of six; one sample is no audio, one shard is cut off, one holds a link."""
    place = tmp_path_factory.mktemp("damaged")
    folder = make_folder(place / "in", sources=lambda i: SOURCES if i % 2 else SOURCES[:2])
    (folder / "7.wav").write_bytes(b"this is not audio at all")
    pack(folder, place / "out", 6 * 41_000 + 2048 + 10240)
    paths = find_shards(place / "out")
    content = paths[2].read_bytes()
    paths[2].write_bytes(content[:len(content) // 2])
    with tarfile.open(paths[4], "a") as tar:
        add(tar, "evil.wav", type=tarfile.SYMTYPE, linkname="x")
    return place / "out"


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("buffer", [12, 512])
def test_going_on_from_a_cursor_is_exact(damaged, monkeypatch, workers, buffer):
    monkeypatch.setattr(shards, "BUFFER", buffer)
    whole = run(stream(damaged, workers=workers, steps=20), workers)
    assert len(whole) == 20 and len({name for batch in whole for name in batch["skipped"]}) == 3
    for stop in (1, 2, 3, 8, 13, 19):
        cursors = {}
        for batch in whole[:stop]:
            cursors[batch["cursor"]["worker"]] = batch["cursor"]
        cursors = json.loads(json.dumps(cursors))      # keys become texts, as in a file
        rest = run(stream(damaged, workers=workers, steps=20, cursors=cursors), workers)
        assert len(rest) == 20 - stop
        for step, (again, before) in enumerate(zip(rest, whole[stop:]), stop):
            assert same(again, before), f"stopped after {stop}, step {step}"


def test_cursors_of_another_run_are_refused(packed, damaged):
    [batch] = run(stream(packed, steps=1))
    cursors = {0: batch["cursor"]}
    for make, message in ((lambda: stream(damaged, cursors=cursors), "other shards"),
                          (lambda: stream(packed, 1, 2, cursors), "other rank"),
                          (lambda: stream(packed, 0, 2, cursors), "other world"),
                          (lambda: stream(packed, workers=2, cursors=cursors), "other workers .1, now 2.")):
        with pytest.raises(UserError, match=message):
            make()


def test_what_cannot_be_read_is_named_and_replaced(damaged):
    batches = run(stream(damaged, steps=20))
    lost = {name: why for batch in batches for name, why in batch["skipped"].items()}
    cut, evil = (f"train-{i:06d}.tar" for i in (2, 4))
    assert any(name.startswith(cut) and "the rest is left out" in why for name, why in lost.items())
    assert "a link" in lost[f"{evil}/evil.wav"]
    assert len([why for why in lost.values() if "not audio that libsndfile can read" in why]) == 1
    assert all(len(batch["ids"]) == 6 and torch.isfinite(batch["waveforms"]).all() and "r7" not in batch["ids"] for batch in batches)


def test_no_readable_sample_ends_in_one_line(tmp_path):
    path = write_tar(tmp_path / "x.tar", *((f"{i}.{ext}", content) for i in range(3)
                                           for ext, content in (("wav", b"no sound"), ("json", notes_bytes()))))
    with pytest.raises(UserError, match="^100 samples of source 'sf' in a row cannot be read; the first .*: x.tar/.: not audio"):
        run(stream([path], ratio="sf=1"), workers=1)


def test_too_few_shards_missing_sources_and_missing_folders(packed, tmp_path):
    with pytest.raises(UserError, match="^16 shards for 5 ranks of 4 workers: 20 or more are needed; pack with a smaller --size"):
        stream(packed, 0, 5, workers=4)
    with pytest.raises(UserError, match="^16 shards for 9 ranks of 2 workers: 18 or more"):      # not what the settings said
        run(stream(packed, 0, 9, workers=0), workers=2)
    with pytest.raises(UserError, match="^no 'other' text in an epoch of this reader.*; leave .* with --ratio sf=2,lf=1$"):
        run(stream(packed, ratio="sf=2,lf=1,other=1"))
    for place in (tmp_path, tmp_path / "none.tar"):
        with pytest.raises(UserError, match="no shard, nor a folder with train-000000.tar"):
            stream(place)


def test_a_batch_may_be_larger_than_the_collection(packed):
    for batch in run(stream(packed, batch_size=60, steps=3)):
        assert len(batch["ids"]) == 60 and len(batch["keys"].unique()) == len(set(batch["ids"])) < 60


def test_the_buffer_is_bounded_in_bytes_too(packed, monkeypatch):
    monkeypatch.setattr(shards, "BUFFER_BYTES", 10 * 39_000)      # ten samples of 38.5 kB
    batches = run(stream(packed, steps=20))
    for batch in batches:
        assert sum(map(len, batch["cursor"]["queues"].values())) <= 10
    assert have_the_quotas(map(words, batches), 6)


def test_memory_does_not_grow_with_the_collection(tmp_path):
    """From 2,000 to 20,000 samples, read and decoded: neither Python's objects nor the memory of the process."""
    sound = sound_bytes(0.1)
    first = write_tar(tmp_path / "train-000000.tar", *((f"{i:09d}.{ext}", content) for i in range(500) for ext, content in
                      (("wav", sound), ("json", notes_bytes(f"s{i}", {SOURCES[i % 4]: ["words"]})))))
    for i in range(1, 40):
        os.link(first, tmp_path / f"train-{i:06d}.tar")
    batches = iter(stream(tmp_path, ratio="sf=1,lf=1,pl=1,aset=1", batch_size=100, steps=1000, seconds=0.1, sample_rate=8000))

    def after(goal):
        while next(batches)["cursor"]["reads"] < goal:
            pass
        gc.collect()
        statm = Path("/proc/self/statm")
        return sys.getallocatedblocks(), int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if statm.exists() else 0

    (blocks, resident), (more_blocks, more_resident) = after(2000), after(20_000)
    assert more_blocks - blocks < 5000      # an object left behind for each sample would be 18,000
    assert more_resident - resident < 8e6   # their files are 16 MB


# ---- shards of others --------------------------------------------------------------------------


def gzipped(path, level=6):
    """The same bytes in gzip, without a name or a time in its header."""
    packed = path.with_name(path.name + ".gz")
    packed.write_bytes(gzip.compress(path.read_bytes(), level, mtime=0))
    return packed


def captioned(folder, split, count=6, form=lambda i: {"json": json.dumps({"text": [f"lf one number{i}", f"lf two number{i}"]}).encode()}):
    folder.mkdir(parents=True, exist_ok=True)
    members = [(f"{i}.{ext}", content) for i in range(count) for ext, content in {"flac": sound_bytes(level=i / 20, kind="FLAC"), **form(i)}.items()]
    return write_tar(folder / f"{split}-000000.tar", *members)


def captions(path, sources=SOURCES, note=shard_reader.ignore):
    return [sample and sample.recording.text for _, sample in read_samples(path, 0, sources, on_skip=note)]


@pytest.mark.parametrize("parts, wanted", [
    ({"json": b'{"text": ["a slow waltz", "a waltz"], "tag": ["x"], "duration": "9"}'}, ["a slow waltz", "a waltz"]),      # CLAP
    ({"json": b'{"text": "a slow waltz"}'}, ["a slow waltz"]), ({"json": b'{"caption": "a waltz", "start": 3}'}, ["a waltz"]),
    ({"json": b'{"captions": ["", 7, "a waltz"]}'}, ["a waltz"]), ({"txt": "\ufeffвальс\n".encode()}, ["вальс\n"]),
    ({"txt": b"a waltz", "json": b'{"width": 3, "text": null}'}, ["a waltz"]), ({"txt": b"x", "json": b'{"text": ["y"]}'}, ["y"]),
    ({"txt": b"x", "json": b'{"text": {"sf": ["y"]}}'}, None), ({"txt": b"x", "json": b'{"text": {}}'}, None)])
def test_captions_of_others_are_long_form_text(tmp_path, parts, wanted):
    path = write_tar(tmp_path / "x.tar", ("k.mp3", sound_bytes(kind="MP3")), *((f"k.{ext}", content) for ext, content in parts.items()))
    notes, note = listen()
    assert captions(path, ("lf",), note) == [wanted and {"lf": wanted}] and not notes
    [(_, sample)] = read_samples(path, 0, ("lf", "sf"))
    assert sample is None or (sample.recording.id, sample.recording.start, sample.recording.duration) == ("x.tar/k", 0, None)


@pytest.mark.parametrize("parts, message", [
    ({"txt": b"caf\xe9"}, "its .txt UTF-8"), ({"txt": b" \n"}, "its .txt UTF-8"), ({"txt": b" " * 2**20}, "below 1048576 bytes"),
    ({"json": b'{"text": [" ", null]}'}, "must be an object"), ({"json": b'{"text": 7}'}, "must be an object"),
    ({"json": b"[", "txt": b"x"}, "not JSON")])
def test_captions_that_cannot_be_used_are_named(tmp_path, parts, message):
    path = write_tar(tmp_path / "x.tar", ("k.flac", sound_bytes()), *((f"k.{ext}", content) for ext, content in parts.items()))
    notes, note = listen()
    assert captions(path, note=note) == [None] and message in notes["x.tar/k"]


def test_the_first_reason_is_told_when_nothing_can_be_used(tmp_path):
    path = captioned(tmp_path, "valid")
    with pytest.raises(UserError, match="0 usable recordings of split 'valid'; the first left out: valid-000000.tar/0: captions are text "
                                        "of source 'lf'; give it a share with --ratio lf=1$"):
        first_recordings([path], "valid", ["sf"], 9, True)
    assert [r.text["lf"][0] for r in first_recordings([path], "valid", ["sf", "lf"], 3, True)] == [f"lf one number{i}" for i in range(3)]
    for form, count, message in ((lambda i: {}, 6, "first left out: valid-000000.tar/0: needs audio and a .json or .txt.*has flac$"),
                                 (lambda i: {"json": notes_bytes(text={"other": ["x"]})}, 2, "no text of sf, lf: see --ratio$"),
                                 (lambda i: {"txt": b"x"}, 1, "valid-000000.tar.*: 1 usable recordings of split 'valid'|: 1 usable")):
        path = captioned(tmp_path, "valid", count, form)
        with pytest.raises(UserError, match=message):
            first_recordings([path], "valid", ["sf", "lf"], 9, True)
    assert len(first_recordings([path], "train", ["lf"], 9, False)) == 1
    with pytest.raises(UserError, match="^no 'sf' text in an epoch of this reader.*first that was left out: valid-000000.tar/0: captions"):
        run(stream([path], ratio="sf=1"))


def test_where_shards_of_others_are_found(tmp_path):
    for name in ("train/1.tar", "train/0.tar.gz", "valid-x.tgz", "train-7.tar", "test/readme.txt", "trained.tar"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert find_shards(tmp_path) == [tmp_path / name for name in ("train/0.tar.gz", "train/1.tar", "train-7.tar")]
    assert find_shards(tmp_path, "valid") == [tmp_path / "valid-x.tgz"]
    for place in (tmp_path, tmp_path / "trained.tar"):
        with pytest.raises(UserError, match=r"rename shards of others to test-\*.tar \(.tar.gz, .tgz\), or move some to .*/test$"):
            find_shards(place, "test")


# ---- gzip --------------------------------------------------------------------------------------


def test_gzip_gives_the_same_samples(tmp_path):
    """Whatever the name, and as two streams of gzip in a row; the library agrees."""
    path, _ = three(tmp_path / "x.tar")
    wanted, packed = list(read_shard(path)), gzipped(path)
    whole, middle = path.read_bytes(), 3000
    (tmp_path / "y.tar").write_bytes(b"".join(gzip.compress(part) for part in (whole[:middle], whole[middle:])))
    for file in (packed, tmp_path / "y.tar"):
        assert list(read_shard(file)) == wanted and list(read_shard(file, 1)) == wanted[1:]
        assert list(read_shard(file, wanted={2})) == wanted[2:]
        assert [parts["wav"] for _, parts in read_shard(file, with_audio=False)] == [b""] * 3
    assert [{"__key__": key, **parts} for key, parts in wanted] == samples_of_library(library(), packed)


def test_a_truncated_or_flipped_gzip_keeps_what_came_before(tmp_path):
    path, starts = three(tmp_path / "x.tar")
    wanted = list(read_shard(path))
    packed = gzipped(path, 1)
    content, rng = packed.read_bytes(), np.random.default_rng(0)
    cuts = [content[:cut] for cut in range(2, len(content) - 300, 7)]
    for damaged in cuts + [content[:at] + bytes([content[at] ^ 1 << int(rng.integers(8))]) + content[at + 1:]
                           for at in rng.integers(2, len(content), 200)]:
        packed.write_bytes(damaged)
        notes, note = listen()
        found = list(read_shard(packed, on_skip=note))
        if damaged in cuts:
            complete = [pair for pair in found if len(pair[1]) == 2]
            assert complete == wanted[:len(complete)] and (notes or complete == wanted)
    assert len(list(read_shard(packed))) <= 3
    # a gzip file that is complete around a tar that is not: no part of a recording
    for cut in range(0, starts[3], 61):
        packed.write_bytes(gzip.compress(path.read_bytes()[:cut]))
        notes, note = listen()
        for (_, parts), (_, whole) in zip(read_shard(packed, on_skip=note), wanted):
            assert all(whole[ext] == content for ext, content in parts.items())
        assert notes


def test_a_gzip_bomb_fills_no_memory(tmp_path, monkeypatch):
    """A member of 600 MB of zeros in a small file, then a good sample: 100 times the file's size are not unpacked; where they would
    be, the member is skipped, a piece at a time."""
    size = 600 * 2**20
    big, good = tarfile.TarInfo("big.wav"), write_tar(tmp_path / "good.tar", ("0.wav", sound_bytes()), ("0.json", notes_bytes()))
    big.size = size
    path = tmp_path / "bomb.tar.gz"
    with gzip.open(path, "wb", 1) as file:
        file.write(big.tobuf())
        for _ in range(size // 2**20):
            file.write(bytes(2**20))
        file.write(good.read_bytes())
    for limit, left, message in ((100, [], f"claims {size} bytes at byte 512"), (1000, ["big", "0"], "a sample of more than 536870912")):
        monkeypatch.setattr(shard_reader, "UNPACKED", limit)
        notes, note = listen()
        tracemalloc.start()
        assert keys(path, note) == left
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 2**20 and message in next(iter(notes.values())), notes


def test_a_stream_over_gzip_goes_on_from_a_cursor(packed, tmp_path):
    """The batches of our own shards, packed with gzip: the same, also after a stop. index.json counts none of them."""
    for path in find_shards(packed):
        (tmp_path / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes(), 1, mtime=0))
    assert count_samples(find_shards(tmp_path)) is None
    plain, whole = run(stream(packed)), run(stream(tmp_path))
    for a, b in zip(plain, whole):
        assert a["ids"] == b["ids"] and torch.equal(a["waveforms"], b["waveforms"]) and torch.equal(a["tokens"], b["tokens"])
    cursors = json.loads(json.dumps({0: whole[4]["cursor"]}))
    rest = run(stream(tmp_path, cursors=cursors))
    assert len(rest) == 7 and all(same(a, b) for a, b in zip(rest, whole[5:]))
