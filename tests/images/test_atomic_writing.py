"""A file that is written is there whole, or not at all and the one before it is; nothing else is ever left."""

import errno
import os
import resource
import stat

import numpy as np
import pytest

from famkern.images import ImageError, Picture, bmp, jpeg, png, read, replacing, tiff, webp, write

CODECS = {"JPEG": jpeg, "PNG": png, "WEBP": webp, "TIFF": tiff, "BMP": bmp}
FORMATS = list(CODECS)


@pytest.fixture
def folder(tmp_path):
    """A folder with one file, which a failure must leave as it is."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a").write_bytes(b"what was there")
    return tmp_path / "folder"


def untouched(folder) -> bool:
    return [path.name for path in folder.iterdir()] == ["a"] and (folder / "a").read_bytes() == b"what was there"


@pytest.mark.parametrize("format", FORMATS)
def test_an_existing_file_is_replaced(folder, picture, format):
    write(folder / "a", picture(format=format), format=format)
    assert [path.name for path in folder.iterdir()] == ["a"]
    assert read(folder / "a").format == format


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("failure", [KeyboardInterrupt(), MemoryError(), SystemExit(1)])
def test_an_interruption_in_the_middle_passes_through_and_leaves_all_as_it_was(
    folder, picture, monkeypatch, format, failure
):
    def encode(file, *args, **kwargs):
        file.write(b"half of it")
        raise failure

    monkeypatch.setattr(CODECS[format], "encode", encode)
    with pytest.raises(type(failure)):
        write(folder / "a", picture(), format=format)
    assert untouched(folder)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), ValueError("too odd")])
def test_a_failure_in_the_middle_is_told_and_leaves_all_as_it_was(folder, picture, monkeypatch, format, failure):
    def encode(file, *args, **kwargs):
        file.write(b"half of it")
        raise failure

    monkeypatch.setattr(CODECS[format], "encode", encode)
    reason = "No space left on device" if isinstance(failure, OSError) else f"as {format} .*too odd"
    with pytest.raises(ImageError, match=reason) as caught:
        write(folder / "a", picture(), format=format)
    assert str(caught.value).startswith(f"{folder / 'a'}: ")
    assert caught.value.__cause__ is failure
    assert untouched(folder)


def test_a_failure_to_move_the_file_into_place_leaves_all_as_it_was(folder, picture, monkeypatch):
    def replace(source, target):
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(ImageError, match="Operation not permitted"):
        write(folder / "a", picture(), format="PNG")
    assert untouched(folder)


@pytest.mark.parametrize("format", FORMATS)
def test_a_full_disk(folder, picture, format):
    noise = picture(400, 400)
    # The system's limit on the size of a file stands in for the disk: all but the first 70,000 bytes are refused.
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (70_000, hard))
    try:
        with pytest.raises(ImageError, match=r"cannot be written \(File too large\)"):
            write(folder / "a", noise, format=format, quality=100)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert untouched(folder)


def test_places_that_cannot_be_written(tmp_path, picture):
    (tmp_path / "file").touch()
    for path, reason in (
        (tmp_path / "file" / "a.png", "Not a directory"),
        (tmp_path / "file" / "missing" / "a.png", "Not a directory"),
        (tmp_path, "is a folder"),
    ):
        with pytest.raises(ImageError, match=reason) as caught:
            write(path, picture(), format="PNG")
        assert str(caught.value).startswith(f"{path}: ")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_permissions_follow_the_umask(tmp_path, picture, format, umask):
    before = os.umask(umask)
    try:
        write(tmp_path / "a", picture(), format=format)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o666 & ~umask


def test_through_a_link_the_file_it_points_to_is_replaced(tmp_path, picture):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.png").write_bytes(b"old")
    (tmp_path / "link.png").symlink_to(tmp_path / "real" / "a.png")
    write(tmp_path / "link.png", picture())
    assert (tmp_path / "link.png").is_symlink()
    assert np.array_equal(read(tmp_path / "real" / "a.png").pixels, picture().pixels)
    assert [path.name for path in (tmp_path / "real").iterdir()] == ["a.png"]


def test_a_name_as_long_as_the_system_allows(tmp_path, picture):
    write(tmp_path / ("a" * 251 + ".png"), picture())
    assert len(list(tmp_path.iterdir())) == 1


def test_the_picture_is_not_changed(tmp_path, picture):
    for format in FORMATS:
        for dtype in (np.uint8, np.uint16, np.float32):
            original = picture(dtype=dtype, grey=True)
            original.pixels.flags.writeable = False
            write(tmp_path / "a", Picture(original.pixels, grey=True), format=format)
            assert np.array_equal(original.pixels, picture(dtype=dtype, grey=True).pixels)


def test_names_may_be_strings_and_relative(tmp_path, picture, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write("a.png", picture())
    assert np.array_equal(read("a.png").pixels, picture().pixels)


@pytest.mark.parametrize("lasting", [False, True])
def test_what_is_to_last_is_on_the_disk_before_it_takes_the_place(folder, monkeypatch, lasting):
    seen, replace = [], os.replace
    monkeypatch.setattr(os, "fsync", lambda number: seen.append(os.fstat(number).st_size))
    monkeypatch.setattr(os, "replace", lambda *paths: seen.append("moved") or replace(*paths))
    with replacing(folder / "a", lasting=lasting) as file:
        file.write(b"new")
    assert seen == ([3, "moved"] if lasting else ["moved"])
    assert (folder / "a").read_bytes() == b"new"
