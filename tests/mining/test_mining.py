"""The learned filter on small sets with a known result, and the command on whole manifests."""
import hashlib
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from docs import ROOT
from sklearn.metrics import accuracy_score, roc_auc_score

from mulan_min.data import read_manifest
from mulan_min.errors import UserError
from mulan_min.mining import __main__ as command
from mulan_min.mining import mine as mine_module
from mulan_min.mining.__main__ import main
from mulan_min.mining.mine import mine
from mulan_min.mining.relevance import TEST, TRAIN, judge, read_pairs, train_filter
from mulan_min.wordpiece import encode

sys.path.insert(0, str(ROOT / "tutorials"))
import measure_filter  # noqa: E402
from measure_filter import score  # noqa: E402

PLAYERS = "harp choir banjo violin organ flute piano trumpet".split()
THINGS = "jacket airport pizza haircut laptop camera ticket parking".split()
ABOUT = ("a slow {} with a soft beat", "the {} sounds warm and sad", "I like how the {} plays the tune")
OFF = ("where can I buy the {}", "my friend sent me this {}", "who paid for the {} in the end")


def toy_pairs(pick):
    """Labelled sentences about the players and things that the slice `pick` selects."""
    return [(label, frame.format(word)) for label, frames, words in ((1, ABOUT, PLAYERS), (0, OFF, THINGS))
            for word in words[pick] for frame in frames]


# ---- the learned filter ----------------------------------------------------------------


def test_filter_learns_what_can_be_learned_and_only_that():
    """The test sentences use words that the training sentences do not have. In the control the labels are shuffled."""
    train, test = toy_pairs(slice(0, 6)), toy_pairs(slice(6, 8))
    assert score(train_filter(train, 0, epochs=8), test) == {"accuracy": 1.0, "ROC-AUC": 1.0}
    accuracies = []
    for seed in range(6):
        shuffled = np.random.default_rng(seed).permutation([label for label, _ in train])
        control = [(int(label), sentence) for label, (_, sentence) in zip(shuffled, train)]
        accuracies.append(score(train_filter(control, seed, epochs=8), test)["accuracy"])
    assert 0.25 < np.mean(accuracies) < 0.75


def test_same_seed_gives_the_same_filter_and_torchs_random_state_is_unchanged():
    pairs, texts = toy_pairs(slice(0, 3)), ["a slow organ", "my laptop", "夜に駆ける"]
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first, again, other = (judge(train_filter(pairs, seed, epochs=2), texts) for seed in (0, 0, 1))
    assert torch.equal(torch.rand(1), expected)
    assert np.array_equal(first, again) and not np.allclose(first, other)


def test_a_probability_does_not_depend_on_the_other_texts_of_the_batch():
    relevance = train_filter(toy_pairs(slice(0, 3)), 0, epochs=2)
    texts = ["a slow organ", "my laptop " * 60, "", "harp"] * 20
    together = judge(relevance, texts)
    assert together.shape == (80,) and together.dtype == np.float64 and ((together > 0) & (together < 1)).all()
    assert together == pytest.approx([judge(relevance, [text])[0] for text in texts], abs=1e-5)
    assert judge(relevance, []).shape == (0,)


def test_unlabelled_texts_extend_the_vocabulary():
    pairs = toy_pairs(slice(0, 2))
    with_texts = train_filter(pairs, 0, texts=["zzyzx zzyzx zzyzx"] * 5, epochs=1)[1]
    assert with_texts.encode("zzyzx").tokens[1:-1] == ["zzyzx"]
    assert train_filter(pairs, 0, epochs=1)[1].encode("zzyzx").tokens[1:-1] == ["[UNK]"]


def tiny_bert(folder, words):
    """Saves a random BERT with a vocabulary of these words in the format of transformers -> the transformers model."""
    from transformers import BertConfig, BertModel
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *sorted(set(words))]
    torch.manual_seed(0)
    model = BertModel(BertConfig(vocab_size=len(vocabulary), hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
                                 intermediate_size=48, max_position_embeddings=40)).eval()
    model.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    return model


def test_warm_start_loads_the_bert_of_the_folder(tmp_path):
    """After training with a tiny learning rate, the hidden states still equal those of the transformers model."""
    pairs = toy_pairs(slice(0, 6))
    oracle = tiny_bert(tmp_path, " ".join(sentence.lower() for _, sentence in pairs).split())
    logged = []
    model, tokenizer = train_filter(pairs, 0, tmp_path, epochs=1, lr=1e-12, log=logged.append)
    assert "model.safetensors" in logged[0]
    ids, mask = encode(tokenizer, [pairs[0][1], "the harp"], 40)
    assert tokenizer.token_to_id("[UNK]") not in ids
    with torch.inference_mode():
        expected = oracle(input_ids=ids, attention_mask=mask.long()).last_hidden_state[:, 0]
        assert torch.allclose(model.bert(ids, mask)[:, 0], expected, atol=1e-5)
        assert torch.allclose(model(ids, mask), expected @ model.head.weight[0] + model.head.bias, atol=1e-5)
    moved, _ = train_filter(pairs, 0, tmp_path, epochs=1, lr=1e-3, log=logged.append)
    assert not torch.allclose(moved.bert.blocks[0].mlp.fc1.weight, model.bert.blocks[0].mlp.fc1.weight, atol=1e-4)
    with pytest.raises(UserError, match="config.json"):
        train_filter(pairs, 0, tmp_path / "none")


def test_scores_equal_those_of_scikit_learn(monkeypatch):
    rng = np.random.default_rng(0)
    labels, probabilities = rng.integers(0, 2, 50), rng.random(50).round(1)
    monkeypatch.setattr(measure_filter, "judge", lambda relevance, texts: probabilities)
    scores = score(None, [(int(label), "x") for label in labels])
    assert scores["accuracy"] == pytest.approx(accuracy_score(labels, probabilities >= 0.5))
    assert scores["ROC-AUC"] == pytest.approx(roc_auc_score(labels, probabilities))


@pytest.mark.parametrize("content, message", [
    ("1\tyes\n2\tno\n", "line 2"), ("1\tyes\n0 no\n", "line 2"), ("1\tyes\n\n0\tno", "line 2"), ("0\t \n", "line 1"),
    ("1\tyes\n1\tyes too\n", "both labels"), ("", "both labels")])
def test_errors_name_the_invalid_sentence_file(tmp_path, content, message):
    path = tmp_path / "pairs.tsv"
    path.write_text(content)
    with pytest.raises(UserError, match=rf"pairs\.tsv.*{message}"):
        read_pairs(path)
    path.write_bytes(b"1\t\xff\xfe\n")
    with pytest.raises(UserError, match="UTF-8"):
        read_pairs(path)


def test_the_labelled_sentences_of_the_package():
    train, test = read_pairs(TRAIN), read_pairs(TEST)
    assert (len(train), len(test)) == (700, 200)
    for pairs in (train, test):
        assert 0.45 < np.mean([label for label, _ in pairs]) < 0.55
    plain = [re.sub(r"\W+", " ", sentence.casefold()).strip() for _, sentence in train + test]
    assert len(set(plain)) == 900


# ---- from manifest to manifest ---------------------------------------------------------


TEXTS = {
    "a": {"sf": ["Otto – Waltz (Official Video) (1999)", "waltz, sad, harp, music", "Sad 🎹", "#viral"],
          "pl": ["for sad days (2009)!!", "For SAD days (2009)!!"], "aset": ["Waltz music"],
          "lf": ["The harp is slow and soft. Subscribe to my channel!", "where can I buy the jacket",
                 "0:00 Intro\nОчень тихий вальс 🎹 🔥"]},
    "b": {"sf": ["夜に駆ける【公式】"], "lf": ["first!", "🔥🔥🔥🔥"]},
    "c": {"sf": ["HD"], "lf": ["See https://x.y/z"]},
    "d": {"lf": ["The harp is slow and soft. So good. The harp is SLOW and soft."], "pl": []},
}
KEPT = {
    "a": {"sf": ["Otto – Waltz", "waltz", "sad", "harp"], "pl": ["for sad days (2009)!!", "For SAD days (2009)!!"],
          "lf": ["The harp is slow and soft.", "where can I buy the jacket", "Очень тихий вальс"], "aset": ["Waltz music"]},
    "b": {"sf": ["夜に駆ける"]},
    "d": {"lf": ["The harp is slow and soft."]},
}
DROPPED = [
    ("a", "sf", "stop-tags", "music"), ("a", "sf", "stop-tags", "viral"), ("a", "sf", "duplicate", "Sad"),
    ("a", "lf", "spam", "Subscribe to my channel!"), ("a", "lf", "time stamps", "0:00 Intro"),
    ("b", "lf", "spam", "first!"), ("b", "lf", "emoji flood", "🔥🔥🔥🔥"),
    ("c", "sf", "boilerplate", "HD"), ("c", "lf", "addresses", "See https://x.y/z"),
    ("d", "lf", "too short", "So good."), ("d", "lf", "duplicate", "The harp is SLOW and soft."),
]


@pytest.fixture
def collection(tmp_path):
    folder = tmp_path / "data" / "mine"
    (folder / "audio").mkdir(parents=True)
    elsewhere = tmp_path / "elsewhere.wav"
    elsewhere.write_bytes(b"a")
    rows = []
    for ident, text in TEXTS.items():
        (folder / "audio" / f"{ident}.wav").write_bytes(ident.encode())
        rows.append({"id": ident, "audio": str(elsewhere) if ident == "b" else f"audio/{ident}.wav",
                     "split": "test" if ident == "c" else "train", "text": text, "tags": ["waltz"], "start": 1.5,
                     "duration": 2.0, "note": "ours, \u2028"})
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    for name in mine_module.COPIED:
        (folder / name).write_text(f"[] {name}\n")
    (folder / "world.json").write_text("{}")
    return folder


def state(folder):
    """{path: (hash of the content, modification time)} of every file in a folder."""
    return {str(path.relative_to(folder)): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
            for path in sorted(folder.rglob("*")) if path.is_file()}


def texts_of(folder):
    return {recording.id: recording.text for recording in read_manifest(folder)}


def dropped_of(folder):
    lines = (folder / "dropped.tsv").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "recording\tsource\trule\ttext"
    return [tuple(line.split("\t")) for line in lines[1:]]


def test_a_manifest_is_cleaned(collection, tmp_path):
    before, out = state(collection), tmp_path / "far" / "away" / "out"
    report = mine(collection, out)
    assert state(collection) == before
    assert texts_of(out) == KEPT and dropped_of(out) == DROPPED
    rows = [json.loads(line) for line in (out / "manifest.jsonl").read_text(encoding="utf-8").split("\n") if line]
    assert rows[0] | {"text": 0} == {"id": "a", "audio": "../../../data/mine/audio/a.wav", "split": "train", "text": 0,
                                     "tags": ["waltz"], "start": 1.5, "duration": 2.0, "note": "ours, \u2028"}
    assert [recording.audio.read_bytes() for recording in read_manifest(out)] == [b"a", b"a", b"d"]
    assert rows[1]["audio"] == str(tmp_path / "elsewhere.wav")
    assert sorted(os.listdir(out)) == sorted(["manifest.jsonl", "dropped.tsv", *mine_module.COPIED])
    assert all((out / name).read_bytes() == (collection / name).read_bytes() for name in mine_module.COPIED)
    assert os.listdir(out.parent) == ["out"]
    assert "3 of 4 recordings" in report and "left out because they have no text: 1 test" in report


def test_the_report_counts(collection, tmp_path):
    """Counted by hand from TEXTS and KEPT."""
    report = mine(collection, tmp_path / "out").replace("-", " ").splitlines()
    lines = [line.split() for line in report]
    # SF before 5 + 4 + 1 + 1 + 4 (seven signs) + 1 words, after 2 + 1 + 1 + 1 + 3
    assert ["sf", "before", "3", "6", "2.7", "2.0"] in lines and ["after", "2", "5", "1.6", "2.5", "0.500"] in lines
    assert ["pl", "before", "1", "2", "4.0", "2.0"] in lines and ["after", "1", "2", "4.0", "2.0", "1.000"] in lines
    rules = {line.split("  ")[0]: line.split()[-2:] for line in report if re.match("(sf|lf) ", line)}
    assert rules["sf boilerplate"] == ["2", "1"] and rules["sf years"] == ["1", "0"] and rules["sf duplicate"] == ["0", "1"]
    assert rules["lf spam"] == ["0", "2"] and rules["lf sentences"] == ["3", "0"] and "lf shouting" not in rules


def test_cleaning_a_cleaned_collection_changes_nothing(collection, tmp_path):
    mine(collection, tmp_path / "once")
    mine(tmp_path / "once", tmp_path / "twice")
    assert texts_of(tmp_path / "twice") == texts_of(tmp_path / "once") and dropped_of(tmp_path / "twice") == []


def test_the_filter_judges_only_lf_and_uses_the_threshold(collection, tmp_path, monkeypatch):
    def fake_judge(relevance, texts):
        assert relevance == "filter" and texts == sorted(set(texts))
        return np.array([0.2 if "jacket" in text else 0.5 if "вальс" in text else 0.9 for text in texts])

    monkeypatch.setattr(mine_module, "judge", fake_judge)
    mine(collection, tmp_path / "half", "filter")
    assert texts_of(tmp_path / "half")["a"] == KEPT["a"] | {"lf": ["The harp is slow and soft.", "Очень тихий вальс"]}
    assert sorted(dropped_of(tmp_path / "half")) == sorted([*DROPPED, ("a", "lf", "filter", "where can I buy the jacket")])
    report = mine(collection, tmp_path / "strict", "filter", threshold=0.6)
    assert texts_of(tmp_path / "strict")["a"]["lf"] == ["The harp is slow and soft."] and "lf filter" in report
    assert "lf" not in {source for ident, text in texts_of(mined(collection, tmp_path / "none", 1.0)).items() for source in text}


def mined(folder, out, threshold):
    mine(folder, out, "filter", threshold)
    return out


def test_join_makes_one_text_of_a_comment(collection, tmp_path):
    rewrite(collection, {"sf": ["a, b, c"], "lf": ["The harp is slow. Subscribe to us! The choir is very loud.",
                                                   "the choir is very loud."]})
    mine(collection, tmp_path / "out", join=True)
    assert texts_of(tmp_path / "out")["a"] == {"sf": ["a", "b", "c"], "lf": ["The harp is slow. The choir is very loud.",
                                                                             "the choir is very loud."]}


def rewrite(collection, text, ident="a"):
    """Replaces the manifest by one with a single recording."""
    row = {"id": ident, "audio": "audio/a.wav", "split": "train", "text": text}
    (collection / "manifest.jsonl").write_text(json.dumps(row) + "\n")


def test_every_text_of_a_world_is_accounted_for(small_world, tmp_path):
    """In the demo world, the kept words and the words in dropped.tsv together are exactly the words of each recording. Time
    stamps are the exception: they are cut out of sentences."""
    world = tmp_path / "world"
    world.mkdir()
    rows = [json.loads(line) for line in open(f"{small_world}/manifest.jsonl", encoding="utf-8")]
    for row in rows:
        row["audio"] = f"{small_world}/{row['audio']}"
    (world / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    mine(world, tmp_path / "out")
    kept, dropped = texts_of(tmp_path / "out"), dropped_of(tmp_path / "out")
    assert len(dropped) > 100 and len(kept) == len(rows)

    def words(texts):
        return sorted(re.findall(r"\w+", re.sub(r" at \d:\d\d", "", " ".join(texts))))

    for row in rows:
        for source in ("pl", "aset"):
            assert kept[row["id"]].get(source) == row["text"].get(source)
        for source in ("sf", "lf"):
            lost = [text for ident, s, _, text in dropped if (ident, s) == (row["id"], source)]
            assert words(kept[row["id"]].get(source, []) + lost) == words(row["text"].get(source, []))


def test_an_existing_or_overlapping_out_is_refused(collection, tmp_path):
    before = state(tmp_path)
    full = tmp_path / "full"
    full.mkdir()
    (full / "x").write_text("x")
    link = tmp_path / "link"
    link.symlink_to(collection, target_is_directory=True)
    for out, message in ((collection, "outside"), (collection / "out", "outside"), (link / "out", "outside"),
                         (collection.parent, "outside"), (full, "exists already"),
                         (collection / "manifest.jsonl", "outside"), (full / "x", "exists already")):
        with pytest.raises(UserError, match=message):
            mine(collection, out)
    (full / "x").unlink()
    full.rmdir()
    link.unlink()
    assert state(tmp_path) == before and os.listdir(tmp_path / "data") == ["mine"]


def test_a_failure_leaves_nothing_behind(collection, tmp_path, monkeypatch):
    def full_disk(*_):
        raise OSError("no space left")

    monkeypatch.setattr(mine_module.shutil, "copyfile", full_disk)
    with pytest.raises(UserError, match="out: cannot be made.*no space left"):
        mine(collection, tmp_path / "new" / "out")
    assert os.listdir(tmp_path / "new") == []
    monkeypatch.undo()
    rewrite(collection, {"sf": ["HD"]})
    with pytest.raises(UserError, match="no recording has a text left"):
        mine(collection, tmp_path / "new" / "out")
    assert os.listdir(tmp_path / "new") == []


def test_invalid_unicode_tabs_and_an_existing_empty_folder(collection, tmp_path):
    """Lone surrogates and tabs in texts and ids are written. OUT may be an empty folder."""
    rewrite(collection, {"sf": ["\ud83c waltz\tsad", "\ud83c"], "pl": ["\ud83c"]}, "x\ty")
    (tmp_path / "out").mkdir()
    mine(collection, tmp_path / "out")
    assert texts_of(tmp_path / "out") == {"x\ty": {"sf": ["waltz sad"], "pl": ["\ud83c"]}}
    assert len(dropped_of(tmp_path / "out")) == 1 and len(dropped_of(tmp_path / "out")[0]) == 4


# ---- the command line ------------------------------------------------------------------


@pytest.fixture
def toy_files(tmp_path, monkeypatch):
    for name, pick, modules in (("TRAIN", slice(0, 6), (command, measure_filter)), ("TEST", slice(6, 8), (measure_filter,))):
        path = tmp_path / f"toy_{name.lower()}.tsv"
        path.write_text("".join(f"{label}\t{sentence}\n" for label, sentence in toy_pairs(pick)))
        for module in modules:
            monkeypatch.setattr(module, name, path)


def test_the_command_applies_the_learned_filter(collection, tmp_path, capsys, toy_files):
    for out in ("one", "two"):
        main([str(collection), str(tmp_path / out), "--filter", "--seed", "3"])
    assert "lf filter" in capsys.readouterr().out
    assert texts_of(tmp_path / "one")["a"]["lf"][0] == "The harp is slow and soft."
    assert ("a", "lf", "filter", "where can I buy the jacket") in dropped_of(tmp_path / "one")
    for name in ("manifest.jsonl", "dropped.tsv"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_measure_filter_prints_each_seed_the_mean_and_the_hidden_truth(tmp_path, capsys, toy_files, monkeypatch):
    truth = toy_pairs(slice(6, 8)) + [(1, ABOUT[0].format("vibraphone"))]
    rows = [{"id": "a", "text": sentence, "about_music": bool(label)} for label, sentence in truth]
    (tmp_path / "lf_truth.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    measure_filter.main(["--data", str(tmp_path), "--seeds", "0", "1"])
    printed = capsys.readouterr().out.splitlines()
    assert "from scratch, 36 sentences" in printed[0] and "seed 0  seed 1" in printed[1]
    lines = [line.split() for line in printed]
    assert ["toy_test.tsv", "accuracy", "1.000", "1.000", "1.000", "0.000", "0.500"] in lines
    assert any(line[:3] == ["13", "of", "lf_truth.jsonl"] and line[-1] == "0.538" for line in lines)     # 7 of 13 about music
    scores = iter([0.5, 0.7])
    monkeypatch.setattr(measure_filter, "train_filter", lambda *_, **__: None)
    monkeypatch.setattr(measure_filter, "score", lambda *_: {"ROC-AUC": next(scores)})
    measure_filter.evaluate([0, 1])
    assert capsys.readouterr().out.split()[-6:] == ["ROC-AUC", "0.500", "0.700", "0.600", "0.141", "0.500"]


@pytest.mark.parametrize("run, arguments, message", [
    (main, ["none", "out"], "none/manifest.jsonl: no such file"), (main, ["none", "out", "--threshold", "2"], "--threshold 2"),
    (main, ["none", "out", "--seed", "-1"], "--seed -1"), (measure_filter.main, ["--seeds", "0", "-1"], "--seeds must be"),
    (measure_filter.main, ["--data", "none"], "none/lf_truth.jsonl: cannot be read"),
    (measure_filter.main, ["--text-init", "none"], "none/config.json")])
def test_errors_are_one_line(tmp_path, monkeypatch, run, arguments, message, toy_files):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message) as error:
        run(arguments)
    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()


def test_an_error_is_exit_code_two(tmp_path):
    mining, script = ["-m", "mulan_min.mining"], [str(ROOT / "tutorials" / "measure_filter.py")]
    for arguments, message in (([*mining, "none", "out"], "none/manifest.jsonl: no such file"),
                               ([*mining, "none"], "required: OUT"),
                               ([*script, "--data", "none"], "none/lf_truth.jsonl: cannot be read")):
        done = subprocess.run([sys.executable, *arguments], cwd=tmp_path, text=True, timeout=300,
                              env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True)
        assert done.returncode == 2 and message in done.stderr.splitlines()[-1] and "Traceback" not in done.stderr
    assert os.listdir(tmp_path) == []
