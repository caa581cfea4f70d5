"""A step in chunks (gradient caching) against a plain step of the same batch, laptop preset."""
import torch
from common import DEVICE, compare

from mulan_min import contrastive
from mulan_min.config import resolve
from mulan_min.mulan import MuLan
from mulan_min.wordpiece import encode, train_wordpiece

texts = [f"a slow {mood} {lead} waltz" for mood in ("sad", "happy", "calm") for lead in ("piano", "banjo", "choir", "organ")] * 8
config = resolve({"precision": "bf16"})
model = MuLan(config, train_wordpiece(texts, 500)).to(DEVICE)
tokens, mask = encode(model.tokenizer, texts, 64)
batch = {"spectrograms": torch.randn(len(texts), 128, 200), "tokens": tokens, "mask": mask}
batch = {name: x.to(DEVICE) for name, x in batch.items()}


def step(chunk):
    def call():
        config.optim.chunk_size = chunk
        model.zero_grad(set_to_none=True)
        contrastive.backward(model, batch, 0, model, 1)
    return call


medians = compare(f"one step of AST and BERT, {len(texts)} clips, bf16", {"in chunks of 48": step(48), "in chunks of 24": step(24), "plain": step(0)})
for chunk in (48, 24):
    ratio = medians["plain"] / medians[f"in chunks of {chunk}"]
    print(f"clips/s in chunks of {chunk} / plain: {ratio:.2f} (0.75 if the extra forward pass were all)")
