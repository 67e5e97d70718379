"""Guard: what may be asked for, and by whom. It stands before everything that Gradio offers.

Gradio's own routes for files and uploads know no visitors, and others do more than this page needs; so few are let through,
and files come and go by routes of ours.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .sessions import CrowdedError, Session, Sessions
from .settings import LOOPBACK, Settings

API = "/gradio_api"
FILE = f"{API}/file="
UPLOAD = f"{API}/upload"
JOIN = f"{API}/queue/join"
# What the page asks for.
GETS = re.compile(
    r"/|/theme\.css|/favicon\.ico|/manifest\.json|/robots\.txt|/(assets|static)/.+"
    rf"|{API}/(queue/data|heartbeat/\w+|file=.+)"
)
POSTS = re.compile(f"{UPLOAD}|{JOIN}")
JOIN_BYTES = 64 * 1024  # of a request that only names a picture and how to dehaze it
OVERHEAD_BYTES = 64 * 1024  # around a file in an upload

HEADERS = {
    # Browsers fetch nothing from elsewhere, whatever a page or a library in it says.
    "Content-Security-Policy": "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; worker-src 'self' blob:; object-src 'none'; base-uri 'self'; "
    "form-action 'self'; frame-ancestors 'self'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


class Refused(Exception):
    """A request that is not answered: status and one line."""

    def __init__(self, status: int, line: str) -> None:
        super().__init__(line)
        self.status = status


class Guard:
    """Lets through to `app` what the page needs, from its own visitors; see `Sessions`."""

    def __init__(self, app: ASGIApp, settings: Settings, sessions: Sessions, cookie: str) -> None:
        self._app, self._settings, self._sessions, self._cookie = app, settings, sessions, cookie
        self._stopping: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self.stopped = threading.Event()

    def stop(self) -> None:
        """End what is in progress, which pages never do themselves. May be called from a signal's handler."""
        self.stopped.set()
        if self._loop and self._stopping:
            self._loop.call_soon_threadsafe(self._stopping.set)

    def session_of(self, request: Any) -> Session | None:
        """Whose request this is."""
        return self._sessions.get(request.cookies.get(self._cookie))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "lifespan":
            self._stopping, self._loop = asyncio.Event(), asyncio.get_running_loop()
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            request, headers = Request(scope), dict(HEADERS)
            try:
                session, body = await self._admit(request, receive, headers)
            except Refused as refused:
                response = PlainTextResponse(str(refused), refused.status, headers=headers)
                await response(scope, receive, send)
                return
            with self._sessions.using(session) if session else contextlib.nullcontext():
                await self._app(scope, self._until_stopped(receive, body), _with_headers(send, headers))

    async def _admit(
        self, request: Request, receive: Receive, headers: dict[str, str]
    ) -> tuple[Session | None, bytes | None]:
        """Whose request this is, and its body where that had to be read.

        Raises:
            Refused: if it is not let through.
        """
        self._check_origin(request)
        path, is_post = request.scope["path"], request.method == "POST"
        if not (POSTS if is_post else GETS).fullmatch(path) or request.method not in ("GET", "HEAD", "POST"):
            raise Refused(404, "there is nothing here")
        session = self.session_of(request)
        if path == "/" and session is None:
            session = self._begin(request, headers)
        if (is_post or path.startswith(FILE)) and session is None:
            raise Refused(403, "this page is no longer known here: reload it")
        if path == UPLOAD:
            _check_length(
                request, self._settings.upload_bytes + OVERHEAD_BYTES, f"a file over {self._settings.max_upload}"
            )
        if path != JOIN or session is None:
            return session, None
        _check_length(request, JOIN_BYTES, "more than this takes")
        body = await Request(request.scope, receive).body()
        _check_paths(body, session)
        return session, body

    def _check_origin(self, request: Request) -> None:
        """Refuse what pages of others have browsers ask for, and names that others give to this machine."""
        host, public = request.headers.get("host", ""), self._settings.public_host
        name = urlsplit(f"//{host}").hostname
        if self._settings.is_local and name not in LOOPBACK and host != public:
            raise Refused(403, f"this page is not at {host!r}; behind a proxy, start famkern serve with --public")
        origin = request.headers.get("origin")
        if origin is not None and urlsplit(origin).netloc not in (host, public):
            raise Refused(403, f"{origin!r} is another page's; behind a proxy, start famkern serve with --public")

    def _begin(self, request: Request, headers: dict[str, str]) -> Session:
        try:
            key, session = self._sessions.new()
        except CrowdedError:
            raise Refused(503, "too many visitors at the moment: try again later") from None
        secure = "; Secure" if (self._settings.public or str(request.url)).startswith("https:") else ""
        headers["Set-Cookie"] = f"{self._cookie}={key}; Path=/; HttpOnly; SameSite=Lax{secure}"
        return session

    def _until_stopped(self, receive: Receive, body: bytes | None) -> Receive:
        """What the application receives: the body if that was read, and that the visitor is gone once all is to end."""
        left = body

        async def received() -> Message:
            nonlocal left
            if left is not None:
                message, left = {"type": "http.request", "body": left, "more_body": False}, None
                return message
            assert self._stopping is not None
            tasks = [asyncio.ensure_future(receive()), asyncio.ensure_future(self._stopping.wait())]
            try:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                return tasks[0].result() if tasks[0].done() else {"type": "http.disconnect"}  # type: ignore[return-value]
            finally:
                for task in tasks:
                    task.cancel()

        return received


def _check_length(request: Request, most: int, what: str) -> None:
    """A body is as long as it says, or the connection ends; one that does not say is not read."""
    length = request.headers.get("content-length", "")
    if not length.isdecimal() or "transfer-encoding" in request.headers:
        raise Refused(411, "the length is missing")
    if int(length) > most:
        raise Refused(413, f"{what}: the limit of this page")


def _check_paths(body: bytes, session: Session) -> None:
    """Refuse files that are not this visitor's: Gradio would copy any that it can read, or fetch it from elsewhere."""
    try:
        paths = list(_paths(json.loads(body)))
    except (ValueError, RecursionError):
        raise Refused(400, "not JSON") from None
    if not all(isinstance(path, str) and session.find(path) for path in paths):
        raise Refused(403, "your picture is no longer here: drop it on the field again")


def _paths(value: Any) -> Iterator[Any]:
    """What stands under the name of path, anywhere."""
    if isinstance(value, dict):
        yield from (value[name] for name in ("path",) if name in value)
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _paths(item)


def _with_headers(send: Send, headers: dict[str, str]) -> Send:
    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).update(headers)
        await send(message)

    return sent
