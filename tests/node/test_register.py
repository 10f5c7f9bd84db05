"""The register of signed forms: one rule, one test; no error ever names a patient."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest

from node.errors import InputError
from node.register import RegisterRow, parse_register, read_register

TODAY = datetime.date(2027, 1, 15)
HEADER = "patient_id,form,signed_on,signer,verified_by"
GOOD = "MRN-1,main,2026-12-01,patient,dr.keller"


def parse(*lines: str) -> tuple[RegisterRow, ...]:
    return parse_register("\n".join(lines).encode(), "forms.csv", forms=("main", "second"), today=TODAY)


def test_rows_come_in_file_order_with_their_lines() -> None:
    rows = parse(HEADER, GOOD, "", "MRN-2, second ,2027-01-15,guardian,dr.keller")
    assert [(row.line, row.patient_id, row.form) for row in rows] == [(2, "MRN-1", "main"), (4, "MRN-2", "second")]
    assert rows[1].signed_on == TODAY


def test_columns_may_stand_in_any_order_and_after_a_byte_order_mark() -> None:
    text = "﻿form,signer,verified_by,signed_on,patient_id\r\nmain,patient,dr.keller,2026-12-01,MRN-1\r\n"
    assert parse_register(text.encode(), "f", forms=("main",), today=TODAY)[0].patient_id == "MRN-1"


def test_quoted_cells_are_read() -> None:
    assert parse(HEADER, 'MRN-1,main,2026-12-01,patient,"Keller, Dr."')[0].verified_by == "Keller, Dr."


@pytest.mark.parametrize(
    "lines, fault",
    [
        ((HEADER + ",disease", GOOD + ",x"), "line 1: unknown column 'disease'"),
        (("patient_id,form,signed_on,signer", "MRN-1,main,2026-12-01,patient"), "column 'verified_by' is missing"),
        ((HEADER + ",form", GOOD + ",main"), "column 'form' is there twice"),
        ((HEADER, GOOD, "MRN-9,main,2026-12-01,patient"), "line 3: 4 cells, 5 expected"),
        ((HEADER, GOOD, "MRN-9,main,2026-12-01,patient,dr,x"), "line 3: 6 cells, 5 expected"),
        ((HEADER, " ,main,2026-12-01,patient,dr"), "line 2: patient_id is missing"),
        ((HEADER, "NaN,main,2026-12-01,patient,dr"), "line 2: patient_id is missing"),
        ((HEADER, "MRN-9,main,2026-12-01,,dr"), "line 2: signer is missing"),
        ((HEADER, "MRN-9,third,2026-12-01,patient,dr"), "form 'third' is not one of the study's: main, second"),
        ((HEADER, "MRN-9,main,01.12.2026,patient,dr"), "signed_on '01.12.2026' is not a day"),
        ((HEADER, "MRN-9,main,20261201,patient,dr"), "signed_on '20261201' is not a day"),
        ((HEADER, "MRN-9,main,2026-02-30,patient,dr"), "signed_on '2026-02-30' is not a day"),
        ((HEADER, "MRN-9,main,2027-01-16,patient,dr"), "signed_on 2027-01-16 is in the future"),
        ((HEADER, GOOD, "MRN-9,main,2026-12-01,patient,dr", GOOD), "line 4: repeats the patient and form of line 2"),
        (
            (HEADER, GOOD, "MRN-1,second,2026-12-01,patient,dr"),
            "line 3: the patient of line 2 signed another form on the same day",
        ),
        ((HEADER, "MRN-9,main,2026-12-01,patient," + "x" * 201), "verified_by is longer than 200"),
        ((HEADER, "MRN\x009,main,2026-12-01,patient,dr"), "line 2: "),
        ((HEADER, 'MRN-9,"main,2026-12-01,patient,dr'), "not CSV"),
        ((HEADER,), "holds no signed form"),
        ((), "column 'patient_id' is missing"),
    ],
)
def test_a_fault_is_named_by_file_and_line_and_never_by_patient(lines: tuple[str, ...], fault: str) -> None:
    with pytest.raises(InputError) as caught:
        parse(*lines)
    assert fault in caught.value.message
    assert caught.value.message.startswith("forms.csv")
    assert "MRN" not in caught.value.message


def test_bytes_that_are_no_text_are_named_by_line() -> None:
    with pytest.raises(InputError, match="line 2: not UTF-8"):
        parse_register(HEADER.encode() + b"\n\xff\xfe,main", "forms.csv", forms=("main",), today=TODAY)


def test_a_missing_file_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"forms\.csv"):
        read_register(tmp_path / "forms.csv", forms=("main",), today=TODAY)


def test_a_row_does_not_show_its_patient() -> None:
    assert "MRN" not in repr(parse(HEADER, GOOD))
