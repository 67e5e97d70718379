"""A web page that dehazes pictures, through Gradio, an extra.

with serve.bound(settings) as server:
    print(server.address)
    server.run()

settings.py what is allowed
sessions.py whose files are whose, and when they go
pictures.py a picture as a job of a batch, and what the page shows of it
page.py     what a visitor sees
guard.py    what may be asked for, and by whom
server.py   all that behind a port
"""

from .server import Server, bound
from .settings import INSTALL, Settings

__all__ = ["INSTALL", "Server", "Settings", "bound"]
