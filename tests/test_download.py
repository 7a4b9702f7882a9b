"""Downloads from a server on this machine: slow, cut off, wrong, absent; and without a network."""

import hashlib
import os
import pathlib
import pwd
import subprocess
import sys
import tempfile

import pytest
import small_disk
from web_server import WebServer

from mspn_jax.errors import DownloadError
from mspn_jax.storage import download, transfer

CONTENT = bytes(range(256)) * 4096  # 1 MiB
SHA256 = hashlib.sha256(CONTENT).hexdigest()
NAME = "weights.pth"


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> pathlib.Path:
    monkeypatch.setenv("MSPN_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MSPN_MIRROR", raising=False)
    monkeypatch.setattr(transfer, "PAUSES", (0.01, 0.01, 0.01))
    return tmp_path / "home"


@pytest.fixture
def server():
    with WebServer({NAME: CONTENT}) as server:
        yield server


@pytest.fixture
def url(server) -> str:
    return f"{server.address}/folder/{NAME}"


@pytest.fixture
def offline() -> str:
    """An address of a port that nothing listens on."""
    with WebServer({}) as server:
        address = server.address
    return f"{address}/{NAME}"


def partial_of(url: str) -> pathlib.Path:
    """What an interrupted process left."""
    place = download.place_of(url, sha256=SHA256)
    place.parent.mkdir(parents=True, exist_ok=True)
    return place.with_name(f".{NAME}.partial")


def test_a_file_is_downloaded_once_and_verified(url, server, home):
    for sha256 in (SHA256, SHA256[:8], SHA256.upper()):
        path = download.fetch(url, sha256=sha256, size=len(CONTENT))
        assert path == home / "downloads" / NAME
        assert path.read_bytes() == CONTENT
    assert server.requests == [(f"/folder/{NAME}", "")]
    assert {p.name for p in path.parent.iterdir()} == {NAME, f".{NAME}.lock"}


def test_files_that_nothing_verifies_are_told_apart_by_address(server, home):
    one, other = (f"{server.address}/{folder}/{NAME}" for folder in "ab")
    assert download.fetch(one).read_bytes() == CONTENT
    server.contents[NAME] = b"another"
    assert download.fetch(other).read_bytes() == b"another"
    assert download.fetch(one).read_bytes() == CONTENT
    assert len(server.requests) == 2
    with pytest.raises(DownloadError, match="names no file"):
        download.fetch(f"{server.address}/?name=x")


@pytest.mark.parametrize("faults", [["slow"], [500], [503, "cut", 500], ["whole"]])
def test_faults_that_pass(url, server, faults):
    server.faults = faults
    assert download.fetch(url, sha256=SHA256).read_bytes() == CONTENT


@pytest.mark.parametrize("sha256", [SHA256, ""])
def test_a_connection_that_is_cut_resumes(url, server, sha256):
    server.faults = ["cut"] * 6  # each brings half of the rest: more failures than are allowed
    assert download.fetch(url, sha256=sha256).read_bytes() == CONTENT
    half, most = len(CONTENT) // 2, len(CONTENT) // 4 * 3
    ranges = [asked for _, asked in server.requests[:3]]
    assert ranges == ["", f"bytes={half}-", f"bytes={most}-"]


def test_a_server_that_sends_nothing_more_is_left(url, server, monkeypatch):
    monkeypatch.setattr(transfer, "SECONDS", (1.0, 0.2))
    server.faults = ["stuck"]
    assert download.fetch(url, sha256=SHA256).read_bytes() == CONTENT
    assert server.requests[1][1] == f"bytes={len(CONTENT) // 2}-"


def test_a_server_that_ignores_range_sends_the_whole_again(url, server):
    server.faults = ["cut", "whole"]
    assert download.fetch(url, sha256=SHA256).read_bytes() == CONTENT
    assert server.requests[1][1]


def test_a_server_that_cuts_every_attempt_off_is_given_up(url, server):
    server.contents[NAME] = b"x"  # half of it is nothing
    server.faults = ["cut"] * 9
    with pytest.raises(DownloadError, match="the connection was cut off"):
        download.fetch(url)
    assert len(server.requests) == 4


def test_an_interrupted_process_resumes(url, server):
    partial_of(url).write_bytes(CONTENT[:1000])
    assert download.fetch(url, sha256=SHA256).read_bytes() == CONTENT
    assert [asked for _, asked in server.requests] == ["bytes=1000-"]


@pytest.mark.parametrize("left", [b"wrong" * 9, CONTENT + b"more"])
def test_what_was_left_of_another_version_is_downloaded_anew(url, server, left):
    partial_of(url).write_bytes(left)
    assert download.fetch(url, sha256=SHA256).read_bytes() == CONTENT
    assert [asked for _, asked in server.requests] == [f"bytes={len(left)}-", ""]


def test_a_complete_partial_file_is_used(url, server):
    partial_of(url).write_bytes(CONTENT)
    assert download.fetch(url, sha256=SHA256).read_bytes() == CONTENT


def test_a_new_version_between_two_attempts_is_not_joined(url, server, monkeypatch):
    server.faults = ["cut"]
    new = CONTENT[::-1]
    monkeypatch.setattr(transfer.time, "sleep", lambda s: server.contents.update({NAME: new}))
    assert download.fetch(url).read_bytes() == new


def test_wrong_bytes_name_both_sums_and_leave_nothing(url, server):
    with pytest.raises(DownloadError) as error:
        download.fetch(url, sha256="abcd1234")
    place = download.place_of(url, sha256="abcd1234")
    assert f"{url}: wrong bytes: its sha256 is {SHA256}, expected abcd1234" in str(error.value)
    assert [p.name for p in place.parent.iterdir()] == [f".{NAME}.lock"]
    with pytest.raises(DownloadError, match="has 1,048,576 bytes, expected 9"):
        download.fetch(url, sha256=SHA256, size=9)


def test_a_file_put_there_by_hand_is_used_and_never_removed(offline):
    place = download.place_of(offline, sha256=SHA256)
    place.parent.mkdir(parents=True)
    place.write_bytes(CONTENT)
    assert download.fetch(offline, sha256=SHA256) == place
    place.write_bytes(b"not that")
    with pytest.raises(DownloadError) as error:
        download.fetch(offline, sha256=SHA256)
    assert str(error.value).startswith(f"{place}: damaged, or another file: its sha256 is ")
    assert f"expected {SHA256}; remove it" in str(error.value)
    assert place.read_bytes() == b"not that"


@pytest.mark.parametrize("status, requests", [(404, 1), (403, 1), (500, 4)])
def test_a_refusal_is_one_line_with_what_mends_it(url, server, status, requests):
    server.faults = [status] * 9
    with pytest.raises(DownloadError) as error:
        download.fetch(url, sha256=SHA256)
    place = download.place_of(url, sha256=SHA256)
    assert str(error.value).startswith(f"{url}: HTTP {status} ")
    assert str(error.value).endswith(
        f"; put the file at {place} by hand, or set MSPN_MIRROR to a folder or an address that has"
        " it"
    )
    assert len(server.requests) == requests


def test_offline_it_is_one_line(offline):
    with pytest.raises(DownloadError) as error:
        download.fetch(offline, sha256=SHA256)
    assert str(error.value).startswith(f"{offline}: Connection refused; put the file at ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["folder", "address", "folder without it", "away"])
def test_a_mirror_comes_before_the_address(url, server, offline, tmp_path, monkeypatch, kind):
    with WebServer({NAME: CONTENT}) as mirror:
        place = {"address": f"{mirror.address}/files/", "away": offline}.get(kind, str(tmp_path))
        if kind == "folder":
            (tmp_path / NAME).write_bytes(CONTENT)
        monkeypatch.setenv("MSPN_MIRROR", place)
        assert download.fetch(url, sha256=SHA256).read_bytes() == CONTENT
        assert [path for path, _ in mirror.requests] == (
            [f"/files/{NAME}"] if kind == "address" else []
        )
        assert len(server.requests) == (1 if kind in ("folder without it", "away") else 0)


def test_what_neither_the_mirror_nor_the_address_has_names_both(offline, tmp_path, monkeypatch):
    monkeypatch.setenv("MSPN_MIRROR", str(tmp_path))
    with pytest.raises(DownloadError) as error:
        download.fetch(offline, sha256=SHA256)
    assert f"{tmp_path}/{NAME}: no such file; {offline}: Connection refused;" in str(error.value)


@pytest.mark.parametrize("is_known", [True, False])
def test_no_room_is_one_line(url, server, tmp_path, monkeypatch, is_known):
    try:
        with small_disk.mounted(tmp_path / "small", "size=512k") as disk:
            monkeypatch.setenv("MSPN_HOME", str(disk))
            if not is_known:  # another program takes the room meanwhile
                usage = transfer.shutil.disk_usage("/")._replace(free=1 << 40)
                monkeypatch.setattr(transfer.shutil, "disk_usage", lambda path: usage)
            with pytest.raises(DownloadError) as error:
                download.fetch(url, sha256=SHA256)
            assert [p.name for p in (disk / "downloads").iterdir()] == [f".{NAME}.lock"]
    except small_disk.CannotMount as reason:
        pytest.skip(str(reason))
    said = "1,048,576 bytes are needed, but the disk has " if is_known else "No space left on"
    place = disk / "downloads" / NAME
    assert str(error.value).startswith(f"{url}: cannot be written to {place}: {said}")
    assert str(error.value).endswith("; MSPN_HOME names another folder")


def test_of_two_processes_one_downloads_and_the_other_waits(url, server, home):
    server.faults = ["slow"] * 9
    program = (
        "import sys; from mspn_jax.storage import download; print(download.fetch(*sys.argv[1:]))"
    )
    here = str(pathlib.Path(__file__).parents[1])
    started = [
        subprocess.Popen(
            [sys.executable, "-c", program, url],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": here},
        )
        for _ in range(2)
    ]
    said = {process.communicate()[0].strip() for process in started}
    assert said == {str(download.place_of(url))}
    assert len(server.requests) == 1


def test_the_cache_is_the_users_or_the_named_one(monkeypatch, home):
    assert download.home() == home
    monkeypatch.delenv("MSPN_HOME")
    if sys.platform != "linux":
        pytest.skip("platformdirs has other folders there")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert download.home() == pathlib.Path("/somewhere/mspn_jax")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/someone")
    assert download.home() == pathlib.Path("/home/someone/.cache/mspn_jax")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", {}.__getitem__)  # knows no user
    assert download.home().parent.parent == pathlib.Path(tempfile.gettempdir())
