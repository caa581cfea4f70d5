"""BERT's WordPiece tokenizer, made with the `tokenizers` package: train a small vocabulary, or load a published one."""
from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor

from mulan_min.errors import UserError
from mulan_min.files import parse_json

SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]  # [PAD] gets id 0, as in BERT's vocabulary


def train_wordpiece(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """An uncased WordPiece with vocab_size pieces (more if the alphabet alone is larger), the same in every process."""
    texts = [_replace_surrogates(text) for text in texts]
    tokenizer = _uncased({})
    words = tokenizer.pre_tokenizer.pre_tokenize_str(tokenizer.normalizer.normalize_str("\n".join(texts)))
    # The trainer numbers the characters inside words in the order of a hash map. This order differs from run to run and decides
    # ties between merges. As special tokens they get fixed numbers.
    inner_pieces = sorted({"##" + character for word, _ in words for character in word[1:]})
    trainer = trainers.WordPieceTrainer(vocab_size=vocab_size, special_tokens=SPECIAL_TOKENS + inner_pieces, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    # A new tokenizer with the same vocabulary, in which "##a" is an ordinary piece and no longer a special token.
    return finish(_uncased(tokenizer.get_vocab()), "the trained vocabulary")


def load_wordpiece(path: str | Path) -> Tokenizer:
    """Load BERT's vocab.txt (one piece per line, taken as uncased), a tokenizer.json, or a folder (tokenizer.json is preferred).

    A tokenizer_config.json beside the file overrides its settings of case, accents and Chinese characters, as in transformers.
    Padding and truncation stored in a tokenizer.json are dropped. Raises UserError when a file is missing or damaged, or when the
    vocabulary lacks [PAD], [UNK], [CLS] or [SEP].
    """
    path = Path(path)
    if path.is_dir():
        path = path / ("tokenizer.json" if (path / "tokenizer.json").is_file() else "vocab.txt")
    options = _normalizer_options(path.with_name("tokenizer_config.json"))
    try:
        content = path.read_text(encoding="utf-8")
        lines = content.removesuffix("\n").split("\n")
        tokenizer = Tokenizer.from_str(content) if path.suffix == ".json" else _uncased({piece: i for i, piece in enumerate(lines)})
    except Exception as error:  # tokenizers raises bare Exception for bad JSON
        raise UserError(f"{path}: not a vocab.txt or tokenizer.json that can be read ({error})") from error
    if isinstance(tokenizer.normalizer, normalizers.BertNormalizer):
        for name, value in options.items():
            setattr(tokenizer.normalizer, name, value)
    return finish(tokenizer, path)


def _normalizer_options(path: Path) -> dict:
    """tokenizer_config.json -> options of `normalizers.BertNormalizer`; {} if there is no such file. Raises UserError."""
    names = {"do_lower_case": "lowercase", "strip_accents": "strip_accents", "tokenize_chinese_chars": "handle_chinese_chars"}
    content = parse_json(path.read_bytes(), path) if path.is_file() else {}
    if not isinstance(content, dict) or not all(isinstance(content.get(name), bool | None) for name in names):
        raise UserError(f"{path}: {', '.join(names)} must be true or false, in a JSON object")
    return {ours: content[theirs] for theirs, ours in names.items() if content.get(theirs) is not None}


def encode(tokenizer: Tokenizer, texts: list[str], max_tokens: int) -> tuple[Tensor, Tensor]:
    """N texts -> token ids (N, L) int64 and mask (N, L) bool, True = real token. Each row is [CLS] ... [SEP]. Rows longer than
    max_tokens are truncated but keep [SEP]; then all rows are padded to the longest. Raises UserError when max_tokens is below 3 or
    `texts` is not a list of strings."""
    if max_tokens < 3:
        raise UserError(f"max_tokens is {max_tokens}: at least 3 are needed, for [CLS], one piece and [SEP]")
    if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
        raise UserError("texts must be a list of strings, such as ['a slow sad piano waltz']")
    # We truncate and pad here: enable_truncation() would change the shared tokenizer for other threads and in saved checkpoints.
    rows = [row.ids for row in tokenizer.encode_batch([_replace_surrogates(text) for text in texts])]
    rows = [row if len(row) <= max_tokens else row[:max_tokens - 1] + row[-1:] for row in rows]
    length, pad = max(map(len, rows), default=2), tokenizer.token_to_id("[PAD]")
    ids = torch.tensor([row + [pad] * (length - len(row)) for row in rows], dtype=torch.int64).view(-1, length)
    return ids, torch.arange(length) < torch.tensor([len(row) for row in rows], dtype=torch.int64)[:, None]


def _replace_surrogates(text: str) -> str:
    """Replace each unpaired surrogate by a question mark. JSON such as "\\ud83c" contains them, and they have no UTF-8 encoding."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _uncased(vocabulary: dict[str, int]) -> Tokenizer:
    """A tokenizer like bert-base-uncased: lower case, no accents, split at spaces, punctuation and around Chinese characters."""
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


def finish(tokenizer: Tokenizer, name: str | Path) -> Tokenizer:
    """Check the vocabulary, make every text [CLS] ... [SEP], and drop stored padding and truncation, in place. Raises UserError,
    which names the vocabulary `name`, when a special token is missing or the piece ids have a gap."""
    if missing := [token for token in SPECIAL_TOKENS[:4] if tokenizer.token_to_id(token) is None]:
        raise UserError(f"{name}: {', '.join(missing)} missing; use a vocabulary made for BERT")
    if max(tokenizer.get_vocab().values()) >= tokenizer.get_vocab_size():  # the text tower has one embedding row per piece
        raise UserError(f"{name}: the same piece occurs twice, or the ids have a gap; use a vocabulary made for BERT")
    tokenizer.add_special_tokens([t for t in SPECIAL_TOKENS if tokenizer.token_to_id(t) is not None])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[(t, tokenizer.token_to_id(t)) for t in ("[CLS]", "[SEP]")])
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer
