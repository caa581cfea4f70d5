"""Embeddings of recordings and texts: which audio the model gets, how often, and which faults are refused."""
import json
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch

from mulan_min.audio import cut_windows
from mulan_min.data import Recording
from mulan_min.embedding import embed_recordings, embed_texts, split_embedder
from mulan_min.errors import MissingData, UserError


class StubModel:
    """Records what it gets; every audio embedding and text embedding is `value`."""

    config = SimpleNamespace(front=SimpleNamespace(sample_rate=16000))

    def __init__(self, value=1.0):
        self.value, self.items = value, []

    def embed(self, items, unreadable=None):
        self.items += items
        return torch.full((len(items), 2), self.value)

    embed_text = embed
    audio = property(lambda self: self)      # the audio tower


def test_clips_are_cut_out_of_their_files(tmp_path):
    path = tmp_path / "ramp.wav"
    ramp = np.linspace(0, 0.5, 4 * 16000, dtype=np.float32)
    soundfile.write(path, ramp, 16000, subtype="FLOAT")
    clips = [Recording("whole", path, "test", {}), Recording("end", path, "test", {}, start=3.0),
             Recording("middle", path, "test", {}, start=1.0, duration=2.0),
             Recording("beyond", path, "test", {}, start=3.0, duration=9.0)]
    model = StubModel()
    assert embed_recordings(model, clips).shape == (4, 2)
    heard = [np.concatenate([*cut_windows(clip, 1600)]) for clip in model.items]
    np.testing.assert_array_equal(heard[0], ramp)
    np.testing.assert_array_equal(heard[1], ramp[48000:])
    np.testing.assert_array_equal(heard[2], ramp[16000:48000])
    np.testing.assert_array_equal(heard[3], ramp[48000:])  # not padded with silence


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_embeddings_that_are_not_finite_are_refused(value):
    with pytest.raises(UserError, match="text embeddings are not all finite"):
        embed_texts(StubModel(value), ["up", "down"])
    with pytest.raises(UserError, match="audio embeddings are not all finite"):
        embed_recordings(StubModel(value), [Recording("a", "a.wav", "test", {})])


def test_a_split_is_embedded_once_and_needs_two_recordings(tmp_path):
    for name in "abc":
        (tmp_path / f"{name}.wav").touch()
    rows = [{"id": name, "audio": f"{name}.wav", "split": split, "text": {}}
            for name, split in (("a", "test"), ("b", "valid"), ("c", "test"))]
    (tmp_path / "manifest.jsonl").write_text("\n".join(map(json.dumps, rows)))
    model = StubModel()
    embeddings = split_embedder(model, tmp_path)
    assert not model.items
    assert [r.id for r in embeddings("test")[0]] == ["a", "c"] and embeddings("test")[1].shape == (2, 2)
    assert [clip.path.name for clip in model.items] == ["a.wav", "c.wav"]
    with pytest.raises(MissingData, match="'valid' recordings are needed, not 1"):
        embeddings("valid")
