"""From a mix to a recording: equaliser, rooms, tape. All constants are our choice."""

from functools import lru_cache

import numpy as np
from scipy.fft import irfft, next_fast_len, rfft, rfftfreq
from scipy.signal import lfilter

from mulan_min.demo.instruments import SAMPLE_RATE

ROOMS = 8   # halls to draw from; room 0 is a small dry one


def brighten(wave, amount):
    """First-order shelf: amount > 0 lifts what is above 1.5 kHz, amount < 0 cuts it. (samples,) -> same."""
    pole = 0.55
    return lfilter(np.float32([1 + amount, -pole - amount]), np.float32([1, -pole]), wave)


def produce(wave, production, tilt, rng):
    """(samples,) float32 -> same, peak 1. production: dry, reverberant or lo-fi; tilt: dB per octave."""
    size = next_fast_len(len(wave) + SAMPLE_RATE, real=True)
    # A hall's last second wraps round to the start: the recording begins in a room that is not silent.
    wet, room = rng.uniform(0.05, 0.2), 0
    if production == "reverberant":
        wet, room = rng.uniform(0.4, 0.8), int(rng.integers(1, ROOMS + 1))
    gain = _equaliser(size, production, tilt, rng) * (1 + np.float32(wet) * _room(room, size))
    wave = irfft(rfft(wave, size) * gain, size)[: len(wave)]
    wave /= abs(wave).max()
    if production == "lo-fi":
        wave = _tape(wave, rng)
    wave[-320:] *= np.linspace(1, 0, 320, dtype=np.float32)
    return wave / abs(wave).max()


def _equaliser(size, production, tilt, rng):
    """-> (size // 2 + 1,) gains: tilt, two random bumps (microphones and taste), and lo-fi's narrow band."""
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
    """-> spectrum of a room's impulse response: decaying noise of unit energy, highs faster than lows."""
    rng = np.random.default_rng((7, number))
    decay = 0.25 if number == 0 else rng.uniform(1.4, 3.0)   # seconds to fall by 60 dB
    time = np.arange(2 * SAMPLE_RATE) / SAMPLE_RATE
    noise = rng.standard_normal(len(time))
    dull = lfilter([0.25], [1, -0.75], noise)
    tail = 0.5 * noise * np.exp(-time * 12 / decay) + 1.5 * dull * np.exp(-time * 6.9 / decay)
    tail[: rng.integers(100, 500)] = 0   # the first echo comes a little later
    return rfft((tail / np.sqrt((tail**2).sum())).astype(np.float32), size)


def _tape(wave, rng):
    """Wow (the speed wavers), saturation and hiss."""
    count, rate = np.arange(len(wave)), rng.uniform(0.6, 1.6)   # Hz
    moved = count + rng.uniform(8, 25) * np.sin(2 * np.pi * rate / SAMPLE_RATE * count)
    wave = np.tanh(np.interp(moved, count, wave) * rng.uniform(2, 4)).astype(np.float32)
    return wave + np.float32(rng.uniform(0.01, 0.03)) * rng.standard_normal(len(wave), dtype=np.float32)
