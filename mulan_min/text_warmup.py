"""A head start for a text tower that no pretrained BERT is at hand for. Our choice; the paper starts from public BERT.

A BERT with random weights says nearly the same of every text, since its [CLS] sees the words only as an average. The
contrastive loss then has nothing to tell texts apart by, sits at its chance value for a long time, and may stay there.
So the embedding first learns to keep the words of its own text: a linear layer must name them from it.
"""
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from mulan_min.wordpiece import encode


def word_loss(logits, tokens, mask):
    """Mean over texts of the mean -log p of their tokens, [CLS] (place 0) left out: logits (B, V), tokens and mask (B, L).
    It is a bag of words: one distribution a text, not one a place."""
    wanted = mask.clone()
    wanted[:, 0] = False
    found = F.log_softmax(logits.float(), dim=-1).gather(1, tokens)      # (B, L)
    return -((found * wanted).sum(1) / wanted.sum(1)).mean()


def warm_up_text(model, texts, config, device, say=print):
    """Trains model.text for `text_warmup` steps on batches of `texts` (list of str); the decoder is thrown away."""
    steps, optim = config.text.text_warmup, config.optim
    decoder = nn.Linear(config.joint.dim, model.tokenizer.get_vocab_size()).to(device)
    parameters = [*model.text.parameters(), *decoder.parameters()]
    optimizer = torch.optim.AdamW(parameters, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.text.text_warmup_lr, steps, pct_start=0.1)
    for step in range(steps):
        torch.manual_seed(optim.seed * 1_000_003 + step)
        rng = np.random.default_rng((optim.seed, 4, step))
        batch = [texts[i] for i in rng.integers(len(texts), size=min(96, optim.batch_size))]
        tokens, mask = (x.to(device) for x in encode(model.tokenizer, batch, config.text.max_tokens))
        with torch.autocast(device.type, torch.bfloat16, enabled=optim.precision == "bf16"):
            # Unit vectors span a narrow range of logits; 10 lets a decoder of ordinary size be sure of a word.
            logits = decoder(10 * model.text(tokens, mask))
        loss = word_loss(logits, tokens, mask)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, optim.clip_norm)
        optimizer.step()
        schedule.step()
        if (step + 1) % max(1, steps // 4) == 0:
            say(f"text warm-up {step + 1}/{steps}  word loss {loss.item():.2f} "
                f"(chance {np.log(decoder.out_features):.2f})")
