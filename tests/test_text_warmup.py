"""The text warm-up: its loss by hand, and what it is for."""
import math

import pytest
import torch

from mulan_min.config import resolve
from mulan_min.mulan import MuLan
from mulan_min.text_warmup import warm_up_text, word_loss
from mulan_min.wordpiece import train_wordpiece


def test_word_loss_by_hand():
    logits = torch.tensor([[0.0, 1.0, 2.0], [3.0, 0.0, 0.0]])
    tokens = torch.tensor([[0, 2, 1], [0, 1, 0]])
    mask = torch.tensor([[True, True, True], [True, True, False]])      # place 0 is [CLS], the last of row 2 padding
    total0 = math.log(1 + math.e + math.e ** 2)
    total1 = math.log(math.e ** 3 + 2)
    by_hand = (((total0 - 2) + (total0 - 1)) / 2 + total1) / 2
    assert word_loss(logits, tokens, mask).item() == pytest.approx(by_hand, rel=1e-6)


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
    warm_up_text(model, texts, config, torch.device("cpu"), say=lambda line: None)
    after = cosines()
    assert before > 0.7 and after[apart].mean() < 0.5 * before
    assert after[common == 1].mean() > after[apart].mean() + 0.1
