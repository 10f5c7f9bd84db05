"""What a command says: data on standard output, words on standard error, and how it ends.

Rules of this file:

1. Standard output carries the answer and nothing else: a table for people, or with `--json` one JSON object
   `{"schema": "koinon.<noun>-<verb>/1", "data": ...}`, or `{"schema": "koinon.error/1", "error": ...}`.
2. Progress and sentences about faults go to standard error.
3. The exit codes are those of `node.errors.ExitCode`. A fault nobody foresaw is one line that names the place in the
   code and never the value (a value may be a patient's identifier); `KOINON_DEBUG=1` shows the traceback.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import logging
import os
import sqlite3
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NoReturn, TextIO, cast

import click
import structlog
from structlog.typing import Processor

from node.errors import ExitCode, InputError, LocalFault, NodeError, Refused, VerificationFailed

JSON_FLAG: Final = "koinon.json"
CSV_FLAG: Final = "koinon.csv"
ERROR_SCHEMA: Final = "koinon.error/1"
Lines = Iterable[str]


def escape_what_does_not_fit() -> None:
    """Write a letter that the terminal's encoding lacks as its escape: a name from elsewhere is no reason to fail."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


# --------------------------------------------------------------------------------------------------------------------
# Answers


def json_flag(command: Callable[..., Any]) -> Callable[..., Any]:
    """The option `--json` of every command."""

    def remember(context: click.Context, _: click.Parameter, given: bool) -> None:
        context.meta[JSON_FLAG] = given or context.meta.get(JSON_FLAG, False)

    return click.option(
        "--json", is_flag=True, expose_value=False, callback=remember, is_eager=True, help="Answer in JSON on stdout."
    )(command)


def csv_flag(command: Callable[..., Any]) -> Callable[..., Any]:
    """The option `--csv` of commands that answer with rows."""

    def remember(context: click.Context, _: click.Parameter, given: bool) -> None:
        context.meta[CSV_FLAG] = given

    return click.option(
        "--csv", is_flag=True, expose_value=False, callback=remember, help="Answer with the rows as CSV on stdout."
    )(command)


def wants_json() -> bool:
    """Whether the running command was given `--json`."""
    context = click.get_current_context(silent=True)
    return bool(context is not None and context.meta.get(JSON_FLAG))


def schema_of(context: click.Context) -> str:
    """`koinon.noun-verb/1` of the running command."""
    names: list[str] = []
    one: click.Context | None = context
    while one is not None and one.parent is not None:
        names.insert(0, one.info_name or "")
        one = one.parent
    return f"koinon.{'-'.join(names)}/1"


def answer(data: Any, lines: Lines, rows: Sequence[dict[str, Any]] = (), columns: Sequence[str] = ()) -> None:
    """Print the answer: `data` as JSON, `rows` under their `columns` as CSV (RFC 4180), or the lines for people."""
    context = click.get_current_context()
    if context.meta.get(CSV_FLAG):
        if wants_json():
            raise click.UsageError("name either --json or --csv")
        writer = csv.writer(sys.stdout)
        writer.writerow(columns)
        writer.writerows([_formula(_cell(row[name])) for name in columns] for row in rows)
    elif wants_json():
        click.echo(_json({"schema": schema_of(context), "data": data}))
    else:
        for line in lines:
            click.echo(line)


def _json(value: dict[str, Any]) -> str:
    """An answer as JSON text, escaped in JSON's own way where standard output cannot hold all letters."""
    unicode = codecs.lookup(sys.stdout.encoding or "utf-8").name.startswith("utf-")
    return json.dumps(value, indent=2, ensure_ascii=not unicode)


def _formula(cell: str) -> str:
    """A cell that a spreadsheet does not take for a formula: names come from other members."""
    return f"'{cell}" if cell[:1] in ("=", "+", "@", "\t", "\r") or (cell[:1] == "-" and cell != "-") else cell


def progress(text: str) -> None:
    """A line for whoever waits, on standard error."""
    click.echo(text, err=True)


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """Columns of text, as wide as they need to be; nothing is shown as a dash, a list by its parts."""
    cells = [[str(name) for name in header]]
    cells += [[_cell(value) for value in row] for row in rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "-"
    return "-" if value is None else str(value)


def pairs(**values: object) -> list[str]:
    """`name  value` lines; underscores in names are shown as spaces."""
    return [
        line.removeprefix("\0") for line in table(["\0", ""], [(k.replace("_", " "), v) for k, v in values.items()])[1:]
    ]


def short(value: str | None) -> str | None:
    """The first 12 digits of a long identifier: enough to name it, every command takes them back."""
    return None if value is None else value[:12]


def moment(seconds: int | float | None) -> str | None:
    """A chain time as a person reads it (UTC)."""
    if not seconds:
        return None
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")


# --------------------------------------------------------------------------------------------------------------------
# Logs


class _StandardError:
    """Standard error as it is at the moment of writing: loggers outlive a redirection.

    A line that cannot be written (a full disk, a reader who has gone) is lost; whoever had it to say goes on.
    """

    def write(self, text: str) -> int:
        with suppress(OSError):
            sys.stderr.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            sys.stderr.flush()


def configure_logging(level: str) -> None:
    """structlog and the standard library's loggers to standard error, a line an event, in one format."""
    number = logging.getLevelNamesMapping()[level.upper()]
    told: list[Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    shown = structlog.processors.KeyValueRenderer(key_order=["timestamp", "level", "event"])
    handler = logging.StreamHandler(cast(TextIO, _StandardError()))
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *told],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, shown],
        )
    )
    logging.basicConfig(handlers=[handler], force=True)
    logging.getLogger().setLevel(number)
    logging.getLogger("libp2p").setLevel(max(number, logging.WARNING))
    # At debug level it writes a line about every question to the chain.
    logging.getLogger("urllib3").setLevel(max(number, logging.INFO))
    structlog.configure(
        processors=[*told, shown],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(cast(TextIO, _StandardError())),
        cache_logger_on_first_use=False,
    )


# --------------------------------------------------------------------------------------------------------------------
# Faults


def as_node_error(fault: BaseException) -> NodeError | None:
    """A foreseen fault of any room as a `NodeError` with its exit code; None for a fault nobody foresaw."""
    from crypto.errors import CryptoError, KeystoreCorrupted, VerificationError, WrongPassword
    from fl_engine.errors import EngineError, PackageUnavailable, PolicyError, WorkerFailed

    match fault:
        case NodeError():
            return fault
        case WrongPassword() | KeystoreCorrupted() | PackageUnavailable():
            return LocalFault(str(fault))
        case VerificationError():
            return VerificationFailed(str(fault))
        case PolicyError():
            return Refused(str(fault))
        case WorkerFailed():
            return NodeError(str(fault))
        case CryptoError() | EngineError():
            return InputError(str(fault))
        case sqlite3.Error():
            return LocalFault(f"a database of the home: {fault}")
        case OSError():
            where = f"{fault.filename}: " if fault.filename else ""
            return LocalFault(f"{where}{fault.strerror or type(fault).__name__}")
        case BaseExceptionGroup():
            found = [as_node_error(one) for one in fault.exceptions]
            return found[0] if len(found) == 1 else None
        case _:
            return None


def fail(kind: str, message: str, code: int, *, as_json: bool) -> NoReturn:
    """Say what went wrong and end with its exit code."""
    with suppress(OSError):  # the exit code tells it too
        click.echo(f"koinon: {message}", err=True)
    if as_json:
        error = {"kind": kind, "message": message, "exit_code": code}
        click.echo(_json({"schema": ERROR_SCHEMA, "error": error}))
    sys.exit(code)


def _place(fault: BaseException) -> str:
    while isinstance(fault, BaseExceptionGroup):
        fault = fault.exceptions[0]
    frames = traceback.extract_tb(fault.__traceback__)
    where = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"{type(fault).__name__}{where}"


class Noun(click.Group):
    """A noun: its verbs are shown in the order they are written, not by alphabet."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The verbs in the order of the file."""
        return list(self.commands)


class Root(Noun):
    """The top of the command line: every fault ends here, in words and an exit code."""

    def main(self, args: Sequence[str] | None = None, *rest: Any, **extra: Any) -> Any:
        """Run the command line and exit with its code."""
        given = list(sys.argv[1:] if args is None else args)
        as_json = "--json" in given
        extra["standalone_mode"] = False
        try:
            code = super().main(given, *rest, **extra)
            sys.stdout.flush()
        except click.exceptions.NoArgsIsHelpError as fault:
            click.echo(fault.format_message(), err=True)
            sys.exit(ExitCode.BAD_INPUT)
        except click.UsageError as fault:
            if not as_json and fault.ctx is not None:
                click.echo(fault.ctx.get_usage(), err=True)
            fail("UsageError", fault.format_message(), ExitCode.BAD_INPUT, as_json=as_json)
        except (click.Abort, KeyboardInterrupt):
            fail("Interrupted", "interrupted", 130, as_json=as_json)
        except BrokenPipeError:
            # Whoever reads our answer has enough of it (`koinon ... | head`).
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(ExitCode.OK)
        except Exception as fault:
            if os.environ.get("KOINON_DEBUG"):
                traceback.print_exc()
            known = as_node_error(fault)
            if known is not None:
                fail(known.kind, known.message, known.exit_code, as_json=as_json)
            text = f"unexpected fault: {_place(fault)}; KOINON_DEBUG=1 shows the traceback"
            fail("Unexpected", text, ExitCode.UNEXPECTED, as_json=as_json)
        sys.exit(code if isinstance(code, int) else ExitCode.OK)
