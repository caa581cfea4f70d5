"""The cross-modal contrastive (CMC) loss of MuLan, section 3.1 of the paper.

    L = mean_i -log( h(x_i, t_i) / sum_{j != i} ( h(x_i, t_j) + h(x_j, t_i) ) ),   h(a, b) = exp(a.b / tau)

Two differences from CLIP's InfoNCE: one denominator holds both directions, and the positive pair is not in it. So the
loss is negative once the positive beats all negatives together, and falls without bound as tau goes to 0: tau needs a
floor (`clamp_temperature`).
"""
import math

import torch

from mulan_min.errors import UserError


def cmc_loss(audio, text, temperature, everyone=None):
    """audio, text: (B, d) unit rows, pair i in row i of both; temperature: scalar tensor. Returns a scalar, float32 or
    the inputs' precision if that is higher. Raises UserError for B = 1, which has no negatives.

    A process that holds b of the batch's B pairs gives `everyone` = (audio (B, d), text (B, d), place of its first pair in
    them), and gets its part of the mean: the parts of all processes add up to the loss. It never sees more than b x B cosines.
    """
    if audio.shape != text.shape or audio.ndim != 2:
        raise ValueError(f"audio {tuple(audio.shape)} and text {tuple(text.shape)} must both be (B, d)")
    all_audio, all_text, first = everyone or (audio, text, 0)
    if len(all_audio) < 2:
        raise UserError("the contrastive loss needs a batch of 2 or more: one pair has no negatives")
    with torch.autocast(audio.device.type, enabled=False):      # bf16 keeps 8 bits: too few for exp(cos / 0.02)
        wide = torch.promote_types(audio.dtype, torch.float32)
        audio, text, all_audio, all_text, tau = (x.to(wide) for x in (audio, text, all_audio, all_text, temperature))
        own = torch.arange(first, first + len(audio), device=audio.device)[:, None]             # (b, 1)
        rows = audio @ all_text.T / tau                                     # (b, B): [i, j] = x_i . t_j / tau
        positive = rows.gather(1, own)[:, 0]
        rows = rows.scatter(1, own, -math.inf)                              # x_i with t_i leaves both sums
        columns = (text @ all_audio.T / tau).scatter(1, own, -math.inf) if everyone else rows.T      # [i, j] = x_j . t_i / tau
        both = torch.logaddexp(rows.logsumexp(dim=1), columns.logsumexp(dim=1))
        return (both - positive).sum() / len(all_audio)


def chance_loss(batch_size):
    """The loss when all similarities are equal: 2(B - 1) equal terms against one. A run that stays here learns nothing."""
    return math.log(2 * (batch_size - 1))


@torch.no_grad()
def clamp_temperature(temperature, floor):
    """Keeps tau in [floor, 1] after an optimiser step. The paper says (0, 1]; the floor is our choice, see above."""
    temperature.clamp_(floor, 1.0)
