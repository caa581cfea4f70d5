"""BERT base on captions of realistic lengths, forward and backward in bfloat16 autocast. Our text tower sorts texts by length;
transformers' BertModel pads all of them to the longest. Also prints the largest difference of their outputs in float32."""
import numpy as np
import torch
from common import DEVICE, compare, rate
from transformers import BertConfig, BertModel

from mulan_min.config import resolve
from mulan_min.towers import TextTower

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


with torch.no_grad():       # copy the weights, so that the outputs can be compared
    for block, layer in zip(ours.net.blocks, theirs.encoder.layer):
        attention = layer.attention.self
        for part in ("weight", "bias"):
            qkv = [getattr(linear, part) for linear in (attention.query, attention.key, attention.value)]
            getattr(block.attention.qkv, part).copy_(torch.cat(qkv))
            for a, b in ((block.attention.out, layer.attention.output.dense), (block.norm1, layer.attention.output.LayerNorm),
                         (block.mlp.fc1, layer.intermediate.dense), (block.mlp.fc2, layer.output.dense),
                         (block.norm2, layer.output.LayerNorm)):
                getattr(a, part).copy_(getattr(b, part))
    for a, b in ((ours.net.words, "word_embeddings"), (ours.net.positions, "position_embeddings"),
                 (ours.net.token_types, "token_type_embeddings"), (ours.net.norm, "LayerNorm")):
        a.weight.copy_(getattr(theirs.embeddings, b).weight)
    expected = theirs(tokens, mask.long()).last_hidden_state[:, 0]
    expected = torch.nn.functional.normalize(ours.project(expected), dim=-1)
    print(f"largest difference of the embeddings in float32: {(ours(tokens, mask) - expected).abs().max():.1e}")

contenders = {"ours": step(ours, lambda: ours(tokens, mask)),
              "transformers, padded": step(theirs, lambda: theirs(tokens, mask.long()).last_hidden_state[:, 0])}
flops = 3 * sum(n * (2 * 85e6 + 4 * 12 * n * 768) for n in lengths.tolist())
title = f"BERT base, {len(lengths)} captions, {int(lengths.sum())} tokens, {mask.numel()} padded, forward + backward, bf16"
compare(title, contenders, repeats=5, floor=(flops / rate(torch.bfloat16), "FLOPs of the real tokens at the bf16 matmul rate"))
