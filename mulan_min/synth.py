"""The demo world's music: pieces with known attributes, composed from small recipes and rendered to sound.

`plan_pieces` decides what each piece is, `render` makes its waveform; both depend on nothing but their arguments.
All of it is our choice: the paper trains on 44 million clips of real music, which a laptop does not have.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from mulan_min.config import UserError

FAMILIES = {
    "genre": ["waltz", "techno", "house", "drum and bass", "ambient", "blues", "swing", "bossa nova", "reggae", "rock",
              "hip hop", "folk", "funk", "march"],
    "instrument": ["piano", "electric piano", "organ", "accordion", "acoustic guitar", "electric guitar", "banjo",
                   "harp", "violin", "flute", "clarinet", "trumpet", "vibraphone", "bells", "synthesizer", "choir"],
    "mood": ["happy", "sad", "calm", "energetic", "tense", "dreamy"],
    "tempo": ["slow", "mid-tempo", "fast"],
    "density": ["sparse", "busy"],
    "production": ["dry", "reverberant", "lo-fi"],
}
SLOW_BELOW, FAST_FROM = 90, 128   # beats per minute as one would tap them (a drum and bass beat is fast, not halved)
TEST_SHARE, VALID_SHARE = 0.17, 0.08   # of the recordings and of the (genre, lead) pairs


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
    "waltz": Recipe((84, 180), 0.5, "1 1 5 5 5 5 1 1", False, "soft_kick x........... brush ....x...x...",
                    "upright r...........", "....c...c...", "accordion,piano,violin,harp", "happy,dreamy"),
    "techno": Recipe((116, 148), 0.5, "1 1 1 6", False,
                     "club_kick X...X...X...X... hat xoxoxoxoxoxoxoxo open_hat ..x...x...x...x. clap ....o.......x..x",
                     "synth_bass ..rr..rr..rr..r8", "...c..c....c..c.", "synthesizer,choir,electric piano,organ",
                     "energetic,tense"),
    "house": Recipe((108, 132), 0.54, "6 2 5 1", True,
                    "club_kick X...X...X...X... clap ....X.......X... open_hat ..x...x...x...x. shaker xoxxxoxxxoxxxoxx",
                    "finger_bass r..r..r...8...r.", "c..c..c...c..c..", "piano,organ,electric piano,synthesizer",
                    "happy,energetic"),
    "drum and bass": Recipe((158, 180), 0.5, "1 1 6 7", False,
                            "kick X.........x..... snare ....X..o.o..X..o hat x.x.x.x.x.x.x.x. ride x.......x.......",
                            "sub_bass r.....r...r.....", "C...............", "synthesizer,choir,electric piano,violin",
                            "energetic,tense"),
    "ambient": Recipe((54, 96), 0.5, "1 4 1 6", False, "", "sub_bass r...............", "C...............",
                      "choir,synthesizer,harp,vibraphone,bells", "calm,dreamy"),
    "blues": Recipe((60, 134), 0.67, "1 4 1 1 4 4 1 1 5 4 1 5", True,
                    "kick X.......x.x..... snare ....X.......X... hat x.x.x.x.x.x.x.x.",
                    "finger_bass r.r.3.3.5.5.6.6.", "C.c.....C.c.....", "electric guitar,piano,organ", "sad,tense"),
    "swing": Recipe((100, 220), 0.67, "2 5 1 6", True, "ride x...X.x.x...X.x. foot_hat ....x.......x... soft_kick o...o...o...o...",
                    "upright r...3...5...6...", "..c...c.......c.", "piano,trumpet,clarinet,vibraphone,acoustic guitar",
                    "happy,energetic"),
    "bossa nova": Recipe((92, 150), 0.5, "1 6 2 5", True,
                         "rim x..x..x...x..x.. shaker xoxoxoxoxoxoxoxo soft_kick x.....x.x.....x.",
                         "upright r.....5.5.....r.", "c..c..c...c..c..", "acoustic guitar,electric piano,vibraphone,flute",
                         "calm,happy"),
    "reggae": Recipe((62, 96), 0.58, "1 4 5 4", False, "kick ........X....... rim ........X....... hat o.x.o.x.o.x.o.x.",
                     "finger_bass r..r..3.5.......", "..c...c...c...c.", "electric guitar,organ,piano", "calm,happy"),
    "rock": Recipe((84, 166), 0.5, "1 5 6 4", False, "kick X.......X.x..... snare ....X.......X... open_hat x.x.x.x.x.x.x.x.",
                   "finger_bass r.r.r.r.r.r.r.r.", "C...C.C.C...C.C.", "electric guitar,organ,piano", "energetic,tense"),
    "hip hop": Recipe((66, 106), 0.56, "1 6 4 5", True, "kick X......x..X..... snare ....X.......X... hat x.xox.x.x.xox.xx",
                      "sub_bass r......r..r.....", "C.........c.....", "electric piano,piano,vibraphone,synthesizer",
                      "calm,sad"),
    "folk": Recipe((72, 152), 0.5, "1 4 1 5", False, "soft_kick x.......x....... shaker ....x.......x...",
                   "upright r.......5.......", "a.a.a.a.a.a.a.a.", "acoustic guitar,banjo,accordion,violin,harp",
                   "calm,sad"),
    "funk": Recipe((82, 126), 0.53, "1 1 4 1", True, "kick X..x......x..x.. snare ....X..o.o..X..o hat xxxxxxxxxxxxxxxx",
                   "slap_bass r..r...8..r.8.r.", "..c..cc...c..c.c", "electric guitar,electric piano,organ,trumpet",
                   "happy,energetic"),
    "march": Recipe((86, 136), 0.5, "1 5 1 4 1 5 5 1", False,
                    "big_drum X.......X....... field_snare X..xX.xxX..xXoxo cymbal x.......x.......",
                    "tuba r.......5.......", "....c.......c...", "trumpet,clarinet,flute,bells", "happy,energetic"),
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
    "happy": Mood(0.95, 0.6, 4, 1.0, 0.6, 0.6),
    "sad": Mood(0.05, 0.2, -5, -1.8, 1.0, 0.35),
    "calm": Mood(0.9, 0.2, -3, -1.5, 0.95, 0.15),
    "energetic": Mood(0.6, 0.85, 2, 1.8, 0.5, 1.0),
    "tense": Mood(0.0, 0.7, -4, 1.0, 0.4, 0.9),
    "dreamy": Mood(0.75, 0.25, 7, -0.8, 1.2, 0.2),
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
    """-> list of Piece. Test and valid each have (genre, lead) pairs of their own, which no other split uses."""
    if recordings < 3:
        raise UserError(f"recordings = {recordings}: the demo world needs at least 3, one for each split")
    pairs = _split_pairs(np.random.default_rng((seed, 0)))
    test, valid = (max(1, round(recordings * share)) for share in (TEST_SHARE, VALID_SHARE))
    splits = ["train"] * (recordings - test - valid) + ["valid"] * valid + ["test"] * test
    return [_plan_piece(f"r{i:05d}", split, *pairs[split][i % len(pairs[split])], np.random.default_rng((seed, 1, i)))
            for i, split in enumerate(splits)]


def _split_pairs(rng):
    """-> {split: list of (genre, lead)}; the rarest genre and lead come first, so 16 pairs already hold all of them."""
    left = [(genre, lead) for genre in FAMILIES["genre"] for lead in FAMILIES["instrument"]]
    rng.shuffle(left)
    left = [tuple(str(label) for label in pair) for pair in left]
    sizes, pairs = {"test": round(len(left) * TEST_SHARE), "valid": round(len(left) * VALID_SHARE)}, {}
    sizes["train"] = len(left) - sum(sizes.values())
    for split, size in sizes.items():
        used, pairs[split] = dict.fromkeys(FAMILIES["genre"] + FAMILIES["instrument"], 0), []
        for _ in range(size):
            pair = min(left, key=lambda pair: used[pair[0]] + used[pair[1]])
            left.remove(pair)
            pairs[split].append(pair)
            for label in pair:
                used[label] += 1
    return pairs


def _plan_piece(id, split, genre, lead, rng):
    recipe = RECIPES[genre]
    likely = np.array([1 + (mood in recipe.moods.split(",")) for mood in FAMILIES["mood"]])
    mood = str(rng.choice(FAMILIES["mood"], p=likely / likely.sum()))
    low, high = recipe.bpm
    bpm = round(low + (high - low) * float(np.clip(rng.normal(MOODS[mood].tempo, 0.28), 0, 1)), 1)
    density = str(rng.choice(FAMILIES["density"]))
    players = [name for name in recipe.backing.split(",") if name != lead]
    layers = 2 if density == "busy" else int(rng.random() < 0.75)
    return Piece(
        id=id, split=split, seed=int(rng.integers(2**31)), genre=genre, lead=lead,
        backing=tuple(str(name) for name in rng.choice(players, layers, replace=False)), mood=mood,
        tempo="slow" if bpm < SLOW_BELOW else "fast" if bpm >= FAST_FROM else "mid-tempo", bpm=bpm, density=density,
        production=str(rng.choice(FAMILIES["production"], p=[0.4, 0.3, 0.3])), key=int(rng.integers(12)),
        mode="major" if rng.random() < MOODS[mood].major else "minor", meter=3 if genre == "waltz" else 4)
