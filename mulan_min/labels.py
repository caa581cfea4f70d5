"""The labels of recordings: as sets, as tables of 0 and 1, and from labels.json."""
from dataclasses import replace
from pathlib import Path

import torch

from mulan_min.errors import MissingData, UserError
from mulan_min.files import parse_json


def with_tags(recordings):
    """The recordings with their tags as one more text source, `tags`. Only for training on labels, and for evaluation."""
    return [replace(r, text=r.text | ({"tags": r.tags} if r.tags else {})) for r in recordings]


def labels_of(recording, sources):
    """The set of a recording's labels in some sources. A tag is one label; other texts are split at commas, as they may list
    several labels."""
    return {label for source in sources for text in recording.text.get(source, [])
            for label in ([text] if text in recording.tags else map(str.strip, text.split(",")))} - {""}


def label_table(recordings, labels, sources):
    """A table (N, C) float32: 1 where recording n has label c, else 0."""
    columns, table = {label: c for c, label in enumerate(labels)}, torch.zeros(len(recordings), len(labels))
    for row, recording in zip(table, recordings):
        row[[columns[label] for label in labels_of(recording, sources) if label in columns]] = 1
    return table


def truth_table(recordings, names):
    """A table (N, C) bool, a numpy array: True where label c is a tag of recording n."""
    return label_table(with_tags(recordings), names, ["tags"]).bool().numpy()


def has_both_classes(truth):
    """(N, C) bool -> (C,) bool: True for the columns that have both positives and negatives."""
    return truth.any(0) & ~truth.all(0)


def read_labels(folder):
    """labels.json -> {set: [label, ...]}. Raises MissingData if there is no such file, UserError if it is invalid."""
    path, form = Path(folder) / "labels.json", '{"set name": ["label", ...]}'
    if not path.is_file():
        raise MissingData(f"{path}: no such file; it should hold {form}")
    labels = parse_json(path.read_bytes(), path)
    if not isinstance(labels, dict) or not labels or not all(isinstance(x, list) for x in labels.values()):
        raise UserError(f"{path}: must hold {form}")
    for name, members in labels.items():
        for label in members:
            if not isinstance(label, str) or not label.strip():
                raise UserError(f"{path}: set '{name}' has an empty label; give it a name or delete it")
            if members.count(label) > 1:
                raise UserError(f"{path}: set '{name}' lists '{label}' twice")
    return labels
