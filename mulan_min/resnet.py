"""ResNet-50 (He et al. 2015) for a spectrogram seen as an image of one channel."""
import torch
from torch import Tensor, nn


def convolution(channels_in: int, channels: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """Convolution, padded to keep the size at stride 1, without bias as batch norm brings its own."""
    return nn.Sequential(nn.Conv2d(channels_in, channels, kernel, stride, kernel // 2, bias=False),
                         nn.BatchNorm2d(channels))


class Bottleneck(nn.Module):
    """1x1 down to `channels`, 3x3, 1x1 up to 4 x channels, added to the input.

    (B, channels_in, F, T) -> (B, 4 channels, F / stride, T / stride), ReLU after each convolution.
    The stride stands on the 3x3 (version 1.5, as torchvision and transformers have it; He et al. had it on
    the first 1x1, which then skips three quarters of its input).
    """

    def __init__(self, channels_in: int, channels: int, stride: int = 1):
        super().__init__()
        self.reduce = convolution(channels_in, channels, 1)
        self.spatial = convolution(channels, channels, 3, stride)
        self.expand = convolution(channels, 4 * channels, 1)
        same = stride == 1 and channels_in == 4 * channels
        self.shortcut = nn.Identity() if same else convolution(channels_in, 4 * channels, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.spatial(self.reduce(x).relu_()).relu_()
        return self.expand(y).add_(self.shortcut(x)).relu_()


class ResNet50(nn.Module):
    """(B, mels, frames) -> (B, 32 width), the mean over time and frequency (paper).

    width is the number of stem channels, 64 in the published network; every layer scales with it.
    With in_channels above 1 the input is (B, in_channels, mels, frames). zero_init (our choice) starts the
    last batch norm of each block at gamma = 0, so that the network begins as a shallow one and the blocks
    join as they learn (Goyal et al. 2017: better at large batches).
    """

    def __init__(self, width: int = 64, in_channels: int = 1, zero_init: bool = True):
        super().__init__()
        self.stem = convolution(in_channels, width, 7, stride=2)
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        blocks, channels_in = [], width
        for stage, depth in enumerate((3, 4, 6, 3)):
            channels = width * 2 ** stage
            for i in range(depth):
                blocks.append(Bottleneck(channels_in, channels, stride=2 if stage > 0 and i == 0 else 1))
                channels_in = 4 * channels
        self.blocks = nn.Sequential(*blocks)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if zero_init and isinstance(module, Bottleneck):
                nn.init.zeros_(module.expand[1].weight)
        # channels last in memory: what bfloat16 convolutions want, on CPU and on tensor cores
        self.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() == 3:
            x = x.unsqueeze(1)  # (B, mels, frames) -> (B, 1, mels, frames)
        x = self.pool(self.stem(x).relu_())  # a quarter of mels and frames
        return self.blocks(x).mean(dim=(2, 3))  # (B, 32 width, mels / 32, frames / 32) -> (B, 32 width)
