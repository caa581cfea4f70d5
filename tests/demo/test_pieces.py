"""The plan of the demo world's pieces, checked by counting."""
from collections import Counter

import pytest

from mulan_min.demo.pieces import FAMILIES, FAST_FROM, RECIPES, SLOW_BELOW, plan_pieces
from mulan_min.errors import UserError


def split(pieces, name):
    return [piece for piece in pieces if piece.split == name]


@pytest.mark.parametrize("recordings, seed", [(2400, 0), (2400, 1), (60, 0), (3, 0)])
def test_no_training_pair_is_in_test_or_valid(recordings, seed):
    pieces = plan_pieces(recordings, seed)
    assert len({piece.id for piece in pieces}) == len({piece.seed for piece in pieces}) == recordings
    pairs = {name: {(piece.genre, piece.lead) for piece in split(pieces, name)}
             for name in ("train", "valid", "test")}
    assert all(pairs.values())
    assert not pairs["train"] & (pairs["test"] | pairs["valid"])


def test_shares_and_labels_at_full_size():
    pieces = plan_pieces(4400, seed=0)
    for name, share in (("train", 0.80), ("valid", 0.07), ("test", 0.13)):
        members = split(pieces, name)
        assert abs(len(members) / len(pieces) - share) < 0.01
        assert {piece.genre for piece in members} == set(FAMILIES["genre"])
        assert {piece.lead for piece in members} == set(FAMILIES["instrument"])
    count = Counter(tag for piece in split(pieces, "test") for tag in piece.tags)
    assert set(count) == {label for labels in FAMILIES.values() for label in labels}
    assert min(count.values()) >= 20


def test_tags_are_true():
    pieces = plan_pieces(2400, seed=0)
    for piece in pieces:
        assert (piece.tempo == "slow") == (piece.bpm < SLOW_BELOW)
        assert (piece.tempo == "fast") == (piece.bpm >= FAST_FROM)
        assert RECIPES[piece.genre].bpm[0] <= piece.bpm <= RECIPES[piece.genre].bpm[1]
        assert (piece.meter == 3) == (piece.genre == "waltz")
        assert len(set(piece.tags)) == len(piece.tags) and piece.lead not in piece.backing
        assert {piece.lead, *piece.backing} == set(piece.tags) & set(FAMILIES["instrument"])
    assert {piece.mode for piece in pieces if piece.mood == "tense"} == {"minor"}


def test_too_few_recordings():
    with pytest.raises(UserError, match="recordings = 2"):
        plan_pieces(2, seed=0)


@pytest.mark.parametrize("genre", FAMILIES["genre"])
def test_recipes_fit_their_bar(genre):
    recipe, steps = RECIPES[genre], 12 if genre == "waltz" else 16
    patterns = recipe.drums.split()[1::2] + recipe.bass.split()[1:] + [recipe.comp]
    assert {len(pattern) for pattern in patterns} == {steps}
    backing = recipe.backing
    assert set(backing) <= set(FAMILIES["instrument"]) and len(backing) >= 3   # at least two remain beside any lead
