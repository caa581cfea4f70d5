"""Single notes of sixteen instruments and six basses, and single hits of drum kits, as 16 kHz mono float32.

Methods: additive synthesis (`_harmonics`, `_partials`), FM (`_fm`), plucked strings (`_pluck`), subtractive synthesis and
noise (`_saw`, `_noise`). The instruments differ in the same ways as real ones: attack, decay, inharmonicity, vibrato,
formants, noise. Each function depends on its arguments only. All constants are our choice, by measurement and spectrograms.
"""
import zlib
from functools import lru_cache

import numpy as np
from scipy.signal import butter, lfilter, sosfilt

SAMPLE_RATE = 16000
NOTE_SECONDS = 2.5   # the longest note; struck and plucked notes have died away by then
VARIANTS = 3         # models of each instrument, for example three different pianos
KITS = 4             # drum kits
TOP = 7600           # Hz; no partial is made above it, so nothing aliases
TIME = np.arange(int(NOTE_SECONDS * SAMPLE_RATE)) / SAMPLE_RATE   # seconds, (samples,)


@lru_cache(maxsize=None)
def note(instrument, variant, midi):
    """Returns a held note of unit loudness, (samples,) float32, at most NOTE_SECONDS long.

    instrument: a key of INSTRUMENTS; variant: 0..VARIANTS - 1; midi: the MIDI number, 69 is A4, 440 Hz.
    """
    rng = _rng(instrument, variant, midi)
    waveform = INSTRUMENTS[instrument](440 * 2 ** ((midi - 69) / 12), variant - 1, rng)
    return _normalise(waveform, block=0.2, only_highs=instrument in LOWEST)


@lru_cache(maxsize=None)
def drum(name, kit):
    """Returns one hit at its usual level in a mix, (samples,) float32, at most 1 s. name: a key of DRUMS; kit: 0..KITS - 1."""
    loudness, hit = DRUMS[name]
    return _normalise(hit(TIME[:SAMPLE_RATE], _rng(name, kit)), block=0.05) * np.float32(loudness)


def _rng(name, *numbers):
    return np.random.default_rng((zlib.crc32(name.encode()), *numbers))


def _normalise(waveform, block, only_highs=False):
    """Scales to an RMS of 1 in the loudest block (of `block` seconds), fades in 1 ms and out 50 ms, and cuts the silent end.

    only_highs: measures above 400 Hz, where hearing is more sensitive, so that bright instruments do not drown dull ones.
    """
    size = int(block * SAMPLE_RATE)
    measured = _filter(waveform, 400, order=1) if only_highs else waveform
    power = (measured[: len(waveform) // size * size].reshape(-1, size) ** 2).mean(1)   # (blocks,)
    last = np.flatnonzero(power > 1e-6 * power.max())[-1]   # 60 dB down
    waveform = waveform[: (last + 1) * size] / np.sqrt(power.max())
    waveform[:16] *= np.linspace(0, 1, 16)
    waveform[-800:] *= np.linspace(1, 0, 800)
    return waveform.astype(np.float32)


# --- building blocks ---------------------------------------------------------------------------------------

def _phase(frequency, vibrato=0.0, rate=5.5, delay=0.25, start=0.0):
    """Returns the phase in radians, (samples,). vibrato: its depth in cents, at `rate` Hz, reached after `delay` seconds."""
    phase = 2 * np.pi * frequency * TIME
    if vibrato:
        swing = vibrato / 1731 * frequency / rate   # the integral of a sine; 1731 cents = a factor of e
        phase -= swing * np.minimum(TIME / delay, 1) * np.cos(2 * np.pi * rate * TIME + start)
    return phase


def _harmonics(phase, amplitudes):
    """Sum over k >= 1 of amplitudes[k - 1] * sin(k * phase). Each amplitude is a number or an envelope (samples,)."""
    step = np.exp(1j * phase).astype(np.complex64)
    power, waveform = np.ones_like(step), np.zeros(len(step), np.float32)
    for amplitude in amplitudes:
        power *= step   # powers of one exponential: one multiplication per harmonic instead of one sine
        waveform += amplitude * power.imag
    return waveform


def _numbers(frequency, most=40):
    """Returns the harmonic numbers 1, 2, ... whose frequencies lie below TOP, at most `most` of them."""
    return np.arange(1, max(2, min(most, int(TOP / frequency)) + 1))


def _partials(frequencies, amplitudes, decays):
    """Sum of damped sines with any frequencies (Hz); decays in 1/s."""
    frequencies, amplitudes, decays = (np.asarray(x, float) for x in (frequencies, amplitudes, decays))
    keep = frequencies < TOP
    rate = (2j * np.pi * frequencies - decays)[keep, None]
    coarse = amplitudes[keep, None] * np.exp(rate * TIME[::250])   # (partials, samples / 250)
    fine = np.exp(rate * TIME[:250])                               # (partials, 250)
    return np.einsum("pa,pb->ab", coarse, fine).imag.ravel()       # exp(r(a + b)) = exp(ra) exp(rb)


def _fm(phase, ratio, index):
    """Frequency modulation (Chowning 1973): a sine at `ratio` times the pitch, scaled by `index`, is added to the phase."""
    return np.sin(phase + index * np.sin(ratio * phase))


def _pluck(frequency, decay, damping, position, rng, softness=0.0):
    """A plucked string (Karplus and Strong 1983): a noise burst circulates in a delay line of one period and loses highs.

    decay: seconds to fall by 60 dB; damping: 0..0.25, loss of highs; position: 0..0.5, where along the string it is plucked;
    softness: 0..1, how dull the burst is.
    """
    delay = SAMPLE_RATE / frequency - 1        # the symmetric damping filter delays by one sample
    whole = int(delay) - 1
    d = delay - whole                          # 1..2: third-order Lagrange interpolation, accurate to a cent
    lagrange = [-(d - 1) * (d - 2) * (d - 3) / 6, d * (d - 2) * (d - 3) / 2,
                -d * (d - 1) * (d - 3) / 2, d * (d - 1) * (d - 2) / 6]
    loop = 0.001 ** (1 / (frequency * decay)) * np.convolve(lagrange, [damping, 1 - 2 * damping, damping])
    burst = np.zeros(len(TIME))
    period = int(SAMPLE_RATE / frequency)
    burst[:period] = lfilter([1 - softness], [1, -softness], rng.uniform(-1, 1, period))
    burst[:period] -= burst[:period].mean()
    comb = max(1, round(position * period))    # plucking at a node of a harmonic removes that harmonic
    burst[comb:] -= burst[:-comb].copy()
    return lfilter([1.0], np.r_[1.0, np.zeros(whole - 1), -loop], burst)


def _filter(waveform, low=None, high=None, order=2):
    """Butterworth filter that keeps frequencies above `low` and below `high` Hz; None means no limit."""
    kind = "bandpass" if low and high else "highpass" if low else "lowpass"
    return sosfilt(butter(order, (low, high) if low and high else low or high, kind, fs=SAMPLE_RATE, output="sos"), waveform)


def _noise(rng, low, high, samples=len(TIME)):
    """Noise between `low` and `high` Hz with an RMS of 1, (samples,)."""
    waveform = _filter(rng.standard_normal(samples), low, high)
    return waveform / waveform.std()


def _saw(frequency, detune, rng):
    """The sum of one sawtooth for each number of cents in `detune`; subtractive synthesis starts from it."""
    numbers = _numbers(frequency)
    return sum(_harmonics(_phase(frequency * 2 ** (cents / 1200)) + rng.uniform(0, 6.28), 1 / numbers) for cents in detune)


def _peaks(frequencies, *formants):
    """Gain of resonances at each frequency. formants: (centre Hz, width Hz, gain)."""
    return sum(gain / (1 + ((frequencies - centre) / width) ** 2) for centre, width, gain in formants)


def _rise(seconds):
    """Attack envelope (samples,)."""
    return 1 - np.exp(-TIME * 3 / seconds)


# --- instruments: f = frequency in Hz, v = -1, 0 or 1 (the variant), rng = random generator of this note; each -> (samples,)

def piano(f, v, rng):
    k = _numbers(f, 18)
    stretched = k * f * np.sqrt(1 + 3e-4 * k**2)   # stiff strings are inharmonic
    strength = np.abs(np.sin(np.pi * k / 7.3)) * k ** (-0.75 + 0.2 * v)   # the hammer strikes at 1/7 of the string
    decay = (0.8 + f / 500) * k**0.6
    strings = sum(_partials(stretched * 2 ** (cents / 1200), strength, decay * speed)
                  for cents, speed in ((-0.8 - 1.5 * (v > 0), 0.6), (0.9, 1.6)))   # two strings slightly out of tune beat
    return strings + 0.8 * _noise(rng, 80, 1800) * np.exp(-TIME * 60)


def electric_piano(f, v, rng):
    phase = _phase(f)
    bark = _fm(phase, 1, (1.8 + 0.5 * v) * np.exp(-3.5 * TIME)) * np.exp(-1.1 * TIME)
    ratio = min(7, int(TOP / f / 1.2))
    tine = 0.5 * _fm(phase, ratio, 0.3) * np.exp(-1.1 * TIME) + 0.4 * np.sin(ratio * phase) * np.exp(-6 * TIME)
    return (bark + tine) * (1 + 0.45 * np.sin(2 * np.pi * (5 + v) * TIME + rng.uniform(0, 6)))


def organ(f, v, rng):
    drawbars = {1: 0.5, 2: 1, 3: 0.5 * (v != 0), 4: 0.8, 6: 0.5 + 0.3 * v, 8: 0.5, 12: 0.3 * (v > 0), 16: 0.3}
    phase = _phase(f / 2, 12, 6.6 if v else 1.0, 0.01, rng.uniform(0, 6))   # a rotating speaker, fast or slow
    waveform = _harmonics(phase, [drawbars.get(k, 0.0) for k in _numbers(f / 2, 16)])
    wobble = 1 + 0.2 * np.sin(2 * np.pi * (6.6 if v else 1.0) * TIME)
    return waveform * _rise(0.008) * wobble + 0.3 * _noise(rng, 1500, 5000) * np.exp(-TIME * 150)   # key click


def accordion(f, v, rng):
    k = _numbers(f, 24)
    strength = k**-0.7 * (0.25 + _peaks(k * f, (900 + 150 * v, 500, 1.0), (2600, 700, 0.7)))
    reeds = sum(_harmonics(_phase(f * 2 ** (cents / 1200)) + rng.uniform(0, 6), strength)
                for cents in (0, 13 + 4 * v, *[-14] * (v > 0)))   # detuned reeds beat, as in a musette
    return (reeds + 0.02 * _noise(rng, 1000, 5000)) * _rise(0.07)


def acoustic_guitar(f, v, rng):
    string = _pluck(f, 2.6, 0.06 - 0.02 * v, 0.18 + 0.05 * v, rng, 0.3)
    return string + 1.2 * _filter(string, 90, 240) + 0.6 * _filter(string, 350, 500)   # resonances of air and top plate


def electric_guitar(f, v, rng):
    string = _pluck(f, 6, 0.05, 0.23, rng, 0.3)
    driven = np.tanh(string / string.std() * (2.5, 6, 12)[v + 1] * np.exp(-0.3 * TIME))
    return _filter(_filter(driven, 110, 3600 + 500 * v), None, 4200)   # the speaker is a band-pass


def banjo(f, v, rng):
    string = _pluck(f, 0.9 - 0.2 * v, 0.012, 0.07, rng)
    return _filter(string, 350, 5000, 1) + 1.5 * _filter(string, 700 + 100 * v, 1500) \
        + 0.5 * string.std() * _noise(rng, 500, 2500) * np.exp(-TIME * 120)   # the bridge stands on a drum skin


def harp(f, v, rng):
    return _filter(_pluck(f, 4 - v, 0.1 - 0.03 * v, 0.48, rng, 0.75), None, 3000)   # plucked at mid-string


def violin(f, v, rng):
    k = _numbers(f, 30)
    strength = k**-0.75 * (0.12 + _peaks(k * f, (290, 60, 0.7), (470, 80, 1.0), (1100 + 150 * v, 200, 0.7),
                                         (2700 + 250 * v, 500, 1.2)))
    waveform = _harmonics(_phase(f, 28 + 8 * v, 5.8 + 0.4 * v, 0.35, rng.uniform(0, 6)), strength)
    bow = waveform.std() * _noise(rng, 1500, 6000) * (0.07 + 0.35 * np.exp(-TIME * 25))
    return (waveform + bow) * _rise(0.11)


def flute(f, v, rng):
    breath = 1 + 0.18 * np.sin(2 * np.pi * (4.9 + 0.4 * v) * TIME) * np.minimum(TIME / 0.3, 1)
    tone = _harmonics(_phase(f, 10, 4.9 + 0.4 * v), [breath, (0.3 + 0.15 * v) * breath**2, 0.12 * breath**3, 0.04])
    air = _noise(rng, 0.9 * f, min(3.5 * f, TOP)) * (0.09 + 0.03 * v + 0.45 * np.exp(-TIME * 18))
    return (tone + air) * _rise(0.09)


def clarinet(f, v, rng):
    k = _numbers(f, 19)
    strength = np.where(k % 2, 1.0, 0.03) * k ** (-0.5 + 0.1 * v) / (1 + (k * f / 2800) ** 6)   # a closed tube: odd harmonics
    swell = _rise(0.05) * (1 + 0.04 * np.sin(2 * np.pi * 3 * TIME))
    return (_harmonics(_phase(f), strength) + 0.015 * _noise(rng, 1500, 4500)) * swell


def trumpet(f, v, rng):
    swell = _rise(0.06) * (0.8 + 0.5 * np.exp(-TIME * 9))
    phase = _phase(f, 9, 5, 0.6, rng.uniform(0, 6)) - 4 * np.exp(-TIME * 60)   # the lips slide up to the pitch
    brightness = min(1, (TOP / f - 1) / 6) * (3.0 + 0.8 * v)   # sidebands stay below TOP (Carson's rule)
    formant = max(2, round(1300 / f))
    return (_fm(phase, 1, brightness * swell) + 0.5 * swell * np.sin(formant * phase + 1.2 * np.sin(phase))) * swell


def vibraphone(f, v, rng):
    bars = _partials([f, 4 * f, 9.9 * f], [1, 0.3 + 0.15 * v, 0.12], [0.9, 3, 12])   # the bars are tuned to these ratios
    motor = 1 + 0.4 * np.sin(2 * np.pi * (4.2 + 1.1 * v) * TIME + rng.uniform(0, 6))
    return bars * motor + 0.15 * _noise(rng, 300, 1500) * np.exp(-TIME * 100)


def bells(f, v, rng):
    fades = np.exp(-TIME * (1.6 + 0.4 * v))
    ratio, index = ((3.5, 2.0), (2.76, 1.8), (1.41, 2.6))[v + 1]   # ratios that are not integers give inharmonic sidebands
    return _fm(_phase(f), ratio, index * fades**2) * fades + 0.35 * _partials([f * 5.4, f * 8.9], [1, 0.6], [5, 9])


def synthesizer(f, v, rng):
    raw = _saw(f, ((-14, 0, 11), (0, 7), (-9, 9))[v + 1], rng)
    if v > 0:
        raw = np.sign(raw) * 2 + raw   # towards a square wave
    opening = np.exp(-TIME * (4 + v))  # a closing filter, as a fade from a bright copy to a dark one
    return (1.5 * _filter(raw, None, 6500) * opening + 1.3 * _filter(raw, None, max(1.5 * f, 600)) * (1 - opening)) * _rise(0.012)


def choir(f, v, rng):
    vowel = (((350, 90, 1.0), (750, 120, 0.35), (2500, 300, 0.06)),      # oo
             ((720, 130, 1.0), (1120, 150, 0.8), (2600, 300, 0.25)),     # ah
             ((500, 110, 1.0), (1800, 200, 0.45), (2500, 300, 0.3)))[v + 1]   # eh
    k = _numbers(f, 24)
    strength = k**-0.6 * (0.02 + _peaks(k * f, *vowel))
    voices = sum(_harmonics(_phase(f * 2 ** (rng.normal(0, 9) / 1200), 22, rng.uniform(4.6, 6.2), 0.3,
                                   rng.uniform(0, 6)) + rng.uniform(0, 6), strength) for _ in range(4))
    return (voices + 0.04 * voices.std() * _noise(rng, 1500, 6000)) * _rise(0.25)


def upright(f, v, rng):
    k = _numbers(f, 14)
    return _partials(k * f, k ** (-1.1 + 0.2 * v), 1.6 + 0.9 * k) + 0.5 * _noise(rng, 60, 700) * np.exp(-TIME * 60)   # finger noise


def finger_bass(f, v, rng):
    k = _numbers(f, 16)
    return _partials(k * f, np.abs(np.sin(k * 0.7)) * k ** (-0.9 + 0.2 * v), 0.7 + 0.5 * k)


def slap_bass(f, v, rng):
    k = _numbers(f, 40)
    return _partials(k * f, np.abs(np.sin(k * 0.3)) * k**-0.5, 1.5 + 0.5 * k) + 0.4 * _noise(rng, 1500, 5000) * np.exp(-TIME * 90)


def synth_bass(f, v, rng):
    raw, opening = _saw(f, (-6, 6), rng), np.exp(-TIME * (9 - 3 * v))
    return _filter(raw, None, 2200 + 600 * v) * opening + _filter(raw, None, 350) * (1 - opening)


def sub_bass(f, v, rng):
    return _harmonics(_phase(f), (1, 0.25 + 0.15 * v, 0.12, 0.05)) * _rise(0.015) * np.exp(-0.6 * TIME)


def tuba(f, v, rng):
    swell = _rise(0.07)
    return _fm(_phase(f), 1, (1.8 + 0.4 * v) * swell) * swell * np.exp(-0.5 * TIME)


INSTRUMENTS = {function.__name__.replace("_", " "): function for function in (
    piano, electric_piano, organ, accordion, acoustic_guitar, electric_guitar, banjo, harp, violin, flute,
    clarinet, trumpet, vibraphone, bells, synthesizer, choir,
    upright, finger_bass, slap_bass, synth_bass, sub_bass, tuba)}
# The lowest MIDI note of each of the sixteen lead instruments.
LOWEST = dict(zip(INSTRUMENTS, (50, 46, 48, 55, 45, 43, 54, 50, 58, 66, 50, 56, 58, 70, 48, 53)))


# --- drums: t = seconds (samples,), rng = random generator of this kit; each -> (samples,)

def _thump(t, rng, start, end, drop, decay, click):
    """A sine that falls from `start` to `end` Hz in about 1 / drop seconds, with a click: all kicks and the big drum."""
    end = end * rng.uniform(0.9, 1.15)
    phase = 2 * np.pi * (end * t + (start - end) / drop * (1 - np.exp(-drop * t)))
    body = np.sin(phase) * np.exp(-t * decay * rng.uniform(0.8, 1.3))
    return body + click * _noise(rng, 1000, 5000, len(t)) * np.exp(-t * 200)


def _hiss(t, rng, low, high, decay, attack=0.001):
    """Noise with an attack and a decay: hats, shakers, brushes, claps."""
    low, high = low * rng.uniform(0.85, 1.2), min(high * rng.uniform(0.9, 1.1), 7900)
    envelope = np.exp(-t * decay * rng.uniform(0.8, 1.25)) * (1 - np.exp(-t / attack))
    return _noise(rng, low, high, len(t)) * envelope


def _metal(t, rng, decay):
    """Inharmonic high sines over noise: ride and cymbal."""
    tones = sum(np.sin(2 * np.pi * f * t) for f in rng.uniform(2800, 7200, 8))
    return tones * 0.35 * np.exp(-t * decay) + _hiss(t, rng, 3500, 7800, decay)


def _snare(t, rng, decay, tone):
    pitch = rng.uniform(170, 230)
    drum = np.sin(2 * np.pi * pitch * t) + 0.6 * np.sin(2 * np.pi * 1.7 * pitch * t)
    return tone * drum * np.exp(-t * 25) + _hiss(t, rng, 900, 7000, decay)


def _clap(t, rng):
    hands = sum(np.roll(_hiss(t, rng, 800, 3000, 90), late) for late in (0, 176, 336))   # 0, 11, 21 ms
    return hands + 0.6 * _hiss(t, rng, 800, 3000, 14, 0.02)


def _scratch(t, rng):
    """A record moved back and forth: a tone and noise whose pitch sweeps."""
    sweep = np.sin(2 * np.pi * 900 * t + 70 * np.sin(2 * np.pi * rng.uniform(6, 8) * t))
    return sweep * (1 + _noise(rng, 500, 3000, len(t))) * np.exp(-t * 12)


DRUMS = {   # name: (loudness, function)
    "kick": (1, lambda t, rng: _thump(t, rng, 160, 55, 40, 14, 0.25)),
    "club_kick": (1.1, lambda t, rng: _thump(t, rng, 260, 48, 30, 8, 0.4)),
    "soft_kick": (0.6, lambda t, rng: _thump(t, rng, 90, 60, 30, 16, 0.03)),
    "big_drum": (0.9, lambda t, rng: _thump(t, rng, 95, 62, 20, 5, 0.1) + 0.2 * _hiss(t, rng, 100, 600, 20)),
    "snare": (0.7, lambda t, rng: _snare(t, rng, 18, 0.9)),
    "field_snare": (0.6, lambda t, rng: _snare(t, rng, 26, 0.5)),
    "rim": (0.5, lambda t, rng: np.sin(2 * np.pi * rng.uniform(1600, 1900) * t) * np.exp(-t * 90)
            + 0.4 * _hiss(t, rng, 700, 4000, 120)),
    "clap": (0.6, _clap),
    "hat": (0.22, lambda t, rng: _hiss(t, rng, 5500, 7900, 55)),
    "foot_hat": (0.25, lambda t, rng: _hiss(t, rng, 4000, 7500, 35, 0.004)),
    "open_hat": (0.3, lambda t, rng: _hiss(t, rng, 5000, 7900, 11)),
    "scratch": (0.7, _scratch),
    "shaker": (0.22, lambda t, rng: _hiss(t, rng, 4200, 7500, 45, 0.025)),
    "brush": (0.35, lambda t, rng: _hiss(t, rng, 1500, 6000, 18, 0.02)),
    "ride": (0.3, lambda t, rng: _metal(t, rng, 5)),
    "cymbal": (0.4, lambda t, rng: _metal(t, rng, 3.5)),
}
