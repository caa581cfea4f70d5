"""The transformer block that the AST and BERT share: one self-attention, one MLP, one block.

The two towers differ only in where LayerNorm stands. AST normalises before each sublayer (pre-norm, as ViT),
so its residual stream is never normalised; BERT normalises after each addition (post-norm, as the first
transformer). Dropout draws from torch's global random state only, so restoring that state replays it.
"""
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mulan_min.errors import UserError


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, dropout: float = 0.0) -> Tensor:
    """softmax(q k^T / sqrt(D)) v: q, k, v (B, H, L, D), mask (B, 1, 1, L) bool -> (B, H, L, D)."""
    if q.device.type != "cpu" or q.dtype != torch.bfloat16 or q.shape[2] > 1000:
        return F.scaled_dot_product_attention(q, k, v, mask, dropout)
    # In bfloat16 on the CPU the fused kernel takes 4 to 5 times as long as the formula, forward and backward
    # (torch 2.13, 100 to 160 tokens, CPU time of one thread), which is half the time of a block 192 wide. With the
    # 1189 tokens of AST base it is the faster one, by a sixth of the whole step.
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(2, 3)  # (B, H, L, L)
    if mask is not None:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    return F.dropout(scores.softmax(-1), dropout) @ v


class SelfAttention(nn.Module):
    """Multi-head self-attention over (B, L, W) tokens.

    Queries, keys and values come from one matrix, stacked in this order. dropout acts on the attention
    weights, as in BERT. Raises UserError when the heads do not divide the width.
    """

    def __init__(self, width: int, heads: int, dropout: float = 0.0):
        super().__init__()
        if heads < 1 or width % heads:
            raise UserError(f"width {width} cannot be split into {heads} heads: make it a multiple of them")
        self.heads, self.dropout = heads, dropout
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x (B, L, W), mask (B, L) bool with True = real token, or None when all are -> (B, L, W)."""
        batch, length, width = x.shape
        shape = (batch, length, 3, self.heads, width // self.heads)
        # (B, L, 3 W) -> (B, L, 3, H, D) -> three views (B, H, L, D); nothing is copied
        q, k, v = self.qkv(x).view(shape).permute(2, 0, 3, 1, 4).unbind(0)
        if mask is not None:
            mask = mask[:, None, None, :]  # (B, 1, 1, L): no query of any head looks at a padded key
        x = attend(q, k, v, mask, self.dropout if self.training else 0.0)
        return self.out(x.transpose(1, 2).reshape(batch, length, width))  # (B, H, L, D) -> (B, L, W)


class MLP(nn.Module):
    """Two linear layers around the exact (erf) GELU, as in AST and BERT: (..., W) -> (..., W)."""

    def __init__(self, width: int, mlp_width: int):
        super().__init__()
        self.fc1 = nn.Linear(width, mlp_width)
        self.fc2 = nn.Linear(mlp_width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """Attention and MLP, each with a residual connection and a LayerNorm: (B, L, W) -> (B, L, W).

    norm_first=True is AST's x + f(norm(x)), False is BERT's norm(x + f(x)). dropout acts on attention weights
    and on each sublayer's output. Under autocast the matrix products run in bfloat16, but x keeps the dtype
    it came in: a float32 x plus a bfloat16 f(x) is float32, and so LayerNorm sees float32 throughout.
    """

    def __init__(self, width: int, heads: int, mlp_width: int, dropout: float = 0.0, norm_first: bool = True,
                 eps: float = 1e-6):
        super().__init__()
        self.norm_first = norm_first
        self.attention = SelfAttention(width, heads, dropout)
        self.norm1 = nn.LayerNorm(width, eps)
        self.mlp = MLP(width, mlp_width)
        self.norm2 = nn.LayerNorm(width, eps)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        if self.norm_first:
            x = x + self.dropout(self.attention(self.norm1(x), mask))
            return x + self.dropout(self.mlp(self.norm2(x)))
        x = self.norm1(x + self.dropout(self.attention(x, mask)))
        return self.norm2(x + self.dropout(self.mlp(x)))


def init_weights(module: nn.Module) -> None:
    """For module.apply(): matrices and kernels normal with variance 1 / inputs, tables with sd 0.02, biases zero.

    BERT and ViT use sd 0.02 throughout, which suits width 768. At the laptop's widths it makes every block pass on
    next to nothing, so that the embeddings of two texts are almost the same at the start; with 1 / inputs they are
    less so (our choice; alone it does not keep training from staying at chance). LayerNorm keeps its ones and zeros.
    """
    if isinstance(module, (nn.Linear, nn.Conv2d)):
        nn.init.trunc_normal_(module.weight, std=module.weight[0].numel() ** -0.5, a=-1.0, b=1.0)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Embedding):
        nn.init.trunc_normal_(module.weight, std=0.02, a=-0.04, b=0.04)
