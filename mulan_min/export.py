"""Our weights in files that other programs read.

    python -m mulan_min.export RUN OUT

writes OUT/mulan.safetensors, the whole model, and OUT/bert/, the text tower's BERT, which transformers opens.
"""
import argparse
import json
from pathlib import Path

from mulan_min import checkpoint
from mulan_min.bert_weights import BERT_RULES, BERT_SIZES
from mulan_min.command_line import run_script
from mulan_min.errors import UserError
from mulan_min.files import new_folder, write_json, write_text
from mulan_min.mulan import MuLan
from mulan_min.tag_classifier import TagClassifier
from mulan_min.weight_names import by_our_name, published_names
from mulan_min.weights import PUBLISHED_FILES


def save_model(model, path):
    """Writes a whole model as one .safetensors file, with its config, tokenizer and labels in the metadata. The model needs
    .config, .tokenizer (or None) and state_dict(); .labels is optional. Raises UserError when the file cannot be written."""
    metadata = {"mulan_min": str(checkpoint.FORMAT), "config": json.dumps(model.config.to_dict()),
                "tokenizer": model.tokenizer.to_str() if model.tokenizer else "",
                "labels": json.dumps(getattr(model, "labels", []))}
    checkpoint.save_safetensors(path, model.state_dict(), metadata)


def save_text(model, folder):
    """Writes a MuLan's BERT as a folder that transformers' AutoModel and AutoTokenizer load. The layout has no place for the
    projection to the shared space. MuLan has no pooler, so transformers gives the BERT a random one. Raises UserError when the
    folder cannot be written."""
    text, tokenizer, vocab = model.config.text, model.tokenizer, model.tokenizer.get_vocab()
    names, tensors = by_our_name(published_names("BERT", text.text_depth)), {}
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


def main(argv=None):
    """The command: writes both files of a run. Raises UserError when the run cannot be read or a file exists already."""
    parser = argparse.ArgumentParser(prog="python -m mulan_min.export", description="Write a run's model for other programs.")
    parser.add_argument("run", help="run folder or checkpoint file")
    parser.add_argument("out", help="folder to write: mulan.safetensors and bert/")
    args = parser.parse_args(argv)
    out, path = Path(args.out), checkpoint.best_of(args.run)
    state = checkpoint.load(path)
    model = (TagClassifier if checkpoint.objective_of(state) == "tags" else MuLan).from_state(state, path)
    for path in (out / "mulan.safetensors", out / "bert"):
        if path.exists():
            raise UserError(f"{path}: exists already; delete it or give another OUT")
    save_model(model, out / "mulan.safetensors")
    print(f"{out / 'mulan.safetensors'}: the whole model; {type(model).__name__}.load reads it")
    if not model.tokenizer:
        return print("a classifier (--objective tags) has no text tower to write")
    save_text(model, out / "bert")
    print(f"{out / 'bert'}: the text tower's BERT, without the projection; transformers' AutoModel reads it")


if __name__ == "__main__":
    run_script(main)
