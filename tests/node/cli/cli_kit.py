"""The command line as a person types it, in this process."""

from __future__ import annotations

from click.testing import CliRunner

from node.cli.main import koinon


def koinon_says(*arguments: object, stdin: str | None = None) -> tuple[int, str, str]:
    """The exit code of `koinon ARGUMENTS`, and what it wrote to standard output and to standard error."""
    result = CliRunner().invoke(koinon, [str(one) for one in arguments], input=stdin)
    return result.exit_code, result.stdout, result.stderr
