"""Objects in buckets, by name, with the conditions of Google Cloud Storage's API."""

import base64
import dataclasses
import hashlib
import itertools
import os
import threading
import time
from typing import Any


@dataclasses.dataclass
class Object:
    data: bytes
    generation: int
    content_type: str = "application/octet-stream"
    metadata: dict = dataclasses.field(default_factory=dict)
    created: float = dataclasses.field(default_factory=time.time)


class Refused(Exception):
    """Raised with the status of the answer."""


class Buckets:
    """Objects by bucket and name. Each write gives an object a new generation."""

    def __init__(self) -> None:
        self.buckets: dict[str, dict[str, Object]] = {}
        self.lock = threading.RLock()
        self.generations = itertools.count(int(time.time() * 1e6))

    def objects(self, folder: str | os.PathLike) -> dict[str, Object]:
        """The objects below gs://BUCKET/FOLDER, by their names relative to it."""
        bucket, _, prefix = os.fspath(folder).removeprefix("gs://").partition("/")
        prefix = f"{prefix}/" if prefix else ""
        found = self.buckets[bucket].items()
        return {name.removeprefix(prefix): each for name, each in found if name.startswith(prefix)}

    def resource(self, bucket: str, name: str) -> dict[str, Any]:
        """The API's description of an object."""
        found = self.buckets[bucket][name]
        seconds, fraction = divmod(found.created, 1)
        created = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
        created += f".{int(fraction * 1000):03d}Z"
        return {
            "kind": "storage#object",
            "id": f"{bucket}/{name}/{found.generation}",
            "bucket": bucket,
            "name": name,
            "size": str(len(found.data)),
            "generation": str(found.generation),
            "metageneration": "1",
            "contentType": found.content_type,
            "metadata": found.metadata,
            "timeCreated": created,
            "updated": created,
            "storageClass": "STANDARD",
            "etag": str(found.generation),
            "md5Hash": base64.b64encode(hashlib.md5(found.data).digest()).decode(),
        }

    def put(
        self,
        bucket: str,
        name: str,
        data: bytes,
        query: dict[str, str],
        content_type: str = "",
        metadata: dict | None = None,
    ) -> dict[str, Any]:
        with self.lock:
            self.check(bucket, name, query)
            self.buckets[bucket][name] = Object(
                bytes(data), next(self.generations), content_type, metadata or {}
            )
            return self.resource(bucket, name)

    def check(self, bucket: str, name: str, query: dict[str, str]) -> Object | None:
        """The object, if there is one; refuses where a condition does not hold."""
        if bucket not in self.buckets:
            raise Refused(404)
        found = self.buckets[bucket].get(name)
        generation = found.generation if found else 0
        if int(query.get("ifGenerationMatch", generation)) != generation:
            raise Refused(412)
        if int(query.get("ifGenerationNotMatch", -1)) == generation:
            raise Refused(304)
        return found
