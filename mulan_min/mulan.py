"""MuLan: two towers that meet in one space. Section 3 of the paper.

The towers share nothing. Each ends in a linear layer to d = 128 and a division by the length, so that the dot product of
a recording and a text is their cosine.
"""
import os
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import nn

from mulan_min import checkpoint
from mulan_min.audio import cut_windows, read_window
from mulan_min.bert import Bert
from mulan_min.config import config_from_dict
from mulan_min.errors import UserError
from mulan_min.mel import LogMel
from mulan_min.resnet import ResNet50
from mulan_min.specaugment import spec_augment
from mulan_min.spectrogram_transformer import SpectrogramTransformer
from mulan_min.wordpiece import encode, finish

PARTS = 4     # length-sorted parts of a batch of texts; our choice


def unit(x):
    """(B, d) -> unit rows, in float32 at least."""
    return F.normalize(x.to(torch.promote_types(x.dtype, torch.float32)), dim=-1)


class AudioTower(nn.Module):
    """Waveforms (B, samples), or what `spectrogram` makes of them -> unit vectors (B, d): SpecAugment in training, ResNet-50
    or AST."""

    def __init__(self, config):
        super().__init__()
        front, tower = config.front, config.tower
        self.front = front
        self.mel = LogMel(front.n_mels, front.dialect, front.sample_rate, front.window, front.hop,
                          mean=front.mel_mean, std=front.mel_std)
        if tower.audio == "resnet50":
            self.net = ResNet50(tower.resnet_width)
            width = 32 * tower.resnet_width
        else:
            samples = round(front.seconds * front.sample_rate)
            frames = (samples + self.mel.padding - self.mel.window) // self.mel.hop + 1
            self.net = SpectrogramTransformer(
                front.n_mels, frames, (tower.patch_mels, tower.patch_frames), (tower.stride_mels, tower.stride_frames),
                tower.ast_width, tower.ast_depth, tower.ast_heads, tower.audio_dropout, tower.ast_distilled)
            width = tower.ast_width
        self.project = nn.Linear(width, config.space.dim)

    def spectrogram(self, waves):
        """(B, samples) -> (B, mels, frames): log-mel, mean 0 and sd 0.5 as in AST."""
        return self.mel.normalise(self.mel(waves))

    def features(self, sound):
        """(B, width of the network), before the projection."""
        x = self.spectrogram(sound) if sound.dim() == 2 else sound
        if self.training:
            x = spec_augment(x, self.front.freq_mask, self.front.time_mask)
        return self.net(x)

    def forward(self, sound):
        return unit(self.project(self.features(sound)))


class TextTower(nn.Module):
    """Tokens (B, L) and their mask -> unit vectors (B, d): BERT's [CLS] state (paper)."""

    def __init__(self, config, vocab_size):
        super().__init__()
        text = config.text
        self.net = Bert(vocab_size, text.text_width, text.text_depth, text.text_heads, text.text_mlp or 4 * text.text_width,
                        text.max_tokens, text.text_dropout, text.text_eps)
        self.project = nn.Linear(text.text_width, config.space.dim)

    def forward(self, tokens, mask):
        # Texts of like length go together, so that little is spent on padding; the embeddings are the same.
        lengths = mask.sum(1)
        parts = lengths.argsort().tensor_split(min(PARTS, len(tokens)))
        states = []
        for rows in parts:
            longest = int(lengths[rows].max())
            states.append(self.net(tokens[rows, :longest], mask[rows, :longest])[:, 0])      # (B / PARTS, width)
        states = torch.cat(states)[torch.cat(parts).argsort()]                               # (B, width), as they came
        return unit(self.project(states))


class LabelTower(nn.Module):
    """In the text tower's place under `--objective tags` (paper: AudioSet pretraining, and the end-to-end baseline): a linear
    classifier of audio embeddings, one vector (d,) and one bias a label."""

    def __init__(self, labels, dim):
        super().__init__()
        self.place = {label: i for i, label in enumerate(labels)}
        self.vectors = nn.Parameter(torch.randn(len(labels), dim) / dim ** 0.5)
        self.bias = nn.Parameter(torch.zeros(len(labels)))

    def forward(self, audio, temperature):
        """(B, d) unit rows -> logits (B, C)."""
        return audio @ self.vectors.T / temperature + self.bias


class UnknownLabel(UserError):
    """A text that a classifier has no label for."""


class MuLan(nn.Module):
    def __init__(self, config, tokenizer, labels=()):
        """config: Config; tokenizer: a `tokenizers.Tokenizer`, whose vocabulary the text tower gets; labels: those of
        `--objective tags`, which have a `LabelTower` and no tokenizer instead."""
        super().__init__()
        self.config, self.tokenizer, self.labels = config, tokenizer, list(labels)
        self.audio = AudioTower(config)
        self.text = LabelTower(labels, config.space.dim) if labels else TextTower(config, tokenizer.get_vocab_size())
        self.temperature = nn.Parameter(torch.tensor(config.space.temperature))

    def forward(self, sound, tokens=None, mask=None):
        """One batch of pairs -> (audio (B, d), text (B, d)), unit rows; `sound` as the audio tower takes it. Of a classifier the
        logits (B, C), which need `sound` alone."""
        if self.labels:
            return self.text(self.audio(sound), self.temperature)
        return self.audio(sound), self.text(tokens, mask)

    @classmethod
    def load(cls, run, device=None):
        """The trained model of a run folder (its best checkpoint) or of one file, a checkpoint or a .safetensors written by
        `mulan_min.weights`, in eval mode, on the GPU where there is one. Raises UserError."""
        path = checkpoint.best_of(run)
        return cls.from_state(checkpoint.load(path), path).to(device or default_device()).eval()

    @classmethod
    def from_state(cls, state, source):
        """The model in a checkpoint's state; `source` is named in errors."""
        try:
            config, text, tensors = config_from_dict(state["config"], source), state["tokenizer"], state["model"]
            if cls is MuLan and config.optim.objective == "joint-tags":
                raise UserError(f"{source}: of --objective joint-tags, which is no MuLan: judge it by eval.py --task autotag")
            # Of a classifier the text is empty. What a file says of sizes is not trusted with memory: first a model without any,
            # which takes the file's tensors.
            parts = config, finish(Tokenizer.from_str(text), source) if text else None, state.get("labels", ())
            with torch.device("meta"):
                cls(*parts).load_state_dict(tensors, assign=True)
            held = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in tensors.values()}
            if sum(x.nbytes for x in tensors.values()) > sum(held.values()):
                raise ValueError("tensors that claim more numbers than the file holds")
            model = cls(*parts)
            model.load_state_dict(tensors)
        except UserError:
            raise
        except Exception as error:      # `tokenizers` raises bare Exceptions
            reason = " ".join(" ".join(str(error).splitlines()[:2]).split())
            raise UserError(f"{source}: its weights do not fit its config or tokenizer ({reason or type(error).__name__})") from error
        return model

    @torch.inference_mode()
    def embed_audio(self, items, batch_size=32):
        """items: N paths, or 1-D float arrays at the model's sample rate -> (N, d) float32 on the CPU, unit rows.

        An item longer than a training window is the mean of its windows, renormalised; a shorter one is zero-padded.
        Runs in float32 and eval mode: an item's embedding does not depend on the others. Raises UserError.
        """
        items = [items] if isinstance(items, (str, os.PathLike)) else items
        totals = torch.zeros(len(items), self.config.space.dim)
        owners, windows = [], []

        def flush():
            waves = torch.from_numpy(np.stack(windows)).to(self.temperature.device)
            totals.index_add_(0, torch.tensor(owners), self.audio(waves).cpu())
            owners.clear()
            windows.clear()

        with evaluating(self):
            for i, item in enumerate(items):
                for window in self.cut(item):
                    owners.append(i)
                    windows.append(window)
                    if len(windows) == batch_size:
                        flush()
            if windows:
                flush()
        return F.normalize(totals, dim=-1)

    def cut(self, item):
        """A path or waveform -> (n, samples) windows of the training length."""
        front = self.config.front
        if isinstance(item, (str, os.PathLike)):
            item = read_window(item, sample_rate=front.sample_rate)
        wave = np.asarray(item, dtype=np.float32)
        if wave.ndim != 1 or not len(wave) or not np.isfinite(wave).all():
            raise UserError(f"audio must be paths or 1-D arrays of finite samples at {front.sample_rate} Hz, "
                            f"not an array of shape {wave.shape}")
        return cut_windows(wave, round(front.seconds * front.sample_rate))

    @torch.inference_mode()
    def embed_text(self, texts, batch_size=256):
        """N texts -> (N, d) float32 on the CPU, unit rows. Raises UserError for an empty text, and UnknownLabel where the
        model is a classifier and has no such label."""
        texts = listed(texts)
        if self.labels:
            if odd := [text for text in texts if text not in self.text.place]:
                raise UnknownLabel(f"'{odd[0]}' is no label of this model: trained with --objective tags, it reads no text")
            return F.normalize(self.text.vectors[[self.text.place[text] for text in texts]], dim=-1).cpu()
        rows, device = [torch.zeros(0, self.config.space.dim)], self.temperature.device
        with evaluating(self):
            for i in range(0, len(texts), batch_size):
                tokens, mask = encode(self.tokenizer, texts[i:i + batch_size], self.config.text.max_tokens)
                rows.append(self.text(tokens.to(device), mask.to(device)).cpu())
        return torch.cat(rows)


def listed(texts):
    """One text or several -> a list. Raises UserError for an empty text, and for what is no text."""
    texts = [texts] if isinstance(texts, str) else list(texts)
    if not all(isinstance(text, str) and text.strip() for text in texts):
        raise UserError("texts must be non-empty strings, such as ['a slow sad piano waltz']")
    return texts


@contextmanager
def evaluating(model):
    """Eval mode inside, the mode it had before afterwards."""
    before = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(before)


def default_device():
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
