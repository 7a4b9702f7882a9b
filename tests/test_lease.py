"""One run per workdir, also when several start at once, die, sleep or lose responses."""

import signal
import subprocess
import sys
import threading
import time

import pytest
from bucket_objects import Refused
from bucket_server import refuse_writing

from commands import environment
from mspn_jax.errors import HeldError, StorageError
from mspn_jax.storage import lease, paths


@pytest.fixture
def leases(bucket):
    """Makes leases on one object, and gives them back at the end."""
    made = []

    def new(seconds: float = 1.0) -> lease.Lease:
        made.append(lease.Lease(bucket / "run" / ".lease", f"run {len(made)}", seconds))
        return made[-1]

    yield new
    for each in made:
        each.give_back()


def dies(each: lease.Lease) -> None:
    """Does what a SIGKILL does to a lease."""
    each._ended.set()


def test_a_lease_is_refused_while_its_owner_lives_and_free_afterwards(leases, bucket, buckets):
    first = leases(4.0)
    first.take()
    start = time.monotonic()
    with pytest.raises(HeldError, match=r"^run 0$"):
        leases().take()
    assert time.monotonic() - start < 2.5  # when it is rewritten, not after all the time
    first.check()
    first.give_back()
    assert not buckets.objects(bucket)
    start = time.monotonic()
    leases().take()
    assert time.monotonic() - start < 0.5


def test_of_several_one_takes_over_from_a_run_that_died(leases):
    first = leases(2.0)
    first.take()
    dies(first)
    outcomes: list[object] = []

    def take(each: lease.Lease) -> None:
        try:
            each.take()
            outcomes.append(each)
        except HeldError:
            outcomes.append(None)

    threads = [threading.Thread(target=take, args=(leases(2.0),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [each is None for each in outcomes].count(False) == 1
    with pytest.raises(HeldError, match="took over"):  # it was only asleep
        first.check()


def test_a_lease_outlives_an_outage_and_lost_answers(leases, buckets):
    first = leases(4.0)
    first.take()
    buckets.refuse = lambda *request: 503
    time.sleep(1.0)
    buckets.refuse = lambda *request: None
    first.check()
    put, lost = buckets.put, []

    def loses_an_answer(*arguments):
        got = put(*arguments)
        if not lost:
            lost.append(got)
            raise Refused(503)
        return got

    buckets.put = loses_an_answer
    try:
        first._refresh()
    finally:
        del buckets.put
    assert lost
    first.check()


def test_a_lease_that_somebody_deleted_is_lost(leases, bucket, buckets):
    first = leases()
    first.take()
    buckets.buckets[bucket.name].clear()
    first._refresh()
    with pytest.raises(HeldError):
        first.check()


def test_a_lease_names_what_the_bucket_refuses(leases, bucket, buckets):
    buckets.refuse = refuse_writing
    with pytest.raises(StorageError, match="refuses access"):
        leases().take()
    buckets.refuse = lambda *request: None
    with pytest.raises(StorageError, match=r"no such bucket: gs://nowhere$"):
        lease.Lease(paths.path("gs://nowhere/run/.lease"), "run").take()


STUCK = """
import hashlib, sys
from mspn_jax.commands import stopping
from mspn_jax.storage import lease, paths
with stopping.watched(), lease.sole_use(paths.path(sys.argv[1]), "the run"):
    with stopping.stop_requests():  # something is not saved yet
        print("stuck", flush=True)
        hashlib.pbkdf2_hmac("sha256", b"", b"", 10**8)  # a minute in C, as a compilation
"""


def test_a_run_that_is_ended_at_once_gives_its_lease_back(bucket, buckets):
    command = [sys.executable, "-c", STUCK, f"{bucket}/run"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
    ) as process:
        assert process.stdout.readline() == "stuck\n"
        assert buckets.objects(bucket)
        process.send_signal(signal.SIGTERM)
        time.sleep(1)
        assert process.poll() is None and buckets.objects(bucket)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=10)
    assert process.returncode == 128 + signal.SIGTERM and "SIGTERM: stopped at once" in said
    assert not buckets.objects(bucket)
