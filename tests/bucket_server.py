"""A local Google Cloud Storage: the part of its JSON API that gcsfs and tensorstore use.

    with BucketServer() as server:           # .environment() is for the programs that are to use it
        server.buckets["runs"] = {}          # name -> Object
        server.refuse = lambda method, path, query: 403 or None

Conditions on generations (ifGenerationMatch) hold everywhere. `refuse` is asked before each
request and can give a status to answer with instead, or do anything else at that moment.
"""

import http.server
import json
import re
import socketserver
import threading
import urllib.parse
from collections.abc import Callable
from typing import Any

from bucket_objects import Buckets, Refused

LARGEST_PAGE = 1000
NO_CONTENT = (204, 304)  # statuses whose answer has no body


def refuse_writing(method: str, path: str, query: dict) -> int | None:
    """The `refuse` of a read-only bucket."""
    return 403 if method != "GET" else None


class BucketServer(Buckets, socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, port: int = 0):
        Buckets.__init__(self)
        http.server.HTTPServer.__init__(self, ("127.0.0.1", port), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.uploads: dict[str, dict] = {}
        self.requests: list[str] = []
        self.refuse: Callable[[str, str, dict], int | None] = lambda method, path, query: None

    def environment(self) -> dict[str, str]:
        return {
            "STORAGE_EMULATOR_HOST": self.url,
            "TENSORSTORE_GCS_HTTP_URL": self.url,
            "NO_GCE_CHECK": "true",
            "GOOGLE_AUTH_TOKEN_FOR_TESTING": "x",
        }

    def __enter__(self) -> "BucketServer":
        self._thread = threading.Thread(
            target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self.shutdown()
        self.server_close()
        self._thread.join()

    def handle_error(self, request, client_address) -> None:
        """Prints nothing when a client disconnects."""

    def reads(self) -> list[str]:
        """The names of the objects whose bytes gcsfs asked for since the last call."""
        names = [
            request.partition("/o/")[2].partition("?")[0]
            for request in self.requests
            if "alt=media" in request and "tensorstore" not in request
        ]
        self.requests.clear()
        return sorted(map(urllib.parse.unquote, names))


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    server: BucketServer

    def log_message(self, *_) -> None:
        pass

    def reply(self, status: int, content: Any = b"", headers: dict[str, str] | None = None) -> None:
        is_json = not isinstance(content, bytes)
        if is_json:
            content = json.dumps(content).encode()
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        if status not in NO_CONTENT:
            kind = "application/json" if is_json else "application/octet-stream"
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Content-Type", kind)
        self.end_headers()
        if status not in NO_CONTENT and self.command != "HEAD":
            self.wfile.write(content)
        self.wfile.flush()

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def handle_request(self) -> None:
        url = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(url.query))
        body = self.body()
        self.server.requests.append(f"{self.command} {self.path}")
        try:
            status = self.server.refuse(self.command, urllib.parse.unquote(url.path), query)
            if status:
                raise Refused(status)
            parts = url.path.strip("/").split("/")
            self.route([urllib.parse.unquote(part) for part in parts], query, body)
        except Refused as refused:
            status = refused.args[0]
            message = http.HTTPStatus(status).phrase
            self.reply(status, {"error": {"code": status, "message": message}})

    do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = handle_request

    def route(self, parts: list[str], query: dict[str, str], body: bytes) -> None:
        is_upload = parts[0] == "upload"
        if parts[0] in ("upload", "download"):
            parts = parts[1:]
        match parts:
            case ["storage", "v1", "b", bucket] if bucket in self.server.buckets:
                self.reply(200, {"kind": "storage#bucket", "name": bucket, "id": bucket})
            case ["storage", "v1", "b", bucket, "o"] if is_upload:
                self.upload(bucket, query, body)
            case ["storage", "v1", "b", bucket, "o"]:
                self.list(bucket, query)
            case ["storage", "v1", "b", bucket, "o", name]:
                self.object(bucket, name, query)
            case ["storage", "v1", "b", bucket, "o", name, "rewriteTo", "b", to_bucket, "o", to]:
                got = self.copy((bucket, name), (to_bucket, to), query)
                self.reply(
                    200,
                    {
                        "kind": "storage#rewriteResponse",
                        "done": True,
                        "resource": got,
                        "totalBytesRewritten": got["size"],
                        "objectSize": got["size"],
                    },
                )
            case ["storage", "v1", "b", bucket, "o", name, "moveTo", "o", to]:
                got = self.copy((bucket, name), (bucket, to), query)
                del self.server.buckets[bucket][name]
                self.reply(200, got)
            case _:
                raise Refused(404)

    def copy(self, source: tuple[str, str], to: tuple[str, str], query: dict) -> dict[str, Any]:
        with self.server.lock:
            found = self.server.check(*source, {})
            if found is None:
                raise Refused(404)
            return self.server.put(*to, found.data, query, found.content_type, found.metadata)

    def list(self, bucket: str, query: dict[str, str]) -> None:
        if bucket not in self.server.buckets:
            raise Refused(404)
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        start, end = query.get("startOffset", ""), query.get("endOffset")
        token = query.get("pageToken", "")
        entries: dict[str, bool] = {}  # name -> whether it is a folder
        with self.server.lock:
            for name in sorted(self.server.buckets[bucket]):
                if not name.startswith(prefix) or name < start or (end and name >= end):
                    continue
                cut = name.find(delimiter, len(prefix)) if delimiter else -1
                entries[name if cut < 0 else name[: cut + len(delimiter)]] = cut >= 0
            names = [name for name in entries if name > token]
            page = names[: min(int(query.get("maxResults", LARGEST_PAGE)), LARGEST_PAGE)]
            answer: dict[str, Any] = {
                "kind": "storage#objects",
                "prefixes": [name for name in page if entries[name]],
                "items": [self.server.resource(bucket, n) for n in page if not entries[n]],
            }
        if len(names) > len(page):
            answer["nextPageToken"] = page[-1]
        self.reply(200, answer)

    def object(self, bucket: str, name: str, query: dict[str, str]) -> None:
        """One object: removed, described, or (a range of) its bytes."""
        with self.server.lock:
            found = self.server.check(bucket, name, query)
            if found is None or int(query.get("generation", found.generation)) != found.generation:
                raise Refused(404)
            resource = self.server.resource(bucket, name)
            if self.command == "DELETE":
                del self.server.buckets[bucket][name]
        if self.command == "DELETE":
            return self.reply(204)
        if query.get("alt") != "media":
            return self.reply(200, resource)
        size = len(found.data)
        headers = {
            "x-goog-generation": str(found.generation),
            "x-goog-metageneration": "1",
            "x-goog-stored-content-length": str(size),
            "ETag": f'"{found.generation}"',
        }
        given = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if not given:
            return self.reply(200, found.data, headers)
        first = int(given[1]) if given[1] else max(size - int(given[2]), 0)
        last = min(int(given[2]), size - 1) if given[1] and given[2] else size - 1
        if first >= size:
            raise Refused(416)
        headers["Content-Range"] = f"bytes {first}-{last}/{size}"
        return self.reply(206, found.data[first : last + 1], headers)

    def upload(self, bucket: str, query: dict[str, str], body: bytes) -> None:
        if bucket not in self.server.buckets:
            raise Refused(404)
        match query.get("uploadType"):
            case "media":
                kind = self.headers.get("Content-Type", "")
                self.reply(200, self.server.put(bucket, query["name"], body, query, kind))
            case "multipart":
                self.multipart(bucket, query, body)
            case _ if "upload_id" in query:
                self.resume(bucket, query["upload_id"], body)
            case _:
                self.begin(bucket, query, json.loads(body or b"{}"))

    def multipart(self, bucket: str, query: dict[str, str], body: bytes) -> None:
        """An upload of a description in json, and the bytes."""
        boundary = re.search(r'boundary="?([^";]+)', self.headers["Content-Type"])
        assert boundary
        described, content = body.split(b"--" + boundary[1].encode())[1:3]
        about = json.loads(re.split(rb"\r?\n\r?\n", described, maxsplit=1)[1])
        head, data = re.split(rb"\r?\n\r?\n", content, maxsplit=1)
        data = data[: -2 if data.endswith(b"\r\n") else -1]
        kind = re.search(rb"[Cc]ontent-[Tt]ype: ?([^\r\n]+)", head)
        name = about.get("name") or query["name"]
        self.reply(
            200,
            self.server.put(
                bucket, name, data, query, kind[1].decode() if kind else "", about.get("metadata")
            ),
        )

    def begin(self, bucket: str, query: dict[str, str], about: dict[str, Any]) -> None:
        """Starts a resumable upload, whose parts come later."""
        server = self.server
        name = about.get("name") or query["name"]
        server.check(bucket, name, query)
        key = str(next(server.generations))
        server.uploads[key] = {"name": name, "data": b"", "query": query} | about
        where = urllib.parse.urlencode(query | {"uploadType": "resumable", "upload_id": key})
        location = f"{server.url}/upload/storage/v1/b/{bucket}/o?{where}"
        self.reply(200, {}, {"Location": location})

    def resume(self, bucket: str, key: str, body: bytes) -> None:
        upload = self.server.uploads.get(key)
        if upload is None:
            raise Refused(404)
        if self.command == "DELETE":
            del self.server.uploads[key]
            return self.reply(499)
        given = re.fullmatch(
            r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)", self.headers.get("Content-Range", "bytes */*")
        )
        assert given
        if given[1] is not None:
            upload["data"] = upload["data"][: int(given[1])] + body
        size = len(upload["data"])
        if given[3] != "*" and int(given[3]) == size:
            got = self.server.put(
                bucket, upload["name"], upload["data"], upload["query"], "", upload.get("metadata")
            )
            del self.server.uploads[key]
            return self.reply(200, got)
        return self.reply(308, b"", {"Range": f"bytes=0-{size - 1}"} if size else {})
