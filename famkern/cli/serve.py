"""`famkern serve`."""

from __future__ import annotations

from typing import Annotated

import typer

from .. import serve as web
from ..serve.settings import KEEP, MAX_PIXELS, MAX_UPLOAD, QUEUE
from .options import DeviceOption, DtypeOption, ThreadsOption
from .terminal import complain, fail, log_to_terminal, wrong_usage


def serve(
    host: Annotated[
        str, typer.Option(help="Name or address to listen on; 0.0.0.0 lets the network reach the page.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0: any that is free.")] = 7860,
    public: Annotated[
        str | None, typer.Option(metavar="URL", help="Address at which a reverse proxy offers the page.")
    ] = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    memory: Annotated[
        str | None, typer.Option(help='Bound on the memory that a picture may use, such as "1GiB".')
    ] = None,
    threads: ThreadsOption = None,
    max_pixels: Annotated[int, typer.Option(min=1, help="Refuse larger pictures.")] = MAX_PIXELS,
    max_upload: Annotated[str, typer.Option(metavar="SIZE", help="Refuse larger files.")] = MAX_UPLOAD,
    queue: Annotated[
        int, typer.Option(min=1, help="Pictures that may wait while one is computed; more are refused.")
    ] = QUEUE,
    keep: Annotated[
        int, typer.Option(min=1, metavar="MINUTES", help="Remove files after this time, though a page shows them.")
    ] = KEEP,
) -> None:
    """Offer a web page that removes haze from pictures, on this machine unless --host says otherwise.

    Pictures go the way of `famkern dehaze FILE`, one at a time. The files of a visitor are in a temporary folder until the
    page is closed, and nobody else can reach them. Exit code 2 for wrong usage, 130 after Ctrl-C.
    """
    log_to_terminal()
    with wrong_usage():
        settings = web.Settings(
            host=host,
            port=port,
            public=public,
            device=device,
            dtype=dtype,
            threads=threads,
            memory=memory,
            max_pixels=max_pixels,
            max_upload=max_upload,
            queue=queue,
            keep=keep,
        )
        try:
            with web.bound(settings) as server:
                complain(f"{server.address} (Ctrl-C ends)")
                server.run()
        except ModuleNotFoundError as error:
            fail(f"{error.name} is missing: {web.INSTALL}", code=2)
