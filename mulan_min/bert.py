"""The BERT encoder (Devlin et al. 2018), without its pooler: MuLan projects [CLS] itself (paper)."""
from torch import Tensor, nn

from mulan_min.errors import UserError
from mulan_min.transformer import Block, init_weights


class Bert(nn.Module):
    """Word, position and token-type embeddings, then post-norm blocks; the defaults are BERT base uncased.

    dropout is 0.1 in BERT; eps is LayerNorm's. The two token types tell a first from a second sentence; MuLan has one sentence,
    so all tokens are of type 0, and the table of two is there for published weights to fit.
    """

    def __init__(self, vocab_size: int = 30522, width: int = 768, depth: int = 12, heads: int = 12,
                 mlp_width: int = 3072, max_tokens: int = 512, dropout: float = 0.0, eps: float = 1e-12):
        super().__init__()
        self.words = nn.Embedding(vocab_size, width)
        self.positions = nn.Embedding(max_tokens, width)
        self.token_types = nn.Embedding(2, width)
        self.norm = nn.LayerNorm(width, eps=eps)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(width, heads, mlp_width, dropout, norm_first=False, eps=eps)
                                    for _ in range(depth))
        self.apply(init_weights)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """ids (B, L) int64, mask (B, L) bool with True = real token -> hidden states (B, L, width).

        No real token's state depends on padding; the states at padded places mean nothing. Raises UserError
        when L is more than the position table holds.
        """
        length = ids.shape[1]
        if length > self.positions.num_embeddings:
            raise UserError(f"{length} tokens, but this BERT holds {self.positions.num_embeddings}:"
                            " encode with max_tokens of at most that")
        x = self.words(ids) + self.positions.weight[:length] + self.token_types.weight[0]  # (B, L, W)
        x = self.dropout(self.norm(x))
        for block in self.blocks:
            x = block(x, mask)
        return x
