"""The examples of docs/deploy: what can be said of a unit and a container file without a machine to install them on.

The unit is read by systemd's own checker where there is one. The container file is never built here: its steps are
compared with what the repository has, and a tree of exactly what it copies has to be enough to load a node.
"""

from __future__ import annotations

import configparser
import http.server
import json
import os
import shlex
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import click
import pytest

from node import config
from node.cli.main import koinon

ROOT = Path(__file__).resolve().parents[1]
UNIT = ROOT / "docs" / "deploy" / "koinon-node.service"
CONTAINER = ROOT / "docs" / "deploy" / "Containerfile"
INSTALLED = "/opt/koinon/.venv/bin/koinon"


def unit() -> configparser.ConfigParser:
    found = configparser.ConfigParser(interpolation=None, strict=False, delimiters=("=",))
    found.optionxform = str  # type: ignore[assignment,method-assign]  # keys of a unit have capitals
    found.read_string(UNIT.read_text())
    return found


def environment() -> dict[str, str]:
    lines = [line.partition("=")[2] for line in UNIT.read_text().splitlines() if line.startswith("Environment=")]
    return dict(line.partition("=")[::2] for line in lines)  # type: ignore[misc]


def steps() -> list[tuple[str, str]]:
    """Instruction and rest of every line of the container file."""
    lines = [line for line in CONTAINER.read_text().splitlines() if line.strip() and not line.startswith("#")]
    return [(line.partition(" ")[0], line.partition(" ")[2].strip()) for line in lines]


def of(instruction: str) -> list[str]:
    return [rest for name, rest in steps() if name == instruction]


def command(arguments: list[str]) -> tuple[click.Command, dict[str, object]]:
    """The real command that a command line names, and its options; a usage error fails the test."""
    one: click.Command = koinon
    while isinstance(one, click.Group):
        one, arguments = one.commands[arguments[0]], arguments[1:]
    context = one.make_context("koinon", list(arguments), resilient_parsing=False)
    return one, context.params


def test_the_unit_starts_a_real_command_line_on_paths_that_agree() -> None:
    service = unit()["Service"]
    program, *arguments = shlex.split(service["ExecStart"])
    assert program == INSTALLED
    one, options = command(arguments)
    assert one is koinon.commands["node"].commands["run"]  # type: ignore[attr-defined]
    assert Path(str(options["home"])).is_relative_to(service["ReadWritePaths"])
    assert Path(str(options["home"])).is_relative_to(service["WorkingDirectory"])
    assert service["LoadCredential"].partition(":")[0] == environment()["KOINON_NODE_PASSWORD_FILE"].partition("%d/")[2]


def test_what_the_examples_set_are_settings(tmp_path: Path) -> None:
    config.write(tmp_path / "config.toml")
    inside = dict(one.partition("=")[::2] for one in of("ENV"))
    for given in (environment(), inside):
        known = {f"KOINON_{s.upper()}_{k.upper()}" for s, table in config._TABLE.items() for k in table}
        assert {name for name in given if name.startswith("KOINON_")} <= known
        assert config.load(tmp_path / "config.toml", given)["node", "control_port"] == 41100


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")
def test_systemd_itself_accepts_the_unit(tmp_path: Path) -> None:
    """With this checkout's program and account in place of the installed ones, which are not on this machine."""
    text = UNIT.read_text().replace(INSTALLED, str(ROOT / ".venv" / "bin" / "koinon"))
    text = text.replace("User=koinon\n", "").replace("Group=koinon\n", "").replace("/srv/koinon", "/tmp")
    path = tmp_path / UNIT.name
    path.write_text(text)
    ran = subprocess.run(
        ["systemd-analyze", "verify", str(path)], capture_output=True, text=True, timeout=60, check=False
    )
    said = [line for line in ran.stderr.splitlines() if UNIT.name in line]
    assert (ran.returncode, said) == (0, []), ran.stderr


def test_the_container_sets_itself_up_as_a_checkout_does() -> None:
    assert "./scripts/setup --no-node" in of("RUN")
    assert os.access(ROOT / "scripts" / "setup", os.X_OK)
    assert "--no-node" in (ROOT / "scripts" / "setup").read_text()
    (entry,), (tail,) = of("ENTRYPOINT"), of("CMD")
    program, *arguments = [*json.loads(entry), *json.loads(tail)]
    (where,) = set(of("WORKDIR"))
    assert program == INSTALLED == f"{where}/.venv/bin/koinon"
    assert [rest for rest in of("COPY") if rest.startswith("--from=")] == [f"--from=build {where} {where}"]
    _, options = command(arguments)
    assert Path(str(options["home"])).is_relative_to(of("VOLUME")[0])
    assert of("USER") == ["koinon"]


@pytest.mark.slow  # loads a whole node from a copied tree
def test_what_the_container_copies_is_there_and_is_enough(tmp_path: Path) -> None:
    copied = [rest for rest in of("COPY") if not rest.startswith("--from=")]
    for rest in copied:
        *sources, target = rest.split()
        for source in sources:
            assert (ROOT / source).exists(), source
            place = tmp_path / (source if target == "./" else target)
            place.parent.mkdir(parents=True, exist_ok=True)
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, place, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / source, place)
    # -P and a path of its own: nothing of this checkout is found but what was copied.
    check = "import node.runner, node.abi, fl_engine, pathlib; node.abi.Codec.load(); print(node.runner.__file__)"
    environment_ = {**os.environ, "PYTHONPATH": str(tmp_path)}
    ran = subprocess.run(
        [sys.executable, "-P", "-c", check], cwd=tmp_path, env=environment_, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith(str(tmp_path))


@pytest.mark.parametrize("status", [200, 503])
def test_the_health_check_asks_the_probe_and_believes_it(status: int) -> None:
    class Probe(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/healthz" else 404)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    line = next(rest for name, rest in steps() if name == "HEALTHCHECK")
    _, *arguments = json.loads(line.partition("CMD ")[2])
    with http.server.HTTPServer(("127.0.0.1", 0), Probe) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        arguments[-1] = arguments[-1].replace("127.0.0.1:41100", f"127.0.0.1:{server.server_address[1]}")
        ran = subprocess.run([sys.executable, *arguments], capture_output=True, timeout=30, check=False)
        server.shutdown()
    assert (ran.returncode == 0) is (status == 200)
