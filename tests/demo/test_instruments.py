"""Notes are checked by measurements independent of the synthesis: phase, autocorrelation, spectra, librosa."""
import numpy as np
import pytest

from mulan_min.demo.instruments import DRUMS, INSTRUMENTS, KITS, LOWEST, NOTE_SECONDS, SAMPLE_RATE, VARIANTS, drum, note

LEADS = list(LOWEST)


def measured_pitch(waveform, expected):
    """Returns the mean frequency (Hz) of the partial within a third of an octave of `expected`, from the slope of its phase."""
    hz = np.fft.fftfreq(len(waveform), 1 / SAMPLE_RATE)
    near = abs(np.log2(np.maximum(hz, 1) / expected)) < 1 / 3   # positive frequencies only: analytic signal
    band = np.fft.ifft(np.fft.fft(waveform * np.hanning(len(waveform))) * near)
    phase, weight = np.unwrap(np.angle(band)), abs(band)
    return np.polyfit(np.arange(len(waveform)), phase, 1, w=weight)[0] * SAMPLE_RATE / (2 * np.pi)


def period_strength(waveform, hz):
    """Returns the autocorrelation at one period of `hz`; 1 for a perfectly periodic waveform."""
    lag = SAMPLE_RATE / hz
    spectrum = np.abs(np.fft.rfft(waveform)) ** 2
    return (spectrum * np.cos(2 * np.pi * lag * np.arange(len(spectrum)) / len(waveform))).sum() / spectrum.sum()


def cents(measured, expected):
    return 1200 * np.log2(measured / expected)


# Cents. Instruments with several reeds, voices or saws are detuned on purpose; the others only have vibrato.
TOLERANCE = {"accordion": 15, "choir": 15, "synthesizer": 10, "synth bass": 15}


@pytest.mark.parametrize("instrument", list(INSTRUMENTS))
def test_pitch(instrument):
    for variant in range(VARIANTS):
        for midi in (57, 66, 76) if instrument in LEADS else (28, 35, 40):
            expected = 440 * 2 ** ((midi - 69) / 12)
            waveform = note(instrument, variant, midi)[1600:25600]   # after the attack, 1.5 s
            error = cents(measured_pitch(waveform, expected), expected)
            assert abs(error) < TOLERANCE.get(instrument, 5), (variant, midi, error)
            # The octave is correct: the waveform repeats after this period (an organ has a pipe one octave lower).
            if instrument not in ("bells", "vibraphone", "organ", "choir", "accordion"):
                assert period_strength(waveform, expected) > 0.7, (variant, midi)


def test_pitch_by_librosa():
    librosa = pytest.importorskip("librosa", reason="a second oracle for pitch")
    for instrument in ("piano", "acoustic guitar", "electric guitar", "violin", "flute", "clarinet"):
        track = librosa.yin(note(instrument, 1, 69)[4000:20000], fmin=150, fmax=1000, sr=SAMPLE_RATE)
        assert abs(cents(np.median(track), 440)) < 10, instrument


def test_notes_and_hits_are_valid():
    for instrument in INSTRUMENTS:
        waveform = note(instrument, 0, LOWEST.get(instrument, 28) + 30)
        assert waveform.dtype == np.float32 and len(waveform) <= NOTE_SECONDS * SAMPLE_RATE
        assert np.isfinite(waveform).all() and waveform[0] == 0 and abs(waveform[-1]) < 1e-3, instrument
    for name in DRUMS:
        hits = [drum(name, kit) for kit in range(KITS)]
        assert all(np.isfinite(hit).all() and hit.std() > 0 for hit in hits)
        assert not np.array_equal(hits[0][:2000], hits[1][:2000])   # kits differ


def features(waveform):
    """Returns six features: centroid (octaves), attack (log s), level after 1 s, even/odd harmonics, flatness, beating."""
    waveform = np.pad(waveform, (0, 32000))[:32000]
    power = np.abs(np.fft.rfft(waveform[:16000] * np.hanning(16000))) ** 2
    hz = np.fft.rfftfreq(16000, 1 / SAMPLE_RATE)
    envelope = np.sqrt((waveform.reshape(-1, 160) ** 2).mean(1))   # 10 ms blocks
    smooth = np.convolve(envelope, np.ones(5) / 5, "same")
    attack = (smooth > 0.7 * smooth.max()).argmax() * 0.01
    late = 20 * np.log10(envelope[95:115].mean() / envelope.max() + 1e-3)
    harmonic = [power[int(440 * k) - 12: int(440 * k) + 12].sum() for k in range(1, 9)]
    even = np.log10((harmonic[1] + harmonic[3]) / (harmonic[0] + harmonic[2]) + 1e-4)
    flat = 10 * np.log10(np.exp(np.log(power[100:7000] + 1e-9).mean()) / power[100:7000].mean())
    beating = np.abs(np.diff(smooth[10:100])).mean() / smooth.mean()
    centroid = np.log2((power * hz).sum() / power.sum())
    return np.array([centroid, np.log10(attack + 0.01), late / 20, even, flat / 20, 30 * beating])


def test_instruments_can_be_told_apart():
    """The nearest neighbour of a note, by measured features, is mostly a variant of the same instrument."""
    rows = np.array([features(note(name, variant, 69)) for name in LEADS for variant in range(VARIANTS)])
    names = np.repeat(LEADS, VARIANTS)
    distance = ((rows[:, None] - rows[None]) ** 2 / rows.var(0)).sum(-1)
    np.fill_diagonal(distance, np.inf)
    assert (names[distance.argmin(1)] == names).mean() > 0.5   # chance 2 / 47
    between = distance[names[:, None] != names[None]].min()
    assert between > 0.02                                      # no two instruments are alike


def test_instruments_have_the_features_of_real_ones():
    values = {name: features(note(name, 1, 69)) for name in LEADS}
    plucked, sustained = ("banjo", "harp", "acoustic guitar"), ("organ", "violin", "clarinet", "flute")
    decays = {name: row[2] for name, row in values.items()}
    attacks = {name: row[1] for name, row in values.items()}
    assert max(decays[name] for name in plucked) < min(decays[name] for name in sustained) - 0.3
    slow = ("violin", "choir", "flute")
    assert min(attacks[name] for name in slow) > max(attacks[name] for name in plucked)
    assert values["clarinet"][3] < -1.5 < values["trumpet"][3]                  # odd harmonics only
    assert values["violin"][0] > values["flute"][0] + 0.5                       # bright and mellow


def test_cache_order_does_not_matter():
    keys = [("harp", 0, 60), ("choir", 1, 64), ("piano", 2, 50), ("sub bass", 0, 30)]
    first = {key: note(*key) for key in keys}
    note.cache_clear()
    assert all(np.array_equal(first[key], note(*key)) for key in keys[::-1])
