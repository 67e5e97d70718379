"""Settings: where the page is, and what it takes."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from ..batch import Options
from ..engine import parse_bytes

INSTALL = "pip install 'famkern[serve]'"

LOOPBACK = ("localhost", "127.0.0.1", "::1")
MAX_PIXELS = 100_000_000
MAX_UPLOAD = "200MiB"
QUEUE = 20
KEEP = 60


@dataclass(frozen=True)
class Settings:
    """Where the page is, and what it takes.

    Args:
        host: name or address of the interface that is listened on.
        port: 0 for any that is free.
        public: the address that a reverse proxy offers the page at, such as "https://example.org/dehaze".
        device, dtype, threads: as `famkern.Dehazer` has them.
        memory: bound in bytes, or as text, on what processing a picture allocates, as `famkern.batch.Options` has it.
        max_pixels: larger pictures are refused, before they are decoded.
        max_upload: larger files are refused, before they are read; a size as text.
        queue: pictures that may wait while one is computed; more are refused.
        keep: minutes after which files go that a page still shows.

    Raises ValueError for what cannot be.
    """

    host: str = "127.0.0.1"
    port: int = 7860
    public: str | None = None
    device: str | None = None
    dtype: str | None = None
    threads: int | None = None
    memory: int | str | None = None
    max_pixels: int = MAX_PIXELS
    max_upload: str = MAX_UPLOAD
    queue: int = QUEUE
    keep: int = KEEP

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ValueError(f"port is a number from 0 (any that is free) to 65535, not {self.port}")
        if self.queue < 1 or self.keep < 1:
            name, value = ("queue", self.queue) if self.queue < 1 else ("keep", self.keep)
            raise ValueError(f"{name} is a number of 1 or more, not {value}")
        try:
            parse_bytes(self.max_upload)
        except ValueError:
            raise ValueError(f'max-upload is a size such as "200MiB", not {self.max_upload!r}') from None
        if self.public is not None and not self.public_host:
            raise ValueError(f'public is an address such as "https://example.org/dehaze", not {self.public!r}')
        self.options()

    @property
    def upload_bytes(self) -> int:
        """The size of the largest file that is taken."""
        return parse_bytes(self.max_upload)

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach the page."""
        return self.host in LOOPBACK

    @property
    def public_host(self) -> str | None:
        """Host, and port if it has one, of the public address."""
        parts = urlsplit(self.public or "")
        return parts.netloc if parts.scheme in ("http", "https") else None

    def options(self) -> Options:
        """How pictures are dehazed: as `famkern dehaze FILE` does, and with a comparison, to show."""
        return Options(compare=True, max_pixels=self.max_pixels, memory=self.memory)
