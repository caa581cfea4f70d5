"""Which recordings training is validated on, and the remedy where there are too few."""
import numpy as np
import pytest
import soundfile

from mulan_min import validation
from mulan_min.config import resolve
from mulan_min.data import Recording, read_collection
from mulan_min.errors import UserError
from mulan_min.validation import choose_valid, middle_windows


def config(**given):
    return resolve({"preset": "smoke", "seconds": 0.5, "data": ["mine"], **given})


@pytest.fixture
def recordings(tmp_path):
    """Six ramps of 2 s; all have SF text, four have PL text as well, one has LF text."""
    texts = [{"sf": ["a"], "pl": ["b"]}] * 3 + [{"sf": ["a"], "pl": ["b"], "lf": ["c"]}] + [{"sf": ["a"]}] * 2
    for i in range(6):
        soundfile.write(tmp_path / f"{i}.wav", np.linspace(0, 0.1 * (i + 1), 32000), 16000, subtype="FLOAT")
    return [Recording(f"r{i}", tmp_path / f"{i}.wav", "valid", text) for i, text in enumerate(texts)]


def test_recordings_with_text_in_use_that_can_be_read(recordings):
    logged = []
    recordings[1].audio.write_bytes(b"no music")
    chosen = choose_valid(recordings, config(ratio="pl=1,aset=1"), logged.append)
    assert [(r.id, r.text) for r in chosen] == [(f"r{i}", {"pl": ["b"]}) for i in (0, 2, 3)]
    assert len(logged) == 1 and logged[0].startswith("left out of validation: r1: ") and "1.wav: not audio" in logged[0]
    for window, i in zip(middle_windows(chosen, config()), (0, 2, 3)):
        np.testing.assert_allclose(window, np.linspace(0, 0.1 * (i + 1), 32000)[12000:20000], atol=1e-6)


def test_of_many_recordings_some_are_chosen_that_are_spread_evenly(recordings, monkeypatch):
    """A manifest is often sorted, by album or by source."""
    for most, expected in ((3, [0, 2, 4]), (4, [0, 1, 3, 4]), (6, range(6)), (7, range(6))):
        monkeypatch.setattr(validation, "VALID_RECORDINGS", most)
        assert [r.id for r in choose_valid(recordings, config(ratio="sf=1"))] == [f"r{i}" for i in expected]


def refusal(recordings, **given):
    with pytest.raises(UserError) as caught:
        choose_valid(recordings, config(**given), print)
    start = "mine: two or more recordings of split 'valid' with text and readable audio are needed, not "
    assert str(caught.value).startswith(start) and "\n" not in str(caught.value)
    return str(caught.value).removeprefix(start)


def test_the_remedy_is_named(recordings):
    more = 'set "split": "valid" in more lines of the manifest, or import the music again with a larger --test-share'
    assert refusal(recordings[:1], ratio="sf=1") == f"1; {more}" and refusal([], ratio="sf=1") == f"0; {more}"
    ratio = "0; --ratio lf=2,aset=1 asks for text that they do not have; --ratio sf=2,pl=1 fits"
    assert refusal(recordings[:3], ratio="lf=2,aset=1") == ratio
    assert refusal(recordings[:4], ratio="lf=1").endswith("--ratio sf=2,pl=1 fits") and refusal(recordings[:4], ratio="lf=1")[0] == "1"
    assert refusal(recordings[4:], ratio="pl=1").endswith("--ratio sf=2 fits")
    assert len(choose_valid(recordings, config(ratio="sf=2,pl=1"))) == 6      # what it said does work
    for r in recordings[1:]:
        r.audio.write_bytes(b"no music")
    assert refusal(recordings, ratio="sf=1").startswith(f"1; the first that cannot be read: {recordings[1].audio}: not audio")


def test_no_recording_of_a_split_names_the_remedy(tmp_path):
    (tmp_path / "a.wav").touch()
    (tmp_path / "manifest.jsonl").write_text('{"id": "a", "audio": "a.wav", "split": "train", "text": {"sf": ["a"]}}')
    with pytest.raises(UserError, match="no recording with split 'valid' in .*: set it in some lines of the manifest, or .*--test-share"):
        read_collection([tmp_path], "valid")
