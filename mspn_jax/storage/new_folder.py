"""A folder that appears complete or not at all."""

import contextlib
import os
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

from mspn_jax.errors import Error, StorageError
from mspn_jax.storage import files, leaving, paths


@contextlib.contextmanager
def new_folder(output: paths.Path, num_bytes: int) -> Iterator[paths.Path]:
    """Gives a folder to write into, which becomes `output` when the context ends.

    If the context raises, nothing is left. A bucket cannot rename a folder atomically: there the
    folder is `output` itself, and its reader must look for the file that is written last.

    Args:
      output: absolute; does not exist, or is an empty folder.
      num_bytes: to be written; a disk without room for them is refused at once.
    """
    try:
        if isinstance(output, pathlib.Path):
            partial = output.with_name(f".{output.name}.partial-{os.getpid()}")
            try:
                partial.mkdir(parents=True)
                _reserve(partial / "reserved", num_bytes)
                with leaving.undone(lambda: shutil.rmtree(partial)):
                    yield partial
                os.rename(partial, output)
            except BaseException:
                files.remove_unfinished(partial)
                raise
        else:
            with _removed_on_failure(output), paths.named(output):
                yield output
    except Error:
        raise
    except (OSError, ValueError, RuntimeError) as error:  # orbax's threads raise all of them
        reason = getattr(error, "strerror", None) or f"{error}".partition("\n")[0]
        raise StorageError(f"{output}: cannot be written: {reason}") from None


@contextlib.contextmanager
def _removed_on_failure(output: Any) -> Iterator[None]:
    try:
        yield
    except BaseException:
        with contextlib.suppress(Exception):
            output.rmtree()
        raise


def _reserve(path: pathlib.Path, num_bytes: int) -> None:
    """Raises OSError if there is no room: orbax would report it in a thousand lines."""
    if hasattr(os, "posix_fallocate"):
        with open(path, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, num_bytes)
        path.unlink()
