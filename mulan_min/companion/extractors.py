"""Six feature extractors of "Music Auto-tagging with Joint Embeddings", from raw audio to 8 x width features, 1,024 at width 128.

    harmonic-cnn      Harmonic-CNN (Won et al. 2020): harmonic filters with a trainable Q, seven 3x3 blocks
    sample-cnn        Sample-CNN (Lee et al. 2017): ten layers of kernel 3, straight from the waveform
    sample-cnn-se     the same with squeeze-and-excitation; -res with residual blocks; -res-se with both (Kim et al. 2018)
    sincnet           band-pass filters with trainable edges (SincNet, Ravanelli and Bengio 2018), then sample-cnn-res-se

In all of them the last three blocks' outputs, each its maximum over time, stand side by side: 2 w + 2 w + 4 w features. Below,
`paper` is the joint-embedding paper. Convolutions have no bias, as batch norm brings its own, and start as He et al. 2015 have
it (Kim et al., too); dense layers start as PyTorch's do, which leaves the gates of squeeze-and-excitation near 1/2.
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
HARMONICS, LEVELS = 6, 128            # levels from C1, 24 to the octave; paper
C1 = 440 * 2 ** (-45 / 12)            # 32.703 Hz
FLOOR = 1e-5                          # power, 92 dB below a full-scale sine; our choice
POOLS = [(2, 2)] * 5 + [(2, 3)] * 2   # levels and frames after each block of Harmonic-CNN
SE_RATIO = 16                         # hidden units a channel (Kim et al., whose code the paper uses); Hu et al. have 1 / 16


def make_extractor(name, width=128, sample_rate=16000, samples=None, filters=256, filter_length=2501):
    """The extractor of that name: sound (B, samples) at `sample_rate` Hz -> (B, 8 width). Its `.width` is 8 x width.

    samples: length of the windows to come, checked here. filters, filter_length: number of SincNet's filters and their taps.
    Raises UserError for an unknown name, windows too short to leave a frame after the poolings, and an even filter_length.
    """
    if name not in EXTRACTORS:
        raise UserError(f'extractor "{name}" is unknown: use one of {", ".join(EXTRACTORS)}')
    least = (2 ** 5 * 3 ** 2 - 1) * HOP if name == "harmonic-cnn" else 3 ** 10      # 288 frames, 73,472 samples; 59,049
    if samples is not None and samples < least:
        raise UserError(f"windows of {samples} samples are too short for {name}, whose poolings need {least}: "
                        f"give --seconds {math.ceil(100 * least / sample_rate) / 100:g} or more")
    if name == "harmonic-cnn":
        return HarmonicCNN(width, sample_rate)
    if name == "sincnet":
        return SincNet(width, sample_rate, filters, filter_length)
    return SampleCNN(width, se=name.endswith("-se"), res="-res" in name)


def convolution(channels_in, channels, kernel):
    layers = nn.Sequential(nn.Conv2d(channels_in, channels, kernel, padding="same", bias=False), nn.BatchNorm2d(channels))
    nn.init.kaiming_uniform_(layers[0].weight, nonlinearity="relu")
    return layers


class Block(nn.Module):
    """Convolution, batch norm, ReLU and max pool: (B, channels_in, F, T) -> (B, channels, F / pool[0], T / pool[1]). With `res`
    a second convolution, dropout before it, and the input added, through a 1x1 where the channels change. With `se` every
    channel times a gate in 0..1 made from all channels' means: before the sum, or without one after the pool (as Kim et al.)."""

    def __init__(self, channels_in, channels, kernel, pool, res=False, se=False, dropout=0.0):
        super().__init__()
        self.pool, self.dropout = pool, dropout
        self.first = convolution(channels_in, channels, kernel)
        self.second = convolution(channels, channels, kernel) if res else None
        self.shortcut = convolution(channels_in, channels, 1) if res and channels_in != channels else nn.Identity()
        self.gate = nn.Sequential(nn.Linear(channels, SE_RATIO * channels), nn.ReLU(),
                                  nn.Linear(SE_RATIO * channels, channels), nn.Sigmoid()) if se else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        if self.second is None:
            return self.gated(self.pooled(y))
        y = self.second(F.dropout(y.relu_(), self.dropout, self.training))
        return self.pooled(self.gated(y).add_(self.shortcut(x)))

    def pooled(self, y):
        return F.max_pool2d(y, self.pool).relu_()      # the same as ReLU first, on a third or a quarter of the numbers

    def gated(self, y):
        return y if self.gate is None else y * self.gate(y.mean(dim=(2, 3)))[:, :, None, None]


def last_three(x: Tensor, blocks) -> Tensor:
    """x through the blocks -> the maxima over all places of the last three's outputs, side by side: (B, features)."""
    outputs = [x]
    for block in blocks:
        outputs = [*outputs[-2:], block(outputs[-1])]
    return torch.cat([y.amax(dim=(2, 3)) for y in outputs], dim=1)


class HarmonicCNN(nn.Module):
    """Waveforms (B, samples), or what `spectrogram` makes of them -> (B, 8 width); 80,000 samples (paper) end in one frame.

    A level is a pitch f0. Its six harmonics stand at the same place of six channels, so that one kernel sees a tone's partials
    together. Filters above the Nyquist frequency (at sample rates below 15.4 kHz) stay silent.

    Parameters at width w; 4,435,469 at 128:
        Q, and the batch norm of 6 channels           1 + 2 x 6
        block 1, 6 to w                               9 x 6 w + 2 w
        blocks 2 and 3, two convolutions w to w       2 x 2 (9 w^2 + 2 w)
        block 4, w to 2 w                             18 w^2 + 4 w
        blocks 5 and 6, two convolutions 2 w to 2 w   2 x 2 (36 w^2 + 4 w)
        block 7, 2 w to 4 w                           72 w^2 + 8 w
        sum                                           270 w^2 + 92 w + 13
    """

    def __init__(self, width: int = 128, sample_rate: int = 16000):
        super().__init__()
        self.width, self.sample_rate = 8 * width, sample_rate
        self.log_q = nn.Parameter(torch.zeros(()))      # Q = exp(log_q): 1 at the start (paper), always above 0 (our choice)
        self.norm = nn.BatchNorm2d(HARMONICS)
        widths = [HARMONICS, width, width, width, 2 * width, 2 * width, 2 * width, 4 * width]
        self.blocks = nn.ModuleList(Block(before, after, 3, pool, res=before == after)
                                    for before, after, pool in zip(widths, widths[1:], POOLS))
        self.to(memory_format=torch.channels_last)      # as in resnet.py

    def spectrogram(self, waves: Tensor) -> Tensor:
        """(B, samples) in -1..1 -> power (B, 257, samples // 256 + 1), no parameters, float32 at least. Frame i is centred on
        sample 256 i, with zeros around the clip and a periodic Hann window (our choice)."""
        with torch.autocast(waves.device.type, enabled=False):
            waves = waves.to(torch.promote_types(waves.dtype, torch.float32))
            window = torch.hann_window(FFT, dtype=waves.dtype, device=waves.device)
            spectrum = torch.stft(waves, FFT, HOP, window=window, center=True, pad_mode="constant", return_complex=True)
            return spectrum.real.square() + spectrum.imag.square()

    def filters(self) -> Tensor:
        """(768, 257): row 128 h + l is the triangle of harmonic h + 1 of level l, 1 at its centre (h + 1) f0 and 0 half a band
        width away; the width is (0.1079 centre + 24.7) / Q Hz (paper). Below 60 Hz a few miss every FFT bin and stay 0."""
        like = {"dtype": self.log_q.dtype, "device": self.log_q.device}
        f0 = C1 * 2 ** (torch.arange(LEVELS, **like) / 24)
        centre = torch.outer(torch.arange(1, HARMONICS + 1, **like), f0).reshape(-1, 1)
        half_width = (0.1079 * centre + 24.7) / (2 * self.log_q.exp())
        bins = torch.arange(FFT // 2 + 1, **like) * (self.sample_rate / FFT)
        return (1 - (bins - centre).abs() / half_width).clamp_min(0)

    def harmonics(self, power: Tensor) -> Tensor:
        """(B, 257, frames) -> (B, 6, 128, frames) decibels, never in bfloat16: [b, h, l] is harmonic h + 1 of level l."""
        with torch.autocast(power.device.type, enabled=False):
            energy = self.filters() @ power.to(self.log_q.dtype)
            return 10 * energy.clamp_min(FLOOR).log10().unflatten(1, (HARMONICS, LEVELS))

    def forward(self, sound: Tensor) -> Tensor:
        power = self.spectrogram(sound) if sound.dim() == 2 else sound
        return last_three(self.norm(self.harmonics(power)), self.blocks)


class SampleCNN(nn.Module):
    """(B, samples), or (B, in_channels, samples) -> (B, 8 width); 59,049 = 3^10 samples (paper) end in one frame.

    A convolution of kernel 3 and stride 3, then nine blocks of kernel 3 and pool 3, widths w, w, 2 w six times, 4 w (paper).

    Parameters at width w. Channels c: of the nine blocks 18 w, their squares 2 w^2 + 6 x 4 w^2 + 16 w^2 = 42 w^2.
        first layer                3 in_channels w + 2 w
        blocks                     2 (3 w^2 + 2 w) + (6 w^2 + 4 w) + 5 (12 w^2 + 4 w) + (24 w^2 + 8 w) = 96 w^2 + 36 w
        se, the gates              16 c^2 + 16 c, then 16 c^2 + c: 32 x 42 w^2 + 17 x 18 w = 1344 w^2 + 306 w
        res, second convolutions   3 c^2 + 2 c: 126 w^2 + 36 w
        res, shortcuts             w to 2 w and 2 w to 4 w: (2 w^2 + 4 w) + (8 w^2 + 8 w) = 10 w^2 + 12 w
    At width 128: sample-cnn 1,578,112; -se 23,637,376; -res 3,812,480; -res-se 25,871,744.
    """

    def __init__(self, width: int = 128, se: bool = False, res: bool = False, in_channels: int = 1):
        super().__init__()
        self.width = 8 * width
        self.stem = nn.Conv2d(in_channels, width, (1, 3), stride=(1, 3), bias=False)
        nn.init.kaiming_uniform_(self.stem.weight, nonlinearity="relu")
        self.norm = nn.BatchNorm2d(width)
        widths = [width] * 3 + [2 * width] * 6 + [4 * width]
        self.blocks = nn.ModuleList(Block(before, after, (1, 3), (1, 3), res, se, dropout=0.2)      # dropout as Kim et al.
                                    for before, after in zip(widths, widths[1:]))
        self.to(memory_format=torch.channels_last)

    def forward(self, sound: Tensor) -> Tensor:
        # The sound is an image one row high, channels last in memory: on a CPU half the time of 1-D convolutions.
        return self.after_stem(self.stem(sound[:, None, None] if sound.dim() == 2 else sound[:, :, None]))

    def after_stem(self, x: Tensor) -> Tensor:
        """(B, width, 1, samples / 3) -> (B, 8 width)."""
        return last_three(self.norm(x.contiguous(memory_format=torch.channels_last)).relu_(), self.blocks)


def correlate_by_three(x: Tensor, kernels: Tensor) -> Tensor:
    """(B, n), (C, taps) -> (B, C, (n - taps) // 3 + 1): sum over p of kernels[c, p] x[b, 3 t + p], by FFT.

    Every third place of one signal is every place of three, the samples 3 t, 3 t + 1 and 3 t + 2. They are cut into blocks four
    to eight kernels long, and of a block's circular correlation only the places that do not wrap around stay (overlap-save).
    """
    places = (x.shape[1] - kernels.shape[1]) // 3 + 1
    kernels = F.pad(kernels, (0, -kernels.shape[1] % 3)).unflatten(1, (-1, 3)).transpose(1, 2)      # (C, 3, taps / 3)
    size = 2 ** math.ceil(math.log2(4 * kernels.shape[2]))
    hop = size - kernels.shape[2] + 1
    blocks = math.ceil(places / hop)
    x = F.pad(x, (0, 3 * (size + (blocks - 1) * hop) - x.shape[1])).unflatten(1, (-1, 3)).transpose(1, 2)
    spectra = torch.fft.rfft(x.unfold(2, size, hop))      # (B, 3, blocks, size / 2 + 1)
    product = torch.einsum("brnf,crf->bcnf", spectra, torch.fft.rfft(kernels, size).conj())
    return torch.fft.irfft(product, size)[..., :hop].flatten(2)[..., :places]


class SincNet(nn.Module):
    """(B, samples) -> (B, 8 width): band-pass filters on the waveform, then Sample-CNN with se and res (paper: Music-SincNet).

    A filter has two numbers, its lower edge and its band. The edges start evenly on the HTK mel scale between 30 Hz and 100 Hz
    below Nyquist, each filter reaching from its left neighbour's centre to its right neighbour's.

    Done tap by tap, 256 filters of 2,501 taps take 3.8e10 multiply-adds a clip of 59,049 samples, ten times what all that
    follows takes. By FFT, in one step with the first convolution: 1.6e8 operations, and 2.5e8 a batch to make the kernels.
    Parameters: sample-cnn-res-se's + 2 filters + 3 (filters - 1) w; 25,970,176 at width 128 with 256 filters.
    """

    def __init__(self, width: int = 128, sample_rate: int = 16000, filters: int = 256, filter_length: int = 2501):
        super().__init__()
        if filter_length % 2 == 0:
            raise UserError(f"filter_length {filter_length} is even: give an odd number of taps, which has a middle")
        self.width, self.sample_rate, self.nyquist, self.taps = 8 * width, sample_rate, sample_rate / 2, filter_length
        mels = np.linspace(*hertz_to_mel([30, self.nyquist - 100], "htk"), filters + 2)
        hertz = torch.from_numpy(mel_to_hertz(mels, "htk"))
        low, high = hertz[:-2], hertz[2:]
        self.low = nn.Parameter((low / self.nyquist).logit().float())
        self.band = nn.Parameter(((high - low) / (self.nyquist - low)).logit().float())
        self.net = SampleCNN(width, se=True, res=True, in_channels=filters)

    def edges(self) -> tuple[Tensor, Tensor]:
        """Lower and upper edge of every filter in Hz, (filters,) each. Sigmoids keep 0 < lower < upper < Nyquist (our choice)."""
        low = self.nyquist * self.low.sigmoid()
        return low, low + (self.nyquist - low) * self.band.sigmoid()

    def filters(self) -> Tensor:
        """(filters, filter_length) taps, symmetric, with a Hamming window (paper) and gain 1 in mid-band (our choice).

        A band pass is the difference of two low passes, 2 f sinc(2 f n) at its upper edge f less the same at the lower, n in
        samples and f in cycles a sample. As sin a - sin b = 2 cos((a + b) / 2) sin((a - b) / 2), that is
        2 B sinc(B n) cos(2 pi c n) with band B and centre c; so written, no digits are lost in a narrow band.
        """
        low, high = (edge[:, None] / self.sample_rate for edge in self.edges())
        n = torch.arange(self.taps, dtype=low.dtype, device=low.device) - self.taps // 2
        wave = torch.cos(math.pi * (low + high) * n)
        window = torch.hamming_window(self.taps, periodic=False, dtype=n.dtype, device=n.device)
        taps = torch.sinc((high - low) * n) * wave * window
        return taps / (taps * wave).sum(dim=1, keepdim=True)      # divided by its response at the centre

    def forward(self, sound: Tensor) -> Tensor:
        with torch.autocast(sound.device.type, enabled=False):      # FFTs are not made for bfloat16
            filters = self.filters()
            # Nothing stands between the filters and Sample-CNN's first convolution, so both are one convolution of stride 3:
            # its kernels are the filters themselves convolved. The filters' own output, (B, filters, samples), is never made.
            first = self.net.stem.weight[:, :, 0]                                        # (width, filters, 3)
            kernels = F.conv1d(filters[None], first.flip(2), padding=2)[0]               # (width, filter_length + 2)
            x = correlate_by_three(F.pad(sound.to(filters.dtype), [self.taps // 2] * 2), kernels)
        return self.net.after_stem(x.unsqueeze(2))
