"""The checks that only a bundle has: its keys and ciphertexts, who exported it, its certificates, its page.

What this file does not know: the checks of a home, which a bundle passes too (`node/audit/checks.py`).
"""

from __future__ import annotations

import json

from crypto.commitments import key_commit
from crypto.digest import ZERO, Digest
from crypto.errors import CryptoError, SignatureMismatch
from crypto.sealing import BlobCommit, BlobKind
from crypto.statements import Bundle, verify_any
from node import certificate
from node.audit import bundle
from node.audit.checks import Audit
from node.audit.home import Fault
from node.audit.packed import BundleReader
from node.audit.page import page
from node.audit.records import equal, erasure_name, holds
from node.erasure import DELIVERED
from node.errors import NodeError, VerificationFailed
from node.home import VERSION
from node.messages import CommitNotice


def _reader(audit: Audit) -> BundleReader:
    assert isinstance(audit.store, BundleReader)
    return audit.store


def keys_are_of_ciphertexts(audit: Audit) -> str | None:
    """A ciphertext goes with its key or not at all: neither is without the other, and the key is the committed one.

    The other checks open what they execute again: not the sets of a round whose updates an erasure purged.
    """
    reader = _reader(audit)
    blobs: dict[tuple[Digest, int, int], BlobCommit] = {}
    for kept in reader.kept_notices("CommitNotice"):
        notice = kept.notice
        if isinstance(notice, CommitNotice) and bundle.carries_commit(audit.history, notice):
            blobs[notice.round_id, notice.member, BlobKind.UPDATE] = notice.update
            blobs[notice.round_id, notice.member, BlobKind.SET] = notice.set
    opened: set[Digest] = set()
    for key in reader.content_keys():
        round_id, member, kind = key
        blob = blobs.get(key)
        where = f"{bundle.KEYS}: round {round_id.hex()[:16]}, member {member}, kind {kind}"
        beside = blob is not None and reader.has(blob.cipher_root)
        holds("content key", where, "its ciphertext beside it", beside, "none")
        assert blob is not None
        equal("content key", where, blob.key_commit, key_commit(reader.content_key(*key) or b"", *key))
        opened.add(blob.cipher_root)
    for content, what, _ in reader.index():
        paired = what != "cipher" or content in opened
        holds("ciphertext", reader.place(content), "its key beside it", paired, "none")
    return None


def exporter_signed(audit: Audit) -> str | None:
    """The manifest is signed by the seat that it names, and says what the chain says of seat and last block."""
    reader = _reader(audit)
    about, registry = reader.about, audit.history.registry
    seat = registry.members.get(about.index) if about.role == "member" else registry.auditors.get(about.index)
    holds("exporter", bundle.MANIFEST, "a registered seat", seat is not None, f"{about.role} {about.index}")
    assert seat is not None
    equal("name of the exporter", bundle.MANIFEST, seat.name, about.name)
    number, block_hash, _ = about.head
    equal("last block", bundle.MANIFEST, (max(audit.hashes), audit.hashes[max(audit.hashes)]), (number, block_hash))
    if about.study is not None:
        known = about.study in audit.history.studies
        holds("study", bundle.MANIFEST, "a study on the chain", known, about.study.hex())
    if reader.signature is None:
        return "nobody signed this bundle: what is not under signatures of its own is nobody's word"
    statement = Bundle(about.role, about.index, reader.manifest_hash)
    try:
        verify_any(statement, audit.domains, reader.signature, seat.ledger)
    except SignatureMismatch as error:
        raise Fault("signature", bundle.SIGNATURE, error.expected, error.got or "no key at all") from None
    except CryptoError as error:
        raise Fault("signature", bundle.SIGNATURE, "a signature", error) from None
    return None


def whole_chain_is_told(audit: Audit) -> str | None:
    """A bundle of one study leaves the others of the network unchecked, and says so."""
    others = sum(not audit.covers(study) for study in audit.history.studies)
    return f"{others} other studies of the network are not in this bundle" if others else None


def certificates_hold(audit: Audit) -> str | None:
    """Every certificate in it is genuine, of this network, and of an erasure on the chain; the exporter's are here."""
    here: set[Digest] = set()
    for batch, data in _reader(audit).certificates().items():
        where = f"certificates/{batch.hex()}.json"
        try:
            found = certificate.check(data, audit.network)
            certificate.compare(data, audit.history)
        except VerificationFailed as error:
            raise Fault("certificate", where, "a certificate that holds", error.message) from None
        equal("erasure of a certificate", where, batch.hex(), found["erasure"])
        here.add(certificate.digest_of(json.loads(data)))
    missing = [
        erasure_name(batch)
        for batch, erasure in audit.history.erasures.items()
        if audit.covers(erasure.opened.study)
        and erasure.opened.controller == audit.me
        and erasure.steps.get(DELIVERED, ZERO) not in (ZERO, *here)
    ]
    if not missing:
        return None
    return f"{len(missing)} certificates that the exporter stated as delivered are not here ({', '.join(missing)})"


def page_is_the_datas(audit: Audit) -> str | None:
    """The page says what the bundle's own chain says: made again, it is the same bytes."""
    reader = _reader(audit)
    about = reader.about
    if about.koinon != VERSION:
        return f"the page was made by koinon {about.koinon}, this is koinon {VERSION}"
    specs = {}
    for number, study in audit.history.studies.items():
        root = study.created.terms.spec_hash
        if about.covers(number) and reader.has(root):
            try:
                specs[number] = audit.arithmetic(number).study
            except NodeError as error:
                raise Fault("page", bundle.PAGE, "a page made of readable specifications", error.message) from None
    made = page(about, audit.network, audit.history, specs, len(reader.certificates()))
    shown = reader.member(bundle.PAGE)
    if made != shown:
        place = next(
            (i for i, (a, b) in enumerate(zip(made, shown, strict=False)) if a != b), min(len(made), len(shown))
        )
        raise Fault("page", f"{bundle.PAGE}, byte {place}", made[place : place + 60], shown[place : place + 60])
    return None
