"""Tables, compared character by character."""

from mulan_min.report import format_table, results_table


def test_a_table_is_aligned():
    assert format_table([["a", "long name", 1, "x"], ["bbb", "b", 22, ""]], ["set", "m", "value", "c"]) == (
        "set  m          value  c\n"
        "---  ---------  -----  -\n"
        "a    long name      1  x\n"
        "bbb  b             22"
    )  # fmt: skip


def test_results_show_the_interval_and_the_chance_level_beside_each_value():
    auc = {"value": 0.91, "interval": [0.9, 0.9204], "chance": 0.5}
    rank = {"value": 3.0, "interval": [2.0, 11.5], "chance": 20.5}
    genre = {"labels": {}, "median_rank": rank, "roc_auc": auc}
    table = results_table({"genre": genre, "mood": {"roc_auc": auc}})
    assert table.splitlines()[2:] == [
        "genre  ROC-AUC      0.910  0.900 - 0.920   0.500",
        "       median rank    3.0     2.0 - 11.5    20.5",
        "mood   ROC-AUC      0.910  0.900 - 0.920   0.500",
    ]
