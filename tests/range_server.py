"""A small http server over a folder, with range requests and faults on demand."""

import re
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Server:
    """An http server with ranges over a folder, and the faults that it is told to make."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.fault = folder, lambda asked, count: ""  # "", a status, "short", "cut" or "whole"
        self.asked: Counter[tuple[str, str, str]] = Counter()  # (method, path, range)
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        """Stop answering."""
        self._server.shutdown()
        self._server.server_close()

    def answer(self, method: str, path: str, span: str) -> tuple[int, bytes, int]:
        """(status, body, announced length)."""
        with self._lock:
            self.asked[method, path, span] += 1
            fault = self.fault((method, path, span), self.asked[method, path, span])
        file = self.folder / path.partition("?")[0].lstrip("/")
        if fault.isdigit() or not file.is_file():
            return int(fault or 404), b"sorry", 5
        data, status = file.read_bytes(), 200
        if span and fault != "whole":
            start, end = map(int, re.fullmatch(r"bytes=(\d+)-(\d+)", span).groups())
            data, status = data[start : end + 1], 206
        if fault == "short":
            return status, data[:-1], len(data) - 1
        return status, data[: len(data) // 2] if fault == "cut" else data, len(data)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        answer = self.answer

        class Handler(BaseHTTPRequestHandler):
            """Sends what `answer` says."""

            def do_GET(self) -> None:  # noqa: N802
                """An object or a part of it."""
                self._send(body=True)

            def do_HEAD(self) -> None:  # noqa: N802
                """Its size."""
                self._send(body=False)

            def _send(self, body: bool) -> None:
                status, data, length = answer(self.command, self.path, self.headers.get("Range", ""))
                self.send_response(status)
                self.send_header("Content-Length", str(length))
                self.end_headers()
                if body:
                    self.wfile.write(data)
                self.close_connection = True

            def log_message(self, *_: object) -> None:
                """Nothing."""

        return Handler
