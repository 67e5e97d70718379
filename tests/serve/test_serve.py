"""`famkern serve`, as browsers and those who are no browsers meet it."""

import importlib.util
import io
import re
import socket
import sys
import threading
import time

import numpy as np
import psutil
import pytest
import tifffile
from PIL import Image

from famkern import cli

if importlib.util.find_spec("gradio") is None:
    pytest.skip("gradio is not installed: pip install 'famkern[serve]'", allow_module_level=True)

from .visitor import Running, Visitor

MAX_PIXELS = 60_000
MAX_UPLOAD = 300 * 1024


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    """The server that all tests of this process share; a list, for one test ends it."""
    servers = []
    yield servers
    for server in servers:
        server.process.kill()
        server.process.communicate()


@pytest.fixture
def server(started, tmp_path_factory):
    if not started:
        options = ("--max-pixels", str(MAX_PIXELS), "--max-upload", "300KiB", "--queue", "3", "--memory", "1GiB")
        started.append(Running(tmp_path_factory.mktemp("serve"), *options))
    return started[0]


@pytest.fixture
def visitor(server):
    with Visitor(server.address) as visitor:
        yield visitor


def pixels(height=40, width=56, dtype=np.uint8, seed=0):
    top = np.iinfo(dtype).max
    return np.random.default_rng(seed).integers(top // 3, top, (height, width, 3), dtype=dtype)


def encoded(image, format, **options):
    file = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(file, format, **options)
    return file.getvalue()


def picture(seed=0):
    return encoded(pixels(seed=seed), "PNG")


def tiff(samples, **options):
    file = io.BytesIO()
    tifffile.imwrite(file, samples, **options)
    return file.getvalue()


def kinds():
    """Pictures of many kinds, some of which no browser shows, by their names."""
    exif = Image.Exif()
    exif[0x010E], exif[0x0112] = "a lake", 6
    rgba = np.dstack([pixels(), np.full((40, 56), 90, np.uint8)])
    return {
        "a.jpg": encoded(pixels(), "JPEG", exif=exif, quality=90),
        "grey.jpg": encoded(pixels()[..., 0], "JPEG"),
        "sixteen.tif": tiff(pixels(dtype=np.uint16), photometric="rgb", description="sixteen bits"),
        "float.tiff": tiff(pixels().astype(np.float32) / 255, photometric="rgb"),
        "clear glass.png": encoded(rgba, "PNG"),
        "grey.png": encoded(pixels(dtype=np.uint16)[..., 0], "PNG"),
        "a.webp": encoded(pixels(), "WEBP", lossless=True),
        "a.bmp": encoded(pixels(), "BMP"),
        "no suffix": encoded(pixels(), "PNG"),
        "wide.png": encoded(pixels(12, 4200), "PNG"),
    }


def dehazed(folder, *options):
    """What the command makes of the files of a folder: the bytes of each, by name."""
    with pytest.raises(SystemExit) as end:
        cli.app(["dehaze", *map(str, folder.iterdir()), "-o", str(folder / "out"), *options])
    assert not end.value.code
    return {path.name: path.read_bytes() for path in (folder / "out").iterdir()}


def test_the_file_is_that_of_the_command_and_the_page_shows_it_small(visitor, tmp_path):
    for name, content in kinds().items():
        (tmp_path / name).write_bytes(content)
    expected = dehazed(tmp_path, "--threads", "1")
    for name, content in kinds().items():
        before, after, link = visitor.dehaze(name, content)
        answer = visitor.http.get(link)
        target = name if "." in name else f"{name}.png"
        assert answer.content == expected[target], name
        assert answer.headers["content-disposition"].startswith("attachment")
        shown = [Image.open(io.BytesIO(visitor.http.get(url).content)) for url in (before, after)]
        size = (2044, 5) if name == "wide.png" else (40, 56) if name == "a.jpg" else (56, 40)
        assert {(one.format, one.mode in ("RGB", "L"), one.size) for one in shown} == {("JPEG", True, size)}, name
        assert not np.array_equal(*map(np.asarray, shown))


def test_model_strength_and_scale_are_those_of_the_command(visitor, tmp_path):
    content = encoded(pixels(120, 200), "PNG")
    (tmp_path / "a.png").write_bytes(content)
    options = {"model": "u-indoor", "strength": 1.4, "scale": 2}
    expected = dehazed(tmp_path, *(f"--{name}={value}" for name, value in options.items()))
    assert visitor.http.get(visitor.dehaze("a.png", content, **options)[2]).content == expected["a.png"]
    assert visitor.http.get(visitor.dehaze("a.png", content, strength=0)[2]).content != expected["a.png"]


def test_two_visitors_at_once_get_their_own_pictures(server, tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.png").write_bytes(picture(ord(name)))
    expected, got = dehazed(tmp_path), {}

    def visit(name):
        with Visitor(server.address, name) as visitor:
            for _ in range(3):
                link = visitor.dehaze("same name.png", picture(ord(name)))[2]
                got.setdefault(name, set()).add(visitor.http.get(link).content)

    threads = [threading.Thread(target=visit, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == {name: {expected[f"{name}.png"]} for name in "ab"}


def test_no_file_can_be_had_but_ones_own(server, visitor):
    before, after, link = visitor.dehaze("a.png", picture())
    path = link.partition("file=")[2]
    assert visitor.get(path).status_code == 200
    with Visitor(server.address, "other") as other:
        theirs = other.upload("a.png", picture(1))
        for address in (before, after, link):
            assert other.http.get(address).status_code == 404
            assert other.http.head(address).status_code == 404
        elsewhere = (
            "/etc/passwd",
            "etc/passwd",
            "../../../../../../etc/passwd",
            f"{path}/../../../../../../../../../etc/passwd",
            "..%2f..%2f..%2f..%2f..%2fetc%2fpasswd",
            "%2e%2e/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
            f"{path}%00",
            f"file://{path}",
            "http://127.0.0.1:9/",
            "https://example.org/a.png",
            theirs,
            theirs.replace(theirs.split("/")[-3], path.split("/")[-4]),
            str(server.folder),
            path.rpartition("/")[0],
            __file__,
        )
        for wrong in elsewhere:
            answer = visitor.get(wrong)
            assert answer.status_code == 404, wrong
            assert "root:" not in answer.text
            if wrong != theirs:
                assert other.join(wrong).status_code == 403, wrong
        assert visitor.join(theirs).status_code == 403
    visitor.http.cookies.clear()
    assert visitor.get(path).status_code == 403


def test_nothing_else_is_offered(server, visitor):
    for path in (
        "info",
        "deep_link?session_hash=visitor",
        "file/etc/passwd",
        "proxy=http://example.org",
        "runs",
        "queue/status",
    ):
        assert visitor.http.get(f"/gradio_api/{path}").status_code == 404, path
    for path in ("call/dehaze", "run/dehaze", "component_server", "cancel", "run-history/connect", "process_recording"):
        assert visitor.http.post(f"/gradio_api/{path}", json={}).status_code == 404, path
    for path in (
        "/login",
        "/monitoring",
        "/docs",
        "/openapi.json",
        "/assets/../../../routes.py",
        "/static/..%2f..%2froutes.py",
    ):
        assert visitor.http.get(path).status_code in (403, 404), path
    here = server.address.removeprefix("http://")
    for headers in (
        {"Host": "evil.example"},
        {"Host": f"evil.example:{here.split(':')[1]}"},
        {"Origin": "http://evil.example"},
    ):
        assert visitor.http.get("/", headers=headers).status_code == 403, headers
    assert visitor.http.get("/", headers={"Origin": server.address}).status_code == 200
    picture = {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}
    for data in ([None, "student", picture, 1], [{"a": [picture]}], [{"path": None}], [{"path": ["/etc/passwd"]}]):
        body = {"data": data, "fn_index": 0, "session_hash": "visitor"}
        assert visitor.http.post("/gradio_api/queue/join", json=body).status_code == 403, data
    assert visitor.http.post("/gradio_api/queue/join", content=b"[" * 60_000).status_code == 400
    assert visitor.http.post("/gradio_api/queue/join", content=b" " * 70_000).status_code == 413


def test_the_page_needs_nothing_from_elsewhere(visitor):
    page = visitor.http.get("/")
    assert "connect-src" not in page.headers["content-security-policy"]
    assert page.headers["content-security-policy"].startswith("default-src 'self';")
    text = page.text + visitor.http.get("/theme.css").text
    assert not re.findall(r"""<(?:script|link|img|iframe)[^>]+(?:src|href)=["']?(?:https?:)?//[^"' >]+""", text)
    assert not re.findall(r"""(?:@import|url\()\s*["']?(?:https?:)?//""", text)


def test_what_is_too_large_is_refused_before_it_is_read(visitor):
    post = visitor.http.post
    assert post("/gradio_api/upload", files={"files": ("a.png", bytes(MAX_UPLOAD))}).status_code == 200
    for size in (MAX_UPLOAD + 1, MAX_UPLOAD * 3):
        answer = post("/gradio_api/upload", files={"files": ("a.png", bytes(size))})
        assert (answer.status_code, answer.text) == (413, "a file over 300KiB: the limit of this page")
    chunks = post(
        "/gradio_api/upload", content=iter([b"a"] * 3), headers={"Content-Type": "multipart/form-data; boundary=b"}
    )
    assert chunks.status_code == 411
    for files in ({"other": ("a.png", b"a")}, [("files", ("a.png", b"a"))] * 2):
        assert post("/gradio_api/upload", files=files).status_code == 400
    # A header that promises more pixels than there may be, and nothing behind it to decode.
    line = visitor.dehaze("huge.bmp", encoded(np.zeros((300, 201), np.uint8), "BMP")[:2000])
    assert line.startswith("huge.bmp: 201 x 300 = 60,300 pixels, over the limit of 60,000")


@pytest.mark.parametrize(
    ("name", "content", "wishes", "line"),
    [
        ("broken.jpg", encoded(pixels(), "JPEG")[:400], {}, "broken.jpg: "),
        ("empty.png", b"", {}, "empty.png: is empty; get another copy of the file"),
        ("a <b>.txt", b"no picture at all", {}, "a b.txt: is not a JPEG, PNG, "),
        ("film.mp4", b"anything", {}, "film.mp4: is a film, and this page is for pictures"),
        ("glass.jpg", encoded(np.zeros((9, 9, 4), np.uint8), "PNG"), {}, "glass.jpg: JPEG holds no transparency"),
        ("a.png", picture(), {"model": "teacher"}, "a.png: there is no model 'teacher' here; choose one of student"),
        ("a.png", picture(), {"model": "/etc/passwd"}, "a.png: there is no model '/etc/passwd' here"),
        ("a.png", picture(), {"model": ["student"]}, "a.png: there is no model ['student'] here"),
        ("a.png", picture(), {"strength": 3}, "a.png: strength is a number from 0 to 2, not 3"),
        ("a.png", picture(), {"strength": "1"}, "a.png: strength is a number from 0 to 2, not '1'"),
        ("a.png", picture(), {"scale": 9}, 'a.png: scale is a whole number from 1 to 8, or "auto", not 9'),
    ],
)
def test_what_cannot_be_done_is_one_line_and_the_server_goes_on(visitor, name, content, wishes, line):
    told = visitor.dehaze(name, content, **wishes)
    assert told.startswith(line)
    assert "\n" not in told
    assert "famkern-serve" not in told
    assert visitor.http.get("/").status_code == 200


def test_more_than_the_queue_holds_is_refused(visitor):
    path = visitor.upload("a.png", encoded(pixels(200, 300), "PNG"))
    answers = [visitor.join(path) for _ in range(8)]
    refused = [answer for answer in answers if answer.status_code != 200]
    assert refused
    assert {(answer.status_code, "Queue is full" in answer.text) for answer in refused} == {(503, True)}
    assert all(end["success"] for end in visitor.ends())


def test_files_go_when_the_page_is_closed(server):
    with Visitor(server.address, "leaving") as visitor:
        path = visitor.dehaze("a.png", picture())[2].partition("file=")[2]
        (folder,) = [folder for folder in server.sessions() if path.startswith(str(folder))]
        time.sleep(1.5)
        assert folder.exists()
        assert visitor.get(path).status_code == 200
    end = time.monotonic() + 30
    while folder.exists() and time.monotonic() < end:
        time.sleep(0.1)
    assert not folder.exists()


def test_thirty_pictures_leave_no_memory_descriptors_or_files_behind(server, visitor):
    process = psutil.Process(server.process.pid)
    content = picture()

    def state():
        files = [path for folder in server.sessions() for path in folder.rglob("*") if path.is_file()]
        return process.memory_info().rss, process.num_fds(), len(files)

    visitor.dehaze("a.png", content)
    path = visitor.upload("a.png", content)
    for _ in range(3):
        visitor.join(path)
        list(visitor.ends())
    memory, descriptors, files = state()
    for index in range(30):
        path = path if index % 2 else visitor.upload("a.png", content)
        visitor.join(path)
        list(visitor.ends())
    after = state()
    assert after[0] - memory < 30 * 2**20
    assert after[1] - descriptors <= 4
    assert after[2] - files <= 4 * 4


def test_interrupted_it_ends_with_130_and_one_line_and_leaves_nothing(server, started):
    with Visitor(server.address) as visitor:
        visitor.join(visitor.upload("a.png", encoded(pixels(200, 300), "PNG")))
        started.clear()
        assert server.interrupt() == (130, "", "famkern: interrupted\n")
    assert list(server.folder.iterdir()) == []


def test_without_gradio_one_line_names_the_extra(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(SystemExit) as end:
        cli.app(["serve", "--port", "0"])
    assert end.value.code == 2
    err = capsys.readouterr().err.splitlines()
    assert err[-1] == "famkern: gradio is missing: pip install 'famkern[serve]'"


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--host", "no.such.host.invalid"], "no.such.host.invalid, port 7860: cannot be listened on"),
        (["--host", "192.0.2.1"], "192.0.2.1, port 7860: cannot be listened on"),
        (["--max-upload", "many"], "max-upload is a size such as"),
        (["--memory", "0"], "a memory bound is a positive whole number of bytes"),
        (["--device", "tpu"], 'device is "cpu", "cuda" or "cuda:N"'),
        (["--threads", "0"], "threads is a whole number from 1"),
    ],
)
def test_what_cannot_be_is_refused_at_the_start(options, line, capsys):
    with pytest.raises(SystemExit) as end:
        cli.app(["serve", *options])
    err = capsys.readouterr().err.splitlines()
    assert end.value.code == 2
    assert err[-1].startswith(f"famkern: {line}")


def test_a_port_that_is_taken_is_told(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(SystemExit) as end:
        cli.app(["serve", "--port", str(taken.getsockname()[1])])
    assert end.value.code == 2
    assert "cannot be listened on (address already in use); choose others" in capsys.readouterr().err
