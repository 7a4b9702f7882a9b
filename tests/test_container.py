"""What the Dockerfile names exists. It is not built here."""

import json
import pathlib
import re
import tomllib

HERE = pathlib.Path(__file__).parents[1]
TEXT = (HERE / "Dockerfile").read_text()
LINES = re.sub(r"\\\n", "", re.sub(r"^#.*\n", "", TEXT, flags=re.MULTILINE)).splitlines()
PROJECT = tomllib.loads((HERE / "pyproject.toml").read_text())["project"]


def given(instruction: str) -> list[str]:
    return [line.partition(" ")[2] for line in LINES if line.startswith(f"{instruction} ")]


def test_its_extras_exist():
    (install,) = [line for line in given("RUN") if "pip install" in line]
    assert '".[serve,onnx${EXTRA:+,$EXTRA}]"' in install and "-c constraints.txt" in install
    named = set(re.findall(r"EXTRA=(\w+)", TEXT)) | set(re.findall(r"cuda\d+", TEXT))
    assert named == {"cuda12", "cuda13"}
    assert named | {"onnx", "serve"} <= set(PROJECT["optional-dependencies"])


def test_its_python_is_one_that_the_project_takes():
    version = re.search(r"^ARG PYTHON=(\d+)\.(\d+)$", TEXT, re.MULTILINE)
    least = re.fullmatch(r">=(\d+)\.(\d+)", PROJECT["requires-python"])
    assert tuple(map(int, version.groups())) >= tuple(map(int, least.groups()))


def test_what_it_copies_is_there_and_is_sent_to_it():
    ignored = (HERE / ".dockerignore").read_text().splitlines()
    sent = {line[1:] for line in ignored if line.startswith("!")}
    copied = {
        name for words in given("COPY") if "--from" not in words for name in words.split()[:-1]
    }
    assert "*" in ignored and copied == sent
    assert all((HERE / name).exists() for name in copied)
    assert {"pyproject.toml", PROJECT["readme"], *PROJECT["license-files"]} <= copied


def test_it_serves_as_the_command_does():
    (entry,), (arguments,) = given("ENTRYPOINT"), given("CMD")
    assert set(json.loads(entry)) <= set(PROJECT["scripts"])
    assert json.loads(arguments) == ["serve", "--host", "0.0.0.0"]
    flags = (HERE / "mspn_jax" / "commands" / "serve.py").read_text()
    (port,) = re.findall(r'DEFINE_integer\("port", (\d+)', flags)
    assert given("EXPOSE") == [port]
    (health,) = given("HEALTHCHECK")
    python = json.loads(health[health.index("[") :])
    assert f":{port}/healthz" in python[-1] and compile(python[-1], "HEALTHCHECK", "exec")


def test_its_user_is_not_root_and_owns_where_networks_are_kept():
    assert given("USER") == ["10001"]
    (home,) = re.findall(r"MSPN_HOME=(\S+)", " ".join(given("ENV")))
    assert given("VOLUME") == [home] and f"chown mspn:mspn {home}" in " ".join(given("RUN"))
    assert TEXT.count(f":{home} ") == 2  # in the two commands that run it
