"""Manifests, windows and batches on small real folders."""
import json
import unicodedata
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from mulan_min import data
from mulan_min.config import TOWERS, resolve
from mulan_min.contrastive import encode_texts
from mulan_min.data import Batches, Recording, clip_seconds, collate, read_clip_window, read_manifest
from mulan_min.errors import UserError
from mulan_min.labels import label_table, labels_of, with_tags
from mulan_min.loader import check_skipped, loader
from mulan_min.mulan import MuLan
from mulan_min.wordpiece import train_wordpiece

RATE = 16000


def ramp(seconds, level):
    """A signal whose value tells its time: level + t / 10, which is 6e-6 from one sample to the next."""
    return (level + np.arange(round(seconds * RATE)) / RATE / 10).astype(np.float32)


def make_folder(folder, count=8, seconds=3.0, **changes):
    """`count` recordings; recording i is a ramp that starts at i / 20."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for i in range(count):
        soundfile.write(folder / f"{i}.wav", ramp(seconds, i / 20), RATE, subtype="FLOAT")
        rows.append({"id": f"r{i}", "audio": f"{i}.wav", "split": "train", "tags": ["secret"],
                     "text": {s: [f"{s} words of number{i}"] for s in ("sf", "lf", "pl", "aset")}, **changes})
    write_rows(folder, rows)
    return rows


def write_rows(folder, rows):
    (folder / "manifest.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))


def make_batches(folder, **typed):
    config = resolve({"preset": "smoke", "batch_size": 6, "seconds": 1.0, "steps": 40, "workers": 0, **typed})
    recordings = data.read_collection([folder], "train")
    tokenizer = train_wordpiece([t for r in recordings for ts in r.text.values() for t in ts], 200)
    return Batches(recordings, config, partial(encode_texts, tokenizer, config.text.max_tokens))


@pytest.mark.parametrize("change, message", [
    ("{not json", "not JSON"), ("[1]", "must be a JSON object"),
    ({"id": ""}, "key 'id'"), ({"audio": None}, "key 'audio'"), ({"text": "x"}, "key 'text'"), ({"split": "dev"}, "split 'dev'"),
    ({"id": "r0"}, "id 'r0' occurs in line 1 already"), ({"audio": "none.wav"}, "none.wav is not there"),
    ({"text": {"sf": [" "]}}, "text 'sf'"), ({"text": {"sf": "words"}}, "text 'sf'"), ({"tags": "waltz"}, "tags"),
    ({"start": -1}, "start and duration"), ({"start": 10**400}, "start and duration"), ({"duration": 0}, "start and duration"), ({"start": float("nan")}, "start"),
])
def test_errors_name_the_file_and_the_line(tmp_path, change, message):
    rows = make_folder(tmp_path, 3)
    bad = change if isinstance(change, str) else json.dumps({**rows[2], **change})
    (tmp_path / "manifest.jsonl").write_text("\n".join([json.dumps(rows[0]), json.dumps(rows[1]), "", bad]))
    with pytest.raises(UserError, match=r"manifest.jsonl, line 4: ") as error:
        read_manifest(tmp_path)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_empty_and_missing_manifests(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        read_manifest(tmp_path)
    (tmp_path / "manifest.jsonl").write_text("\n")
    with pytest.raises(UserError, match="no recordings"):
        read_manifest(tmp_path)
    make_folder(tmp_path)
    with pytest.raises(UserError, match="no recording with split 'test'"):
        data.read_collection([tmp_path], "test")


def test_a_clip_out_of_a_long_file(tmp_path):
    make_folder(tmp_path, 1, seconds=5.0, start=2.0, duration=2.0)
    recording = read_manifest(tmp_path)[0]
    assert clip_seconds(recording) == 2.0
    for place, begins in ((0.0, 2.0), (0.5, 2.5), (1.0, 3.0)):
        assert read_clip_window(recording, 1.0, RATE, place) == pytest.approx(ramp(6, 0)[int(begins * RATE):][:RATE], abs=1e-6)
    whole = read_clip_window(recording, 3.0, RATE, 0.3)                     # longer than the clip: nothing beyond it is heard
    assert whole[:2 * RATE] == pytest.approx(ramp(6, 0)[2 * RATE:4 * RATE], abs=1e-6) and not whole[2 * RATE:].any()


def test_a_clip_that_claims_more_than_its_file_ends_with_it(tmp_path):
    make_folder(tmp_path, 1, seconds=5.0, start=2.0, duration=60.0)
    recording = read_manifest(tmp_path)[0]
    assert clip_seconds(recording) == 3.0
    assert read_clip_window(recording, 1.0, RATE, 1.0) == pytest.approx(ramp(5, 0)[4 * RATE:], abs=1e-6)


def test_audio_and_text_of_a_pair_belong_together_and_windows_are_spread(tmp_path):
    make_folder(tmp_path)
    batches = make_batches(tmp_path)
    starts, tokenizer = [], batches.make_targets.args[0]
    for step in range(40):
        item = batches[step]
        words = [tokenizer.decode(row.tolist()) for row in item["tokens"]]
        for wave, ident, text in zip(item["waveforms"], item["ids"], words):
            number = int(ident[1:])
            assert text.replace(" ", "").endswith(f"number{number}")
            starts.append((wave[0].item() - number / 20) * 10)
    assert 0 <= min(starts) < 0.2 and 1.8 < max(starts) <= 2.0 and 0.9 < np.mean(starts) < 1.1
    assert "secret" not in tokenizer.get_vocab()


def test_all_texts_of_a_recording_are_drawn_equally_often(tmp_path):
    rows = make_folder(tmp_path, 4, seconds=1.0)
    for row in rows:
        row["text"] = {source: [f"{texts[0]} {word}" for word in ("one", "two", "three")] for source, texts in row["text"].items()}
    write_rows(tmp_path, rows)
    batches, drawn = make_batches(tmp_path, seconds=0.1, steps=600), Counter()
    batches.make_targets = lambda recordings, texts: drawn.update(texts) or {}
    for step in range(600):
        batches[step]
    shares = {"sf": 2, "lf": 2, "pl": 1, "aset": 1}      # of 600 each, over 4 recordings x 3 texts
    expected = np.array([600 * shares[text.split()[0]] / 12 for text in sorted(drawn)])
    counts = np.array([drawn[text] for text in sorted(drawn)])
    assert len(drawn) == 4 * 4 * 3 and ((counts - expected) ** 2 / expected).sum() < 66      # chi-square, 32 degrees of freedom


def test_batch_is_a_function_of_the_step_whatever_the_workers(tmp_path):
    make_folder(tmp_path)
    direct = make_batches(tmp_path)
    for workers in (0, 2):
        for step, item in zip(range(30, 34), loader(make_batches(tmp_path), 30, workers)):
            again = direct[step]
            assert item["ids"] == again["ids"] and torch.equal(item["waveforms"], again["waveforms"])
            assert torch.equal(item["tokens"], again["tokens"])


@pytest.mark.parametrize("tower", TOWERS)
def test_readers_make_the_spectrograms_that_the_tower_would_make(tmp_path, tower):
    make_folder(tmp_path)
    plain = make_batches(tmp_path, audio=tower)
    model = MuLan(plain.config, plain.make_targets.args[0]).eval()
    batches = make_batches(tmp_path, audio=tower)
    batches.front_end = model.audio.spectrogram
    for workers in (0, 2):      # they compute with one thread each, the tower with several
        for step, item in zip(range(30, 32), loader(batches, 30, workers)):
            waves = plain[step]["waveforms"]
            assert "waveforms" not in item and "spectrograms" not in plain[step]
            assert item["spectrograms"].dim() == 3 and torch.equal(item["spectrograms"], model.audio.spectrogram(waves))
            with torch.no_grad():
                assert torch.equal(model.audio(item["spectrograms"]), model.audio(waves))


def test_ranks_take_slices_of_the_same_batch(tmp_path):
    make_folder(tmp_path)
    whole = make_batches(tmp_path)
    parts = [Batches(whole.recordings, whole.config, whole.make_targets, rank, 4) for rank in range(4)]
    pairs = [[(ident, waveform.numpy().tobytes()) for item in items for ident, waveform in zip(item["ids"], item["waveforms"])]
             for items in ([part[3] for part in parts], [whole[3]])]
    assert sorted(pairs[0]) == sorted(pairs[1]) and len(pairs[0]) == 6      # each slice is sorted by itself


def test_unreadable_recordings_are_replaced_and_named(tmp_path):
    rows = make_folder(tmp_path)
    (tmp_path / "3.wav").write_bytes(b"this is not audio at all")
    soundfile.write(tmp_path / "5.wav", np.full(3 * RATE, np.nan, np.float32), RATE, subtype="FLOAT")
    batches = make_batches(tmp_path)
    seen = set()
    for step in range(40):
        item = batches[step]
        assert len(item["waveforms"]) == 6 and torch.isfinite(item["waveforms"]).all()
        seen |= set(item["ids"])
    assert seen == {row["id"] for row in rows} - {"r3", "r5"}
    skipped = batches[39]["skipped"]
    assert skipped.keys() == {"r3", "r5"} and "3.wav" in skipped["r3"] and "5.wav: NaN" in skipped["r5"]
    fresh = make_batches(tmp_path)[39]                                     # history does not change a batch
    assert fresh["ids"] == batches[39]["ids"] and torch.equal(fresh["waveforms"], batches[39]["waveforms"])
    with pytest.raises(UserError, match="2 of 8 recordings cannot be read, more than 1%.*3.wav"):
        check_skipped(skipped, 8)
    check_skipped(skipped, 200)


def test_a_half_damaged_recording_is_the_same_whatever_was_read_before(tmp_path):
    """Its last second is NaN: some windows are good, some are not, and a batch must not depend on which came first."""
    make_folder(tmp_path, 8, 4.0)
    sound, _ = soundfile.read(tmp_path / "3.wav", dtype="float32")
    sound[-RATE:] = np.nan
    soundfile.write(tmp_path / "3.wav", sound, RATE, subtype="FLOAT")
    walked = make_batches(tmp_path)
    forward = [walked[step] for step in range(40)]
    assert forward[-1]["skipped"].keys() == {"r3"} and any("r3" in item["ids"] for item in forward[20:])
    for step in (39, 31, 20):
        alone = make_batches(tmp_path)[step]
        assert alone["ids"] == forward[step]["ids"] and torch.equal(alone["waveforms"], forward[step]["waveforms"])


def test_keys_are_equal_for_one_clip_alone(tmp_path):
    """Four recordings in batches of six: some occur twice. The same id in another collection, or another clip of the same file, has
    another key. A path may hold what UTF-8 cannot."""
    make_folder(tmp_path, 4)
    item = make_batches(tmp_path)[3]
    same = torch.tensor([[a == b for b in item["ids"]] for a in item["ids"]])
    assert torch.equal(item["keys"][:, None] == item["keys"], same) and 6 < same.sum() < 36
    clips = [Recording("a", tmp_path / name, "train", {}, [], start) for name, start in (("0", 0.0), ("1", 0.0), ("0", 0.5), ("\udcff", 0.0))]
    keys = collate([ramp(1, 0)] * 4, clips, ["x"] * 4, lambda *_: {}, None)["keys"]
    assert keys.dtype == torch.int64 and len(keys.unique()) == 4


def test_pairs_are_sorted_by_their_tokens_and_stay_together(tmp_path):
    make_folder(tmp_path)
    batches = make_batches(tmp_path)
    recordings, texts = batches.recordings[:4], ["sf words of number0", "x", "number2 number2 words of of of", "words"]
    item = collate([ramp(1, i / 20) for i in range(4)], recordings, texts, batches.make_targets, None)
    assert item["mask"].sum(1).tolist() == sorted(item["mask"].sum(1).tolist()) and len(item["mask"].sum(1).unique()) > 2
    for ident, waveform, tokens in zip(item["ids"], item["waveforms"], item["tokens"]):
        i = int(ident[1:])
        assert waveform[0] == pytest.approx(i / 20)
        assert torch.equal(tokens[tokens > 0], torch.tensor(batches.make_targets.args[0].encode(texts[i]).ids))


def test_nothing_readable_is_one_line_even_from_a_worker(tmp_path):
    make_folder(tmp_path, 2)
    for i in range(2):
        (tmp_path / f"{i}.wav").write_bytes(b"")
    with pytest.raises(UserError, match="^no recording of source '.*' can be read; the first: .*wav: the file is empty$"):
        next(iter(loader(make_batches(tmp_path), 0, 1)))


def test_shuffled_pairs_keep_audio_and_texts_but_break_the_pairs(tmp_path):
    make_folder(tmp_path, 40)
    recordings = read_manifest(tmp_path)
    shuffled = data.shuffle_pairs(recordings, 0)
    assert [r.id for r in shuffled] == [r.id for r in recordings]
    assert sorted(str(r.text) for r in shuffled) == sorted(str(r.text) for r in recordings)
    assert sum(a.text == b.text for a, b in zip(shuffled, recordings)) < 5
    assert [r.text for r in data.shuffle_pairs(recordings, 0)] == [r.text for r in shuffled]


def test_labels_of_sources_and_tags():
    """Lists in texts are taken apart, tags are not; a label counts once."""
    text = {"aset": ["Violin, fiddle", "Sad music, Fast", "Fast , "], "sf": ["x"]}
    [r] = with_tags([Recording("a", Path("a.wav"), "train", text, ["Violin, fiddle"])])
    assert labels_of(r, ["aset"]) == {"Violin, fiddle", "Fast", "Sad music"} and labels_of(r, ["tags"]) == {"Violin, fiddle"}
    table = label_table([r, replace(r, text={})], ["Fast", "Violin", "Violin, fiddle", "other"], ["aset", "tags"])
    assert table.tolist() == [[1, 0, 1, 0], [0, 0, 0, 0]]


@pytest.mark.parametrize("written, on_disk", [("NFC", "NFD"), ("NFD", "NFC")])
def test_accents_in_file_names_may_have_the_other_form(tmp_path, written, on_disk):
    name, row = "Café déjà/Ünder.wav", {"id": "a", "split": "train", "text": {}}
    file = tmp_path / unicodedata.normalize(on_disk, name)
    file.parent.mkdir()
    file.write_bytes(b"sound")
    (tmp_path / "manifest.jsonl").write_text(json.dumps(row | {"audio": unicodedata.normalize(written, name)}) + "\n")
    assert data.read_manifest(tmp_path)[0].audio == file
    (tmp_path / "manifest.jsonl").write_text(json.dumps(row | {"audio": "Cafe.wav"}) + "\n")
    with pytest.raises(UserError, match="line 1: audio file .*Cafe.wav is not there"):
        data.read_manifest(tmp_path)


@pytest.mark.parametrize("total, tolerated", [(99, 0), (100, 1), (199, 1), (200, 2), (350, 3)])
def test_one_recording_in_a_hundred_may_be_unreadable(total, tolerated):
    check_skipped({str(i): "no audio" for i in range(tolerated)}, total)
    message = f"^{tolerated + 1} of {total} recordings cannot be read, more than 1%: no audio.*; take .* with --check, which leaves them out$"
    with pytest.raises(UserError, match=message):
        check_skipped({str(i): "no audio" for i in range(tolerated + 1)}, total)
