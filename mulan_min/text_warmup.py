"""Trains a text tower without a pretrained BERT before the contrastive training. Our choice; the paper starts from public BERT.

A BERT with random weights gives nearly the same embedding to every text, because its [CLS] state is then little more than an
average over the words. So the contrastive loss stays at its chance value for a long time, or for the whole training.

A recording has several texts. A linear layer must predict the words of all of them from the embedding of one of them. Words that
describe the recording predict each other, so "three-four" moves towards "waltz". Words that describe nothing, such as "the" or a
greeting, predict nothing, and the embedding learns to ignore them.
"""
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from mulan_min.device import autocast
from mulan_min.wordpiece import encode

BATCH = 96      # texts per step, at most


def word_shares(tokenizer, texts):
    """The texts of one recording -> (V,) float32: the share of each token, with sum 1. Every text has the same weight."""
    shares = np.zeros(tokenizer.get_vocab_size(), np.float32)
    rows = [row.ids for row in tokenizer.encode_batch(texts, add_special_tokens=False) if row.ids]
    for ids in rows:
        np.add.at(shares, ids, 1 / (len(ids) * len(rows)))
    return torch.from_numpy(shares)


def warm_up_text(model, groups, config, device, log=print):
    """Trains model.text for `text_warmup` steps. groups: one list of texts (str) for each recording. The linear layer is not kept.
    Needs memory for recordings x vocabulary float32 numbers. log(line) prints the progress."""
    steps, optim = config.text.text_warmup, config.optim
    shares = torch.stack([word_shares(model.tokenizer, texts) for texts in groups])         # (recordings, V)
    prior = shares.mean(0)      # (V,)
    decoder = nn.Linear(config.space.dim, len(prior)).to(device)
    with torch.no_grad():       # at the start the layer predicts each word's frequency, for any text
        decoder.bias.copy_(prior.clamp_min(1e-6).log())
    parameters = [*model.text.parameters(), *decoder.parameters()]
    optimizer = torch.optim.AdamW(parameters, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.text.text_warmup_lr, steps, pct_start=0.1)
    for step in range(steps):
        torch.manual_seed(optim.seed * 1_000_003 + step)
        rng = np.random.default_rng((optim.seed, 4, step))
        chosen = rng.integers(len(groups), size=min(BATCH, optim.batch_size))
        pairs = sorted(((i, groups[i][rng.integers(len(groups[i]))]) for i in chosen), key=lambda pair: len(pair[1]))
        chosen, texts = map(list, zip(*pairs))      # texts of similar length side by side, see TextTower
        tokens, mask = encode(model.tokenizer, texts, config.text.max_tokens)
        with autocast(device, optim.precision):
            # Unit vectors give a narrow range of logits. After multiplication by 10, ordinary weights give confident predictions.
            logits = decoder(10 * model.text(tokens.to(device), mask))                                 # (B, V)
        loss = F.cross_entropy(logits.float(), shares[chosen].to(device))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, optim.clip_norm)
        optimizer.step()
        schedule.step()
        if (step + 1) % max(1, steps // 4) == 0:
            chance = -torch.special.xlogy(prior, prior).sum()
            log(f"text warm-up {step + 1}/{steps}  word loss {loss.item():.2f} (by frequency alone {chance:.2f})")
