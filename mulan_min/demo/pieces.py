"""The demo world's music: pieces with known attributes, composed from small recipes and rendered to sound.

`plan_pieces` decides what each piece is, `render` makes its waveform; both depend on their arguments only.
All of it is our choice: the paper trains on 44 million clips of real music, which a laptop does not have.
`python -m mulan_min.demo.pieces OUT.png` makes a picture of every genre and instrument.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from mulan_min.demo.effects import brighten, produce
from mulan_min.demo.instruments import KITS, LOWEST, NOTE_SECONDS, SAMPLE_RATE, VARIANTS, drum, note
from mulan_min.errors import UserError

FAMILIES = {
    "genre": ["waltz", "techno", "house", "drum and bass", "ambient", "blues", "swing", "bossa nova",
              "reggae", "rock", "hip hop", "folk", "funk", "march"],
    "instrument": ["piano", "electric piano", "organ", "accordion", "acoustic guitar", "electric guitar",
                   "banjo", "harp", "violin", "flute", "clarinet", "trumpet", "vibraphone", "bells",
                   "synthesizer", "choir"],
    "mood": ["happy", "sad", "calm", "energetic", "tense", "dreamy"],
    "tempo": ["slow", "mid-tempo", "fast"],
    "density": ["sparse", "busy"],
    "production": ["dry", "reverberant", "lo-fi"],
}
SLOW_BELOW, FAST_FROM = 90, 128   # beats per minute, as one taps: drum and bass is not halved
TEST_SHARE, VALID_SHARE = 0.13, 0.07   # of the recordings
NEW_PAIRS = 24                         # (genre, lead) pairs that only test and valid recordings have


class Recipe(NamedTuple):
    """One genre. Patterns have one character per sixteenth note of a bar: 16 of them in 4/4, 12 in 3/4."""
    bpm: tuple        # lowest and highest tempo
    swing: float      # where the off-beat eighth falls in the beat: 0.5 straight, 0.67 triplets
    chords: str       # degrees of the scale, one per bar
    sevenths: bool    # four-note chords
    drums: str        # "drum pattern" pairs; X accent, x hit, o ghost note
    bass: str         # instrument and pattern; r root, 3, 5, 6, 8 the step above it, held until the next
    comp: str         # accompaniment; c short chord, C chord held until the next, a next chord tone
    backing: str      # instruments that may accompany, separated by commas
    moods: str        # twice as likely here as the other moods


RECIPES = {
    "waltz": Recipe((84, 180), 0.5, "1 1 5 5 5 5 1 1", False,
                    "soft_kick x........... brush ....x...x...",
                    "upright r...........", "....c...c...",
                    "accordion,piano,violin,harp", "happy,dreamy"),
    "techno": Recipe((116, 148), 0.5, "1 1 1 6", False,
                     "club_kick X...X...X...X... hat xoxoxoxoxoxoxoxo open_hat ..x...x...x...x. "
                     "clap ....o.......x..x",
                     "synth_bass ..rr..rr..rr..r8", "...c..c....c..c.",
                     "synthesizer,choir,electric piano,organ", "energetic,tense"),
    "house": Recipe((108, 132), 0.54, "6 2 5 1", True,
                    "club_kick X...X...X...X... clap ....X.......X... open_hat ..x...x...x...x. "
                    "shaker xoxxxoxxxoxxxoxx",
                    "finger_bass r..r..r...8...r.", "c..c..c...c..c..",
                    "piano,organ,electric piano,synthesizer", "happy,energetic"),
    "drum and bass": Recipe((158, 180), 0.5, "1 1 6 7", False,
                            "kick X.........x..... snare ....X..o.o..X..o hat x.x.x.x.x.x.x.x. "
                            "ride x.......x.......",
                            "sub_bass r.....r...r.....", "C...............",
                            "synthesizer,choir,electric piano,violin", "energetic,tense"),
    "ambient": Recipe((54, 96), 0.5, "1 4 1 6", False, "",
                      "sub_bass r...............", "C...............",
                      "choir,synthesizer,harp,vibraphone,bells", "calm,dreamy"),
    "blues": Recipe((60, 134), 0.67, "1 4 1 1 4 4 1 1 5 4 1 5", True,
                    "kick X.......x.x..... snare ....X.......X... hat x.x.x.x.x.x.x.x.",
                    "finger_bass r.r.3.3.5.5.6.6.", "C.c.....C.c.....",
                    "electric guitar,piano,organ", "sad,tense"),
    "swing": Recipe((100, 220), 0.67, "2 5 1 6", True,
                    "ride x...X.x.x...X.x. foot_hat ....x.......x... soft_kick o...o...o...o...",
                    "upright r...3...5...6...", "..c...c.......c.",
                    "piano,trumpet,clarinet,vibraphone,acoustic guitar", "happy,energetic"),
    "bossa nova": Recipe((92, 150), 0.5, "1 6 2 5", True,
                         "rim X..X..X...X..X.. shaker XoxoXoxoXoxoXoxo soft_kick x.....X.x.....X.",
                         "upright r.....5.5.....r.", "c..c..c...c..c..",
                         "acoustic guitar,electric piano,vibraphone,flute", "calm,happy"),
    "reggae": Recipe((62, 96), 0.58, "1 4 5 4", False,
                     "kick ........X....... rim ........X....... hat o.x.o.x.o.x.o.x.",
                     "finger_bass r..r..3.5.......", "..c...c...c...c.",
                     "electric guitar,organ,piano", "calm,happy"),
    "rock": Recipe((84, 166), 0.5, "1 5 6 4", False,
                   "kick X.......X.x..... snare ....X.......X... open_hat x.x.x.x.x.x.x.x.",
                   "finger_bass r.r.r.r.r.r.r.r.", "C...C.C.C...C.C.",
                   "electric guitar,organ,piano", "energetic,tense"),
    "hip hop": Recipe((66, 106), 0.56, "1 6 4 5", True,
                      "kick X......X..X..... snare ....X.......X... hat X.xoX.x.X.xoX.xx "
                      "scratch ..X...x...X..x.X",
                      "sub_bass r......r..r.....", "C.........c.....",
                      "electric piano,piano,vibraphone,synthesizer", "calm,sad"),
    "folk": Recipe((72, 152), 0.5, "1 4 1 5", False,
                   "soft_kick x.......x....... shaker ....x.......x...",
                   "upright r.......5.......", "a.a.a.a.a.a.a.a.",
                   "acoustic guitar,banjo,accordion,violin,harp", "calm,sad"),
    "funk": Recipe((82, 126), 0.53, "1 1 4 1", True,
                   "kick X..x......x..x.. snare ....X..o.o..X..o hat xxxxxxxxxxxxxxxx",
                   "slap_bass r..r...8..r.8.r.", "..c..cc...c..c.c",
                   "electric guitar,electric piano,organ,trumpet", "happy,energetic"),
    "march": Recipe((86, 136), 0.5, "1 5 1 4 1 5 5 1", False,
                    "big_drum X.......X....... field_snare X..xX.xxX..xXoxo cymbal x.......x.......",
                    "tuba r.......5.......", "....c.......c...",
                    "trumpet,clarinet,flute,bells", "happy,energetic"),
}


class Mood(NamedTuple):
    """Cues that together make a mood; each piece draws around them, so that no cue tells the mood alone."""
    major: float      # probability of the major mode
    tempo: float      # 0..1, where in the genre's tempo range
    register: float   # semitones by which the lead is moved
    tilt: float       # dB per octave, brightness of the whole
    gate: float       # share of a note's time that it sounds: staccato to legato
    accent: float     # how far strong and weak notes differ, and how loud drums are: dynamics


MOODS = {
    "happy": Mood(0.95, 0.6, 5, 1.2, 0.5, 0.5),
    "sad": Mood(0.05, 0.15, -5, -2.5, 1.0, 0.4),
    "calm": Mood(0.95, 0.15, -1, -1.2, 0.95, 0.1),
    "energetic": Mood(0.6, 0.9, 2, 2.2, 0.5, 1.0),
    "tense": Mood(0.0, 0.7, -5, 0.6, 0.35, 0.9),
    "dreamy": Mood(0.75, 0.2, 7, -0.8, 1.3, 0.15),
}


@dataclass(frozen=True)
class Piece:
    """What is true of one recording, and the seed of everything else in it."""
    id: str
    split: str        # train, valid or test
    seed: int
    genre: str
    lead: str
    backing: tuple    # instruments heard besides the lead (drums and bass have no label)
    mood: str
    tempo: str
    bpm: float
    density: str
    production: str
    key: int          # 0..11, C to B
    mode: str         # major or minor
    meter: int        # beats per bar, 3 or 4

    @property
    def tags(self):
        """All labels of FAMILIES that are true of the piece."""
        return [self.genre, self.lead, *self.backing, self.mood, self.tempo, self.density, self.production]


def plan_pieces(recordings, seed):
    """-> list of Piece; test and valid have (genre, lead) pairs that train has not. UserError below 3."""
    if recordings < 3:
        raise UserError(f"recordings = {recordings}: the demo world needs at least 3, one for each split")
    pairs = _split_pairs(np.random.default_rng((seed, 0)))
    test, valid = (max(1, round(recordings * share)) for share in (TEST_SHARE, VALID_SHARE))
    splits = ["train"] * (recordings - test - valid) + ["valid"] * valid + ["test"] * test
    pieces = []
    for i, split in enumerate(splits):
        genre, lead = pairs[split][i % len(pairs[split])]
        pieces.append(_plan_piece(f"r{i:05d}", split, genre, lead, np.random.default_rng((seed, 1, i))))
    return pieces


def _split_pairs(rng):
    """-> {split: (genre, lead) pairs}; new ones are taken by what is rarest so far, so that 16 hold every label."""
    pairs = [(genre, lead) for genre in FAMILIES["genre"] for lead in FAMILIES["instrument"]]
    rng.shuffle(pairs)
    train, new = [tuple(str(label) for label in pair) for pair in pairs], []
    used = dict.fromkeys(FAMILIES["genre"] + FAMILIES["instrument"], 0)
    for _ in range(NEW_PAIRS):
        pair = min(train, key=lambda pair: used[pair[0]] + used[pair[1]])
        train.remove(pair)
        new.append(pair)
        for label in pair:
            used[label] += 1
    return {"train": train, "valid": new, "test": new}


def _plan_piece(id, split, genre, lead, rng):
    recipe = RECIPES[genre]
    weights = np.array([1 + (mood in recipe.moods.split(",")) for mood in FAMILIES["mood"]])
    mood = str(rng.choice(FAMILIES["mood"], p=weights / weights.sum()))
    low, high = recipe.bpm
    bpm = round(low + (high - low) * float(np.clip(rng.normal(MOODS[mood].tempo, 0.22), 0, 1)), 1)
    density = str(rng.choice(FAMILIES["density"]))
    players = [name for name in recipe.backing.split(",") if name != lead]
    count = 1 if density == "busy" else int(rng.random() < 0.5)
    return Piece(
        id=id, split=split, seed=int(rng.integers(2**31)), genre=genre, lead=lead,
        backing=tuple(str(name) for name in rng.choice(players, count, replace=False)), mood=mood,
        tempo="slow" if bpm < SLOW_BELOW else "fast" if bpm >= FAST_FROM else "mid-tempo", bpm=bpm,
        density=density,
        production=str(rng.choice(FAMILIES["production"], p=[0.4, 0.3, 0.3])), key=int(rng.integers(12)),
        mode="major" if rng.random() < MOODS[mood].major else "minor", meter=3 if genre == "waltz" else 4)


# --- from a piece to sound ---------------------------------------------------------------------------------

SCALES = {"major": (0, 2, 4, 5, 7, 9, 11), "minor": (0, 2, 3, 5, 7, 8, 10),
          "dreamy major": (0, 2, 4, 6, 7, 9, 11), "tense minor": (0, 1, 3, 5, 7, 8, 11)}   # semitones
RINGING = {"harp", "vibraphone", "bells"}   # nobody damps them: notes overlap
# What a lead that can play chords adds below its melody, in steps of the scale.
CHORDAL = {"piano": (7,), "organ": (2, 4), "accordion": (2,), "harp": (2, 4, 7), "vibraphone": (2,),
           "choir": (2, 4), "electric guitar": (4,), "acoustic guitar": (5,)}
FADE = np.linspace(1, 0, 960, dtype=np.float32)   # 60 ms release of a note


def render(piece, seconds=12.0):
    """-> (seconds * 16000,) float32, peak 0.5..0.9; the same bits in any process and any order."""
    rng = np.random.default_rng(piece.seed)
    song = _Song(piece, seconds, rng)
    lead, band, drums = (np.zeros(round(seconds * SAMPLE_RATE), np.float32) for _ in range(3))
    _play_lead(song, lead, rng)
    _play_backing(song, band, rng)
    _play_bass(song, band, rng)
    _play_drums(song, drums, rng)
    lead = brighten(lead, rng.normal(0, 0.2))   # no two recordings of an instrument are equally bright
    band *= 10 ** (rng.normal(-2, 1.2) / 20)
    drums *= 10 ** (rng.normal(-1.5 + 2 * song.mood.accent, 1.2) / 20)
    wave = produce(lead + band + drums, piece.production, song.mood.tilt, rng)
    return wave * np.float32(rng.uniform(0.5, 0.7) + 0.2 * song.mood.accent)


class _Song:
    """What all players of a piece share: the beat, the chords and the scale."""

    def __init__(self, piece, seconds, rng):
        self.piece, self.recipe, self.mood = piece, RECIPES[piece.genre], MOODS[piece.mood]
        self.steps = 4 * piece.meter                       # sixteenths in a bar
        self.bars = int(np.ceil(seconds * piece.bpm / 60 / piece.meter))
        self.scale = SCALES.get(f"{piece.mood} {piece.mode}", SCALES[piece.mode])
        degrees = [int(degree) - 1 for degree in self.recipe.chords.split()]
        self.chords = [degrees[bar % len(degrees)] for bar in range(self.bars)]   # roots, 0..6
        self.sparse = piece.density == "sparse"
        self.gate = self.mood.gate * rng.uniform(0.8, 1.2)

    def seconds(self, bar, step):
        """When a sixteenth sounds, swing included."""
        beat, part = divmod(step / 4, 1)
        swing = self.recipe.swing
        part = 2 * part * swing if part < 0.5 else swing + (2 * part - 1) * (1 - swing)
        return (bar * self.piece.meter + beat + part) * 60 / self.piece.bpm

    def pitch(self, index):
        """Semitones above C of the scale's index-th note (any integer) above the key note."""
        return self.piece.key + 12 * (index // 7) + self.scale[index % 7]

    def chord(self, bar, low):
        """The bar's chord tones as midi numbers in low..low + 11."""
        tones = 4 if self.recipe.sevenths else 3
        return [low + (self.pitch(self.chords[bar] + 2 * tone) - low) % 12 for tone in range(tones)]


def _play(stem, wave, start, length, gain):
    """Add `length` seconds of a note to the stem, from `start` seconds on."""
    begin, held = int(start * SAMPLE_RATE), int(length * SAMPLE_RATE)
    part = wave[: held + len(FADE)] * np.float32(gain)
    if len(part) > held:
        part[held:] *= FADE[: len(part) - held]
    stem[begin: begin + len(part)] += part[: max(0, len(stem) - begin)]


def _play_lead(song, stem, rng):
    """A melody: two one-bar motives, of rhythm and contour, in a form such as AABA, fitted to the chords."""
    piece, mood = song.piece, song.mood
    grid = np.arange(song.steps)
    if song.sparse:
        chance = np.where(grid % 4 == 0, 0.5, 0.06)
    else:   # sixteenths only where they can be played
        chance = np.where(grid % 2 == 0, 0.85, 0.3 * (piece.bpm < 120))
    chance[0] = 1
    still = 0.45 if piece.mood == "tense" else 0.12   # repeated notes
    moves = np.array([0.15, 0.35, 0, 0.35, 0.15]) * (1 - still) + [0, 0, still, 0, 0]   # by -2..2 steps
    motives = {letter: [(step, int(rng.choice(5, p=moves)) - 2)
                        for step in np.flatnonzero(rng.random(song.steps) < chance)] for letter in "ABC"}
    form = rng.choice(["AABA", "ABAB", "ABAC", "AABC"])
    low = LOWEST[piece.lead] + 6 + mood.register + round(rng.normal(0, 1.5))
    bottom = -(-(low - piece.key) * 7 // 12)          # scale index of about the lowest note
    variant, index = int(rng.integers(VARIANTS)), bottom + 4
    onsets = [(bar, step, move) for bar in range(song.bars) for step, move in motives[form[bar % 4]]]
    times = [song.seconds(bar, step) for bar, step, _ in onsets] + [song.seconds(song.bars, 0)]
    for (bar, step, move), start, end in zip(onsets, times, times[1:]):
        if step == 0:
            index = (index + bottom + 4) // 2   # motives start near the middle, or melodies drift
        index += move if bottom <= index + move <= bottom + 9 else -move
        if step % 4 == 0 and (index - song.chords[bar]) % 7 not in (0, 2, 4):
            index += 1 if (index + 1 - song.chords[bar]) % 7 in (0, 2, 4) else -1   # strong beat: chord tone
        strength = (1 - 0.5 * mood.accent * (step % 4 > 0)) * rng.uniform(0.85, 1.1)
        start, length = max(0, start + rng.normal(0, 0.005)), (end - start) * song.gate
        if piece.lead in RINGING:
            length = max(length, 1.2)
        for count, below in enumerate((0, *CHORDAL.get(piece.lead, ()))):
            roll = 0.045 * count * (piece.lead in RINGING)   # seconds
            _play(stem, note(piece.lead, variant, song.pitch(index - below)), start + roll,
                  min(length, NOTE_SECONDS), strength * 0.75**count)


def _play_backing(song, stem, rng):
    """Each instrument plays the genre's accompaniment."""
    for name in song.piece.backing:
        variant, low = int(rng.integers(VARIANTS)), LOWEST[name] + int(rng.integers(0, 6))
        gain = 0.45 * 10 ** (rng.normal(0, 1.5) / 20)
        for bar in range(song.bars):
            chord = song.chord(bar, low)
            for count, (symbol, start, length) in enumerate(_strokes(song, bar, song.recipe.comp)):
                if symbol == "a":
                    pitch = chord[count % len(chord)] + 12 * (count % 4 == 3)
                    _play(stem, note(name, variant, pitch), start, length * 1.5, gain)
                    continue
                if symbol == "c":
                    length = min(length, 0.22) * min(1, 0.6 + 0.4 * song.gate)
                for pitch in chord:
                    _play(stem, note(name, variant, pitch), start, length, gain * 0.6)


def _strokes(song, bar, pattern):
    """-> (symbol, start, length) of each sounding character, until the next; long ones are struck again."""
    hits = [step for step, symbol in enumerate(pattern) if symbol != "."]
    for step, following in zip(hits, hits[1:] + [song.steps]):
        start, end = song.seconds(bar, step), song.seconds(bar, following)
        times = np.linspace(start, end, int((end - start) / NOTE_SECONDS) + 2)
        for begin, stop in zip(times, times[1:]):
            yield pattern[step], begin, stop - begin


def _play_bass(song, stem, rng):
    name, pattern = song.recipe.bass.split()
    variant, low = int(rng.integers(VARIANTS)), 28 + int(rng.integers(0, 4))
    gain = 0.55 * 10 ** (rng.normal(0, 1) / 20)
    for bar in range(song.bars):
        root = low + (song.pitch(song.chords[bar]) - low) % 12
        for symbol, start, length in _strokes(song, bar, pattern):
            degree = 0 if symbol == "r" else int(symbol) - 1
            interval = song.pitch(song.chords[bar] + degree) - song.pitch(song.chords[bar])
            _play(stem, note(name.replace("_", " "), variant, root + interval), start, length * 0.9, gain)


def _play_drums(song, stem, rng):
    words = song.recipe.drums.split()
    kit = int(rng.integers(KITS))
    strengths = {"X": 1.0, "x": 1 - 0.35 * song.mood.accent, "o": 0.3}
    for name, pattern in zip(words[::2], words[1::2]):
        level, hit = 10 ** (rng.normal(0, 1.5) / 20), drum(name, kit)
        for bar in range(song.bars):
            for step, symbol in enumerate(pattern):
                if symbol == "." or (symbol == "o" and song.sparse) or rng.random() < 0.03:
                    continue
                start = max(0, song.seconds(bar, step) + rng.normal(0, 0.003))
                _play(stem, hit, start, 1.0, level * strengths[symbol] * rng.uniform(0.8, 1.1))


def gallery(path):
    """Save one picture: log-mel spectrograms of each genre (same lead) and each instrument (same phrase)."""
    import matplotlib  # only here: extra `tutorials`
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    import torch

    from mulan_min.mel import LogMel

    base = Piece("", "test", 3, "folk", "flute", (), "happy", "mid-tempo", 110.0, "busy", "dry", 0, "major",
                 meter=4)
    waves = {}
    for genre, recipe in RECIPES.items():
        waves[genre] = render(replace(base, genre=genre, backing=(recipe.backing.split(",")[0],),
                                      bpm=sum(recipe.bpm) / 2, meter=3 if genre == "waltz" else 4), 6.0)
    for name in FAMILIES["instrument"]:
        waves[name] = np.zeros(6 * SAMPLE_RATE, np.float32)
        for i, midi in enumerate((60, 64, 67, 72)):
            _play(waves[name], note(name, 1, midi), 1.5 * i, 1.3, 0.2)
    figure, axes = plt.subplots(5, 6, figsize=(24, 15), layout="constrained")
    for axis, (title, wave) in zip(axes.flat, waves.items()):
        mel = LogMel(n_mels=64)(torch.from_numpy(wave)[None])[0]   # (64, frames)
        axis.imshow(mel.numpy(), origin="lower", aspect="auto", vmin=mel.max() - 14, cmap="magma")
        axis.set(title=title, xticks=[], yticks=[])
    figure.savefig(path, dpi=60)


if __name__ == "__main__":
    import sys
    gallery(*sys.argv[1:2] or ["demo_world.png"])
