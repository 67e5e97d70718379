"""How famkern starts: quickly, from anywhere, and on systems that lack what Linux has."""

import ast
import importlib
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import famkern
from famkern import cli

ROOT = Path(__file__).parents[1]


def python(code, **options):
    command = [sys.executable, "-c", textwrap.dedent(code)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["--version"], [], ["no-such-command"]])
def test_what_needs_no_pytorch_imports_none(arguments):
    result = python(f"""
        import sys
        sys.argv = ["famkern", *{arguments}]
        import famkern.cli
        try:
            famkern.cli.main()
        finally:
            heavy = {{"torch", "numpy", "PIL", "tifffile", "imagecodecs", "lightning"}} & set(sys.modules)
            assert not heavy, heavy
    """)
    assert "AssertionError" not in result.stderr, result.stderr


MOMENT = """if True:
    import builtins, os, signal, sys, time
    signal.signal(signal.SIGINT, signal.{handler})
    real = builtins.__import__

    def interrupted(name, *arguments):
        if name == {module!r}:
            builtins.__import__ = real
            try:
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.1)
            except KeyboardInterrupt:  # as what is imported may do
                pass
        return real(name, *arguments)

    builtins.__import__ = interrupted
    sys.argv = ["famkern", *{arguments}]
    from famkern.__main__ import main
    main()
"""


@pytest.mark.parametrize(("arguments", "module"), [(["--version"], "typer"), (["info"], "typer.core")])
def test_an_interrupt_while_it_is_imported_is_one_line(arguments, module):
    result = python(MOMENT.format(handler="default_int_handler", module=module, arguments=arguments))
    assert (result.returncode, result.stdout, result.stderr) == (130, "", "famkern: interrupted\n")


def test_where_interrupts_are_ignored_they_stay_so():
    result = python(MOMENT.format(handler="SIG_IGN", module="typer", arguments=["--version"]))
    assert (result.returncode, result.stdout, result.stderr) == (0, f"famkern {famkern.__version__}\n", "")


@pytest.mark.parametrize("fails", [True, False])
def test_further_interrupts_change_nothing(fails):
    """After the line of the first one, and after all is done, down to Python's own end."""
    result = python(f"""
        import atexit, importlib, os, signal, sys, types
        signal.signal(signal.SIGINT, signal.default_int_handler)

        class Late:
            def __del__(self, kill=os.kill, me=os.getpid(), sigint=signal.SIGINT):
                kill(me, sigint)

        def info() -> None:
            if {fails}:
                os.kill(os.getpid(), signal.SIGINT)

        atexit.register(os.kill, os.getpid(), signal.SIGINT)
        sys.late = Late()
        sys.modules["famkern.cli.info"] = types.SimpleNamespace(info=info)
        sys.argv = ["famkern", "info"]
        from famkern.__main__ import main
        main()
    """)
    assert (result.returncode, result.stderr) == ((130, "famkern: interrupted\n") if fails else (0, ""))


def test_no_garbage_is_searched_for_while_the_command_is_imported_nor_at_its_end():
    """Each search walks through all of PyTorch, which takes half a second; while pictures are dehazed it is needed."""
    result = python("""
        import atexit, gc, sys

        class Module:
            @property
            def info(self):
                Garbage()
                print("imported", gc.isenabled())
                return info

        def info() -> None:
            print("run", gc.isenabled(), gc.get_freeze_count() > 1000)
            Garbage()

        class Garbage:
            def __init__(self):
                self.me = self

            def __del__(self):
                print("collected")

        atexit.register(lambda: print("end", gc.isenabled()))
        sys.modules["famkern.cli.info"] = Module()
        sys.argv = ["famkern", "info"]
        from famkern.__main__ import main
        main()
    """)
    assert result.stdout.split("\n") == ["imported False", "run True True", "end True", ""], result.stderr


def test_the_version_is_told_in_one_place():
    for command in (["-m", "famkern"], ["-c", "from famkern.__main__ import main; main()"]):
        result = subprocess.run([sys.executable, *command, "--version"], capture_output=True, text=True, check=False)
        assert (result.returncode, result.stdout) == (0, f"famkern {famkern.__version__}\n")
    assert re.fullmatch(r"\d+\.\d+\.\d+(\.dev\d+)?", famkern.__version__)
    assert not re.search(r"^version = \"", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_the_list_of_commands_says_what_each_says_itself(name):
    tree = ast.parse((ROOT / f"famkern/cli/{name}.py").read_text())
    documented = [ast.get_docstring(node) for node in tree.body if getattr(node, "name", None) == name]
    text = documented[0] if documented else importlib.import_module(f"famkern.cli.{name}").train.info.help
    assert text.split("\n\n")[0].replace("\n", " ") == cli.COMMANDS[name]


def test_every_public_name_is_there():
    result = python("""
        import sys, famkern
        assert "torch" not in sys.modules
        assert set(famkern.__all__) <= set(dir(famkern))
        for name in famkern.__all__:
            assert getattr(famkern, name) is getattr(famkern, name), name
        from famkern import *
        assert callable(dehaze) and models.available()
        try:
            famkern.no_such_name
        except AttributeError as error:
            assert "no_such_name" in str(error)
        else:
            raise AssertionError
    """)
    assert result.returncode == 0, result.stderr


def test_without_what_only_linux_has_pictures_are_dehazed_all_the_same(tmp_path):
    """Also where maps spill to disk: with the interfaces of Windows, and without compiled kernels."""
    result = python(
        """
        import mmap, os, pathlib, signal, sys
        import numpy as np
        import psutil  # which is made for each system
        import torch

        for module in ("resource", "fcntl", "pwd", "grp", "termios", "pty", "posix"):
            sys.modules[module] = None
        for name in ("preadv", "pwritev", "pread", "pwrite", "posix_fallocate", "major", "minor", "sched_getaffinity"):
            delattr(os, name)
        for name in ("SIGHUP", "SIGALRM", "SIGUSR1", "SIGKILL"):
            delattr(signal, name)
        private, anonymous = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, mmap.mmap
        for name in [name for name in dir(mmap) if name.startswith(("MAP_", "MADV_", "PROT_"))]:
            delattr(mmap, name)
        mmap.mmap = lambda fileno, length, tagname=None: anonymous(fileno, length, flags=private)
        for name in ("is_file", "exists", "read_text", "read_bytes"):
            def guarded(path, *args, real=getattr(pathlib.Path, name), name=name, **options):
                if str(path).startswith(("/proc", "/sys")):
                    if name.startswith("read"):
                        raise FileNotFoundError(path)
                    return False
                return real(path, *args, **options)
            setattr(pathlib.Path, name, guarded)

        import famkern
        import famkern.cli
        from famkern import engine

        engine.disk.IN_MEMORY = set()
        picture = np.random.default_rng(0).integers(0, 256, (41, 30, 3), dtype=np.uint8)
        whole = famkern.dehaze(picture)
        least = famkern.Dehazer().least_memory(41, 30)
        assert np.array_equal(whole, famkern.dehaze(picture, memory=least))
        sys.argv = ["famkern", "dehaze", "--help"]
        famkern.cli.main()
        """,
        env={**os.environ, "FAMKERN_CPU_ISA": "none", "OMP_NUM_THREADS": "1", "FAMKERN_SPILL_DIR": str(tmp_path)},
    )
    assert result.returncode == 0, result.stderr
    assert "go to a file in" in result.stderr
