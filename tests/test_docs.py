"""The documents are true: their Python and shell blocks run, their variables exist, the site builds without a warning."""

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from famkern import cli

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "examples/README.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
PAGES.remove(ROOT / "docs/command-line.md")  # which has a test of its own, test_command_line_page.py
BLOCK = re.compile(r"(?:^<!-- (not run|needs)(?:: | )(.+?) -->\n)?^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TEXT = re.compile(r"^    (?:famkern|pip|make|python|import|from) ", re.MULTILINE)  # code that is no block


def blocks(page):
    """The blocks of a page that are to run: language, text, and the module that it needs."""
    for match in BLOCK.finditer(page.read_text()):
        word, what, language, text = match.groups()
        assert language in ("python", "sh"), f"{page}: a block of {language}, which no test runs"
        if word != "not run":
            yield language, text, what


RUN = [page for page in PAGES if any(blocks(page))]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """What the documents speak of."""
    folder = tmp_path_factory.mktemp("pictures")
    pixels = np.random.default_rng(0).integers(90, 200, (40, 56, 3), dtype=np.uint8)
    for name in ("hazy.jpg", "room.jpg", "huge.jpg", "huge.tif", "holiday/one.jpg", "holiday/two.jpg", "drone/a.tif"):
        (folder / name).parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(folder / name)
    return folder


def names():
    """What the README's Python takes for given."""
    teacher, student = (torch.nn.Sequential(*(torch.nn.Conv2d(3, 3, 3) for _ in range(3))) for _ in range(2))
    return {
        "frames": torch.rand(2, 3, 24, 32),
        "pixels": np.zeros((24, 32, 3), np.uint8),
        "pictures": [torch.rand(3, 24, 32)],
        "teacher_features": torch.rand(1, 3, 64, 64),
        "student_features": torch.rand(1, 3, 32, 32),
        "task_loss": 0,
        "teacher": teacher,
        "student": student,
    }


@pytest.mark.parametrize("page", RUN, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_blocks_of_a_page_run_in_their_order(page, pictures, tmp_path, monkeypatch):
    shutil.copytree(pictures, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    missing, space = set(), names()
    for language, text, needed in blocks(page):
        if needed and importlib.util.find_spec(needed) is None:
            missing.add(needed)
        elif language == "python":
            # Not a checkpoint of FFA-Net's, which is no part of famkern, but of its shape.
            code = text.replace('"its_train_ffa_3_19.pk"', '"student"')
            exec(compile(code, str(page), "exec"), space)
        else:
            for line in text.replace("\\\n", "").splitlines():
                command = shlex.split(line, comments=True)
                if command:
                    run(command)
    if missing:
        pytest.skip(f"the rest ran; these blocks need {', '.join(missing)}")


def run(command):
    assert command[0] == "famkern", f"no test runs {command[0]}: say why before the block"
    arguments = [str(name) for word in command[1:] for name in (sorted(Path().glob(word)) if "*" in word else [word])]
    result = CliRunner().invoke(cli.app, arguments)
    assert result.exit_code == 0, f"{command}: {result.output}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_code_stands_in_blocks(page):
    assert not TEXT.findall(page.read_text())


def test_every_environment_variable_is_in_the_table_and_no_other():
    read = re.compile(r"""(?:environ(?:\.get|\.pop)?|getenv)[\[(]\s*["'](FAMKERN_\w+)""")
    sources = [ROOT / "setup.py"]
    for folder in ("famkern", "kernels", "training", "csrc", "tests/kernels"):
        sources += [path for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".cpp", ".h")]
    used = {name for path in sources for name in read.findall(path.read_text())}
    listed = re.findall(r"^\| .*$", (ROOT / "docs/environment.md").read_text(), re.MULTILINE)
    told = {name for line in listed for name in re.findall(r"`(FAMKERN_\w+)`", line.split("|")[1])}
    assert used == told


def test_the_messages_that_troubleshooting_explains_are_those_that_famkern_gives():
    sources = [path.read_text() for path in (ROOT / "famkern").rglob("*.py")]
    messages = re.findall(r'^## "(.+)"$', (ROOT / "docs/troubleshooting.md").read_text(), re.MULTILINE)
    assert len(messages) >= 3
    for message in messages:
        for part in re.split(r"\.\.\.|, slower: ", message):
            assert not part.strip() or any(part.strip() in text for text in sources), part


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_without_a_network(tmp_path):
    pytest.importorskip("material", reason="pip install famkern[docs]")
    pytest.importorskip("mkdocstrings", reason="pip install famkern[docs]")
    # No host can be reached by a proxy that is not there.
    environment = {
        **os.environ,
        "NO_MKDOCS_2_WARNING": "1",
        "https_proxy": "http://127.0.0.1:9",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "mkdocs", "build", "-q", "-d", tmp_path]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout + result.stderr) == (0, "")
    commands = (tmp_path / "commands.html").read_text()
    for name in cli.COMMANDS:
        assert f"famkern {name}" in commands
    assert "--overwrite" in commands
    python = (tmp_path / "python.html").read_text()
    for name in ("dehaze", "HookedAffinityLoss", "UStudent"):
        assert f"{name}</span>" in python or f">{name}<" in python
    external = re.compile(r"""<(?:script|link|img)[^>]+(?:src|href)=["']?https?://(?!127)[^"' >]+""")
    for page in tmp_path.rglob("*.html"):
        loaded = [found for found in external.findall(page.read_text()) if "rel=canonical" not in found]
        assert not loaded, page
