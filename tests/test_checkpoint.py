"""A checkpoint file is complete or absent, and loading it never runs code."""
import os
import pickle

import pytest
import torch

from mulan_min import checkpoint
from mulan_min.errors import UserError


def test_round_trip_to_the_bit(tmp_path):
    state = {"step": 3, "model": {"w": torch.randn(5)}, "best": float("-inf"), "config": {"a": {"b": [1, "x"]}}}
    checkpoint.save(tmp_path / "run" / "last.pt", state)
    loaded = checkpoint.load(tmp_path / "run" / "last.pt")
    assert torch.equal(loaded["model"]["w"], state["model"]["w"]) and loaded["config"] == state["config"]
    assert os.listdir(tmp_path / "run") == ["last.pt"]


def test_a_failed_save_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "last.pt"
    checkpoint.save(path, {"step": 1})

    def disk_full(state, file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", disk_full)
    with pytest.raises(UserError, match="No space left"):
        checkpoint.save(path, {"step": 2})
    assert checkpoint.load(path)["step"] == 1 and os.listdir(tmp_path) == ["last.pt"]


def test_the_content_is_on_the_disk_before_the_old_file_is_replaced(tmp_path, monkeypatch):
    """Else a power cut after the rename leaves an empty file (ext4, XFS). The new name is given to what was synced, whole."""
    path, calls, fsync, rename = tmp_path / "last.pt", [], os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda file: calls.append(("fsync", os.fstat(file).st_ino, os.fstat(file).st_size)) or fsync(file))
    monkeypatch.setattr(os, "replace", lambda old, new: calls.append(("replace", os.stat(old).st_ino, os.stat(old).st_size)) or rename(old, new))
    for step in (1, 2):
        checkpoint.save(path, {"step": step, "model": torch.randn(1000)})
        saved = path.stat()
        assert calls == [("fsync", saved.st_ino, saved.st_size), ("replace", saved.st_ino, saved.st_size)] and saved.st_size > 4000
        calls.clear()
    assert checkpoint.load(path)["step"] == 2


@pytest.mark.parametrize("keep", [0, 10, 0.5, -1])
def test_truncated_files_are_refused(tmp_path, keep):
    path = tmp_path / "last.pt"
    checkpoint.save(path, {"model": torch.randn(1000)})
    data = path.read_bytes()
    path.write_bytes(data[:int(keep * len(data)) if keep == 0.5 else keep])
    with pytest.raises(UserError, match="last.pt: not a checkpoint"):
        checkpoint.load(path)


class Evil:
    def __reduce__(self):
        return os.mkdir, ("pwned",)


def test_pickled_code_is_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"format": 1, "model": Evil()}, "evil.pt")
    with open("plain.pt", "wb") as file:
        pickle.dump(Evil(), file)
    for name in ("evil.pt", "plain.pt"):
        with pytest.raises(UserError, match=rf"{name}: (refused, since loading posix\.mkdir could run code|not what torch\.save)"):
            checkpoint.load(name)
    assert not os.path.exists("pwned")


def test_a_file_in_the_place_of_the_folder_is_one_line(tmp_path):
    (tmp_path / "file").write_text("kept")
    with pytest.raises(UserError, match="cannot be written"):
        checkpoint.save(tmp_path / "file" / "last.pt", {})
    assert (tmp_path / "file").read_text() == "kept"


def test_missing_and_foreign_files(tmp_path):
    with pytest.raises(UserError, match="train first"):
        checkpoint.load(tmp_path / "none.pt")
    for content in ({"state_dict": {}}, {"format": torch.ones(2)}, [1]):
        torch.save(content, tmp_path / "foreign.pt")
        with pytest.raises(UserError, match="not a checkpoint of this version"):
            checkpoint.load(tmp_path / "foreign.pt")
    with pytest.raises(UserError, match="no checkpoint"):
        checkpoint.best_of(tmp_path)


def test_evaluation_takes_the_best_checkpoint_then_the_last_then_a_written_model(tmp_path):
    names = ["best.pt", "last.pt", "mulan.safetensors"]
    for name in names:
        (tmp_path / name).touch()
    assert checkpoint.best_of(tmp_path / "last.pt") == tmp_path / "last.pt"
    for name in names:
        assert checkpoint.best_of(tmp_path) == tmp_path / name
        (tmp_path / name).unlink()
    with pytest.raises(UserError, match="no checkpoint"):
        checkpoint.best_of(tmp_path)
