"""The work of the server: one thread finds people, and a bounded number of requests wait for it."""

import asyncio
import concurrent.futures
import contextlib
import dataclasses
import json
import logging
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from mspn_jax import devices
from mspn_jax.drawing import LEFT_RGB, MIDDLE_RGB, RIGHT_RGB, encode_picture
from mspn_jax.errors import RequestError
from mspn_jax.finder import PeopleFinder
from mspn_jax.serving.uploads import KINDS, read_picture

log = logging.getLogger("mspn_jax")


@dataclasses.dataclass(frozen=True)
class Limits:
    """What strangers may ask for.

    Attributes:
      max_bytes: of a request's body.
      max_pixels: of a picture, according to its header.
      max_waiting: requests that wait for the one that is worked on. Bodies in memory are together
        at most as large as so many of the largest.
      seconds: for a request, from its header to its answer; then again to send the answer.
    """

    max_bytes: int = 20_000_000
    max_pixels: int = 50_000_000
    max_waiting: int = 16
    seconds: float = 30.0


class Answer(NamedTuple):
    """An HTTP answer.

    Attributes:
      kind: the content's type.
    """

    status: int
    kind: str
    content: bytes


def refusal(error: RequestError) -> Answer:
    """The answer to a request that is refused: json with one line."""
    return Answer(error.status, "application/json", json.dumps({"error": str(error)}).encode())


class Service:
    """Answers pictures with people, one picture at a time: the device computes serially anyway.

    Attributes:
      about: the network and the limits, as json.
      num_held: requests that are being received, wait, or are worked on.
    """

    def __init__(self, finder: PeopleFinder, *, model: str, detector: str, limits: Limits):
        """`model` and `detector` are the names that answers carry."""
        self.limits = limits
        self.num_held = 0
        self._finder = finder
        self._names = {"model": model, "detector": detector}
        self._bytes_held = self._num_pending = 0
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "people")
        skeleton = finder.predictor.skeleton
        self.about = self._names | {
            "keypoint_names": list(skeleton.keypoint_names),
            "limbs": [list(map(int, limb)) for limb in skeleton.limbs],
            "sides": list(skeleton.sides),
            "rgb_of_sides": {"left": LEFT_RGB, "right": RIGHT_RGB, "middle": MIDDLE_RGB},
            "pictures": list(KINDS),
            "limits": dataclasses.asdict(limits),
        }

    def warm_up(self, most_people: int) -> None:
        """Compiles what pictures with up to `most_people` people need."""
        image = np.zeros((256, 256, 3), np.uint8)
        self._finder(image)
        counts = range(1, most_people + 1)
        for size in {size for count in counts for size in devices.batch_sizes(count)}:
            self._finder.predictor(image, np.tile([64.0, 64.0, 128.0, 128.0], (size, 1)))

    @property
    def num_waiting(self) -> int:
        """Requests that are complete and wait."""
        return max(0, self._num_pending - 1)

    @contextlib.contextmanager
    def held(self, num_bytes: int) -> Iterator[None]:
        """In this context a request's body may be in memory.

        Raises:
          RequestError: 503, there are too many already.
        """
        most = self.limits.max_waiting * self.limits.max_bytes
        if self._bytes_held + num_bytes > most:
            raise _busy()
        self.num_held, self._bytes_held = self.num_held + 1, self._bytes_held + num_bytes
        try:
            yield
        finally:
            self.num_held, self._bytes_held = self.num_held - 1, self._bytes_held - num_bytes

    async def answer(self, data: bytes, *, is_annotated: bool) -> Answer:
        """Answers a picture's bytes.

        A cancelled call that still waits is never worked on.

        Raises:
          RequestError: 503, too many wait.
        """
        if self._num_pending > self.limits.max_waiting:
            raise _busy()
        loop = asyncio.get_running_loop()
        # Cancelled work stays in the thread's queue until its turn comes, but its bytes must not.
        given = [data]
        self._num_pending += 1

        def finished() -> None:
            self._num_pending -= 1
            given.clear()

        def is_done(_) -> None:  # when the work has run, or when it is cancelled before
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(finished)

        pending = self._thread.submit(self._work, given, is_annotated)
        del data
        pending.add_done_callback(is_done)
        return await asyncio.wrap_future(pending)

    def _work(self, given: list[bytes], is_annotated: bool) -> Answer:
        try:
            return self._found(given.pop(), is_annotated)
        # An exception that went on would keep the picture, by its traceback, for a while.
        except RequestError as error:
            return refusal(error)
        except Exception:
            log.exception("a picture was not answered")
            return refusal(RequestError(500, "the server failed; its log says why"))

    def _found(self, data: bytes, is_annotated: bool) -> Answer:
        start = time.perf_counter()
        image = read_picture(data, self.limits.max_pixels)
        people = self._finder(image)
        if is_annotated:
            return Answer(200, "image/jpeg", encode_picture(people.draw(), ".jpg"))
        content: dict[str, Any] = self._names | {
            "width": image.shape[1],
            "height": image.shape[0],
            "seconds": round(time.perf_counter() - start, 4),
            "people": people.to_json(),
        }
        return Answer(200, "application/json", json.dumps(content, allow_nan=False).encode())


def _busy() -> RequestError:
    return RequestError(503, "too many requests wait; try again soon")
