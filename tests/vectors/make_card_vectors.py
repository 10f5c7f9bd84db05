"""Writes tests/vectors/card: one card as it is issued, and cards with one fault each. Run from the root; deterministic.

A fault below the digest has its digest made new, so that the layer that must refuse is the one that does.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import rfc8785

from crypto.commitments import ConsentOpening
from crypto.digest import Digest, sha256
from crypto.keys import LedgerKey, address_text
from crypto.statements import RequestErasure, Withdraw, sign
from node.card import Card, Origin, encode
from node.records import Contracts

OUT = Path(__file__).parent / "card"
ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
VERIFICATION, INPUT, LOCAL = "VerificationFailed", "InputError", "LocalFault"


def word(byte: int) -> Digest:
    return Digest(bytes([byte]) * 32)


KEY, OTHER = LedgerKey(bytes([7]) * 32), LedgerKey(bytes([8]) * 32)
CONTRACTS = Contracts(2**40 + 17, *(bytes([byte]) * 20 for byte in (0xA1, 0xA2, 0xA3, 0xA4)))
ORIGIN = Origin(word(0x31).hex(), CONTRACTS, word(0x32), 2, "Kantonsspital Süd")
OPENING = ConsentOpening(KEY.address, word(0x41), word(0x42), word(0x43), word(0x44))
WITHDRAW = Withdraw(OPENING.consent_id)
ERASURE = RequestErasure(OPENING.consent_id, ORIGIN.study)


def signed(statement: Withdraw | RequestErasure, key: LedgerKey) -> bytes:
    return sign(statement, ORIGIN.domains.of(statement), key)


CARD = Card(
    ORIGIN,
    word(0x33),
    "2027-01-15",
    OPENING.consent_id,
    OPENING.holder,
    OPENING.holder_salt,
    OPENING.doc_commit,
    OPENING.leaf_secret,
    signed(WITHDRAW, KEY),
    signed(ERASURE, KEY),
)
TEXT = encode(CARD).decode()


def write(name: str, desc: str, card: str, error: str | None, message: str | None) -> None:
    vector = {"desc": desc, "card": card, "error": error, "message": message}
    (OUT / f"{name}.json").write_text(json.dumps(vector, indent=1) + "\n", "ascii")


def changed(name: str, desc: str, change: Callable[[dict[str, Any]], None], error: str, message: str) -> None:
    """A vector whose tree was changed before its digest was made."""
    tree = json.loads(TEXT)
    change(tree)
    del tree["sha256"]
    tree["sha256"] = sha256(rfc8785.dumps(tree)).hex()
    write(name, desc, rfc8785.dumps(tree).decode() + "\n", error, message)


def put(value: Any, *path: str) -> Callable[[dict[str, Any]], None]:
    def change(tree: dict[str, Any]) -> None:
        for part in path[:-1]:
            tree = tree[part]
        tree[path[-1]] = value

    return change


def drop(*path: str) -> Callable[[dict[str, Any]], None]:
    def change(tree: dict[str, Any]) -> None:
        for part in path[:-1]:
            tree = tree[part]
        del tree[path[-1]]

    return change


def exchange(tree: dict[str, Any]) -> None:
    tree["signatures"] = dict(zip(tree["signatures"], reversed(tree["signatures"].values()), strict=True))


def wrong_openings() -> None:
    opens = "consentId: expected"
    for field, byte in (("consent_id", 0x51), ("doc_commit", 0x52), ("holder_salt", 0x53), ("leaf_secret", 0x54)):
        name = f"wrong-{field.replace('_', '-')}"
        desc = f"{field} is another: the opening does not lead to the consent."
        changed(name, desc, put(word(byte).hex(), "opening", field), VERIFICATION, opens)
    stranger = address_text(OTHER.address)
    changed("wrong-holder", "holder is another address.", put(stranger, "opening", "holder"), VERIFICATION, opens)
    for field in ("holder_salt", "leaf_secret"):
        name = f"zero-{field.replace('_', '-')}"
        changed(name, f"{field} is zero.", put("00" * 32, "opening", field), INPUT, "zero is no secret")


def wrong_signatures() -> None:
    by_holder = f"expected a signature by 0x{KEY.address.hex()}"
    for field, statement in (("withdraw", WITHDRAW), ("request_erasure", ERASURE)):
        forged = put(signed(statement, OTHER).hex(), "signatures", field)
        name = f"{field.replace('_', '-')}-by-another-key"
        changed(name, f"{field} is signed by another key than the holder's.", forged, VERIFICATION, by_holder)
    changed("signatures-exchanged", "Each signature stands in the other's place.", exchange, VERIFICATION, by_holder)
    r, s, v = CARD.withdraw[:32], int.from_bytes(CARD.withdraw[32:64], "big"), CARD.withdraw[64]
    high = r + (ORDER - s).to_bytes(32, "big") + bytes([55 - v])
    changed(
        "malleable-signature",
        "Withdraw has the other s, which recovers to the same key.",
        put(high.hex(), "signatures", "withdraw"),
        INPUT,
        "above half the group order",
    )
    short = put(CARD.withdraw[:64].hex(), "signatures", "withdraw")
    changed(
        "short-signature",
        "A signature of 64 bytes.",
        short,
        INPUT,
        "lower-case hexadecimal digits of 65 bytes expected",
    )
    elsewhere = address_text(bytes([9]) * 20)
    for name, value, *path in (
        ("other-chain", "1", "origin", "chain_id"),
        ("other-consent-contract", elsewhere, "origin", "contracts", "consent"),
        ("other-unlearning-contract", elsewhere, "origin", "contracts", "unlearning"),
        ("other-study", word(0x61).hex(), "origin", "study"),
    ):
        changed(name, f"{path[-1]} is not what was signed for.", put(value, *path), VERIFICATION, by_holder)


def wrong_fields() -> None:
    later = "schema 'koinon.card/2', this koinon reads koinon.card/1"
    changed("other-schema", "A card of a later version.", put("koinon.card/2", "schema"), LOCAL, later)
    hospital = ("origin", "hospital")
    for name, desc, change, message in (
        (
            "other-notice",
            "Other words to the reader.",
            put("Nothing to see.", "notice"),
            "not the notice of this version",
        ),
        ("index-too-large", "No network has a member 32.", put(32, *hospital, "index"), "not between 0 and 31"),
        ("index-a-text", "The index is a text.", put("2", *hospital, "index"), "must be int"),
        ("index-a-truth-value", "The index is true.", put(True, *hospital, "index"), "must be int"),
        ("name-empty", "The hospital has no name.", put("", *hospital, "name"), "between 1 and 200 bytes"),
        ("issued-no-day", "No such day.", put("2027-02-30", "origin", "issued"), "not a day written YYYY-MM-DD"),
        ("chain-id-with-zeros", "Leading zeros.", put("01099511627793", "origin", "chain_id"), "not a whole number"),
        (
            "capitals-in-a-digest",
            "A digest in capitals.",
            put(CARD.doc_commit.hex().upper(), "opening", "doc_commit"),
            "lower-case hexadecimal digits of 32 bytes expected",
        ),
        (
            "digest-with-0x",
            "A digest with 0x.",
            put("0x" + CARD.doc_commit.hex(), "opening", "doc_commit"),
            "lower-case hexadecimal digits of 32 bytes expected",
        ),
        (
            "address-without-capitals",
            "An address without its checksum.",
            put(address_text(CARD.holder).lower(), "opening", "holder"),
            "lacks its EIP-55 capitals",
        ),
        ("unknown-field", "A field nobody knows.", put("red", "origin", "colour"), "unknown field 'colour'"),
        ("missing-field", "holder_salt is missing.", drop("opening", "holder_salt"), "field holder_salt is missing"),
        ("signatures-a-list", "signatures is a list.", put([], "signatures"), "must be dict"),
    ):
        changed(name, desc, change, INPUT, message)


def wrong_bytes() -> None:
    for name, old, new in (
        ("damaged-hospital", "Kantonsspital", "Kantonsspitel"),
        ("damaged-form", "33" * 32, "33" * 31 + "34"),
        ("damaged-network", "31" * 32, "31" * 31 + "30"),
        ("damaged-digest", json.loads(TEXT)["sha256"], "0" * 64),
    ):
        write(name, "One value differs from what the digest covers.", TEXT.replace(old, new), INPUT, "damaged: sha256")
    tree = json.loads(TEXT)
    backwards = json.dumps({key: tree[key] for key in reversed(tree)}, separators=(",", ":"), ensure_ascii=False)
    surrogate = TEXT.replace("Kantonsspital S\u00fcd", "\\ud800")
    for name, desc, text, message in (
        ("spaces", "A space after a colon.", TEXT.replace('":"', '": "', 1), "not in canonical form"),
        ("other-order", "Its parts in another order.", backwards, "not in canonical form"),
        (
            "repeated-field",
            "A field twice: a reader that takes the first sees another card.",
            TEXT.replace('{"notice"', '{"schema":"koinon.card/9","notice"', 1),
            "not in canonical form",
        ),
        ("half-a-character", "A lone surrogate in the hospital's name.", surrogate, "between 1 and 200 bytes"),
        ("trailing-bytes", "Something after the card.", TEXT + "x", "not JSON"),
        ("cut-off", "The second half is missing.", TEXT[: len(TEXT) // 2], "not JSON"),
        ("empty", "No bytes.", "", "not JSON"),
        ("a-list", "A list.", "[]", "no schema"),
        ("too-long", "More than a QR code holds.", TEXT + " " * 3000, "at most 2900 expected"),
    ):
        write(name, desc, text, INPUT, message)


def main() -> None:
    OUT.mkdir(exist_ok=True)
    for old in OUT.glob("*.json"):
        old.unlink()
    write("valid", "A card as it is issued.", TEXT, None, None)
    wrong_openings()
    wrong_signatures()
    wrong_fields()
    wrong_bytes()


if __name__ == "__main__":
    main()
