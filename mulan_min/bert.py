"""The BERT encoder (Devlin et al. 2018) without its pooler, because MuLan projects the [CLS] state itself (paper)."""
from torch import Tensor, nn

from mulan_min.errors import UserError
from mulan_min.transformer import TransformerBlock, init_weights


class Bert(nn.Module):
    """BERT: token ids (B, L) -> hidden states (B, L, width). The default sizes are those of BERT base uncased.

    The sum of word, position and token-type embeddings goes through post-norm transformer blocks. BERT trains with dropout 0.1.
    `eps` is LayerNorm's. BERT's two token types mark a first and a second sentence. MuLan has one sentence, so every token has
    type 0; the table has two rows so that published weights fit.
    """

    def __init__(self, vocab_size: int = 30522, width: int = 768, depth: int = 12, heads: int = 12, mlp_width: int = 3072,
                 max_tokens: int = 512, dropout: float = 0.0, eps: float = 1e-12):
        super().__init__()
        self.words = nn.Embedding(vocab_size, width)
        self.positions = nn.Embedding(max_tokens, width)
        self.token_types = nn.Embedding(2, width)
        self.norm = nn.LayerNorm(width, eps=eps)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(TransformerBlock(width, heads, mlp_width, dropout, norm_first=False, eps=eps)
                                    for _ in range(depth))
        self.apply(init_weights)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """ids (B, L) int64, mask (B, L) bool with True = real token -> hidden states (B, L, width).

        The states of real tokens do not depend on padding; those of padding are meaningless. Raises UserError when L > max_tokens.
        """
        length = ids.shape[1]
        if length > self.positions.num_embeddings:
            raise UserError(f"{length} tokens, but this BERT holds {self.positions.num_embeddings}:"
                            " encode the texts with max_tokens of at most that number")
        x = self.words(ids) + self.positions.weight[:length] + self.token_types.weight[0]  # (B, L, W)
        x = self.dropout(self.norm(x))
        for block in self.blocks:
            x = block(x, mask)
        return x
