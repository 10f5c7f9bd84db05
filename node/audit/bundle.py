"""What an audit bundle is: its members, its manifest, and what may be in it. `koinon.bundle/2`.

What may live here: the format, and the one rule of what leaves a home, which whoever makes a bundle applies
(`node/audit/export.py`) and whoever checks one applies again (`node/audit/packed.py`), so that something left out by
the rule is never mistaken for something missing. What this file does not know: zip, HTML, which checks there are.

    manifest.json           who exported what when; name, size and sha256 of every member below (canonical JSON)
    signature.json          the exporter's signature over sha256(manifest.json)
    blocks.jsonl            headers, receipts and hashes of transactions, a line a block
    certificates/BATCH.json certificates of erasures that this home made, without the patient's annex
    contents/KIND/ROOT      ciphertexts, models and specifications under their content roots
    index.html              the page for people
    keys.jsonl              content keys, in the clear: this is why a bundle is confidential
    network.json            the network as the exporting home has it
    notices.jsonl           signed statements as they travelled
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final, Literal

from crypto.digest import Digest
from crypto.sealing import BlobKind
from node import document
from node.document import Fields
from node.errors import VerificationFailed
from node.history import History, RoundHistory
from node.home import VERSION
from node.messages import CommitNotice, Notice, OpeningNotice, TombstoneNotice

SCHEMA: Final = "koinon.bundle/2"
SIGNATURE_SCHEMA: Final = "koinon.bundle-signature/1"
MANIFEST, SIGNATURE = "manifest.json", "signature.json"
BLOCKS, KEYS, NETWORK, NOTICES, PAGE = "blocks.jsonl", "keys.jsonl", "network.json", "notices.jsonl", "index.html"
FIXED: Final = (BLOCKS, PAGE, KEYS, NETWORK, NOTICES)
MAX_MANIFEST_BYTES: Final = 16 << 20
MAX_SIGNATURE_BYTES: Final = 1 << 10
MAX_LINE_BYTES: Final = 32 << 20
"""Of a line: a block of 60 million gas has at most some 8 MiB of logs, twice that in hexadecimal digits."""

MAX_PAGE_BYTES: Final = 64 << 20
DAY_S: Final = 86_400
_NAME: Final = re.compile(r"certificates/[0-9a-f]{64}\.json|contents/(?:cipher|model|spec)/[0-9a-f]{64}")

Role = Literal["member", "auditor"]
ROLES: Final[dict[str, Role]] = {"member": "member", "auditor": "auditor"}
Holds = Literal["everything", "without-sets", "headers-only"]
HOLDS: Final[tuple[Holds, ...]] = ("everything", "without-sets", "headers-only")

CONFIDENTIAL: Final[dict[Holds, str]] = {
    "everything": (
        "CONFIDENTIAL. This bundle holds content keys in the clear: with them every update of the rounds in it, and "
        "the sets of consent openings that are still kept, can be read. Hand it over and keep it as the updates "
        "themselves, which are personal data between hospitals."
    ),
    "without-sets": (
        "CONFIDENTIAL. This bundle holds content keys in the clear: with them every update of the rounds in it can be "
        "read. It holds no set of consent openings. Hand it over and keep it as the updates themselves, which are "
        "personal data between hospitals."
    ),
    "headers-only": (
        "This bundle holds no content key, no update, no set and no model: what it says is on the chain or in signed "
        "statements between members. Consent ids on the chain are pseudonyms."
    ),
}


@dataclass(frozen=True, slots=True)
class Entry:
    """A member as the manifest names it."""

    name: str
    size: int
    sha256: Digest

    @property
    def content(self) -> tuple[str, Digest] | None:
        """(kind, root) of a content; None of anything else."""
        folder, _, rest = self.name.partition("/")
        kind, _, root = rest.partition("/")
        return (kind, Digest.from_hex(root)) if folder == "contents" else None


@dataclass(frozen=True, slots=True)
class About:
    """What a bundle says of itself, before its members.

    Attributes:
        exported_at: unix seconds by the exporter's clock; retention counts up to it.
        role, index: the exporting home's seat.
        name: the seat's registered name.
        fingerprint: of the network (`Network.fingerprint`).
        head: (number, hash, block time) of the last block in it.
        study: the only study it is about; None for all.
        holds: one of `HOLDS`.
        consents: consent ids that the page shows; none unless the exporter named them.
        koinon: version of the program that made it, and whose page it is.
    """

    exported_at: int
    role: Role
    index: int
    name: str
    fingerprint: str
    head: tuple[int, Digest, int]
    study: Digest | None
    holds: Holds
    consents: tuple[Digest, ...]
    koinon: str = VERSION

    @property
    def me(self) -> int | None:
        """Member index of the exporting home; None at an auditor."""
        return self.index if self.role == "member" else None

    def covers(self, study: Digest) -> bool:
        """Whether the bundle is about this study."""
        return self.study is None or self.study == study


# --------------------------------------------------------------------------------------------------------------------
# What leaves a home


def left_out(
    about: About, history: History, one: RoundHistory, member: int, kind: BlobKind, retention_days: int
) -> str | None:
    """Why a member's blob of a round, with its content key, is not in this bundle; None if it belongs in it.

    A content key leaves a home only where its reading was announced: the keys of a round go along if an auditor's
    `AuditAccess` on the chain covers it (at an auditor's home: this auditor's own), and a member may always give what
    it wrote itself. A set goes only within its retention. Ciphertexts travel with their keys or not at all.
    """
    if about.holds == "headers-only":
        return "the bundle was made with headers only"
    if kind is BlobKind.SET:
        if about.holds == "without-sets":
            return "the bundle was made without sets"
        if about.exported_at > one.opened.opened_at + retention_days * DAY_S:
            return "the set's retention was over when the bundle was made"
    announced = any(
        record.from_height <= one.opened.height <= record.to_height
        for _, record in history.studies[one.opened.study].access
        if about.role == "member" or record.seat == about.index
    )
    return None if announced or member == about.me else "no auditor announced that it opens this round"


def carries(about: About, history: History, notice: Notice) -> bool:
    """Whether a statement goes into the bundle.

    Left out: withdrawals and requests under way (they open a consent to whoever reads them, and the chain has what
    became of them), openings of erasures unless sets go along (they say the same of the erased) or once the erasure
    is closed (a home forgets them then), and what belongs to another study than the one exported.
    """
    match notice:
        case OpeningNotice():
            erasure = history.erasures.get(notice.batch)
            ended = erasure is not None and erasure.closed is not None
            return about.holds == "everything" and not ended and _about_batch(about, history, notice.batch)
        case TombstoneNotice():
            one = history.rounds.get(notice.subject)
            return about.covers(one.opened.study) if one else _about_batch(about, history, notice.subject)
    for name, place in (("round_id", history.rounds), ("batch", history.erasures)):
        subject = getattr(notice, name, None)
        if subject is not None:
            found: Any = place.get(subject)
            return about.study is None if found is None else about.covers(found.opened.study)
    study = getattr(notice, "study", None)
    return not hasattr(notice, "consent_id") and (study is None or about.covers(study))


def _about_batch(about: About, history: History, batch: Digest) -> bool:
    found = history.erasures.get(batch)
    return about.study is None if found is None else about.covers(found.opened.study)


def carries_commit(history: History, notice: Notice) -> bool:
    """Whether a commit is the one that its member has on the chain: only its blobs travel."""
    if not isinstance(notice, CommitNotice) or notice.round_id not in history.rounds:
        return False
    record = history.rounds[notice.round_id].commits.get(notice.member)
    return record is not None and record.update_root == notice.update_root


# --------------------------------------------------------------------------------------------------------------------
# The manifest


def write_manifest(about: About, entries: list[Entry]) -> bytes:
    """The manifest's bytes."""
    number, block_hash, timestamp = about.head
    return document.write(
        {
            "schema": SCHEMA,
            "koinon": about.koinon,
            "confidential": CONFIDENTIAL[about.holds],
            "exported_at": about.exported_at,
            "home": {"role": about.role, "index": about.index, "name": about.name},
            "network": about.fingerprint,
            "head": {"number": number, "hash": block_hash.hex(), "timestamp": timestamp},
            "study": None if about.study is None else about.study.hex(),
            "holds": about.holds,
            "consents": [one.hex() for one in about.consents],
            "members": [{"name": one.name, "size": one.size, "sha256": one.sha256.hex()} for one in entries],
        }
    )


def read_manifest(data: bytes) -> tuple[About, list[Entry]]:
    """The manifest in these bytes.

    Raises:
        VerificationFailed: it is none, not in its one encoding, or its members are not those a bundle may have.
    """
    if not data.endswith(b"\n"):
        raise VerificationFailed("manifest.json: does not end with a line end")
    top = Fields(MANIFEST, document.read(data, SCHEMA, MAX_MANIFEST_BYTES))
    top.take("schema", str)
    koinon, exported_at = top.take("koinon", str), top.uint("exported_at", 40)
    home, head = top.fields("home"), top.fields("head")
    role, index, name = home.take("role", str), home.uint("index", 16), home.take("name", str)
    home.done()
    seat = ROLES.get(role)
    if seat is None:
        home.fault(f"role {role!r:.40} is neither member nor auditor")
    last = head.uint("number", 53), head.digest("hash"), head.uint("timestamp", 53)
    head.done()
    stated = top.take("holds", str)
    holds = next((one for one in HOLDS if one == stated), None)
    if holds is None:
        top.fault(f"field holds is none of {', '.join(HOLDS)}")
    if top.take("confidential", str) != CONFIDENTIAL[holds]:
        top.fault("field confidential is not the sentence of this version")
    about = About(
        exported_at,
        seat,
        index,
        name,
        top.digest("network").hex(),
        last,
        top.digest("study") if top.has("study") else None,
        holds,
        top.digests("consents"),
        koinon,
    )
    entries = top.each("members", lambda one: Entry(one.take("name", str), one.uint("size", 32), one.digest("sha256")))
    top.done()
    names = [one.name for one in entries]
    if any(before >= after for before, after in pairwise(names)):
        top.fault("members are not in rising order of their names")
    missing = set(FIXED) - set(names)
    if missing:
        top.fault(f"member {min(missing)} is missing")
    for one in names:
        if one not in FIXED and not _NAME.fullmatch(one):
            top.fault(f"a bundle has no member {one!r:.80}")
    return about, entries


def write_signature(signature: bytes | None) -> bytes:
    """The signature member; None: nobody signed."""
    return document.write({"schema": SIGNATURE_SCHEMA, "signature": None if signature is None else signature.hex()})


def read_signature(data: bytes) -> bytes | None:
    """The signature over the manifest's sha256, or None where nobody signed; `VerificationFailed` if it is no such."""
    if not data.endswith(b"\n"):
        raise VerificationFailed("signature.json: does not end with a line end")
    top = Fields(SIGNATURE, document.read(data, SIGNATURE_SCHEMA, MAX_SIGNATURE_BYTES))
    top.take("schema", str)
    signature = top.signature("signature") if top.has("signature") else None
    top.done()
    return signature
