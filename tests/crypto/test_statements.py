from __future__ import annotations

import dataclasses
import re
import time
from typing import Any

import pytest
from eth_account import Account
from eth_account.messages import encode_typed_data
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto import statements
from crypto.errors import EncodingError, SignatureMismatch
from crypto.keys import LedgerKey
from crypto.statements import MAX_LIST, STATEMENTS, TABLE, Domain, Domains, Statement, Vote

STRATEGIES: dict[str, Any] = {
    "bytes32": st.binary(min_size=32, max_size=32),
    "bytes32[]": st.lists(st.binary(min_size=32, max_size=32), min_size=1, max_size=5).map(tuple),
    "address": st.binary(min_size=20, max_size=20),
    "bytes": st.binary(max_size=64),
    "string": st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
    "bool": st.booleans(),
}


def value_of(solidity: str) -> Any:
    if solidity.startswith("uint"):
        top = 2 ** int(solidity[4:]) - 1
        return st.one_of(st.integers(0, top), st.sampled_from([0, top]))
    return STRATEGIES[solidity]


def statement_of(kind: type[Statement]) -> st.SearchStrategy[Statement]:
    return st.builds(kind, **{name: value_of(solidity) for name, solidity in kind.layout()})


def parameters(type_string: str) -> list[tuple[str, str]]:
    """(camel-case name, type) read off a type string, independently of the code under test."""
    body = type_string[type_string.index("(") + 1 : -1]
    return [(field.split(" ")[1], field.split(" ")[0]) for field in body.split(",")]


def typed_data(statement: Statement, domain: Domain) -> dict[str, Any]:
    kind, fields = type(statement).__name__, parameters(statement.type_string())
    values = [getattr(statement, f.name) for f in dataclasses.fields(statement)]
    message = {
        name: "0x" + value.hex()
        if solidity == "address"
        else [bytes(one) for one in value]
        if isinstance(value, tuple)
        else bytes(value)
        if isinstance(value, bytes)
        else value
        for (name, solidity), value in zip(fields, values, strict=True)
    }
    return {
        "types": {
            "EIP712Domain": [
                {"name": "name", "type": "string"},
                {"name": "version", "type": "string"},
                {"name": "chainId", "type": "uint256"},
                {"name": "verifyingContract", "type": "address"},
            ],
            kind: [{"name": name, "type": solidity} for name, solidity in fields],
        },
        "primaryType": kind,
        "domain": {
            "name": "koinon",
            "version": "1",
            "chainId": domain.chain_id,
            "verifyingContract": "0x" + domain.contract.hex(),
        },
        "message": message,
    }


@pytest.mark.parametrize("kind", STATEMENTS.values(), ids=STATEMENTS.keys())
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_digest_and_signature_are_eth_accounts(kind: type[Statement], data: st.DataObject) -> None:
    statement = data.draw(statement_of(kind))
    domain = Domain(data.draw(st.integers(0, 2**63)), data.draw(st.binary(min_size=20, max_size=20)))
    key = LedgerKey((7).to_bytes(32, "big"))
    theirs = encode_typed_data(full_message=typed_data(statement, domain))
    assert theirs.header == domain.separator
    assert theirs.body == statements.struct_hash(statement)
    signature = statements.sign(statement, domain, key)
    assert signature == Account.sign_message(theirs, key.to_bytes()).signature
    assert statements.recover(statement, domain, signature) == key.address
    r, vs = statements.to_compact(signature)
    assert statements.from_compact(r, vs) == signature


@pytest.mark.parametrize("kind", STATEMENTS.values(), ids=STATEMENTS.keys())
def test_the_dataclass_has_the_fields_of_its_type_string_in_order(kind: type[Statement]) -> None:
    camel = [re.sub(r"_([a-z])", lambda m: m[1].upper(), f.name) for f in dataclasses.fields(kind)]
    assert kind.type_string() == kind.__name__ + kind.type_string()[len(kind.__name__) :]
    assert camel == [name for name, _ in parameters(kind.type_string())]
    assert kind.__doc__
    assert kind.type_string() in TABLE[kind.contract()]


def test_every_row_of_the_table_has_a_class() -> None:
    assert list(STATEMENTS) == [text.split("(")[0] for texts in TABLE.values() for text in texts]
    assert len({kind.type_string() for kind in STATEMENTS.values()}) == len(STATEMENTS)


@pytest.mark.parametrize("kind", STATEMENTS.values(), ids=STATEMENTS.keys())
def test_a_field_out_of_its_width_is_refused(kind: type[Statement]) -> None:
    good = {name: {"bool": True, "string": "x"}.get(t, 1) for name, t in kind.layout()}
    good |= {
        name: bytes(32 if t == "bytes32" else 20) for name, t in kind.layout() if t in ("bytes32", "address", "bytes")
    }
    good |= {name: (bytes(32),) for name, t in kind.layout() if t == "bytes32[]"}
    kind(**good)
    for name, solidity in kind.layout():
        if solidity.startswith("uint"):
            bad: list[Any] = [-1, 2 ** int(solidity[4:]), True, "1", 1.0, None]
        elif solidity == "bool":
            bad = [1, 0, None]
        elif solidity == "string":
            bad = ["x" * 257, "\ud800", b"x", 1]
        elif solidity == "bytes32[]":
            bad = [(), (bytes(31),), [bytes(32)], (bytes(32),) * (MAX_LIST + 1), bytes(32), None]
        elif solidity == "bytes":
            bad = [bytes(257), "x", 1]
        else:
            bad = [bytes(31), bytes(33), bytes(19), "0x" + "00" * 32, 1]
        for value in bad:
            with pytest.raises(EncodingError) as caught:
                kind(**{**good, name: value})
            assert caught.value.field == f"{kind.__name__}.{name}"


def test_verify_names_both_signers() -> None:
    vote, domain = Vote(bytes(32), 0, 3, bytes(32)), Domain(1, bytes(20))
    one, two = LedgerKey.generate(), LedgerKey.generate()
    signature = statements.sign(vote, domain, one)
    statements.verify(vote, domain, signature, one.address)
    with pytest.raises(SignatureMismatch) as caught:
        statements.verify(vote, domain, signature, two.address)
    assert (caught.value.expected, caught.value.got) == (two.address, one.address)


def test_a_statement_is_signed_in_its_contracts_domain() -> None:
    domains = Domains(5, *(bytes([i]) * 20 for i in range(1, 5)))
    for kind in STATEMENTS.values():
        assert domains.of(kind) == Domain(5, getattr(domains, kind.contract()))
    assert domains.of(Vote(bytes(32), 0, 3, bytes(32))).contract == domains.training


@given(st.dictionaries(st.integers(0, 31), st.binary(min_size=32, max_size=32), max_size=6))
def test_packed_signatures_come_back(members: dict[int, bytes]) -> None:
    key = LedgerKey((9).to_bytes(32, "big"))
    signatures = {member: key.sign_digest(digest) for member, digest in members.items()}
    bitmap, packed = statements.pack_signatures(signatures)
    assert bitmap == sum(1 << member for member in members)
    assert len(packed) == 64 * len(members)
    assert statements.unpack_signatures(bitmap, packed) == signatures


def test_packed_signatures_must_fit_their_bitmap() -> None:
    signature = LedgerKey.generate().sign_digest(bytes(32))
    with pytest.raises(EncodingError):
        statements.pack_signatures({32: signature})
    bitmap, packed = statements.pack_signatures({1: signature})
    for wrong_bitmap, wrong in ((bitmap, packed[:-1]), (bitmap | 1, packed), (0, packed), (1 << 32, packed)):
        with pytest.raises(EncodingError):
            statements.unpack_signatures(wrong_bitmap, wrong)


def test_a_thousand_statements_are_signed_and_recovered_in_two_seconds() -> None:
    key, domain = LedgerKey.generate(), Domain(1, bytes(20))
    start = time.process_time()
    for i in range(1000):
        vote = Vote(i.to_bytes(32, "big"), 0, 3, bytes(32))
        assert statements.recover(vote, domain, statements.sign(vote, domain, key)) == key.address
    assert time.process_time() - start < 2
