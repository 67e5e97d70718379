"""A server of the tests, and a browser's part in plain HTTP."""

import json
import os
import signal
import subprocess
import sys
import textwrap

import httpx

# The command, in a process that tells of whatever it wants from elsewhere, and does not wait long for pages to come back.
COMMAND = """
    import sys

    def watch(event, details):
        if event in ("socket.connect", "socket.getaddrinfo"):
            host = details[1][0] if event == "socket.connect" and isinstance(details[1], tuple) else details[0]
            if event == "socket.getaddrinfo" or isinstance(details[1], tuple):
                if host not in ("127.0.0.1", "::1", "localhost", None):
                    print(f"asked for {host}", file=sys.stderr, flush=True)

    sys.addaudithook(watch)
    from famkern import cli, serve
    serve.sessions.GRACE, serve.server.SWEEP_EVERY = 1, 0.2
    sys.argv = ["famkern", "serve", *sys.argv[1:]]
    cli.main()
"""


class Running:
    """`famkern serve` on a free port, its files in `folder`."""

    def __init__(self, folder, *options):
        self.folder = folder
        environment = {**os.environ, "TMPDIR": str(folder), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        command = [sys.executable, "-c", textwrap.dedent(COMMAND), "--port", "0", *options]
        before = signal.signal(signal.SIGINT, signal.SIG_DFL)  # inherited: what runs in the background ignores it
        self.process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        signal.signal(signal.SIGINT, before)
        lines = iter(self.process.stderr.readline, "")
        line = next((line for line in lines if "Ctrl-C" in line), "")
        assert line.startswith("famkern: http://127.0.0.1:"), line
        self.address = line.split()[1]

    def sessions(self):
        """The folders of its visitors."""
        (own,) = self.folder.glob("famkern-serve-*")
        return [path for path in own.iterdir() if path.is_dir()]

    def interrupt(self):
        """What Ctrl-C does: exit code, and what it said since it started."""
        self.process.send_signal(signal.SIGINT)
        out, err = self.process.communicate(timeout=60)
        return self.process.returncode, out, err


class Visitor:
    """A browser with the page open."""

    def __init__(self, address, name="visitor"):
        self.name = name
        self.http = httpx.Client(base_url=address, timeout=120, trust_env=False)
        assert self.http.get("/").status_code == 200
        self._page = self.http.stream("GET", f"/gradio_api/heartbeat/{name}")
        self._page.__enter__()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._page.__exit__(None, None, None)
        self.http.close()

    def upload(self, name, content):
        """The path of a file that was taken."""
        answer = self.http.post("/gradio_api/upload", files={"files": (name, content)})
        assert answer.status_code == 200, answer.text
        (path,) = answer.json()
        return path

    def join(self, path, model="student", strength=1, scale=1):
        """The answer to asking for a place in the queue."""
        picture = {"path": path, "meta": {"_type": "gradio.FileData"}}
        body = {"data": [picture, model, strength, scale], "fn_index": 0, "session_hash": self.name}
        return self.http.post("/gradio_api/queue/join", json=body)

    def ends(self):
        """How what waits ends: the messages of the queue that say so."""
        with self.http.stream("GET", "/gradio_api/queue/data", params={"session_hash": self.name}) as stream:
            for line in stream.iter_lines():
                message = json.loads(line.removeprefix("data:")) if line else {}
                if message.get("msg") == "process_completed":
                    yield message
                if message.get("msg") == "close_stream":
                    return

    def dehaze(self, name, content, **wishes):
        """Links to what became of a picture: before, after and the file; or the line that says why nothing did."""
        answer = self.join(self.upload(name, content), **wishes)
        assert answer.status_code == 200, answer.text
        (end,) = self.ends()
        if not end["success"]:
            return end["output"]["error"]
        (before, after), button = end["output"]["data"]
        return before["url"], after["url"], button["value"]["url"]

    def get(self, path):
        """The answer to asking for a file by its path."""
        return self.http.get(f"/gradio_api/file={path}")
