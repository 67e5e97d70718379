"""Imports point downwards only: cli -> batch -> video -> dehazer -> engine -> ops, and so on."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# room -> rooms that it may import, besides itself
FLOORS = {
    "__main__": {"cli", "interruption"},
    "interruption": set(),
    "cli": {
        "batch",
        "bench",
        "dehazer",
        "export",
        "models",
        "images",
        "ops",
        "training",
        "engine",
        "serve",
        "video",
        "cluster",
        "interruption",
    },
    "serve": {"batch", "dehazer", "engine", "images", "models", "ops"},
    "cluster": {"batch", "dehazer", "images"},
    "batch": {"dehazer", "engine", "images", "video"},
    "video": {"dehazer", "images"},
    "bench": {"batch", "dehazer", "engine", "export", "images", "models", "ops", "training", "video"},
    "selftest": {"dehazer", "models", "ops"},
    "export": {"dehazer", "images", "models"},
    "distillation": {"ops"},
    "dehazer": {"arguments", "engine", "models", "numeric", "ops", "pil", "threads"},
    "arguments": {"engine", "models", "numeric", "ops"},
    "engine": {"numeric", "ops"},
    "ops": {"kernels", "numeric"},
    "models": {"numeric"},
    "pil": {"images"},
    "threads": set(),
    "numeric": set(),
    "images": set(),
    "kernels": set(),
    "training": {"dehazer", "engine", "models", "ops", "images"},
}


def files_of(room):
    folder = {"kernels": ROOT / "kernels", "training": ROOT / "training"}.get(room, ROOT / "famkern" / room)
    return sorted(folder.rglob("*.py")) if folder.is_dir() else [folder.with_suffix(".py")]


def imports(path, room):
    """Rooms of famkern that a file imports, and whether at the top of the file."""
    package = ["famkern", *path.relative_to(ROOT).with_suffix("").parts[:-1]]
    if package[1:2] == ["famkern"]:
        package = package[1:]
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            names = [f"{module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            parts = name.split(".")
            if parts[0] == "famkern" and len(parts) > 1:
                yield parts[1], node in tree.body


@pytest.mark.parametrize("room", FLOORS)
def test_a_room_imports_only_what_lies_below(room):
    for path in files_of(room):
        for other, at_top in imports(path, room):
            if other in {room, "__version__"}:
                continue
            assert other in FLOORS[room], f"{path} imports famkern.{other}"
            assert not (room == "cli" and other == "training" and at_top), "cli imports training lazily"


def test_every_room_is_on_a_floor():
    found = {
        path.stem for path in (ROOT / "famkern").iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()
    }
    assert found - {"__init__"} <= set(FLOORS)
