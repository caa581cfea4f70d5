"""Ranking metrics in numpy: ROC-AUC, average precision, recall@k, triplet accuracy, bootstrap intervals.

Ties never help and never hurt: ROC-AUC counts a tied pair as one half (mid-ranks), average precision takes
all items of equal score as one threshold (as scikit-learn does), recall@k is the chance under random tie
breaking. A column whose truth has no positive or no negative gives NaN; `tasks` leaves it out and says so.
"""

import numpy as np

RESAMPLES = 300  # our choice: 0.2 s for 400 recordings x 60 labels, 10 s for 5,000 x 200


def roc_auc(scores, truth):
    """Chance that a random positive scores above a random negative; 0.5 is chance.

    scores, truth: (N,) -> float, or (N, C), each column by itself -> (C,). Higher score = more likely true.
    """
    return areas(scores, truth)[0]


def average_precision(scores, truth):
    """Area under the precision-recall curve by steps: the sum over thresholds of precision x gain in recall.

    Shapes as `roc_auc`. Chance is `chance_average_precision`, near the share of positives.
    """
    return areas(scores, truth)[1]


def areas(scores, truth):
    """Both at once: (ROC-AUC, average precision), shapes as `roc_auc`. Positives and negatives are sorted apart, as plain
    numbers, which is many times faster than a sort that keeps the order; ties then need no care."""
    found = []
    for column, right in zip(*_columns(scores, truth)):
        high, low = np.sort(column[right]), np.sort(column[~right])
        below, upto = (np.searchsorted(low, high, side) for side in ("left", "right"))  # negatives under each positive
        hits = len(high) - np.searchsorted(high, high, "left")  # positives, then negatives, that score as much or more
        misses = len(low) - below
        pairs = len(high) * len(low)
        found.append(((below + upto).sum() / (2 * pairs), (hits / (hits + misses)).mean()) if pairs else (np.nan, np.nan))
    auc, average = np.array(found).reshape(-1, 2).T
    return (auc[0], average[0]) if np.ndim(scores) == 1 else (auc, average)


def _columns(scores, truth):
    """Checked: (N,) or (N, C) -> scores (C, N), truth (C, N) bool. Raises ValueError."""
    scores, truth = np.asarray(scores), np.asarray(truth, bool)
    if scores.shape != truth.shape or scores.ndim not in (1, 2):
        raise ValueError(f"scores {scores.shape} and truth {truth.shape} must have one shape, (N,) or (N, C)")
    if not np.isfinite(scores).all():
        raise ValueError("scores hold NaN or infinity, so they have no order")
    return (np.ascontiguousarray(table.reshape(len(table), -1).T) for table in (scores, truth))


def chance_average_precision(positives, items):
    """Expected average precision of a random ranking of N items with P positives (may be an array), exactly.

    E[AP] = (1/P) sum over ranks k of Prob(item k is true) E[precision at k | item k is true]
          = (1/N) sum_k (1 + (k-1)(P-1)/(N-1)) / k
          = (H_N + (N - H_N)(P-1)/(N-1)) / N            with H_N = 1 + 1/2 + ... + 1/N.
    It lies above the prevalence P/N, by much when N is small: a lone positive among 10 has 0.29, not 0.10.
    """
    harmonic = np.sum(1 / np.arange(1, items + 1))
    return (harmonic + (items - harmonic) * (np.asarray(positives) - 1) / max(items - 1, 1)) / items


def recall_at_k(scores, targets, k):
    """Per query, 1 when its one right item is among the k highest scores; for ties, the chance that it is.

    scores (Q, N), targets (Q,) column of the right item -> (Q,) in [0, 1]. Chance is k/N.
    """
    above, tied = _above_and_tied(scores, targets)
    return np.clip((k - above) / tied, 0, 1)


def target_ranks(scores, targets):
    """1-based rank of each query's right item, tied items sharing their middle rank: (Q, N), (Q,) -> (Q,)."""
    above, tied = _above_and_tied(scores, targets)
    return above + (tied + 1) / 2


def triplet_accuracy(positive, negative):
    """1 where the anchor is closer to the positive, 1/2 for a tie, else 0: cosines (T,), (T,) -> (T,)."""
    difference = np.asarray(positive) - np.asarray(negative)
    return (np.sign(difference) + 1) / 2


def bootstrap_draws(items, seed=0, resamples=RESAMPLES):
    """Which items each resample holds, drawn with replacement: (resamples, items) integers."""
    return np.random.default_rng((seed, items)).integers(0, items, (resamples, items), dtype=np.int32)


def interval(value, samples):
    """95 % interval of a statistic from its value and its values on the resamples (R,) -> [low, high].

    Percentiles, moved so that the resamples' mean is the value: a recording drawn twice stands twice in the
    ranking, which flatters average precision. In a trial with rare labels 85 unmoved intervals in 100 held
    the truth, and 94 moved ones. Cut to what was seen, so that no share ends above 1.
    """
    seen = np.append(samples, value)
    ends = np.nanpercentile(samples, [2.5, 97.5]) + value - np.nanmean(samples)
    return [float(end) for end in np.clip(ends, np.nanmin(seen), np.nanmax(seen))]


def bootstrap_areas(scores, truth, seed=0, resamples=RESAMPLES):
    """Macro (mean over columns) ROC-AUC and average precision on resampled rows: (N, C), (N, C) -> (2, R).

    Each column is sorted only once; a resample is then only how many times each row was drawn. A column that
    lost its last positive in a resample is left out of that resample's mean.
    """
    truth, order, ends = _sorted_truth(scores, truth)
    macro = np.empty((2, resamples))
    for r, rows in enumerate(bootstrap_draws(truth.shape[1], seed, resamples)):
        counts = np.bincount(rows, minlength=truth.shape[1])
        areas = np.stack(_areas(truth, order, ends, counts))  # (2, C)
        known = ~np.isnan(areas[0])
        macro[:, r] = areas[:, known].mean(1) if known.any() else np.nan
    return macro


def _sorted_truth(scores, truth):
    """Sort each column by falling score. Returns three (C, N) arrays: the sorted truth, the order that sorted
    it, and for each place the last place of its group of equal scores."""
    scores, truth = _columns(np.asarray(scores, np.float64), truth)
    order = np.argsort(-scores, axis=1, kind="stable")
    ordered, places = np.take_along_axis(scores, order, 1), np.arange(scores.shape[1])
    last = np.ones(scores.shape, bool)
    last[:, :-1] = ordered[:, 1:] != ordered[:, :-1]
    ends = np.minimum.accumulate(np.where(last, places, len(places))[:, ::-1], axis=1)[:, ::-1]
    return np.take_along_axis(truth, order, 1), order, ends


def _areas(truth, order, ends, counts):
    """ROC-AUC (C,), average precision (C,) of what `_sorted_truth` returns, row i counted counts[i] times."""
    weights = counts[order].astype(np.float64)
    # True and false positives at the threshold of each place. Within a group of ties every place holds the
    # group's final value, so the steps below are zero except at the group's first place.
    hits = np.take_along_axis(np.cumsum(weights * truth, axis=1), ends, 1)
    misses = np.take_along_axis(np.cumsum(weights * ~truth, axis=1), ends, 1)
    new_hits, new_misses = np.diff(hits, axis=1, prepend=0), np.diff(misses, axis=1, prepend=0)
    positives, negatives = hits[:, -1], misses[:, -1]
    with np.errstate(invalid="ignore", divide="ignore"):  # one class only: 0/0, the promised NaN
        auc = (new_misses * (hits - new_hits / 2)).sum(1) / (positives * negatives)
        # `maximum`: in a resample, places before the first drawn row hold 0 hits and 0 misses.
        precision = hits / np.maximum(hits + misses, 1)
        average = np.where(negatives > 0, (new_hits * precision).sum(1) / positives, np.nan)
    return auc, average


def _above_and_tied(scores, targets):
    """How many items score above each query's target, and how many equal it, itself included: (Q,), (Q,)."""
    scores = np.asarray(scores)
    right = scores[np.arange(len(scores)), targets][:, None]
    return (scores > right).sum(1), (scores == right).sum(1)
