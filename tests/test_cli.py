"""mspn: the list of commands, their help, configs by name and as files, and the wheel."""

import ast
import importlib
import os
import pathlib
import shutil
import subprocess
import sys
import zipfile

import pytest
from ml_collections import ConfigDict

from commands import HERE, environment, help_of, run
from mspn_jax.commands import ranges
from mspn_jax.commands.cli import COMMANDS
from mspn_jax.configs import quickstart
from mspn_jax.errors import UsageError


def test_mspn_alone_lists_the_commands():
    done = run("mspn_jax")
    assert done.returncode == 0
    for name, command in COMMANDS.items():
        assert f"  {name} " in done.stdout and command.does in done.stdout


def test_a_misspelt_command_is_answered_with_the_right_one():
    done = run("mspn_jax", "trian")
    assert (done.returncode, done.stderr) == (
        1,
        "error: trian: no such command; did you mean train?\n",
    )


def test_every_command_has_help():
    without_config = {"predict", "download", "convert", "serve", "import", "split", "export"}
    texts = help_of([("-m", "mspn_jax", name) for name in COMMANDS])
    for name, text in zip(COMMANDS, texts, strict=True):
        has_config = name not in without_config
        assert ("--config.batch_size=256  (of all devices together)" in text) == has_config, name
        assert ("--coordinator" in text) == (name in ("train", "eval")), name


def test_help_exits_with_0():
    done = run("mspn_jax", "train", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "--config.batch_size=256" in done.stdout


def test_a_config_has_a_name_or_a_file(tmp_path):
    by_name = run("mspn_jax", "info", "--config", "quickstart")
    by_file = run("mspn_jax", "info", f"--config={HERE}/configs/quickstart.py")
    assert by_name.returncode == 0 and by_name.stdout == by_file.stdout
    unknown = run("mspn_jax", "info", "--config", "quickstrat")
    assert unknown.returncode == 1
    assert "--config quickstrat: neither a file nor one of" in unknown.stderr
    shared = run("mspn_jax", "info", "--config", "default")
    assert shared.returncode == 1
    assert "--config: get_config needs arguments there; name one of 2xmspn50" in shared.stderr
    folder = run("mspn_jax", "info", "--config", tmp_path)
    assert folder.stderr == f"error: {tmp_path}: a folder, not a config\n"


def test_a_misspelt_key_in_a_file_is_refused_as_on_the_command_line(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from mspn_jax.configs import quickstart\n\n\ndef get_config():\n"
        "    config = quickstart.get_config()\n    config.batchsize = 8\n    return config\n"
    )
    for arguments in (["--config", path], ["--config", "quickstart", "--config.batchsize=8"]):
        done = run("mspn_jax", "train", "--workdir", tmp_path / "run", *arguments)
        assert done.returncode == 1 and not (tmp_path / "run").exists()
        (line,) = done.stderr.splitlines()
        assert line.startswith("error: ") and 'Did you mean "batch_size"' in line


@pytest.mark.slow
def test_the_wheel_trains_the_quickstart(root, tmp_path):
    """Its dependencies are this environment's."""
    source = tmp_path / "source"  # setuptools leaves a build folder
    ignored = shutil.ignore_patterns(".*", "runs", "data", "site", "*.egg-info", "__pycache__")
    shutil.copytree(HERE, source, symlinks=True, ignore=ignored)
    shutil.copytree(HERE / "mspn_jax" / "data", source / "mspn_jax" / "data", dirs_exist_ok=True)
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "--quiet",
            "--no-deps",
            "--wheel-dir",
            tmp_path,
            source,
        ],
        check=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    installed = tmp_path / "installed"
    with zipfile.ZipFile(wheel) as file:
        file.extractall(installed)

    def mspn(*arguments: object) -> None:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "mspn_jax", *map(str, arguments)],
            cwd=tmp_path,
            env=environment() | {"PYTHONPATH": str(installed)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr

    data = f"--config.data.root={root}"
    mspn("train", "--config", "quickstart", "--workdir", "run", data, "--config.num_steps=2")
    mspn("eval", "--config", "quickstart", "--checkpoint", "run", data, "--report", "report")
    mspn("browse", "--config", "quickstart", "--output", "browsed", data)
    assert (tmp_path / "run" / "checkpoints" / "2").is_dir()
    assert (tmp_path / "report" / "report.html").is_file()
    where = subprocess.run(
        [sys.executable, "-P", "-c", "import mspn_jax; print(mspn_jax.__file__)"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
    )
    assert pathlib.Path(where.stdout.strip()).is_relative_to(installed)


BAD_VALUES = {
    "num_hard_keypoints=0": "0: must be 1 or more",
    "padding=0.0": "0.0: must be more than 0",
    "padding=inf": "inf: must be more than 0",
    "ema_decay=1.5": "1.5: must be 0 or more, and less than 1",
    "data.first_people=-1": "-1: must be 0 or more",
    "data.num_threads=-1": "-1: must be 0 or more",
    "data.also=('a:b:0',)": (
        "('a:b:0',): must be a tuple of texts ROOT:SPLIT:WEIGHT, with weights of more than 0 and at"
        " most 1,000"
    ),
    "data.also=('a:b:1','a:b')": (
        "('a:b:1', 'a:b'): must be a tuple of texts ROOT:SPLIT:WEIGHT, with weights of more than 0"
        " and at most 1,000"
    ),
    "num_steps=-5": "-5: must be 0 or more",
    "num_epochs=0": "0: must be 1 or more",
    "seed=-1": "-1: must be 0 or more",
    "eval.batch_size=0": "0: must be 1 or more",
    "eval.batch_size=-3": "-3: must be 1 or more",
    "checkpoint.every_steps=0": "0: must be 1 or more",
    "log_every_steps=0": "0: must be 1 or more",
    "model.num_stages=0": "0: must be 1 or more",
    "model.stem_channels=0": "0: must be 1 or more",
    "model.blocks_per_unit=(1,1)": "(1, 1): must be 4 whole numbers, each 1 or more",
    "crop_hw=(100,96)": "(100, 96): must be two multiples of 32, height and width",
    "optimizer.learning_rate=nan": "nan: must be more than 0",
    "optimizer.drop_epochs=(-1.0,)": "(-1.0,): must be epochs, each more than 0",
    "augment.flip_probability=2.0": "2.0: must be from 0 to 1",
    "model.num_stages=1000": "1000: must be at most 16",
    "model.blocks_per_unit=(3,4,6,1000)": "(3, 4, 6, 1000): must be at most 64",
    "crop_hw=(320000,64)": "(320000, 64): must be at most 4,096",
    "batch_size=1000000000": "1000000000: must be at most 1,048,576",
    "data.num_threads=1000000": "1000000: must be at most 1,024",
    "seed=4294967296": "4294967296: must be at most 4,294,967,295",
    "dtype=float16": "'float16': must be float32 or bfloat16",
}


@pytest.mark.parametrize("assignment", BAD_VALUES)
def test_a_value_out_of_its_range_is_refused(assignment):
    with pytest.raises(UsageError) as error:
        ranges.check(changed(assignment))
    key = assignment.partition("=")[0]
    assert str(error.value) == f"config.{key}={BAD_VALUES[assignment]}"


def changed(assignment: str) -> ConfigDict:
    """The quickstart's config with another value."""
    key, _, text = assignment.partition("=")
    config = quickstart.get_config()
    try:
        value = ast.literal_eval(text)
    except ValueError:
        value = text if key == "dtype" else float(text)
    config.update_from_flattened_dict({key: value})
    return config


@pytest.mark.parametrize("value", [64, (64.0, 64.0), None, "64", (64, 64, 64), 10**400, True])
def test_a_crop_size_is_two_whole_numbers(value):
    with pytest.raises(UsageError, match="must be two multiples of 32"):
        ranges.require("config.crop_hw", value, ranges.CROP)


def test_every_number_of_a_config_has_a_range():
    numbers = {
        key
        for key, value in ranges.flat(quickstart.get_config().to_dict()).items()
        if not isinstance(value, bool | str) and not key.endswith("_probability")
    }
    assert numbers <= ranges.RULES.keys()


@pytest.mark.parametrize("name", sorted(path.stem for path in (HERE / "configs").glob("[!_]*.py")))
def test_the_published_configs_are_in_range(name):
    module = importlib.import_module(f"mspn_jax.configs.{name}")
    if name != "default":
        ranges.check(module.get_config())


HEAD = """from mspn_jax.configs import default


def get_config():
    config = default.get_config("mine", num_stages=1)
"""
BAD_FILES = {
    "    config.optimizer.lr = 1\n    return config\n": 'line 6: Key "lr" does not exist',
    "    config.batch_size = = 8\n    return config\n": "line 6: invalid syntax",
    "    import nothing_there\n    return config\n": "line 6: No module named 'nothing_there'",
    "    return config.to_dict()\n": "mine.py: get_config must return a ConfigDict",
    "    config.eval = 3\n    return config\n": "Could not override field 'eval'",
    "    config.num_epochs = 0\n    return config\n": "config.num_epochs=0: must be 1 or more",
}


@pytest.mark.parametrize("body", BAD_FILES)
def test_a_bad_config_file_is_one_line(body, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(HEAD + body)
    done = run("mspn_jax", "info", "--config", path)
    (line,) = done.stderr.splitlines()
    assert done.returncode == 1 and line.startswith("error: ") and BAD_FILES[body] in line


def test_an_empty_workdir_is_refused():
    done = run("mspn_jax", "train", "--config", "quickstart", "--workdir=")
    assert (done.returncode, done.stderr) == (
        1,
        "error: --workdir: is empty; name a folder or file\n",
    )


def test_a_file_as_workdir_is_refused(tmp_path):
    (tmp_path / "run").write_text("notes")
    done = run("mspn_jax", "train", "--config", "quickstart", "--workdir", tmp_path / "run")
    assert done.returncode == 1
    assert done.stderr == f"error: --workdir={tmp_path}/run: is a file; a folder is needed\n"
