"""`audit verify`: everything a home holds, executed again with nothing running and no network.

Theory of operation. A home keeps headers and receipts of every block, the signed notices, the ciphertexts with their
content keys, and the models. From the genesis hash in network.json the chain's records follow; from the records the
rounds; from the openings, the plaintexts and the parent model each round's result. `CHECKS` is the whole list, in the
order in which one stands on another: the first that fails is where to begin reading.

Three outcomes a check: passed; failed, with what, where and both values; skipped, with the reason (no password, never
here, retention over). `ok` means nothing failed, `complete` that nothing was skipped. Rounds that an erasure purged are
counted apart: their votes and tombstones are checked, their updates are gone.

Trusted: network.json of the home, and this program. Whatever else lies in a home may be damaged or forged and ends as
a failed check, never as an exception.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from crypto.digest import Digest
from crypto.errors import CryptoError
from crypto.keys import KeyRing
from crypto.statements import struct_hash
from node import config, jsontext, keystore
from node.abi import Codec
from node.audit import bundle, checks, handed
from node.audit.bundle import About
from node.audit.checks import Audit, Check, record_rule
from node.audit.erasures import erasures_are_clean, purges_are_carried_out, statements_are_here
from node.audit.home import Fault, HomeReader, NotChecked, OnPurpose
from node.audit.packed import BundleReader
from node.audit.records import Chain, equal
from node.audit.rounds import REEXECUTED, reexecution
from node.chain.genesis import chain_folder
from node.chain.journal import JournalReport, journal_file, verify_journal
from node.errors import InputError, NodeError, NotFound, VerificationFailed
from node.evidence import verify_block
from node.follower import logged_of
from node.home import Home, Network, node_homes, open_home, read_network, read_password
from node.messages import AbstainNotice, CommitNotice, HaveNotice, VoteNotice
from node.notices import statement_of
from node.records import Logged

PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"

# name | check | needs the chain's records. "home" comes before all of these: without it there is nothing to check.
CHECKS: Final[tuple[tuple[str, Check, bool], ...]] = (
    ("store", checks.store_is_whole, False),
    ("chain", checks.chain_is_whole, False),
    ("keystore", checks.keystore_is_ours, True),
    ("founders", checks.founders_are_the_networks, True),
    ("accumulators", record_rule("accumulators"), True),
    ("identities", record_rule("identities"), True),
    ("rounds-opened", record_rule("rounds-opened"), True),
    ("phases", record_rule("phases"), True),
    ("results", record_rule("results"), True),
    ("erasure-steps", record_rule("erasure-steps"), True),
    ("statements", checks.statements_are_signed, True),
    ("own-statements", checks.own_statements_are_single, True),
    ("votes", checks.votes_are_a_quorum, True),
    ("contents", checks.contents_are_their_names, False),
    ("tombstones", checks.tombstones_hold, True),
    ("specifications", checks.studies_are_their_specs, True),
    *((name, reexecution(name), True) for name in REEXECUTED),
    ("erasure-statements", statements_are_here, True),
    ("purges", purges_are_carried_out, True),
    ("erasures", erasures_are_clean, True),
)

# A bundle: the same, but no database or keystore is in it; "bundle", before all of these, compares every byte.
BUNDLE_CHECKS: Final[tuple[tuple[str, Check, bool], ...]] = (
    *(one for one in CHECKS if one[0] not in ("store", "keystore")),
    ("keys", handed.keys_are_of_ciphertexts, True),
    ("exporter", handed.exporter_signed, True),
    ("studies", handed.whole_chain_is_told, True),
    ("certificates", handed.certificates_hold, True),
    ("page", handed.page_is_the_datas, True),
)


@dataclass(frozen=True, slots=True)
class Failure:
    """The first thing that does not hold: what it is, the file, row, block or round, and both values."""

    what: str
    where: str
    expected: str
    got: str

    def to_json(self) -> dict[str, str]:
        """For the command line."""
        return {"what": self.what, "where": self.where, "expected": self.expected, "got": self.got}


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One check's outcome. `status` is passed, skipped or failed; `home` names the node home in a network's report."""

    name: str
    status: str
    why: str
    home: str | None = None
    failure: Failure | None = None

    def to_json(self) -> dict[str, str]:
        """For the command line."""
        shown = {"name": self.name, "status": self.status, "why": self.why}
        return shown if self.home is None else {**shown, "home": self.home}


@dataclass(frozen=True, slots=True)
class Report:
    """What an audit found."""

    checks: tuple[CheckResult, ...]
    rounds_verified: int
    rounds_purged: int

    @property
    def ok(self) -> bool:
        """Nothing failed."""
        return all(one.status != FAILED for one in self.checks)

    @property
    def complete(self) -> bool:
        """Nothing was skipped. What an erasure took away on purpose is not: `why` names it where its check passed."""
        return all(one.status != SKIPPED for one in self.checks)

    @property
    def first_failure(self) -> Failure | None:
        """The first failed check's."""
        return next((one.failure for one in self.checks if one.failure is not None), None)

    def to_json(self) -> dict[str, Any]:
        """The fields of `audit verify --json`."""
        failure = self.first_failure
        return {
            "ok": self.ok,
            "complete": self.complete,
            "checks": [one.to_json() for one in self.checks],
            "rounds_verified": self.rounds_verified,
            "rounds_purged": self.rounds_purged,
            "first_failure": None if failure is None else failure.to_json(),
        }


Statements = dict[tuple[Digest, str, int, int], Digest]
"""(round, kind, attempt, member) -> struct hash of the statement."""


@dataclass(slots=True)
class _HomeOutcome:
    """One home's part of a network's report."""

    results: list[CheckResult] = field(default_factory=list)
    hashes: dict[int, Digest] = field(default_factory=dict)
    verified: set[Digest] = field(default_factory=set)
    purged: set[Digest] = field(default_factory=set)
    statements: Statements = field(default_factory=dict)
    convicted: set[tuple[Digest, int]] = field(default_factory=set)  # (round, member) of posted contradictions

    def report(self) -> Report:
        """This home's report alone."""
        return Report(tuple(self.results), len(self.verified), len(self.purged))


# --------------------------------------------------------------------------------------------------------------------
# One home


def verify_home(home: Path, password: str | None) -> Report:
    """Verify one node's home.

    Args:
        home: the node's folder. Nothing in it is changed; the node may be running.
        password: of its keystore; None skips what needs content keys.

    Returns:
        The report. Whatever is wrong with the home is in it; nothing is raised.
    """
    return _verify_home(home, password, None).report()


def verify_network(home: Path, tell: Callable[[str], None] = lambda _: None) -> Report:
    """Verify every node home of a network home, the chain's journal, and that they agree.

    Each home's password comes from the file its configuration names; one without is verified without. `tell` hears of
    each home before it is read.
    """
    outcomes: dict[str, _HomeOutcome] = {}
    homes = node_homes(home)
    for place, path in enumerate(homes, 1):
        tell(f"verifying {path.name} ({place} of {len(homes)})")
        password, why = _password(path)
        outcomes[path.name] = _verify_home(path, password, path.name, why)
    results = [result for outcome in outcomes.values() for result in outcome.results]
    results += _network_checks(home, outcomes)
    verified = set[Digest]().union(*(outcome.verified for outcome in outcomes.values()))
    purged = set[Digest]().union(*(outcome.purged for outcome in outcomes.values())) - verified
    return Report(tuple(results), len(verified), len(purged))


def verify_bundle(path: Path, network: Network | None) -> tuple[Report, About | None]:
    """Verify an audit bundle with nothing but the file.

    Args:
        path: the bundle. Nothing is unpacked and nothing is written.
        network: the network it must be of; None: the one in the bundle, whose fingerprint somebody has to compare.

    Returns:
        The report, whatever is wrong with the bundle; and what the bundle says of itself, None where it is none.

    Raises:
        InputError: there is no such file.
    """
    outcome = _HomeOutcome()
    opened: list[Audit] = []

    def open_it() -> None:
        opened.append(_open_bundle(path, network))

    outcome.results.append(_run("bundle", None, open_it))
    if not opened:
        reason = "the bundle could not be opened"
        outcome.results += [CheckResult(name, SKIPPED, reason) for name, _, _ in BUNDLE_CHECKS]
        return outcome.report(), None
    audit = opened[0]
    try:
        _run_checks(audit, BUNDLE_CHECKS, None, outcome)
    finally:
        audit.store.close()
    outcome.verified, outcome.purged = audit.verified, audit.purged
    return outcome.report(), audit.bundle


def _open_bundle(path: Path, network: Network | None) -> Audit:
    store = BundleReader(path)
    try:
        home, own = store.home_of()
        if network is not None:
            equal("network", path.name, network.fingerprint, own.fingerprint)
            expected, found = _identity(network), _identity(own)
            for key in sorted({*expected, *found}):
                equal("network", f"{path.name}: {bundle.NETWORK}, {key}", expected.get(key), found.get(key))
    except BaseException:
        store.close()
        raise
    return _audit(home, own, store, (), "the bundle holds no content keys", None)


def _identity(network: Network) -> dict[str, Any]:
    """All that a network.json says but where its chain and peers are reached, which each home may know otherwise."""
    seats = {role: [{**seat, "address": ""} for seat in network.raw[role]] for role in ("founders", "auditors")}
    before = {} if network.before is None else {"before": _identity(network.before)}
    return {**network.raw, "chain": {**network.raw["chain"], "url": ""}, **seats, **before}


def read_records(home: Path) -> list[Logged]:
    """All records of the chain as a node's home has kept them, from evidence; nothing needs to run.

    Raises:
        VerificationFailed: the home or its evidence is damaged; `verify_home` says more.
    """
    try:
        _, network = _read_home(home)
        store = HomeReader(home, None)
        try:
            codec = Codec.load()
            blocks = (verify_block(evidence) for evidence, _, _ in store.evidence())
            return [logged for block in blocks for logged in logged_of(block, codec, network.contracts)]
        finally:
            store.close()
    except Fault as fault:
        raise VerificationFailed(f"{home}: {fault}") from fault


def _password(path: Path) -> tuple[str | None, str]:
    try:
        settings = config.load(path / "config.toml", {})
        return read_password(open_home(path), settings["node", "password_file"]), ""
    except (NodeError, OSError, ValueError) as error:
        return None, f"no password: {error}"


def _run(name: str, home: str | None, check: Callable[[], str | None]) -> CheckResult:
    """One check, to an outcome whatever happens."""
    try:
        why = check()
    except NotChecked as reason:
        return CheckResult(name, SKIPPED, str(reason), home)
    except Fault as fault:
        return _failed(name, home, fault)
    except InputError:  # what was named is not there at all
        raise
    except Exception as error:  # an audit that stops at what it reads would let any damage hide all other damage
        return _failed(name, home, Fault("check", name, "a check that runs to its end", repr(error)))
    passed = why is None or isinstance(why, OnPurpose)
    return CheckResult(name, PASSED if passed else SKIPPED, why or "", home)


def _failed(name: str, home: str | None, fault: Fault) -> CheckResult:
    where = fault.where if home is None else f"{home}/{fault.where}"
    return CheckResult(name, FAILED, str(fault), home, Failure(fault.what, where, fault.expected, fault.got))


def _verify_home(path: Path, password: str | None, label: str | None, why: str = "no password") -> _HomeOutcome:
    outcome = _HomeOutcome()
    opened: list[Audit] = []

    def open_it() -> None:
        opened.append(_open(path, password, why))

    outcome.results.append(_run("home", label, open_it))
    if not opened:
        reason = "the home could not be opened"
        outcome.results += [CheckResult(name, SKIPPED, reason, label) for name, _, _ in CHECKS]
        return outcome
    audit = opened[0]
    try:
        _run_checks(audit, CHECKS, label, outcome)
    finally:
        audit.store.close()
    outcome.hashes, outcome.verified, outcome.purged = audit.hashes, audit.verified, audit.purged
    return outcome


def _open(path: Path, password: str | None, why: str) -> Audit:
    """The home under audit; a Fault where it is not a home that can be read."""
    home, network = _read_home(path)
    rings: tuple[KeyRing, ...] = ()
    no_ring, key_fault = why, None
    if password is not None:
        try:
            rings = _read_keys(home, password)
        except Fault as fault:
            no_ring, key_fault = "the keystore did not open", fault
    store = HomeReader(path, keystore.at_rest_key(rings[0]) if rings else None)
    return _audit(home, network, store, rings, no_ring, key_fault)


def _audit(
    home: Home, network: Network, store: HomeReader, rings: tuple[KeyRing, ...], no_ring: str, key_fault: Fault | None
) -> Audit:
    """What is under audit, with a chain that begins empty."""
    hashes: dict[int, Digest] = {}

    def block_hash(number: int) -> Digest:
        if number not in hashes:
            raise NotFound(f"block {number} is not kept")
        return hashes[number]

    chain = Chain(network.contracts, block_hash)
    domains = network.contracts.domains
    about = store.about if isinstance(store, BundleReader) else None
    return Audit(home, network, domains, store, Codec.load(), rings, no_ring, key_fault, chain, hashes, bundle=about)


def _read_home(path: Path) -> tuple[Home, Network]:
    try:
        home = open_home(path)
    except NodeError as error:
        raise Fault("home", "home.json", "a home of this version", error.message) from None
    try:
        return home, read_network(home.network_path)
    except (NodeError, CryptoError) as error:
        raise Fault("network", "network.json", "a network of this version", error) from None


def _read_keys(home: Home, password: str) -> tuple[KeyRing, ...]:
    try:
        jsontext.check_depth(home.keystore_path.read_bytes())
        return keystore.load_all(home, password)
    except (NodeError, OSError, ValueError) as error:
        raise Fault("keystore", "keystore.json", "a keystore that this password opens", error) from None


def _run_checks(
    audit: Audit, table: tuple[tuple[str, Check, bool], ...], label: str | None, outcome: _HomeOutcome
) -> None:
    broken = False
    for name, check, needs_chain in table:
        if needs_chain and broken:
            outcome.results.append(CheckResult(name, SKIPPED, "the chain check failed", label))
            continue
        result = _run(name, label, lambda check=check: check(audit))  # type: ignore[misc]
        outcome.results.append(result)
        if name == "chain":
            broken = result.status == FAILED
    if not broken:
        with suppress(Fault):  # the check of the statements has said so
            _collect(audit, outcome)


def _collect(audit: Audit, outcome: _HomeOutcome) -> None:
    """What each member said in each round, as this home has it, for the comparison between homes."""
    for kept in audit.store.kept_notices():
        notice = kept.notice
        if isinstance(notice, CommitNotice | AbstainNotice | HaveNotice | VoteNotice):
            statement = statement_of(notice)
            assert statement is not None
            attempt = notice.attempt if isinstance(notice, HaveNotice | VoteNotice) else 0
            outcome.statements[notice.round_id, kept.kind, attempt, notice.member] = struct_hash(statement)
    for logged in audit.history.equivocations:
        outcome.convicted.add((logged.record.round_id, logged.record.member))  # type: ignore[union-attr]


# --------------------------------------------------------------------------------------------------------------------
# A network


def _network_checks(home: Path, outcomes: dict[str, _HomeOutcome]) -> Iterable[CheckResult]:
    journal: list[JournalReport] = []
    yield _run("network", None, lambda: _one_network(home))
    yield _run("journal", None, lambda: _journal_is_whole(home, journal))
    yield _run("agreement", None, lambda: _blocks_agree(outcomes, journal[0] if journal else None))
    yield _run("contradictions", None, lambda: _nobody_contradicts(outcomes))


def _one_network(home: Path) -> str | None:
    """Every home is of this network."""
    try:
        fingerprint = read_network(home / "network.json").fingerprint
        homes = node_homes(home)
        if not homes:
            raise Fault("homes", str(home.name), "at least one node's home", "none")
        for path in homes:
            found = read_network(path / "network.json").fingerprint
            equal("network", f"{path.name}/network.json", fingerprint, found)
    except (NodeError, CryptoError) as error:
        raise Fault("network", "network.json", "a network of this version", error) from None
    return None


def _journal_is_whole(home: Path, found: list[JournalReport]) -> str | None:
    """The chain's journal gives, executed again, the blocks it says."""
    if not (chain_folder(home) / "genesis.json").exists():
        return "the chain of this network is not in this home"
    where = journal_file(home).relative_to(home).as_posix()
    try:
        report = verify_journal(home)
        network = read_network(home / "network.json")
    except (NodeError, OSError) as error:
        raise Fault("chain", "chain/genesis.json", "a chain of this version", error) from None
    equal("genesis hash", "chain/genesis.json", network.genesis_hash, report.genesis_hash)
    equal("chain id", "chain/genesis.json", network.contracts.chain_id, report.chain_id)
    if report.first_failure is not None:
        fault = report.first_failure
        raise Fault(fault.what, f"{where}, line {fault.line}", fault.expected, fault.got)
    found.append(report)
    return None


def _blocks_agree(outcomes: dict[str, _HomeOutcome], journal: JournalReport | None) -> str | None:
    """Every block a home kept is the journal's, or the other homes' where the chain runs elsewhere."""
    chain: dict[int, tuple[str, bytes]] = {}
    if journal is not None:
        chain[0] = ("the journal", journal.genesis_hash)
        chain.update({block.number: ("the journal", block.hash) for block in journal.blocks})
    for name, outcome in outcomes.items():
        for number, block_hash in sorted(outcome.hashes.items()):
            if journal is not None and number not in chain:
                raise Fault("block", f"{name}, block {number}", "a block of the journal", "the journal ends before it")
            first, expected = chain.setdefault(number, (name, block_hash))
            equal(f"block hash ({first})", f"{name}, block {number}", expected, block_hash)
    return None


def _nobody_contradicts(outcomes: dict[str, _HomeOutcome]) -> str | None:
    """No member said two different things at once to two homes, unless that is on the chain already."""
    said: dict[tuple[Digest, str, int, int], tuple[str, Digest]] = {}
    convicted = set[tuple[Digest, int]]().union(*(outcome.convicted for outcome in outcomes.values()))
    for name, outcome in outcomes.items():
        for key, hashed in outcome.statements.items():
            round_id, kind, attempt, member = key
            first, expected = said.setdefault(key, (name, hashed))
            if (round_id, member) not in convicted:
                where = f"{name}: {kind} of member {member}, attempt {attempt}, round {round_id.hex()[:16]}"
                equal(f"statement, as {first} has it", where, expected, hashed)
    return None


__all__ = [
    "BUNDLE_CHECKS",
    "CHECKS",
    "CheckResult",
    "Failure",
    "Report",
    "read_records",
    "verify_bundle",
    "verify_home",
    "verify_network",
]
