"""The probe's C where the valid split cannot judge a label, from its own table of C; more in test_tasks.py."""
import pytest
from test_tasks import StubModel, given, probe_world

from mulan_min import tasks


@pytest.mark.parametrize("everywhere", [False, True])
@pytest.mark.parametrize("label, wrong", [("y", -1), ("z", 0)])
def test_a_label_that_the_valid_split_cannot_judge_gets_the_c_that_is_best_on_average(tmp_path, label, wrong, everywhere):
    """The label is on none of the valid recordings, or on all of them. Without y the average is best at the first C, without z at
    the last, so neither of the two is always right."""
    recordings, audio, texts = probe_world(tmp_path)
    for r in recordings:
        if r.split == "valid":
            r.tags = [tag for tag in r.tags if tag != label] + [label] * everywhere
    result = tasks.probe(StubModel(texts), tmp_path, given(recordings, audio))
    means = list(result["valid_roc_auc_by_C"].values())
    best = tasks.PROBE_C[means.index(max(means))]
    assert result["C"][label] == best != tasks.PROBE_C[wrong] and result["C"].keys() == texts.keys()
    assert label in result["sets"]["all"]["labels"]      # the test split judges it
