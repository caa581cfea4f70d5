"""Folders that are complete or do not exist; single files are in test_checkpoint.py."""
import shutil

from mulan_min.files import new_folder


def test_only_the_holder_of_a_lock_deletes_the_temporary_folders_of_others(tmp_path):
    """Without a lock another process may still be at work in one."""
    others = [tmp_path / ".out.making-1", tmp_path / ".other.making-1"]
    for other in others:
        other.mkdir()
    for locked in (False, True):
        with new_folder(tmp_path / "out", locked) as making:
            (making / "a").touch()
        assert [path.name for path in (tmp_path / "out").iterdir()] == ["a"]
        assert [other.is_dir() for other in others] == [not locked, True]
        shutil.rmtree(tmp_path / "out")
