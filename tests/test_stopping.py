"""A signal at any moment: every command leaves within ten seconds, and nothing is half-written."""

import contextlib
import pathlib
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence

import pytest
import tool_exports as tools
from imported import SHOTS

from commands import CONFIG, HERE, command, environment, run
from mspn_jax.commands import configured, stopping
from mspn_jax.storage import files, leaving
from mspn_jax.storage.new_folder import new_folder
from mspn_jax.variables import initial_variables
from mspn_jax.weights import checkpoints

SECONDS = 10
STOPPED = re.compile("SIG[A-Z0-9]+: stopped")


def new_network(
    folder: pathlib.Path, root: pathlib.Path, num_stages: int, blocks: tuple[int, ...]
) -> tuple[pathlib.Path, pathlib.Path]:
    """A config, and a checkpoint, of a narrow network."""
    file = folder / "config.py"
    text = CONFIG.replace("ROOT", str(root)).replace("(1, 1, 1, 1)", str(blocks))
    file.write_text(text.replace("num_stages=1", f"num_stages={num_stages}"))
    names: dict = {}
    exec(file.read_text(), names)
    config = names["get_config"]()
    description = configured.describe(config)
    variables = initial_variables(description.new_model(), 0, config.crop_hw)
    checkpoints.save_variables(folder / "checkpoint", description, variables)
    description.write(folder / "checkpoint")
    return file, folder / "checkpoint"


@pytest.fixture(scope="module")
def deep(root, tmp_path_factory) -> tuple[pathlib.Path, pathlib.Path]:
    """Compiles for a minute."""
    return new_network(tmp_path_factory.mktemp("deep"), root, 4, (3, 4, 6, 3))


@pytest.fixture(scope="module")
def shallow(root, tmp_path_factory) -> tuple[pathlib.Path, pathlib.Path]:
    """Compiles for seconds."""
    return new_network(tmp_path_factory.mktemp("shallow"), root, 2, (1, 1, 1, 1))


def start(program: str, *arguments: object) -> subprocess.Popen:
    """Without a cache: the compilation must take its time."""
    return subprocess.Popen(
        command(program, *arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=HERE,
        env=environment() | {"JAX_ENABLE_COMPILATION_CACHE": "0"},
    )


def stop(process: subprocess.Popen, number: int = signal.SIGTERM) -> str:
    """What a process says after a signal. It ends in time, with the signal's status."""
    process.send_signal(number)
    try:
        _, said = process.communicate(timeout=SECONDS)
    finally:
        process.kill()
    # Python's own handler, until the command is imported, gives the negative number.
    assert process.returncode in (128 + number, -number), said
    assert "Traceback" not in said and "error: " not in said
    assert len(STOPPED.findall(said)) <= 1
    return said


def read_until(process: subprocess.Popen, words: str) -> None:
    said = ""
    for line in process.stderr:
        said += line
        if words in line:
            return
    raise AssertionError(f"it ended without {words!r}: {said}")


def assert_nothing_half_written(folder: pathlib.Path) -> None:
    assert not [path for path in folder.rglob("*") if "partial" in path.name or "tmp" in path.name]


# ------------------------------------------------------------------------------ in a compilation


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_training_leaves_while_its_step_is_compiled(deep, config, tmp_path, number):
    process = start("train.py", "--config", deep[0], "--workdir", tmp_path / "run")
    read_until(process, "parameters, ")
    time.sleep(4)  # tracing is over
    said = stop(process, number)
    assert STOPPED.search(said)
    assert not list((tmp_path / "run" / "checkpoints").glob("[0-9]*"))
    assert_nothing_half_written(tmp_path)
    again = start("train.py", "--config", deep[0], "--workdir", tmp_path / "run")
    read_until(again, "parameters, ")
    stop(again)


@pytest.mark.slow
def test_a_second_signal_ends_a_compilation_at_once(deep, tmp_path):
    process = start("train.py", "--config", deep[0], "--workdir", tmp_path / "run")
    read_until(process, "parameters, ")
    time.sleep(4)
    process.send_signal(signal.SIGINT)
    time.sleep(1)
    sent = time.monotonic()
    assert "SIGINT: stopped at once" in stop(process, signal.SIGINT)
    assert time.monotonic() - sent < 3


@pytest.mark.slow
def test_a_run_of_several_processes_leaves_while_its_step_is_compiled(deep, tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        place = f"--coordinator=localhost:{free.getsockname()[1]}"
    arguments = ("--config", deep[0], "--workdir", tmp_path, place, "--num_processes=2")
    processes = [start("train.py", *arguments, f"--process_id={i}") for i in range(2)]
    read_until(processes[0], "parameters, ")
    time.sleep(4)
    for process in processes:
        process.send_signal(signal.SIGTERM)
    for process in processes:
        _, said = process.communicate(timeout=SECONDS)
        assert process.returncode == 128 + signal.SIGTERM, said


@pytest.mark.slow
def test_evaluation_leaves_while_it_compiles(deep, tmp_path):
    arguments = ("--config", deep[0], "--checkpoint", deep[1], "--output", tmp_path)
    process = start("eval.py", *arguments)
    read_until(process, "ground-truth boxes")
    time.sleep(2)
    assert STOPPED.search(stop(process))
    assert not list(tmp_path.iterdir())


# --------------------------------------------------------------------------------- at any moment


def arguments_of(
    program: str, network: Sequence[pathlib.Path], output: pathlib.Path
) -> list[object]:
    config, checkpoint = network
    source = next(config.parent.parent.glob("drawn*/val2017"))
    predict = ["--checkpoint", checkpoint, "--source", source, "--whole_picture"]
    return {
        "eval.py": ["--config", config, "--checkpoint", checkpoint, "--output", output],
        "predict.py": [*predict, "--output", output],
        "export.py": ["--checkpoint", checkpoint, "--format=stablehlo", "--output", output],
        "convert.py": ["--source", checkpoint, "--output", output],
        "browse.py": ["--config", config, "--output", output],
        "train.py": ["--config", config, "--workdir", output],
        "mspn check": ["check", "--config", config],
        "mspn import": ["import", tools.cvat(output.parent / "task", SHOTS), "--output", output],
    }[program]


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.5, 2, 5])
@pytest.mark.parametrize(
    "program",
    ["train.py", "eval.py", "predict.py", "export.py", "convert.py", "browse.py"]
    + ["mspn check", "mspn import"],
)
def test_a_command_leaves_whatever_it_does(program, seconds, shallow, tmp_path):
    arguments = arguments_of(program, shallow, tmp_path / "output")
    program = "mspn_jax" if program.startswith("mspn ") else program
    process = start(program, *arguments)
    time.sleep(seconds)
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=SECONDS)
    assert process.returncode in (0, 128 + signal.SIGTERM, -signal.SIGTERM), said
    assert "Traceback" not in said and "Fatal" not in said
    assert_nothing_half_written(tmp_path)
    if process.returncode and program != "train.py" and "check" not in arguments:
        # It goes on as it began.
        again = run(program, *arguments)
        # The signal can come after the last work: a new folder is whole then.
        is_done = "output: exists" in again.stderr
        assert again.returncode == 0 or is_done, again.stderr


# ------------------------------------------------------------------------------------ in pieces


STUCK = """
import hashlib, os, pathlib, sys
from mspn_jax.commands import stopping
from mspn_jax.storage import files
stopping._SECONDS_FOR_THE_MAIN_THREAD = 0.5
saved = pathlib.Path("saved")
with stopping.watched(), files.replaced("file"):
    with stopping.stop_requests(saved.exists):
        pathlib.Path(f".partial-{os.getpid()}-file").touch()
        print("stuck", flush=True)
        hashlib.pbkdf2_hmac("sha256", b"", b"", 10**8)  # a minute in C, as a compilation
"""


@contextlib.contextmanager
def stuck(folder: pathlib.Path) -> Iterator[subprocess.Popen]:
    with subprocess.Popen(
        [sys.executable, "-c", STUCK],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        cwd=folder,
    ) as process:
        assert process.stdout.readline() == "stuck\n"
        time.sleep(0.5)
        yield process
        process.kill()


def test_a_program_that_is_held_up_outside_python_leaves_once_its_work_is_saved(tmp_path):
    with stuck(tmp_path) as process:
        process.send_signal(signal.SIGTERM)
        time.sleep(1.5)
        assert process.poll() is None
        (tmp_path / "saved").touch()
        assert process.wait(timeout=5) == 128 + signal.SIGTERM
        assert process.stderr.read() == "SIGTERM: stopped; all that was saved is whole\n"
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]


def test_a_second_signal_does_not_wait_for_the_work(tmp_path):
    with stuck(tmp_path) as process:
        for pause in (0.1, 1, 0):  # launchers may send one twice: these two are one request
            process.send_signal(signal.SIGTERM)
            time.sleep(pause)
            assert pause == 0 or process.poll() is None
        assert process.wait(timeout=5) == 128 + signal.SIGTERM
        assert process.stderr.read() == "SIGTERM: stopped at once\n"
    assert not list(tmp_path.iterdir())


@pytest.fixture
def all_undone(monkeypatch) -> Iterator[None]:
    """Gives the test a lock of its own, since `undo_all` never releases it."""
    monkeypatch.setattr(leaving, "_lock", threading.Lock())
    yield


def test_what_is_half_written_is_deleted(all_undone, tmp_path):
    undone = contextlib.ExitStack()
    partial = undone.enter_context(files.replaced(tmp_path / "file"))
    partial.touch()
    folder = undone.enter_context(new_folder(tmp_path / "folder", 1000))
    (folder / "inside").touch()
    leaving.undo_all()
    assert not list(tmp_path.iterdir())
    leaving._lock.release()
    with pytest.raises(Exception, match=r"cannot be written|No such file"):
        undone.close()


COMPILING = """
import hashlib
from mspn_jax.commands import compiling, stopping
with stopping.watched():
    print("compiling", flush=True)
    compiling.in_a_process(hashlib.pbkdf2_hmac, "sha256", b"", b"", 10**8)
"""


def test_a_compiler_in_a_process_of_its_own_ends_with_the_command():
    """That is how `mspn compile` compiles."""
    with subprocess.Popen(
        [sys.executable, "-c", COMPILING],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    ) as process:
        assert process.stdout.readline() == "compiling\n"
        children = pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children")
        if not children.is_file():
            pytest.skip("this system does not list a process's children")
        deadline = time.monotonic() + 60
        while len(numbers := children.read_text().split()) < 2:  # multiprocessing's tracker, too
            assert time.monotonic() < deadline
            time.sleep(0.1)
        time.sleep(3)
        stop(process)
    deadline = time.monotonic() + 5
    while any(pathlib.Path(f"/proc/{number}/fd").exists() for number in numbers):
        assert time.monotonic() < deadline, "the compiler goes on"
        time.sleep(0.1)


def test_handlers_are_put_back():
    before = [signal.getsignal(each) for each in stopping.SIGNALS]
    with stopping.watched(), stopping.stop_requests():
        assert [signal.getsignal(each) for each in stopping.SIGNALS] != before
    assert [signal.getsignal(each) for each in stopping.SIGNALS] == before
    assert signal.set_wakeup_fd(-1) == -1
