"""The Audio Spectrogram Transformer (AST, Gong et al. 2021): a vision transformer over log-mel spectrograms."""
import torch
from torch import Tensor, nn

from mulan_min.errors import UserError
from mulan_min.transformer import TransformerBlock, init_weights


class SpectrogramTransformer(nn.Module):
    """AST: spectrogram (B, mels, frames) -> features (B, width), the [CLS] token. `mels` and `frames` are fixed.

    `patch` and `stride` are (mels, frames) pairs. Patches overlap when the stride is smaller than the patch (AST: 16 by 16 at
    stride 10). A remainder at the upper or right edge that fills no patch is ignored. The MLP is four times as wide as the tokens.
    distilled=True adds DeiT's distillation token, which AST's published weights have. AST averages it with [CLS]; MuLan uses [CLS]
    only (paper). Raises UserError when the patch does not fit the spectrogram.
    """

    def __init__(self, mels: int, frames: int, patch: tuple[int, int] = (16, 16), stride: tuple[int, int] = (16, 16),
                 width: int = 768, depth: int = 12, heads: int = 12, dropout: float = 0.0, distilled: bool = False):
        super().__init__()
        if min(*patch, *stride) < 1 or patch[0] > mels or patch[1] > frames:
            raise UserError(f"patch {patch} with stride {stride} does not fit a spectrogram of {mels} mels by"
                            f" {frames} frames: choose a smaller patch, and strides of at least 1")
        self.size = (mels, frames)
        self.grid = tuple((n - p) // s + 1 for n, p, s in zip(self.size, patch, stride))  # number of patches along (mels, frames)
        self.patch_embedding = nn.Conv2d(1, width, patch, stride)
        self.prefix = nn.Parameter(torch.zeros(2 if distilled else 1, width))  # [CLS], then the distillation token, if any
        self.positions = nn.Parameter(torch.zeros(len(self.prefix) + self.grid[0] * self.grid[1], width))
        self.dropout = nn.Dropout(dropout)
        # eps as in timm, where AST was trained; the port in transformers has 1e-12
        self.blocks = nn.ModuleList(TransformerBlock(width, heads, 4 * width, dropout, eps=1e-6) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.apply(init_weights)
        for table in (self.prefix, self.positions):
            nn.init.trunc_normal_(table, std=0.02, a=-0.04, b=0.04)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, mels, frames) -> (B, width). Raises UserError for any other size, because each patch has its own learned position:
        pad a shorter spectrogram to full length first."""
        if tuple(x.shape[1:]) != self.size:
            raise UserError(f"the AST was built for {self.size[0]} mels by {self.size[1]} frames, not for"
                            f" {tuple(x.shape[1:])}: cut or pad the audio to the window length of the run")
        x = self.patch_embedding(x.unsqueeze(1))  # (B, width, patches along mels, patches along frames)
        x = x.flatten(2).transpose(1, 2)  # (B, patches, width), all frames of the lowest mels first
        x = torch.cat([self.prefix.expand(len(x), -1, -1), x], dim=1)  # (B, 1 or 2 + patches, width)
        x = self.dropout(x + self.positions)
        for block in self.blocks:
            x = block(x)
        return self.norm(x[:, 0])  # LayerNorm treats each token alone, so normalising [CLS] is enough
