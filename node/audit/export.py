"""A home into a bundle: one file that says everything this home may say, for whoever audits it without the home.

What may live here: choosing what goes along (by the rules of `node/audit/bundle.py`), reading it whole and checked, and
writing it in one pass. What this file does not know: what the page looks like (`node/audit/page.py`). Nothing in the
home is changed; its node may be running: the rows are those of one moment, and a content that is purged meanwhile ends
the export in words.
"""

from __future__ import annotations

import os
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import rfc8785

from crypto.digest import Digest, sha256
from crypto.keys import KeyRing
from crypto.sealing import BlobCommit, BlobKind
from crypto.statements import Bundle, sign
from node import document, jsontext, keystore
from node.abi import Codec
from node.audit import bundle
from node.audit.archive import MAX_ARCHIVE_BYTES, MAX_MEMBERS, PIECE, Writer, crc_and_digest, overhead
from node.audit.bundle import About, Entry, Holds
from node.audit.home import Fault, HomeReader
from node.audit.page import page
from node.certificate import EARLIER as EARLIER_CERTIFICATE
from node.certificate import SCHEMA as CERTIFICATE
from node.errors import InputError, LocalFault, VerificationFailed
from node.evidence import verify_block
from node.follower import logged_of
from node.history import History
from node.home import Home, Network
from node.messages import CommitNotice
from node.study import Study, parse_canonical


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written: its manifest's sha256, whether it is signed, how many members and bytes."""

    about: About
    manifest: Digest
    signed: bool
    members: int
    size: int


@dataclass(frozen=True, slots=True)
class _Member:
    name: str
    size: int
    crc: int
    digest: Digest
    read: Callable[[], Iterator[bytes]]

    @classmethod
    def of(cls, name: str, read: Callable[[], Iterator[bytes]]) -> _Member:
        size, crc, digest = crc_and_digest(read())
        return cls(name, size, crc, digest, read)

    @classmethod
    def bytes(cls, name: str, data: bytes) -> _Member:
        return cls(name, len(data), zlib.crc32(data), sha256(data), lambda: iter((data,)))


class _Export:
    """One export: a home's store at one moment, its chain folded, and what was chosen of it."""

    def __init__(self, home: Home, network: Network, store: HomeReader) -> None:
        self._home, self._network, self._store = home, network, store
        self._history = History()
        self._head: tuple[int, Digest, int] | None = None
        self._studies: dict[Digest, Study] = {}

    def fold(self) -> History:
        """The chain as the home keeps it.

        Raises:
            Fault, VerificationFailed: the evidence does not hold.
        """
        codec = Codec.load()
        for evidence, _, _ in self._store.evidence():
            block = verify_block(evidence)
            self._history.apply_all(logged_of(block, codec, self._network.contracts))
            self._head = block.number, block.block_hash, block.timestamp
        return self._history

    def about(self, exported_at: int, study: Digest | None, holds: Holds, consents: tuple[Digest, ...]) -> About:
        """What the bundle says of itself."""
        if self._head is None:
            raise InputError("no block is kept in this home yet: there is nothing to export")
        home, registry = self._home, self._history.registry
        seat = registry.members.get(home.index) if home.role == "member" else registry.auditors.get(home.index)
        if seat is None:
            raise InputError(f"{home.role} {home.index} is not seated on the chain that this home keeps")
        fingerprint = self._network.fingerprint
        return About(exported_at, home.role, home.index, seat.name, fingerprint, self._head, study, holds, consents)

    def members(self, about: About, folder: ExitStack) -> list[_Member]:
        """Everything below the manifest, by name."""
        contents = {} if about.holds == "headers-only" else self._contents(about)
        found = [
            self._spooled(bundle.BLOCKS, self._block_lines(), folder),
            self._spooled(bundle.NOTICES, self._notice_lines(about), folder),
            _Member.bytes(bundle.KEYS, b"".join(self._key_lines(about, contents))),
            _Member.bytes(bundle.NETWORK, self._home.network_path.read_bytes()),
            *(_Member.of(name, self._reading(name, root, kind)) for name, (root, kind) in contents.items()),
            *(_Member.bytes(f"certificates/{batch}.json", data) for batch, data in self._certificates(about)),
        ]
        certificates = {one.name for one in found if one.name.startswith("certificates/")}
        specs = {number: study for number, study in self._studies.items() if about.holds != "headers-only"}
        shown = page(about, self._network, self._history, specs, len(certificates))
        found.append(_Member.bytes(bundle.PAGE, shown))
        return sorted(found, key=lambda one: one.name)

    # --- contents and keys

    def read_specs(self, about: About) -> None:
        """The specifications of the studies that the bundle is about, as far as they are here."""
        for number, study in self._history.studies.items():
            data = self._store.content(study.created.terms.spec_hash, "spec") if about.covers(number) else None
            if data is not None:
                self._studies[number] = parse_canonical(data)

    def _contents(self, about: About) -> dict[str, tuple[Digest, str]]:
        """Member name -> (root, kind) of the contents that go along."""
        wanted: dict[Digest, str] = {}
        for number, study in self._history.studies.items():
            if not about.covers(number):
                continue
            wanted[study.created.terms.spec_hash] = "spec"
            for branch in study.branches.values():
                wanted.update(dict.fromkeys(branch.models.values(), "model"))
        for notice in self._commits(about):
            wanted.update((blob.cipher_root, "cipher") for _, blob in self._blobs(about, notice))
        found = {}
        for root, kind, _ in self._store.index():
            if wanted.get(root) == kind:
                if not self._store.on_disk(root):
                    raise Fault("file", self._store.place(root), root, "missing without a tombstone")
                found[f"contents/{kind}/{root.hex()}"] = root, kind
        return found

    def _commits(self, about: About) -> Iterable[CommitNotice]:
        """The commits that stand on the chain, once each: a home may keep its own as said and as handed back."""
        found: dict[tuple[Digest, int], CommitNotice] = {}
        for kept in self._store.kept_notices("CommitNotice"):
            notice = kept.notice
            if (
                isinstance(notice, CommitNotice)
                and bundle.carries_commit(self._history, notice)
                and about.covers(self._history.rounds[notice.round_id].opened.study)
            ):
                found[notice.round_id, notice.member] = notice
        return found.values()

    def _blobs(self, about: About, notice: CommitNotice) -> Iterator[tuple[BlobKind, BlobCommit]]:
        """The blobs of a commit that go along, as far as this home can open them."""
        one = self._history.rounds[notice.round_id]
        spec = self._studies.get(one.opened.study)
        if spec is None:
            return
        days = spec["policy", "set_retention_days"]
        for kind, blob in ((BlobKind.UPDATE, notice.update), (BlobKind.SET, notice.set)):
            if bundle.left_out(about, self._history, one, notice.member, kind, days) is None and self._store.has_key(
                notice.round_id, notice.member, kind
            ):
                yield kind, blob

    def _reading(self, name: str, root: Digest, kind: str) -> Callable[[], Iterator[bytes]]:
        def pieces() -> Iterator[bytes]:
            data = self._store.content(root, kind)
            if data is None:
                raise LocalFault(f"{name} was deleted from the home while it was exported: export it again")
            view = memoryview(data)
            return (bytes(view[at : at + PIECE]) for at in range(0, len(view), PIECE))

        return pieces

    def _key_lines(self, about: About, contents: dict[str, tuple[Digest, str]]) -> Iterator[bytes]:
        roots = {root for root, _ in contents.values()}
        for notice in self._commits(about):
            for kind, blob in self._blobs(about, notice):
                if blob.cipher_root not in roots:
                    continue
                key = self._store.content_key(notice.round_id, notice.member, kind)
                if key is not None:
                    yield _line(round=notice.round_id.hex(), member=notice.member, kind=int(kind), key=key.hex())

    # --- lines

    def _block_lines(self) -> Iterator[bytes]:
        for evidence, stored, timestamp in self._store.evidence():
            yield _line(
                number=evidence.number,
                hash=stored.hex(),
                timestamp=timestamp,
                header=evidence.header_rlp.hex(),
                receipts=[one.hex() for one in evidence.receipts_rlp],
                transactions=[one.hex() for one in evidence.transactions],
            )

    def _notice_lines(self, about: About) -> Iterator[bytes]:
        for kept in self._store.kept_notices():
            if bundle.carries(about, self._history, kept.notice):
                yield _line(
                    subject=kept.subject.hex(),
                    kind=kept.kind,
                    turn=str(kept.turn),
                    member=kept.member,
                    own=kept.own,
                    body=kept.body.hex(),
                )

    def _spooled(self, name: str, lines: Iterable[bytes], folder: ExitStack) -> _Member:
        """Lines in an unnamed file: a chain may be longer than memory."""
        file: BinaryIO = folder.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 - closed with the export
        file.writelines(lines)

        def pieces() -> Iterator[bytes]:
            file.seek(0)
            while piece := file.read(PIECE):
                yield piece

        return _Member.of(name, pieces)

    def _certificates(self, about: About) -> Iterator[tuple[str, bytes]]:
        for batch, erasure in self._history.erasures.items():
            kept = self._store.meta(f"certificate {batch.hex()}") if about.covers(erasure.opened.study) else None
            if kept:
                tree = {**jsontext.loads(kept.encode()), "annex": None}
                if tree.get("schema") in (CERTIFICATE, EARLIER_CERTIFICATE):
                    yield batch.hex(), document.write(tree)


def _line(**fields: Any) -> bytes:
    return rfc8785.dumps(fields) + b"\n"


def export(
    home: Home,
    network: Network,
    rings: tuple[KeyRing, ...],
    out: Path,
    *,
    exported_at: int,
    choose: Callable[[History], Digest | None] = lambda history: None,
    holds: Holds = "everything",
    consents: tuple[Digest, ...] = (),
) -> Exported:
    """Write a home's audit bundle.

    Args:
        home, network: the node's home.
        rings: all its keys, in the order they were made; none: only headers can be exported, and nobody signs.
        out: the file, replaced whole or not at all (mode 0600).
        exported_at: unix seconds.
        choose: the study to export alone, out of the folded chain; None for all.
        holds: how much of what the home may give goes along.
        consents: consent ids that the page may show.

    Raises:
        VerificationFailed: the home is damaged; `audit verify` says more.
        InputError: nothing to export, no password where keys are to go along, or more than one file can hold.
        LocalFault: the disk refuses, or a content was purged meanwhile.
    """
    if not rings and holds != "headers-only":
        raise InputError("content keys are sealed under the keystore's password: give it, or export --headers-only")
    store = HomeReader(home.path, keystore.at_rest_key(rings[0]) if rings else None)
    with ExitStack() as folder:
        folder.callback(store.close)
        try:
            making = _Export(home, network, store)
            history = making.fold()
            study = choose(history)
            known = history.registry.keys_of(home.index if home.role == "member" else None)
            ring = keystore.current_ring(rings, known) if rings else None
            about = making.about(exported_at, study, holds, consents)
            making.read_specs(about)
            members = making.members(about, folder)
            return _write(about, network, ring, members, out)
        except Fault as fault:
            raise VerificationFailed(f"{home.path}: {fault}; `koinon audit verify` says more") from fault
        except OSError as error:
            raise LocalFault(f"{out}: {error.strerror}") from error


def _write(about: About, network: Network, ring: KeyRing | None, members: list[_Member], out: Path) -> Exported:
    manifest = bundle.write_manifest(about, [Entry(one.name, one.size, one.digest) for one in members])
    digest = sha256(manifest)
    signature = None
    if ring is not None:
        statement = Bundle(about.role, about.index, digest)
        signature = sign(statement, network.contracts.domains.of(statement), ring.ledger)
    whole = [
        _Member.bytes(bundle.MANIFEST, manifest),
        _Member.bytes(bundle.SIGNATURE, bundle.write_signature(signature)),
        *members,
    ]
    size = sum(one.size for one in whole) + overhead([one.name for one in whole])
    if size > MAX_ARCHIVE_BYTES or len(whole) > MAX_MEMBERS or len(manifest) > bundle.MAX_MANIFEST_BYTES:
        raise InputError(
            f"{len(whole)} members of {size} bytes are more than one bundle holds ({MAX_ARCHIVE_BYTES} bytes): "
            "export one study (--study), --without-sets or --headers-only"
        )
    aside = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            writer = Writer(file)
            for one in whole:
                writer.add(one.name, one.size, one.crc, one.read())
            writer.close()
            file.flush()
            os.fsync(file.fileno())
        aside.replace(out)
    except ValueError as error:
        raise LocalFault(f"{error}: export it again") from None
    finally:
        aside.unlink(missing_ok=True)
    return Exported(about, digest, signature is not None, len(whole), size)


__all__ = ["Exported", "export"]
