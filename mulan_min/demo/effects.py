"""From a mix to a recording: equaliser, room, tape. All constants are our choice."""
from functools import lru_cache

import numpy as np
from scipy.fft import irfft, next_fast_len, rfft, rfftfreq
from scipy.signal import lfilter

from mulan_min.demo.instruments import SAMPLE_RATE

ROOMS = 8   # large halls, numbered from 1; room 0 is a small dry one


def brighten(waveform, amount):
    """First-order shelf filter, (samples,) -> the same shape. amount > 0 raises frequencies above 1.5 kHz, amount < 0 cuts them."""
    return lfilter(np.float32([1 + amount, -0.55 - amount]), np.float32([1, -0.55]), waveform)


def produce(waveform, production, tilt, rng):
    """(samples,) float32 -> the same shape, peak 1. production: dry, reverberant or lo-fi; tilt: dB per octave."""
    # The FFT is one second too short for the reverberation: its end wraps to the start, as if the room already sounded.
    size = next_fast_len(len(waveform) + SAMPLE_RATE, real=True)
    wet, room = rng.uniform(0.05, 0.2), 0
    if production == "reverberant":
        wet, room = rng.uniform(0.4, 0.8), int(rng.integers(1, ROOMS + 1))
    gain = _equaliser(size, production, tilt, rng) * (1 + np.float32(wet) * _room(room, size))
    waveform = irfft(rfft(waveform, size) * gain, size)[: len(waveform)]
    waveform /= abs(waveform).max()
    if production == "lo-fi":
        waveform = _tape(waveform, rng)
    waveform[-320:] *= np.linspace(1, 0, 320, dtype=np.float32)
    return waveform / abs(waveform).max()


def _equaliser(size, production, tilt, rng):
    """Returns gains (size // 2 + 1,): the tilt, two random bumps as of different microphones, and the narrow band of lo-fi."""
    hz = np.geomspace(20, SAMPLE_RATE / 2, 60)
    octaves = np.log2(hz / 800)
    db = (tilt + rng.normal(0, 0.5)) * octaves
    for _ in range(2):
        db += rng.normal(0, 1.5) * np.exp(-((octaves - rng.uniform(-4, 3)) ** 2) / 2)
    if production == "lo-fi":
        low, high = rng.uniform(120, 300), rng.uniform(3200, 4500)
        db -= 10 * np.log10((1 + (low / hz) ** 4) * (1 + (hz / high) ** 8))
    return np.interp(rfftfreq(size, 1 / SAMPLE_RATE), hz, 10 ** (db / 20)).astype(np.float32)


@lru_cache(maxsize=None)
def _room(number, size):
    """Returns the spectrum of a room's impulse response: noise of unit energy whose highs decay faster than its lows."""
    rng = np.random.default_rng((7, number))
    decay = 0.25 if number == 0 else rng.uniform(1.4, 3.0)   # seconds to fall by 60 dB
    time = np.arange(2 * SAMPLE_RATE) / SAMPLE_RATE
    noise = rng.standard_normal(len(time))
    dull = lfilter([0.25], [1, -0.75], noise)
    tail = 0.5 * noise * np.exp(-time * 12 / decay) + 1.5 * dull * np.exp(-time * 6.9 / decay)
    tail[: rng.integers(100, 500)] = 0   # the first echo arrives 6 to 31 ms after the direct sound
    return rfft((tail / np.sqrt((tail**2).sum())).astype(np.float32), size)


def _tape(waveform, rng):
    """Wow (slow changes of the tape's speed), saturation and hiss."""
    index, rate = np.arange(len(waveform)), rng.uniform(0.6, 1.6)   # Hz
    shifted = index + rng.uniform(8, 25) * np.sin(2 * np.pi * rate / SAMPLE_RATE * index)
    waveform = np.tanh(np.interp(shifted, index, waveform) * rng.uniform(2, 4)).astype(np.float32)
    return waveform + np.float32(rng.uniform(0.01, 0.03)) * rng.standard_normal(len(waveform), dtype=np.float32)
