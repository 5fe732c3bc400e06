# SPDX-License-Identifier: GPL-3.0-or-later
"""A hub in this process: the few routes of the Hugging Face hub that a download needs, and the faults it may show."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE = 1000
"""Files of at least this many bytes are told with a SHA-256, as the hub does for those it keeps apart from git."""


class Hub:
    """One repository and what is to go wrong.

    Attributes:
        files: content by path.
        announced: content the metadata describes, where it is another than what is sent.
        cut_after: connections end after so many bytes of a file's body, as often as `cuts` says.
        without_ranges: the server sends whole files, whatever is asked for.
        answers: status codes for a route's beginning, instead of an answer.
        requests: (method, path, Range header) of all that was asked.
    """

    def __init__(self, repository: str, files: dict[str, bytes]) -> None:
        self.repository = repository
        self.files = dict(files)
        self.announced: dict[str, bytes] = {}
        self.cut_after = 0
        self.cuts = 0
        self.without_ranges = False
        self.answers: dict[str, int] = {}
        self.commit = COMMIT
        self.endpoint = ""
        self.requests: list[tuple[str, str, str | None]] = []

    def fetched(self) -> list[tuple[str, str | None]]:
        """(path in the repository, Range) of the files asked for."""
        begin = f"/{self.repository}/resolve/{self.commit}/"
        return [(p.removeprefix(begin), r) for m, p, r in self.requests if m == "GET" and p.startswith(begin)]

    def info(self) -> bytes:
        siblings = []
        for path, sent in self.files.items():
            content = self.announced.get(path, sent)
            blob = hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()
            entry: dict[str, Any] = {"rfilename": path, "size": len(content), "blobId": blob}
            if len(content) >= LARGE:
                checksum = hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"size": len(content), "sha256": checksum, "pointerSize": 130}
            siblings.append(entry)
        return json.dumps({"id": self.repository, "sha": self.commit, "siblings": siblings}).encode()


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.requests.append(("GET", path, self.headers.get("Range")))
            for begin, status in hub.answers.items():
                if path.startswith(begin):
                    return self._say(status, b"")
            if path == f"/api/models/{hub.repository}/revision/main":
                return self._say(200, hub.info())
            content = hub.files.get(path.removeprefix(f"/{hub.repository}/resolve/{hub.commit}/"))
            if content is None:
                return self._say(404, b"")
            return self._send_file(content)

        def _send_file(self, content: bytes) -> None:
            asked = self.headers.get("Range")
            first = 0 if asked is None or hub.without_ranges else int(asked.removeprefix("bytes=").split("-")[0])
            self.send_response(206 if first else 200)
            self.send_header("Content-Length", str(len(content) - first))
            if first:
                self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
            self.send_header("X-Repo-Commit", hub.commit)
            self.end_headers()
            body = content[first:]
            if hub.cuts and len(body) > hub.cut_after:
                hub.cuts -= 1
                body = body[: hub.cut_after]
                self.close_connection = True
            self.wfile.write(body)

        def _say(self, status: int, body: bytes) -> None:
            self.send_response(status)
            if status == 404:
                self.send_header("X-Error-Code", "EntryNotFound" if "/resolve/" in self.path else "RepoNotFound")
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
