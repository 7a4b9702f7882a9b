"""mspn: the list of commands, their help, configs by name and as files, and the wheel."""

import os
import pathlib
import shutil
import subprocess
import sys
import zipfile

import pytest

from commands import HERE, environment, run
from mspn_jax.commands.cli import COMMANDS


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


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name):
    done = run("mspn_jax", name, "--help")
    assert done.returncode == 0, done.stderr
    has_config = name not in ("predict", "convert", "export")
    assert ("--config.batch_size=256  (of all devices together)" in done.stdout) == has_config
    assert ("--coordinator" in done.stdout) == (name in ("train", "eval"))


def test_a_config_has_a_name_or_a_file(tmp_path):
    by_name = run("mspn_jax", "info", "--config", "quickstart")
    by_file = run("mspn_jax", "info", f"--config={HERE}/configs/quickstart.py")
    assert by_name.returncode == 0 and by_name.stdout == by_file.stdout
    unknown = run("mspn_jax", "info", "--config", "quickstrat")
    assert unknown.returncode == 1
    assert "--config quickstrat: neither a file nor one of" in unknown.stderr


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
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", tmp_path,
         source], check=True,
    )  # fmt: skip
    (wheel,) = tmp_path.glob("*.whl")
    installed = tmp_path / "installed"
    with zipfile.ZipFile(wheel) as file:
        file.extractall(installed)

    def mspn(*arguments: object) -> None:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "mspn_jax", *map(str, arguments)], cwd=tmp_path,
            env=environment() | {"PYTHONPATH": str(installed)}, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr

    data = f"--config.data.root={root}"
    mspn("train", "--config", "quickstart", "--workdir", "run", data, "--config.num_steps=2")
    mspn("eval", "--config", "quickstart", "--checkpoint", "run", data, "--report", "report")
    mspn("browse", "--config", "quickstart", "--output", "browsed", data)
    assert (tmp_path / "run" / "checkpoints" / "2").is_dir()
    assert (tmp_path / "report" / "report.html").is_file()
    where = subprocess.run(
        [sys.executable, "-P", "-c", "import mspn_jax; print(mspn_jax.__file__)"], cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(installed)}, capture_output=True, text=True,
    )  # fmt: skip
    assert pathlib.Path(where.stdout.strip()).is_relative_to(installed)
