"""The CMC loss against its formula, term by term in float64, and against finite differences."""
import math

import pytest
import torch

from mulan_min.errors import UserError
from mulan_min.loss import chance_loss, clamp_temperature, cmc_loss, recall_at_1


def unit_rows(batch, dim=16, seed=0, dtype=torch.float64):
    x = torch.randn(batch, dim, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    return x / x.norm(dim=1, keepdim=True)


def brute_force(audio, text, tau, keys=None):
    def h(a, b):
        return math.exp(sum(float(p) * float(q) for p, q in zip(a, b)) / tau)

    total = 0.0
    for i in range(len(audio)):
        others = [j for j in range(len(audio)) if (j != i if keys is None else keys[j] != keys[i])]
        denominator = sum(h(audio[i], text[j]) + h(audio[j], text[i]) for j in others)
        total -= math.log(h(audio[i], text[i]) / denominator)
    return total / len(audio)


@pytest.mark.parametrize("batch", [2, 7, 64])
@pytest.mark.parametrize("tau", [1.0, 0.1, 0.02])
def test_equals_the_formula(batch, tau):
    audio, text = unit_rows(batch), unit_rows(batch, seed=1)
    assert cmc_loss(audio, text, torch.tensor(tau, dtype=torch.float64)).item() == pytest.approx(
        brute_force(audio, text, tau), rel=1e-12)


def test_pairs_of_one_recording_are_no_negatives_of_each_other():
    """By the formula, for the whole batch and for slices of it as several processes have them. R@1 counts the own text alone."""
    audio, text, tau = unit_rows(9), unit_rows(9, seed=1), torch.tensor(0.2, dtype=torch.float64)
    keys = torch.tensor([5, 1, 2, 5, 3, 1, 5, 4, 0])
    expected = brute_force(audio, text, 0.2, keys.tolist())
    assert cmc_loss(audio, text, tau, keys=keys).item() == pytest.approx(expected, rel=1e-12)
    assert expected != pytest.approx(brute_force(audio, text, 0.2), rel=1e-2)
    slices = [slice(0, 4), slice(4, 9)]
    parts = [cmc_loss(audio[s], text[s], tau, (audio, text, s.start), keys).item() for s in slices]
    assert sum(parts) == pytest.approx(expected, rel=1e-12)
    text = audio.clone()
    text[[0, 3]] = text[[3, 0]]      # each nearest to the other's text, which is of the same recording
    assert recall_at_1(audio, text) == pytest.approx(7 / 9)
    assert sum(recall_at_1(audio[s], text[s], (audio, text, s.start)) for s in slices) == pytest.approx(7 / 9)


@pytest.mark.parametrize("batch", [2, 5])
def test_a_batch_of_one_recording_has_its_other_pairs_as_negatives(batch):
    """Else there would be none, and the loss would be minus infinity."""
    audio, text, tau = unit_rows(batch), unit_rows(batch, seed=1), torch.tensor(0.2, dtype=torch.float64)
    keys = torch.full((batch,), 7)
    assert cmc_loss(audio, text, tau, keys=keys).item() == pytest.approx(brute_force(audio, text, 0.2), rel=1e-12)
    parts = [cmc_loss(audio[s], text[s], tau, (audio, text, s.start), keys).item() for s in (slice(0, 1), slice(1, batch))]
    assert sum(parts) == pytest.approx(brute_force(audio, text, 0.2), rel=1e-12)


def test_the_positive_is_not_in_the_denominator():
    """Perfect pairs at a small temperature: InfoNCE would stop at 0, this loss goes far below."""
    audio = torch.eye(4, dtype=torch.float64)
    loss = cmc_loss(audio, audio, torch.tensor(0.02, dtype=torch.float64)).item()
    assert loss == pytest.approx(math.log(2 * 3) - 1 / 0.02, rel=1e-12)


def test_gradients_by_finite_difference():
    inputs = unit_rows(5, 3).requires_grad_(), unit_rows(5, 3, seed=1).requires_grad_(), \
        torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(cmc_loss, inputs, eps=1e-6, atol=1e-8)


@pytest.mark.parametrize("batch", [2, 96, 512])
def test_all_equal_is_chance(batch):
    same = torch.ones(batch, 1, dtype=torch.float64)
    loss = cmc_loss(same, same, torch.tensor(0.05, dtype=torch.float64)).item()
    assert loss == pytest.approx(math.log(2 * (batch - 1)), rel=1e-12)
    assert chance_loss(batch) == pytest.approx(loss, rel=1e-12)


def test_finite_at_the_papers_batch_and_the_floor():
    """Raw exp(1 / 0.02) overflows float32 from tau = 0.011 on; log-sum-exp does not, not even at 0.001."""
    audio = unit_rows(6144, 128, dtype=torch.float32).requires_grad_()
    tau = torch.tensor(0.001, requires_grad=True)
    loss = cmc_loss(audio, unit_rows(6144, 128, seed=1, dtype=torch.float32), tau)
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(audio.grad).all() and torch.isfinite(tau.grad)


def test_float32_inside_autocast():
    audio, text = unit_rows(32, dtype=torch.float32), unit_rows(32, seed=1, dtype=torch.float32)
    plain = cmc_loss(audio, text, torch.tensor(0.02))
    with torch.autocast("cpu", torch.bfloat16):
        inside = cmc_loss(audio, text, torch.tensor(0.02))
    assert inside.dtype == torch.float32 and inside.item() == plain.item()


def test_one_pair_is_refused():
    with pytest.raises(UserError, match="no negatives"):
        cmc_loss(unit_rows(1), unit_rows(1), torch.tensor(0.1))


def test_temperature_stays_between_floor_and_one():
    for value, expected in ((-3.0, 0.02), (0.01, 0.02), (0.3, 0.3), (1.5, 1.0)):
        tau = torch.nn.Parameter(torch.tensor(value))
        clamp_temperature(tau, 0.02)
        assert tau.item() == pytest.approx(expected)
