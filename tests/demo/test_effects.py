"""Effects measured on test signals: a click for the room, a sine for the tape, noise for the equaliser."""
import numpy as np
import pytest

from mulan_min.demo.effects import brighten, produce
from mulan_min.demo.instruments import SAMPLE_RATE


def reverberation_time(waveform):
    """Returns the seconds to fall by 60 dB, from the slope between -5 and -25 dB of Schroeder's backward integral."""
    energy = 10 * np.log10(np.cumsum(waveform[::-1].astype(float) ** 2)[::-1] + 1e-20)
    energy -= energy[SAMPLE_RATE // 50]   # 20 ms after the click, so without the direct sound
    early, late = (energy > -5).sum(), (energy > -25).sum()
    return 3 * (late - early) / SAMPLE_RATE


def test_rooms():
    click = np.zeros(3 * SAMPLE_RATE, np.float32)
    click[0] = 1
    times = {name: [reverberation_time(produce(click, name, 0.0, np.random.default_rng(seed)))
                    for seed in range(8)]
             for name in ("dry", "reverberant")}
    assert max(times["dry"]) < 0.4 and min(times["reverberant"]) > 1.2 and max(times["reverberant"]) < 3.5


def test_tilt():
    noise = np.random.default_rng(0).standard_normal(4 * SAMPLE_RATE).astype(np.float32)
    hz = np.fft.rfftfreq(len(noise), 1 / SAMPLE_RATE)
    slopes = []
    for tilt in (-3.0, 3.0):
        power = np.mean([abs(np.fft.rfft(produce(noise, "dry", tilt, np.random.default_rng(seed)))) ** 2
                         for seed in range(20)], 0)
        ratio = power[abs(hz - 4000) < 300].mean() / power[abs(hz - 250) < 30].mean()   # four octaves apart
        slopes.append(10 * np.log10(ratio) / 4)
    assert slopes[1] - slopes[0] == pytest.approx(6, abs=1)   # dB per octave


def test_lo_fi():
    time = np.arange(4 * SAMPLE_RATE) / SAMPLE_RATE
    sine = np.sin(2 * np.pi * 1000 * time).astype(np.float32)
    band = np.fft.fft(produce(sine, "lo-fi", 0.0, np.random.default_rng(0)))
    band[abs(np.fft.fftfreq(len(sine), 1 / SAMPLE_RATE) - 1000) > 50] = 0
    phase = np.unwrap(np.angle(np.fft.ifft(band)))
    pitch = np.diff(phase)[8000:-8000] * SAMPLE_RATE / (2 * np.pi)   # Hz, without the ends
    assert 3 < pitch.std() < 15 and pitch.mean() == pytest.approx(1000, abs=3)   # wow; hiss alone gives 1 Hz
    noise = np.random.default_rng(0).standard_normal(4 * SAMPLE_RATE).astype(np.float32)
    power = abs(np.fft.rfft(produce(noise, "lo-fi", 0.0, np.random.default_rng(1)))) ** 2
    hz = np.fft.rfftfreq(len(noise), 1 / SAMPLE_RATE)
    assert power[hz > 5000].mean() < 0.03 * power[(hz > 500) & (hz < 2000)].mean()


def test_brighten():
    noise = np.random.default_rng(0).standard_normal(SAMPLE_RATE).astype(np.float32)
    highs = [abs(np.fft.rfft(brighten(noise, amount)))[4000:].mean() for amount in (-0.3, 0.0, 0.3)]
    lows = [abs(np.fft.rfft(brighten(noise, amount)))[:100].mean() for amount in (-0.3, 0.0, 0.3)]
    assert highs[0] < 0.9 * highs[1] and highs[2] > 1.1 * highs[1]
    assert lows[0] == pytest.approx(lows[2], rel=0.02)
    assert np.allclose(brighten(noise, 0.0), noise, atol=1e-6) and brighten(noise, 0.2).dtype == np.float32
