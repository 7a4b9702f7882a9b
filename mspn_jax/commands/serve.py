"""A page and an HTTP endpoint that find people: mspn serve [--host 127.0.0.1] [--port 8000]

    curl --data-binary @photo.jpg http://127.0.0.1:8000/v1/people

The page at http://127.0.0.1:8000/ takes pictures, also from a camera. Needs the extra `serve`.
There is no password and no encryption: for others than this machine, put a proxy before it.
"""

import asyncio
import logging
import os
import pathlib
import time

from absl import flags

from mspn_jax.commands import finder_flags, stopping
from mspn_jax.errors import UsageError

flags.adopt_module_key_flags(finder_flags)
_HOST = flags.DEFINE_string("host", "127.0.0.1", "of an interface; 0.0.0.0 for all of them")
_PORT = flags.DEFINE_integer("port", 8000, "0 takes a free one", lower_bound=0, upper_bound=65535)
_ALLOW_HOST = flags.DEFINE_multi_string(
    "allow_host",
    [],
    "a name under which it is known, such as a proxy's; others are refused",
)
_MAX_MEGABYTES = flags.DEFINE_float(
    "max_megabytes", 20, "of a request", lower_bound=0.001, upper_bound=2000
)
_MAX_MEGAPIXELS = flags.DEFINE_float(
    "max_megapixels",
    50,
    "of a picture; at most Pillow's own limit",
    lower_bound=0.001,
    upper_bound=178,
)
_MAX_WAITING = flags.DEFINE_integer(
    "max_waiting", 16, "requests that wait for the one that is worked on", lower_bound=0
)
_TIMEOUT_SECONDS = flags.DEFINE_float(
    "timeout_seconds", 30, "for a request, from its header to its answer", lower_bound=0.1
)
_WARM_UP = flags.DEFINE_integer(
    "warm_up", 8, "compile at the start what so many people in a picture need", lower_bound=0
)

log = logging.getLogger("mspn_jax")


def main() -> None:
    try:
        from mspn_jax.serving.server import LOOPBACK, Server
        from mspn_jax.serving.service import Limits, Service
    except ModuleNotFoundError as error:
        if error.name not in ("aiohttp", "PIL"):
            raise
        raise UsageError("mspn serve needs aiohttp: pip install 'mspn-jax[serve]'") from None
    limits = Limits(
        max_bytes=round(_MAX_MEGABYTES.value * 1e6),
        max_pixels=round(_MAX_MEGAPIXELS.value * 1e6),
        max_waiting=_MAX_WAITING.value,
        seconds=_TIMEOUT_SECONDS.value,
    )
    service = Service(
        finder_flags.load_finder(),
        model=public_name(finder_flags.MODEL.value),
        detector=public_name(finder_flags.DETECTOR.value),
        limits=limits,
    )
    start = time.monotonic()
    service.warm_up(_WARM_UP.value)
    log.info("compiled for up to %d people in %.0f s", _WARM_UP.value, time.monotonic() - start)

    async def serve(stop: stopping.StopRequest) -> bool:
        host = _HOST.value
        try:
            async with Server(service, host, _PORT.value, hosts=_ALLOW_HOST.value) as server:
                log.info("serving %s at %s", service.about["model"], server.address)
                if host not in LOOPBACK:
                    log.warning("no password: everybody who reaches %s can use it", host)
                return await server.until(lambda: stop.number)
        except OSError as error:
            where = f"--host {host} --port {_PORT.value}"
            raise UsageError(f"{where}: {os.strerror(error.errno or 0)}; choose others") from None

    with stopping.stop_requests(lambda: not service.num_held) as stop:
        is_finished = asyncio.run(serve(stop))
        if not is_finished:
            raise stopping.Stopped(stop.number)
        stop.leave(stop.number, "the requests in hand are answered")


def public_name(name: str) -> str:
    """What strangers are told of a name that may be a path or an address."""
    return pathlib.PurePosixPath(name).name
