"""Small, full and read-only disks."""

import contextlib
import pathlib
import subprocess
from collections.abc import Iterator


class CannotMount(Exception):
    """This user may not mount a file system."""


@contextlib.contextmanager
def mounted(folder: pathlib.Path, options: str) -> Iterator[pathlib.Path]:
    """Mounts a file system in memory on a new folder, with tmpfs's options (`size=2m,ro`)."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        raise CannotMount("this system has no command mount") from None
    if done.returncode:
        raise CannotMount(f"this user cannot mount a disk: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def resize(folder: pathlib.Path, size: str) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", str(folder)], check=True)
