"""The rendered waveforms: each label's claim is measured on the audio."""
import hashlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.fft import rfft, rfftfreq

from mulan_min.demo import rendering
from mulan_min.demo.instruments import SAMPLE_RATE
from mulan_min.demo.pieces import FAMILIES, RECIPES, Piece, plan_pieces
from mulan_min.demo.rendering import render

ROOT = Path(__file__).parents[2]
PIECES = plan_pieces(2400, seed=0)
BASE = Piece("r0", "test", 5, "folk", "flute", ("acoustic guitar",), "happy", "mid-tempo", 110.0, "busy",
             "dry", key=0, mode="major", meter=4)


def test_same_bits_in_another_process_and_order():
    pieces = PIECES[:3]
    digests = [hashlib.sha256(render(piece).tobytes()).hexdigest() for piece in pieces]
    code = ("import hashlib; from mulan_min.demo.pieces import plan_pieces;"
            "from mulan_min.demo.rendering import render; pieces = plan_pieces(2400, seed=0)[:3];"
            "print(*[hashlib.sha256(render(piece).tobytes()).hexdigest() for piece in pieces[::-1]])")
    process = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert digests == process.stdout.split()[::-1] and len(set(digests)) == 3


def test_waveforms_are_valid():
    peaks = []
    for piece in PIECES[::120]:
        waveform = render(piece)
        assert waveform.shape == (192000,) and waveform.dtype == np.float32 and np.isfinite(waveform).all()
        peaks.append(abs(waveform).max())
        loudness = np.sqrt((waveform[:160000].reshape(5, -1) ** 2).mean(1))   # (5,) two seconds each
        assert loudness.min() > 0.1 * loudness.max()   # no 10 s window is silent
    assert 0.45 < min(peaks) and max(peaks) < 0.95 and np.std(peaks) > 0.03
    assert len(render(PIECES[0], seconds=2.5)) == 40000


def onset_strength(waveform):
    """Returns the rise of the log spectrum, summed over bands, (frames,) at 100 frames per second."""
    frames = np.lib.stride_tricks.sliding_window_view(waveform, 512)[::160] * np.hanning(512)
    bands = np.abs(np.fft.rfft(frames))[:, :256].reshape(len(frames), 32, 8).mean(2)
    return np.maximum(np.diff(np.log(bands + 1e-3), axis=0), 0).sum(1)


def test_tempo():
    """The true tempo, within 2 %, is the one whose beats, half beats and quarter beats fit the onsets best.

    The search covers a third of an octave on each side of the true tempo, because half or double tempo is not wrong. Chance: 9 %.
    """
    correct = []
    for genre in ("techno", "house", "drum and bass", "rock", "funk", "march", "bossa nova", "swing"):
        for piece in [piece for piece in PIECES if piece.genre == genre and piece.production == "dry"][:4]:
            rise = onset_strength(render(piece))
            rise -= rise.mean()
            tempos = piece.bpm * 2 ** np.linspace(-1 / 3, 1 / 3, 201)
            time = np.arange(len(rise)) / 100
            power = sum(abs(np.exp(-2j * np.pi * np.outer(tempos / 60 * harmonic, time)) @ rise) ** 2
                        for harmonic in (1, 2, 4))
            correct.append(abs(tempos[power.argmax()] / piece.bpm - 1) < 0.02)
    assert np.mean(correct) > 0.85


def test_tempo_by_librosa():
    librosa = pytest.importorskip("librosa", reason="a second oracle for tempo")
    correct = []
    for genre in ("techno", "house", "rock"):
        for piece in [piece for piece in PIECES if piece.genre == genre][:4]:
            tempo = float(np.ravel(librosa.feature.tempo(y=render(piece), sr=SAMPLE_RATE))[0])
            octave = np.log2(tempo / piece.bpm) % 1   # half and double tempo count as correct
            correct.append(min(octave, 1 - octave) < 0.06)
    assert np.mean(correct) > 0.7


def onsets(waveform):
    """Returns the number of clear peaks in the onset strength."""
    rise = onset_strength(waveform)
    middle = rise[1:-1]
    return ((middle > rise[:-2]) & (middle >= rise[2:]) & (middle > 0.25 * np.percentile(rise, 99))).sum()


def decay_rate(waveform):
    """Returns how fast notes end above 500 Hz: the 95th percentile of the level's fall, in dB per 50 ms."""
    spectrum = rfft(waveform)
    spectrum[rfftfreq(len(waveform), 1 / SAMPLE_RATE) < 500] = 0
    level = 10 * np.log10((np.fft.irfft(spectrum).reshape(-1, 800) ** 2).mean(1) + 1e-9)
    return np.percentile(-np.diff(level), 95)


def share_above(waveform, hz):
    power = abs(rfft(waveform)) ** 2
    return power[rfftfreq(len(waveform), 1 / SAMPLE_RATE) > hz].sum() / power.sum()


def test_production():
    rooms, bands = [], []
    detached = [piece for piece in PIECES
                if piece.mood in ("energetic", "tense") and piece.density == "sparse"]
    for piece in detached[::14]:   # short notes leave gaps in which the reverberation is audible
        dry, wet, lofi = (render(replace(piece, production=name)) for name in FAMILIES["production"])
        rooms.append(decay_rate(wet) < decay_rate(dry))
        bands.append(share_above(lofi, 4500) < share_above(dry, 4500))
    assert len(rooms) > 20 and np.mean(rooms) >= 0.8 and np.mean(bands) >= 0.9


def test_mode_by_chroma():
    """The third that belongs to the labelled mode, major or minor, is stronger than the other one."""
    correct = []
    for seed in range(6):
        for mode, mood in (("major", "happy"), ("minor", "sad")):
            piece = replace(BASE, seed=seed, key=seed, mode=mode, mood=mood, lead="organ", bpm=90.0)
            waveform = render(piece)
            hz, power = rfftfreq(len(waveform), 1 / SAMPLE_RATE), abs(rfft(waveform))
            band = (hz > 110) & (hz < 900)
            pitch = (12 * np.log2(hz[band] / 440) + 69 - piece.key) % 12
            major, minor = (power[band][abs(pitch - third) < 0.3].sum() for third in (4, 3))
            correct.append((major > minor) == (mode == "major"))
    assert np.mean(correct) >= 0.9


def centroid(waveform):
    power = abs(rfft(waveform)) ** 2
    return (rfftfreq(len(waveform), 1 / SAMPLE_RATE) * power).sum() / power.sum()


def test_mood_and_density_cues():
    brighter, busier = [], []
    for piece in PIECES[::200]:
        energetic, calm = (render(replace(piece, mood=mood, mode="major")) for mood in ("energetic", "calm"))
        brighter.append(centroid(energetic) > centroid(calm))
        busy, sparse = (onsets(render(replace(piece, production="dry", density=name, backing=backing)))
                        for name, backing in (("busy", ("piano",)), ("sparse", ())))
        busier.append(busy > sparse)
    assert np.mean(brighter) >= 0.9 and np.mean(busier) >= 0.8


def test_every_genre_and_lead_changes_the_sound():
    """Long-term spectra: no two genres with the same lead, and no two leads in the same genre, are alike."""
    genres = [replace(BASE, genre=name, meter=3 if name == "waltz" else 4) for name in FAMILIES["genre"]]
    leads = [replace(BASE, lead=name, backing=()) for name in FAMILIES["instrument"]]
    for pieces in (genres, leads):
        rows = []
        for piece in pieces:
            power = abs(rfft(render(piece, 6.0))) ** 2
            edges = np.geomspace(60, 7800, 25) * len(power) / 8000
            rows.append([np.log10(power[int(a):int(b)].mean()) for a, b in zip(edges, edges[1:])])
        rows = 10 * np.array(rows)
        distance = np.sqrt(((rows[:, None] - rows[None]) ** 2).mean(-1)) + 99 * np.eye(len(rows))
        assert distance.min() > 1.0   # dB, over 24 bands


def test_gallery(tmp_path):
    pytest.importorskip("matplotlib", reason="the gallery needs the extra `tutorials`")
    subprocess.run([sys.executable, "tutorials/gallery.py", str(tmp_path / "gallery.png")], cwd=ROOT, check=True)
    assert (tmp_path / "gallery.png").read_bytes()[:4] == b"\x89PNG"


def test_swing_by_hand():
    """In beats: the off-beat is at the recipe's swing, the sixteenths are in the middle of both parts, and the next beat is at 1."""
    piece = next(piece for piece in PIECES if RECIPES[piece.genre].swing > 0.55)
    song, swing = rendering._Song(piece, 12.0, np.random.default_rng(0)), RECIPES[piece.genre].swing
    beats = [song.seconds(0, step) * piece.bpm / 60 for step in range(5)]
    assert beats == pytest.approx([0, swing / 2, swing, (1 + swing) / 2, 1])
    assert song.seconds(1, 0) == pytest.approx(60 / piece.bpm * piece.meter)
