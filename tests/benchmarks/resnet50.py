"""ResNet-50 on 64 x 1000 spectrograms, forward and backward in bfloat16 autocast, channels last: our ResNet50 and transformers'
ResNetModel."""
import torch
from common import DEVICE, compare, rate
from torch.utils.flop_counter import FlopCounterMode
from transformers import ResNetConfig, ResNetModel

from mulan_min.resnet import ResNet50

batch = 64 if DEVICE.type == "cuda" else 8
ours = ResNet50().to(DEVICE).train()
theirs = ResNetModel(ResNetConfig(num_channels=1)).to(DEVICE, memory_format=torch.channels_last).train()
x = torch.randn(batch, 64, 1000, device=DEVICE)


def step(model, x):
    def call():
        model.zero_grad(set_to_none=True)
        with torch.autocast(DEVICE.type, torch.bfloat16):
            y = model(x)
        (y if torch.is_tensor(y) else y.pooler_output).float().square().sum().backward()
    return call


with FlopCounterMode(display=False) as counter:
    step(ours, x)()
compare(f"ResNet-50, {batch} x 64 x 1000, forward + backward, bf16, channels last",
        {"ours": step(ours, x), "transformers": step(theirs, x[:, None].to(memory_format=torch.channels_last))}, repeats=5,
        floor=(counter.get_total_flops() / rate(torch.bfloat16), "FLOPs at the bf16 matmul rate"))
