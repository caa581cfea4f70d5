"""The demo world's music: the plan by counting, the sound by measuring what each label claims."""

import hashlib
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from scipy.fft import rfft, rfftfreq

from mulan_min.demo.instruments import SAMPLE_RATE
from mulan_min.demo.pieces import FAMILIES, FAST_FROM, RECIPES, SLOW_BELOW, Piece, plan_pieces, render
from mulan_min.errors import UserError

PIECES = plan_pieces(2400, seed=0)
BASE = Piece("r0", "test", 5, "folk", "flute", ("acoustic guitar",), "happy", "mid-tempo", 110.0, "busy",
             "dry", key=0, mode="major", meter=4)


def split(pieces, name):
    return [piece for piece in pieces if piece.split == name]


# --- plan --------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("recordings, seed", [(2400, 0), (2400, 1), (60, 0), (3, 0)])
def test_no_training_pair_is_in_test_or_valid(recordings, seed):
    pieces = plan_pieces(recordings, seed)
    assert len({piece.id for piece in pieces}) == len({piece.seed for piece in pieces}) == recordings
    pairs = {name: {(piece.genre, piece.lead) for piece in split(pieces, name)}
             for name in ("train", "valid", "test")}
    assert all(pairs.values())
    assert not pairs["train"] & (pairs["test"] | pairs["valid"])


def test_shares_and_labels_at_full_size():
    whole = plan_pieces(4400, seed=0)
    for name, share in (("train", 0.80), ("valid", 0.07), ("test", 0.13)):
        pieces = split(whole, name)
        assert abs(len(pieces) / len(whole) - share) < 0.01
        assert {piece.genre for piece in pieces} == set(FAMILIES["genre"])
        assert {piece.lead for piece in pieces} == set(FAMILIES["instrument"])
    count = Counter(tag for piece in split(whole, "test") for tag in piece.tags)
    assert set(count) == {label for labels in FAMILIES.values() for label in labels}
    assert min(count.values()) >= 20


def test_tags_are_true():
    for piece in PIECES:
        assert (piece.tempo == "slow") == (piece.bpm < SLOW_BELOW)
        assert (piece.tempo == "fast") == (piece.bpm >= FAST_FROM)
        assert RECIPES[piece.genre].bpm[0] <= piece.bpm <= RECIPES[piece.genre].bpm[1]
        assert (piece.meter == 3) == (piece.genre == "waltz")
        assert len(set(piece.tags)) == len(piece.tags) and piece.lead not in piece.backing
        assert {piece.lead, *piece.backing} == set(piece.tags) & set(FAMILIES["instrument"])
        assert {piece.mode for piece in PIECES if piece.mood == "tense"} == {"minor"}


def test_too_few_recordings():
    with pytest.raises(UserError, match="recordings = 2"):
        plan_pieces(2, seed=0)


# --- sound -------------------------------------------------------------------------------------------------

def test_same_bits_in_another_process_and_order():
    pieces = PIECES[:3]
    ours = [hashlib.sha256(render(piece).tobytes()).hexdigest() for piece in pieces]
    code = ("import hashlib; from mulan_min.demo.pieces import *; pieces = plan_pieces(2400, seed=0)[:3];"
            "print(*[hashlib.sha256(render(piece).tobytes()).hexdigest() for piece in pieces[::-1]])")
    theirs = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    theirs = theirs.stdout.split()
    assert ours == theirs[::-1] and len(set(ours)) == 3


def test_waveforms_are_sound():
    peaks = []
    for piece in PIECES[::120]:
        wave = render(piece)
        assert wave.shape == (192000,) and wave.dtype == np.float32 and np.isfinite(wave).all()
        peaks.append(abs(wave).max())
        loudness = np.sqrt((wave[:160000].reshape(5, -1) ** 2).mean(1))   # (5,) two seconds each
        assert loudness.min() > 0.1 * loudness.max()   # no 10 s window falls on silence
    assert 0.45 < min(peaks) and max(peaks) < 0.95 and np.std(peaks) > 0.03
    assert len(render(PIECES[0], seconds=2.5)) == 40000


def onset_strength(wave):
    """Rise of the log spectrum summed over bands, 100 frames per second: (frames,)."""
    frames = np.lib.stride_tricks.sliding_window_view(wave, 512)[::160] * np.hanning(512)
    bands = np.abs(np.fft.rfft(frames))[:, :256].reshape(len(frames), 32, 8).mean(2)
    return np.maximum(np.diff(np.log(bands + 1e-3), axis=0), 0).sum(1)


def test_tempo():
    """The tempo whose beats, halves and quarters fit the onsets best is the true one, within 2 %.

    Searched within a third of an octave of the truth, as octave errors are a matter of taste; chance is 9 %.
    """
    right = []
    for genre in ("techno", "house", "drum and bass", "rock", "funk", "march", "bossa nova", "swing"):
        for piece in [piece for piece in PIECES if piece.genre == genre and piece.production == "dry"][:4]:
            rise = onset_strength(render(piece))
            rise -= rise.mean()
            tempos = piece.bpm * 2 ** np.linspace(-1 / 3, 1 / 3, 201)
            time = np.arange(len(rise)) / 100
            power = sum(abs(np.exp(-2j * np.pi * np.outer(tempos / 60 * harmonic, time)) @ rise) ** 2
                        for harmonic in (1, 2, 4))
            right.append(abs(tempos[power.argmax()] / piece.bpm - 1) < 0.02)
    assert np.mean(right) > 0.85


def test_tempo_by_librosa():
    librosa = pytest.importorskip("librosa", reason="a second oracle for tempo")
    right = []
    for genre in ("techno", "house", "rock"):
        for piece in [piece for piece in PIECES if piece.genre == genre][:4]:
            tempo = float(np.ravel(librosa.feature.tempo(y=render(piece), sr=SAMPLE_RATE))[0])
            octave = np.log2(tempo / piece.bpm) % 1   # half and double tempo count as right
            right.append(min(octave, 1 - octave) < 0.06)
    assert np.mean(right) > 0.7


def onsets(wave):
    """How many clear peaks the onset strength has."""
    rise = onset_strength(wave)
    middle = rise[1:-1]
    return ((middle > rise[:-2]) & (middle >= rise[2:]) & (middle > 0.25 * np.percentile(rise, 99))).sum()


def decay_rate(wave):
    """How fast sounds above 500 Hz end: the 95th percentile of the level's fall, dB per 50 ms."""
    spectrum = rfft(wave)
    spectrum[rfftfreq(len(wave), 1 / SAMPLE_RATE) < 500] = 0
    level = 10 * np.log10((np.fft.irfft(spectrum).reshape(-1, 800) ** 2).mean(1) + 1e-9)
    return np.percentile(-np.diff(level), 95)


def share_above(wave, hz):
    power = abs(rfft(wave)) ** 2
    return power[rfftfreq(len(wave), 1 / SAMPLE_RATE) > hz].sum() / power.sum()


def test_production():
    rooms, bands = [], []
    detached = [piece for piece in PIECES
                if piece.mood in ("energetic", "tense") and piece.density == "sparse"]
    for piece in detached[::14]:   # where notes are short one hears the room between them
        dry, wet, lofi = (render(replace(piece, production=name)) for name in FAMILIES["production"])
        rooms.append(decay_rate(wet) < decay_rate(dry))
        bands.append(share_above(lofi, 4500) < share_above(dry, 4500))
    assert len(rooms) > 20 and np.mean(rooms) >= 0.8 and np.mean(bands) >= 0.9


def test_mode_by_chroma():
    """The major or the minor third of the key is the stronger one, as the label says."""
    right = []
    for seed in range(6):
        for mode, mood in (("major", "happy"), ("minor", "sad")):
            piece = replace(BASE, seed=seed, key=seed, mode=mode, mood=mood, lead="organ", bpm=90.0)
            wave = render(piece)
            hz, power = rfftfreq(len(wave), 1 / SAMPLE_RATE), abs(rfft(wave))
            band = (hz > 110) & (hz < 900)
            pitch = (12 * np.log2(hz[band] / 440) + 69 - piece.key) % 12
            major, minor = (power[band][abs(pitch - third) < 0.3].sum() for third in (4, 3))
            right.append((major > minor) == (mode == "major"))
    assert np.mean(right) >= 0.9


def centroid(wave):
    power = abs(rfft(wave)) ** 2
    return (rfftfreq(len(wave), 1 / SAMPLE_RATE) * power).sum() / power.sum()


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
    for changed in (genres, leads):
        rows = []
        for piece in changed:
            power = abs(rfft(render(piece, 6.0))) ** 2
            edges = np.geomspace(60, 7800, 25) * len(power) / 8000
            rows.append([np.log10(power[int(a):int(b)].mean()) for a, b in zip(edges, edges[1:])])
        rows = 10 * np.array(rows)
        distance = np.sqrt(((rows[:, None] - rows[None]) ** 2).mean(-1)) + 99 * np.eye(len(rows))
        assert distance.min() > 1.0   # dB, over 24 bands


@pytest.mark.parametrize("genre", FAMILIES["genre"])
def test_recipes_fit_their_bar(genre):
    recipe, steps = RECIPES[genre], 12 if genre == "waltz" else 16
    patterns = recipe.drums.split()[1::2] + recipe.bass.split()[1:] + [recipe.comp]
    assert {len(pattern) for pattern in patterns} == {steps}
    backing = recipe.backing.split(",")
    assert set(backing) <= set(FAMILIES["instrument"]) and len(backing) >= 3   # a choice is left beside any lead


def test_gallery(tmp_path):
    pytest.importorskip("matplotlib", reason="the gallery needs the extra `tutorials`")
    from mulan_min.demo.pieces import gallery
    gallery(tmp_path / "gallery.png")
    assert (tmp_path / "gallery.png").read_bytes()[:4] == b"\x89PNG"
