"""The contrastive multi-view coding (CMC) loss of MuLan (paper, section 3.1).

    L = mean_i -log( h(x_i, t_i) / sum_{j != i} ( h(x_i, t_j) + h(x_j, t_i) ) ),   h(a, b) = exp(a.b / tau)

It differs from CLIP's InfoNCE in two ways: one denominator holds both directions, and it does not contain the positive pair.
So the loss is negative when h of the positive pair is larger than the sum over its negatives. It falls without bound as tau goes
to 0, so tau needs a floor (`clamp_temperature`).
"""
import math

import torch

from mulan_min.errors import UserError


def cmc_loss(audio, text, temperature, gathered=None, keys=None):
    """audio, text: (B, d) unit rows, pair i in row i of both; temperature: scalar tensor. Returns a scalar, in float32 or the
    inputs' precision if that is higher. Raises UserError for B = 1, which has no negatives.

    With several processes, each one holds b of the batch's B pairs. It passes gathered = (audio (B, d), text (B, d), index of
    its first pair in them) and gets its part of the mean: the parts of all processes add up to the loss. A process computes
    b x B cosines, never B x B.

    keys: (B,) integers, equal for pairs of the same recording, which may be drawn several times for one batch. Such pairs are not
    negatives of each other (our choice). Without keys all pairs count as pairs of different recordings.
    """
    if audio.shape != text.shape or audio.ndim != 2:
        raise ValueError(f"audio {tuple(audio.shape)} and text {tuple(text.shape)} must both be (B, d)")
    all_audio, all_text, first = gathered or (audio, text, 0)
    if len(all_audio) < 2:
        raise UserError("the contrastive loss needs a batch of 2 or more: one pair has no negatives")
    with torch.autocast(audio.device.type, enabled=False):      # bf16 is not precise enough for exp(cos / 0.02)
        dtype = torch.promote_types(audio.dtype, torch.float32)
        audio, text, all_audio, all_text, tau = (x.to(dtype) for x in (audio, text, all_audio, all_text, temperature))
        own, index = slice(first, first + len(audio)), torch.arange(len(all_audio), device=audio.device)
        itself = index[own, None] == index                                  # (b, B): the positive pair
        same = itself if keys is None else keys[own, None] == keys          # the positive pair and duplicates
        same = same & ~same.all(1, keepdim=True) | itself                   # but a batch of one recording has negatives too
        rows = audio @ all_text.T / tau                                     # (b, B): [i, j] = x_i . t_j / tau
        positive = rows.diagonal(first)
        rows = rows.masked_fill(same, -math.inf)                            # removes them from both sums
        columns = (text @ all_audio.T / tau).masked_fill(same, -math.inf) if gathered else rows.T    # [i, j] = x_j . t_i / tau
        negatives = torch.logaddexp(rows.logsumexp(dim=1), columns.logsumexp(dim=1))
        return (negatives - positive).sum() / len(all_audio)


def recall_at_1(audio, text, gathered=None):
    """The share of the batch whose audio is nearest to its own text; with several processes, this process's part of that share.
    `gathered` as in `cmc_loss`. Chance is 1 / B; another text of the same recording does not count."""
    _, all_text, first = gathered or (audio, text, 0)
    nearest = (audio.detach() @ all_text.detach().T).argmax(dim=1)
    return nearest.eq(torch.arange(first, first + len(audio), device=audio.device)).sum() / len(all_text)


def chance_loss(batch_size):
    """The loss when all similarities are equal: ln(2(B - 1)). A run whose loss stays at this value has learned nothing. Where each
    recording occurs n times in a batch, the value is ln(2(B - n)), which is lower by about (n - 1) / B."""
    return math.log(2 * (batch_size - 1))


@torch.no_grad()
def clamp_temperature(temperature, floor):
    """Keeps tau in [floor, 1] after an optimiser step. The paper says (0, 1]; the floor is our choice, see above."""
    temperature.clamp_(floor, 1.0)
