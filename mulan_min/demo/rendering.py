"""From a planned piece to its waveform: melody, accompaniment, bass and drums, mixed and passed through the effects.

`render` depends on its arguments only. All constants are our choice.
"""
import numpy as np

from mulan_min.demo.effects import brighten, produce
from mulan_min.demo.instruments import KITS, LOWEST, NOTE_SECONDS, SAMPLE_RATE, VARIANTS, drum, note
from mulan_min.demo.pieces import MOODS, RECIPES

SCALES = {"major": (0, 2, 4, 5, 7, 9, 11), "minor": (0, 2, 3, 5, 7, 8, 10),
          "dreamy major": (0, 2, 4, 6, 7, 9, 11), "tense minor": (0, 1, 3, 5, 7, 8, 11)}   # semitones
RINGING = {"harp", "vibraphone", "bells"}   # their notes are not damped, so they overlap
# Chord notes that a lead adds below its melody, in steps of the scale.
CHORDAL = {"piano": (7,), "organ": (2, 4), "accordion": (2,), "harp": (2, 4, 7), "vibraphone": (2,),
           "choir": (2, 4), "electric guitar": (4,), "acoustic guitar": (5,)}
FADE = np.linspace(1, 0, 960, dtype=np.float32)   # 60 ms release of a note


def render(piece, seconds=12.0):
    """Returns the waveform (seconds * 16000,), float32, peak 0.5 to 0.9. The bits are the same in any process and any order."""
    rng = np.random.default_rng(piece.seed)
    song = _Song(piece, seconds, rng)
    lead, band, drums = (np.zeros(round(seconds * SAMPLE_RATE), np.float32) for _ in range(3))
    _play_lead(song, lead, rng)
    _play_backing(song, band, rng)
    _play_bass(song, band, rng)
    _play_drums(song, drums, rng)
    lead = brighten(lead, rng.normal(0, 0.2))   # recordings of the same instrument differ in brightness
    band *= 10 ** (rng.normal(-2, 1.2) / 20)
    drums *= 10 ** (rng.normal(-1.5 + 2 * song.mood.accent, 1.2) / 20)
    waveform = produce(lead + band + drums, piece.production, song.mood.tilt, rng)
    return waveform * np.float32(rng.uniform(0.5, 0.7) + 0.2 * song.mood.accent)


def add_note(track, waveform, start, length, gain):
    """Adds `length` seconds of a note to the track (samples,) in place, from `start` seconds on, with a release of 60 ms."""
    begin, held = int(start * SAMPLE_RATE), int(length * SAMPLE_RATE)
    part = waveform[: held + len(FADE)] * np.float32(gain)
    part[held:] *= FADE[: len(part[held:])]
    track[begin: begin + len(part)] += part[: max(0, len(track) - begin)]


class _Song:
    """What all parts of a piece share: the beat, the chords and the scale."""

    def __init__(self, piece, seconds, rng):
        self.piece, self.recipe, self.mood = piece, RECIPES[piece.genre], MOODS[piece.mood]
        self.steps = 4 * piece.meter                       # sixteenths in a bar
        self.bars = int(np.ceil(seconds * piece.bpm / 60 / piece.meter))
        self.scale = SCALES.get(f"{piece.mood} {piece.mode}", SCALES[piece.mode])
        degrees = [int(degree) - 1 for degree in self.recipe.chords.split()]
        self.chords = [degrees[bar % len(degrees)] for bar in range(self.bars)]   # roots, 0..6
        self.gate = self.mood.gate * rng.uniform(0.8, 1.2)

    def seconds(self, bar, step):
        """Returns the time of a sixteenth note in seconds, swing included."""
        beat, part = divmod(step / 4, 1)
        swing = self.recipe.swing
        part = 2 * part * swing if part < 0.5 else swing + (2 * part - 1) * (1 - swing)
        return (bar * self.piece.meter + beat + part) * 60 / self.piece.bpm

    def pitch(self, index):
        """Returns semitones above C. `index` counts the notes of the scale from the key note; it may be negative."""
        return self.piece.key + 12 * (index // 7) + self.scale[index % 7]

    def chord(self, bar, low):
        """Returns the bar's chord tones as MIDI numbers in low..low + 11."""
        return [low + (self.pitch(self.chords[bar] + 2 * tone) - low) % 12 for tone in range(4 if self.recipe.sevenths else 3)]


def _play_lead(song, track, rng):
    """The melody: one-bar motives of rhythm and contour, repeated in a form such as AABA and fitted to the chords."""
    piece, mood = song.piece, song.mood
    grid = np.arange(song.steps)
    if piece.density == "sparse":
        chance = np.where(grid % 4 == 0, 0.5, 0.06)
    else:   # sixteenths only at tempos at which a musician can play them
        chance = np.where(grid % 2 == 0, 0.85, 0.3 * (piece.bpm < 120))
    chance[0] = 1
    repeat = 0.45 if piece.mood == "tense" else 0.12   # probability of a repeated note
    moves = np.array([0.15, 0.35, 0, 0.35, 0.15]) * (1 - repeat) + [0, 0, repeat, 0, 0]   # by -2..2 steps
    motives = {letter: [(step, int(rng.choice(5, p=moves)) - 2)
                        for step in np.flatnonzero(rng.random(song.steps) < chance)] for letter in "ABC"}
    form = rng.choice(["AABA", "ABAB", "ABAC", "AABC"])
    low = LOWEST[piece.lead] + 6 + mood.register + round(rng.normal(0, 1.5))
    bottom = -(-(low - piece.key) * 7 // 12)          # scale index of about the lowest note
    variant, index, ringing = int(rng.integers(VARIANTS)), bottom + 4, piece.lead in RINGING
    onsets = [(bar, step, move) for bar in range(song.bars) for step, move in motives[form[bar % 4]]]
    times = [song.seconds(bar, step) for bar, step, _ in onsets] + [song.seconds(song.bars, 0)]
    for (bar, step, move), start, end in zip(onsets, times, times[1:]):
        if step == 0:
            index = (index + bottom + 4) // 2   # motives start near the middle; otherwise the melody drifts away
        index += move if bottom <= index + move <= bottom + 9 else -move
        if step % 4 == 0 and (index - song.chords[bar]) % 7 not in (0, 2, 4):
            index += 1 if (index + 1 - song.chords[bar]) % 7 in (0, 2, 4) else -1   # strong beats get chord tones
        strength = (1 - 0.5 * mood.accent * (step % 4 > 0)) * rng.uniform(0.85, 1.1)
        start, length = max(0, start + rng.normal(0, 0.005)), max((end - start) * song.gate, 1.2 * ringing)
        for count, below in enumerate((0, *CHORDAL.get(piece.lead, ()))):
            delay = 0.045 * count * ringing   # seconds; these instruments roll their chords
            add_note(track, note(piece.lead, variant, song.pitch(index - below)), start + delay,
                     min(length, NOTE_SECONDS), strength * 0.75**count)


def _play_backing(song, track, rng):
    """Each backing instrument plays the genre's accompaniment."""
    for name in song.piece.backing:
        variant, low = int(rng.integers(VARIANTS)), LOWEST[name] + int(rng.integers(0, 6))
        gain = 0.45 * 10 ** (rng.normal(0, 1.5) / 20)
        for bar in range(song.bars):
            chord = song.chord(bar, low)
            for count, (symbol, start, length) in enumerate(_strokes(song, bar, song.recipe.comp)):
                if symbol == "a":
                    pitch = chord[count % len(chord)] + 12 * (count % 4 == 3)
                    add_note(track, note(name, variant, pitch), start, length * 1.5, gain)
                    continue
                if symbol == "c":
                    length = min(length, 0.22) * min(1, 0.6 + 0.4 * song.gate)
                for pitch in chord:
                    add_note(track, note(name, variant, pitch), start, length, gain * 0.6)


def _strokes(song, bar, pattern):
    """Yields (symbol, start, length) for each symbol of the pattern but ".". A stroke lasts until the next one. One longer
    than NOTE_SECONDS is split into several."""
    hits = [step for step, symbol in enumerate(pattern) if symbol != "."]
    for step, following in zip(hits, hits[1:] + [song.steps]):
        start, end = song.seconds(bar, step), song.seconds(bar, following)
        times = np.linspace(start, end, int((end - start) / NOTE_SECONDS) + 2)
        for begin, stop in zip(times, times[1:]):
            yield pattern[step], begin, stop - begin


def _play_bass(song, track, rng):
    name, pattern = song.recipe.bass.split()
    variant, low = int(rng.integers(VARIANTS)), 28 + int(rng.integers(0, 4))
    gain = 0.55 * 10 ** (rng.normal(0, 1) / 20)
    for bar in range(song.bars):
        for symbol, start, length in _strokes(song, bar, pattern):
            degree = 0 if symbol == "r" else int(symbol) - 1
            interval = song.pitch(song.chords[bar] + degree) - song.pitch(song.chords[bar])
            add_note(track, note(name.replace("_", " "), variant, song.chord(bar, low)[0] + interval), start, length * 0.9, gain)


def _play_drums(song, track, rng):
    names_and_patterns = song.recipe.drums.split()
    kit = int(rng.integers(KITS))
    strengths = {"X": 1.0, "x": 1 - 0.35 * song.mood.accent, "o": 0.3}
    for name, pattern in zip(names_and_patterns[::2], names_and_patterns[1::2]):
        level, hit = 10 ** (rng.normal(0, 1.5) / 20), drum(name, kit)
        for bar in range(song.bars):
            for step, symbol in enumerate(pattern):
                if symbol == "." or (symbol == "o" and song.piece.density == "sparse") or rng.random() < 0.03:
                    continue
                start = max(0, song.seconds(bar, step) + rng.normal(0, 0.003))
                add_note(track, hit, start, 1.0, level * strengths[symbol] * rng.uniform(0.8, 1.1))
