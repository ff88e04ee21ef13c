"""Files that are whole or not there."""

import socket

import pytest

from amae_nnunet.whole import whole_file, write_whole


def test_the_text_is_written_as_it_is(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("before")
    assert write_whole(path, "Ångström\r\nnext\n") == path
    assert path.read_bytes() == "Ångström\r\nnext\n".encode()
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_what_cannot_be_written_leaves_what_was_there(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("before")
    with pytest.raises(UnicodeEncodeError):
        write_whole(path, "half\n" * 10_000 + "\ud800")
    assert path.read_text() == "before"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_two_machines_that_write_one_file_do_not_meet(tmp_path, monkeypatch):
    path, names = tmp_path / "a.png", iter(("node-1", "node-2"))
    monkeypatch.setattr(socket, "gethostname", lambda: next(names))
    with whole_file(path) as first, whole_file(path) as second:
        assert first != second
        assert first.suffix == second.suffix == ".png"
        first.write_text("first")
        second.write_text("second")
        assert not path.exists()
    assert path.read_text() == "first"
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_what_a_killed_process_has_left_is_no_hindrance(tmp_path):
    path = tmp_path / "a.json"
    with whole_file(path) as temporary:
        left = temporary
    left.write_text("half")
    write_whole(path, "whole", 0o600)
    assert path.read_text() == "whole"
    assert path.stat().st_mode & 0o777 == 0o600
    assert not left.exists()


def test_a_private_file_is_never_open_to_others(tmp_path):
    path = tmp_path / "a.tsv"
    with whole_file(path, 0o600) as temporary:
        assert temporary.stat().st_mode & 0o777 == 0o600
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_folder_that_is_not_there_is_an_error_of_the_system(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_whole(tmp_path / "gone" / "a.json", "text")
