"""What each piece of the demo world is: genres as recipes, moods as cues, and a plan of all pieces with their labels.

`plan_pieces` depends on its arguments only. All of it is our choice: the paper trains on 44 million clips of real music,
which a laptop does not have.
"""
from collections import Counter
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

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
SLOW_BELOW, FAST_FROM = 90, 128   # beats per minute; drum and bass counts at its full tempo, not at half of it
TEST_SHARE, VALID_SHARE = 0.13, 0.07   # of the recordings
NEW_PAIRS = 24                         # (genre, lead) pairs that only test and valid recordings have


class Recipe(NamedTuple):
    """One genre. Patterns have one character per sixteenth note of a bar: 16 of them in 4/4, 12 in 3/4."""
    bpm: tuple        # lowest and highest tempo
    swing: float      # position of the off-beat eighth within the beat: 0.5 straight, 0.67 triplets
    chords: str       # degrees of the scale, one per bar
    sevenths: bool    # four-note chords
    drums: str        # "drum pattern" pairs; X accent, x hit, o ghost note (a very soft one)
    bass: str         # instrument and pattern; r root, 3, 5, 6, 8 the step above it, held until the next
    comp: str         # accompaniment; c short chord, C chord held until the next, a next chord tone
    backing: str      # instruments that may accompany, separated by commas
    moods: str        # moods that are twice as likely in this genre as the others


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
    """Cues that together make a mood. Each piece varies them at random, so that no single cue reveals the mood."""
    major: float      # probability of the major mode
    tempo: float      # 0..1, position in the genre's tempo range
    register: float   # semitones by which the lead melody is shifted
    tilt: float       # dB per octave, brightness of the mix
    gate: float       # sounding share of a note's time: staccato to legato
    accent: float     # dynamics: how far strong and weak notes differ, and how loud the drums are


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
    """The true attributes of one recording, and the seed for everything else in it."""
    id: str
    split: str        # train, valid or test
    seed: int
    genre: str
    lead: str         # the instrument that plays the melody
    backing: tuple    # accompanying instruments (drums and bass have no label)
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
    """Returns a list of `recordings` pieces. No (genre, lead) pair of test or valid occurs in train. UserError for fewer than 3."""
    if recordings < 3:
        raise UserError(f"recordings = {recordings}: the demo world needs at least 3, one for each split")
    pairs = _split_pairs(np.random.default_rng((seed, 0)))
    test, valid = (max(1, round(recordings * share)) for share in (TEST_SHARE, VALID_SHARE))
    splits = ["train"] * (recordings - test - valid) + ["valid"] * valid + ["test"] * test
    return [_plan_piece(f"r{i:05d}", split, *pairs[split][i % len(pairs[split])], np.random.default_rng((seed, 1, i)))
            for i, split in enumerate(splits)]


def _split_pairs(rng):
    """Returns {split: (genre, lead) pairs}. Test and valid share NEW_PAIRS pairs. Each of them is the pair whose genre and lead
    were used least so far; 16 pairs then already contain every label."""
    train = [(genre, lead) for genre in FAMILIES["genre"] for lead in FAMILIES["instrument"]]
    rng.shuffle(train)
    new, used = [], Counter()
    for _ in range(NEW_PAIRS):
        new.append(min(train, key=lambda pair: used[pair[0]] + used[pair[1]]))
        train.remove(new[-1])
        used.update(new[-1])
    return {"train": train, "valid": new, "test": new}


def _plan_piece(id, split, genre, lead, rng):
    recipe = RECIPES[genre]
    weights = np.array([1 + (mood in recipe.moods.split(",")) for mood in FAMILIES["mood"]])
    mood = str(rng.choice(FAMILIES["mood"], p=weights / weights.sum()))
    low, high = recipe.bpm
    bpm = round(low + (high - low) * float(np.clip(rng.normal(MOODS[mood].tempo, 0.22), 0, 1)), 1)
    density = str(rng.choice(FAMILIES["density"]))
    candidates = [name for name in recipe.backing.split(",") if name != lead]
    count = 1 if density == "busy" else int(rng.random() < 0.5)
    return Piece(       # the order of the random draws below is part of the world: another order would give other pieces
        id=id, split=split, seed=int(rng.integers(2**31)), genre=genre, lead=lead,
        backing=tuple(str(name) for name in rng.choice(candidates, count, replace=False)), mood=mood,
        tempo="slow" if bpm < SLOW_BELOW else "fast" if bpm >= FAST_FROM else "mid-tempo", bpm=bpm, density=density,
        production=str(rng.choice(FAMILIES["production"], p=[0.4, 0.3, 0.3])), key=int(rng.integers(12)),
        mode="major" if rng.random() < MOODS[mood].major else "minor", meter=3 if genre == "waltz" else 4)
