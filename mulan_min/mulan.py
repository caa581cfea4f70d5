"""MuLan: an audio tower and a text tower with one shared embedding space (paper, section 3).

The towers share no weights. Each one ends in a linear layer to d = 128 dimensions and a division by the vector's length, so the
dot product of an audio embedding and a text embedding is their cosine.
"""
import os
from contextlib import contextmanager
from itertools import islice

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import nn

from mulan_min import checkpoint
from mulan_min.audio import SHORTEST, AudioError, Clip, SoundBytes, cut_windows
from mulan_min.bert import Bert
from mulan_min.config import config_from_dict
from mulan_min.device import default_device
from mulan_min.errors import UserError
from mulan_min.mel import LogMel
from mulan_min.resnet import ResNet50
from mulan_min.specaugment import spec_augment
from mulan_min.spectrogram_transformer import SpectrogramTransformer
from mulan_min.wordpiece import encode, finish

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

    @torch.inference_mode()
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


def load_best(cls, run, device=None):
    """The trained model of a run folder (its best checkpoint) or of one file, a checkpoint or a .safetensors file written by
    `mulan_min.weights`, in eval mode, on the GPU where there is one. Raises UserError."""
    path = checkpoint.best_of(run)
    return cls.from_state(checkpoint.load(path), path).to(device or default_device()).eval()


class MuLan(nn.Module):
    """The joint embedding of music and text.

    config: a Config; tokenizer: a `tokenizers.Tokenizer`, which sets the size of the text tower's vocabulary. For example:

        model = MuLan.load("runs/ast")
        audio = model.embed_audio(["song.wav"])                  # (1, 128)
        text = model.embed_text(["a slow sad piano waltz"])      # (1, 128)
        cosine = audio @ text.T                                  # (1, 1)
    """

    def __init__(self, config, tokenizer):
        super().__init__()
        self.config, self.tokenizer = config, tokenizer
        self.audio = AudioTower(config)
        self.text = TextTower(config, tokenizer.get_vocab_size())
        self.temperature = nn.Parameter(torch.tensor(config.space.temperature))

    def forward(self, audio, tokens, mask):
        """A batch of pairs -> (audio embeddings (B, d), text embeddings (B, d)), unit rows.

        audio: waveforms (B, samples) or spectrograms (B, mels, frames); tokens (B, L) int64; mask (B, L) bool, best on the CPU.
        """
        return self.audio(audio), self.text(tokens, mask)

    def embed_audio(self, items, batch_size=32):
        """N paths or 1-D arrays at the run's sample rate -> (N, d), unit rows; see `AudioTower.embed`."""
        return self.audio.embed(items, batch_size)

    @torch.inference_mode()
    def embed_text(self, texts, batch_size=256):
        """N texts -> (N, d) float32 on the CPU, unit rows. Raises UserError for an empty text."""
        texts = check_texts(texts)
        rows, order = torch.zeros(len(texts), self.config.space.dim), sorted(range(len(texts)), key=lambda i: len(texts[i]))
        with evaluating(self):
            for part in (order[i:i + batch_size] for i in range(0, len(texts), batch_size)):
                tokens, mask = encode(self.tokenizer, [texts[i] for i in part], self.config.text.max_tokens)
                rows[part] = self.text(tokens.to(self.temperature.device), mask).cpu()
        return rows

    def networks(self):
        """What torch.compile compiles: [(module, whether its input shapes change)]."""
        return [(self.audio.net, None), (self.text.net, True)]

    load = classmethod(load_best)

    @classmethod
    def from_state(cls, state, source):
        """The model in a checkpoint's state; error messages name `source`. Raises UserError."""
        def build(config):
            return cls(config, finish(Tokenizer.from_str(state["tokenizer"]), source))

        return restore(state, source, "contrastive", build)


def restore(state, source, objective, build):
    """Makes a model with build(config) and loads the weights in `state`, the state of a checkpoint. Raises UserError, which names
    `source`, when the checkpoint was trained with another objective or its weights do not fit."""
    try:
        config, tensors = config_from_dict(state["config"], source), state["model"]
        if config.optim.objective != objective:
            raise UserError(f"{source}: trained with --objective {config.optim.objective}, not {objective}: load it with the class "
                            "of its objective, as eval.py does")
        # A damaged config may state huge sizes, so the first model allocates no memory: it takes over the file's tensors.
        with torch.device("meta"):
            build(config).load_state_dict(tensors, assign=True)
        stored = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in tensors.values()}
        if sum(x.nbytes for x in tensors.values()) > sum(stored.values()):
            raise ValueError("tensors that claim more numbers than the file holds")
        model = build(config)
        model.load_state_dict(tensors)
    except UserError:
        raise
    except Exception as error:      # `tokenizers` raises bare Exceptions
        reason = " ".join(" ".join(str(error).splitlines()[:2]).split())
        raise UserError(f"{source}: its weights do not fit its config or tokenizer ({reason or type(error).__name__})") from error
    return model


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


def check_texts(texts):
    """One text or several -> a list. Raises UserError for an empty text, and for anything that is not a text."""
    texts = [texts] if isinstance(texts, str) else list(texts)
    if not all(isinstance(text, str) and text.strip() for text in texts):
        raise UserError("texts must be non-empty strings, such as ['a slow sad piano waltz']")
    return texts


@contextmanager
def evaluating(model):
    """A context in which the model is in eval mode; afterwards it is in the mode that it had before."""
    before = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(before)
