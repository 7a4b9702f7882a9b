"""A web server of files on this machine, with the faults that servers have."""

import http.server
import re
import threading
import time
from collections.abc import Iterator


class WebServer(http.server.ThreadingHTTPServer):
    """Serves `contents` by their names, as a context.

    Attributes:
      address: without a slash at its end.
      faults: one for each request to come: "cut" sends half of what is asked for, "slow" takes a
        pause between parts, "whole" ignores Range, "stuck" never ends, a number is a status.
      requests: (path, Range or "") of every request.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self, contents: dict[str, bytes], faults: Iterator[str | int] = iter(())):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.contents, self.faults = contents, list(faults)
        self.requests: list[tuple[str, str]] = []
        self.address = f"http://127.0.0.1:{self.server_port}"

    def __enter__(self) -> "WebServer":
        threading.Thread(target=self.serve_forever, args=[0.01], daemon=True).start()
        return self

    def __exit__(self, *exception) -> None:
        self.shutdown()
        self.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    server: WebServer

    def do_GET(self) -> None:
        asked = self.headers.get("Range", "")
        self.server.requests.append((self.path, asked))
        fault = self.server.faults.pop(0) if self.server.faults else ""
        content = self.server.contents.get(self.path.rpartition("/")[2])
        if isinstance(fault, int) or content is None:
            return self.send_error(fault or 404)
        tag = f'"{hash(content)}"'
        start, is_part = 0, False
        if asked and fault != "whole" and self.headers.get("If-Range", tag) == tag:
            start, is_part = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]), True
        if is_part and start >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.send_header("Content-Length", "0")
            return self.end_headers()
        self.send_response(206 if is_part else 200)
        if is_part:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.send_header("ETag", tag)
        self.end_headers()
        self._send(content[start:], fault)

    def _send(self, body: bytes, fault: str | int) -> None:
        if fault in ("cut", "stuck"):
            body = body[: len(body) // 2]
        step = max(1, len(body) // 5) if fault == "slow" else len(body)
        for first in range(0, len(body), step):
            self.wfile.write(body[first : first + step])
            time.sleep(0.05 if fault == "slow" else 0)
        if fault == "stuck":
            time.sleep(5)

    def log_message(self, *arguments) -> None:
        pass
