"""Errors of the node: one sentence each, one exit code each, sorted by who is to blame."""

from __future__ import annotations

import inspect

import pytest

from node import errors
from node.errors import ExitCode, LedgerError, LocalError, NodeError, PeerError

ALL = [value for value in vars(errors).values() if inspect.isclass(value) and issubclass(value, NodeError)]


CODES = {
    errors.NodeError: 1,
    errors.LedgerError: 1,
    errors.CallReverted: 1,
    errors.LocalError: 1,
    errors.InputError: 2,
    errors.VerificationFailed: 3,
    errors.PeerError: 3,
    errors.ChainDisputed: 3,
    errors.NotFound: 4,
    errors.Refused: 5,
    errors.ChainUnreachable: 6,
    errors.LedgerUnavailable: 6,
    errors.TimedOut: 7,
    errors.OutcomeUnknown: 7,
    errors.LocalFault: 8,
}


@pytest.mark.parametrize("error", ALL)
def test_each_error_ends_the_process_with_its_published_code(error: type[NodeError]) -> None:
    assert error("a sentence").exit_code == CODES[error]


@pytest.mark.parametrize("error", ALL)
def test_every_error_says_what_it_means_and_keeps_its_sentence(error: type[NodeError]) -> None:
    raised = error("port 41001 is busy")
    assert error.__doc__
    assert str(raised) == raised.message == "port 41001 is busy"
    assert raised.kind == error.__name__


def test_the_family_says_who_is_to_blame() -> None:
    assert issubclass(errors.OutcomeUnknown, LedgerError)
    assert issubclass(errors.LedgerUnavailable, LedgerError)
    assert issubclass(errors.ChainUnreachable, LedgerError)
    assert issubclass(errors.LocalFault, LocalError)
    families = (PeerError, LocalError, LedgerError)
    for error in ALL:
        assert sum(issubclass(error, family) for family in families) <= 1, error


def test_an_unknown_outcome_is_never_taken_for_an_unreachable_chain() -> None:
    assert not issubclass(errors.OutcomeUnknown, errors.LedgerUnavailable)


def test_the_text_of_an_outside_library_becomes_one_line() -> None:
    assert str(errors.InputError("config.toml: Invalid value\n  (at line 3,\r\n column 1)")) == (
        "config.toml: Invalid value (at line 3, column 1)"
    )


def test_success_is_no_error() -> None:
    assert ExitCode.OK not in {error("x").exit_code for error in ALL}
