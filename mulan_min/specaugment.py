"""SpecAugment (Park et al. 2019): one band of mels and one span of frames are masked in each spectrogram."""
import torch
from torch import Tensor


def _stripes(batch: int, size: int, max_width: int, device) -> Tensor:
    """(batch, size) bool: in each row one random stripe is True, at most half of the row."""
    max_width = min(max_width, size // 2)
    widths = torch.randint(0, max_width + 1, (batch, 1), device=device)
    starts = (torch.rand(batch, 1, device=device) * (size - widths + 1)).long()  # uniform over 0 .. size - width
    index = torch.arange(size, device=device)
    return (index >= starts) & (index < starts + widths)


def spec_augment(spectrogram: Tensor, freq_width: int, time_width: int) -> Tensor:
    """Masks random mels and frames of normalised spectrograms (B, mels, frames). Returns a new tensor.

    Each sample has its own stripes. Their widths are uniform in 0 .. freq_width mels and 0 .. time_width frames (SpecAugment),
    but at most half of the axis (our choice), so that no input is erased. Masked cells become 0.0, the normalised mean. AST
    differs: it masks before it normalises, so its masked cells become +0.467.
    """
    batch, mels, frames = spectrogram.shape
    freq = _stripes(batch, mels, freq_width, spectrogram.device)  # (B, mels)
    time = _stripes(batch, frames, time_width, spectrogram.device)  # (B, frames)
    return spectrogram.masked_fill(freq[:, :, None] | time[:, None, :], 0.0)
