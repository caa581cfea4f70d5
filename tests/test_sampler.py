"""The batch plan against plain counting."""
import pickle
from collections import Counter

import numpy as np
import pytest

from mulan_min.errors import UserError
from mulan_min.sampler import Sampler

PAPER = {"sf": 2, "lf": 2, "pl": 1, "aset": 1}


def world(count=1000):
    """Sources that overlap in part, as in a real collection."""
    return {"sf": list(range(count)), "lf": list(range(0, count, 2)), "pl": list(range(0, count, 3)),
            "aset": list(range(count // 2, count))}


@pytest.mark.parametrize("batch", [6, 12, 96, 6144])
def test_every_batch_holds_the_ratio_exactly(batch):
    sampler = Sampler(world(9000), PAPER, batch, seed=0)
    for step in range(3):
        counts = Counter(source for source, _ in sampler.batch(step))
        assert counts == {s: batch * share // 6 for s, share in PAPER.items()}


def test_a_batch_as_small_as_the_number_of_sources_has_all_of_them():
    assert {source for source, _ in Sampler(world(), PAPER, 4, seed=0).batch(0)} == set(PAPER)


@pytest.mark.parametrize("batch", [5, 8, 64, 5120])
def test_the_remainder_rotates_and_the_long_run_is_exact(batch):
    sampler = Sampler(world(9000), PAPER, batch, seed=0)
    total = Counter()
    for step in range(6):
        batch_counts = Counter(source for source, _ in sampler.batch(step))
        for source, share in PAPER.items():
            assert abs(batch_counts[source] - batch * share / 6) <= 2      # never further off than one pattern allows
        total += batch_counts
    assert total == {s: batch * share for s, share in PAPER.items()}       # 6 batches: the pattern has closed


def test_each_source_is_walked_without_replacement():
    members = world(100)
    sampler = Sampler(members, PAPER, 10, seed=3)
    walks = {source: [] for source in PAPER}
    for step in range(200):
        for source, recording in sampler.batch(step):
            walks[source].append(recording)
    for source, walk in walks.items():
        size = len(members[source])
        epochs = [walk[i:i + size] for i in range(0, len(walk) - size + 1, size)]
        assert len(epochs) >= 6 and all(sorted(epoch) == members[source] for epoch in epochs)
        places = np.argsort(epochs)      # (epochs, members): where each member stood
        assert abs(np.corrcoef(places)[~np.eye(len(epochs), dtype=bool)]).max() < 5 / size ** 0.5      # reshuffled every time


def test_sources_with_the_same_recordings_have_orders_of_their_own():
    """Else a recording would be drawn with all its sources within a few slots."""
    sampler = Sampler(dict.fromkeys(PAPER, range(400)), PAPER, 6, seed=0)
    for epoch in range(3):
        places = np.argsort([sampler.order(source, epoch) for source in PAPER])
        assert abs(np.corrcoef(places)[~np.eye(4, dtype=bool)]).max() < 5 / 400 ** 0.5      # 5 standard deviations


def test_batch_is_a_pure_function_of_seed_and_step():
    one, other = Sampler(world(), PAPER, 50, seed=7), Sampler(world(), PAPER, 50, seed=7)
    forward = [one.batch(step) for step in range(40)]
    backward = [other.batch(step) for step in reversed(range(40))]
    assert forward == backward[::-1]
    assert pickle.loads(pickle.dumps(one)).batch(5) == forward[5]      # as a spawned worker gets it
    assert Sampler(world(), PAPER, 50, seed=8).batch(0) != forward[0]
    assert len({tuple(batch) for batch in forward}) == 40


def test_small_sources_repeat_rather_than_hang():
    sampler = Sampler({"sf": [0, 1], "lf": [0], "pl": [1], "aset": [0]}, PAPER, 12, seed=0)
    assert len(sampler.batch(5)) == 12


def test_missing_source_says_how_to_leave_it_out():
    with pytest.raises(UserError, match=r"no training recording has 'aset' text.*--ratio sf=2,lf=2,pl=1"):
        Sampler({"sf": [0], "lf": [0], "pl": [0], "aset": []}, PAPER, 6, seed=0)


def test_walk_is_uniform():
    """Position of a given recording over many seeds: no place is favoured (chi-square by hand)."""
    places = [list(Sampler({"sf": list(range(10))}, {"sf": 1}, 10, seed).order("sf", 0)).index(0) for seed in range(1000)]
    counts = np.bincount(places, minlength=10)
    assert ((counts - 100) ** 2 / 100).sum() < 30      # 9 degrees of freedom: 30 is p = 0.0004
