"""AudioSet's ontology: what lies below a class, in which order, and which files are refused."""
import json

import pytest

from mulan_min.errors import UserError
from mulan_min.ontology import below, read_ontology

#      Music
#     /     \
#   Genre   Mood        Techno has two parents; Speech is not music
#   /  \      |
# Waltz Techno Sad
CLASSES = {"m": ("Music", "gd"), "g": ("Genre", "wt"), "w": ("Waltz", ""), "t": ("Techno", ""), "d": ("Mood", "st"),
           "s": ("Sad", ""), "o": ("Speech", "")}


def write(path, entries):
    path.write_text(json.dumps(entries), encoding="utf-8-sig")      # with a byte order mark
    return path


def test_below_walks_depth_first_with_a_stack(tmp_path):
    classes = read_ontology(write(tmp_path / "o.json", [{"id": key, "name": f" {name} ", "child_ids": list(children)}
                                                        for key, (name, children) in CLASSES.items()]))
    assert list(classes) == list(CLASSES) and classes["g"] == {"name": "Genre", "description": "", "child_ids": ["w", "t"]}
    assert below(classes, "Music") == ["g", "d", "s", "t", "w"]      # Mood is last, so its children come before those of Genre
    assert below(classes, "Genre") == ["w", "t"] and below(classes, "Sad") == below(classes, "Polka") == []


@pytest.mark.parametrize("entries, message", [
    ({"a": 1}, "TypeError"), ([1], "TypeError"), ([{"id": "m"}], "'name'"), ([{"id": "m", "name": "Music"}], "'child_ids'"),
    ([{"id": "m", "name": "Music", "child_ids": ["gone"]}], "'gone'"),
    ([{"id": "m", "name": 3, "child_ids": []}], "AttributeError"),
])
def test_a_bad_file_is_refused(tmp_path, entries, message):
    with pytest.raises(UserError, match=f"o.json: not AudioSet's ontology, .*{message}"):
        read_ontology(write(tmp_path / "o.json", entries))


def test_a_file_that_cannot_be_read_is_refused(tmp_path):
    for content in (b"{", b"[" * 100_000, b"\xff"):
        (tmp_path / "o.json").write_bytes(content)
        with pytest.raises(UserError, match="o.json: not AudioSet's ontology"):
            read_ontology(tmp_path / "o.json")
    with pytest.raises(UserError, match="none.json: .*FileNotFoundError"):
        read_ontology(tmp_path / "none.json")
