"""BERT's tokenizer through the `tokenizers` package: train a small vocabulary, or load a published one."""
import json
from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor

from mulan_min.errors import UserError

SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]  # [PAD] has id 0, as in BERT's vocabulary


def train_wordpiece(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """An uncased WordPiece tokenizer with vocab_size pieces, more only when the alphabet alone is larger.

    The same texts give the same vocabulary in every process.
    """
    texts = [_clean(text) for text in texts]
    tokenizer = _uncased(models.WordPiece(unk_token="[UNK]"))
    words = tokenizer.pre_tokenizer.pre_tokenize_str(tokenizer.normalizer.normalize_str("\n".join(texts)))
    # The trainer numbers the characters inside words in the order of a hash map, which differs from run to
    # run and decides ties between merges. Named beforehand, they have fixed numbers.
    inside = sorted({"##" + character for word, _ in words for character in word[1:]})
    trainer = trainers.WordPieceTrainer(vocab_size=vocab_size, special_tokens=SPECIAL_TOKENS + inside,
                                        show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    # a fresh tokenizer, in which "##a" is an ordinary piece again and no special token
    model = models.WordPiece(tokenizer.get_vocab(), unk_token="[UNK]")
    return finish(_uncased(model), "the trained vocabulary")


def load_wordpiece(path: str | Path) -> Tokenizer:
    """A tokenizer from BERT's vocab.txt (one piece a line, taken as uncased), a tokenizer.json, or a folder
    that holds one of them, the latter before the former.

    What a tokenizer_config.json beside it says of case, accents and CJK signs goes before either file, as it
    does in transformers. Padding and truncation stored in a tokenizer.json are dropped. Raises UserError when
    the file is missing, cannot be read, or lacks [PAD], [UNK], [CLS] or [SEP].
    """
    path = Path(path)
    if path.is_dir():
        path = path / ("tokenizer.json" if (path / "tokenizer.json").is_file() else "vocab.txt")
    stated = _stated(path.with_name("tokenizer_config.json"))
    try:
        if path.suffix == ".json":
            tokenizer = Tokenizer.from_str(path.read_text(encoding="utf-8"))
            own = json.loads(tokenizer.to_str())["normalizer"] or {}
            if own.pop("type", None) == "BertNormalizer":
                tokenizer.normalizer = normalizers.BertNormalizer(**own | stated)
            return finish(tokenizer, path)
        with open(path, encoding="utf-8") as file:
            pieces = [line.rstrip("\n") for line in file]
    except UserError:
        raise
    except Exception as error:  # tokenizers raises bare Exception for bad JSON
        raise UserError(f"{path}: not a vocab.txt or tokenizer.json that can be read ({error})") from error
    if len(set(pieces)) < len(pieces):
        raise UserError(f"{path}: the same piece stands on two lines; give BERT's own vocab.txt")
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    tokenizer = _uncased(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(**{"lowercase": True} | stated)
    return finish(tokenizer, path)


def _stated(path: Path) -> dict:
    """What a tokenizer_config.json says of BERT's normalisation, in the words of `tokenizers`; {} if there is none."""
    names = {"do_lower_case": "lowercase", "strip_accents": "strip_accents", "tokenize_chinese_chars": "handle_chinese_chars"}
    try:
        content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        found = {ours: content[theirs] for theirs, ours in names.items() if content.get(theirs) is not None}
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: not a tokenizer_config.json that can be read ({error})") from error
    if not all(isinstance(value, bool) for value in found.values()):
        raise UserError(f"{path}: {', '.join(names)} must be true or false")
    return found


def encode(tokenizer: Tokenizer, texts: list[str], max_tokens: int) -> tuple[Tensor, Tensor]:
    """N texts -> ids (N, L) int64 and mask (N, L) bool, True = real token.

    Each row is [CLS] ... [SEP], cut to max_tokens with [SEP] kept, then padded to the longest row. Raises
    UserError for max_tokens below 3 and for anything but a list of strings.
    """
    if max_tokens < 3:
        raise UserError(f"max_tokens is {max_tokens}: at least 3 are needed, for [CLS], one piece and [SEP]")
    if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
        raise UserError("texts must be a list of strings, such as ['a slow sad piano waltz']")
    rows = [row.ids for row in tokenizer.encode_batch([_clean(text) for text in texts])]
    rows = [torch.tensor(row if len(row) <= max_tokens else row[:max_tokens - 1] + row[-1:]) for row in rows]
    length = max(map(len, rows), default=2)
    ids = torch.full((len(rows), length), tokenizer.token_to_id("[PAD]"), dtype=torch.int64)
    mask = torch.zeros(len(rows), length, dtype=torch.bool)
    for i, row in enumerate(rows):
        ids[i, :len(row)], mask[i, :len(row)] = row, True
    return ids, mask


def _clean(text: str) -> str:
    """Half a surrogate pair (JSON such as "\\ud83c" yields it) has no UTF-8 and becomes a question mark."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _uncased(model: models.Model) -> Tokenizer:
    """As bert-base-uncased: lower case, no accents, split at spaces, punctuation and around each CJK sign."""
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


def finish(tokenizer: Tokenizer, name: str | Path) -> Tokenizer:
    """Check the special tokens, frame texts as [CLS] ... [SEP], drop stored padding and truncation."""
    missing = [token for token in SPECIAL_TOKENS[:4] if tokenizer.token_to_id(token) is None]
    if missing:
        raise UserError(f"{name}: {', '.join(missing)} missing; give a vocabulary made for BERT")
    if max(tokenizer.get_vocab().values()) >= tokenizer.get_vocab_size():  # the text tower has a row for each piece
        raise UserError(f"{name}: pieces are not numbered from 0 without a gap; give a vocabulary made for BERT")
    tokenizer.add_special_tokens([t for t in SPECIAL_TOKENS if tokenizer.token_to_id(t) is not None])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[(t, tokenizer.token_to_id(t)) for t in ("[CLS]", "[SEP]")])
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer
