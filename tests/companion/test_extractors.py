"""Oracles: formulas in numpy; scipy.signal's stft, firwin, freqz and fftconvolve; and the networks, computed again step by step in
float64, with 1-D convolutions, batch norm by hand and ReLU before pooling, as in the papers' figures."""
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import signal
from torch import nn

from mulan_min.companion.extractors import EXTRACTORS, HarmonicCNN, PoolingBlock, SincNet, correlate_by_three, last_three, make_extractor
from mulan_min.errors import UserError

RATE = 16000
C1 = 440 * 2 ** ((24 - 69) / 12)      # MIDI note 24


def small(name, width=2, **more):
    torch.manual_seed(0)
    return make_extractor(name, width, **{"filters": 5, "filter_length": 101, **more})


def with_random_norms(model):
    """Give all batch norms random numbers other than 0 and 1, so that the tests notice a missing one."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.running_var):
                nn.init.uniform_(tensor, 0.3, 0.9)
            for tensor in (module.bias, module.running_mean):
                nn.init.normal_(tensor, std=0.2)
    return model


def with_measured_norms(model):
    """Measure the batch norms' statistics on one batch of noise, so that all features are near 1, and switch to eval mode."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        model.train()(0.3 * torch.randn(3, 80000))
    return model.eval()


def finite_difference(function, parameter, step=1e-6):
    """Gradient of function with respect to the parameter, by central differences, one element at a time."""
    slopes, flat = torch.zeros(parameter.numel(), dtype=parameter.dtype), parameter.data.view(-1)
    with torch.no_grad():
        for i in range(len(flat)):
            start = flat[i].item()
            flat[i] = start + step
            above = function().item()
            flat[i] = start - step
            slopes[i] = (above - function().item()) / (2 * step)
            flat[i] = start
    return slopes.view_as(parameter)


# ---- harmonic filters

def triangles(rate, q):
    bank = np.zeros((768, 257))
    for h in range(6):
        for level in range(128):
            centre = (h + 1) * C1 * 2 ** (level / 24)
            width = (0.1079 * centre + 24.7) / q
            for k in range(257):
                hertz = k * rate / 512
                up, down = (hertz - (centre - width / 2)) / (width / 2), ((centre + width / 2) - hertz) / (width / 2)
                bank[128 * h + level, k] = max(0.0, min(up, down))
    return bank


@pytest.mark.parametrize("rate, q", [(16000, 1.0), (22050, 2.5)])
def test_harmonic_filters_follow_the_formula(rate, q):
    net = HarmonicCNN(1, rate).double()
    assert net.log_q.exp().item() == 1.0
    nn.init.constant_(net.log_q, math.log(q))
    np.testing.assert_allclose(net.filters().detach().numpy(), triangles(rate, q), atol=1e-10)


def spectrogram_by_hand(wave):
    """Power (257, frames) in float64, by a discrete Fourier transform of each frame; frame i is centred on sample 256 i."""
    padded = np.concatenate([np.zeros(256), wave, np.zeros(256)])
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(512) / 512)
    frames = np.stack([padded[i:i + 512] * window for i in range(0, len(padded) - 511, 256)])
    transform = np.exp(-2j * np.pi * np.outer(np.arange(512), np.arange(257)) / 512)
    return (np.abs(frames @ transform) ** 2).T


def test_spectrogram_and_decibels_follow_the_formula():
    waves = np.random.default_rng(0).standard_normal((2, 5000)) * [[0.1], [1e-4]]
    net = HarmonicCNN(1, RATE).double()
    expected = np.stack([spectrogram_by_hand(wave) for wave in waves])
    power = net.spectrogram(torch.from_numpy(waves))
    assert power.shape == (2, 257, 20)
    np.testing.assert_allclose(power.numpy(), expected, rtol=1e-9, atol=1e-15)
    _, _, theirs = signal.stft(waves, window="hann", nperseg=512, noverlap=256, boundary="zeros", padded=False)
    np.testing.assert_allclose(power.numpy(), np.abs(theirs * 256) ** 2, rtol=1e-9, atol=1e-15)      # 256 is the sum of the window
    energy = np.einsum("fk,bkt->bft", triangles(RATE, 1.0), expected).reshape(2, 6, 128, -1)
    decibels = 10 * np.log10(np.maximum(energy, 1e-5))
    assert 0.01 < (energy < 1e-5).mean() < 0.5      # some values are below the floor
    np.testing.assert_allclose(net.harmonics(power).detach().numpy(), decibels, atol=1e-9)


def decibels_of_sines(*hertz):
    """Decibels (6, 128) of one second of these sines, in a frame in the middle."""
    t = np.arange(RATE) / RATE
    wave = sum(0.1 * np.sin(2 * np.pi * f * t + i) for i, f in enumerate(hertz))
    net = HarmonicCNN(1, RATE).double()
    return net.harmonics(net.spectrogram(torch.from_numpy(wave)[None])).detach()[0, :, :, 30].numpy()


# Neighbouring levels are 3 % apart and FFT bins 31.25 Hz, so from 1.2 kHz upwards the level of a sine is unambiguous.
@pytest.mark.parametrize("level, harmonic", [(127, 1), (127, 2), (115, 2), (110, 3), (120, 3), (96, 4), (111, 5), (64, 6),
                                             (80, 6), (127, 6)])
def test_a_sine_is_loudest_at_its_own_harmonic_and_level(level, harmonic):
    response = decibels_of_sines(harmonic * C1 * 2 ** (level / 24))
    assert response[harmonic - 1].argmax() == level      # the loudest level of that harmonic
    assert response[:, level].argmax() == harmonic - 1      # the loudest harmonic of that level


@pytest.mark.parametrize("level", [60, 84, 90, 101, 120, 127])
def test_the_partials_of_a_tone_meet_at_one_level(level):
    f0 = C1 * 2 ** (level / 24)
    response = decibels_of_sines(*(h * f0 for h in range(1, 7)))
    together = response.min(axis=0)      # the weakest of the six channels at each level
    assert together.argmax() == level
    assert together[level] > np.delete(together, range(level - 3, min(level + 4, 128))).max() + 20
    assert decibels_of_sines(f0).min(axis=0).argmax() != level      # a single sine has no such level


def test_gradient_of_q():
    net = HarmonicCNN(1, RATE).double()
    power = net.spectrogram(torch.randn(2, 2000, dtype=torch.float64))
    nn.init.constant_(net.log_q, 0.3)
    weights = torch.randn(2, 6, 128, 8, dtype=torch.float64)
    loss = lambda: (net.harmonics(power) * weights).mean()
    loss().backward()
    assert net.log_q.grad.abs() > 1e-4
    torch.testing.assert_close(net.log_q.grad, finite_difference(loss, net.log_q), rtol=1e-5, atol=0)


# ---- sinc filters

def mel_edges(rate, filters):
    """Lower and upper edges in Hz, by HTK's formula with decimal logarithms."""
    low, high = (2595 * math.log10(1 + f / 700) for f in (30, rate / 2 - 100))
    hertz = [700 * (10 ** ((low + (high - low) * i / (filters + 1)) / 2595) - 1) for i in range(filters + 2)]
    return hertz[:-2], hertz[2:]


@pytest.mark.parametrize("rate", [16000, 22050])
def test_sinc_filters_pass_exactly_their_bands(rate):
    taps, count = 1001, 24
    net = SincNet(1, rate, count, taps).double()
    filters = net.filters().detach().numpy()
    transition = 3.3 * rate / taps      # Hz, width of the transition band of a Hamming window
    wide = 0
    for low, high, row, ours in zip(*mel_edges(rate, count), filters, torch.stack(net.edges(), 1).tolist()):
        np.testing.assert_allclose(ours, (low, high), rtol=1e-5)
        # firwin also subtracts two low-pass filters and divides by the response at the centre
        theirs = signal.firwin(taps, ours, window="hamming", pass_zero=False, fs=rate)
        np.testing.assert_allclose(row, theirs, atol=1e-12)
        hertz, response = signal.freqz(row, worN=8192, fs=rate)
        decibels = 20 * np.log10(np.abs(response) + 1e-12)
        assert decibels[(hertz < low - transition) | (hertz > high + transition)].max() < -30
        middle = signal.freqz(row, worN=[(low + high) / 2], fs=rate)[1]
        np.testing.assert_allclose(np.abs(middle), 1, atol=1e-5)
        inside = (hertz > low + transition / 2) & (hertz < high - transition / 2)
        if inside.any():
            wide += 1
            assert np.abs(np.abs(response[inside]) - 1).max() < 0.01
    assert wide > 10


def test_sinc_filters_at_the_sizes_of_the_paper():
    net = SincNet(1, RATE, 256, 2501)
    low, high = net.edges()
    np.testing.assert_allclose((low[0].item(), high[-1].item()), (30, 7900), rtol=1e-5)
    ours = net.filters().detach().double().numpy()
    for i in (0, 100, 255):
        theirs = signal.firwin(2501, (low[i].item(), high[i].item()), window="hamming", pass_zero=False, fs=RATE)
        assert np.abs(ours[i] - theirs).max() < 1e-3 * np.abs(theirs).max()      # float32


def test_gradients_of_the_edges():
    torch.manual_seed(1)
    net = SincNet(1, RATE, 3, 65).double()
    weights = torch.randn(3, 65, dtype=torch.float64)
    loss = lambda: (net.filters() * weights).sum()
    loss().backward()
    for parameter in (net.low, net.band):
        assert parameter.grad.abs().min() > 1e-3
        torch.testing.assert_close(parameter.grad, finite_difference(loss, parameter), rtol=1e-6, atol=1e-8)


def test_edges_stay_between_0_and_nyquist_for_extreme_parameters():
    net, extremes = SincNet(1, RATE, 4, 65), torch.tensor([-10.0, 10.0])
    for far in (1, 100):      # at 100 the sigmoids are exactly 0 and 1 in float32
        net.low.data, net.band.data = far * extremes.repeat(2), far * extremes.repeat_interleave(2)
        assert net.filters().isfinite().all() and net.filters().abs().max() < 1.01
        low, high = net.edges()
        assert (0 <= low).all() and (low <= high).all() and (high <= RATE / 2).all()
        if far == 1:
            low, high = net.double().edges()
            assert (0 < low).all() and (low < high).all() and (high < RATE / 2).all()
            net.float()


@pytest.mark.parametrize("samples, taps", [(900, 7), (901, 8), (902, 9), (5000, 103), (103, 103), (105, 103)])
def test_correlation_by_fft_equals_the_direct_one(samples, taps):
    torch.manual_seed(0)
    x, kernels = torch.randn(2, samples, dtype=torch.float64), torch.randn(4, taps, dtype=torch.float64)
    result = correlate_by_three(x, kernels)
    torch.testing.assert_close(result, F.conv1d(x[:, None], kernels[:, None], stride=3), rtol=0, atol=1e-9)
    theirs = [[signal.fftconvolve(row, kernel[::-1], mode="valid")[::3] for kernel in kernels.numpy()] for row in x.numpy()]
    np.testing.assert_allclose(result.numpy(), theirs, atol=1e-9)


@pytest.mark.parametrize("training", [False, True])
def test_sincnet_is_its_filters_then_sample_cnn(training):
    net = with_random_norms(small("sincnet", filters=3)).double().train(training)
    for block in net.net.blocks:
        block.dropout = 0.0
    torch.manual_seed(1)
    x, weights = 0.1 * torch.randn(2, 59049 + 100, dtype=torch.float64), torch.randn(2, 16, dtype=torch.float64)
    filters = net.filters().detach().numpy()
    filtered = np.array([[signal.fftconvolve(row, taps, mode="same") for taps in filters] for row in x.numpy()])
    assert filtered.shape == (2, 3, 59149)      # stride 1 keeps the length
    expected = sample_cnn_by_hand(net.net.state_dict(), torch.from_numpy(filtered), training)
    torch.testing.assert_close(net(x), expected, rtol=1e-8, atol=1e-9)
    if training:      # the gradients are those of filters and convolution, one after the other
        (net(x) * weights).sum().backward()
        merged = {name: p.grad.clone() for name, p in net.named_parameters()}
        net.zero_grad()
        rows = F.conv1d(x[:, None], net.filters()[:, None], padding=50)
        (net.net.after_stem(net.net.stem(rows[:, :, None])) * weights).sum().backward()
        for name, p in net.named_parameters():
            torch.testing.assert_close(merged[name], p.grad, rtol=1e-6, atol=1e-8)


# ---- the networks step by step

def normalised(x, state, name, training):
    """Batch norm of x (B, C, ...), by hand."""
    shape = (1, -1) + (1,) * (x.dim() - 2)
    dims = [d for d in range(x.dim()) if d != 1]
    mean, variance = state[name + ".running_mean"].view(shape), state[name + ".running_var"].view(shape)
    if training:
        mean = x.mean(dims, keepdim=True)
        variance = (x - mean).square().mean(dims, keepdim=True)
    return (x - mean) / (variance + 1e-5).sqrt() * state[name + ".weight"].view(shape) + state[name + ".bias"].view(shape)


def gates(x, state, name):
    hidden = torch.clamp(x.mean(-1) @ state[name + ".gate.0.weight"].T + state[name + ".gate.0.bias"], min=0)
    logits = hidden @ state[name + ".gate.2.weight"].T + state[name + ".gate.2.bias"]
    return (1 / (1 + torch.exp(-logits)))[:, :, None]


def sample_cnn_by_hand(state, waveform, training):
    """waveform (B, channels, samples) -> features (B, 8 width), without dropout."""
    def convolved(x, name, padding):
        return normalised(F.conv1d(x, state[name + ".0.weight"].squeeze(2), padding=padding), state, name + ".1", training)

    def pooled(x):
        return torch.stack([x[..., i:x.shape[-1] // 3 * 3:3] for i in range(3)]).max(0).values

    x, outputs = F.conv1d(waveform, state["stem.weight"].squeeze(2), stride=3), []
    x = torch.relu(normalised(x, state, "norm", training))
    for name in [f"blocks.{i}" for i in range(9)]:
        y = torch.relu(convolved(x, name + ".first", 1)) if name + ".first.0.weight" in state else None
        if name + ".second.0.weight" in state:
            y = convolved(y, name + ".second", 1)
            y = y * gates(y, state, name) if name + ".gate.0.weight" in state else y
            x = pooled(torch.relu(y + (convolved(x, name + ".shortcut", 0) if name + ".shortcut.0.weight" in state else x)))
        else:
            x = pooled(y)
            x = x * gates(x, state, name) if name + ".gate.0.weight" in state else x
        outputs.append(x)
    return torch.cat([x.max(-1).values for x in outputs[6:]], dim=1)


def harmonic_cnn_by_hand(state, decibels, training):
    def convolved(x, name):
        return normalised(F.conv2d(x, state[name + ".0.weight"], padding=1), state, name + ".1", training)

    x, outputs = normalised(decibels, state, "norm", training), []
    for i in range(7):
        y = convolved(x, f"blocks.{i}.first")
        if i in (1, 2, 4, 5):      # the blocks that keep their channels
            y = x + convolved(torch.relu(y), f"blocks.{i}.second")
        x = F.max_pool2d(torch.relu(y), (2, 3) if i > 4 else (2, 2))
        outputs.append(x)
    return torch.cat([x.flatten(2).max(-1).values for x in outputs[4:]], dim=1)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", [name for name in EXTRACTORS if name != "sincnet"])
def test_networks_equal_a_reference(name, training):
    net = with_random_norms(small(name)).double().train(training)
    for block in net.blocks:
        assert block.dropout == (0.2 if name.startswith("sample") else 0.0)
        block.dropout = 0.0
    torch.manual_seed(1)
    x, weights = 0.1 * torch.randn(3, 80000, dtype=torch.float64), torch.randn(3, 16, dtype=torch.float64)
    state = {key: value.detach().clone().requires_grad_(value.is_floating_point()) for key, value in net.state_dict().items()}
    if name == "harmonic-cnn":
        expected = harmonic_cnn_by_hand(state, net.harmonics(net.spectrogram(x)).detach(), training)
    else:
        expected = sample_cnn_by_hand(state, x[:, None], training)
    out = net(x)
    torch.testing.assert_close(out, expected, rtol=1e-8, atol=1e-9)
    (out * weights).sum().backward()
    (expected * weights).sum().backward()
    for key, parameter in net.named_parameters():
        if key != "log_q":      # the reference uses the net's own decibels, so it has no log_q
            torch.testing.assert_close(parameter.grad, state[key].grad, rtol=1e-6, atol=1e-8, msg=lambda text: f"{key}: {text}")


def test_each_name_has_the_blocks_it_says():
    kinds = {name: (block.second is not None, block.gate is not None) for name in EXTRACTORS if name[:2] in ("sa", "si")
             for block in (small(name).net if name == "sincnet" else small(name)).blocks}
    assert kinds == {"sample-cnn": (False, False), "sample-cnn-se": (False, True), "sample-cnn-res": (True, False),
                     "sample-cnn-res-se": (True, True), "sincnet": (True, True)}


def test_a_closed_gate_leaves_nothing_or_the_shortcut():
    torch.manual_seed(0)
    x = torch.randn(2, 4, 1, 9)
    gated, residual = PoolingBlock(4, 4, (1, 3), (1, 3), se=True), PoolingBlock(4, 4, (1, 3), (1, 3), res=True, se=True)
    assert gated(x).abs().max() > 0.1
    for block in (gated, residual):
        nn.init.constant_(block.gate[2].bias, -200.0)
    assert gated(x).abs().max() == 0
    torch.testing.assert_close(residual(x), F.max_pool2d(x.relu(), (1, 3)), rtol=0, atol=0)


def test_dropout_acts_in_training_only():
    block = PoolingBlock(3, 3, (1, 3), (1, 3), res=True, dropout=0.2)
    nn.init.constant_(block.first[1].bias, 50.0)      # so that ReLU changes nothing
    inputs = []
    block.second.register_forward_pre_hook(lambda _, arguments: inputs.append(arguments[0]))
    x = torch.randn(4, 3, 1, 3000)
    block(x)
    block.eval()(x)
    share = (inputs[0] == 0).double().mean().item()
    assert abs(share - 0.2) < 0.01 and (inputs[1] == 0).sum() == 0      # the sd of the share is 0.002
    assert abs(inputs[0][inputs[0] != 0].mean() / 50 - 1.25) < 0.01


def test_the_last_three_blocks_are_the_features():
    blocks = [nn.Identity(), nn.ReLU(), nn.Threshold(2.0, -1.0), nn.Flatten(0, -1)]
    blocks[3].forward = lambda x: -x
    x = torch.tensor([[-3.0, 1.0, 2.5], [0.5, 1.0, -9.0]]).view(1, 2, 1, 3)
    assert last_three(x, blocks).tolist() == [[2.5, 1.0, 2.5, -1.0, 1.0, 1.0]]


def frames_at_the_end(net, samples):
    shapes = []
    last = (net.net if isinstance(net, SincNet) else net).blocks[-1]
    handle = last.register_forward_hook(lambda _, __, out: shapes.append(tuple(out.shape[1:])))
    net.eval()(torch.randn(1, samples))
    handle.remove()
    return shapes[0]


@pytest.mark.parametrize("name, usual, least", [("harmonic-cnn", 80000, 73472), ("sample-cnn", 59049, 59049),
                                                ("sample-cnn-res-se", 59049, 59049), ("sincnet", 59049, 59049)])
def test_windows_of_the_paper_end_in_one_frame(name, usual, least):
    net = small(name)
    assert frames_at_the_end(net, usual) == frames_at_the_end(net, least) == (8, 1, 1)
    with pytest.raises(RuntimeError):      # torch's pooling has no frame left
        frames_at_the_end(net, least - 1)
    make_extractor(name, 1, samples=least, filters=2, filter_length=3)
    with pytest.raises(UserError, match=f"{least - 1} samples are too short.*{least}.*--seconds") as error:
        make_extractor(name, 1, samples=least - 1)
    seconds = float(str(error.value).split("--seconds ")[1].split()[0])
    make_extractor(name, 1, samples=round(seconds * RATE), filters=2, filter_length=3)      # the remedy in the message works
    assert frames_at_the_end(net, 147200 if name == "harmonic-cnn" else 2 * 59049) == (8, 1, 2)


def test_80000_samples_are_313_frames_of_128_levels():
    net = small("harmonic-cnn")
    power = net.spectrogram(torch.randn(1, 80000))
    assert power.shape == (1, 257, 313) and net.harmonics(power).shape == (1, 6, 128, 313)


# Parameters at width 128, as in the docstrings. At width w, kernels and batch norms (2 c for c channels) counted one by one:
#
# harmonic-cnn   Q, and the batch norm of 6 channels           1 + 2 x 6
#                block 1, 6 to w                               9 x 6 w + 2 w
#                blocks 2 and 3, two convolutions w to w       2 x 2 (9 w^2 + 2 w)
#                block 4, w to 2 w                             18 w^2 + 4 w
#                blocks 5 and 6, two convolutions 2 w to 2 w   2 x 2 (36 w^2 + 4 w)
#                block 7, 2 w to 4 w                           72 w^2 + 8 w
#                sum                                           270 w^2 + 92 w + 13
# sample-cnn     first layer                3 in_channels w + 2 w
#                blocks                     2 (3 w^2 + 2 w) + (6 w^2 + 4 w) + 5 (12 w^2 + 4 w) + (24 w^2 + 8 w) = 96 w^2 + 36 w
#   (The nine blocks have 18 w channels c in all, and the sum of c^2 is 2 w^2 + 6 x 4 w^2 + 16 w^2 = 42 w^2.)
#                se, the gates              16 c^2 + 16 c, then 16 c^2 + c: 32 x 42 w^2 + 17 x 18 w = 1344 w^2 + 306 w
#                res, second convolutions   3 c^2 + 2 c: 126 w^2 + 36 w
#                res, shortcuts             w to 2 w and 2 w to 4 w: (2 w^2 + 4 w) + (8 w^2 + 8 w) = 10 w^2 + 12 w
# sincnet        sample-cnn-res-se's + 2 filters + 3 (filters - 1) w
COUNTS = {"harmonic-cnn": 4_435_469, "sample-cnn": 1_578_112, "sample-cnn-se": 23_637_376, "sample-cnn-res": 3_812_480,
          "sample-cnn-res-se": 25_871_744, "sincnet": 25_970_176}


@pytest.mark.parametrize("name", EXTRACTORS)
def test_parameter_counts_are_the_docstrings(name):
    net = make_extractor(name)
    assert net.width == 1024 and sum(p.numel() for p in net.parameters()) == COUNTS[name]
    assert f"{COUNTS[name]:,}" in type(net).__doc__
    for w in (2, 5):
        plain, gate, res = 96 * w * w + 41 * w, 1344 * w * w + 306 * w, 136 * w * w + 48 * w
        sums = {"harmonic-cnn": 270 * w * w + 92 * w + 13, "sample-cnn": plain, "sample-cnn-se": plain + gate,
                "sample-cnn-res": plain + res, "sample-cnn-res-se": plain + gate + res,
                "sincnet": plain + gate + res + 2 * 7 + 3 * 6 * w}
        net = make_extractor(name, w, filters=7, filter_length=5)
        assert net.width == 8 * w and sum(p.numel() for p in net.parameters()) == sums[name]


# ---- all six

@pytest.mark.parametrize("name", EXTRACTORS)
def test_features_do_not_depend_on_the_batch(name):
    net = with_measured_norms(small(name, 6))
    x = torch.randn(5, 80000) * torch.tensor([0.1, 0.3, 0.03, 0.2, 0.0])[:, None]
    together = net(x)
    assert together.shape == (5, 48)
    assert (together[:4] - together[4]).abs().amax(1).min() > 1e-3      # no clip has the features of silence
    alone = torch.cat([net(x[i:i + 1]) for i in range(5)])
    assert (together - alone).abs().max() < 1e-5 * together.abs().max()


@pytest.mark.parametrize("name", EXTRACTORS)
def test_every_parameter_learns_in_bfloat16_too(name):
    net = with_random_norms(small(name, 4))
    x = 0.1 * torch.randn(3, 80000)
    with torch.autocast("cpu", torch.bfloat16):
        out = net(x)
    out.float().square().sum().backward()
    for key, parameter in net.named_parameters():
        assert parameter.grad.isfinite().all() and parameter.grad.abs().max() > 0, key
    with_measured_norms(net)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        out = net(x).float()
    exact = net.double()(x.double()).float()
    assert (out - exact).norm() < 0.1 * exact.norm()


def test_sinc_filters_are_never_in_bfloat16():
    net, filtered = small("sincnet"), []
    net.net.norm.register_forward_pre_hook(lambda _, arguments: filtered.append(arguments[0]))
    x = 0.1 * torch.randn(2, 59049)
    net(x)
    with torch.autocast("cpu", torch.bfloat16):
        net(x)
    assert torch.equal(*filtered)


def test_harmonic_cnn_accepts_waveforms_or_their_spectrograms():
    net = with_random_norms(small("harmonic-cnn")).eval()
    x = 0.1 * torch.randn(2, 80000)
    power = net.spectrogram(x)
    assert not power.requires_grad
    torch.testing.assert_close(net(power), net(x), rtol=0, atol=0)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(net.spectrogram(x), power)
        assert net.harmonics(power).dtype == torch.float32


def test_unknown_names_and_even_lengths_are_refused():
    with pytest.raises(UserError, match="sample-cnn-res-se"):
        make_extractor("resnet18")
    with pytest.raises(UserError, match="odd"):
        make_extractor("sincnet", filter_length=2500)


def test_initialisation_keeps_the_size_of_the_signal():
    """He et al. use variance 2 / fan-in, so that the signal would keep its size through ReLUs even without batch norm."""
    net = make_extractor("sample-cnn-res", 64)
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            fan_in = module.weight[0].numel()
            assert abs(module.weight.var().item() * fan_in / 2 - 1) < 0.25
