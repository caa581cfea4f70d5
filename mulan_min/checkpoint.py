"""Checkpoints: each save writes one file that is complete or absent. Loading never runs code from the file.

A state is a dictionary of tensors and plain values: step, config, tokenizer (its JSON), model, optimizer, best. A model alone
can also be stored as a .safetensors file, with its config and tokenizer in the metadata (needs the extra `weights`).
"""
import json
import os
import pickle
import re
import zipfile
from pathlib import Path

import torch

from mulan_min.errors import UserError
from mulan_min.files import write_atomically

FORMAT = 1
RUN_FILES = ("best.pt", "last.pt", "mulan.safetensors")     # in the order in which evaluation looks for them


def save(path, state):
    """Writes a state to a file. Raises UserError as `write_atomically` does."""
    def write(temporary):
        with open(temporary, "wb") as file:      # given a path, torch reports a full disk as "unexpected pos 64 vs 0"
            torch.save({"format": FORMAT, **state}, file)

    write_atomically(path, write)


def load(path):
    """Reads the state in a .pt or .safetensors file, with its tensors on the CPU. Raises UserError when the file is missing,
    truncated, not a checkpoint of this version, or holds anything except tensors and plain values (`weights_only=True`)."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint; train first, e.g. python train.py --audio ast")
    if path.suffix == ".safetensors":
        model, metadata = read_safetensors(path)
        try:
            if metadata["mulan_min"] != str(FORMAT):
                raise ValueError("another version")
            return {"format": FORMAT, "config": json.loads(metadata["config"]), "tokenizer": metadata["tokenizer"],
                    "labels": json.loads(metadata["labels"]), "model": model}
        except (KeyError, ValueError) as error:
            raise UserError(f"{path}: not a MuLan of this version (format {FORMAT}); give published weights to --text-init or "
                            "--audio-init of train.py") from error
    if not is_state(state := unpickle(path)):
        raise UserError(f"{path}: not a checkpoint of this version (format {FORMAT})")
    return state


def is_state(content):
    """Whether the content of a file is a state of this version."""
    return isinstance(content, dict) and isinstance(content.get("format"), int) and content["format"] == FORMAT


def unpickle(path):
    """Reads what torch.save wrote. Raises UserError for a damaged file, and for content other than tensors and plain values.

    torch checks neither the checksums nor the sizes that a zip archive states for its members. A flipped bit would change a weight,
    and a member could claim a size that fills the memory. So both are checked first."""
    try:
        with open(path, "rb") as file:
            if file.read(4) == b"PK\3\4":      # a zip archive, which torch.save writes since torch 1.6
                archive = zipfile.ZipFile(file)
                claimed = sum(member.file_size for member in archive.infolist())
                if damaged := "its directory" if claimed > os.path.getsize(path) else archive.testzip():
                    raise ValueError(damaged)
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        code = re.search(r"(?:GLOBAL|class) ([\w.]+\w)", str(error))
        reason = f"refused, since loading {code[1]} could run code" if code else "not what torch.save writes for tensors"
        raise UserError(f"{path}: {reason}; get a file that holds only tensors, best as .safetensors") from error
    except Exception as error:      # zipfile, torch and pickle raise a dozen types for damaged files
        reason = str(error).strip().split("\n")[0][:120] or type(error).__name__
        raise UserError(f"{path}: not a checkpoint or file of weights that can be read; perhaps it is damaged or truncated "
                        f"({reason})") from error


def objective_of(state):
    """The --objective of a checkpoint's state. If it has none, "contrastive": loading it as a MuLan then reports the error."""
    try:
        return str(state["config"]["optim"]["objective"])
    except (KeyError, TypeError):
        return "contrastive"


def best_of(run):
    """The file in a run folder to evaluate: best.pt, or last.pt before the first validation, or mulan.safetensors, which
    `mulan_min.weights` writes. If `run` is a file, it is returned. Raises UserError when there is none."""
    for file in (Path(run), *(Path(run) / name for name in RUN_FILES)):
        if file.is_file():
            return file
    raise UserError(f"{run}: no checkpoint (best.pt or last.pt) in it; train first, e.g. python train.py --audio ast")


def save_safetensors(path, tensors, metadata):
    """Writes {name: tensor} and metadata {name: text}. Raises UserError as `write_atomically` does."""
    tensors = {name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
    content = _safetensors(path).save(tensors, metadata)
    write_atomically(path, lambda temporary: temporary.write_bytes(content))


def read_safetensors(path):
    """A .safetensors file -> ({name: tensor} on the CPU, metadata {name: text}). Raises UserError for a damaged file."""
    safetensors = _safetensors(path)
    try:
        with safetensors.safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}
    except Exception as error:      # OSError, SafetensorError, or KeyError for a dtype that torch does not have
        raise UserError(f"{path}: not a .safetensors file that can be read ({str(error)[:120]})") from error


def _safetensors(path):
    try:
        import safetensors.torch
    except ImportError as error:
        raise UserError(f"{path}: .safetensors files need the extra: pip install 'mulan_min[weights]'") from error
    return safetensors.torch
