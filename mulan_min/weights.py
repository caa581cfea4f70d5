"""Published weights into our modules, and ours back out: BERT folders, AST and ResNet-50 files. Paper, section 4.

Every load returns a report, lines that say what was loaded, renamed, resized, and left out and why. A tensor that is
missing, unexpected or of another shape is an error. Nothing in a file is executed.

    python -m mulan_min.weights RUN OUT     # OUT/mulan.safetensors, the whole model, and OUT/bert/, which transformers opens
"""
import argparse
import json
from pathlib import Path

import torch
import torch.nn.functional as F

from mulan_min import checkpoint
from mulan_min.bert import Bert
from mulan_min.command_line import run_script
from mulan_min.config import config_from_dict
from mulan_min.errors import UserError
from mulan_min.files import write_atomically
from mulan_min.mulan import AudioTower, MuLan, default_device, listed
from mulan_min.weight_names import audio_layout, published_bert_names, translate
from mulan_min.wordpiece import encode, load_wordpiece

KINDS = (torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64)      # int64 counts
FILES = ("model.safetensors", "pytorch_model.bin")                      # of a published folder, in this order
RUN_FILES = ("best.pt", "last.pt", "mulan.safetensors")
# Our settings of the text tower and their names in a BERT's config.json.
BERT_SIZES = {"text_width": "hidden_size", "text_depth": "num_hidden_layers", "text_heads": "num_attention_heads",
              "text_mlp": "intermediate_size", "max_tokens": "max_position_embeddings"}
# What a config.json must say of things that are built in one way only here; to say nothing means the same.
BERT_RULES = {"model_type": "bert", "hidden_act": "gelu", "position_embedding_type": "absolute", "is_decoder": False}
AST_RULES = {"model_type": "audio-spectrogram-transformer", "hidden_act": "gelu", "qkv_bias": True}
RESNET_RULES = {"model_type": "resnet", "hidden_act": "relu", "layer_type": "bottleneck", "depths": [3, 4, 6, 3],
                "downsample_in_first_stage": False, "downsample_in_bottleneck": False}


# ---- files -----------------------------------------------------------------------------


def weights_file(path, names):
    """A file itself, or the first of `names` in a folder. Raises UserError."""
    path = Path(path)
    for candidate in (path, *(path / name for name in names)):
        if candidate.is_file():
            return candidate
    if sharded := [name for name in names if (path / f"{name}.index.json").is_file()]:
        raise UserError(f"{path}: {sharded[0]} is in several pieces; join them with transformers: "
                        "AutoModel.from_pretrained(DIR).save_pretrained(OUT, max_shard_size='100GB')")
    raise UserError(f"{path}: no weights; it must be a file, or a folder with {' or '.join(names)}")


def read_weights(path):
    """A .safetensors, .bin, .pt, .pth or .ckpt file -> ({name: tensor} on the CPU, the MuLan config it comes with or None).

    The tensors may stand under "state_dict" or "model". Raises UserError for a damaged file, for one that holds other things
    than tensors, such as code, and for numbers that are not finite.
    """
    path, config = Path(path), None
    if path.suffix == ".safetensors":
        tensors, notes = checkpoint.read_safetensors(path)
        config = checkpoint.load(path)["config"] if "mulan_min" in notes else None
    elif path.suffix in (".bin", ".pt", ".pth", ".ckpt"):
        tensors = checkpoint.unpickle(path)
        state = tensors if isinstance(tensors, dict) else {}
        config = state.get("config") if state.get("format") == checkpoint.FORMAT else None
        tensors = next((state[key] for key in ("state_dict", "model") if isinstance(state.get(key), dict)), state)
    else:
        raise UserError(f"{path}: weights are read from .safetensors, .bin, .pt, .pth and .ckpt files")
    odd = [str(name) for name, x in tensors.items() if not (isinstance(name, str) and torch.is_tensor(x))]
    if odd or not tensors:
        odd = odd or ["its content"]
        raise UserError(f"{path}: {few(odd)} is no tensor; a file of weights holds names and tensors alone")
    if odd := [name for name, x in tensors.items() if x.layout != torch.strided or x.is_meta or x.dtype not in KINDS]:
        raise UserError(f"{path}: {few(odd)}: {tensors[odd[0]].dtype} is no kind of number for weights; get the file in float32")
    if bad := [name for name, x in tensors.items() if not torch.isfinite(x).all()]:
        raise UserError(f"{path}: {few(bad)}: numbers that are not finite; get the file again")
    return tensors, config


def read_config(path, rules):
    """A config.json, checked by `rules`. Raises UserError."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        odd = {name: config[name] for name in rules if config.get(name, rules[name]) != rules[name]}
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise UserError(f"{path}: not a config.json that can be read ({error})") from error
    for name, value in odd.items():
        raise UserError(f"{path}: {name} is {json.dumps(value)}, and only {json.dumps(rules[name])} is built here")
    return config


def few(names):
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


# ---- names and places ------------------------------------------------------------------


def rename(tensors, layout, path):
    """Tensors of a layout -> (float32 tensors under our names, report). Raises UserError for an unexpected tensor."""
    names, left, odd, used = translate(tensors, layout)
    if odd:
        raise UserError(f"{path}: {few(odd)} unexpected in layout '{layout}'; is it another architecture, or a size that is "
                        "not built here?")
    parts, found = {}, {}
    for name in sorted(names):      # [0], [1], [2] follow one another
        base, _, part = name.partition("[")
        parts.setdefault(base, {})[part[:1]] = tensors[names[name]]
    for name, stack in parts.items():
        # An incomplete stack is left out here and found missing by `place`; the second prefix token may be absent.
        if "".join(stack) in ("", "012") or name == "prefix" and "0" in stack:
            x, *others = stack.values()     # others of another shape are left to `place`, which finds too little
            x = torch.cat([x, *(other for other in others if other.shape == x.shape)]) if others else x
            found[name] = x.float() if x.is_floating_point() else x
    report = [f"{path}: {len(tensors)} tensors in layout '{layout}'"]
    report += [f"renamed   {theirs} -> {ours}  ({count})" for (theirs, ours), count in used.items()]
    for kind in sorted({str(x.dtype) for x in tensors.values() if x.is_floating_point() and x.dtype != torch.float32}):
        report.append(f"converted {kind} to torch.float32")
    for why in dict.fromkeys(left.values()):
        report.append(f"left out  {few([name for name in left if left[name] == why])}: {why}")
    return found, report


def place(net, found, path, report):
    """Copies tensors into a module and adds to the report. Raises UserError unless names and shapes are exactly the module's."""
    wanted = net.state_dict()
    for names, what in ((wanted.keys() - found.keys(), "missing"), (found.keys() - wanted.keys(), "without a place here")):
        if names:
            raise UserError(f"{path}: {few(sorted(names))} (our name) {what}; it is damaged, or made for another size")
    wrong = [f"{name} {tuple(found[name].shape)} instead of {tuple(x.shape)}" for name, x in wanted.items()
             if found[name].shape != x.shape]
    wrong += [f"{name} {found[name].dtype} instead of {x.dtype}" for name, x in wanted.items()
              if found[name].is_floating_point() != x.is_floating_point()]
    if wrong:
        raise UserError(f"{path}: {few(wrong)}; the sizes of the run must be those of the file")
    net.load_state_dict(found)
    report.append(f"loaded    {len(found)} tensors, {sum(x.numel() for x in found.values()):,} numbers")
    return report


# ---- text ------------------------------------------------------------------------------


def bert_sizes(folder):
    """{our setting: value} of a BERT folder's config.json. Raises UserError, also for what is not a BERT."""
    path = Path(folder) / "config.json"
    config = read_config(path, BERT_RULES)
    for theirs in BERT_SIZES.values():
        if not isinstance(config.get(theirs), int) or config[theirs] < 1:
            raise UserError(f"{path}: {theirs} must be a whole number, not {config.get(theirs)}; is it a BERT's folder?")
    eps = config.get("layer_norm_eps", 1e-12)
    if not isinstance(eps, float):
        raise UserError(f"{path}: layer_norm_eps must be a number, not {json.dumps(eps)}")
    return {ours: config[theirs] for ours, theirs in BERT_SIZES.items()} | {"text_eps": eps}


def size_text_tower(config, typed):
    """Gives config.text the sizes of its text_init folder; `typed` is what the user typed. max_tokens stays the preset's
    where the folder allows as many; the text warm-up is off unless typed. Raises UserError for a typed size that differs."""
    text = config.text
    for name, value in bert_sizes(text.text_init).items():
        if name in typed and (typed[name] > value if name == "max_tokens" else typed[name] != value):
            raise UserError(f"--{name.replace('_', '-')} {typed[name]} does not fit {text.text_init}, which has {value}: "
                            "leave it out")
        setattr(text, name, min(value, text.max_tokens) if name == "max_tokens" else value)
    if text.vocab:
        raise UserError("--vocab does not go with --text-init, whose folder has its tokenizer: leave it out")
    if "text_warmup" not in typed:
        text.text_warmup = 0


def fill_bert(bert, folder, tokenizer):
    """A folder's tensors into a `Bert` of its sizes, tables cut to the rows that this one has -> report. Raises UserError."""
    path = weights_file(folder, FILES)
    found, report = rename(read_weights(path)[0], "BERT", path)
    if max(tokenizer.get_vocab().values()) >= len(bert.words.weight):
        raise UserError(f"{folder}: its tokenizer skips numbers, up to {max(tokenizer.get_vocab().values())}: not a BERT's")
    for name, why in (("words", "the pieces of its tokenizer"), ("positions", "max_tokens"), ("token_types", "only one is used")):
        table, rows = found.get(f"{name}.weight"), len(getattr(bert, name).weight)
        if table is None or table.ndim != 2 or len(table) == rows or len(table) < rows and name != "token_types":
            continue        # nothing to do, or a fault that `place` has words for
        found[f"{name}.weight"] = torch.cat([table, torch.zeros_like(table)])[:rows]
        report.append(f"resized   {name}.weight: {len(table)} -> {rows} rows, {why}")
    if (Path(folder) / "2_Dense").is_dir():
        report.append("left out  2_Dense/, a layer behind the pooling that SBERT has and BERT has not")
    return place(bert, found, path, report)


def load_bert(folder, max_tokens=None, dropout=0.0):
    """Any BERT-shaped folder (config.json, model.safetensors or pytorch_model.bin, vocab.txt or tokenizer.json) -> (Bert in
    eval mode on the CPU, tokenizer, report). max_tokens: rows of the position table to keep, default all. Raises UserError."""
    sizes, tokenizer = bert_sizes(folder), load_wordpiece(folder)
    bert = Bert(tokenizer.get_vocab_size(), sizes["text_width"], sizes["text_depth"], sizes["text_heads"], sizes["text_mlp"],
                min(max_tokens or sizes["max_tokens"], sizes["max_tokens"]), dropout, sizes["text_eps"])
    report = fill_bert(bert, folder, tokenizer)
    return bert.eval(), tokenizer, report


def init_text(model, folder):
    """A BERT folder into a MuLan's text tower, which `size_text_tower` has given its sizes -> report. Raises UserError."""
    return [*fill_bert(model.text.net, folder, model.tokenizer), "new       the projection to the shared space"]


class TextEncoder:
    """A BERT-shaped folder as a text encoder of its own, no MuLan: the paper's text baselines.

    pool "mean": the mean over all real tokens, [CLS] and [SEP] too, as SBERT; "cls": the [CLS] state, as SimCSE. `report`
    says what was loaded. Raises UserError.
    """

    def __init__(self, folder, pool="mean", device=None):
        if pool not in ("mean", "cls"):
            raise UserError(f"--pool {pool} is not one of mean, cls")
        self.pool, self.device = pool, device or default_device()
        self.bert, self.tokenizer, self.report = load_bert(folder)
        self.bert.to(self.device)

    @torch.inference_mode()
    def embed_text(self, texts, batch_size=64):
        """N texts -> (N, width) float32 on the CPU, unit rows that do not depend on one another. Raises UserError."""
        texts, longest = listed(texts), self.bert.positions.num_embeddings
        rows = [torch.zeros(0, self.bert.words.embedding_dim)]
        for i in range(0, len(texts), batch_size):
            tokens, mask = (x.to(self.device) for x in encode(self.tokenizer, texts[i:i + batch_size], longest))
            states = self.bert(tokens, mask)                                            # (B, L, width)
            if self.pool == "mean":
                states = states.masked_fill(~mask[..., None], 0).sum(1) / mask.sum(1, keepdim=True)
            else:
                states = states[:, 0]
            rows.append(F.normalize(states, dim=-1).cpu())
        return torch.cat(rows)


# ---- audio -----------------------------------------------------------------------------


def init_audio(model, path):
    """A file of AST or ResNet-50 weights, or a run of ours, into a MuLan's audio tower -> report. The spectrogram's mean and
    sd and the projection stay the run's own. Raises UserError."""
    tower, front, path = model.config.tower, model.config.front, weights_file(path, RUN_FILES + FILES)
    tensors, saved = read_weights(path)
    saved, layout = saved and config_from_dict(saved, path), audio_layout(tensors)
    if not saved and not layout:
        raise UserError(f"{path}: no AST or ResNet-50 in a layout known here; it holds {few(list(tensors))}")
    kind = saved.tower.audio if saved else "ast" if layout.startswith("AST") else "resnet50"
    if kind != tower.audio:
        raise UserError(f"{path}: it holds --audio {kind}, and the run is --audio {tower.audio}")
    if saved:
        found = {name.removeprefix("audio.net."): x for name, x in tensors.items() if name.startswith("audio.net.")}
        report = [f"{path}: {len(tensors)} tensors of a run of ours",
                  f"left out  all but {len(found)}: the spectrogram's mean and sd, the projection, and the text tower"]
        report += [f"note      it heard --{name.replace('_', '-')} {value}, this run hears {vars(front)[name]}"
                   for name, value in vars(saved.front).items() if value != vars(front)[name] and "mask" not in name]
        told = {"num_attention_heads": saved.tower.ast_heads}
    else:
        beside = path.with_name("config.json")
        rules = AST_RULES if kind == "ast" else RESNET_RULES
        told = read_config(beside, {}) if beside.is_file() else {}
        found, report = rename(tensors, layout, path)
        if told.get("model_type", rules["model_type"]) == rules["model_type"]:
            told = read_config(beside, rules) if told else {}
        else:
            told = {}
            report.append(f"note      {beside} is of another model and has no say here")
        heard = {"dialect": "kaldi", "n_mels": 128, "window": 0.025, "hop": 0.01, "mel_mean": -4.2677393, "mel_std": 4.5689974}
        if kind == "ast" and (odd := {name: value for name, value in heard.items() if getattr(front, name) != value}):
            flags = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in odd.items())
            report.append(f"note      published ASTs heard {flags}; this run differs")
    kernel = found.get("patch_embedding.weight" if kind == "ast" else "stem.0.weight")
    if kernel is not None and kernel.ndim == 4:     # else `place` has words for it
        (fit_ast if kind == "ast" else fit_resnet)(model, found, kernel, path, report, told, saved)
    return [*place(model.audio.net, found, path, report), "new       the projection to the shared space"]


def require_sizes(tower, path, **sizes):
    wrong = {name: value for name, value in sizes.items() if getattr(tower, name) != value}
    if wrong:
        have = ", ".join(f"{name} {getattr(tower, name)}" for name in wrong)
        flags = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in wrong.items())
        raise UserError(f"{path}: the run has {have}; type {flags}, or use --preset paper")


def fit_resnet(model, found, kernel, path, report, told, saved):
    """Sums the first kernel over the colours of a picture; counts batches from 0 where the file, an old one, does not say."""
    require_sizes(model.config.tower, path, resnet_width=len(kernel))
    if kernel.shape[1] > 1:
        found["stem.0.weight"] = kernel.sum(1, keepdim=True)
        report.append(f"resized   stem.0.weight: {kernel.shape[1]} -> 1 channels, summed")
    if not any("num_batches_tracked" in name for name in found):
        found |= {name: torch.tensor(0) for name in model.audio.net.state_dict() if "num_batches_tracked" in name}
        report.append("filled in num_batches_tracked: 0; files from before 2018 have none, and it is not used")


def fit_ast(model, found, kernel, path, report, told, saved):
    """Cuts or stretches the position table to the run's grid; keeps or drops the distillation token."""
    tower, net, (width, _, *patch) = model.config.tower, model.audio.net, kernel.shape
    depth = 1 + max((int(name.split(".")[1]) for name in found if name.startswith("blocks.")), default=-1)
    heads = told.get("num_attention_heads", width // 64 if width % 64 == 0 else None)     # 64 wide in every published AST
    require_sizes(tower, path, ast_width=width, ast_depth=depth, patch_mels=patch[0], patch_frames=patch[1],
                  ast_heads=heads or tower.ast_heads)
    if not heads:
        report.append(f"note      the file does not say how many heads it has; the run has {tower.ast_heads}")
    if told.get("layer_norm_eps", 0) not in (0, 1e-12, 1e-6):
        raise UserError(f"{path.with_name('config.json')}: layer_norm_eps is {json.dumps(told['layer_norm_eps'])}, and only 1e-06 is "
                        "built here (as where AST was trained; the 1e-12 of its port makes no difference)")
    if any(name not in found or not found[name].ndim or found[name].shape[-1] != width for name in ("prefix", "positions")):
        return      # `place` has words for it
    prefix, table, kept = found["prefix"].reshape(-1, width), found["positions"].reshape(-1, width), len(net.prefix)
    if len(prefix) < kept:
        raise UserError(f"{path}: it has no distillation token; leave out --ast-distilled")
    if len(prefix) > kept:
        report.append("left out  distillation token and its position: MuLan reads [CLS] alone; --ast-distilled keeps them")
    if saved:
        with torch.device("meta"):
            grid = AudioTower(saved).net.grid
    else:
        grid = published_grid(len(table) - len(prefix), patch, net, told, path)
    if grid != net.grid:
        how = [f"{axis} {'cut at the centre' if after < before else 'stretched'}"
               for axis, before, after in zip(("mels", "frames"), grid, net.grid) if before != after]
        report.append(f"resized   positions: {grid} -> {net.grid} patches along mels and frames, {' and '.join(how)}")
    table = torch.cat([table[:kept], resize_positions(table[len(prefix):], grid, net.grid)])
    found |= {"prefix": prefix[:kept], "positions": table}


def published_grid(patches, patch, net, told, path):
    """(along mels, along frames) of so many patches: by the config.json beside the file, or else the first size that ASTs are
    published in, or ours, which has so many. Raises UserError."""
    guesses = [(128, frames, stride, stride) for frames in (1024, 512, 128, net.size[1]) for stride in (10, 12, 14, 16)]
    if "num_mel_bins" in told:
        usual = {"num_mel_bins": 128, "max_length": 1024, "frequency_stride": 10, "time_stride": 10}
        guesses = [[told.get(name, usual[name]) for name in usual]]
        if not all(isinstance(value, int) and value > 0 for value in guesses[0]):
            raise UserError(f"{path.with_name('config.json')}: {', '.join(usual)} must be whole numbers above 0")
    for mels, frames, *strides in guesses:
        grid = tuple((n - p) // s + 1 for n, p, s in zip((mels, frames), patch, strides))
        if grid[0] * grid[1] == patches:
            return grid
    raise UserError(f"{path}: {patches} rows of positions are no grid of a published AST; a config.json beside it must give "
                    "num_mel_bins, max_length, frequency_stride and time_stride")


def resize_positions(table, grid, wanted):
    """(F T, width) on the grid (F, T) -> the same on another grid. AST's rule, for each axis: what is too long is cut at its
    centre, what is too short is stretched bilinearly."""
    table = table.T.reshape(1, -1, *grid)                                               # (1, width, F, T)
    for axis, size in ((2, wanted[0]), (3, wanted[1])):
        if size < table.shape[axis]:
            table = table.narrow(axis, table.shape[axis] // 2 - size // 2, size)
    return F.interpolate(table, wanted, mode="bilinear", align_corners=False).flatten(2)[0].T


# ---- the way back ----------------------------------------------------------------------


def save_model(model, path):
    """The whole model as one .safetensors file, config and tokenizer in its notes; `MuLan.load` reads it. Raises UserError."""
    config, tokenizer = json.dumps(model.config.to_dict()), model.tokenizer.to_str() if model.tokenizer else ""
    notes = {"mulan_min": str(checkpoint.FORMAT), "config": config, "tokenizer": tokenizer, "labels": json.dumps(model.labels)}
    checkpoint.save_safetensors(path, model.state_dict(), notes)


def save_text(model, folder):
    """The text tower's BERT as a folder that transformers' AutoModel and AutoTokenizer load. The projection to the shared
    space has no place in that layout; nor has MuLan a pooler, so transformers makes one up. Raises UserError."""
    folder, text, tensors = Path(folder), model.config.text, {}
    for name, x in model.text.net.state_dict().items():
        theirs = published_bert_names(name)
        tensors |= zip(theirs, x.chunk(len(theirs)))
    vocab = model.tokenizer.get_vocab()
    normaliser = json.loads(model.tokenizer.to_str())["normalizer"] or {}
    tokenizer_config = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": text.max_tokens}
    tokenizer_config |= {f"{token}_token": f"[{token.upper()}]" for token in ("pad", "unk", "cls", "sep", "mask")}
    if normaliser.get("type") == "BertNormalizer":
        tokenizer_config |= {"tokenizer_class": "BertTokenizer", "do_lower_case": normaliser["lowercase"],
                             "strip_accents": normaliser["strip_accents"],
                             "tokenize_chinese_chars": normaliser["handle_chinese_chars"]}
    config = {"architectures": ["BertModel"], **BERT_RULES, "vocab_size": len(vocab), "type_vocab_size": 2,
              **{theirs: getattr(text, ours) for ours, theirs in BERT_SIZES.items()},
              "intermediate_size": text.text_mlp or 4 * text.text_width, "layer_norm_eps": text.text_eps,
              "hidden_dropout_prob": text.text_dropout, "attention_probs_dropout_prob": text.text_dropout,
              "pad_token_id": vocab["[PAD]"]}
    (folder / "config.json").unlink(missing_ok=True)
    checkpoint.save_safetensors(folder / FILES[0], tensors, {"format": "pt"})
    # config.json last: nothing takes a folder without it for a BERT, so a save that was cut short does not look whole
    contents = {"tokenizer.json": model.tokenizer.to_str(pretty=True),
                "vocab.txt": "".join(piece + "\n" for piece in sorted(vocab, key=vocab.get)),
                "tokenizer_config.json": json.dumps(tokenizer_config, indent=1), "config.json": json.dumps(config, indent=1)}
    for name, content in contents.items():
        write_atomically(folder / name, lambda path, content=content: path.write_text(content, encoding="utf-8"))


def main(argv=None):
    parser = argparse.ArgumentParser(prog="python -m mulan_min.weights", description="Write a run's model in layouts of others.")
    parser.add_argument("run", help="run folder or checkpoint file")
    parser.add_argument("out", help="folder to write: mulan.safetensors and bert/")
    args = parser.parse_args(argv)
    model, out = MuLan.load(args.run, device="cpu"), Path(args.out)
    for path in (out / "mulan.safetensors", out / "bert"):
        if path.exists():
            raise UserError(f"{path}: is there already; delete it or give another OUT")
    save_model(model, out / "mulan.safetensors")
    print(f"{out / 'mulan.safetensors'}: the whole model; MuLan.load reads it")
    if model.labels:
        return print("a classifier (--objective tags) has no text tower to write")
    save_text(model, out / "bert")
    print(f"{out / 'bert'}: the text tower's BERT, without the projection; transformers' AutoModel reads it")


if __name__ == "__main__":
    run_script(main)
