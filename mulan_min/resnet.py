"""ResNet-50 (He et al. 2015) for spectrograms. A spectrogram is an image with one channel."""
import torch
from torch import Tensor, nn


def conv_bn(channels_in: int, channels: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """A 2-D convolution without bias, because the batch norm after it adds one. At stride 1 the padding keeps the size."""
    return nn.Sequential(nn.Conv2d(channels_in, channels, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(channels))


class Bottleneck(nn.Module):
    """ResNet's bottleneck block: (B, channels_in, F, T) -> (B, 4 channels, F / stride, T / stride).

    A 1x1 convolution to `channels`, a 3x3, and a 1x1 to 4 x channels. The result is added to the input. A ReLU follows the first
    two convolutions and the sum. The 3x3 convolution has the stride (version 1.5, as in torchvision and transformers). He et al.
    gave it to the first 1x1, which then ignores three quarters of its input.
    """

    def __init__(self, channels_in: int, channels: int, stride: int = 1):
        super().__init__()
        self.reduce = conv_bn(channels_in, channels, 1)
        self.spatial = conv_bn(channels, channels, 3, stride)
        self.expand = conv_bn(channels, 4 * channels, 1)
        same_shape = stride == 1 and channels_in == 4 * channels
        self.shortcut = nn.Identity() if same_shape else conv_bn(channels_in, 4 * channels, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.spatial(self.reduce(x).relu_()).relu_()
        return self.expand(y).add_(self.shortcut(x)).relu_()


class ResNet50(nn.Module):
    """ResNet-50: spectrogram (B, mels, frames) -> features (B, 32 width), the mean over time and frequency (paper).

    `width` is the number of channels of the first layer, 64 in the published network; all other layers scale with it. The last
    batch norm of each block starts at gamma = 0 (our choice): at first a block passes on only its shortcut, and its layers take
    effect as they learn. This is better for large batches (Goyal et al. 2017).
    """

    def __init__(self, width: int = 64):
        super().__init__()
        self.stem = conv_bn(1, width, 7, stride=2)
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        blocks = []
        for stage, depth in enumerate((3, 4, 6, 3)):
            channels = width * 2 ** stage
            blocks.append(Bottleneck(width, channels) if stage == 0 else Bottleneck(2 * channels, channels, stride=2))
            blocks += [Bottleneck(4 * channels, channels) for _ in range(depth - 1)]
        self.blocks = nn.Sequential(*blocks)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if isinstance(module, Bottleneck):
                nn.init.zeros_(module.expand[1].weight)
        self.to(memory_format=torch.channels_last)  # faster bfloat16 convolutions, on CPUs and on tensor cores

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.stem(x.unsqueeze(1)).relu_())  # (B, 1, mels, frames) -> (B, width, mels / 4, frames / 4)
        return self.blocks(x).mean(dim=(2, 3))  # (B, 32 width, mels / 32, frames / 32) -> (B, 32 width)
