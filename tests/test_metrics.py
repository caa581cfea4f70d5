"""Metrics against scikit-learn and against their definitions, computed pair by pair, with many ties."""

import itertools

import numpy as np
import pytest

from mulan_min import metrics


def average_precision(scores, truth):
    return metrics.areas(scores, truth)[1]


def tied_world(seed, items=60, columns=9):
    """Scores on a coarse grid, so most are tied. Each column of the truth has at least one positive and one negative."""
    rng = np.random.default_rng(seed)
    truth = rng.random((items, columns)) < np.linspace(0.05, 0.9, columns)
    truth[0], truth[1] = True, False
    return np.round(rng.normal(size=(items, columns)) + truth, 0), truth


@pytest.mark.parametrize("seed", range(5))
def test_areas_equal_scikit_learn_with_ties(seed):
    sklearn = pytest.importorskip("sklearn.metrics", reason="scikit-learn is the oracle")
    scores, truth = tied_world(seed)
    auc = [sklearn.roc_auc_score(truth[:, c], scores[:, c]) for c in range(truth.shape[1])]
    average = [sklearn.average_precision_score(truth[:, c], scores[:, c]) for c in range(truth.shape[1])]
    np.testing.assert_allclose(metrics.roc_auc(scores, truth), auc, rtol=0, atol=1e-12)
    np.testing.assert_allclose(average_precision(scores, truth), average, rtol=0, atol=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_areas_equal_their_definitions(seed):
    scores, truth = tied_world(seed, items=25, columns=4)
    for s, t in zip(scores.T, truth.T):
        pairs = [1.0 if p > n else 0.5 if p == n else 0.0 for p, n in itertools.product(s[t], s[~t])]
        assert metrics.roc_auc(s, t) == pytest.approx(np.mean(pairs), abs=1e-12)
        steps, recall = 0.0, 0.0
        for threshold in sorted(set(s), reverse=True):
            taken = s >= threshold
            steps += (t[taken].sum() / t.sum() - recall) * t[taken].mean()
            recall = t[taken].sum() / t.sum()
        assert average_precision(s, t) == pytest.approx(steps, abs=1e-12)


def test_one_class_gives_nan_in_its_column_only():
    scores = np.array([[3.0, 1.0, 2.0], [1.0, 2.0, 1.0], [2.0, 3.0, 3.0]])
    truth = np.array([[1, 0, 1], [0, 0, 1], [1, 0, 1]], bool)
    for metric in (metrics.roc_auc, average_precision):
        np.testing.assert_array_equal(np.isnan(metric(scores, truth)), [False, True, True])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_scores_that_cannot_be_ranked_are_refused(bad):
    with pytest.raises(ValueError, match="NaN or infinity"):
        metrics.roc_auc([0.1, bad], [0, 1])


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="one shape"):
        metrics.roc_auc(np.zeros((3, 2)), np.zeros(3))


@pytest.mark.parametrize("positives, items", [(1, 6), (2, 6), (5, 6), (6, 6), (1, 1)])
def test_chance_average_precision_is_the_mean_over_all_rankings(positives, items):
    averages = []
    for ranks in itertools.combinations(range(1, items + 1), positives):
        averages.append(np.mean([(i + 1) / rank for i, rank in enumerate(ranks)]))
    assert metrics.chance_average_precision(positives, items) == pytest.approx(np.mean(averages), abs=1e-12)


def test_recall_and_rank_equal_the_mean_over_random_tie_breaking():
    rng = np.random.default_rng(0)
    scores, targets = rng.integers(0, 3, (20, 5)).astype(float), rng.integers(0, 5, 20)
    for q, target in enumerate(targets):
        ranks = []
        for tie_break in itertools.permutations(range(5)):
            ranking = sorted(range(5), key=lambda item: (-scores[q, item], tie_break[item]))
            ranks.append(ranking.index(target) + 1)
        assert metrics.target_ranks(scores, targets)[q] == pytest.approx(np.mean(ranks), abs=1e-12)
        for k in (1, 2, 5):
            recall = np.mean([rank <= k for rank in ranks])
            assert metrics.recall_at_k(scores, targets, k)[q] == pytest.approx(recall, abs=1e-12)


def test_triplet_accuracy_counts_a_tie_as_half():
    np.testing.assert_array_equal(metrics.triplet_accuracy([0.9, 0.2, 0.3], [0.1, 0.2, 0.8]), [1.0, 0.5, 0.0])


def test_bootstrap_areas_equal_scikit_learn_on_resampled_rows():
    sklearn = pytest.importorskip("sklearn.metrics", reason="scikit-learn is the oracle")
    scores, truth = tied_world(7, items=30, columns=5)
    samples = metrics.bootstrap_areas(scores, truth, seed=3, resamples=20)
    left_out = 0
    for r, rows in enumerate(metrics.bootstrap_draws(30, seed=3, resamples=20)):
        defined = [c for c in range(5) if 0 < truth[rows, c].sum() < 30]  # some resamples have no positive in a column
        left_out += 5 - len(defined)
        for sample, area in zip(samples[:, r], (sklearn.roc_auc_score, sklearn.average_precision_score)):
            expected = np.mean([area(truth[rows, c], scores[rows, c]) for c in defined])
            assert sample == pytest.approx(expected, abs=1e-12)
    assert left_out > 0


def test_a_resample_without_any_usable_column_is_nan():
    samples = metrics.bootstrap_areas(np.arange(3.0)[:, None], np.array([[True], [False], [False]]), resamples=50)
    assert 0 < np.isnan(samples).all(0).sum() < 50 and np.isnan(samples).any(0).sum() == np.isnan(samples).all(0).sum()


def test_bootstrap_interval_has_the_width_theory_gives():
    # The mean of 400 normal draws has a standard error of sd / 20. A 95 % interval is 3.92 standard errors wide.
    values = np.random.default_rng(1).normal(size=400)
    draws = metrics.bootstrap_draws(400, seed=0, resamples=4000)
    low, high = metrics.interval(values.mean(), values[draws].mean(1))
    assert high - low == pytest.approx(3.92 * values.std() / 20, rel=0.05)
    assert (low + high) / 2 == pytest.approx(values.mean(), abs=0.01)


def test_about_95_of_100_bootstrap_intervals_contain_the_true_value():
    rng = np.random.default_rng(0)

    def ranking():
        truth = rng.random((250, 12)) < 0.06
        truth[0], truth[1] = True, False
        return rng.normal(size=truth.shape) + 1.2 * truth, truth

    expected = np.mean([average_precision(*ranking()).mean() for _ in range(1000)])
    contained = 0
    for trial in range(100):
        scores, truth = ranking()
        _, samples = metrics.bootstrap_areas(scores, truth, seed=trial, resamples=100)
        low, high = metrics.interval(average_precision(scores, truth).mean(), samples)
        contained += low <= expected <= high
    assert 90 <= contained <= 99
