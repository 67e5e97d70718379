"""Whose files are whose, and when they go."""

import io
import os
import time

import pytest

from famkern.serve import Settings, sessions
from famkern.serve.sessions import CrowdedError, Sessions, safe_name


@pytest.fixture
def visitors(tmp_path):
    return Sessions(tmp_path, keep=60)


def test_a_file_is_found_by_its_own_session_alone(visitors, tmp_path):
    (key, mine), (_, other) = visitors.new(), visitors.new()
    path = mine.take("a.jpg", io.BytesIO(b"mine"))
    theirs = other.take("a.jpg", io.BytesIO(b"theirs"))
    assert visitors.get(key) is mine
    assert mine.find(str(path)).read_bytes() == b"mine"
    (path.parent / "link.jpg").symlink_to(theirs)
    (tmp_path / "beside.txt").write_text("secret")
    for wrong in (
        theirs,
        f"{mine.folder}/../{other.folder.name}/{theirs.parent.name}/a.jpg",
        path.parent / "link.jpg",
        tmp_path / "beside.txt",
        f"{mine.folder}-more",
        mine.folder,
        path.parent,
        "/etc/passwd",
        "a.jpg",
        "",
        "\0",
    ):
        assert mine.find(str(wrong)) is None, wrong
    assert other.find(str(path)) is None
    for unknown in (None, "", "no such key", mine.folder.name):
        assert visitors.get(unknown) is None


def test_folders_are_private_and_their_names_drawn(visitors):
    folders = set()
    for _ in range(3):
        path = visitors.new()[1].take("a.jpg", io.BytesIO())
        assert path.parent.stat().st_mode & 0o077 == 0
        assert len(path.parent.name) >= 20
        folders |= {path.parent.name, path.parent.parent.name}
    assert len(folders) == 6


def test_a_session_ends_when_no_request_has_been_in_progress_for_a_while(visitors, monkeypatch):
    key, session = visitors.new()
    path = session.take("a.jpg", io.BytesIO(b"a"))
    with visitors.using(session):
        monkeypatch.setattr(sessions, "GRACE", 0)
        visitors.sweep()
        assert path.exists()
    time.sleep(0.01)
    visitors.sweep()
    assert visitors.get(key) is None
    assert not session.folder.exists()


def test_files_go_after_a_time_though_a_page_shows_them(tmp_path):
    visitors = Sessions(tmp_path, keep=0.05)
    _, session = visitors.new()
    with visitors.using(session):
        old = session.take("a.jpg", io.BytesIO(b"a"))
        time.sleep(0.1)
        new = session.take("a.jpg", io.BytesIO(b"a"))
        visitors.sweep()
        assert (old.parent.exists(), new.exists()) == (False, True)


def test_the_oldest_uploads_and_idle_sessions_make_room(visitors, monkeypatch):
    monkeypatch.setattr(sessions, "MOST", 3)
    _, busy = visitors.new()
    with visitors.using(busy):
        paths = [busy.take(f"{index}.jpg", io.BytesIO(b"a")) for index in range(sessions.UPLOADS + 2)]
        assert [path.exists() for path in paths] == [False] * 2 + [True] * sessions.UPLOADS
        first, _ = visitors.new()
        others = [visitors.new()[1] for _ in range(4)]
        assert visitors.get(first) is None
        assert len(visitors) == 3
        with visitors.using(others[-1]), visitors.using(others[-2]), pytest.raises(CrowdedError):
            visitors.new()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.jpg", "a.jpg"),
        ("Sächsische Schweiz 1.TIF", "Sächsische Schweiz 1.TIF"),
        ("../../etc/passwd", "passwd"),
        ("C:\\pictures\\a.jpg", "a.jpg"),
        ("..", "picture"),
        ("", "picture"),
        (".hidden.png", "hidden.png"),
        ("a\0\n\x1b[31m\udc80.png", "a[31m.png"),
        ("<img src=x onerror=y>.png", "img src=x onerror=y.png"),
        ("a" * 300 + ".tiff", "a" * 95 + ".tiff"),
        ("a." + "b" * 300, "a." + "b" * 9),
    ],
)
def test_names_are_names_and_nothing_else(name, expected):
    assert safe_name(name) == expected
    assert os.path.basename(expected) == expected


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        ({"port": 65536}, "port is a number from 0"),
        ({"queue": 0}, "queue is a number of 1 or more, not 0"),
        ({"keep": 0}, "keep is a number of 1 or more, not 0"),
        ({"max_upload": "many"}, "max-upload is a size such as \"200MiB\", not 'many'"),
        ({"max_pixels": 0}, "max_pixels is a number of 1 or more"),
        ({"memory": "much"}, "a memory bound is a number of bytes"),
        ({"public": "example.org"}, 'public is an address such as "https://example.org/dehaze"'),
        ({"public": "ftp://example.org"}, "public is an address"),
    ],
)
def test_settings_that_cannot_be_are_refused(wrong, line):
    with pytest.raises(ValueError, match=line.replace("(", r"\(")):
        Settings(**wrong)
