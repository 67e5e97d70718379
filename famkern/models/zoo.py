"""The weights that come inside the package, each with a checksum and a model card.

weights/NAME.safetensors    the tensors
weights/NAME.md             the model card: data, recipe, figures, licence notes
weights/SHA256SUMS          checked at every load, and by `sha256sum -c`
"""

from __future__ import annotations

import hashlib
from importlib.resources import files
from pathlib import Path

WEIGHTS = Path(str(files("famkern.models"))) / "weights"


class WeightsError(ValueError):
    """Weights that cannot be used; the message is one line that says what was expected and what was found."""


def checksums() -> dict[str, str]:
    """Name of each shipped model -> sha256 of its file."""
    lines = (WEIGHTS / "SHA256SUMS").read_text().splitlines()
    return {name.removesuffix(".safetensors"): digest for digest, name in (line.split() for line in lines)}


def available() -> list[str]:
    """Names of the models that come with famkern, for `famkern.models.load` and `famkern.dehaze(model=...)`."""
    return sorted(checksums())


def summary(name: str) -> str:
    """One line about a shipped model: the first line of its card."""
    return (WEIGHTS / f"{name}.md").read_text(encoding="utf-8").splitlines()[0].lstrip("# ")


def verified(name: str) -> Path:
    """The file of a shipped model.

    Raises:
        WeightsError: if the file is not the one that was released.
    """
    path = WEIGHTS / f"{name}.safetensors"
    expected, found = checksums()[name], hashlib.sha256(path.read_bytes()).hexdigest()
    if found != expected:
        raise WeightsError(f"{path}: sha256 {expected} expected, {found} found: reinstall famkern")
    return path
