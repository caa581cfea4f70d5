"""The four evaluation tasks of the paper: zero-shot tagging, linear probe, playlist retrieval and text triplets.

Each task is a function of (model, folder, embeddings, seed), where `embeddings = split_embedder(model, folder)`; `seed` draws
the bootstrap resamples. A task returns a dict that can be written as JSON:

    {"recordings": 408, "notes": ["..."], "sets": {"genre": {"roc_auc": {"value": 0.9, "interval": [0.89, 0.91], "chance": 0.5}}}}

The tasks evaluate the recordings of the test split. Only the probe also uses the train and valid splits. Labels and playlists
that cannot be evaluated, such as a label without positives, are left out, and `notes` names them. Each task raises MissingData
if the collection lacks what the task needs, and UserError if a file is malformed.
"""
from itertools import chain, compress, permutations
from pathlib import Path

import numpy as np

from mulan_min import metrics
from mulan_min.embedding import embed_texts
from mulan_min.errors import MissingData, UserError
from mulan_min.files import read_jsonl
from mulan_min.labels import has_both_classes, read_labels, truth_table
from mulan_min.logistic import fit_logistic, predict_logistic, whitening
from mulan_min.ontology import below, read_ontology

ROLES = ("anchor", "positive", "negative")
PROBE_C = (0.0001, 0.001, 0.01, 0.1, 1.0, 10.0)  # inverse regularisation strengths that the probe tries; our choice


def tagging(model, folder, embeddings, seed=0):
    """Zero-shot tagging: for each label, the cosine of recording and label ranks the test recordings. The label itself is the
    prompt, as in the paper. The values of a label set are macro means over its labels."""
    label_sets, notes = read_labels(folder), []
    names = list(dict.fromkeys(chain(*label_sets.values())))  # each label once
    known = getattr(model, "labels", names)  # a classifier (--objective tags) can only embed its own labels
    if unknown := [name for name in names if name not in known]:
        names = [name for name in names if name in known]
        notes = [f"{folder}: the classifier has no label for {', '.join(unknown)}; left out"]
    if not names:
        raise MissingData("; ".join(notes) or f"{folder}/labels.json: no label in it")
    test, audio, unreadable = embeddings("test")
    scores = audio @ embed_texts(model, names).T  # (N, C)
    return score_labels(folder, label_sets, names, truth_table(test, names), {"": scores}, seed, notes + unreadable)


def score_labels(folder, label_sets, names, truth, scores, seed, notes=()):
    """ROC-AUC and average precision of each label and each label set -> a task's result. names: the C labels of the columns; other
    labels of `label_sets` are ignored. truth: (N, C) bool. scores: {prefix of the metrics' keys: (N, C)}. notes: the first notes of
    the result. Raises MissingData if no set has two labels that can be evaluated."""
    positives, items, notes, sets = truth.sum(0), len(truth), [*notes], {}
    for kind, lacking in (("positives", positives == 0), ("negatives", positives == items)):
        if lacking.any():
            notes.append(f"{folder}: labels without {kind} in the test split are left out: {', '.join(compress(names, lacking))}")
    column = {names[c]: c for c in np.flatnonzero(has_both_classes(truth))}
    for name, members in label_sets.items():
        indices = [column[label] for label in members if label in column]
        if len(indices) < 2:
            notes.append(f"{folder}: fewer than two labels of set '{name}' can be evaluated; left out")
            continue
        chances = 0.5, metrics.chance_average_precision(positives[indices], items).mean()
        labels = {names[c]: {"positives": int(positives[c])} for c in indices}
        sets[name] = {"labels": labels}
        for prefix, table in scores.items():
            columns = table[:, indices], truth[:, indices]
            areas, samples = metrics.areas(*columns), metrics.bootstrap_areas(*columns, seed)
            for metric, values, draws, chance in zip(("roc_auc", "average_precision"), areas, samples, chances):
                sets[name][prefix + metric] = estimate(values.mean(), draws, chance)
                for label, value in zip(labels.values(), values):
                    label[prefix + metric] = float(value)
    if not sets:
        raise MissingData(f"{folder}/labels.json: no set has two labels on some but not all test recordings")
    return {"recordings": items, "notes": notes, "sets": sets}


def probe(model, folder, embeddings, seed=0):
    """Linear probe: logistic regression on the frozen embeddings of the train split, beside zero-shot tagging. The embeddings
    are whitened with the mean and covariance of the train split, which keeps the probe linear. Each label has its own regression
    (one-vs-rest). Its C is the value of PROBE_C with the best ROC-AUC on the valid split."""
    label_sets, notes = read_labels(folder), []
    names = list(dict.fromkeys(chain(*label_sets.values())))  # each label once
    recordings, audio, unreadable = zip(*(embeddings(split) for split in ("train", "valid", "test")))
    learnable = has_both_classes(truth_table(recordings[0], names))
    if not learnable.all():
        notes = [f"{folder}: labels on none or all of the train split are left out: {', '.join(compress(names, ~learnable))}"]
        names = list(compress(names, learnable))
    train_truth, valid_truth, test_truth = (truth_table(part, names) for part in recordings)  # (N, C) each
    mean, W = whitening(audio[0])
    train, valid, test = ((x - mean) @ W for x in audio)  # (N, d) each
    judged = has_both_classes(valid_truth)
    if not judged.any():
        raise MissingData(f"{folder}: the probe needs labels on some but not all train and valid recordings")

    fits = np.stack([fit_logistic(train, train_truth, C) for C in PROBE_C])  # (C values, d + 1, labels)
    valid_auc = np.stack([metrics.roc_auc(predict_logistic(w, valid)[:, judged], valid_truth[:, judged]) for w in fits])
    best = np.full(len(names), valid_auc.mean(1).argmax())  # for labels without both classes in the valid split
    best[judged] = valid_auc.argmax(0)
    scores = {"": predict_logistic(fits[best, :, np.arange(len(names))].T, test)}
    try:
        scores["zero_shot_"] = audio[2] @ embed_texts(model, names).T
    except MissingData as error:  # a classifier without some of these labels
        notes.append(str(error))
    return score_labels(folder, label_sets, names, test_truth, scores, seed, [*notes, *chain(*unreadable)]) | {
        "C": {name: PROBE_C[i] for name, i in zip(names, best)},
        "valid_roc_auc_by_C": {f"{C:g}": float(auc) for C, auc in zip(PROBE_C, valid_auc.mean(1))},
    }


def retrieval(model, folder, embeddings, seed=0):
    """Playlist retrieval: a playlist's title, and its description, ranks all test recordings; its tracks should come first. The
    optional "set" of a row in playlists.jsonl groups the results. Without that file the query is a recording's first SF text (its
    title in imported collections), and the recording itself is the only correct result."""
    path = Path(folder) / "playlists.jsonl"
    if not path.is_file():
        return retrieve_own_text(model, folder, embeddings, seed)
    rows = read_rows(path, texts=("title",), optional=("description", "set"))
    test, audio, notes = embeddings("test")
    position = {r.id: i for i, r in enumerate(test)}
    queries, skipped, outside = {}, [], 0  # queries: {name of the result's set: [(text, truth (N,)), ...]}
    for number, row in rows:
        tracks = row.get("tracks")
        if not isinstance(tracks, list) or not tracks or not all(isinstance(track, str) for track in tracks):
            raise UserError(f"{path}, line {number}: 'tracks' must be a list of recording ids")
        truth = np.zeros(len(test), bool)
        truth[[position[track] for track in tracks if track in position]] = True
        outside += sum(track not in position for track in tracks)
        if truth.all() or not truth.any():
            skipped.append(str(number))
            continue
        for kind in ("title", "description"):
            if kind in row:
                queries.setdefault(f"{row.get('set', 'playlist')}/{kind}", []).append((row[kind], truth))
    if outside:
        notes = [*notes, f"{path}: {outside} tracks are not recordings of the test split; left out"]
    if skipped:
        notes = [*notes, f"{path}: playlists of none or all of the test recordings are left out: lines {', '.join(skipped)}"]
    if not queries:
        raise MissingData(f"{path}: no playlist holds some but not all of the test recordings of {folder}")
    sets = {}
    for name, pairs in queries.items():
        texts, truth = zip(*pairs)
        sets[name] = query_areas(audio @ embed_texts(model, texts).T, np.stack(truth, axis=1), seed)
    return {"recordings": len(test), "notes": notes, "sets": sets}


def retrieve_own_text(model, folder, embeddings, seed):
    """The first SF text of each test recording ranks all test recordings that have such a text."""
    test, audio, notes = embeddings("test")
    rows = [i for i, r in enumerate(test) if r.text.get("sf")]
    if len(rows) < 2:
        raise MissingData(f"{folder}: retrieval needs playlists.jsonl, or two test recordings with SF text")
    scores = embed_texts(model, [test[i].text["sf"][0] for i in rows]) @ audio[rows].T  # (Q, N) with Q = N
    size, targets = len(rows), np.arange(len(rows))
    own = query_areas(scores.T, np.eye(size, dtype=bool), seed)
    for k in (1, 10):
        own[f"recall_at_{k}"] = estimate_over(metrics.recall_at_k(scores, targets, k), min(k / size, 1), seed)
    own["median_rank"] = estimate_over(metrics.target_ranks(scores, targets), (size + 1) / 2, seed, np.median)
    note = f"{folder} has no playlists.jsonl; the query for each recording is its own first SF text"
    return {"recordings": size, "notes": [note, *notes], "sets": {"own text": own}}


def query_areas(scores, truth, seed):
    """Mean ROC-AUC and average precision over the Q columns, one query each: scores (N, Q), truth (N, Q) bool."""
    auc, average = metrics.areas(scores, truth)
    chance = metrics.chance_average_precision(truth.sum(0), len(truth)).mean()
    return {"queries": len(auc), "roc_auc": estimate_over(auc, 0.5, seed),
            "average_precision": estimate_over(average, chance, seed)}


def triplet(model, folder, embeddings=None, seed=0):
    """Text triplets: is the anchor closer to its positive than to its negative? A tie counts as half. This task needs no audio, so
    `embeddings` is not used."""
    rows = read_rows(Path(folder) / "triplets.jsonl", texts=("set", *ROLES))
    return judge_triplets(model, [row for _, row in rows], seed=seed)


def judge_triplets(model, rows, notes=(), seed=0):
    """The result of `triplet` for rows {"set", "anchor", "positive", "negative"}. The model only needs `embed_text`. The bootstrap
    resamples anchors, because the triplets of one anchor are not independent (our choice)."""
    texts = list(dict.fromkeys(row[role] for row in rows for role in ROLES))  # each text is embedded once
    vectors, groups, sets = dict(zip(texts, embed_texts(model, texts))), {}, {}  # groups: {set: {anchor: [1, 0.5 or 0, ...]}}
    for row in rows:
        anchor, positive, negative = (vectors[row[role]] for role in ROLES)
        correct = metrics.triplet_accuracy((anchor * positive).sum(), (anchor * negative).sum())
        groups.setdefault(row["set"], {}).setdefault(row["anchor"], []).append(correct)
    for name, anchors in groups.items():
        sums, sizes = np.array([(sum(correct), len(correct)) for _, correct in sorted(anchors.items())]).T
        draws = metrics.bootstrap_draws(len(anchors), seed)
        accuracy = estimate(sums.sum() / sizes.sum(), sums[draws].sum(1) / sizes[draws].sum(1), 0.5)
        sets[name] = {"triplets": int(sizes.sum()), "anchors": len(anchors), "accuracy": accuracy}
    return {"recordings": 0, "notes": list(notes), "sets": sets}


def ontology_triplets(path):
    """AudioSet's ontology.json -> (rows for `judge_triplets`, notes); paper: triplets of AudioSet's labels.

    The anchor is a class below "Music", the positive is its description, and the negative is the description of another such
    class: n (n - 1) triplets of n classes. Classes without a description are left out, and the notes name them. Raises
    UserError if the file is not an ontology or has fewer than two such classes.
    """
    classes = read_ontology(path)
    pairs = [(classes[key]["name"], classes[key]["description"]) for key in below(classes, "Music")]
    described, skipped = [pair for pair in pairs if all(pair)], ", ".join(pair[0] for pair in pairs if not all(pair))
    if len(described) < 2:
        raise UserError(f"{path}: fewer than two described classes below 'Music'; is it AudioSet's ontology?")
    rows = [{"set": "audioset", "anchor": name, "positive": description, "negative": other}
            for (name, description), (_, other) in permutations(described, 2)]
    return rows, [f"{path}: classes without a description are left out: {skipped}"] if skipped else []


def read_rows(path, texts, optional=()):
    """A JSON-lines file -> [(line number, row)]. The keys `texts`, and those keys of `optional` that a row has, are non-empty
    texts. Raises MissingData if the file is missing or empty, and UserError naming a malformed line."""
    if not path.is_file():
        raise MissingData(f"{path}: no such file")
    rows = list(read_jsonl(path))
    for number, row in rows:
        for key in texts + tuple(key for key in optional if key in row):
            if not isinstance(row.get(key), str) or not row[key].strip():
                raise UserError(f"{path}, line {number}: '{key}' must be a non-empty text")
    if not rows:
        raise MissingData(f"{path}: it is empty")
    return rows


def estimate(value, samples, chance):
    """A value with its 95 % interval, from the samples (R,) of the bootstrap, and the value of a random model."""
    return {"value": float(value), "interval": metrics.interval(value, samples), "chance": float(chance)}


def estimate_over(values, chance, seed, statistic=np.mean):
    """`estimate` of the mean, or another statistic, of one value per query (Q,). The bootstrap resamples the queries."""
    return estimate(statistic(values), statistic(values[metrics.bootstrap_draws(len(values), seed)], axis=1), chance)
