"""Writes our models as files that other programs read."""
import json

from mulan_min import checkpoint
from mulan_min.files import new_folder, write_json, write_text
from mulan_min.weights.bert import BERT_RULES, BERT_SIZES
from mulan_min.weights.names import published_names
from mulan_min.weights.published import PUBLISHED_FILES


def save_model(model, path):
    """Writes a whole model as one .safetensors file, with its config, tokenizer and labels in the metadata. The model needs
    .config, .tokenizer (or None) and state_dict(); .labels is optional. Raises UserError when the file cannot be written."""
    metadata = {"mulan_min": str(checkpoint.FORMAT), "config": json.dumps(model.config.to_dict()),
                "tokenizer": model.tokenizer.to_str() if model.tokenizer else "",
                "labels": json.dumps(getattr(model, "labels", []))}
    checkpoint.save_safetensors(path, model.state_dict(), metadata)


def save_text(model, folder):
    """Writes a MuLan's BERT as a folder that transformers' AutoModel and AutoTokenizer load. The layout has no name for the
    projection to the shared space. MuLan has no pooler, so transformers gives the BERT a random one. Raises UserError when the
    folder cannot be written."""
    text, tokenizer, vocab = model.config.text, model.tokenizer, model.tokenizer.get_vocab()
    names, tensors = published_names("BERT", text.text_depth), {}
    for ours, tensor in model.text.net.state_dict().items():
        tensors |= zip(names[ours], tensor.chunk(len(names[ours])))
    normalizer = json.loads(tokenizer.to_str())["normalizer"] or {}
    tokenizer_config = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": text.max_tokens}
    tokenizer_config |= {f"{token}_token": f"[{token.upper()}]" for token in ("pad", "unk", "cls", "sep", "mask")}
    if normalizer.get("type") == "BertNormalizer":
        tokenizer_config |= {"tokenizer_class": "BertTokenizer", "do_lower_case": normalizer["lowercase"],
                             "strip_accents": normalizer["strip_accents"],
                             "tokenize_chinese_chars": normalizer["handle_chinese_chars"]}
    config = {"architectures": ["BertModel"], **BERT_RULES, "vocab_size": len(vocab), "type_vocab_size": 2,
              **{published: getattr(text, ours) for ours, published in BERT_SIZES.items()},
              "intermediate_size": text.text_mlp or 4 * text.text_width, "layer_norm_eps": text.text_eps,
              "hidden_dropout_prob": text.text_dropout, "attention_probs_dropout_prob": text.text_dropout,
              "pad_token_id": vocab["[PAD]"]}
    with new_folder(folder) as making:
        checkpoint.save_safetensors(making / PUBLISHED_FILES[0], tensors, {"format": "pt"})
        write_json(making / "config.json", config)
        write_text(making / "tokenizer.json", tokenizer.to_str(pretty=True))
        write_json(making / "tokenizer_config.json", tokenizer_config)
        write_text(making / "vocab.txt", "".join(piece + "\n" for piece in sorted(vocab, key=vocab.get)))
