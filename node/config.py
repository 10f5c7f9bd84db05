"""A node's configuration: `config.toml`, then `KOINON_` environment variables, then flags, in rising order.

What may live here: the settings table, its reader and writer. Units are in the names. Secrets are never settings: a
password is read from the file that `node.password_file` names.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w

from node.errors import InputError, LocalFault

FORMAT = 1

# section -> key -> (type, default)
_TABLE: dict[str, dict[str, tuple[type, Any]]] = {
    "node": {
        "name": (str, "member"),
        "listen": (str, "/ip4/127.0.0.1/tcp/0"),
        "announce": (str, ""),
        "control_port": (int, 0),
        "password_file": (str, "password"),
        "dpo_password_file": (str, ""),
        "log_level": (str, "info"),
    },
    "chain": {
        "url": (str, "http://127.0.0.1:8545"),
        "check_urls": (list, []),
        "confirmations": (int, 0),
        "poll_ms": (int, 250),
    },
    "study": {"auto_join": (bool, True), "register": (str, "")},
    "erasure": {"review_s": (int, 0)},
    "history": {"budget_mb": (int, 0)},
    "training": {"threads": (int, 1), "timeout_s": (int, 86_400)},
}


@dataclass(frozen=True, slots=True)
class Config:
    """Checked settings of one node home; read as `config["chain", "url"]`."""

    sections: dict[str, dict[str, Any]]

    def __getitem__(self, key: tuple[str, str]) -> Any:
        """The setting `key = (section, name)`."""
        return self.sections[key[0]][key[1]]


def _value(section: str, key: str, value: Any, source: str) -> Any:
    kind, _ = _TABLE[section][key]
    if kind is list:
        value = [one.strip() for one in value.split(",") if one.strip()] if isinstance(value, str) else value
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            raise InputError(f"{source}: {section}.{key} = {value!r} must be a list of texts")
        return list(value)
    if isinstance(value, str) and kind is int and value.lstrip("-").isdigit():
        value = int(value)
    if isinstance(value, str) and kind is bool and value.lower() in ("true", "false", "1", "0"):
        value = value.lower() in ("true", "1")
    if type(value) is not kind:
        raise InputError(f"{source}: {section}.{key} = {value!r} must be {kind.__name__}")
    if isinstance(value, int) and value < 0:
        raise InputError(f"{source}: {section}.{key} = {value} must not be negative")
    return value


def load(path: Path, environment: Mapping[str, str] = os.environ, **flags: Any) -> Config:
    """Settings of the home whose `config.toml` is `path`.

    Flags are given as `section__key=value`; None means not given. Environment variables are `KOINON_SECTION_KEY`.
    """
    try:
        given = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise LocalFault(f"{path} is missing: make a home with `koinon node init` or `koinon network init`") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"{path}: {error}") from error
    found = given.pop("format", None)
    if found != FORMAT:
        raise LocalFault(f"{path}: format {found!r}, this koinon reads format {FORMAT}")
    sections = {name: {key: default for key, (_, default) in table.items()} for name, table in _TABLE.items()}
    for section, values in given.items():
        if section not in _TABLE or not isinstance(values, dict):
            raise InputError(f"{path}: unknown section [{section}]; known: {', '.join(_TABLE)}")
        for key, value in values.items():
            if key not in _TABLE[section]:
                raise InputError(f"{path}: unknown key {section}.{key}; known: {', '.join(_TABLE[section])}")
            sections[section][key] = _value(section, key, value, str(path))
    for section, table in _TABLE.items():
        for key in table:
            name = f"KOINON_{section.upper()}_{key.upper()}"
            if name in environment:
                sections[section][key] = _value(section, key, environment[name], name)
            flag = flags.get(f"{section}__{key}")
            if flag is not None:
                sections[section][key] = _value(section, key, flag, f"--{key.replace('_', '-')}")
    return Config(sections)


def write(path: Path, **values: Any) -> None:
    """Write a `config.toml` with the given `section__key=value` settings and the defaults for the rest."""
    tree: dict[str, Any] = {"format": FORMAT}
    for section, table in _TABLE.items():
        tree[section] = {key: values.get(f"{section}__{key}", default) for key, (_, default) in table.items()}
    path.write_text(tomli_w.dumps(tree), "utf-8")
