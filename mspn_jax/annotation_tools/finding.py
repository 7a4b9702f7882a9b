"""Where the pictures of an export are: tools write paths of their own machines."""

import collections
import contextlib
import os
import pathlib
import re
import urllib.parse
from collections.abc import Iterable, Sequence

from mspn_jax.data.pictures import PICTURE_ENDINGS
from mspn_jax.errors import DataError

# Label Studio puts eight characters of a hash before an uploaded picture's name.
_UPLOADED = re.compile(r"^[0-9a-f]{8}-(?=.)")


class PictureIndex:
    """All pictures below some folders, to be found by what an export calls them."""

    def __init__(self, folders: Iterable[pathlib.Path]):
        self.folders = list(dict.fromkeys(folders))
        self._places: dict[str, dict[pathlib.Path, pathlib.Path]] = collections.defaultdict(dict)
        for folder in self.folders:
            for parent, below, names in os.walk(folder):
                below[:] = sorted(name for name in below if not name.startswith("."))
                for name in sorted(names):
                    path = pathlib.Path(parent, name)
                    if path.suffix.lower() in PICTURE_ENDINGS and not name.startswith("."):
                        self._places[name].setdefault(path, folder)

    def __len__(self) -> int:
        return sum(map(len, self._places.values()))

    def find(self, reference: str, where: str) -> tuple[pathlib.Path, str]:
        """The file that a path or an address means, and its path below the folder it was found in.

        Of several files with its name it is the one whose folders agree most. `where` is what
        refers to it, for messages.
        """
        parts = _parts(reference)
        bare = [_UPLOADED.sub("", parts[-1])] if parts else []
        for name in dict.fromkeys(parts[-1:] + bare):
            found = self._places.get(name, {})
            if not found:
                continue
            agree = {path: _shared_end(path.parts[:-1], parts[:-1]) for path in found}
            best = [path for path in found if agree[path] == max(agree.values())]
            if len(best) > 1:
                raise DataError(
                    f"{where}: picture {reference[:200]!r} may be {best[0]} or {best[1]}; rename"
                    " one, or name the right folder with --pictures"
                )
            return best[0], best[0].relative_to(found[best[0]]).as_posix()
        folders = ", ".join(map(str, self.folders)) or "no folder"
        raise DataError(
            f"{where}: there is no picture {reference[:200]!r} in {folders}; --pictures names the"
            " folder that has it"
        )


def _parts(reference: str) -> list[str]:
    """The parts of a path, of an address, or of Label Studio's /data/local-files/?d=PATH."""
    address = None
    if "://" in reference[:12]:
        with contextlib.suppress(ValueError):  # no address after all
            address = urllib.parse.urlsplit(reference)
    text = reference
    if "/local-files/" in reference and "?" in reference:
        query = urllib.parse.parse_qs(reference.partition("?")[2])
        text = query.get("d", [reference])[0]
    elif address is not None:
        text = urllib.parse.unquote(address.path)
    elif reference.startswith("/data/"):
        text = urllib.parse.unquote(reference)
    return [part for part in re.split(r"[/\\]", text) if part not in ("", ".", "..")]


def _shared_end(one: Sequence[str], other: Sequence[str]) -> int:
    count = 0
    while count < min(len(one), len(other)) and one[-1 - count] == other[-1 - count]:
        count += 1
    return count
