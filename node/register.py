"""The register of signed forms: the hospital's list of who agreed to what, as a CSV file. Read strictly or not at all.

What may live here: the columns, the checks, the rows. What this file does not know: the vault, consents, the chain.
Nobody is enrolled without a line here, so a line that cannot be trusted refuses the whole file. Errors name the file
and the line (the header is line 1), never a patient.

    patient_id,form,signed_on,signer,verified_by
    MRN-0001,main,2026-03-14,patient,dr.keller

`form` is a form's name in the study, `signed_on` a day (YYYY-MM-DD), `signer` who signed (patient, guardian, legal
representative), `verified_by` who at the hospital saw the paper. Columns that may be left out, and cells of them that
may be empty:

    notified_on   the day the patient was told that a broad form is now used for this study
    authority     by what right somebody else than the patient signed (court order, parent)
    review_on     the day by which a representative's signature has to be looked at again (majority, end of the order)

A consent is bound to the last two as they were given first. For one that is known the vault keeps, beside it, what was
given last; an empty cell changes nothing.
"""

from __future__ import annotations

import csv
import datetime
import io
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from node.errors import InputError
from node.home import read_user_file

COLUMNS: Final = ("patient_id", "form", "signed_on", "signer", "verified_by")
OPTIONAL: Final = ("notified_on", "authority", "review_on")
MAX_REGISTER_BYTES: Final = 1 << 26
MAX_CELL_CHARACTERS: Final = 200
_MISSING: Final = ("", "nan", "none", "null", "na", "n/a")


@dataclass(frozen=True, slots=True)
class RegisterRow:
    """One signed form. `line` is where it stands in its file; `form` the form's name in the study.

    `document` is what the consent is bound to, where the form came with a document of its own (a FHIR Consent).
    """

    line: int
    patient_id: str
    form: str
    signed_on: datetime.date
    signer: str
    verified_by: str
    notified_on: datetime.date | None = None
    authority: str = ""
    review_on: datetime.date | None = None
    document: bytes | None = None

    def __repr__(self) -> str:
        """Show the place, never the patient."""
        return f"RegisterRow(line={self.line}, form={self.form!r}, signed_on={self.signed_on})"


def read_register(path: Path, *, forms: Collection[str], today: datetime.date) -> tuple[RegisterRow, ...]:
    """`parse_register` of a file."""
    return parse_register(read_user_file(path, MAX_REGISTER_BYTES), str(path), forms=forms, today=today)


def parse_register(data: bytes, file: str, *, forms: Collection[str], today: datetime.date) -> tuple[RegisterRow, ...]:
    """The rows of a register, in file order.

    `forms` are the names of the study's forms; `today` is the last day on which a form can have been signed. Blank
    lines are skipped; cells are stripped of surrounding blanks.

    Raises:
        InputError: not UTF-8 CSV with exactly the columns above; an empty or overlong cell; a form the study does not
            have; a day that is malformed or in the future; one patient twice under one form, or under two forms
            signed on one day (which of them counts?); no row at all.
    """
    lines = _lines(data, file)
    _, header = next(lines)
    order = _header(header, file)
    rows = [_row(cells, order, f"{file}, line {line}", line, forms, today) for line, cells in lines]
    if not rows:
        raise InputError(f"{file}: holds no signed form")
    _check_repeats(rows, {row.line: f"{file}, line {row.line}" for row in rows})
    return tuple(rows)


def check_columns(data: bytes, file: str) -> None:
    """Raise `InputError` unless this is a register as far as that can be said before a study has named its forms."""
    lines = _lines(data, file)
    _, header = next(lines)
    _header(header, file)
    if next(lines, None) is None:
        raise InputError(f"{file}: holds no signed form")


def _lines(data: bytes, file: str) -> Iterator[tuple[int, list[str]]]:
    """The first line, then every one that is not blank: its number, and its cells without surrounding blanks."""
    if len(data) > MAX_REGISTER_BYTES:
        raise InputError(f"{file}: larger than {MAX_REGISTER_BYTES} bytes")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise InputError(f"{file}, line {line}: not UTF-8") from None
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        yield 1, [cell.strip() for cell in next(reader, [])]
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield reader.line_num, [cell.strip() for cell in cells]
    except csv.Error as error:
        raise InputError(f"{file}, line {reader.line_num}: not CSV: {error}") from None


def check_rows(
    entries: Sequence[Mapping[str, Any]], *, forms: Collection[str], today: datetime.date
) -> tuple[RegisterRow, ...]:
    """`parse_register` for forms that did not come as CSV: of each `line`, `where` it stands in words, the columns,
    `document` (text), and `notified_on` where the patient was told.
    """
    rows, places, columns = [], {}, (*COLUMNS, "notified_on")
    for entry in entries:
        cells = [str(entry.get(name, "") if name in OPTIONAL else entry[name]).strip() for name in columns]
        line, where = int(entry["line"]), str(entry["where"])
        places[line] = where
        rows.append(replace(_row(cells, columns, where, line, forms, today), document=str(entry["document"]).encode()))
    _check_repeats(rows, places)
    return tuple(rows)


def _header(cells: list[str], file: str) -> tuple[str, ...]:
    names = [cell.strip() for cell in cells]
    for name in names:
        if name not in COLUMNS + OPTIONAL:
            raise InputError(
                f"{file}, line 1: unknown column {name[:80]!r}; the columns are {', '.join(COLUMNS)}, "
                f"and if needed {', '.join(OPTIONAL)}"
            )
        if names.count(name) > 1:
            raise InputError(f"{file}, line 1: column {name!r} is there twice")
    for name in COLUMNS:
        if name not in names:
            raise InputError(f"{file}, line 1: column {name!r} is missing")
    return tuple(names)


def _row(
    cells: list[str], columns: tuple[str, ...], where: str, line: int, forms: Collection[str], today: datetime.date
) -> RegisterRow:
    if len(cells) != len(columns):
        raise InputError(f"{where}: {len(cells)} cells, {len(columns)} expected")
    values = dict.fromkeys(OPTIONAL, "") | dict(zip(columns, cells, strict=True))
    for name, value in values.items():
        if name in OPTIONAL and not value:
            continue
        if value.casefold() in _MISSING:
            raise InputError(f"{where}: {name} is missing")
        if len(value) > MAX_CELL_CHARACTERS or not value.isprintable():
            raise InputError(f"{where}: {name} is longer than {MAX_CELL_CHARACTERS} characters or not printable")
    if values["form"] not in forms:
        raise InputError(f"{where}: form {values['form']!r} is not one of the study's: {', '.join(sorted(forms))}")
    signed_on = _day(where, "signed_on", values["signed_on"])
    notified_on = _day(where, "notified_on", values["notified_on"]) if values["notified_on"] else None
    for name, day in (("signed_on", signed_on), ("notified_on", notified_on)):
        if day is not None and day > today:
            raise InputError(f"{where}: {name} {day} is in the future (today is {today})")
    review_on = _day(where, "review_on", values["review_on"]) if values["review_on"] else None
    return RegisterRow(
        line,
        values["patient_id"],
        values["form"],
        signed_on,
        values["signer"],
        values["verified_by"],
        notified_on,
        values["authority"],
        review_on,
    )


def _day(where: str, name: str, text: str) -> datetime.date:
    try:
        day = datetime.date.fromisoformat(text)
    except ValueError:
        day = None
    if day is None or day.isoformat() != text:
        raise InputError(f"{where}: {name} {text!r} is not a day written YYYY-MM-DD")
    return day


def _there(place: str) -> str:
    """A place in the same file."""
    return place.partition(", ")[2] or place


def _check_repeats(rows: list[RegisterRow], places: Mapping[int, str]) -> None:
    forms: dict[tuple[str, str], int] = {}
    days: dict[tuple[str, datetime.date], int] = {}
    for row in rows:
        first = forms.setdefault((row.patient_id, row.form), row.line)
        if first != row.line:
            raise InputError(f"{places[row.line]}: repeats the patient and form of {_there(places[first])}")
        first = days.setdefault((row.patient_id, row.signed_on), row.line)
        if first != row.line:
            raise InputError(
                f"{places[row.line]}: the patient of {_there(places[first])} signed another form on the same day; "
                "which of the two counts is not to be told"
            )
