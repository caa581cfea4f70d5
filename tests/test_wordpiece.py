"""Oracles: the two BERT tokenizers of transformers (one is plain Python), with a vocabulary file that we write."""
import json
import os
import subprocess
import sys

import pytest
import torch

from mulan_min.errors import UserError
from mulan_min.wordpiece import encode, load_wordpiece, train_wordpiece

TEXTS = ["a slow sad piano waltz", "fast techno for the gym", "Sad songs, slow dances",
         "café music for late nights", "banjo & fiddle: folk dances", "drum and bass 174 bpm",
         "the saddest waltz of all"]
UNUSUAL = ["", " ", "Café CRÈME naïve Ångström", "cafe\u0301 (combining)", "日本の音楽 waltz", "don't-stop!!! ...",
       "🎵🎶 sad 🎹piano", "a" * 150, "saddest" * 30, "tab\tnew\nline\r\u00a0nbsp\u200bzero\x00nul\x07bell\ufffd",
       "İstanbul STRASSE ß", "½ №5 ²", "한국어 노래", "नमस्ते", "Привет мир", "[SEP] [PAD] [MASK] in the text",
       "$10 ^caret `tick` a_b", "—dash–dash…", "ﬁne ﬂute"]


@pytest.fixture
def vocabulary(tmp_path):
    """A vocab.txt in BERT's order: some whole words, all Latin letters, and some characters of other scripts."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789ßı"
    others = "日本音楽한नमप мир½№²♪🎵$^`_—…'!.,-&:[]()"
    pieces = ["[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *others.replace(" ", ""),
              "sad", "##dest", "##est", "piano", "waltz", "cafe", "cre", "##me", "##ing", "при", "##вет", "tab",
              "line", "fine"]
    pieces += ["##" + letter for letter in letters]
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(pieces) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("kind", ["Fast", "Legacy"])
def test_equals_transformers(kind, vocabulary):
    transformers = pytest.importorskip("transformers", reason="the oracle is transformers' BERT tokenizer")
    if kind == "Fast":
        theirs = transformers.BertTokenizerFast(vocab=str(vocabulary))
    else:
        legacy = pytest.importorskip("transformers.models.bert.tokenization_bert_legacy",
                                     reason="this transformers has no tokenizer in plain Python")
        theirs = legacy.BertTokenizerLegacy(str(vocabulary))
    tokenizer = load_wordpiece(vocabulary)
    for max_tokens in (512, 7):
        ids, mask = encode(tokenizer, UNUSUAL, max_tokens)
        expected = theirs(UNUSUAL, padding=True, truncation=True, max_length=max_tokens, return_tensors="pt")
        for text, ours, reference in zip(UNUSUAL, ids.tolist(), expected["input_ids"].tolist()):
            assert ours == reference, text
        assert torch.equal(mask, expected["attention_mask"].bool())


def test_encoding_by_hand(vocabulary):
    ids, mask = encode(load_wordpiece(vocabulary), ["Saddest wálTz", "sad", ""], 16)
    pieces = vocabulary.read_text(encoding="utf-8").split("\n")
    assert [[pieces[i] for i in row] for row in ids.tolist()] == [
        ["[CLS]", "sad", "##dest", "waltz", "[SEP]"], ["[CLS]", "sad", "[SEP]", "[PAD]", "[PAD]"],
        ["[CLS]", "[SEP]", "[PAD]", "[PAD]", "[PAD]"]]
    assert mask.sum(1).tolist() == [5, 3, 2] and ids.dtype == torch.int64 and mask.dtype == torch.bool


def test_encoding_does_not_depend_on_the_batch():
    tokenizer = train_wordpiece(TEXTS, 120)
    ids, mask = encode(tokenizer, TEXTS + UNUSUAL, 64)
    for text, row, real in zip(TEXTS + UNUSUAL, ids, mask):
        assert torch.equal(encode(tokenizer, [text], 64)[0][0], row[real])


def test_encoding_leaves_the_tokenizer_unchanged_and_accepts_an_empty_list():
    tokenizer = train_wordpiece(TEXTS, 120)
    before = tokenizer.to_str()
    for texts in (TEXTS, []):
        ids, mask = encode(tokenizer, texts, 6)
        assert ids.shape == mask.shape == (len(texts), 6 if texts else 2) and (ids.dtype, mask.dtype) == (torch.int64, torch.bool)
    assert tokenizer.to_str() == before  # checkpoints save it


def test_trained_vocabulary():
    tokenizer = train_wordpiece(TEXTS, 90)
    vocabulary = tokenizer.get_vocab()
    assert vocabulary["[PAD]"] == 0 and sorted(vocabulary.values()) == list(range(90))
    assert "[UNK]" not in [t for row in tokenizer.encode_batch(TEXTS) for t in row.tokens]
    assert len(tokenizer.encode("waltz dances").tokens) < 2 + len("waltzdances")  # merges were learned
    assert tokenizer.encode("##a").tokens != ["[CLS]", "##a", "[SEP]"]  # "##a" is a piece, and not a word


def test_training_is_the_same_in_every_process():
    """The trainer of `tokenizers` uses hash maps with a new seed in each process; without our remedy this test fails."""
    code = ("import random; from mulan_min.wordpiece import train_wordpiece as t; r = random.Random(0);"
            "w = [''.join(r.choices('abcdefgh', k=5)) for _ in range(300)];"
            "print(t([' '.join(w)], 200).to_str())")
    first, second = (subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                                    env={**os.environ, "RAYON_NUM_THREADS": threads}).stdout
                     for threads in ("1", "2"))
    assert first == second and len(json.loads(first)["model"]["vocab"]) == 200


def test_saved_and_loaded_is_the_same(tmp_path):
    tokenizer = train_wordpiece(TEXTS, 100)
    before = encode(tokenizer, UNUSUAL, 9)
    (tmp_path / "tokenizer.json").write_text(tokenizer.to_str(pretty=True), encoding="utf-8")
    after = encode(load_wordpiece(tmp_path / "tokenizer.json"), UNUSUAL, 9)
    assert torch.equal(before[0], after[0]) and torch.equal(before[1], after[1])


def test_padding_and_truncation_stored_in_a_file_are_ignored(tmp_path):
    tokenizer = train_wordpiece(TEXTS, 100)
    expected = encode(tokenizer, TEXTS, 32)
    tokenizer.enable_padding(length=40, pad_id=3, pad_token="[SEP]")
    tokenizer.enable_truncation(4)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    loaded = load_wordpiece(tmp_path / "tokenizer.json")
    assert loaded.padding is None and loaded.truncation is None
    for ours, theirs in zip(encode(loaded, TEXTS, 32), expected):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("odd", ["\x85", "\u2028", "\x0b"])
def test_a_line_of_a_vocabulary_ends_at_a_line_feed_alone(tmp_path, odd):
    """Else the numbers of all later pieces would be wrong."""
    (tmp_path / "vocab.txt").write_text(f"[PAD]\n[UNK]\n[CLS]\n[SEP]\n{odd}x\nwaltz\n", encoding="utf-8")
    assert load_wordpiece(tmp_path).token_to_id("waltz") == 5


def test_an_unpaired_surrogate_becomes_a_question_mark():
    tokenizer = train_wordpiece([*TEXTS, "what \ud83c ?"], 100)
    surrogate, expected = (encode(tokenizer, [f"sad {mark} waltz"], 32)[0] for mark in ("\ud83c", "?"))
    assert torch.equal(surrogate, expected)


@pytest.mark.parametrize("name, content, message", [
    ("vocab.txt", None, "vocab.txt: .*No such file"),
    ("tokenizer.json", "{not json", "tokenizer.json: not a"),
    ("vocab.txt", "[PAD]\n[UNK]\n[CLS]\na\n", r"vocab.txt: \[SEP\] missing"),
    ("vocab.txt", "[PAD]\n[UNK]\n[CLS]\n[SEP]\na\na\n", "vocab.txt: the same piece"),
    ("vocab.txt", b"\xff\xfe\x00", "vocab.txt: not a")])
def test_bad_files_are_refused(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message):
        load_wordpiece(tmp_path / name)


@pytest.mark.parametrize("texts, max_tokens, message", [
    ("one string", 32, "list of strings"), (["a", None], 32, "list of strings"),
    (["a"], 2, "max_tokens is 2")])
def test_bad_arguments_are_refused(texts, max_tokens, message):
    with pytest.raises(UserError, match=message):
        encode(train_wordpiece(TEXTS, 60), texts, max_tokens)


def test_a_trained_vocabulary_knows_no_case_and_no_accents():
    tokenizer = train_wordpiece([*TEXTS, "SLOW Waltz", "CAFÉ"], 120)
    pieces = set(tokenizer.get_vocab()) - {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"}
    assert all(piece == piece.lower() for piece in pieces) and "é" not in pieces
    upper, lower = (encode(tokenizer, texts, 32)[0] for texts in (["SAD Piano", "CAFÉ Waltz"], ["sad piano", "cafe waltz"]))
    assert torch.equal(upper, lower) and tokenizer.token_to_id("[UNK]") not in lower
