"""AST base, forward and backward in bfloat16 autocast: our AST and transformers' ASTModel (sdpa) of the same size."""
import torch
from common import DEVICE, compare, rate
from transformers import ASTConfig, ASTModel

from mulan_min.spectrogram_transformer import SpectrogramTransformer

batch = 32 if DEVICE.type == "cuda" else 1
ours = SpectrogramTransformer(128, 1000, (16, 16), (10, 10)).to(DEVICE)
theirs = ASTModel(ASTConfig(max_length=1000, attn_implementation="sdpa")).to(DEVICE)
x = torch.randn(batch, 128, 1000, device=DEVICE)


def step(model, *inputs):
    def call():
        model.zero_grad(set_to_none=True)
        with torch.autocast(DEVICE.type, torch.bfloat16):
            y = model(*inputs)
        (y if torch.is_tensor(y) else y.last_hidden_state[:, 0]).float().square().sum().backward()
    return call


contenders = {"ours": step(ours, x), "transformers": step(theirs, x.transpose(1, 2))}
if DEVICE.type == "cuda":
    contenders["ours, --compile"] = step(torch.compile(ours), x)
tokens = batch * 1189
flops = 3 * tokens * (2 * 85e6 + 4 * 12 * 1189 * 768)      # the backward pass costs twice the forward pass
compare(f"AST base, {batch} x 128 x 1000, forward + backward, bf16", contenders, repeats=5,
        floor=(flops / rate(torch.bfloat16), "FLOPs at the bf16 matmul rate"))
