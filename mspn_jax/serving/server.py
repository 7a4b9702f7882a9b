"""The HTTP server: `POST /v1/people` with a picture's bytes, and a page to try it.

Nothing is written to disk, and nothing is kept after the answer. Every error is json with one line.
"""

import asyncio
import base64
import contextlib
import hashlib
import importlib.resources
import logging
import re
import time
from collections.abc import Callable, Sequence
from typing import Any

import aiohttp
from aiohttp import web

from mspn_jax.errors import RequestError
from mspn_jax.serving.service import Answer, Service, refusal

log = logging.getLogger("mspn_jax")

LOOPBACK = frozenset(["localhost", "127.0.0.1", "[::1]"])
_SECONDS_OF_A_HEADER = 10  # to arrive, on a new connection or after an answer
_SECONDS_OF_A_REFUSED_BODY = 2  # to be read and dropped, so that its sender sees the refusal
_SECONDS_TO_RETRY = 2
_SECONDS_BETWEEN_LOOKS = 0.1
_SECONDS_TO_FINISH = 8.0  # after a signal, which has to end a command within ten

_HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "Server": "mspn",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class Server:
    """Serves people.

        async with Server(service, "127.0.0.1", 8000) as server:
            await server.until(has_to_stop)

    Attributes:
      address: http://HOST:PORT/.
    """

    def __init__(self, service: Service, host: str, port: int, *, hosts: Sequence[str] = ()):
        """Port 0 takes a free one.

        Args:
          hosts: further names under which the server is known. With them, or on the loopback
            interface, it answers only to its own names and to these: another site's name that
            resolves to 127.0.0.1 (DNS rebinding) does not reach it.
        """
        self.address = ""
        self._service, self._host, self._port = service, host, port
        name = f"[{host}]" if ":" in host else host
        is_limited = name in LOOPBACK or bool(hosts)
        self._hosts = frozenset([*LOOPBACK, name, *hosts]) if is_limited else None
        self._is_stopping = False
        self._page, self._page_policy = _page()
        self._routes: dict[str, tuple[str, Callable]] = {
            "/": ("GET", self._send_page),
            "/healthz": ("GET", self._send_health),
            "/v1/model": ("GET", self._send_model),
            "/v1/people": ("POST", self._send_people),
        }

    async def __aenter__(self) -> "Server":
        """Raises OSError: the port is taken."""
        self._http = _Http(self._handle, handler_cancellation=True)
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(self._http, self._host, self._port)
        name = f"[{self._host}]" if ":" in self._host else self._host
        self.address = f"http://{name}:{self._listener.sockets[0].getsockname()[1]}/"
        return self

    async def __aexit__(self, *exception) -> None:
        self._listener.close()
        self._http.pre_shutdown()
        await self._http.shutdown(0.5)

    async def until(self, has_to_stop: Callable[[], Any]) -> bool:
        """Serves until `has_to_stop`, then stops accepting and finishes what it has.

        Returns:
          Whether all requests were answered in time.
        """
        while not has_to_stop():
            await asyncio.sleep(_SECONDS_BETWEEN_LOOKS)
        self._is_stopping = True
        self._listener.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_SECONDS_TO_FINISH):
                while self._service.num_held:
                    await asyncio.sleep(_SECONDS_BETWEEN_LOOKS / 10)
        return not self._service.num_held

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        start, limits = time.perf_counter(), self._service.limits
        # What the request holds is held until its answer is sent.
        with contextlib.ExitStack() as stack:
            try:
                response = await self._route(request)(request, stack)
            except RequestError as error:
                response = _response(refusal(error))
            except Exception:
                log.exception("a request was not answered")
                response = _response(
                    refusal(RequestError(500, "the server failed; its log says why"))
                )
            response.headers.update(_HEADERS)
            try:
                async with asyncio.timeout(limits.seconds):
                    await response.prepare(request)
                    await response.write_eof()
            except TimeoutError:  # it does not read
                if request.transport:
                    request.transport.abort()
        if request.path in self._routes and request.path != "/healthz":
            seconds = time.perf_counter() - start
            log.info("%s %s: %d in %.2f s", request.method, request.path, response.status, seconds)
        return response

    def _route(self, request: web.BaseRequest) -> Callable:
        """The method that answers a request. A page of another site is refused."""
        host = re.sub(r":\d*$", "", request.headers.get("Host", "")).lower()
        if self._hosts is not None and host not in self._hosts:
            raise RequestError(
                403, "this server is not known under the Host of the request: see --allow_host"
            )
        # Browsers send it with what a page of another site asks for.
        if request.headers.get("Sec-Fetch-Site") in ("cross-site", "same-site"):
            raise RequestError(403, "pages of other sites are not served")
        if request.path not in self._routes:
            raise RequestError(404, "no such address: POST a picture to /v1/people")
        method, send = self._routes[request.path]
        if request.method != method and (request.method, method) != ("HEAD", "GET"):
            raise RequestError(405, f"{request.path} takes {method}")
        return send

    async def _send_page(self, request: web.BaseRequest, stack: object) -> web.Response:
        policy = {"Content-Security-Policy": self._page_policy}
        return web.Response(
            text=self._page, content_type="text/html", charset="utf-8", headers=policy
        )

    async def _send_health(self, request: web.BaseRequest, stack: object) -> web.Response:
        status = "stopping" if self._is_stopping else "ok"
        return web.json_response(
            {"status": status, "waiting": self._service.num_waiting},
            status=503 if self._is_stopping else 200,
        )

    async def _send_model(self, request: web.BaseRequest, stack: object) -> web.Response:
        return web.json_response(self._service.about)

    async def _send_people(
        self, request: web.BaseRequest, stack: contextlib.ExitStack
    ) -> web.Response:
        draw = request.query.get("draw", "0")
        if draw not in ("0", "1"):
            raise RequestError(400, "draw must be 0 or 1")
        limits = self._service.limits
        num_bytes = _length_of_body(request, limits.max_bytes)
        if self._is_stopping:
            raise RequestError(503, "the server stops")
        stack.enter_context(self._service.held(num_bytes))
        is_uploaded = False
        try:
            async with asyncio.timeout(limits.seconds):
                data = await _picture_of(request)
                is_uploaded = True
                answer = await self._service.answer(data, is_annotated=draw == "1")
        except TimeoutError:
            if is_uploaded:
                raise RequestError(504, f"no answer in {limits.seconds:g} s; try later") from None
            message = f"the picture did not arrive in {limits.seconds:g} s"
            raise RequestError(408, message) from None
        return _response(answer)


def _length_of_body(request: web.BaseRequest, max_bytes: int) -> int:
    """Refuses a body by its header, before it is read."""
    if "Content-Encoding" in request.headers:  # a bomb, perhaps
        raise RequestError(415, "send the picture without Content-Encoding")
    length = request.content_length
    if length is None or "Transfer-Encoding" in request.headers:
        raise RequestError(411, "Content-Length is missing")
    if length > max_bytes:
        raise RequestError(413, f"the body has {length} bytes; at most {max_bytes} are taken")
    return length


async def _picture_of(request: web.BaseRequest) -> bytes:
    """The body, or the first file of a form. Names in it are never used."""
    if request.headers.get("Expect", "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # aiohttp takes it for a part of the answer
    try:
        if not request.content_type.startswith("multipart/"):
            return await request.content.read()
        # request.multipart() has a limit of its own on what is read, 1 MB.
        async for part in aiohttp.MultipartReader(request.headers, request.content):
            if isinstance(part, aiohttp.BodyPartReader) and part.filename is not None:
                return bytes(await part.read())
    except (ValueError, LookupError, aiohttp.ClientError, web.RequestPayloadError):
        raise RequestError(400, "the body is not what its header says") from None
    except aiohttp.http_exceptions.HttpProcessingError:
        raise RequestError(400, "the form cannot be read") from None
    raise RequestError(400, "the form has no file")


def _response(answer: Answer) -> web.Response:
    headers = {"Retry-After": str(_SECONDS_TO_RETRY)} if answer.status == 503 else {}
    return web.Response(
        status=answer.status, body=answer.content, content_type=answer.kind, headers=headers
    )


def _page() -> tuple[str, str]:
    """The page, and a policy that lets it run its own script and style and nothing else."""
    text = importlib.resources.files("mspn_jax.serving").joinpath("page.html").read_text("utf-8")

    def digest(tag: str) -> str:
        found = re.search(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        assert found is not None, tag
        return base64.b64encode(hashlib.sha256(found[1].encode()).digest()).decode()

    return text, (
        "default-src 'none'; connect-src 'self'; img-src blob: data:; media-src blob:;"
        f" script-src 'sha256-{digest('script')}'; style-src 'sha256-{digest('style')}';"
        " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


class _Connection(web.RequestHandler):
    """A connection whose syntax errors are json, too, and are no tracebacks in the log."""

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        response = _response(
            refusal(RequestError(status, "not an HTTP/1.1 request that this server accepts"))
        )
        response.headers.update(_HEADERS)
        response.force_close()
        return response


class _Http(web.Server):
    """Makes the connections."""

    def __call__(self) -> web.RequestHandler:
        return _Connection(
            self,
            loop=asyncio.get_running_loop(),
            access_log=None,  # type: ignore[arg-type]
            auto_decompress=False,
            keepalive_timeout=_SECONDS_OF_A_HEADER,
            lingering_time=_SECONDS_OF_A_REFUSED_BODY,
        )
