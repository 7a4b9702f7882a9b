"""A page on this machine that shows pictures as they come: headless OpenCV has no window."""

import http.server
import logging
import os
import sys
import threading
import webbrowser

import numpy as np
from jaxtyping import UInt8

from mspn_jax.drawing import encode_picture

log = logging.getLogger("mspn_jax")

_PAGE = b"""<!DOCTYPE html><meta charset="utf-8"><title>mspn predict</title>
<style>body{margin:0;background:#222}img{display:block;margin:auto;max-width:100%;max-height:100vh}
</style><img src="/stream" alt="annotated frames">"""
_BOUNDARY = "frame"


class LivePage:
    """Serves the last picture at `address`, as a context, to browsers on this machine.

    A picture is only encoded while somebody watches.
    """

    def __init__(self) -> None:
        """Starts the server, on a free port."""
        self._changed = threading.Condition()
        self._jpeg, self._number, self._watchers, self._has_ended = b"", 0, 0, False
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self._new_handler())
        self._server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._server.server_port}/"
        threading.Thread(target=self._server.serve_forever, name="live page", daemon=True).start()

    def open_browser(self) -> None:
        """Opens the page in a browser, where there is a screen."""
        has_screen = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
        if has_screen or not sys.platform.startswith("linux"):
            webbrowser.open(self.address)

    def show(self, image: UInt8[np.ndarray, "H W 3"]) -> None:
        """Shows an RGB picture from now on."""
        if not self._watchers:
            return
        jpeg = encode_picture(image, ".jpg")
        with self._changed:
            self._jpeg, self._number = jpeg, self._number + 1
            self._changed.notify_all()

    def __enter__(self) -> "LivePage":
        return self

    def __exit__(self, *exception) -> None:
        with self._changed:
            self._has_ended = True
            self._changed.notify_all()
        self._server.shutdown()
        self._server.server_close()

    def _new_handler(self) -> type[http.server.BaseHTTPRequestHandler]:
        page = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path == "/":
                    self._begin("text/html; charset=utf-8")
                    self.wfile.write(_PAGE)
                elif self.path == "/stream":
                    self._begin(f"multipart/x-mixed-replace; boundary={_BOUNDARY}")
                    page._send_to(self.wfile)
                else:
                    self.send_error(404)

            def _begin(self, content_type: str) -> None:
                self.send_response(200)
                self.send_header("Content-Type", content_type)
                self.send_header("Cache-Control", "no-store")
                self.end_headers()

            def log_message(self, format: str, *args) -> None:
                pass

        return Handler

    def _send_to(self, file) -> None:
        """Sends every new picture until the watcher leaves; a slow one misses some."""
        sent = self._number
        with self._changed:
            self._watchers += 1
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda seen=sent: self._number > seen or self._has_ended)
                    jpeg, sent, has_ended = self._jpeg, self._number, self._has_ended
                if has_ended:
                    return
                head = f"--{_BOUNDARY}\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}"
                file.write(head.encode() + b"\r\n\r\n" + jpeg + b"\r\n")
        except OSError:
            return  # it left
        finally:
            with self._changed:
                self._watchers -= 1
