"""The withdrawal card: a small file, or its QR code, with which a patient ends a consent at any hospital.

What may live here: the format `koinon.card/1`, its strict reader, and the notices a card turns into. What this file
does not know: the vault, the chain, who the patient is. A card names no person. Losing it harms nobody; whoever finds
it can withdraw the consent and ask for erasure, nothing else: both statements were signed when it was issued, and the
key that signed them no longer exists.

A card is canonical JSON (RFC 8785) with five parts, in the order the bytes have: `notice` (plain words for the reader),
`opening` (what leads to the consent id), `origin` (network, study, hospital), `schema`, `sha256` (of the card without
this part: damage to the parts that no signature covers), `signatures` (Withdraw and RequestErasure, by the holder).
"""

from __future__ import annotations

import datetime
import io
import json
from dataclasses import dataclass
from typing import Any, Final

import rfc8785
import segno

from crypto.commitments import binding, check_consent_id, leaf_key
from crypto.digest import Digest, sha256
from crypto.errors import CryptoError, VerificationError
from crypto.keys import address_text
from crypto.statements import Domains, RequestErasure, Withdraw, verify
from node.document import Fields
from node.errors import InputError, LocalFault, VerificationFailed
from node.home import Network
from node.messages import ErasureNotice, WithdrawalNotice
from node.records import MAX_MEMBERS, Contracts

SCHEMA: Final = "koinon.card/1"
MAX_CARD_BYTES: Final = 2900  # what one QR code holds in byte mode (ISO/IEC 18004: 2953 at version 40, level L)
NOTICE: Final = (
    "This card ends your consent. Give it, or a copy, to any hospital of the network named below: from then on your "
    "data are left out of training. With the same card you can ask for erasure. It works once and for good, it needs "
    "no password, and it does not show who you are. It ends this consent at this hospital only."
)
_PARTS: Final = ("membership", "consent", "training", "unlearning")


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a consent belongs: network, study and hospital.

    `network` is `node.home.Network.fingerprint` (64 hex digits); `member` the hospital's index; `hospital` its name.
    """

    network: str
    contracts: Contracts
    study: Digest
    member: int
    hospital: str

    @classmethod
    def of(cls, network: Network, study: Digest, member: int, hospital: str) -> Origin:
        """The origin of consents that `hospital` takes for a study on this network."""
        return cls(network.fingerprint, network.contracts, study, member, hospital)

    @property
    def domains(self) -> Domains:
        """What the card's statements are signed for."""
        return self.contracts.domains


@dataclass(frozen=True, slots=True)
class Card:
    """A checked card: its opening leads to `consent_id` and both signatures are the holder's.

    `doc_commit` hides the signed form (its salt stays in the hospital); `leaf_secret` lets proofs be made for whoever
    shows the card. `issued` is a day, YYYY-MM-DD.
    """

    origin: Origin
    form_id: Digest
    issued: str
    consent_id: Digest
    holder: bytes
    holder_salt: Digest
    doc_commit: Digest
    leaf_secret: Digest
    withdraw: bytes
    request_erasure: bytes

    @property
    def leaf_key(self) -> Digest:
        """The key of this consent in every dataset map."""
        return leaf_key(self.leaf_secret)

    @property
    def binding(self) -> Digest:
        """What a withdrawal shows beside the holder's address and salt."""
        return binding(self.doc_commit, self.leaf_key)

    def __repr__(self) -> str:
        """Show the consent, never the secrets."""
        return f"Card(consent_id={self.consent_id.hex()}, issued={self.issued})"


# --------------------------------------------------------------------------------------------------------------------
# Format


def encode(card: Card) -> bytes:
    """The card's bytes, with a line end; `parse` of them gives the card back."""
    tree = _tree(card)
    tree["sha256"] = sha256(rfc8785.dumps(tree)).hex()
    return rfc8785.dumps(tree) + b"\n"


def _tree(card: Card) -> dict[str, Any]:
    origin = card.origin
    return {
        "schema": SCHEMA,
        "notice": NOTICE,
        "opening": {
            "consent_id": card.consent_id.hex(),
            "doc_commit": card.doc_commit.hex(),
            "holder": address_text(card.holder),
            "holder_salt": card.holder_salt.hex(),
            "leaf_secret": card.leaf_secret.hex(),
        },
        "origin": {
            "chain_id": str(origin.contracts.chain_id),  # text: RFC 8785 numbers end at 2^53
            "contracts": {part: address_text(getattr(origin.contracts, part)) for part in _PARTS},
            "form": card.form_id.hex(),
            "hospital": {"index": origin.member, "name": origin.hospital},
            "issued": card.issued,
            "network": origin.network,
            "study": origin.study.hex(),
        },
        "signatures": {"request_erasure": card.request_erasure.hex(), "withdraw": card.withdraw.hex()},
    }


def parse(data: bytes) -> Card:
    """Read and check a card.

    Raises:
        InputError: not a card, damaged, or with a field out of its format.
        LocalFault: a card of another version.
        VerificationFailed: the opening does not lead to the consent id, or a signature is not the holder's.
    """
    if len(data) > MAX_CARD_BYTES:
        raise InputError(f"card: {len(data)} bytes, at most {MAX_CARD_BYTES} expected")
    body = data.removesuffix(b"\n")
    try:
        tree = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InputError(f"card: not JSON: {error}") from error
    if not isinstance(tree, dict) or not isinstance(tree.get("schema"), str):
        raise InputError("card: no schema")
    if tree["schema"] != SCHEMA:
        raise LocalFault(f"card: schema {tree['schema'][:80]!r}, this koinon reads {SCHEMA}")
    card, stated = _read(tree)
    if encode(card).removesuffix(b"\n") != body:
        computed = sha256(rfc8785.dumps(_tree(card))).hex()
        if stated != computed:
            raise InputError(f"card: damaged: sha256 {stated} stated, {computed} computed")
        raise InputError("card: the bytes are not in canonical form (RFC 8785)")
    _verify(card)
    return card


def _read(tree: dict[str, Any]) -> tuple[Card, str]:
    top = Fields("card", tree, InputError)
    top.take("schema", str)
    if top.take("notice", str) != NOTICE:
        top.fault("field notice is not the notice of this version")
    stated = top.digest("sha256").hex()
    opening, origin, signatures = (top.fields(part) for part in ("opening", "origin", "signatures"))
    contracts, hospital = origin.fields("contracts"), origin.fields("hospital")
    index = hospital.uint("index", 16)
    if index >= MAX_MEMBERS:
        hospital.fault(f"field index = {index} is not between 0 and {MAX_MEMBERS - 1}")
    name = hospital.take("name", str)
    if not 1 <= len(name.encode(errors="ignore")) <= 200:  # a lone surrogate has no bytes
        hospital.fault("field name must have between 1 and 200 bytes")
    card = Card(
        origin=Origin(
            network=origin.digest("network").hex(),
            contracts=Contracts(origin.uint("chain_id", 256), *(contracts.address(part) for part in _PARTS)),
            study=origin.digest("study"),
            member=index,
            hospital=name,
        ),
        form_id=origin.digest("form"),
        issued=origin.take("issued", str),
        consent_id=opening.digest("consent_id"),
        holder=opening.address("holder"),
        holder_salt=opening.digest("holder_salt"),
        doc_commit=opening.digest("doc_commit"),
        leaf_secret=opening.digest("leaf_secret"),
        withdraw=signatures.signature("withdraw"),
        request_erasure=signatures.signature("request_erasure"),
    )
    try:
        exact = datetime.date.fromisoformat(card.issued).isoformat() == card.issued
    except ValueError:
        exact = False
    if not exact:
        origin.fault(f"field issued = {card.issued[:40]!r} is not a day written YYYY-MM-DD")
    for fields in (top, opening, origin, signatures, contracts, hospital):
        fields.done()
    return card, stated


def _verify(card: Card) -> None:
    domains = card.origin.domains
    withdraw, erasure = Withdraw(card.consent_id), RequestErasure(card.consent_id, card.origin.study)
    try:
        check_consent_id(card.consent_id, card.holder, card.holder_salt, card.doc_commit, card.leaf_key)
        verify(withdraw, domains.of(withdraw), card.withdraw, card.holder)
        verify(erasure, domains.of(erasure), card.request_erasure, card.holder)
    except VerificationError as error:
        raise VerificationFailed(f"card: {error}") from error
    except CryptoError as error:
        raise InputError(f"card: {error}") from error


def check_network(card: Card, network: Network) -> None:
    """Raise `VerificationFailed` with both values when the card was issued on another network."""
    if card.origin.network != network.fingerprint:
        raise VerificationFailed(
            f"card: issued on network {card.origin.network}, this is network {network.fingerprint} ({network.name})"
        )
    if card.origin.contracts not in network.contracts.line:
        raise VerificationFailed("card: its contracts are not those of the network whose fingerprint it bears")


# --------------------------------------------------------------------------------------------------------------------
# What a card is for


def withdrawal_notice(card: Card) -> WithdrawalNotice:
    """The holder's withdrawal, ready for the chain and for peers."""
    return WithdrawalNotice(card.consent_id, card.holder, card.holder_salt, card.binding, card.withdraw)


def relay_salt(signature: bytes) -> Digest:
    """The request salt of a batch that a relay opens: from the card's RequestErasure signature, which is never public.

    The relay has it from the card, the hospital from its vault, nobody else can compute it.
    """
    return sha256(b"koinon/relay-salt/1" + signature)


def erasure_notice(card: Card, received_at: int, relay: int) -> ErasureNotice:
    """The holder's request for erasure. `received_at` (chain time) starts the clock; `relay` is who took the card."""
    return ErasureNotice(
        consent_id=card.consent_id,
        study=card.origin.study,
        controller=card.origin.member,
        holder=card.holder,
        holder_salt=card.holder_salt,
        binding=card.binding,
        signature=card.request_erasure,
        received_at=received_at,
        relay=relay,
    )


def card_svg(card: Card) -> bytes:
    """The card as a QR code (SVG) that holds the card's very bytes: what a scanner reads, `parse` takes."""
    code = segno.make_qr(encode(card).removesuffix(b"\n"), error="l", mode="byte")
    out = io.BytesIO()
    code.save(out, kind="svg", scale=3, border=4, title="koinon withdrawal card")
    return out.getvalue()
