"""Six feature extractors of "Music Auto-tagging with Joint Embeddings": waveform -> features, 8 x width (1,024 at width 128).

    harmonic-cnn      Harmonic-CNN (Won et al. 2020): harmonic filters with a trainable Q, then seven blocks of 3x3 convolutions
    sample-cnn        Sample-CNN (Lee et al. 2017): ten layers of kernel 3, directly on the waveform
    sample-cnn-se     Sample-CNN with squeeze-and-excitation; -res with residual blocks; -res-se with both (Kim et al. 2018)
    sincnet           band-pass filters with trainable edges (SincNet, Ravanelli and Bengio 2018), then sample-cnn-res-se

An extractor concatenates the maxima over time of its last three blocks: 2 w + 2 w + 4 w features. In comments, `paper` is the
joint-embedding paper. Batch norm adds a bias, so convolutions have none; they start as in He et al. 2015 and in Kim et al.
Linear layers keep PyTorch's initialisation, so the gates of squeeze-and-excitation start near 1/2.
"""
import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mulan_min.config import EXTRACTORS
from mulan_min.errors import UserError
from mulan_min.mel import hertz_to_mel, mel_to_hertz

FFT, HOP = 512, 256                   # samples; paper
HARMONICS, LEVELS = 6, 128            # levels start at C1, 24 per octave; paper
C1 = 440 * 2 ** (-45 / 12)            # 32.703 Hz
FLOOR = 1e-5                          # power, 92 dB below a full-scale sine; our choice
POOLS = [(2, 2)] * 5 + [(2, 3)] * 2   # (levels, frames) pooled by each block of Harmonic-CNN
SE_RATIO = 16                         # hidden units per channel (Kim et al., whose code the paper uses); 1 / 16 in Hu et al.


def make_extractor(name, width=128, sample_rate=16000, samples=80000, filters=256, filter_length=2501):
    """Make the extractor `name`: waveform (B, samples) at `sample_rate` Hz -> features (B, 8 width). `filters` and `filter_length`
    are the number of SincNet's filters and their taps. Raises UserError for an unknown name, for so few `samples` that pooling
    leaves no frame, and for an even filter_length."""
    if name not in EXTRACTORS:
        raise UserError(f'extractor "{name}" is unknown: use one of {", ".join(EXTRACTORS)}')
    minimum = (2 ** 5 * 3 ** 2 - 1) * HOP if name == "harmonic-cnn" else 3 ** 10      # 288 frames, 73,472 samples; 59,049 samples
    if samples < minimum:
        raise UserError(f"windows of {samples} samples are too short for {name}, whose pooling needs {minimum}: "
                        f"give --seconds {math.ceil(100 * minimum / sample_rate) / 100:g} or more")
    if name == "harmonic-cnn":
        return HarmonicCNN(width, sample_rate)
    if name == "sincnet":
        return SincNet(width, sample_rate, filters, filter_length)
    return SampleCNN(width, se=name.endswith("-se"), res="-res" in name)


def he_conv_bn(channels_in, channels, kernel):
    """A 2-D convolution that keeps the size and starts as in He et al. 2015 (uniform), then batch norm."""
    layers = nn.Sequential(nn.Conv2d(channels_in, channels, kernel, padding="same", bias=False), nn.BatchNorm2d(channels))
    nn.init.kaiming_uniform_(layers[0].weight, nonlinearity="relu")
    return layers


class PoolingBlock(nn.Module):
    """Convolution, batch norm, ReLU and max pooling: (B, channels_in, F, T) -> (B, channels, F / pool[0], T / pool[1]).

    `res` adds dropout, a second convolution and a shortcut from the input (with a 1x1 convolution where the channels change). `se`
    is squeeze-and-excitation: each channel is multiplied by a gate in 0..1, computed from the means of all channels. The gates act
    before the shortcut is added or, without `res`, after pooling (as in Kim et al.).
    """

    def __init__(self, channels_in, channels, kernel, pool, res=False, se=False, dropout=0.0):
        super().__init__()
        self.pool, self.dropout = pool, dropout
        self.first = he_conv_bn(channels_in, channels, kernel)
        self.second = he_conv_bn(channels, channels, kernel) if res else None
        self.shortcut = he_conv_bn(channels_in, channels, 1) if res and channels_in != channels else nn.Identity()
        self.gate = nn.Sequential(nn.Linear(channels, SE_RATIO * channels), nn.ReLU(),
                                  nn.Linear(SE_RATIO * channels, channels), nn.Sigmoid()) if se else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        if self.second is None:
            return self.gated(self.pooled(y))
        y = self.second(F.dropout(y.relu_(), self.dropout, self.training))
        return self.pooled(self.gated(y).add_(self.shortcut(x)))

    def pooled(self, y):
        return F.max_pool2d(y, self.pool).relu_()      # the same result as ReLU first, but on 1/3 to 1/6 of the values

    def gated(self, y):
        return y if self.gate is None else y * self.gate(y.mean(dim=(2, 3)))[:, :, None, None]


def last_three(x: Tensor, blocks) -> Tensor:
    """Run x through the blocks; concatenate the maxima over (F, T) of the last three blocks' outputs -> (B, features)."""
    outputs = [x]
    for block in blocks:
        outputs = [*outputs[-2:], block(outputs[-1])]
    return torch.cat([y.amax(dim=(2, 3)) for y in outputs], dim=1)


class HarmonicCNN(nn.Module):
    """Harmonic-CNN: waveform (B, samples), or its power spectrogram from `spectrogram` -> features (B, 8 width).

    A level is a fundamental frequency f0. Its six harmonics have the same index in six channels, so one kernel sees all partials of
    a tone together. Filters above Nyquist (at sample rates below 15.4 kHz) always give the floor. Pooling reduces 80,000 samples
    (paper) to one frame. 4,435,469 parameters at width 128.
    """

    def __init__(self, width: int, sample_rate: int):
        super().__init__()
        self.width, self.sample_rate = 8 * width, sample_rate
        self.log_q = nn.Parameter(torch.zeros(()))      # Q = exp(log_q): 1 at the start (paper), always above 0 (our choice)
        self.norm = nn.BatchNorm2d(HARMONICS)
        widths = [HARMONICS, width, width, width, 2 * width, 2 * width, 2 * width, 4 * width]
        self.blocks = nn.ModuleList(PoolingBlock(before, after, 3, pool, res=before == after)
                                    for before, after, pool in zip(widths, widths[1:], POOLS))
        self.to(memory_format=torch.channels_last)      # as in resnet.py

    def spectrogram(self, waveform: Tensor) -> Tensor:
        """Waveform (B, samples) in -1..1 -> power spectrogram (B, 257, samples // 256 + 1), float32 or float64, no parameters.
        Frame i is centred on sample 256 i. The ends are padded with zeros, and the Hann window is periodic (our choice)."""
        with torch.autocast(waveform.device.type, enabled=False):
            waveform = waveform.to(torch.promote_types(waveform.dtype, torch.float32))
            window = torch.hann_window(FFT, dtype=waveform.dtype, device=waveform.device)
            spectrum = torch.stft(waveform, FFT, HOP, window=window, center=True, pad_mode="constant", return_complex=True)
            return spectrum.real.square() + spectrum.imag.square()

    def filters(self) -> Tensor:
        """Filterbank (768, 257). Row 128 h + l is a triangle for harmonic h + 1 of level l: 1 at its centre (h + 1) f0, 0 half a
        bandwidth away; the bandwidth is (0.1079 centre + 24.7) / Q Hz (paper). Some below 60 Hz contain no FFT bin: all 0."""
        options = {"dtype": self.log_q.dtype, "device": self.log_q.device}
        f0 = C1 * 2 ** (torch.arange(LEVELS, **options) / 24)
        centre = torch.outer(torch.arange(1, HARMONICS + 1, **options), f0).reshape(-1, 1)
        half_bandwidth = (0.1079 * centre + 24.7) / (2 * self.log_q.exp())
        bins = torch.arange(FFT // 2 + 1, **options) * (self.sample_rate / FFT)      # Hz
        return (1 - (bins - centre).abs() / half_bandwidth).clamp_min(0)

    def harmonics(self, power: Tensor) -> Tensor:
        """Power (B, 257, frames) -> decibels (B, 6, 128, frames), [b, h, l] for harmonic h + 1 of level l; no bfloat16."""
        with torch.autocast(power.device.type, enabled=False):
            energy = self.filters() @ power.to(self.log_q.dtype)
            return 10 * energy.clamp_min(FLOOR).log10().unflatten(1, (HARMONICS, LEVELS))

    def forward(self, x: Tensor) -> Tensor:
        return last_three(self.norm(self.harmonics(self.spectrogram(x) if x.dim() == 2 else x)), self.blocks)


class SampleCNN(nn.Module):
    """Sample-CNN: waveform (B, samples) -> features (B, 8 width). Pooling reduces 59,049 = 3^10 samples (paper) to one frame.

    A convolution of kernel 3 and stride 3, then nine blocks of kernel 3 and pool 3: two with w channels, six with 2 w, one with 4 w
    (paper). For `se` and `res` see PoolingBlock; `in_channels` is SincNet's number of filters. Parameters at width 128:
    sample-cnn 1,578,112; -se 23,637,376; -res 3,812,480; -res-se 25,871,744.
    """

    def __init__(self, width: int, se: bool, res: bool, in_channels: int = 1):
        super().__init__()
        self.width = 8 * width
        self.stem = nn.Conv2d(in_channels, width, (1, 3), stride=(1, 3), bias=False)
        nn.init.kaiming_uniform_(self.stem.weight, nonlinearity="relu")
        self.norm = nn.BatchNorm2d(width)
        widths = [width] * 3 + [2 * width] * 6 + [4 * width]
        self.blocks = nn.ModuleList(PoolingBlock(before, after, (1, 3), (1, 3), res, se, dropout=0.2)      # as in Kim et al.
                                    for before, after in zip(widths, widths[1:]))
        self.to(memory_format=torch.channels_last)

    def forward(self, waveform: Tensor) -> Tensor:
        return self.after_stem(self.stem(waveform[:, None, None]))      # 2-D, channels last: half the CPU time of 1-D convolutions

    def after_stem(self, x: Tensor) -> Tensor:
        """Output of the first convolution (B, width, 1, samples / 3) -> features (B, 8 width)."""
        return last_three(self.norm(x.contiguous(memory_format=torch.channels_last)).relu_(), self.blocks)


def correlate_by_three(x: Tensor, kernels: Tensor) -> Tensor:
    """Correlation with stride 3 by FFT, sum over p of kernels[c, p] x[b, 3 t + p]: x (B, n), kernels (C, taps) -> (B, C, length).

    Stride 3 in x is stride 1 in three signals, the samples 3 t, 3 t + 1 and 3 t + 2. They are cut into overlapping blocks, four to
    eight kernels long. Each block is correlated circularly, and only the outputs that do not wrap around are used (overlap-save).
    """
    length = (x.shape[1] - kernels.shape[1]) // 3 + 1
    kernels = F.pad(kernels, (0, -kernels.shape[1] % 3)).unflatten(1, (-1, 3)).transpose(1, 2)      # (C, 3, taps / 3)
    size = 2 ** math.ceil(math.log2(4 * kernels.shape[2]))
    hop = size - kernels.shape[2] + 1
    blocks = math.ceil(length / hop)
    x = F.pad(x, (0, 3 * (size + (blocks - 1) * hop) - x.shape[1])).unflatten(1, (-1, 3)).transpose(1, 2)
    spectra = torch.fft.rfft(x.unfold(2, size, hop))      # (B, 3, blocks, size / 2 + 1)
    product = torch.einsum("brnf,crf->bcnf", spectra, torch.fft.rfft(kernels, size).conj())
    return torch.fft.irfft(product, size)[..., :hop].flatten(2)[..., :length]


class SincNet(nn.Module):
    """Music-SincNet (paper): waveform (B, samples) -> band-pass filters -> Sample-CNN with se and res -> features (B, 8 width).

    A filter has two parameters, its lower edge and its bandwidth. At the start the edges are evenly spaced on the HTK mel scale
    from 30 Hz to 100 Hz below Nyquist; each filter reaches from its left neighbour's centre to its right neighbour's. Computed
    directly, 256 filters of 2,501 taps need 3.8e10 multiply-adds for 59,049 samples, ten times as many as all later layers. FFTs,
    merged with the first convolution, need 1.6e8, plus 2.5e8 per batch for the kernels. 25,970,176 parameters at width 128.
    """

    def __init__(self, width: int, sample_rate: int, filters: int, filter_length: int):
        super().__init__()
        if filter_length % 2 == 0:
            raise UserError(f"filter_length {filter_length} is even: give an odd number of taps, so that one is in the middle")
        self.width, self.sample_rate, self.nyquist, self.taps = 8 * width, sample_rate, sample_rate / 2, filter_length
        hertz = torch.from_numpy(mel_to_hertz(np.linspace(*hertz_to_mel([30, self.nyquist - 100], "htk"), filters + 2), "htk"))
        low, high = hertz[:-2], hertz[2:]
        self.low = nn.Parameter((low / self.nyquist).logit().float())
        self.band = nn.Parameter(((high - low) / (self.nyquist - low)).logit().float())
        self.net = SampleCNN(width, se=True, res=True, in_channels=filters)

    def edges(self) -> tuple[Tensor, Tensor]:
        """Lower and upper edges of the filters in Hz, (filters,) each. Sigmoids keep 0 < lower < upper < Nyquist (our choice)."""
        low = self.nyquist * self.low.sigmoid()
        return low, low + (self.nyquist - low) * self.band.sigmoid()

    def filters(self) -> Tensor:
        """Taps (filters, filter_length): symmetric, Hamming window (paper), gain 1 at the centre of the band (our choice).

        A band-pass filter is the difference of two low-pass filters: 2 f sinc(2 f n) at its upper edge f, minus the same at its
        lower edge (f in cycles per sample, n in samples). This equals 2 B sinc(B n) cos(2 pi c n) with bandwidth B and centre c, a
        form that stays exact when the band is narrow.
        """
        low, high = (edge[:, None] / self.sample_rate for edge in self.edges())
        n = torch.arange(self.taps, dtype=low.dtype, device=low.device) - self.taps // 2
        wave = torch.cos(math.pi * (low + high) * n)
        window = torch.hamming_window(self.taps, periodic=False, dtype=n.dtype, device=n.device)
        taps = torch.sinc((high - low) * n) * wave * window
        return taps / (taps * wave).sum(dim=1, keepdim=True)      # divided by the response at the centre

    def forward(self, waveform: Tensor) -> Tensor:
        with torch.autocast(waveform.device.type, enabled=False):      # FFTs do not support bfloat16
            filters = self.filters()
            # The filters and Sample-CNN's first convolution are both linear, so together they are one convolution of stride 3. Its
            # kernels are the filters, themselves convolved. The filters' own output (B, filters, samples) is never computed.
            kernels = F.conv1d(filters[None], self.net.stem.weight[:, :, 0].flip(2), padding=2)[0]      # (width, filter_length + 2)
            x = correlate_by_three(F.pad(waveform.to(filters.dtype), [self.taps // 2] * 2), kernels)
        return self.net.after_stem(x.unsqueeze(2))
