"""The four evaluations of the paper: zero-shot tagging, linear probe, playlist retrieval, text triplets.

Each task takes (model, folder, heard, seed), where `heard = listener(model, folder)` embeds each split of the
collection once, when it is first asked for, whichever task asks. Each returns a JSON-ready dict:

    {"recordings": 408, "notes": ["..."],
     "sets": {"genre": {"roc_auc": {"value": 0.9, "interval": [0.89, 0.91], "chance": 0.5}, ...}}}

Recordings of the test split are judged; only the probe looks at the others. What cannot be judged (a label
without positives) is left out and named in `notes`. What is missing raises MissingData, what is malformed
UserError.
"""

import functools
import json
from pathlib import Path

import numpy as np
from tqdm import tqdm

from mulan_min import metrics
from mulan_min.audio import read_window
from mulan_min.data import clip_seconds, read_manifest
from mulan_min.errors import MissingData, UserError
from mulan_min.labels import has_both_classes, read_labels, truth_table, unique_labels
from mulan_min.logistic import fit_logistic, predict_logistic, whitening

ROLES = ("anchor", "positive", "negative")
PROBE_C = (0.0001, 0.001, 0.01, 0.1, 1.0, 10.0)  # inverse strengths of regularisation that are tried; our choice


def listener(model, folder):
    """heard(split) -> (its recordings, their embeddings (N, d)). Raises MissingData for fewer than two."""

    @functools.cache
    def heard(split):
        recordings = [r for r in read_manifest(folder) if r.split == split]
        if len(recordings) < 2:
            raise MissingData(f"{folder}: two or more '{split}' recordings are needed, not {len(recordings)}")
        return recordings, embed_recordings(model, recordings)

    return heard


def embed_recordings(model, recordings, chunk=64):
    """One unit-length embedding a recording, the mean over the 10 s windows of its clip: (N, d) float64.

    Raises AudioError naming an unreadable file, and UserError when the model's output is not finite.
    """
    rate, rows = model.config.front.sample_rate, []
    bar = tqdm(total=len(recordings), desc="embedding", unit="recording", disable=None)  # None: if a terminal
    for i in range(0, len(recordings), chunk):
        part = recordings[i : i + chunk]
        rows.append(finite(model.embed_audio([clip(r, rate) for r in part]), "audio"))
        bar.update(len(part))
    bar.close()
    return np.concatenate(rows)


def clip(recording, sample_rate):
    """What `embed_audio` takes: the path of a whole file, the samples of a clip."""
    if not recording.start and recording.duration is None:
        return recording.audio
    return read_window(recording.audio, recording.start, clip_seconds(recording), sample_rate)


# ---- tagging ---------------------------------------------------------------------------


def tagging(model, folder, heard, seed=0):
    """Zero-shot tagging: how well cosine(recording, label) orders the test recordings, for each label set.

    The label itself is the prompt, as in the paper; the figures are macro means over the labels of a set.
    """
    labels, notes = read_labels(folder), []
    if classes := getattr(model, "labels", ()):  # a classifier (--objective tags) has no other labels
        odd = [label for label in unique_labels(labels) if label not in classes]
        labels = {name: [label for label in members if label in classes] for name, members in labels.items()}
        notes = [f"{folder}: the classifier has no label for {', '.join(odd)}; left out"] if odd else []
    names = unique_labels(labels)
    if not names:
        raise MissingData("; ".join(notes) or f"{folder}/labels.json: no label in it")
    test, audio = heard("test")
    scores = audio @ embed_texts(model, names).T  # (N, C)
    result = score_labels(folder, labels, names, truth_table(test, names), {"": scores}, seed)
    return result | {"notes": notes + result["notes"]}


def score_labels(folder, labels, names, truth, scores, seed):
    """Figures per label set: truth (N, C); `scores` has an (N, C) table per prefix of the metrics' names."""
    positives, items, usable = truth.sum(0), len(truth), has_both_classes(truth)
    notes, sets = [], {}
    for kind, odd in (("positives", positives == 0), ("negatives", positives == items)):
        if odd.any():
            listed = ", ".join(names[c] for c in np.flatnonzero(odd))
            notes.append(f"{folder}: labels without {kind} in the test split are left out: {listed}")
    for name, members in labels.items():
        kept = [c for c in map(names.index, members) if usable[c]]
        if len(kept) < 2:
            notes.append(f"{folder}: fewer than two labels of set '{name}' can be judged; left out")
            continue
        chance = float(metrics.chance_average_precision(positives[kept], items).mean())
        sets[name] = {"labels": {names[c]: {"positives": int(positives[c])} for c in kept}}
        for prefix, table in scores.items():
            table, right = table[:, kept], truth[:, kept]
            auc, average = metrics.areas(table, right)
            auc_draws, average_draws = metrics.bootstrap_areas(table, right, seed)
            sets[name][prefix + "roc_auc"] = figure(auc.mean(), auc_draws, 0.5)
            sets[name][prefix + "average_precision"] = figure(average.mean(), average_draws, chance)
            for c, a, p in zip(kept, auc, average):
                sets[name]["labels"][names[c]][prefix + "roc_auc"] = float(a)
                sets[name]["labels"][names[c]][prefix + "average_precision"] = float(p)
    if not sets:
        raise MissingData(f"{folder}/labels.json: no set has two labels on some but not all test recordings")
    return {"recordings": items, "notes": notes, "sets": sets}


# ---- probe -----------------------------------------------------------------------------


def probe(model, folder, heard, seed=0):
    """Linear probe: logistic regression on the train split's frozen embeddings, with zero-shot beside it.

    Embeddings are whitened by the train split's mean and covariance, which leaves the probe linear. One regression
    per label (one-vs-rest), all fitted at once; C is, label by label, the value of PROBE_C with
    the best ROC-AUC on the valid split.
    """
    labels = read_labels(folder)
    splits, names, notes = ("train", "valid", "test"), unique_labels(labels), []
    truth = {split: truth_table(heard(split)[0], names) for split in splits}  # (N, C) each
    mean, W = whitening(heard("train")[1])
    train, valid, test = ((heard(split)[1] - mean) @ W for split in splits)  # (N, d) each
    learnable = has_both_classes(truth["train"])
    if not learnable.all():
        odd = [names[c] for c in np.flatnonzero(~learnable)]
        notes = [f"{folder}: labels on none or all of the train split are left out: {', '.join(odd)}"]
        names = [label for label in names if label not in odd]
        labels = {name: [label for label in members if label in names] for name, members in labels.items()}
        truth = {split: table[:, learnable] for split, table in truth.items()}
    judged = has_both_classes(truth["valid"])
    if not judged.any():
        raise MissingData(f"{folder}: the probe needs labels on some but not all train and valid recordings")

    fits = np.stack([fit_logistic(train, truth["train"], C) for C in PROBE_C])  # (C values, d + 1, labels)
    valid_auc = np.stack([metrics.roc_auc(predict_logistic(w, valid)[:, judged], truth["valid"][:, judged]) for w in fits])
    best = np.full(len(names), valid_auc.mean(1).argmax())  # for labels that the valid split cannot judge
    best[judged] = valid_auc.argmax(0)
    weights = fits[best, :, np.arange(len(names))].T  # (d + 1, labels)

    scores = {"": predict_logistic(weights, test)}
    try:
        scores["zero_shot_"] = heard("test")[1] @ embed_texts(model, names).T
    except MissingData as error:
        notes.append(str(error))
    result = score_labels(folder, labels, names, truth["test"], scores, seed)
    return result | {
        "notes": notes + result["notes"],
        "C": {name: PROBE_C[i] for name, i in zip(names, best)},
        "valid_roc_auc_by_C": {f"{C:g}": float(auc) for C, auc in zip(PROBE_C, valid_auc.mean(1))},
    }


# ---- retrieval -------------------------------------------------------------------------


def retrieval(model, folder, heard, seed=0):
    """Playlist title -> its recordings, and description -> its recordings, over all test recordings.

    Rows of playlists.jsonl are grouped by their optional "set". Without that file every test recording is
    asked for by its own first SF text (in imported collections its title).
    """
    path = Path(folder) / "playlists.jsonl"
    if not path.is_file():
        return retrieve_own_text(model, folder, heard, seed)
    rows = read_rows(path, texts=("title",), optional=("description", "set"))
    test, audio = heard("test")
    place = {r.id: i for i, r in enumerate(test)}
    members, odd, outside = {}, [], 0
    for number, row in rows:
        tracks = row.get("tracks")
        if not isinstance(tracks, list) or not tracks:
            raise UserError(f"{path}, line {number}: 'tracks' must be a list of recording ids")
        right = np.zeros(len(test), bool)
        right[[place[t] for t in tracks if t in place]] = True
        outside += sum(t not in place for t in tracks)
        if right.all() or not right.any():
            odd.append(number)
            continue
        for kind in ("title", "description"):
            if kind in row:
                members.setdefault(f"{row.get('set', 'playlist')}/{kind}", []).append((row[kind], right))
    notes = [f"{path}: {outside} tracks are not recordings of the test split; left out"] if outside else []
    if odd:
        listed = ", ".join(map(str, odd))
        notes.append(f"{path}: playlists of none or all of the test recordings are left out: lines {listed}")
    if not members:
        raise MissingData(f"{path}: no playlist holds some but not all of the test recordings of {folder}")
    sets = {}
    for name, queries in members.items():
        texts, right = zip(*queries)
        right = np.stack(right, axis=1)  # (N, Q)
        scores = audio @ embed_texts(model, texts).T  # (N, Q)
        chance = metrics.chance_average_precision(right.sum(0), len(test)).mean()
        sets[name] = {
            "queries": len(texts),
            "roc_auc": mean_figure(metrics.roc_auc(scores, right), 0.5, seed),
            "average_precision": mean_figure(metrics.average_precision(scores, right), chance, seed),
        }
    return {"recordings": len(test), "notes": notes, "sets": sets}


def retrieve_own_text(model, folder, heard, seed):
    """Each test recording's first SF text must find that recording among all that have such a text."""
    test, audio = heard("test")
    kept = [i for i, r in enumerate(test) if r.text.get("sf")]
    if len(kept) < 2:
        raise MissingData(f"{folder}: retrieval needs playlists.jsonl, or two test recordings with SF text")
    scores = embed_texts(model, [test[i].text["sf"][0] for i in kept]) @ audio[kept].T  # (Q, N), Q = N
    size, targets = len(kept), np.arange(len(kept))
    truth, ranks = np.eye(size, dtype=bool), metrics.target_ranks(scores, targets)
    rank_draws = np.median(ranks[metrics.bootstrap_draws(size, seed)], axis=1)
    chance = metrics.chance_average_precision(1, size)
    own = {
        "queries": size,
        "roc_auc": mean_figure(metrics.roc_auc(scores.T, truth), 0.5, seed),
        "average_precision": mean_figure(metrics.average_precision(scores.T, truth), chance, seed),
        "recall_at_1": mean_figure(metrics.recall_at_k(scores, targets, 1), 1 / size, seed),
        "recall_at_10": mean_figure(metrics.recall_at_k(scores, targets, 10), min(10 / size, 1), seed),
        "median_rank": figure(np.median(ranks), rank_draws, (size + 1) / 2),
    }
    note = f"{folder} has no playlists.jsonl; each recording is asked for by its own first SF text"
    return {"recordings": size, "notes": [note], "sets": {"own text": own}}


# ---- triplets --------------------------------------------------------------------------


def triplet(model, folder, heard=None, seed=0):
    """Text triplets: is the anchor nearer to its positive than to its negative? A tie counts half.

    No audio is heard. Resampling draws anchors, since the triplets of one anchor are not independent.
    """
    path = Path(folder) / "triplets.jsonl"
    return judge_triplets(model, [row for _, row in read_rows(path, texts=("set", *ROLES))], seed)


def judge_triplets(model, rows, seed=0):
    """The figures of `triplet` for rows {"set", "anchor", "positive", "negative"}; the model needs only `embed_text`."""
    texts = list(dict.fromkeys(row[role] for row in rows for role in ROLES))  # each is embedded once
    place, vectors, sets = {text: i for i, text in enumerate(texts)}, embed_texts(model, texts), {}
    for name in dict.fromkeys(row["set"] for row in rows):
        members = [row for row in rows if row["set"] == name]
        table = np.array([[place[row[role]] for role in ROLES] for row in members])  # (T, 3) rows of vectors
        # 1,000 triplets at a time: a wide encoder's vectors for all those of the ontology would fill 650 MB
        right = np.concatenate([
            metrics.triplet_accuracy(*((vectors[part[:, 0]] * vectors[part[:, k]]).sum(1) for k in (1, 2)))
            for part in np.split(table, range(1000, len(table), 1000))
        ])
        anchors, group = np.unique([row["anchor"] for row in members], return_inverse=True)
        sums, sizes = np.bincount(group, right), np.bincount(group)  # per anchor
        draws = metrics.bootstrap_draws(len(anchors), seed)
        accuracy = figure(right.mean(), sums[draws].sum(1) / sizes[draws].sum(1), 0.5)
        sets[name] = {"triplets": len(members), "anchors": len(anchors), "accuracy": accuracy}
    return {"recordings": 0, "notes": [], "sets": sets}


def ontology_triplets(path, above="Music"):
    """AudioSet's ontology file -> (rows for `judge_triplets`, notes). The anchor is a class below `above`, the positive its
    description, the negative another such class's: n classes, n (n - 1) triplets (paper: AudioSet's labels). Classes
    without a description are left out and noted. Raises UserError."""
    path = Path(path)
    try:
        classes = {entry["id"]: entry for entry in json.loads(path.read_text(encoding="utf-8"))}
        ahead, found = [key for key, entry in classes.items() if entry["name"] == above], {}
        while ahead:
            for child in classes[ahead.pop()]["child_ids"]:
                if child not in found:  # a class may have two parents
                    found[child] = (classes[child]["name"].strip(), classes[child]["description"].strip())
                    ahead.append(child)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        form = "a list of classes with id, name, description and child_ids"
        raise UserError(f"{path}: not AudioSet's ontology, {form} ({type(error).__name__}: {error})") from None
    pairs = [pair for pair in found.values() if all(pair)]
    if len(pairs) < 2:
        raise UserError(f"{path}: fewer than two described classes below '{above}'; is it AudioSet's ontology?")
    odd = [name for name, text in found.values() if not (name and text)]
    rows = [{"set": "audioset", "anchor": name, "positive": text, "negative": other}
            for i, (name, text) in enumerate(pairs) for k, (_, other) in enumerate(pairs) if i != k]  # fmt: skip
    return rows, [f"{path}: classes without a description are left out: {', '.join(odd)}"] if odd else []


# ---- what they share -------------------------------------------------------------------


def embed_texts(model, texts):
    """(n, d) float64. Raises MissingData for labels that a classifier has not, UserError when the model's output is not
    finite."""
    return finite(model.embed_text(list(texts)), "text")


def finite(vectors, kind):
    vectors = vectors.numpy().astype(np.float64)
    if not np.isfinite(vectors).all():
        raise UserError(f"the model's {kind} embeddings are not all finite numbers; train it again")
    return vectors


def read_rows(path, texts, optional=()):
    """A JSON-lines file as [(line number, row)]; the keys `texts` and `optional` hold non-empty texts."""
    if not path.is_file():
        raise MissingData(f"{path}: no such file")
    rows = []
    try:
        lines = path.read_text(encoding="utf-8").split("\n")  # not splitlines: JSON may hold U+2028
    except ValueError as error:
        raise UserError(f"{path}: not UTF-8 ({error})") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UserError(f"{path}, line {number}: not JSON ({error})") from None
        if not isinstance(row, dict):
            raise UserError(f"{path}, line {number}: must be a JSON object with {', '.join(texts)}")
        for key in texts + tuple(key for key in optional if key in row):
            if not isinstance(row.get(key), str) or not row[key].strip():
                raise UserError(f"{path}, line {number}: '{key}' must be a non-empty text")
        rows.append((number, row))
    if not rows:
        raise MissingData(f"{path}: it is empty")
    return rows


def figure(value, samples, chance):
    """A figure with its 95 % interval from resamples, and the value a random model would have."""
    return {"value": float(value), "interval": metrics.interval(value, samples), "chance": float(chance)}


def mean_figure(values, chance, seed):
    """The mean of one value a query, resampling queries."""
    return figure(values.mean(), values[metrics.bootstrap_draws(len(values), seed)].mean(1), chance)
