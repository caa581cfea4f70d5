"""What each piece of the demo world is: genres as recipes, moods as cues, and a plan of all pieces with their labels.

`plan_pieces` depends on its arguments only. All of it is our choice: the paper trains on 44 million clips of real music,
which a laptop does not have.
"""
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
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
    """One genre; recipes.txt explains the fields."""
    bpm: tuple
    swing: float
    chords: str
    sevenths: bool
    drums: str
    bass: str
    comp: str
    backing: list
    moods: list


def read_entries(name):
    """Returns the entries of a text file beside this module: {field: list of phrases} for each. Its head explains the format."""
    text = re.sub("^#.*\n", "", Path(__file__).with_name(name).read_text(encoding="utf-8"), flags=re.M)
    return [{field: re.split(r"\s*[|\n]\s*", phrases.strip())
             for field, phrases in re.findall(r"^(\w+):(.*(?:\n  .*)*)", entry, re.M)} for entry in text.strip().split("\n\n")]


RECIPES = {}
for entry in read_entries("recipes.txt"):
    one = {field: phrases[0] for field, phrases in entry.items()}
    RECIPES[one["genre"]] = Recipe(tuple(map(int, one["bpm"].split())), float(one["swing"]), one["chords"], one["sevenths"] == "yes",
                                   one["drums"], one["bass"], one["comp"], entry["backing"], entry["moods"])


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
    weights = np.array([1 + (mood in recipe.moods) for mood in FAMILIES["mood"]])
    mood = str(rng.choice(FAMILIES["mood"], p=weights / weights.sum()))
    low, high = recipe.bpm
    bpm = round(low + (high - low) * float(np.clip(rng.normal(MOODS[mood].tempo, 0.22), 0, 1)), 1)
    density = str(rng.choice(FAMILIES["density"]))
    candidates = [name for name in recipe.backing if name != lead]
    count = 1 if density == "busy" else int(rng.random() < 0.5)
    return Piece(       # the order of the random draws below is part of the world: another order would give other pieces
        id=id, split=split, seed=int(rng.integers(2**31)), genre=genre, lead=lead,
        backing=tuple(str(name) for name in rng.choice(candidates, count, replace=False)), mood=mood,
        tempo="slow" if bpm < SLOW_BELOW else "fast" if bpm >= FAST_FROM else "mid-tempo", bpm=bpm, density=density,
        production=str(rng.choice(FAMILIES["production"], p=[0.4, 0.3, 0.3])), key=int(rng.integers(12)),
        mode="major" if rng.random() < MOODS[mood].major else "minor", meter=3 if genre == "waltz" else 4)
