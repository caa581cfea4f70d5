"""Log-mel spectrograms: frames, window, FFT, mel filterbank, logarithm. Two dialects: "slaney" is ours, "kaldi" is AST's."""
import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mulan_min.config import DIALECTS
from mulan_min.errors import UserError

F_MIN = 20.0  # Hz, lower edge of the first filter (AST); the last filter ends at half the sample rate


def hertz_to_mel(hertz: np.ndarray, scale: str) -> np.ndarray:
    """Hz -> mels. scale "htk" (Kaldi too): 1127 ln(1 + f/700); "slaney": linear, 15 mels at 1 kHz, then 27 mels per factor 6.4."""
    hertz = np.asarray(hertz, dtype=np.float64)
    if scale == "htk":
        return 1127.0 * np.log1p(hertz / 700.0)
    return np.where(hertz < 1000, hertz * 0.015, 15 + 27 * np.log(np.maximum(hertz, 1000) / 1000) / math.log(6.4))


def mel_to_hertz(mels: np.ndarray, scale: str) -> np.ndarray:
    """mels -> Hz, the inverse of hertz_to_mel."""
    mels = np.asarray(mels, dtype=np.float64)
    if scale == "htk":
        return 700.0 * np.expm1(mels / 1127.0)
    return np.where(mels < 15, mels / 0.015, 1000 * np.exp((mels - 15) * math.log(6.4) / 27))


def filterbank(n_mels: int, n_fft: int, sample_rate: int, dialect: str) -> np.ndarray:
    """Triangular mel filters from 20 Hz to half the sample rate: float64 (n_fft // 2 + 1, n_mels).

    The corners of the triangles are equally spaced in mels. Each triangle has height 1; its area is not normalised.
    "slaney" (our choice): Slaney's scale; the sides are linear in Hz. This is librosa's filterbank with norm=None.
    "kaldi" (AST): HTK's scale; the sides are linear in mels. With 128 mels and an FFT of 512, some low filters lie between two
    FFT bins and are empty. AST's weights were trained with these empty filters.
    """
    scale = "htk" if dialect == "kaldi" else "slaney"
    corners = np.linspace(*hertz_to_mel([F_MIN, sample_rate / 2], scale), n_mels + 2)
    bins = np.arange(n_fft // 2 + 1) * sample_rate / n_fft
    corners, bins = (corners, hertz_to_mel(bins, scale)) if dialect == "kaldi" else (mel_to_hertz(corners, scale), bins)
    rise = (bins[:, None] - corners[:-2]) / (corners[1:-1] - corners[:-2])
    fall = (corners[2:] - bins[:, None]) / (corners[2:] - corners[1:-1])
    return np.maximum(0.0, np.minimum(rise, fall))


class LogMel(nn.Module):
    """Waveform (B, samples) -> natural log of the mel power spectrogram (B, n_mels, frames), always computed in float32.

    Both dialects: `window` and `hop` in s (paper), symmetric Hann window, FFT of the next power of two (512 for 25 ms), power.
    "slaney" (our choice): zeros are added at both ends, so that frame i is centred on the i-th hop and there are exactly
        samples // hop frames (10 s at 16 kHz: 1000), if the hop is not longer than the window. Floor 1e-5: 90 dB below the
        level of a sine of amplitude 1.
    "kaldi" (AST): first the mean of the waveform is subtracted, then the mean of each frame; pre-emphasis 0.97. No zeros are
        added (10 s: 998 frames). Floor 1.19e-7.

    `mean` and `std` are the buffers of `normalise` and are saved with the weights. Measure them on your data: with the defaults
    `normalise` changes nothing. Raises UserError for an unknown dialect, and for a waveform too short for one frame.
    """

    def __init__(self, n_mels: int = 64, dialect: str = "slaney", sample_rate: int = 16000, window: float = 0.025,
                 hop: float = 0.010, mean: float = 0.0, std: float = 0.5):
        super().__init__()
        if dialect not in DIALECTS:
            raise UserError(f'mel dialect "{dialect}" is unknown: use {" or ".join(DIALECTS)}')
        self.window, self.hop = round(window * sample_rate), round(hop * sample_rate)  # samples
        self.n_fft = 2 ** math.ceil(math.log2(self.window))
        kaldi = dialect == "kaldi"
        self.preemphasis = 0.97 if kaldi else 0.0
        self.padding = 0 if kaldi else self.window - self.hop  # samples, of both ends together
        self.floor = 1.192092955078125e-07 if kaldi else 1e-5
        bank = torch.from_numpy(filterbank(n_mels, self.n_fft, sample_rate, dialect)).float()
        self.register_buffer("bank", bank, persistent=False)
        self.register_buffer("hann", torch.hann_window(self.window, periodic=False, dtype=torch.float64).float(), persistent=False)
        self.register_buffer("mean", torch.tensor(float(mean)))
        self.register_buffer("std", torch.tensor(float(std)))

    def forward(self, waveform: Tensor) -> Tensor:
        """(B, samples) in -1..1 -> (B, n_mels, frames), not normalised."""
        shortest = self.window - self.padding
        if waveform.shape[-1] < shortest:
            raise UserError(f"{waveform.shape[-1]} samples are too short for one mel frame: at least {shortest} are needed")
        # On a CPU, one clip at a time keeps the intermediate results in the cache: 3 times faster than the whole batch.
        clips = waveform.split(1) if waveform.device.type == "cpu" else [waveform]
        with torch.autocast(waveform.device.type, enabled=False):
            return torch.cat([self._log_mel(clip.float()) for clip in clips]).transpose(-1, -2)

    def _log_mel(self, x: Tensor) -> Tensor:
        """(B, samples) float32 -> (B, frames, n_mels)."""
        if self.preemphasis:
            # AST does this. Each frame's mean is subtracted below anyway, but this step keeps float32 precise.
            x = x - x.mean(dim=-1, keepdim=True)
        x = F.pad(x, (self.padding // 2, self.padding - self.padding // 2))
        frames = x.unfold(-1, self.window, self.hop)  # (B, frames, window), a view
        if self.preemphasis:
            # Kaldi subtracts each frame's mean m, and then p times the previous sample. Both steps are linear:
            # (x[j] - m) - p (x[j-1] - m) = (x[j] - p x[j-1]) - (1 - p) m. So x[j] - p x[j-1] is computed once for all frames.
            # Kaldi has another rule for j = 0, which has no effect: the symmetric Hann window is 0 there.
            offset = (1 - self.preemphasis) * frames.mean(dim=-1, keepdim=True)
            x = x - self.preemphasis * F.pad(x[..., :-1], (1, 0))
            frames = x.unfold(-1, self.window, self.hop) - offset
        spectrum = torch.fft.rfft(frames * self.hann, n=self.n_fft)  # (B, frames, n_fft // 2 + 1) complex
        power = spectrum.real.square() + spectrum.imag.square()
        return (power @ self.bank).clamp_min(self.floor).log()

    def normalise(self, log_mel: Tensor) -> Tensor:
        """(x - mean) / (2 std), AST's scaling: mean 0, standard deviation 0.5. Apply it before SpecAugment."""
        return (log_mel - self.mean) / (2 * self.std)
