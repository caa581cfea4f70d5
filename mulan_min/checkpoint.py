"""Checkpoints: one file a save, whole or not there at all, read without running any code that is in it.

A state is a dictionary of tensors and plain values: step, config, tokenizer (its JSON), model, optimizer, best. A model
alone may also stand in a .safetensors file, config and tokenizer in its notes (extra `weights`).
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


def save(path, state):
    """Writes a state. Raises UserError, see `write_atomically`."""
    def write(temporary):
        with open(temporary, "wb") as file:      # torch, given the path, says of a full disk: unexpected pos 64 vs 0
            torch.save({"format": FORMAT, **state}, file)

    write_atomically(path, write)


def load(path):
    """The state in a .pt or .safetensors file, tensors on the CPU. Raises UserError when the file is missing, truncated, not a
    checkpoint of this version, or holds anything but tensors and plain values (`weights_only`: nothing in it is executed)."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint; train first, e.g. python train.py --audio ast")
    if path.suffix == ".safetensors":
        model, notes = read_safetensors(path)
        try:
            config, tokenizer, labels = json.loads(notes["config"]), notes["tokenizer"], json.loads(notes["labels"])
        except (KeyError, ValueError):
            notes = {}
        if notes.get("mulan_min") != str(FORMAT):
            raise UserError(f"{path}: not a MuLan of this version (format {FORMAT}); weights of others go to --text-init or "
                            "--audio-init of train.py")
        return {"format": FORMAT, "config": config, "tokenizer": tokenizer, "labels": labels, "model": model}
    check_members(path)
    state = unpickle(path)
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise UserError(f"{path}: not a checkpoint of this version (format {FORMAT})")
    return state


def check_members(path):
    """Raises UserError unless the members of a torch.save file have the sums and the sizes that the file says: torch does not look,
    so that a flipped bit would be a changed weight, and would unpack a member to whatever size it claims."""
    with open(path, "rb") as file:
        if file.read(4) != b"PK\3\4":
            return      # no zip: `unpickle` says what is wrong with it
    try:
        with zipfile.ZipFile(path) as file:
            claimed = sum(member.file_size for member in file.infolist())
            damaged = "its directory" if claimed > os.path.getsize(path) else file.testzip()
    except Exception as error:      # zipfile raises a dozen types for damaged files
        damaged = str(error) or type(error).__name__
    if damaged:
        raise UserError(f"{path}: not a checkpoint that can be read, for it is damaged or truncated ({damaged[:120]!r})")


def unpickle(path):
    """What torch.save wrote. Raises UserError for a damaged file, and for one with anything but tensors and plain values."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        what = re.search(r"(?:GLOBAL|class) ([\w.]+\w)", str(error))
        why = f"refused, since loading {what[1]} could run code" if what else "not what torch.save writes of tensors alone"
        raise UserError(f"{path}: {why}; get the tensors by themselves, best as .safetensors") from error
    except Exception as error:      # torch and pickle raise a dozen types for damaged files
        reason = str(error).strip().split("\n")[0][:120] or type(error).__name__
        raise UserError(f"{path}: not a checkpoint or file of weights that can be read ({reason})") from error


def best_of(run):
    """The file of a run to evaluate: best.pt, or last.pt where no validation has happened, or mulan.safetensors, what
    `mulan_min.weights` writes; `run` may be a file itself."""
    run = Path(run)
    if run.is_file():
        return run
    for name in ("best.pt", "last.pt", "mulan.safetensors"):
        if (run / name).is_file():
            return run / name
    raise UserError(f"{run}: no checkpoint (best.pt or last.pt) in it; train first, e.g. python train.py --audio ast")


def save_safetensors(path, tensors, notes):
    """Writes {name: tensor} and {name: text}. Raises UserError, see `write_atomically`."""
    tensors = {name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
    content = _safetensors(path).save(tensors, notes)
    write_atomically(path, lambda temporary: temporary.write_bytes(content))


def read_safetensors(path):
    """A .safetensors file -> ({name: tensor} on the CPU, {name: text}). Raises UserError for a damaged one."""
    try:
        with _safetensors(path).safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}
    except UserError:
        raise
    except Exception as error:      # OSError, SafetensorError, KeyError for a kind of number that torch has not
        raise UserError(f"{path}: not a .safetensors file that can be read ({str(error)[:120]})") from error


def _safetensors(path):
    try:
        import safetensors.torch
    except ImportError as error:
        raise UserError(f"{path}: .safetensors files need the extra: pip install 'mulan_min[weights]'") from error
    return safetensors.torch
