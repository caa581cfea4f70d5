"""The text warm-up: its target by hand, and what it is for."""
import numpy as np
import pytest
import torch

from mulan_min.config import resolve
from mulan_min.mulan import MuLan
from mulan_min.text_warmup import warm_up_text, word_shares
from mulan_min.wordpiece import train_wordpiece


def test_word_shares_by_hand():
    tokenizer = train_wordpiece(["sad waltz", "a sad slow waltz"] * 5, 100)
    shares = word_shares(tokenizer, ["sad", "slow slow waltz sad", "waltz"])
    share = {word: shares[tokenizer.token_to_id(word)].item() for word in ("sad", "slow", "waltz")}
    assert share == pytest.approx({"sad": (1 + 1 / 4) / 3, "slow": (2 / 4) / 3, "waltz": (1 / 4 + 1) / 3}, abs=1e-6)
    assert shares.sum().item() == pytest.approx(1, abs=1e-6)


def test_words_for_the_same_meet_and_empty_words_fade():
    """Two ways to say one thing occur with the same recordings and never in one text: their embeddings must meet. Words said
    of any recording must not matter."""
    things = ["waltz threefour", "techno warehouse", "piano ivories", "banjo fivestring", "sad tearful", "happy joyous"]
    pairs = [thing.split() for thing in things]
    fillers = "well now then here".split()
    rng = np.random.default_rng(0)
    groups = []
    for _ in range(300):
        chosen = rng.choice(len(pairs), 2, replace=False)
        groups.append([" ".join(rng.permutation([pairs[i][rng.integers(2)] for i in chosen] + [str(rng.choice(fillers))]))
                       for _ in range(6)])
    config = resolve({"preset": "smoke", "text_warmup": 250, "text_warmup_lr": 3e-3, "batch_size": 48, "precision": "fp32"})
    torch.manual_seed(0)
    model = MuLan(config, train_wordpiece([text for group in groups for text in group], 200)).train()
    warm_up_text(model, groups, config, torch.device("cpu"), log=lambda line: None)
    one, other = (model.embed_text([pair[side] for pair in pairs]) for side in (0, 1))
    cosines = one @ other.T
    same = torch.eye(len(pairs), dtype=torch.bool)
    assert cosines[same].min() > cosines[~same].max() + 0.1
    plain, filled = model.embed_text(["sad piano"] * 4), model.embed_text([f"{word} sad piano" for word in fillers])
    assert (plain * filled).sum(1).min() > 0.9


def test_the_words_of_a_text_can_be_predicted_from_a_unit_vector_with_confidence():
    """Eight recordings with one word each: the loss falls from ln 8 to almost 0 within 60 steps."""
    words, lines = "waltz techno piano banjo sad happy slow fast".split(), []
    config = resolve({"preset": "smoke", "text_warmup": 60, "text_warmup_lr": 3e-3, "batch_size": 48, "precision": "fp32"})
    torch.manual_seed(0)
    model = MuLan(config, train_wordpiece(words * 5, 200)).train()
    warm_up_text(model, [[word] for word in words], config, torch.device("cpu"), log=lines.append)
    losses = [float(line.split("word loss ")[1].split()[0]) for line in lines]
    assert len(lines) == 4 and all("by frequency alone 2.08" in line for line in lines) and losses[-1] < 0.1


def test_texts_are_told_apart_afterwards():
    """Before it, texts lie on top of each other; afterwards, they do not, and texts with more words in common are nearer."""
    words = "waltz techno piano banjo sad happy slow fast".split()
    texts = [f"{a} {b}" for a in words for b in words if a != b]
    config = resolve({"preset": "smoke", "text_warmup": 150, "text_warmup_lr": 3e-3, "batch_size": 48, "precision": "fp32"})
    torch.manual_seed(0)
    model = MuLan(config, train_wordpiece(texts * 5, 200)).train()

    def cosines():
        e = model.embed_text(texts)
        return e @ e.T

    common = torch.tensor([[len(set(a.split()) & set(b.split())) for b in texts] for a in texts])
    apart = common == 0
    before = cosines()[apart].mean().item()
    warm_up_text(model, [[text] for text in texts], config, torch.device("cpu"), log=lambda line: None)
    after = cosines()
    assert before > 0.7 and after[apart].mean() < 0.5 * before
    assert after[common == 1].mean() > after[apart].mean() + 0.1
