"""BERT base on captions of real lengths, forward and backward in bf16 autocast: our text tower, which sorts by length, against
transformers' BertModel padded to the longest; and the largest difference of their outputs in float32."""
import numpy as np
import torch
from common import DEVICE, compare, rate
from transformers import BertConfig, BertModel

from mulan_min.config import resolve
from mulan_min.mulan import TextTower

times = 8 if DEVICE.type == "cuda" else 1
rng = np.random.default_rng(0)
lengths = rng.permutation(np.concatenate([rng.integers(4, 13, 9 * times), rng.integers(15, 61, 6 * times), [512] * times]))
mask = torch.from_numpy(np.arange(512) < lengths[:, None]).to(DEVICE)
tokens = torch.from_numpy(rng.integers(5, 30522, mask.shape)).to(DEVICE)
config = resolve({"preset": "paper"})
config.text.text_dropout = 0.0
ours = TextTower(config, 30522).to(DEVICE)
theirs = BertModel(BertConfig(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0), add_pooling_layer=False).to(DEVICE)


def step(model, run):
    def call():
        model.zero_grad(set_to_none=True)
        with torch.autocast(DEVICE.type, torch.bfloat16):
            y = run()
        y.float().square().sum().backward()
    return call


with torch.no_grad():       # the same weights, so that the outputs can be compared
    for mine, other in zip(ours.net.blocks, theirs.encoder.layer):
        own = other.attention.self
        for part in ("weight", "bias"):
            getattr(mine.attention.qkv, part).copy_(torch.cat([getattr(x, part) for x in (own.query, own.key, own.value)]))
            for a, b in ((mine.attention.out, other.attention.output.dense), (mine.norm1, other.attention.output.LayerNorm),
                         (mine.mlp.fc1, other.intermediate.dense), (mine.mlp.fc2, other.output.dense),
                         (mine.norm2, other.output.LayerNorm)):
                getattr(a, part).copy_(getattr(b, part))
    for a, b in ((ours.net.words, "word_embeddings"), (ours.net.positions, "position_embeddings"),
                 (ours.net.token_types, "token_type_embeddings"), (ours.net.norm, "LayerNorm")):
        a.weight.copy_(getattr(theirs.embeddings, b).weight)
    there = theirs(tokens, mask.long()).last_hidden_state[:, 0]
    there = torch.nn.functional.normalize(ours.project(there), dim=-1)
    print(f"largest difference of the embeddings in float32: {(ours(tokens, mask) - there).abs().max():.1e}")

contenders = {"ours": step(ours, lambda: ours(tokens, mask)),
              "transformers, padded": step(theirs, lambda: theirs(tokens, mask.long()).last_hidden_state[:, 0])}
flops = 3 * sum(n * (2 * 85e6 + 4 * 12 * n * 768) for n in lengths.tolist())
compare(f"BERT base, {len(lengths)} captions, {int(lengths.sum())} tokens, {mask.numel()} padded, forward + backward, bf16", contenders,
        repeats=5, floor=(flops / rate(torch.bfloat16), "FLOPs of the real tokens at the bf16 matmul rate"))
