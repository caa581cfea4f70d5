"""Embeddings of recordings and texts for the evaluation tasks: float64 rows that are checked to be finite."""
import functools

import numpy as np
from tqdm import tqdm

from mulan_min.audio import read_window
from mulan_min.data import clip_seconds, read_manifest
from mulan_min.errors import MissingData, UserError


def split_embedder(model, folder):
    """Returns a function embeddings(split) -> (recordings of the split, their embeddings (N, d)). It embeds a split at the first
    call and stores the result, so all tasks share one pass over the audio. It raises MissingData if the split has fewer than two
    recordings, and the errors of `embed_recordings`."""
    @functools.cache
    def embeddings(split):
        recordings = [r for r in read_manifest(folder) if r.split == split]
        if len(recordings) < 2:
            raise MissingData(f"{folder}: two or more '{split}' recordings are needed, not {len(recordings)}")
        return recordings, embed_recordings(model, recordings)

    return embeddings


def embed_recordings(model, recordings, chunk=64):
    """One unit row per recording, the mean over the windows of its clip: (N, d) float64. The model gets `chunk` recordings at a
    time. Raises AudioError for an unreadable file, and UserError if an embedding is not finite."""
    rate, rows = model.config.front.sample_rate, []
    for i in tqdm(range(0, len(recordings), chunk), desc="embedding", unit=f" x {chunk} recordings", disable=None):
        rows.append(finite_rows(model.embed_audio([path_or_waveform(r, rate) for r in recordings[i:i + chunk]]), "audio"))
    return np.concatenate(rows)


def path_or_waveform(recording, sample_rate):
    """What `embed_audio` needs: the path if the recording is a whole file, the waveform (samples,) if it is a clip of one."""
    if not recording.start and recording.duration is None:
        return recording.audio
    return read_window(recording.audio, recording.start, clip_seconds(recording), sample_rate)


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
