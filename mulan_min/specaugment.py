"""SpecAugment (Park et al. 2019): stripes of mels and frames of a normalised log-mel are set to the mean."""

import torch
from torch import Tensor


def _stripes(batch: int, size: int, width: int, count: int, device, generator) -> Tensor:
    """(batch, size) bool, True inside any of `count` stripes, which together cover at most half of `size`."""
    width = min(width, size // (2 * count)) if count else 0
    widths = torch.randint(0, width + 1, (batch, count, 1), device=device, generator=generator)
    places = torch.rand(batch, count, 1, device=device, generator=generator)
    starts = (places * (size - widths + 1)).long()  # uniform over 0 .. size - width
    index = torch.arange(size, device=device)
    return ((index >= starts) & (index < starts + widths)).any(dim=1)  # (batch, count, size) -> (batch, size)


def spec_augment(
    x: Tensor,
    freq_width: int,
    time_width: int,
    freq_masks: int = 1,
    time_masks: int = 1,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Mask random mels and frames of x (B, mels, frames), normalised already; returns a new tensor.

    Each sample draws its own stripes, widths uniform in 0..width (SpecAugment). Masked cells become 0.0, the
    normalised mean: AST masks before it normalises and so fills with +0.467. No axis ever loses more than
    half (our choice): a width too large for the input is cut to size // (2 * masks).
    With a generator the stripes are drawn on its device, so a CPU generator gives a GPU the same masks.
    """
    batch, mels, frames = x.shape
    device = generator.device if generator is not None else x.device
    freq = _stripes(batch, mels, freq_width, freq_masks, device, generator)
    time = _stripes(batch, frames, time_width, time_masks, device, generator)
    return x.masked_fill((freq[:, :, None] | time[:, None, :]).to(x.device), 0.0)
