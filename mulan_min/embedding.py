"""Embeddings of recordings and texts for the evaluation tasks: float64 rows that are checked to be finite."""
import functools

import numpy as np
from tqdm import tqdm

from mulan_min.audio import Clip
from mulan_min.data import read_manifest
from mulan_min.errors import MissingData, UserError
from mulan_min.loader import check_skipped


def split_embedder(model, folder):
    """Returns a function embeddings(split) -> (recordings of the split, their embeddings (N, d), notes for the result). It embeds a
    split at the first call and stores the result, so all tasks share one pass over the audio. Recordings that cannot be read are
    left out. It raises MissingData if the split has fewer than two recordings, and the errors of `leave_out` and `embed_recordings`.
    """
    @functools.cache
    def embeddings(split):
        recordings, unreadable = read_split(folder, split), {}
        rows = embed_recordings(model, recordings, unreadable)
        return leave_out(unreadable, folder, recordings, rows)

    return embeddings


def read_split(folder, split):
    """The recordings of one split. Raises MissingData if they are fewer than two."""
    recordings = [r for r in read_manifest(folder) if r.split == split]
    if len(recordings) < 2:
        raise MissingData(f"{folder}: two or more '{split}' recordings are needed, not {len(recordings)}")
    return recordings


def leave_out(unreadable, folder, recordings, rows):
    """The recordings and their rows (N, d) without those in `unreadable` {index: reason}, and a list of notes that names these.
    Raises UserError if there are more of them than training tolerates, see `check_skipped`."""
    check_skipped(unreadable, len(recordings))
    kept = [i for i in range(len(recordings)) if i not in unreadable]
    reasons = "; ".join(f"{recordings[i].id} ({reason})" for i, reason in sorted(unreadable.items()))
    notes = [f"{folder}: {len(unreadable)} of {len(recordings)} recordings cannot be read; left out: {reasons}"] if unreadable else []
    return [recordings[i] for i in kept], rows[kept], notes


def embed_recordings(model, recordings, unreadable=None):
    """One unit row per recording, the mean over the windows of its clip: (N, d) float64. unreadable: see `AudioTower.embed`. Raises
    AudioError for an unreadable file, and UserError if an embedding is not finite."""
    clips = [Clip(r.audio, r.start, r.duration) for r in recordings]
    progress = tqdm(clips, desc="embedding", unit=" recordings", disable=None)
    return finite_rows(model.audio.embed(progress, unreadable=unreadable), "audio")


def embed_texts(model, texts):
    """n texts -> (n, d) float64. Raises MissingData if the model is a classifier that lacks one of these labels, and UserError
    if an embedding is not finite."""
    return finite_rows(model.embed_text(list(texts)), "text")


def finite_rows(rows, kind):
    """Tensor (n, d) -> array (n, d) float64. Raises UserError, with the kind of embedding, if a value is not finite."""
    rows = rows.numpy().astype(np.float64)
    if not np.isfinite(rows).all():
        raise UserError(f"the model's {kind} embeddings are not all finite numbers; train it again")
    return rows
