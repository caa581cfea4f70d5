"""Loads BERT folders into the text tower (paper: section 4), or as separate text encoders, the paper's text baselines."""
import json
from pathlib import Path

import torch
import torch.nn.functional as F

from mulan_min.bert import Bert
from mulan_min.device import default_device
from mulan_min.errors import UserError
from mulan_min.mulan import check_texts
from mulan_min.weights.published import PUBLISHED_FILES, copy_into, find_file, read_config, read_weights, rename_tensors
from mulan_min.wordpiece import encode, load_wordpiece

# Our settings of the text tower, and their names in a BERT's config.json
BERT_SIZES = {"text_width": "hidden_size", "text_depth": "num_hidden_layers", "text_heads": "num_attention_heads",
              "text_mlp": "intermediate_size", "max_tokens": "max_position_embeddings"}
# Fields of a config.json for which we support only these values. A missing field counts as this value.
BERT_RULES = {"model_type": "bert", "hidden_act": "gelu", "position_embedding_type": "absolute", "is_decoder": False}


def bert_sizes(folder):
    """{our setting: value} from the config.json in a BERT folder. Raises UserError when it cannot be read or is not a BERT's."""
    path = Path(folder) / "config.json"
    config = read_config(path, BERT_RULES)
    for published in BERT_SIZES.values():
        if not isinstance(config.get(published), int) or config[published] < 1:
            raise UserError(f"{path}: {published} must be a whole number, not {config.get(published)}; is it a BERT's folder?")
    eps = config.get("layer_norm_eps", 1e-12)
    if not isinstance(eps, float):
        raise UserError(f"{path}: layer_norm_eps must be a number such as 1e-12, not {json.dumps(eps)}")
    return {ours: config[published] for ours, published in BERT_SIZES.items()} | {"text_eps": eps}


def copy_bert(bert, folder):
    """Copies a BERT folder's tensors into a `Bert` with the folder's sizes -> report. Embedding tables with more rows than `bert`
    has are cut. Raises UserError when a file or a tensor does not fit."""
    path = find_file(folder, PUBLISHED_FILES)
    tensors, report = rename_tensors(read_weights(path)[0], "BERT", path)
    for name, reason in (("words", "the pieces of its tokenizer"), ("positions", "max_tokens"), ("token_types", "one is used")):
        table, rows = tensors.get(f"{name}.weight", torch.zeros(())), len(getattr(bert, name).weight)
        if table.ndim == 2 and (len(table) > rows or len(table) < rows and name == "token_types"):     # else `copy_into` checks it
            tensors[f"{name}.weight"] = torch.cat([table, torch.zeros_like(table)])[:rows]
            report.append(f"resized   {name}.weight: {len(table)} -> {rows} rows, {reason}")
    if (Path(folder) / "2_Dense").is_dir():
        report.append("left out  2_Dense/: SBERT has this layer after the pooling, and BERT does not")
    return copy_into(bert, tensors, path, report)


def load_bert(folder, max_tokens=None, dropout=0.0):
    """A BERT folder -> (Bert in eval mode on the CPU, tokenizer, report). The folder holds config.json, model.safetensors or
    pytorch_model.bin, and vocab.txt or tokenizer.json. max_tokens: rows of the position table to use, all by default. Raises
    UserError when the folder is incomplete or not a BERT's."""
    sizes, tokenizer = bert_sizes(folder), load_wordpiece(folder)
    bert = Bert(tokenizer.get_vocab_size(), sizes["text_width"], sizes["text_depth"], sizes["text_heads"], sizes["text_mlp"],
                min(max_tokens or sizes["max_tokens"], sizes["max_tokens"]), dropout, sizes["text_eps"]).eval()
    return bert, tokenizer, copy_bert(bert, folder)


class TextEncoder:
    """A BERT folder as a text encoder, without a MuLan: one of the paper's text baselines.

    pool: "mean" averages the states of all real tokens, [CLS] and [SEP] too, as SBERT does; "cls" takes the [CLS] state, as
    SimCSE does. `report` says what was loaded. Raises UserError as `load_bert` does.
    """

    def __init__(self, folder, pool="mean", device=None):
        if pool not in ("mean", "cls"):
            raise UserError(f"--pool {pool} is not one of mean, cls")
        self.pool, self.device = pool, device or default_device()
        self.bert, self.tokenizer, self.report = load_bert(folder)
        self.bert.to(self.device)

    @torch.no_grad()
    def embed_text(self, texts, batch_size=64):
        """N texts -> (N, width) float32 on the CPU, rows of length 1. A row does not depend on the other texts. Raises UserError
        for an empty text."""
        texts, max_tokens = check_texts(texts), self.bert.positions.num_embeddings
        embeddings = [torch.zeros(0, self.bert.words.embedding_dim)]
        for i in range(0, len(texts), batch_size):
            tokens, mask = (x.to(self.device) for x in encode(self.tokenizer, texts[i:i + batch_size], max_tokens))
            states = self.bert(tokens, mask)                                            # (B, L, width)
            mean = states.masked_fill(~mask[..., None], 0).sum(1) / mask.sum(1, keepdim=True)
            embeddings.append(F.normalize(mean if self.pool == "mean" else states[:, 0], dim=-1).cpu())
        return torch.cat(embeddings)
