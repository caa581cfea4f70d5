import pytest
import torch
from torch import nn

from mulan_min.config import preset
from mulan_min.specaugment import spec_augment
from mulan_min.towers import AudioTower


def masked(shape, *widths, seed=0):
    """Fully masked mels (B, mels) and frames (B, frames), bool, of an input of ones."""
    torch.manual_seed(seed)
    y = spec_augment(torch.ones(shape), *widths)
    assert set(y.unique().tolist()) <= {0.0, 1.0}
    return (y == 0).all(2), (y == 0).all(1)


def runs(mask):
    """Number of separate stripes in each row of (B, size) bool."""
    return (mask[:, 1:] & ~mask[:, :-1]).sum(1) + mask[:, 0]


def test_widths_are_uniform_with_one_stripe_per_axis():
    freq, time = masked((4000, 64, 100), 7, 20)
    for mask, width in ((freq, 7), (time, 20)):
        counts = torch.bincount(mask.sum(1), minlength=width + 1)
        assert len(counts) == width + 1 and runs(mask).max() == 1
        expected = 4000 / (width + 1)
        assert ((counts - expected).abs() < 5 * expected**0.5).all()  # 5 standard deviations


def test_stripes_reach_both_edges_and_the_middle_evenly():
    freq, _ = masked((20000, 16, 4), 1, 0)
    positions = freq[freq.any(1)].float().mean(0)  # a one-bin stripe is uniform over the 16 bins
    assert ((positions - 1 / 16).abs() < 0.015).all()


def test_stripes_of_every_width_reach_both_edges():
    freq, _ = masked((20000, 16, 4), 5, 0)
    starts = torch.where(freq.any(1), freq.long().argmax(1), -1)
    for width in range(1, 6):
        counts = torch.bincount(starts[freq.sum(1) == width], minlength=17 - width)
        expected = counts.sum() / (17 - width)  # a stripe of this width has 17 - width places, all equally likely
        assert len(counts) == 17 - width and ((counts - expected).abs() < 5 * expected**0.5).all()


def test_only_the_cells_of_the_stripes_change():
    torch.manual_seed(1)
    x = torch.randn(8, 32, 50)
    y = spec_augment(x, 8, 10)
    rows, columns = (y == 0).all(2), (y == 0).all(1)
    stripes = rows[:, :, None] | columns[:, None, :]
    assert torch.equal(y, torch.where(stripes, 0.0, x))
    assert 0 < stripes.float().mean() < 1


def test_each_sample_has_its_own_stripes():
    freq, time = masked((32, 64, 100), 30, 50)
    assert len(freq.unique(dim=0)) > 20 and len(time.unique(dim=0)) > 20


def test_an_input_is_never_erased():
    # lucidrains/musiclm-pytorch: a mask of 80 on 65 bins can erase a whole input
    freq, time = masked((3000, 65, 30), 80, 10**6)
    assert freq.sum(1).max() <= 65 // 2 and time.sum(1).max() <= 30 // 2
    assert freq.sum(1).max() > 65 // 2 * 0.9  # the bound is reached


def test_zero_widths_and_tiny_inputs_leave_the_input_unchanged():
    x = torch.randn(3, 5, 7)
    assert torch.equal(spec_augment(x, 0, 0), x)
    assert torch.equal(spec_augment(x[:, :1, :1], 5, 7), x[:, :1, :1])


def test_the_seed_decides_and_the_input_is_not_changed():
    x = torch.randn(4, 20, 30)
    original = x.clone()

    def augment(seed):
        torch.manual_seed(seed)
        return spec_augment(x, 8, 10)

    assert torch.equal(augment(3), augment(3)) and not torch.equal(augment(3), augment(4))
    assert torch.equal(x, original)


def test_half_precision_and_gradient():
    torch.manual_seed(0)
    x = torch.randn(2, 20, 30, dtype=torch.bfloat16, requires_grad=True)
    y = spec_augment(x, 8, 10)
    y.sum().backward()
    assert y.dtype == torch.bfloat16 and torch.equal(x.grad == 0, y == 0)


def test_there_is_no_loop_over_the_batch():
    def operations(batch):
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            spec_augment(torch.ones(batch, 8, 8), 2, 2)
        return sum(event.count for event in profile.key_averages())

    spec_augment(torch.ones(2, 8, 8), 2, 2)
    assert operations(64) == operations(2)


@pytest.mark.parametrize("setting, axis, width", [("freq_mask", 2, 5), ("time_mask", 1, 7)])
def test_the_tower_gives_each_axis_its_own_width(setting, axis, width):
    """With one of the settings at 0, all masked cells fill whole mels, or whole frames, and the widest stripe is as set."""
    config = preset("smoke", "resnet50")
    config.front.freq_mask = config.front.time_mask = 0
    setattr(config.front, setting, width)
    tower, seen = AudioTower(config).train(), []
    tower.net = nn.Identity()
    tower.net.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    torch.manual_seed(0)
    tower.features(torch.ones(200, config.front.n_mels, 100))
    whole = (seen[0] == 0).all(axis)  # (B, mels) or (B, frames)
    assert whole.sum(1).max() == width and (seen[0] == 0).sum() == whole.sum() * seen[0].shape[axis]
    tower.eval().features(torch.ones(200, config.front.n_mels, 100))
    assert (seen[1] == 1).all()  # no masks in evaluation
