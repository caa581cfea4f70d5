"""A head start for a text tower that no pretrained BERT is at hand for. Our choice; the paper starts from public BERT.

A BERT with random weights says nearly the same of every text, since its [CLS] sees the words only as an average. The
contrastive loss then has nothing to tell texts apart by, sits at its chance value for a long time, and may stay there.

A recording comes with several texts, and they help each other out: from the embedding of one of them, a linear layer must
tell the words of all of them. Words that say something of the recording predict other words, so "three-four" comes to
lie near "waltz"; words that say nothing, such as "the" or a greeting, are of no use and fade.
"""
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from mulan_min.wordpiece import encode

BATCH = 96      # texts a step, at most


def word_shares(tokenizer, texts):
    """The texts of one recording -> (V,) float32: how often each token occurs, in shares that sum to 1; every text counts
    the same, long or short."""
    shares = np.zeros(tokenizer.get_vocab_size(), np.float32)
    rows = [row.ids for row in tokenizer.encode_batch(texts, add_special_tokens=False) if row.ids]
    for ids in rows:
        np.add.at(shares, ids, 1 / (len(ids) * len(rows)))
    return torch.from_numpy(shares)


def warm_up_text(model, groups, config, device, say=print):
    """Trains model.text for `text_warmup` steps; `groups` holds one list of texts (str) for each recording. The linear layer
    is thrown away. Keeps recordings x vocabulary float32 in memory."""
    steps, optim = config.text.text_warmup, config.optim
    shares = torch.stack([word_shares(model.tokenizer, texts) for texts in groups])         # (recordings, V)
    usual = shares.mean(0)
    decoder = nn.Linear(config.space.dim, len(usual)).to(device)
    with torch.no_grad():       # so the layer starts where the text makes no difference yet
        decoder.bias.copy_(usual.clamp_min(1e-6).log())
    parameters = [*model.text.parameters(), *decoder.parameters()]
    optimizer = torch.optim.AdamW(parameters, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.text.text_warmup_lr, steps, pct_start=0.1)
    for step in range(steps):
        torch.manual_seed(optim.seed * 1_000_003 + step)
        rng = np.random.default_rng((optim.seed, 4, step))
        chosen = rng.integers(len(groups), size=min(BATCH, optim.batch_size))
        texts = [groups[i][rng.integers(len(groups[i]))] for i in chosen]
        tokens, mask = (x.to(device) for x in encode(model.tokenizer, texts, config.text.max_tokens))
        with torch.autocast(device.type, torch.bfloat16, enabled=optim.precision == "bf16"):
            # Unit vectors span a narrow range of logits; 10 lets a layer of ordinary size be sure of a word.
            logits = decoder(10 * model.text(tokens, mask))                                 # (B, V)
        loss = F.cross_entropy(logits.float(), shares[chosen].to(device))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, optim.clip_norm)
        optimizer.step()
        schedule.step()
        if (step + 1) % max(1, steps // 4) == 0:
            chance = -torch.special.xlogy(usual, usual).sum()
            say(f"text warm-up {step + 1}/{steps}  word loss {loss.item():.2f} (by frequency alone {chance:.2f})")
