"""A reader's queues of samples: a full one loses each of its samples equally often."""
from collections import Counter
from types import SimpleNamespace

from test_shards import make_folder, stream

from mulan_min.shards import stream as shards
from mulan_min.shards.pack import pack
from mulan_min.shards.reader import Sample


def test_a_full_queue_loses_each_of_its_samples_equally_often(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "BUFFER", 32)      # 8 for each source
    pack(make_folder(tmp_path / "folder", 40, seconds=0.1), tmp_path / "shards", 10**9)
    reader = shards.Reader(stream(tmp_path / "shards"), 0, 1)
    queue, lost = reader.queues["sf"], Counter()
    assert len(queue) == reader.room["sf"] == 8
    reader.samples = (Sample((0, i), SimpleNamespace(text={"sf": ["x"]}, audio=SimpleNamespace(content=b""))) for i in range(1600))
    for _ in range(1600):
        before = list(queue)
        reader.read_one()
        changed = [i for i in range(8) if queue[i] is not before[i]]
        assert len(queue) == 8 and len(changed) == 1
        lost.update(changed)
    assert sum((lost[i] - 200) ** 2 / 200 for i in range(8)) < 29      # chi-square, 7 degrees of freedom: p = 0.0001
