"""The two towers of MuLan, for audio and for text (paper, section 3).

The towers share no weights. Each one ends in a linear layer to d = 128 dimensions and a division by the vector's length, so the
dot product of an audio embedding and a text embedding is their cosine.
"""
import os
from contextlib import contextmanager
from itertools import islice

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from mulan_min.audio import SHORTEST, AudioError, Clip, SoundBytes, cut_windows
from mulan_min.bert import Bert
from mulan_min.errors import UserError
from mulan_min.mel import LogMel
from mulan_min.resnet import ResNet50
from mulan_min.specaugment import spec_augment
from mulan_min.spectrogram_transformer import SpectrogramTransformer

PATHS = str, bytes, os.PathLike, SoundBytes
PARTS = 4     # number of parts that a batch of texts is cut into, each of similar text lengths; our choice


def l2_normalize(x):
    """(B, d) -> the same rows with length 1, in float32 or the input's precision if that is higher."""
    return F.normalize(x.to(torch.promote_types(x.dtype, torch.float32)), dim=-1)


class AudioTower(nn.Module):
    """Log-mel, SpecAugment (in training only), ResNet-50 or AST, projection.

    Takes waveforms (B, samples) at the run's sample rate, or the spectrograms (B, mels, frames) that `spectrogram` makes from
    them, and returns unit vectors (B, d).
    """

    def __init__(self, config):
        super().__init__()
        front, tower = config.front, config.tower
        self.front = front
        self.mel = LogMel(front.n_mels, front.dialect, front.sample_rate, front.window, front.hop,
                          mean=front.mel_mean, std=front.mel_std)
        self.samples = round(front.seconds * front.sample_rate)      # of a training window
        if tower.audio == "resnet50":
            self.net = ResNet50(tower.resnet_width)
            self.width = 32 * tower.resnet_width
        else:
            frames = (self.samples + self.mel.padding - self.mel.window) // self.mel.hop + 1
            self.net = SpectrogramTransformer(
                front.n_mels, frames, (tower.patch_mels, tower.patch_frames), (tower.stride_mels, tower.stride_frames),
                tower.ast_width, tower.ast_depth, tower.ast_heads, tower.audio_dropout, tower.ast_distilled)
            self.width = tower.ast_width
        self.project = nn.Linear(self.width, config.space.dim)

    def spectrogram(self, waveforms):
        """The mel front end: waveforms (B, samples) -> (B, mels, frames), log-mel with mean 0 and sd 0.5 as in AST."""
        return self.mel.normalise(self.mel(waveforms))

    def features(self, audio):
        """Waveforms or spectrograms -> (B, width): the network's output before the projection."""
        x = self.spectrogram(audio) if audio.dim() == 2 else audio
        if self.training:
            x = spec_augment(x, self.front.freq_mask, self.front.time_mask)
        return self.net(x)

    def forward(self, audio):
        return l2_normalize(self.project(self.features(audio)))

    @torch.no_grad()
    def embed(self, items, batch_size=32, unreadable=None):
        """N paths, `audio.Clip`s, or 1-D arrays or tensors as in `as_waveform`; or one of these -> (N, d) float32 on the CPU, unit rows.

        An item longer than a training window is cut into windows, and the mean of their embeddings is normalised. A shorter item
        is padded with zeros. A file is read window by window. Runs in float32 and eval mode: an item's embedding does not depend on
        other items. Raises UserError. `unreadable`, a dictionary, gets {index: reason} of files that cannot be read, whose rows are
        then meaningless; without it they are an AudioError.
        """
        alone = isinstance(items, (*PATHS, Clip)) or getattr(getattr(items, "dtype", None), "kind", "O") in "biufc"
        items = [items] if alone or torch.is_tensor(items) else items if hasattr(items, "__len__") else list(items)
        totals, windows = torch.zeros(len(items), self.project.out_features), self.windows(items, unreadable)
        with evaluating(self):
            while batch := list(islice(windows, batch_size)):
                owners, waveforms = zip(*batch)
                embeddings = self(torch.from_numpy(np.stack(waveforms)).to(self.project.weight.device))
                totals.index_add_(0, torch.tensor(owners), embeddings.cpu())
        return F.normalize(totals, dim=-1)

    def windows(self, items, unreadable=None):
        """Yields (index of the item, samples of a training window (samples,) float32). Raises UserError, see `embed`."""
        rate = self.front.sample_rate
        for i, item in enumerate(items):
            item = Clip(item) if isinstance(item, PATHS) else item
            try:
                for window in cut_windows(item if isinstance(item, Clip) else as_waveform(item, rate), self.samples, rate):
                    yield i, window
            except AudioError as error:
                if unreadable is None:
                    raise
                unreadable[i] = str(error)


class TextTower(nn.Module):
    """BERT and a projection of its [CLS] state (paper): tokens (B, L) and their mask -> unit vectors (B, d)."""

    def __init__(self, config, vocab_size):
        super().__init__()
        text = config.text
        self.net = Bert(vocab_size, text.text_width, text.text_depth, text.text_heads, text.text_mlp or 4 * text.text_width,
                        text.max_tokens, text.text_dropout, text.text_eps)
        self.project = nn.Linear(text.text_width, config.space.dim)

    def forward(self, tokens, mask):
        # `data.collate` has sorted the texts by length. Each part goes through BERT alone, padded only to its longest text.
        # A mask on the CPU gives the lengths without waiting for the GPU.
        states, on_device = [], mask.to(tokens.device, non_blocking=True)
        for rows in torch.arange(len(tokens)).tensor_split(min(PARTS, len(tokens))):
            part = slice(int(rows[0]), int(rows[-1]) + 1), slice(int(mask[rows].sum(1).max()))
            states.append(self.net(tokens[part], on_device[part])[:, 0])                    # (B / PARTS, width)
        return l2_normalize(self.project(torch.cat(states)))                                 # (B, width) -> (B, d)


def as_waveform(samples, rate):
    """An array or tensor (samples,) -> (samples,) float32. int16, int32 and uint8 are scaled to -1..1, as in a WAV file. Raises
    UserError for other types and shapes, less than 0.1 s, and values that are not finite or above 100 (our choice)."""
    if torch.is_tensor(samples):
        samples = (samples.float() if samples.is_floating_point() else samples).detach().cpu().numpy()
    x = np.asarray(samples)
    zero, scale = {"int16": (0, 2**15), "int32": (0, 2**31), "uint8": (128, 128)}.get(x.dtype.name, (0, x.dtype.kind == "f"))
    fits = scale and x.ndim == 1 and len(x) >= SHORTEST * rate
    peak = abs(x / scale).max() if fits else 0
    if not fits or not peak <= 100:      # not, because of NaN
        mix = f"; mix channels with x.mean(axis={np.argmin(x.shape)}), pass a batch as list(x)" if x.ndim > 1 else ""
        raise UserError(f"audio must be paths or 1-D arrays of finite samples at {rate} Hz: {SHORTEST} s or longer, int16, int32, uint8 or "
                        f"floats in -1..1; not {x.dtype} of shape {x.shape}{f', up to {peak:g}' if fits else ''}{mix}")
    return ((x - np.float32(zero)) / np.float32(scale)).astype(np.float32)


@contextmanager
def evaluating(model):
    """A context in which the model is in eval mode; afterwards it is in the mode that it had before."""
    before = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(before)
