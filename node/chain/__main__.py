"""`python -m node.chain`: run the chain of a network home.

Standard output carries one line, the ready line (JSON); everything else goes to standard error.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from node.chain.server import Ready, serve
from node.errors import ExitCode, InputError, NodeError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until a signal ends it.

    Returns:
        The exit code of `node.errors.ExitCode`.
    """
    parser = argparse.ArgumentParser(
        prog="python -m node.chain", description="Run the embedded chain of a network home."
    )
    parser.add_argument("--home", type=Path, required=True, help="network home, with chain/genesis.json")
    parser.add_argument("--host", default="127.0.0.1", help="address to bind (default: this machine only)")
    parser.add_argument("--port", type=int, default=0, help="0 for any free one (default)")
    parser.add_argument("--allow-remote", action="store_true", help="bind an address that other machines can reach")
    parser.add_argument("--token-file", type=Path, help="file with the bearer token; needed beyond this machine")
    parser.add_argument("--test-clock", action="store_true", help="let tests move the clock through koinon_setTime")
    given = parser.parse_args(arguments)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        serve(
            given.home,
            host=given.host,
            port=given.port,
            token=None if given.token_file is None else _read_token(given.token_file),
            allow_remote=given.allow_remote,
            test_clock=given.test_clock,
            ready=_say_ready,
        )
    except NodeError as error:
        sys.stderr.write(f"chain: {error.message}\n")
        return error.exit_code
    return ExitCode.OK


def _read_token(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the token file {path} cannot be read: {error}") from None


def _say_ready(ready: Ready) -> None:
    sys.stdout.write(ready.to_line() + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
