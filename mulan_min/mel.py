"""The log-mel front end, written out: frame, window, rFFT, triangular filterbank, log; in two dialects."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mulan_min.errors import UserError

AST_MEAN, AST_STD = -4.2677393, 4.5689974  # AudioSet statistics of the "ast" dialect (AST)


def hertz_to_mel(hertz: np.ndarray, scale: str) -> np.ndarray:
    """Hertz to mels: "htk" (also Kaldi) 1127 ln(1 + f/700); "slaney" 15 to 1 kHz, then 27 a factor of 6.4."""
    hertz = np.asarray(hertz, dtype=np.float64)
    if scale == "htk":
        return 1127.0 * np.log1p(hertz / 700.0)
    above = 15 + 27 * np.log(np.maximum(hertz, 1000) / 1000) / math.log(6.4)
    return np.where(hertz < 1000, hertz * 0.015, above)


def mel_to_hertz(mels: np.ndarray, scale: str) -> np.ndarray:
    """The inverse of hertz_to_mel."""
    mels = np.asarray(mels, dtype=np.float64)
    if scale == "htk":
        return 700.0 * np.expm1(mels / 1127.0)
    return np.where(mels < 15, mels / 0.015, 1000 * np.exp((mels - 15) * math.log(6.4) / 27))


def filterbank(n_mels: int, n_fft: int, sample_rate: int, f_min: float, f_max: float, dialect: str):
    """Triangles that rise to 1 at their centre, not normalised by area: float64 (n_fft // 2 + 1, n_mels).

    Edges are equally spaced in mels. "ours" (our choice): Slaney scale, sides straight over hertz, which is
    librosa with norm=None. "ast" (AST, Kaldi): HTK scale, sides straight over mels; at 128 mels and FFT 512
    some low filters fall between two FFT bins and stay empty, and AST's weights were trained with that.
    """
    scale = "htk" if dialect == "ast" else "slaney"
    low, high = hertz_to_mel([f_min, f_max], scale)
    edges = np.linspace(low, high, n_mels + 2)
    bins = np.arange(n_fft // 2 + 1) * sample_rate / n_fft
    if dialect == "ast":
        bins = hertz_to_mel(bins, scale)
    else:
        edges = mel_to_hertz(edges, scale)
    rise = (bins[:, None] - edges[:-2]) / (edges[1:-1] - edges[:-2])
    fall = (edges[2:] - bins[:, None]) / (edges[2:] - edges[1:-1])
    return np.maximum(0.0, np.minimum(rise, fall))


class LogMel(nn.Module):
    """Waveform (B, samples) to log-mel power (B, n_mels, frames), natural log, always computed in float32.

    dialect "ours" (our choice): zeros are added at both ends so that frame i is centred on the i-th hop and
        there are exactly samples // hop frames (10 s at 16 kHz: 1000), for a hop of at most the window; floor
        1e-5, 90 dB below a full-scale sine.
    dialect "ast" (AST, Kaldi): waveform mean removed, then in each frame mean removal and pre-emphasis 0.97;
        no padding (10 s: 998 frames); floor 1.19e-7.
    Both: window 25 ms and hop 10 ms unless given (paper), symmetric Hann, FFT of the next power of two (512 for
        25 ms), power spectrum, f_min 20 Hz (AST), f_max the Nyquist frequency unless given.

    `mean` and `std` are buffers used by `normalise`, so they travel with the weights; for "ast" they default
    to AST's, for "ours" to no change at all: measure them. Raises UserError for f_max above Nyquist, an
    unknown dialect, or a waveform too short for one frame.
    """

    def __init__(
        self,
        n_mels: int = 64,
        dialect: str = "ours",
        sample_rate: int = 16000,
        window: float = 0.025,
        hop: float = 0.010,
        f_min: float = 20.0,
        f_max: float | None = None,
        mean: float | None = None,
        std: float | None = None,
    ):
        super().__init__()
        f_max = sample_rate / 2 if f_max is None else f_max
        if dialect not in ("ours", "ast"):
            raise UserError(f'mel dialect "{dialect}" is unknown: use "ours" or "ast"')
        if not 0 <= f_min < f_max <= sample_rate / 2:
            limit = f"{sample_rate / 2:g} Hz, half the sample rate"
            raise UserError(f"mel band {f_min:g}-{f_max:g} Hz: f_max must be above f_min, at most {limit}")
        self.window, self.hop = round(window * sample_rate), round(hop * sample_rate)
        self.n_fft = 2 ** math.ceil(math.log2(self.window))
        ast = dialect == "ast"
        self.preemphasis = 0.97 if ast else 0.0
        self.padding = 0 if ast else self.window - self.hop
        self.floor = 1.192092955078125e-07 if ast else 1e-5
        bank = filterbank(n_mels, self.n_fft, sample_rate, f_min, f_max, dialect)
        self.register_buffer("bank", torch.from_numpy(bank).float(), persistent=False)
        hann = torch.hann_window(self.window, periodic=False, dtype=torch.float64).float()
        self.register_buffer("hann", hann, persistent=False)
        usual_mean, usual_std = (AST_MEAN, AST_STD) if ast else (0.0, 0.5)
        self.register_buffer("mean", torch.tensor(float(usual_mean if mean is None else mean)))
        self.register_buffer("std", torch.tensor(float(usual_std if std is None else std)))

    def forward(self, waveform: Tensor) -> Tensor:
        """(B, samples) in -1..1 -> (B, n_mels, frames), not normalised."""
        if waveform.shape[-1] + self.padding < self.window:
            raise UserError(f"{waveform.shape[-1]} samples are too short for one mel frame of {self.window}")
        # On a CPU one clip at a time keeps the intermediates in the cache, 3 times faster than the batch.
        clips = waveform.split(1) if waveform.device.type == "cpu" else [waveform]
        with torch.autocast(waveform.device.type, enabled=False):
            return torch.cat([self._log_mel(clip.float()) for clip in clips]).transpose(-1, -2)

    def _log_mel(self, x: Tensor) -> Tensor:
        """(B, samples) float32 -> (B, frames, n_mels)."""
        if self.preemphasis:
            # Taking each frame's mean away makes this step of AST needless, but it saves float32 digits.
            x = x - x.mean(dim=-1, keepdim=True)
        x = F.pad(x, (self.padding // 2, self.padding - self.padding // 2))
        frames = x.unfold(-1, self.window, self.hop)  # (B, frames, window), a view
        if self.preemphasis:
            # In each frame Kaldi subtracts the mean m, then p times the sample before. Both are linear:
            # (x[j] - m) - p (x[j-1] - m) = (x[j] - p x[j-1]) - (1 - p) m, so x[j] - p x[j-1] is made only
            # once. Kaldi's own rule for j = 0 does not matter, as the symmetric Hann window is 0 there.
            offset = (1 - self.preemphasis) * frames.mean(dim=-1, keepdim=True)
            x = x - self.preemphasis * F.pad(x[..., :-1], (1, 0))
            frames = x.unfold(-1, self.window, self.hop) - offset
        spectrum = torch.fft.rfft(frames * self.hann, n=self.n_fft)  # (B, frames, n_fft // 2 + 1) complex
        power = spectrum.real.square() + spectrum.imag.square()
        return (power @ self.bank).clamp_min(self.floor).log()

    def normalise(self, log_mel: Tensor) -> Tensor:
        """(x - mean) / (2 std), AST's scaling: mean 0, standard deviation 0.5. SpecAugment comes after."""
        return (log_mel - self.mean) / (2 * self.std)
