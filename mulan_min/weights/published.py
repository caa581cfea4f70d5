"""Published weights: reads files and the config.json beside them, renames their tensors, and copies them into a module.

Every load returns a report, a list of lines. They say what was loaded, renamed, resized and left out, with the reasons. A tensor
that is missing, unexpected or of another shape is an error. Nothing in a file is executed.
"""
import json
from pathlib import Path

import torch

from mulan_min import checkpoint
from mulan_min.errors import UserError
from mulan_min.weights.names import LEFT_OUT, count_blocks, published_names, strip_prefixes

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64)      # int64: batch norm's counters
PUBLISHED_FILES = ("model.safetensors", "pytorch_model.bin")            # in this order


def find_file(path, names):
    """`path` itself if it is a file, otherwise the first of `names` in that folder. Raises UserError when there is none."""
    path = Path(path)
    for candidate in (path, *(path / name for name in names)):
        if candidate.is_file():
            return candidate
    if sharded := [name for name in names if (path / f"{name}.index.json").is_file()]:
        raise UserError(f"{path}: {sharded[0]} is in several pieces; join them with transformers: "
                        "AutoModel.from_pretrained(DIR).save_pretrained(OUT, max_shard_size='100GB')")
    raise UserError(f"{path}: no weights; it must be a file, or a folder with {' or '.join(names)}")


def read_weights(path):
    """A .safetensors, .bin, .pt, .pth or .ckpt file -> ({name: tensor} on the CPU, config dictionary of a MuLan run or None).
    The tensors may be nested under "state_dict" or "model". Raises UserError for a damaged file, for content other than
    tensors, such as code, and for values that are not finite."""
    if path.suffix == ".safetensors":
        content, metadata = checkpoint.read_safetensors(path)
        content = checkpoint.load(path) if "mulan_min" in metadata else content
    elif path.suffix in (".bin", ".pt", ".pth", ".ckpt"):
        content = checkpoint.unpickle(path)
    else:
        raise UserError(f"{path}: weights are read from .safetensors, .bin, .pt, .pth and .ckpt files")
    config = content.get("config") if checkpoint.is_state(content) else None
    content = content if isinstance(content, dict) else {}
    tensors = next((content[key] for key in ("state_dict", "model") if isinstance(content.get(key), dict)), content)
    for name, x in tensors.items() or [("its content", None)]:
        if not (isinstance(name, str) and torch.is_tensor(x)):
            raise UserError(f"{path}: {name} is not a tensor; a file of weights may hold only names and tensors")
        if x.layout != torch.strided or x.is_meta or x.dtype not in DTYPES:
            raise UserError(f"{path}: {name}: weights of {x.dtype} and {x.layout} are not supported; get the file in float32")
        if not torch.isfinite(x).all():
            raise UserError(f"{path}: {name}: numbers that are not finite; get the file again")
    return tensors, config


def read_config(path, rules):
    """Reads a config.json. `rules` is {field: the only value that we support, or a tuple of such values}; a missing field counts
    as that value. Raises UserError when the file cannot be read or breaks a rule."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise ValueError("not a JSON object")
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{path}: not a config.json that can be read ({error})") from error
    for name, rule in rules.items():
        if name in config and config[name] not in (rule if isinstance(rule, tuple) else (rule,)):
            raise UserError(f"{path}: {name} is {json.dumps(config[name])}, but only {json.dumps(rule)} is supported")
    return config


def rename_tensors(tensors, layout, path):
    """Tensors of a published layout -> ({our name: float32 tensor}, report). Raises UserError for an unexpected tensor, or two
    tensors of the same name. `path` is the file to name in errors."""
    names = published_names(layout, count_blocks(tensors))
    known = {published for stack in names.values() for published in stack}
    by_published_name, left_out, unexpected = {}, {}, []
    for name, tensor in tensors.items():
        published = strip_prefixes(name)
        reason = next((reason for beginning, reason in LEFT_OUT.items() if published.startswith(beginning)), None)
        if reason:
            left_out.setdefault(reason, []).append(name)
        elif published not in known or published in by_published_name:
            unexpected.append(name)
        else:
            by_published_name[published] = tensor
    if unexpected:
        raise UserError(f"{path}: {summarise(unexpected)} unexpected in layout '{layout}'; is it another architecture, or a size "
                        "that is not supported?")
    renamed = {}
    for ours, stack in names.items():
        parts = [by_published_name[name] for name in stack if name in by_published_name]
        # `copy_into` reports an incomplete stack, and parts of different shapes. An AST's prefix needs no distillation token.
        if len(parts) == len(stack) or ours == "prefix" and stack[0] in by_published_name:
            x = torch.cat(parts) if parts[0].ndim and len({part.shape for part in parts}) == 1 else parts[0]
            renamed[ours] = x.float() if x.is_floating_point() else x
    report = [f"{path}: {len(tensors)} tensors in layout '{layout}'",
              f"renamed   {len(by_published_name)} of them to {len(renamed)} names of ours (queries, keys and values are stacked)"]
    for dtype in sorted({str(x.dtype) for x in tensors.values() if x.is_floating_point() and x.dtype != torch.float32}):
        report.append(f"converted {dtype} to torch.float32")
    report += [f"left out  {summarise(names)}: {reason}" for reason, names in left_out.items()]
    return renamed, report


def copy_into(module, tensors, path, report):
    """Copies {our name: tensor} into a module -> the report with one more line. Raises UserError unless names and shapes are
    exactly those of the module. `path` is the file to name in errors."""
    def describe(x):
        return f"{tuple(x.shape)}{'' if x.is_floating_point() else ' of whole numbers'}"

    expected = module.state_dict()
    for names, problem in ((expected.keys() - tensors.keys(), "missing"), (tensors.keys() - expected.keys(), "not in our model")):
        if names:
            raise UserError(f"{path}: {summarise(sorted(names))} (our name) {problem}; is the file damaged, or of another size?")
    if mismatched := [f"{name} {describe(tensors[name])} instead of {describe(x)}" for name, x in expected.items()
                      if describe(tensors[name]) != describe(x)]:
        raise UserError(f"{path}: {summarise(mismatched)} (our name); give the run the sizes of the file")
    module.load_state_dict(tensors)
    return [*report, f"loaded    {len(tensors)} tensors, {sum(x.numel() for x in tensors.values()):,} numbers"]


def summarise(names):
    """A text with the first three names and the number of the others."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def as_flags(settings):
    """{"ast_depth": 12} -> "--ast-depth 12", as the user types it."""
    return " ".join(f"--{name.replace('_', '-')} {value}" for name, value in settings.items())
