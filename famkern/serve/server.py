"""Server: the page behind a port, its files in a temporary folder."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..dehazer import Dehazer
from .sessions import Session, Sessions
from .settings import Settings

SWEEP_EVERY = 5.0  # seconds
PATIENCE = 5  # seconds for requests in progress to end, once all is to


@dataclass(frozen=True)
class Server:
    """A page whose port is open already; `run` answers."""

    address: str
    _server: Any
    _socket: socket.socket

    def run(self) -> None:
        """Answer until SIGINT or SIGTERM; then end as these end any program."""
        self._server.run(sockets=[self._socket])


@contextmanager
def bound(settings: Settings) -> Iterator[Server]:
    """A server with its port open; after the block, all its files are gone.

    Raises:
        ModuleNotFoundError: without the extra `serve`.
        ValueError, TypeError: for a device, precision or number of threads that cannot be, a host that is none, a port that
            is taken.
        famkern.models.WeightsError: if the weights that come with famkern are not what they were.
    """
    Dehazer(device=settings.device, dtype=settings.dtype, threads=settings.threads)
    with _open(settings) as listening, tempfile.TemporaryDirectory(prefix="famkern-serve-") as folder:
        # Gradio reads these when it is imported.
        os.environ.update(GRADIO_TEMP_DIR=os.path.realpath(folder), GRADIO_ANALYTICS_ENABLED="False")
        yield _server(settings, listening, Path(folder))


def _open(settings: Settings) -> socket.socket:
    """The port."""
    at = f"{settings.host}, port {settings.port}"
    try:
        family, _, _, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return socket.create_server(address[:2], family=family)
    except OSError as error:
        # A host that is none has numbers of its own.
        problem = str(error.strerror if isinstance(error, socket.gaierror) else os.strerror(error.errno or 0)).lower()
        raise ValueError(f"{at}: cannot be listened on ({problem}); choose others with --host and --port") from None


def _server(settings: Settings, listening: socket.socket, folder: Path) -> Server:
    import gradio
    import uvicorn
    from fastapi import FastAPI

    from .guard import Guard
    from .page import CSS, page, theme
    from .transfers import routes

    port = listening.getsockname()[1]
    sessions = Sessions(folder, keep=60 * settings.keep)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        task = asyncio.create_task(_sweep(sessions))
        try:
            yield
        finally:
            task.cancel()

    inner = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    guard = Guard(inner, settings, sessions, cookie=f"famkern-{port}")

    def stopped(session: Session) -> bool:
        return guard.stopped.is_set() or session.is_left()

    inner.router.routes.extend(routes(guard.session_of, settings))
    gradio.mount_gradio_app(
        inner,
        page(settings, guard.session_of, stopped),
        path="/",
        footer_links=[],
        run_history=False,
        show_error=False,
        root_path=settings.public,
        max_file_size=settings.upload_bytes,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        enable_monitoring=False,
        theme=theme(),
        css=CSS,
    )

    class Stopping(uvicorn.Server):
        """Tells the guard, so that what would never end by itself does."""

        def handle_exit(self, sig: int, frame: Any) -> None:
            if sig == signal.SIGINT and guard.stopped.is_set():
                return  # the end is near, whoever asks again
            guard.stop()
            super().handle_exit(sig, frame)

    config = uvicorn.Config(guard, log_config=None, access_log=False, timeout_graceful_shutdown=PATIENCE)
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return Server(settings.public or f"http://{host}:{port}", Stopping(config), listening)


async def _sweep(sessions: Sessions) -> None:
    while True:
        await asyncio.sleep(SWEEP_EVERY)
        await asyncio.to_thread(sessions.sweep)
