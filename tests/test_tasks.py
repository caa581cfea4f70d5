"""The four tasks on a tiny collection with known embeddings and values computed by hand, the probe against scikit-learn,
and a one-line message for everything that can be missing or wrong."""

import json

import numpy as np
import pytest
import torch

from mulan_min import tasks
from mulan_min.data import Recording
from mulan_min.errors import MissingData, UserError
from mulan_min.labels import truth_table


class StubModel:
    """Its text embeddings are given: {text: vector}."""

    def __init__(self, texts):
        self.texts = texts

    def embed_text(self, texts):
        return torch.from_numpy(np.array([self.texts[text] for text in texts], dtype=np.float32))


def recording(name, tags=(), split="test", text=None):
    return Recording(id=name, audio=f"{name}.wav", split=split, text=text or {}, tags=list(tags))


def given(recordings, audio):
    """Replaces `split_embedder`: the embeddings (N, d) of all recordings are given. Each split has one note."""
    splits = np.array([r.split for r in recordings])
    return lambda split: ([r for r in recordings if r.split == split], audio[splits == split], [f"note of {split}"])


def write(folder, name, rows):
    lines = [json.dumps(rows)] if name == "labels.json" else [json.dumps(row) for row in rows]
    (folder / name).write_text("\n".join(lines))


# Four recordings on a line. "up" ranks them d c b a, "down" ranks them a b c d, and for "flat" all are tied.
AUDIO = np.array([[0.1, 1.0], [0.2, 1.0], [0.3, 1.0], [0.4, 1.0]])
TEXTS = {"up": [1, 0], "down": [-1, 0], "flat": [0, 1], "never": [1, 1], "always": [1, 1]}
FOUR = [recording("a", ["up", "always"]), recording("b", ["down", "always"]),
        recording("c", ["up", "flat", "always"]), recording("d", ["up", "always"])]  # fmt: skip


def test_tagging_by_hand(tmp_path):
    pair = ["up", "flat", "never", "always"]
    write(tmp_path, "labels.json", {"all": ["up", "down", "flat"], "pair": pair, "one": ["up"]})
    train = recording("x", ["never"], split="train")  # must be ignored
    result = tasks.tagging(StubModel(TEXTS), tmp_path, given([train, *FOUR], np.vstack([[9, 9], AUDIO])))
    assert result["recordings"] == 4
    # up: positives a, c, d on ranks 4, 2, 1: 2 of 3 pairs with b are right; AP = (1 + 1 + 3/4) / 3.
    # down: positive b on rank 2 of a b c d: 2 of 3 pairs; AP = 1/2. flat: all tied, AUC 1/2, AP 1/4.
    everything = result["sets"]["all"]
    assert everything["roc_auc"]["value"] == pytest.approx((2 / 3 + 2 / 3 + 1 / 2) / 3)
    assert everything["average_precision"]["value"] == pytest.approx((2.75 / 3 + 1 / 2 + 1 / 4) / 3)
    assert everything["roc_auc"]["chance"] == 0.5
    # Mean AP over all rankings. One positive among 4: (1 + 1/2 + 1/3 + 1/4) / 4 = 25/48. Three positives, with the
    # negative at rank 1..4: (1/2 + 2/3 + 3/4, 1 + 2/3 + 3/4, 1 + 1 + 3/4, 3) / 3.
    three = np.mean([23 / 12, 29 / 12, 33 / 12, 36 / 12]) / 3
    assert everything["average_precision"]["chance"] == pytest.approx((three + 25 / 48 + 25 / 48) / 3)
    low, high = everything["roc_auc"]["interval"]
    assert 0 <= low <= everything["roc_auc"]["value"] <= high <= 1 and low < high
    down = {"positives": 1, "roc_auc": pytest.approx(2 / 3), "average_precision": pytest.approx(1 / 2)}
    assert everything["labels"]["down"] == down
    # Labels on none or all of the recordings are left out, and so is a set of one label. The notes name them all.
    assert result["sets"]["pair"]["roc_auc"]["value"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert set(result["sets"]) == {"all", "pair"}
    notes = "\n".join(result["notes"])
    assert "without positives in the test split are left out: never\n" in notes
    assert "without negatives in the test split are left out: always\n" in notes
    assert "fewer than two labels of set 'one'" in notes
    assert "note of test\n" in notes  # what could not be read
    json.dumps(result, allow_nan=False)


def test_retrieval_by_hand(tmp_path):
    write(tmp_path, "playlists.jsonl", [
        {"title": "up", "description": "down", "tracks": ["c", "d"]},
        {"title": "down", "tracks": ["b", "elsewhere"]},
        {"title": "flat", "tracks": ["a"], "set": "other"},
        {"title": "up", "tracks": ["elsewhere"]},
    ])  # fmt: skip
    result = tasks.retrieval(StubModel(TEXTS), tmp_path, given(FOUR, AUDIO))
    sets = result["sets"]
    assert set(sets) == {"playlist/title", "playlist/description", "other/title"}
    assert sets["playlist/title"]["queries"] == 2
    assert sets["playlist/title"]["roc_auc"]["value"] == pytest.approx((1 + 2 / 3) / 2)
    assert sets["playlist/title"]["average_precision"]["value"] == pytest.approx((1 + 1 / 2) / 2)
    assert sets["playlist/description"]["roc_auc"]["value"] == 0.0
    assert sets["playlist/description"]["average_precision"]["value"] == pytest.approx((1 / 3 + 2 / 4) / 2)
    # One correct item: (1 + 1/2 + 1/3 + 1/4) / 4. Two correct items, over the six pairs of ranks:
    two = np.mean([(1 / i + 2 / j) / 2 for i in range(1, 5) for j in range(i + 1, 5)])
    assert sets["playlist/title"]["average_precision"]["chance"] == pytest.approx((25 / 48 + two) / 2)
    assert sets["other/title"]["roc_auc"]["value"] == 0.5
    assert "2 tracks are not recordings of the test split" in "\n".join(result["notes"]) and "note of test" in result["notes"]
    assert "none or all of the test recordings are left out: lines 4" in "\n".join(result["notes"])


def test_retrieval_without_playlists_uses_the_own_text_of_each_recording(tmp_path):
    test = [recording(name, text={"sf": [name, "up"]}) for name in "abc"] + [recording("untitled")]
    model = StubModel({"a": [1, 0, 0], "b": [1, 0, 0], "c": [0, 1, 1]})
    audio = np.array([[1.0, 0, 0], [0.5, 0, 0], [0, 0, 1.0], [5, 5, 5]])
    result = tasks.retrieval(model, tmp_path, given(test, audio))
    own = result["sets"]["own text"]
    # Scores: a and b both [1, .5, 0], c [0, 0, 1]. So a and c rank themselves first, and b ranks itself second.
    assert result["recordings"] == 3
    assert own["recall_at_1"]["value"] == pytest.approx(2 / 3)
    assert own["recall_at_1"]["chance"] == pytest.approx(1 / 3)
    assert "note of test" in result["notes"]
    assert own["recall_at_10"]["value"] == 1.0 == own["recall_at_10"]["chance"]
    assert own["median_rank"]["value"] == 1.0 and own["median_rank"]["chance"] == 2.0
    assert own["roc_auc"]["value"] == pytest.approx((1 + 1 / 2 + 1) / 3)
    assert own["average_precision"]["value"] == pytest.approx((1 + 1 / 2 + 1) / 3)


def test_triplets_by_hand(tmp_path):
    def row(set_, anchor, positive, negative):
        return {"set": set_, "anchor": anchor, "positive": positive, "negative": negative}

    write(tmp_path, "triplets.jsonl", [
        row("ontology", "up", "never", "down"), row("ontology", "up", "down", "never"),
        row("ontology", "up", "never", "always"), row("playlist", "flat", "never", "up"),
    ])  # fmt: skip
    sets = tasks.triplet(StubModel(TEXTS), tmp_path)["sets"]
    assert sets["ontology"]["accuracy"]["value"] == pytest.approx(0.5)  # correct, wrong, tied
    assert sets["ontology"]["triplets"] == 3 and sets["ontology"]["anchors"] == 1
    assert sets["ontology"]["accuracy"]["interval"] == [0.5, 0.5]  # with one anchor every resample is the same
    assert sets["playlist"]["accuracy"] == {"value": 1.0, "interval": [1.0, 1.0], "chance": 0.5}


# ---- probe -----------------------------------------------------------------------------


def test_every_triplet_counts_the_same_however_many_its_anchor_has(tmp_path):
    rows = [{"set": "s", "anchor": anchor, "positive": positive, "negative": negative} for anchor, positive, negative in
            (("up", "never", "down"), ("up", "down", "never"), ("up", "down", "always"), ("flat", "never", "up"))]
    write(tmp_path, "triplets.jsonl", rows)      # right, wrong, wrong, right: 2 of 4, but 2 / 3 as a mean over the two anchors
    assert tasks.triplet(StubModel(TEXTS), tmp_path)["sets"]["s"]["accuracy"]["value"] == pytest.approx(1 / 2)


def test_own_texts_look_for_recordings_and_not_the_other_way_round(tmp_path):
    """The texts of b and c are nearer to another recording, but among the texts only b's own is not the nearest to b."""
    recordings = [recording(name, text={"sf": [name]}) for name in "abc"]
    model = StubModel({"a": [3, 1, 0], "b": [2, 1, 0], "c": [0, 2, 1]})
    own = tasks.retrieval(model, tmp_path, given(recordings, np.eye(3)))["sets"]["own text"]
    assert own["recall_at_1"]["value"] == pytest.approx(1 / 3) and own["median_rank"]["value"] == 2.0


def cloud(seed, size, width, noise):
    """Points on the unit sphere (size, width), and four labels that are linear in them except for `noise`."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(size, width))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    slope = np.random.default_rng(99).normal(size=(width, 4)) * np.sqrt(width) / 2
    return x, x @ slope + noise * rng.normal(size=(size, 4)) > [[-1, 0, 0.5, 1]]


def probe_world(folder):
    """Few noisy training points in many dimensions, so that the best C is neither the smallest nor the largest."""
    labels = ["w", "x", "y", "z"]
    write(folder, "labels.json", {"all": labels + ["rare"]})
    recordings, rows = [], []
    for split, size in (("train", 60), ("valid", 100), ("test", 150)):
        x, truth = cloud(size, size, width=40, noise=np.array([0, 0.3, 1, 3]))  # easy and hard labels need different C
        rows.append(x)
        recordings += [recording(f"{split}{i}", [labels[k] for k in np.flatnonzero(row)], split)
                       for i, row in enumerate(truth)]  # fmt: skip
    recordings[-1].tags.append("rare")  # only in the test split, so it cannot be learned
    return recordings, np.concatenate(rows), {name: np.eye(40)[k] for k, name in enumerate(labels)}


def test_probe_fits_train_chooses_on_valid_and_reports_test(tmp_path):
    linear = pytest.importorskip("sklearn.linear_model", reason="scikit-learn is the oracle")
    recordings, audio, texts = probe_world(tmp_path)
    result = tasks.probe(StubModel(texts), tmp_path, given(recordings, audio))
    values = result["sets"]["all"]
    # The same with scikit-learn, one label and one C at a time.
    from sklearn.metrics import roc_auc_score

    truth = truth_table(recordings, list(texts))
    parts = {"valid": slice(60, 160), "test": slice(160, 310)}
    # Whitening by eigenvectors. It differs from ours by a rotation, which changes no prediction.
    variances, vectors = np.linalg.eigh(np.cov(audio[:60].T))
    white = (audio - audio[:60].mean(0)) @ vectors / np.sqrt(variances + 0.003 * variances.mean())

    def area(part, C, k):
        fit = linear.LogisticRegression(C=C, tol=1e-8, max_iter=5000).fit(white[:60], truth[:60, k])
        return roc_auc_score(truth[parts[part], k], fit.decision_function(white[parts[part]]))

    valid = np.array([[area("valid", C, k) for k in range(4)] for C in tasks.PROBE_C])
    assert list(result["valid_roc_auc_by_C"].values()) == pytest.approx(list(valid.mean(1)), abs=2e-3)
    best = [tasks.PROBE_C.index(C) for C in result["C"].values()]
    assert list(result["C"]) == list(texts) and len(set(best)) > 1  # else the test could not detect one shared C
    for k, i in enumerate(best):
        assert valid[i, k] > valid[:, k].max() - 2e-3
    test = np.mean([area("test", tasks.PROBE_C[i], k) for k, i in enumerate(best)])
    assert values["roc_auc"]["value"] == pytest.approx(test, abs=2e-3)
    zero_shot = np.mean([roc_auc_score(truth[160:, k], audio[160:, k]) for k in range(4)])
    assert values["zero_shot_roc_auc"]["value"] == pytest.approx(zero_shot, abs=1e-12)
    assert values["roc_auc"]["value"] > values["zero_shot_roc_auc"]["value"] + 0.03
    assert any("none or all of the train split are left out: rare" in note for note in result["notes"])
    assert {"note of train", "note of valid", "note of test"} < set(result["notes"])
    json.dumps(result, allow_nan=False)


def test_probe_never_uses_the_labels_of_the_test_split(tmp_path):
    recordings, audio, texts = probe_world(tmp_path)
    before = tasks.probe(StubModel(texts), tmp_path, given(recordings, audio))
    for r in recordings[160:]:
        r.tags = [name for name in texts if name not in r.tags]  # every label inverted
    after = tasks.probe(StubModel(texts), tmp_path, given(recordings, audio))
    assert after["C"] == before["C"]
    auc = [result["sets"]["all"]["roc_auc"]["value"] for result in (before, after)]
    assert auc[1] == pytest.approx(1 - auc[0])


# ---- faults ---------------------------------------------------------------------------


def one_line(error):
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("task, name, content, missing, message", [
    ("tagging", "labels.json", None, True, "labels.json: no such file"),
    ("tagging", "labels.json", "{", False, "not JSON"),
    ("tagging", "labels.json", '["up"]', False, "must hold"),
    ("tagging", "labels.json", "{}", False, "must hold"),
    ("tagging", "labels.json", '{"all": ["up", " "]}', False, "set 'all' has an empty label"),
    ("tagging", "labels.json", '{"all": ["up", "up"]}', False, "lists 'up' twice"),
    ("tagging", "labels.json", '{"all": ["never", "always"]}', True, "no set has two labels"),
    ("tagging", "labels.json", '{"all": ["up"]}', True, "no set has two labels"),
    ("probe", "labels.json", None, True, "labels.json: no such file"),
    ("retrieval", "playlists.jsonl", None, True, "two test recordings with SF text"),
    ("retrieval", "playlists.jsonl", "", True, "it is empty"),
    ("retrieval", "playlists.jsonl", "[1]", False, "line 1: must be a JSON object"),
    ("retrieval", "playlists.jsonl", '{"title": "", "tracks": ["a"]}', False, "line 1: 'title' must be"),
    ("retrieval", "playlists.jsonl", '{"title": "up", "tracks": []}', False, "line 1: 'tracks' must be"),
    ("retrieval", "playlists.jsonl", '{"title": "up", "tracks": ["a", 1]}', False, "line 1: 'tracks' must be"),
    ("retrieval", "playlists.jsonl", '{"title": "up", "tracks": ["q"]}', True, "no playlist holds some"),
    ("triplet", "triplets.jsonl", None, True, "triplets.jsonl: no such file"),
    ("triplet", "triplets.jsonl", '\n{"set": "s", "anchor": "up", "positive": "a"}', False, "line 2: 'neg"),
    ("triplet", "triplets.jsonl", "{]", False, "line 1: not JSON"),
    pytest.param("triplet", "triplets.jsonl", "[" * 100000, False, "line 1: not JSON", id="deep"),
])  # fmt: skip
def test_faults_of_the_collection(tmp_path, task, name, content, missing, message):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(UserError) as error:
        getattr(tasks, task)(StubModel(TEXTS), tmp_path, given(FOUR, AUDIO))
    assert message in one_line(error) and str(tmp_path) in one_line(error)
    assert isinstance(error.value, MissingData) == missing


def test_a_line_ends_at_a_line_feed_and_is_utf_8(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"title": "one\u2028line"}\r\n\n{"title": "two"}\n', encoding="utf-8")
    assert tasks.read_rows(path, texts=("title",)) == [(1, {"title": "one\u2028line"}), (3, {"title": "two"})]
    path.write_bytes(b'{"title": "one"}\n{"title": "caf\xe9"}\n')
    with pytest.raises(UserError, match="rows.jsonl, line 2: not JSON .*utf-8"):
        tasks.read_rows(path, texts=("title",))


def test_text_embeddings_that_are_not_finite_are_refused(tmp_path):
    write(tmp_path, "labels.json", {"all": ["up", "down"]})
    with pytest.raises(UserError, match="text embeddings are not all finite"):
        tasks.tagging(StubModel({"up": [np.nan, 0], "down": [1, 0]}), tmp_path, given(FOUR, AUDIO))


def test_a_probe_without_labels_in_the_valid_split(tmp_path):
    recordings, audio, texts = probe_world(tmp_path)
    for r in recordings[60:160]:
        r.tags = []
    with pytest.raises(MissingData, match="train and valid"):
        tasks.probe(StubModel(texts), tmp_path, given(recordings, audio))
