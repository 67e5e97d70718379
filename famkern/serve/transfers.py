"""Files in and out: uploads into a session's folder, and what lies there to its own visitor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from .guard import FILE, UPLOAD
from .pictures import PREVIEW
from .sessions import Session
from .settings import Settings


def routes(session_of: Callable[[Any], Session | None], settings: Settings) -> list[Route]:
    """The routes of the names that Gradio's pages use, for the visitors of this server."""

    async def upload(request: Request) -> Response:
        session = session_of(request)
        async with request.form(max_files=1, max_fields=4) as form:
            file = form.get("files")
            if session is None or not isinstance(file, UploadFile):
                return PlainTextResponse("no file", 400)
            if (file.size or 0) > settings.upload_bytes:
                return PlainTextResponse(f"a file over {settings.max_upload}: the limit of this page", 413)
            try:
                path = await run_in_threadpool(session.take, file.filename or "", file.file)
            except OSError as error:
                return PlainTextResponse(f"cannot be kept ({error.strerror}); try again later", 507)
        return JSONResponse([str(path)])

    async def download(request: Request) -> Response:
        session = session_of(request)
        path = session.find(request.path_params["path"]) if session else None
        if path is None:
            return PlainTextResponse("this file is not here, or no longer", 404)
        shown = path.parent.name == PREVIEW
        return FileResponse(
            path,
            media_type="image/jpeg" if shown else "application/octet-stream",
            filename=path.name,
            content_disposition_type="inline" if shown else "attachment",
            headers={"Cache-Control": "private, no-store"},
        )

    return [Route(UPLOAD, upload, methods=["POST"]), Route(f"{FILE}{{path:path}}", download, methods=["GET"])]
