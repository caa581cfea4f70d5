"""The Audio Spectrogram Transformer (AST, Gong et al. 2021): a vision transformer over log-mel."""
import torch
from torch import Tensor, nn

from mulan_min.errors import UserError
from mulan_min.transformer import Block, init_weights


class SpectrogramTransformer(nn.Module):
    """AST for spectrograms of exactly (mels, frames): (B, mels, frames) -> (B, width), the [CLS] token.

    patch and stride are (mel, frame) pairs; a stride below the patch makes patches overlap (AST: 16 by 16 at
    stride 10). What is left over at the upper or right edge is not seen. distilled=True adds DeiT's
    distillation token, which AST's published weights have; they average it with [CLS], MuLan reads [CLS]
    alone (paper). The MLP is four times as wide as the tokens. Raises UserError when the patch does not fit
    the spectrogram.
    """

    def __init__(self, mels: int, frames: int, patch: tuple[int, int] = (16, 16),
                 stride: tuple[int, int] = (16, 16), width: int = 768, depth: int = 12, heads: int = 12,
                 dropout: float = 0.0, distilled: bool = False):
        super().__init__()
        if min(*patch, *stride) < 1 or patch[0] > mels or patch[1] > frames:
            raise UserError(f"patch {patch} with stride {stride} does not fit a spectrogram of {mels} mels by"
                            f" {frames} frames: choose a smaller patch, and strides of at least 1")
        self.size = (mels, frames)
        # patches along (mel, frame)
        self.grid = tuple((n - p) // s + 1 for n, p, s in zip(self.size, patch, stride))
        prefix = 2 if distilled else 1
        self.patch_embedding = nn.Conv2d(1, width, patch, stride)
        self.prefix = nn.Parameter(torch.zeros(prefix, width))  # [CLS], then any distillation token
        self.positions = nn.Parameter(torch.zeros(prefix + self.grid[0] * self.grid[1], width))
        self.dropout = nn.Dropout(dropout)
        # eps as in timm, where AST was trained; transformers' port has 1e-12
        self.blocks = nn.ModuleList(Block(width, heads, 4 * width, dropout, eps=1e-6) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.apply(init_weights)
        for table in (self.prefix, self.positions):
            nn.init.trunc_normal_(table, std=0.02, a=-0.04, b=0.04)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, mels, frames) -> (B, width). Raises UserError for any other size.

        The position table is learned, one row a patch: a shorter window is padded, not passed as it is.
        """
        if tuple(x.shape[1:]) != self.size:
            raise UserError(f"the AST was built for {self.size[0]} mels by {self.size[1]} frames, not for"
                            f" {tuple(x.shape[1:])}: cut or pad the audio to the window length of the run")
        x = self.patch_embedding(x.unsqueeze(1))  # (B, width, patches along mel, patches along frame)
        x = x.flatten(2).transpose(1, 2)  # (B, patches, width), all frames of the lowest mels first
        x = torch.cat([self.prefix.expand(len(x), -1, -1), x], dim=1)  # (B, 1 or 2 + patches, width)
        x = self.dropout(x + self.positions)
        for block in self.blocks:
            x = block(x)
        return self.norm(x[:, 0])  # LayerNorm acts on each token alone, so [CLS] is all it needs to see
