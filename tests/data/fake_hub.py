"""A hub on this machine: the few answers that the hub's libraries ask for, made of folders.

hub/datasets/ORGANISATION/NAME/...    hub/models/ORGANISATION/NAME/...
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlparse

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class FakeHub(ThreadingHTTPServer):
    """Serves a folder. `asked` holds every requested path."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.folder = folder
        self.asked: list[str] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def fake_hub(folder: Path) -> Iterator[FakeHub]:
    hub = FakeHub(folder)
    thread = Thread(target=hub.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()


class _Answers(BaseHTTPRequestHandler):
    server: FakeHub

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        self._body = self.rfile.read(length)
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlparse(self.path).path)
        self.server.asked.append(path)
        api = re.fullmatch(r"/api/(datasets|models)/([^/]+/[^/]+)(?:/(.*))?", path)
        if api:
            self._about(api[1], api[2], api[3] or "")
            return
        found = re.fullmatch(r"/(?:(datasets)/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        if found:
            self._file(found[1] or "models", found[2], found[4])
            return
        self._error(404, "EntryNotFound")

    def _about(self, kind: str, name: str, rest: str) -> None:
        root = self.server.folder / kind / name
        if name == "team/ill":
            self._error(503, "ServiceUnavailable")
            return
        if not root.is_dir():
            self._error(404, "RepoNotFound")
            return
        files = sorted(path for path in root.rglob("*") if path.is_file())
        revision = re.match(r"(?:revision|tree|paths-info)/([^/]+)", rest)
        if revision and revision[1] not in ("main", COMMIT):
            self._error(404, "RevisionNotFound")
        elif rest.startswith("tree/"):
            under = root / (rest.split("/", 2)[2] if rest.count("/") > 1 else "")
            if not under.is_dir():
                self._error(404, "EntryNotFound")
                return
            found = sorted(under.rglob("*") if "recursive=true" in self.path.lower() else under.iterdir())
            self._json([self._entry(path, root) for path in found])
        elif rest.startswith("paths-info/"):
            wanted = self._wanted()
            self._json([self._entry(root / name, root) for name in wanted if (root / name).exists()])
        else:
            siblings = [{"rfilename": str(path.relative_to(root))} for path in files]
            self._json({"id": name, "sha": COMMIT, "private": False, "tags": [], "siblings": siblings})

    def _wanted(self) -> list[str]:
        body = self._body.decode()
        if body.startswith("{"):
            return list(json.loads(body)["paths"])
        return [
            unquote(part.split("=", 1)[1].replace("+", " ")) for part in body.split("&") if part.startswith("paths")
        ]

    @staticmethod
    def _entry(path: Path, root: Path) -> dict[str, Any]:
        name = str(path.relative_to(root))
        if path.is_dir():
            return {"type": "directory", "path": name, "oid": "0" * 40}
        content = path.read_bytes()
        return {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}

    def _file(self, kind: str, name: str, file: str) -> None:
        path = self.server.folder / kind / name / file
        if not path.is_file():
            self._error(404, "EntryNotFound" if (self.server.folder / kind / name).is_dir() else "RepoNotFound")
            return
        content = path.read_bytes()
        total, start = len(content), 0
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted:
            start = int(wanted[1])
            content = content[start : int(wanted[2]) + 1 if wanted[2] else None]
        self.send_response(206 if wanted else 200)
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{start + len(content) - 1}/{total}")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{hashlib.sha1(path.read_bytes()).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _json(self, document: Any) -> None:
        content = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _error(self, code: int, name: str) -> None:
        self.send_response(code)
        self.send_header("X-Error-Code", name)
        self.send_header("X-Error-Message", name)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *arguments: Any) -> None:
        """Do not log."""
