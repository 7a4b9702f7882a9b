"""mspn: the list of commands, their help, configs by name and as files, and the wheel."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import zipfile

import mutations
import pytest

from commands import HERE, TINY, environment, help_of, run, run_all
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


@pytest.mark.slow
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

    small = (*TINY, "--config.model.num_stages=1", f"--config.data.root={root}")
    mspn("train", "--config", "quickstart", "--workdir", "run", *small, "--config.num_steps=2")
    mspn("eval", "--config", "quickstart", "--checkpoint", "run", *small, "--report", "report")
    mspn("browse", "--config", "quickstart", "--output", "browsed", *small)
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


HEAD = """from mspn_jax.configs import default


def get_config():
    config = default.get_config("mine", num_stages=1)
"""
BAD_FILES = {
    "    config.optimizer.lr = 1\n    return config\n": 'line 6: Key "lr" does not exist',
    "    config.batch_size = = 8\n    return config\n": "line 6: invalid syntax",
    "    import nothing_there\n    return config\n": "line 6: No module named 'nothing_there'",
    "    return config.to_dict()\n": "mine.py: get_config must return a ConfigDict",
    "    config.seed = 1\n": "mine.py: get_config must return a ConfigDict",
    "    1 / 0\n": "mine.py, line 6: division by zero",
    "    raise RuntimeError('one\\ntwo')\n": "mine.py, line 6: one two",
    "    x = '\0'\n": "mine.py: source code string cannot contain null bytes",
    "    config.eval = 3\n    return config\n": "Could not override field 'eval'",
    "    config.num_epochs = 0\n    return config\n": "config.num_epochs=0: must be 1 or more",
}


def test_a_bad_config_file_is_one_line(tmp_path):
    paths = [tmp_path / str(number) / "mine.py" for number in range(len(BAD_FILES))]
    for path, body in zip(paths, BAD_FILES):
        path.parent.mkdir()
        path.write_text(HEAD + body)
    done = run_all([("-m", "mspn_jax", "info", "--config", str(path)) for path in paths])
    for each, message in zip(done, BAD_FILES.values(), strict=True):
        assert each.returncode == 1 and each.stderr.count("\n") == 1, each
        assert each.stderr.startswith("error: ") and message in each.stderr


NO_CONFIG = HERE / "tests" / "commands.py"
BAD_FLAGS = {
    "train --config quickstart --workdir=": "--workdir: is empty; give it a value, or leave it out",
    "train --config quickstart": "--workdir: is missing; --help lists the flags",
    "train --workdir=new": "--config: is missing; --help lists the flags",
    f"info --config {NO_CONFIG}": f"{NO_CONFIG}: module 'config_config' has no attribute",
    f"info --config {HERE}/configs/quickstart.py:3": "quickstart.py:3: TypeError: get_config() tak",
    "info --config quickstart --config.model.depth=17": "the config has no key 'depth'.",
    "info --config quickstart --config.sead=17": "the config has no key 'sead'. Did you mean",
    "info --config quickstart --config.seed=1.5": "--config.seed=1.5: invalid literal for int()",
    "eval --config quickstart --checkpoint x --output=": "--output: is empty; give it a value",
    "eval --config quickstart --checkpoint x --pictures=-1": "--pictures=-1: -1 is not a non-neg",
    "predict --source= --whole_picture": "--source: is empty; give it a value, or leave it out",
    "predict x.jpg --min_score=nan": "--min_score=nan: must be a finite number",
    "predict http://[::1": "http://[::1: is not a URL (Invalid IPv6 URL)",
    "import x.zip --output=new --keypoint_names=a,": "--keypoint_names: is empty; give it a value",
    "split data --val=nan": "--val=nan: must be a finite number",
    "split data --train_name=../x": "--train_name, --val_name: may have only letters, digits,",
}


def test_a_bad_flag_is_one_line():
    lines = [("-m", "mspn_jax", *line.split()) for line in BAD_FLAGS]
    lines.append(("-m", "mspn_jax", "import", "", "--output=new"))  # "" is not the current folder
    messages = [*BAD_FLAGS.values(), "an argument is empty; give it a value, or leave it out"]
    for done, message in zip(run_all(lines), messages, strict=True):
        assert done.returncode == 1 and done.stderr.count("\n") == 1, done
        assert done.stderr.startswith("error: ") and message in done.stderr


def test_control_characters_in_a_files_name_are_written_out(tmp_path):
    content = mutations.sound_content()
    content["images"][0]["file_name"] = "a\n\x1b[31mb.jpg"
    text = json.dumps(content)
    (tmp_path / "annotations").mkdir()
    for split in ("train2017", "val2017"):
        (tmp_path / split).mkdir()
        (tmp_path / "annotations" / f"person_keypoints_{split}.json").write_text(text)
    given = ("--config", "quickstart", f"--config.data.root={tmp_path}")
    done = run("mspn_jax", "train", *given, "--workdir", tmp_path / "run")
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert line.endswith(r"(a\n\x1b[31mb.jpg, 2.jpg): unpack the split's pictures there")


def test_a_file_as_workdir_is_refused(tmp_path):
    (tmp_path / "run").write_text("notes")
    done = run("mspn_jax", "train", "--config", "quickstart", "--workdir", tmp_path / "run")
    assert done.returncode == 1
    assert done.stderr == f"error: --workdir={tmp_path}/run: is a file; a folder is needed\n"


@pytest.mark.parametrize("words", [("train", "--help"), ("download",)])
def test_output_that_nobody_reads_ends_a_command_quietly(words):
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "mspn_jax", *words],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        cwd=HERE,
    )
    os.close(writer)
    assert done.returncode == 1 and done.stderr == ""
