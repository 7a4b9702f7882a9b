"""Shared fixtures: golden values, drawn people, a finished run, buckets, real pictures."""

import gc
import json
import os
import pathlib
import shutil
import tempfile

import jaxtyping
import numpy as np
import pytest
from xla_flags import QUICK_TO_COMPILE

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + QUICK_TO_COMPILE

# Many processes compile the same programs.
_COMPILED = tempfile.TemporaryDirectory(prefix="mspn_jax_compiled_")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", _COMPILED.name)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

# Every annotation of the package is checked while the tests run: types by beartype, shapes by
# jaxtyping. PEP 484 lets an int stand for a float.
_BEARTYPE = "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"
jaxtyping.install_import_hook("mspn_jax", _BEARTYPE)

import mixture_files  # noqa: E402
from bucket_server import BucketServer  # noqa: E402

import commands  # noqa: E402  (they import what the lines above are to change)
from mspn_jax import allocator  # noqa: E402
from mspn_jax.storage import paths  # noqa: E402
from mspn_jax.synthetic import people  # noqa: E402

allocator.keep_freed_memory(of_threads=True)
gc.set_threshold(*gc.get_threshold()[:2], 1000)  # as the commands, for tracing
GOLDEN = pathlib.Path(__file__).parent / "golden"
_SHARED_BESIDE = pathlib.Path(__file__).parents[2] / "shared"


def golden_json(name: str):
    return json.loads((GOLDEN / name).read_text())


def golden_npz(name: str) -> dict[str, np.ndarray]:
    with np.load(GOLDEN / name) as arrays:
        return dict(arrays)


@pytest.fixture
def unchecked():
    """Disables type checks, for tests of the code's own refusals."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="session")
def coco_sample() -> pathlib.Path:
    """A folder of real COCO pictures in COCO's layout (splits train2017 and val2017)."""
    root = pathlib.Path(os.environ.get("MSPN_COCO_SAMPLE", _SHARED_BESIDE / "coco_sample"))
    if not (root / "annotations").is_dir():
        pytest.skip(f"no COCO pictures in {root}: set MSPN_COCO_SAMPLE to run this test")
    return root


@pytest.fixture(scope="session")
def yolox_nano() -> pathlib.Path:
    """YOLOX's published nano detector, whose output is not decoded."""
    beside = _SHARED_BESIDE / "detector" / "yolox_nano.onnx"
    path = pathlib.Path(os.environ.get("MSPN_YOLOX_ONNX", beside))
    if not path.is_file():
        pytest.skip(f"no YOLOX in {path}: set MSPN_YOLOX_ONNX to run this test")
    return path


@pytest.fixture(scope="session")
def root(tmp_path_factory) -> pathlib.Path:
    """Drawn people in COCO's layout."""
    root = tmp_path_factory.mktemp("drawn")
    people.write_dataset(root, {"train2017": 40, "val2017": 12})
    return root


@pytest.fixture(scope="session")
def drawn(tmp_path_factory) -> pathlib.Path:
    """A smaller data set of one split, without records."""
    root = tmp_path_factory.mktemp("few_drawn")
    people.write_dataset(root, {"train2017": 12})
    return root


@pytest.fixture
def drawn_copy(drawn, tmp_path) -> pathlib.Path:
    """A copy of `drawn` that a test may change."""
    shutil.copytree(drawn, tmp_path / "data", ignore=shutil.ignore_patterns("records"))
    return tmp_path / "data"


@pytest.fixture(scope="module")
def two_roots(tmp_path_factory) -> tuple[pathlib.Path, pathlib.Path]:
    """Two data sets, of which the second has keypoints of other names."""
    root, other = (tmp_path_factory.mktemp(name) for name in ("people", "others"))
    mixture_files.write(root, other)
    return root, other


@pytest.fixture(scope="session")
def config(root) -> pathlib.Path:
    """A config file of a tiny network for `root`."""
    path = root / "tiny.py"
    path.write_text(commands.CONFIG.replace("ROOT", str(root)))
    return path


@pytest.fixture(scope="session")
def workdir(config, tmp_path_factory) -> pathlib.Path:
    """The workdir of an undisturbed run of `config`."""
    workdir = tmp_path_factory.mktemp("run")
    done = commands.run("train.py", "--config", config, "--workdir", workdir)
    assert done.returncode == 0, done.stderr
    return workdir


@pytest.fixture(scope="session")
def buckets():
    """A local server of buckets; `bucket` makes programs use it."""
    pytest.importorskip("gcsfs", reason="gs:// needs gcsfs: pip install 'mspn-jax[gcs]'")
    with BucketServer() as server:
        yield server


@pytest.fixture
def bucket(buckets, tmp_path, monkeypatch):
    """The path of a new bucket of `buckets`, for this process and its subprocesses."""
    for name, value in buckets.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("MSPN_LEASE_SECONDS", "5")
    name = f"bucket{len(buckets.buckets)}"
    buckets.buckets[name] = {}
    buckets.requests.clear()
    yield paths.path(f"gs://{name}")
    buckets.refuse = lambda method, path, query: None


@pytest.fixture(params=["disk", "bucket"])
def new_workdir(request, tmp_path):
    """The path of a new workdir, on a disk and in a bucket."""
    if request.param == "disk":
        return tmp_path / "run"
    return request.getfixturevalue("bucket") / "run"


@pytest.fixture(scope="module")
def served_files(tmp_path_factory) -> pathlib.Path:
    """A tiny network, and a detector that finds the right lower quarter of every picture."""
    import detector_files
    from test_predictor import DESCRIPTION, VARIABLES

    from mspn_jax.weights import checkpoints

    folder = tmp_path_factory.mktemp("served")
    checkpoints.save_variables(folder / "tiny", DESCRIPTION, VARIABLES)
    detector_files.dynamic(folder / "quarter.onnx")
    return folder


@pytest.fixture(scope="module")
def served(served_files):
    """`mspn serve` in a process of its own, with small limits."""
    from people_server import MAX_BYTES, Served  # needs aiohttp

    limits = (f"--max_megabytes={MAX_BYTES / 1e6}", "--max_megapixels=2", "--timeout_seconds=20")
    with Served(served_files, *limits, "--max_waiting=8", "--warm_up=1") as served:
        yield served


@pytest.fixture(scope="module")
def finder(served_files):
    from mspn_jax.finder import PeopleFinder, load_detector

    detector = load_detector(served_files / "quarter.onnx")
    return PeopleFinder.load(served_files / "tiny", detector, min_score=0.0)
