"""What a new run does to an earlier one in its folder: nothing, until it has a round of its own."""

import pytest

from sparsefl.fl.previous import set_aside


@pytest.fixture
def folders(tmp_path):
    """Two folders of finished runs."""
    both = [tmp_path / "a", tmp_path / "b"]
    for folder in both:
        (folder / "checkpoint").mkdir(parents=True)
        (folder / "checkpoint/checkpoint.pt").write_text(f"old {folder.name}")
        (folder / "result.json").write_text("old")
        (folder / "model.pt").write_text("old")
    return both


def content(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_text() for path in files}


def test_within_there_is_room(folders):
    with set_aside(folders, resume=False):
        assert not (folders[0] / "checkpoint/checkpoint.pt").exists()
        assert not (folders[0] / "result.json").exists()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_what_fails_before_its_first_round_changes_nothing(folders, error):
    before = [content(folder) for folder in folders]
    with pytest.raises(error), set_aside(folders, resume=False):
        raise error
    assert [content(folder) for folder in folders] == before


def test_all_is_replaced_once_one_run_is_under_way(folders):
    with set_aside(folders, resume=False):
        (folders[0] / "checkpoint/checkpoint.pt").write_text("new")
    assert [content(folder) for folder in folders] == [{"checkpoint/checkpoint.pt": "new"}, {}]


def test_a_killed_process_has_lost_nothing(folders):
    before = content(folders[0])
    killed = set_aside(folders, resume=False)
    killed.__enter__()
    assert content(folders[0]) != before
    with set_aside(folders, resume=True):
        assert content(folders[0]) == before


def test_an_interrupted_run_is_not_overwritten(folders):
    (folders[1] / "result.json").unlink()
    before = [content(folder) for folder in folders]
    with pytest.raises(ValueError, match="holds an interrupted run"), set_aside(folders, False):
        pass
    assert [content(folder) for folder in folders] == before
