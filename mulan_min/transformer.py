"""The transformer block of the AST and BERT. Dropout uses torch's global random state only: restoring it repeats the masks."""
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mulan_min.errors import UserError


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, dropout: float = 0.0) -> Tensor:
    """Scaled dot-product attention, softmax(q k^T / sqrt(D)) v (Vaswani et al. 2017): q, k, v (B, H, L, D) -> (B, H, L, D).
    mask (B, 1, 1, L) bool: True = real token. `dropout` is the probability that an attention weight is set to zero."""
    if q.device.type != "cpu" or q.dtype != torch.bfloat16 or q.shape[2] > 1000:
        return F.scaled_dot_product_attention(q, k, v, mask, dropout)
    # On the CPU in bfloat16, the fused kernel takes 4 to 5 times as long as this formula, forward and backward (torch 2.13, 100 to
    # 160 tokens, CPU time of one thread). That is half the time of a block of width 192. With the 1189 tokens of AST base the fused
    # kernel is faster, by a sixth of the whole training step.
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(2, 3)  # (B, H, L, L)
    if mask is not None:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    return F.dropout(scores.softmax(-1), dropout) @ v


class SelfAttention(nn.Module):
    """Multi-head self-attention: tokens (B, L, W) -> (B, L, W). One matrix makes the queries, keys and values, in this order.
    `dropout` acts on the attention weights, as in BERT. Raises UserError when the width is not a multiple of the heads."""

    def __init__(self, width: int, heads: int, dropout: float = 0.0):
        super().__init__()
        if heads < 1 or width % heads:
            raise UserError(f"width {width} cannot be split into {heads} heads: choose a width that is a multiple of the heads")
        self.heads, self.dropout = heads, dropout
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x (B, L, W), mask (B, L) bool with True = real token, or None when all tokens are real -> (B, L, W)."""
        # (B, L, 3 W) -> (B, L, 3, H, D) -> three views (B, H, L, D), without a copy
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mask = None if mask is None else mask[:, None, None]  # (B, 1, 1, L): no query of any head attends to padding
        x = attend(q, k, v, mask, self.dropout if self.training else 0.0)
        return self.out(x.transpose(1, 2).flatten(2))  # (B, H, L, D) -> (B, L, W)


class MLP(nn.Module):
    """Two linear layers with the exact (erf) GELU between them, as in the AST and BERT: (..., W) -> (..., W)."""

    def __init__(self, width: int, mlp_width: int):
        super().__init__()
        self.fc1 = nn.Linear(width, mlp_width)
        self.fc2 = nn.Linear(mlp_width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class TransformerBlock(nn.Module):
    """Attention, then an MLP, each with a residual connection and a LayerNorm: (B, L, W) -> (B, L, W).

    norm_first=True computes x + f(norm(x)), as in the AST and ViT (pre-norm). False computes norm(x + f(x)), as in BERT and
    Vaswani et al. 2017 (post-norm). `dropout` acts on the attention weights and on each sublayer's output. Under autocast the
    matrix products run in bfloat16, but x keeps its dtype: float32 x plus bfloat16 f(x) is float32, so LayerNorm gets float32.
    """

    def __init__(self, width: int, heads: int, mlp_width: int, dropout: float = 0.0, norm_first: bool = True, eps: float = 1e-6):
        super().__init__()
        self.norm_first = norm_first
        self.attention = SelfAttention(width, heads, dropout)
        self.norm1 = nn.LayerNorm(width, eps)
        self.mlp = MLP(width, mlp_width)
        self.norm2 = nn.LayerNorm(width, eps)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x (B, L, W), mask (B, L) bool with True = real token, or None -> (B, L, W)."""
        if self.norm_first:
            x = x + self.dropout(self.attention(self.norm1(x), mask))
            return x + self.dropout(self.mlp(self.norm2(x)))
        x = self.norm1(x + self.dropout(self.attention(x, mask)))
        return self.norm2(x + self.dropout(self.mlp(x)))


def init_weights(module: nn.Module) -> None:
    """Initialise one module; call it as model.apply(init_weights). Weights of linear layers and convolutions are normal with
    variance 1 / inputs, embedding tables are normal with sd 0.02, biases are zero. LayerNorm keeps its ones and zeros.

    BERT and ViT use sd 0.02 everywhere, which suits width 768. At the laptop preset's widths, sd 0.02 makes every block pass on a
    very weak signal, so the embeddings of two texts are almost equal at the start. Variance 1 / inputs makes them less equal (our
    choice; on its own it does not keep training from staying at chance).
    """
    if isinstance(module, (nn.Linear, nn.Conv2d)):
        nn.init.trunc_normal_(module.weight, std=module.weight[0].numel() ** -0.5, a=-1.0, b=1.0)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Embedding):
        nn.init.trunc_normal_(module.weight, std=0.02, a=-0.04, b=0.04)
