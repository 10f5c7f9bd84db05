"""An audit bundle: what is checked from the file alone is what is checked of the home, and nothing in it can change."""

from __future__ import annotations

import io
import json
import random
import re
import shutil
import struct
import zipfile
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import rfc8785
import trio
from click.testing import CliRunner

from crypto.digest import Digest, sha256
from crypto.sealing import BlobKind
from crypto.statements import Bundle, sign
from node import keystore
from node.abi import Codec
from node.audit import bundle
from node.audit.archive import Reader, Writer, crc_and_digest
from node.audit.export import Exported, export
from node.audit.home import Fault, HomeReader
from node.audit.page import NOTICE, PROMISES, page
from node.audit.rounds import covered_by_purge
from node.audit.verify import BUNDLE_CHECKS, Report, verify_bundle, verify_home
from node.cli.main import koinon
from node.errors import ExitCode, InputError
from node.evidence import verify_block
from node.follower import logged_of
from node.history import History
from node.home import open_home, read_network
from node.messages import CommitNotice
from node.study import parse_canonical
from node.vault import Vault
from tests.fakes.network import receipt
from tests.node.audit.audit_kit import (
    MEMBERS,
    PATIENTS,
    ROUNDS,
    as_the_officer,
    running_chain,
    running_nodes,
    until,
)

ROOT = Path(__file__).resolve().parents[3]
slow = pytest.mark.slow


@pytest.fixture(scope="session")
def whole(original: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The auditor's bundle of the original network."""
    path = tmp_path_factory.mktemp("bundle-whole") / "bundle.zip"
    made(original, "auditor", path)
    return path


def password(net: Path, name: str) -> str:
    return (net / name / "password").read_text().strip()


def made(net: Path, name: str, out: Path, **how: Any) -> Exported:
    home = open_home(net / name)
    rings = keystore.load_all(home, password(net, name)) if how.pop("keys", True) else ()
    return export(home, read_network(home.network_path), rings, out, exported_at=1_790_000_000, **how)


def checked(path: Path, net: Path | None = None) -> Report:
    return verify_bundle(path, None if net is None else read_network(net / "network.json"))[0]


def statuses(report: Report) -> dict[str, str]:
    return {one.name: one.status for one in report.checks}


def run(*arguments: object) -> tuple[int, dict[str, Any], str]:
    result = CliRunner().invoke(koinon, [*map(str, arguments), "--json"])
    return result.exit_code, json.loads(result.stdout), result.stderr


def parts(path: Path) -> dict[str, bytes]:
    """The members, as any zip program reads them."""
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def packed(members: dict[str, bytes], out: Path) -> Path:
    """An archive in the canonical form, whatever is in it."""
    with out.open("wb") as file:
        writer = Writer(file)
        for name, data in members.items():
            size, crc, _ = crc_and_digest(iter((data,)))
            writer.add(name, size, crc, iter((data,)))
        writer.close()
    return out


def forged(
    members: dict[str, bytes],
    out: Path,
    change: Callable[[dict[str, Any]], object] = bool,
    signature: str | None = None,
) -> Path:
    """A bundle of these members with the manifest that fits them: what whoever can write a file can make."""
    found = dict(members)
    tree = json.loads(found[bundle.MANIFEST])
    names = sorted(set(found) - {bundle.MANIFEST, bundle.SIGNATURE})
    tree["members"] = [{"name": n, "size": len(found[n]), "sha256": sha256(found[n]).hex()} for n in names]
    change(tree)
    found[bundle.MANIFEST] = rfc8785.dumps(tree) + b"\n"
    if signature is not None:
        found[bundle.SIGNATURE] = signature.encode()
    return packed({n: found[n] for n in (bundle.MANIFEST, bundle.SIGNATURE, *names)}, out)


UNSIGNED = '{"schema":"koinon.bundle-signature/1","signature":null}\n'


# --------------------------------------------------------------------------------------------------------------------
# Round trip


@slow
def test_a_bundle_says_what_its_home_says(original: Path, whole: Path) -> None:
    report, about = verify_bundle(whole, read_network(original / "network.json"))
    assert report.ok, report.first_failure
    assert report.complete, [one.to_json() for one in report.checks if one.status != "passed"]
    assert (report.rounds_verified, report.rounds_purged) == (ROUNDS, 0)
    assert [one.name for one in report.checks] == ["bundle", *(name for name, _, _ in BUNDLE_CHECKS)]
    of_home = statuses(verify_home(original / "auditor", password(original, "auditor")))
    assert {k: v for k, v in statuses(report).items() if k in of_home} == {
        k: v for k, v in of_home.items() if k not in ("home", "store", "keystore")
    }
    assert about is not None
    assert (about.role, about.name, about.holds) == ("auditor", "auditor", "everything")


@slow
@pytest.mark.parametrize("name", [*(f"member-{i + 1}" for i in range(MEMBERS)), "auditor"])
def test_every_home_of_a_network_exports_a_bundle_that_holds(original: Path, tmp_path: Path, name: str) -> None:
    made(original, name, tmp_path / "b.zip")
    report = checked(tmp_path / "b.zip", original)
    assert report.ok, report.first_failure
    assert report.complete


@slow
def test_exported_twice_it_is_the_same_bytes(original: Path, whole: Path, tmp_path: Path) -> None:
    made(original, "auditor", tmp_path / "again.zip")
    assert (tmp_path / "again.zip").read_bytes() == whole.read_bytes()


@slow
def test_other_zip_programs_read_it(whole: Path) -> None:
    with zipfile.ZipFile(whole) as archive:
        assert archive.testzip() is None
        assert archive.namelist()[:2] == [bundle.MANIFEST, bundle.SIGNATURE]
        assert {one.compress_type for one in archive.infolist()} == {zipfile.ZIP_STORED}
    assert whole.stat().st_mode & 0o777 == 0o600


@slow
def test_after_an_erasure_purged_rounds_are_counted_apart(purged: Path, tmp_path: Path) -> None:
    for name in ("auditor", "member-1", "member-2"):
        made(purged, name, tmp_path / "b.zip")
        report = checked(tmp_path / "b.zip", purged)
        assert report.ok, report.first_failure
        assert (report.rounds_verified, report.rounds_purged) == (ROUNDS, ROUNDS)


@slow
def test_a_delivered_certificate_goes_along_without_its_annex(purged: Path, tmp_path: Path) -> None:
    net = Path(shutil.copytree(purged, tmp_path / "network"))

    async def deliver(url: str) -> dict[str, Any]:
        async with running_nodes(net, url) as nodes:
            with as_the_officer(net, nodes[1], 1, "erase.receipt"):
                document = await receipt(nodes[1], "MRN-1-03")
            await until(lambda: all(e.closed for node in nodes for e in node.history.erasures.values()))
        return document

    with running_chain(net) as url:
        document = trio.run(deliver, url)
    made(net, "member-2", tmp_path / "b.zip")
    members = parts(tmp_path / "b.zip")
    names = [name for name in members if name.startswith("certificates/")]
    assert len(names) == 1
    inside = json.loads(members[names[0]])
    assert inside == {**document, "annex": None}
    for secret in (document["annex"]["opening"]["leaf_secret"], document["annex"]["request"]["salt"]):
        assert secret.encode() not in (tmp_path / "b.zip").read_bytes()
    report = checked(tmp_path / "b.zip", net)
    assert report.ok, report.first_failure
    assert report.complete, "what it was about had to go, and its check says so"
    found = next(one for one in report.checks if one.name == "erasures")
    assert (found.status, "was forgotten when it was over" in found.why) == ("passed", True)
    assert "closed" in shown(tmp_path / "b.zip")
    inside["roster"] ^= 1
    members[names[0]] = rfc8785.dumps(inside) + b"\n"
    assert statuses(checked(forged(members, tmp_path / "c.zip", signature=UNSIGNED)))["certificates"] == "failed"


@slow
def test_without_sets_the_aggregation_is_checked_and_the_sets_are_skipped(purged: Path, tmp_path: Path) -> None:
    for name in ("auditor", "member-2"):
        made(purged, name, tmp_path / "b.zip", holds="without-sets")
        report = checked(tmp_path / "b.zip", purged)
        found = statuses(report)
        assert report.ok, report.first_failure
        assert not report.complete
        assert found["aggregation"] == "passed"
        assert {name for name, status in found.items() if status == "skipped"} == {"validity", "consent", "erasures"}
        keys = [json.loads(line) for line in parts(tmp_path / "b.zip")[bundle.KEYS].splitlines()]
        assert {one["kind"] for one in keys} == {int(BlobKind.UPDATE)}
        assert b"OpeningNotice" not in parts(tmp_path / "b.zip")[bundle.NOTICES]


@slow
def test_headers_only_has_no_content_and_no_key_needs_no_password_and_is_incomplete(
    purged: Path, tmp_path: Path
) -> None:
    found = made(purged, "auditor", tmp_path / "b.zip", holds="headers-only", keys=False)
    assert not found.signed
    members = parts(tmp_path / "b.zip")
    assert members[bundle.KEYS] == b""
    assert not [name for name in members if name.startswith("contents/")]
    report = checked(tmp_path / "b.zip", purged)
    states = statuses(report)
    assert report.ok, report.first_failure
    assert not report.complete
    assert report.rounds_verified == 0
    for name in ("exporter", "specifications", "validity", "consent", "aggregation", "models"):
        assert states[name] == "skipped", name
    assert states["results"] == states["statements"] == states["page"] == states["votes"] == "passed"


@slow
def test_without_a_password_only_headers_can_be_exported(original: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--headers-only"):
        made(original, "auditor", tmp_path / "b.zip", keys=False)
    assert list(tmp_path.iterdir()) == []


@slow
def test_a_set_goes_only_within_its_retention(original: Path, tmp_path: Path) -> None:
    home = open_home(original / "auditor")
    rings = keystore.load_all(home, password(original, "auditor"))
    late = 1_790_000_000 + 40 * 365 * 86_400
    export(home, read_network(home.network_path), rings, tmp_path / "b.zip", exported_at=late)
    keys = [json.loads(line) for line in parts(tmp_path / "b.zip")[bundle.KEYS].splitlines()]
    assert {one["kind"] for one in keys} == {int(BlobKind.UPDATE)}
    report = checked(tmp_path / "b.zip", original)
    assert report.ok, report.first_failure
    assert "retention" in next(one.why for one in report.checks if one.name == "consent")


@slow
def test_a_damaged_home_is_not_exported(original: Path, tmp_path: Path) -> None:
    net = Path(shutil.copytree(original, tmp_path / "network"))
    victim = max((net / "auditor" / "blobs").rglob("*"), key=lambda path: path.stat().st_size if path.is_file() else 0)
    data = bytearray(victim.read_bytes())
    data[-1] ^= 1
    victim.write_bytes(bytes(data))
    code, answer, _ = run("audit", "export", "--home", net, "--out", tmp_path / "b.zip")
    assert code == ExitCode.VERIFICATION_FAILED
    assert "content root" in answer["error"]["message"]
    assert not (tmp_path / "b.zip").exists()
    victim.unlink()
    code, answer, _ = run("audit", "export", "--home", net, "--out", tmp_path / "b.zip")
    assert code == ExitCode.VERIFICATION_FAILED
    assert "missing without a tombstone" in answer["error"]["message"]


# --------------------------------------------------------------------------------------------------------------------
# What leaves a home


@slow
def test_a_key_leaves_only_where_its_reading_was_announced_or_it_is_the_exporters_own(
    original: Path, whole: Path
) -> None:
    _, about = verify_bundle(whole, None)
    assert about is not None
    history = history_of(original / "auditor")
    one = next(iter(history.rounds.values()))
    study = history.studies[one.opened.study]
    assert bundle.left_out(about, history, one, 0, BlobKind.UPDATE, 30) is None
    announced, study.access = study.access, []
    assert "announced" in str(bundle.left_out(about, history, one, 0, BlobKind.UPDATE, 30))
    mine = bundle.About(0, "member", 2, "", "", about.head, None, "everything", ())
    assert bundle.left_out(mine, history, one, 2, BlobKind.UPDATE, 30) is None
    assert bundle.left_out(mine, history, one, 1, BlobKind.UPDATE, 30) is not None
    logged, record = announced[0]
    study.access = [(logged, type(record)(record.study, 7, 1, 9, record.ground))]
    assert bundle.left_out(about, history, one, 0, BlobKind.UPDATE, 30) is not None  # another auditor's announcement
    assert bundle.left_out(mine, history, one, 1, BlobKind.UPDATE, 30) is None


def history_of(home: Path) -> History:
    store, codec, network = HomeReader(home, None), Codec.load(), read_network(home / "network.json")
    history = History()
    for evidence, _, _ in store.evidence():
        history.apply_all(logged_of(verify_block(evidence), codec, network.contracts))
    store.close()
    return history


@slow
def test_nothing_of_the_vault_and_no_secret_of_the_keystore_is_in_a_bundle(purged: Path, tmp_path: Path) -> None:
    for name in ("member-1", "member-2"):
        made(purged, name, tmp_path / "b.zip")
        data = (tmp_path / "b.zip").read_bytes()
        home = open_home(purged / name)
        ring = keystore.load(home, password(purged, name))
        secrets = [ring.ledger.to_bytes(), ring.sealing.to_bytes(), ring.peer.to_bytes(), keystore.at_rest_key(ring)]
        vault = Vault.open(home.vault_path, keystore.at_rest_key(ring))
        for leaf in vault.holdings():
            card = vault.card(leaf.consent_id)
            secrets += [value for value in vars_of(card) if isinstance(value, bytes) and len(value) == 65]
        secrets.append(password(purged, name).encode())
        for secret in secrets:
            assert secret not in data
            assert secret.hex().encode() not in data
        for member in range(MEMBERS):
            for patient in range(PATIENTS):
                assert f"MRN-{member}-{patient:02}".encode() not in data
        assert b"MRN-" not in data  # four bytes: three of them come up by chance in one of twenty such files
        kinds = {json.loads(line)["kind"] for line in parts(tmp_path / "b.zip")[bundle.NOTICES].splitlines()}
        assert not kinds & {"WithdrawalNotice", "ErasureNotice"}


def vars_of(value: object) -> list[object]:
    return [getattr(value, name) for name in getattr(value, "__slots__", ())]


# --------------------------------------------------------------------------------------------------------------------
# Nothing can change


@slow
def test_every_flipped_bit_is_found(whole: Path, tmp_path: Path) -> None:
    """At the edges of every member and of the directory, all of the first and last bytes, and at random places."""
    source = bytearray(whole.read_bytes())
    drawn = random.Random(2)
    with zipfile.ZipFile(whole) as archive:
        edges = [one.header_offset for one in archive.infolist()]
        page_at = archive.getinfo(bundle.PAGE).header_offset
    places = {edge + i for edge in edges for i in range(45)}
    places |= {*range(4200), *range(len(source) - 2500, len(source)), *drawn.sample(range(len(source)), 600)}
    places |= {page_at + 60 + i for i in range(0, 9000, 37)}
    path = tmp_path / "b.zip"
    for place in sorted(one for one in places if one < len(source)):
        bit = 1 << drawn.randrange(8)
        source[place] ^= bit
        path.write_bytes(source)
        source[place] ^= bit
        report = checked(path)
        assert not report.ok, place
        assert report.first_failure is not None


@slow
@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:-1],
        lambda data: data[: len(data) // 2],
        lambda data: data[:100],
        lambda data: data + b"\0",
        lambda data: data + data,
        lambda data: b"\0" + data,
        lambda data: data[:-2] + b"\5\0hello",
        lambda data: b"PK\5\6" + bytes(18),
        lambda data: b"\x1f\x8b" + bytes(5000),
    ],
    ids="empty cut half head longer twice shifted comment none gzip".split(),
)
def test_a_file_of_another_length_is_found(whole: Path, tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "b.zip"
    path.write_bytes(damage(whole.read_bytes()))
    code, answer, words = run("audit", "verify", "--bundle", path)
    assert code == ExitCode.VERIFICATION_FAILED
    assert answer["data"]["first_failure"]["where"]
    assert "audit failed" in words


@slow
def test_the_same_content_in_another_zip_encoding_is_refused(whole: Path, tmp_path: Path) -> None:
    members = parts(whole)
    for how in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        path = tmp_path / f"{how}.zip"
        with zipfile.ZipFile(path, "w", how) as archive:
            for name, data in members.items():
                archive.writestr(name, data)
        assert not checked(path).ok


@slow
def test_whoever_rewrites_page_and_manifest_needs_the_exporters_key(
    original: Path, whole: Path, tmp_path: Path
) -> None:
    members = parts(whole)
    members[bundle.PAGE] = members[bundle.PAGE].replace(b"nobody", b"anyone", 1)
    report = checked(forged(members, tmp_path / "kept.zip"), original)
    assert report.first_failure is not None
    assert (report.first_failure.what, report.first_failure.where) == ("signature", bundle.SIGNATURE)
    # without any signature, and even with the exporter's own, the page must be what the data say
    report = checked(forged(members, tmp_path / "none.zip", signature=UNSIGNED), original)
    assert statuses(report)["exporter"] == "skipped"
    assert report.first_failure is not None
    assert report.first_failure.where.startswith(bundle.PAGE)
    path = forged(members, tmp_path / "own.zip", signature=UNSIGNED)
    home = open_home(original / "auditor")
    statement = Bundle("auditor", 0, sha256(parts(path)[bundle.MANIFEST]))
    domains = read_network(home.network_path).contracts.domains
    signature = sign(statement, domains.of(statement), keystore.load(home, password(original, "auditor")).ledger)
    text = rfc8785.dumps({"schema": bundle.SIGNATURE_SCHEMA, "signature": signature.hex()}).decode() + "\n"
    report = checked(forged(members, tmp_path / "signed.zip", signature=text), original)
    assert statuses(report)["exporter"] == "passed"
    assert statuses(report)["page"] == "failed"


@slow
@pytest.mark.parametrize(
    "check, change",
    [
        ("exporter", lambda tree: tree["home"].update(index=1, role="member")),
        ("exporter", lambda tree: tree["home"].update(name="somebody")),
        ("exporter", lambda tree: tree["head"].update(number=3)),
        ("exporter", lambda tree: tree.update(study="ab" * 32)),
        ("exporter", lambda tree: tree["home"].update(index=9)),
        ("page", lambda tree: tree.update(exported_at=1)),
        ("bundle", lambda tree: tree.update(network="ab" * 32)),
        ("bundle", lambda tree: tree.update(holds="some")),
        ("bundle", lambda tree: tree.update(confidential="public")),
        ("bundle", lambda tree: tree.update(more=1)),
        ("bundle", lambda tree: tree["members"].reverse()),
        ("bundle", lambda tree: tree["members"].pop()),
        ("bundle", lambda tree: tree["members"].append(tree["members"][-1])),
        ("bundle", lambda tree: tree["members"][0].update(sha256="ab" * 32)),
        ("bundle", lambda tree: tree["members"][0].update(size=1 << 40)),
        ("bundle", lambda tree: tree["members"][0].update(size=-1)),
        ("bundle", lambda tree: tree["members"][0].update(size=1.5)),
    ],
)
def test_an_unsigned_manifest_that_says_something_else_is_found(
    whole: Path, tmp_path: Path, check: str, change: Callable[[dict[str, Any]], object]
) -> None:
    report = checked(forged(parts(whole), tmp_path / "b.zip", change, UNSIGNED))
    assert next(one.name for one in report.checks if one.status == "failed") == check


@slow
def test_a_dropped_blob_is_never_a_pass(whole: Path, tmp_path: Path) -> None:
    members = parts(whole)
    del members[next(name for name in members if name.startswith("contents/cipher/"))]
    report = checked(forged(members, tmp_path / "b.zip", signature=UNSIGNED))
    assert not report.complete
    assert report.rounds_verified < ROUNDS


@slow
def test_a_members_bundle_must_hold_what_the_member_voted_on(original: Path, tmp_path: Path) -> None:
    made(original, "member-1", tmp_path / "a.zip")
    members = parts(tmp_path / "a.zip")
    del members[next(name for name in members if name.startswith("contents/cipher/"))]
    report = checked(forged(members, tmp_path / "b.zip", signature=UNSIGNED))
    assert statuses(report)["validity"] == "failed"


# --------------------------------------------------------------------------------------------------------------------
# What an exporter leaves out, and signs for


@pytest.fixture(scope="session")
def closed(purged: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The erased network after its certificate was delivered and the erasure closed."""
    net = Path(shutil.copytree(purged, tmp_path_factory.mktemp("erasure-closed") / "network"))

    async def deliver(url: str) -> None:
        async with running_nodes(net, url) as nodes:
            with as_the_officer(net, nodes[1], 1, "erase.receipt"):
                await receipt(nodes[1], "MRN-1-03")
            await until(lambda: all(e.closed for node in nodes for e in node.history.erasures.values()))

    with running_chain(net) as url:
        trio.run(deliver, url)
    return net


def thinned(net: Path, name: str, folder: Path, leave_out: Callable[[dict[str, bytes]], object]) -> Report:
    """The report on a home's bundle without something, its page and manifest made again and signed by the exporter."""
    made(net, name, folder / "whole.zip")
    before = checked(folder / "whole.zip", net)
    assert before.ok, before.first_failure
    assert before.complete, [one.to_json() for one in before.checks if one.status != "passed"]
    members = parts(folder / "whole.zip")
    leave_out(members)
    remade(net, name, members)
    unsigned = forged(members, folder / "unsigned.zip", signature=UNSIGNED)
    home = open_home(net / name)
    statement = Bundle(home.role, home.index, sha256(parts(unsigned)[bundle.MANIFEST]))
    domains = read_network(home.network_path).contracts.domains
    signature = sign(statement, domains.of(statement), keystore.load(home, password(net, name)).ledger)
    report = checked(forged(members, folder / "thin.zip", signature=bundle.write_signature(signature).decode()), net)
    assert {statuses(report)[check] for check in ("bundle", "exporter", "page")} == {"passed"}
    return report


def remade(net: Path, name: str, members: dict[str, bytes]) -> None:
    """The page of these members."""
    about, _ = bundle.read_manifest(members[bundle.MANIFEST])
    history = history_of(net / name)
    specs = {
        study: parse_canonical(members[f"contents/spec/{found.created.terms.spec_hash.hex()}"])
        for study, found in history.studies.items()
    }
    certificates = sum(one.startswith("certificates/") for one in members)
    members[bundle.PAGE] = page(about, read_network(net / "network.json"), history, specs, certificates)


def without(name: str, drop: Callable[[dict[str, Any]], bool]) -> Callable[[dict[str, bytes]], object]:
    """Leaves out the lines of a member that `drop` says."""

    def leave_out(members: dict[str, bytes]) -> None:
        lines = members[name].splitlines(keepends=True)
        kept = [line for line in lines if not drop(json.loads(line))]
        assert len(kept) < len(lines)
        members[name] = b"".join(kept)

    return leave_out


def incomplete(report: Report, check: str, why: str) -> None:
    """Nothing is wrong, this check alone was not carried out, and it says why."""
    assert report.ok, report.first_failure
    assert not report.complete
    assert {one.name: one.why for one in report.checks if one.status == "skipped"} == {check: why}


ALL_PURGES = ", ".join(f"of member {member}" for member in range(MEMBERS))


def batch_name(net: Path) -> str:
    (batch,) = history_of(net / "auditor").erasures
    return f"erasure {batch.hex()[:16]}"


@slow
@pytest.mark.parametrize("name", ["member-1", "auditor"])
@pytest.mark.parametrize(
    "drop, why",
    [
        (
            lambda one: one["kind"] == "PurgeNotice",
            f"3 of 3 purge statements on the chain are not here ({ALL_PURGES})",
        ),
        (
            lambda one: (one["kind"], one["member"], one["turn"]) == ("PurgeNotice", 1, "1"),
            "1 of 3 purge statements on the chain are not here (of member 1)",
        ),
        (
            lambda one: one["kind"] == "PlanNotice" and one["member"] != 1,
            "1 of the 2 votes that its plan took are here",
        ),
        (
            lambda one: one["kind"] == "VerdictNotice",
            "2 of 2 verdicts on the chain are not here (of member 0, of member 2)",
        ),
    ],
    ids="purges purge plans verdicts".split(),
)
def test_statements_about_an_erasure_that_are_left_out_are_counted(
    purged: Path, tmp_path: Path, name: str, drop: Callable[[dict[str, Any]], bool], why: str
) -> None:
    report = thinned(purged, name, tmp_path, without(bundle.NOTICES, drop))
    incomplete(report, "erasure-statements", f"{batch_name(purged)}: {why}")


@slow
def test_a_members_own_tombstones_are_the_list_that_it_attested(purged: Path, tmp_path: Path) -> None:
    place = batch_name(purged)

    def own(number: int) -> Callable[[dict[str, Any]], bool]:
        seen: list[str] = []

        def drop(one: dict[str, Any]) -> bool:
            if one["kind"] == "TombstoneNotice" and one["member"] == 0:
                seen.append(one["subject"])
            return bool(seen) and one["subject"] == seen[-1] and len(seen) <= number

        return drop

    for number, left in ((1, 9), (99, 0)):
        report = thinned(purged, "member-1", tmp_path, without(bundle.NOTICES, own(number)))
        found = {one.name: one.why for one in report.checks if one.status != "passed"}
        assert found["erasure-statements"] == (
            f"{place}: the {left} tombstones of this home that are here are not the list that it attested as purged"
        )
        assert not report.complete


@slow
def test_a_delivered_certificate_that_is_left_out_is_named(closed: Path, tmp_path: Path) -> None:
    def leave_out(members: dict[str, bytes]) -> None:
        del members[next(one for one in members if one.startswith("certificates/"))]

    why = f"1 certificates that the exporter stated as delivered are not here ({batch_name(closed)})"
    incomplete(thinned(closed, "member-2", tmp_path, leave_out), "certificates", why)


@slow
@pytest.mark.parametrize("name", ["member-2", "auditor"])
@pytest.mark.parametrize("number", [1, 4])
def test_sets_that_an_erasure_left_and_a_bundle_does_not_are_counted(
    purged: Path, tmp_path: Path, name: str, number: int
) -> None:
    keys = remaining(purged)
    assert len(keys) == 4, "two rounds, of each the sets of two hospitals that erased nothing"
    gone = keys[:number]

    def leave_out(members: dict[str, bytes]) -> None:
        for _, _, root in gone:
            del members[f"contents/cipher/{root}"]
        without(bundle.KEYS, lambda one: (one["round"], one["member"]) in {(r, m) for r, m, _ in gone})(members)

    report = thinned(purged, name, tmp_path, leave_out)
    (said,) = [one for one in report.checks if one.status != "passed"]
    assert report.ok
    assert said.name == "consent"
    assert "it is not here, and no tombstone says why" in said.why
    assert said.why.endswith(f"and {number - 1} more" if number > 1 else "says why")


def remaining(net: Path) -> list[tuple[str, int, str]]:
    """(round, member, root) of the sets of purged rounds whose hospital erased nothing."""
    store, history = HomeReader(net / "auditor", None), history_of(net / "auditor")
    covered = covered_by_purge(history)
    commits = [one.notice for one in store.kept_notices("CommitNotice")]
    found = [
        (one.round_id.hex(), one.member, one.set.cipher_root.hex())
        for one in commits
        if isinstance(one, CommitNotice) and one.round_id in covered and store.has(one.set.cipher_root)
    ]
    store.close()
    return found


@slow
@pytest.mark.parametrize("of_a_purged_round", [True, False])
@pytest.mark.parametrize("key_stays", [True, False])
def test_a_key_without_its_ciphertext_or_one_without_the_other_is_a_fault(
    purged: Path, tmp_path: Path, of_a_purged_round: bool, key_stays: bool
) -> None:
    here = remaining(purged)

    def leave_out(members: dict[str, bytes]) -> None:
        round_id, member, root = here[0]
        if not of_a_purged_round:
            others = {one for one, _, _ in here}
            last = [json.loads(line) for line in members[bundle.KEYS].splitlines()]
            found = next(one for one in last if one["round"] not in others and one["kind"] == int(BlobKind.SET))
            round_id, member = found["round"], found["member"]
            root = next(
                one.notice.set.cipher_root.hex()
                for one in HomeReader(purged / "auditor", None).kept_notices("CommitNotice")
                if isinstance(one.notice, CommitNotice)
                and (one.notice.round_id.hex(), one.notice.member) == (round_id, member)
            )
        if key_stays:
            del members[f"contents/cipher/{root}"]
        else:
            place = (round_id, member, int(BlobKind.SET))
            without(bundle.KEYS, lambda one: (one["round"], one["member"], one["kind"]) == place)(members)

    report = thinned(purged, "auditor", tmp_path, leave_out)
    failure = next(one.failure for one in report.checks if one.name == "keys")
    assert failure is not None
    assert failure.what == ("content key" if key_stays else "ciphertext")


@slow
def test_a_wrong_key_of_a_set_that_an_erasure_left_is_found(purged: Path, tmp_path: Path) -> None:
    round_id, member, _ = remaining(purged)[0]

    def change(members: dict[str, bytes]) -> None:
        lines = [json.loads(line) for line in members[bundle.KEYS].splitlines()]
        for one in lines:
            if (one["round"], one["member"], one["kind"]) == (round_id, member, int(BlobKind.SET)):
                one["key"] = "00" * 32
        members[bundle.KEYS] = b"".join(rfc8785.dumps(one) + b"\n" for one in lines)

    report = thinned(purged, "auditor", tmp_path, change)
    failure = next(one.failure for one in report.checks if one.name == "keys")
    assert failure is not None
    assert (failure.what, report.ok) == ("content key", False)


@slow
def test_what_is_said_about_other_studies_erasures_is_not_asked_of_a_bundle_of_one(
    purged: Path, tmp_path: Path
) -> None:
    history = history_of(purged / "auditor")
    (study,), (batch,) = history.studies, history.erasures
    other = Digest(sha256(study))
    made(purged, "auditor", tmp_path / "b.zip")
    members = parts(tmp_path / "b.zip")
    without(bundle.NOTICES, lambda one: one["subject"] == batch.hex())(members)
    for about, why in ((study, True), (other, False)):
        path = forged(members, tmp_path / "c.zip", lambda tree, s=about: tree.update(study=s.hex()), UNSIGNED)
        found = next(one for one in checked(path).checks if one.name == "erasure-statements")
        assert (found.status == "skipped") is why


# --------------------------------------------------------------------------------------------------------------------
# Hostile files


@slow
@pytest.mark.parametrize(
    "name",
    [
        "../escape",
        "/etc/passwd",
        "contents/cipher/../../escape",
        "contents\\model\\x",
        "C:\\x",
        "index.html/",
        "INDEX.HTML",
        "contents/cipher/" + "A" * 64,
        "contents/other/" + "a" * 64,
        "x" * 60_000,
        "",
    ],
)
def test_a_name_that_no_bundle_has_is_refused_and_nothing_is_written(
    whole: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setenv("TMPDIR", str(work))
    members = {**parts(whole), name: b"hello"}
    report = checked(forged(members, tmp_path / "b.zip", signature=UNSIGNED))
    assert statuses(report)["bundle"] == "failed"
    assert list(work.iterdir()) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.zip", "work"]


@slow
def test_a_duplicate_member_is_refused(whole: Path, tmp_path: Path) -> None:
    data = whole.read_bytes()
    with zipfile.ZipFile(whole) as archive:
        first = archive.getinfo(bundle.BLOCKS)
    start, end = first.header_offset, first.header_offset + 30 + len(first.filename) + first.file_size
    (tmp_path / "b.zip").write_bytes(data[:end] + data[start:end] + data[end:])
    assert statuses(checked(tmp_path / "b.zip"))["bundle"] == "failed"


def hostile_zip(name: str, size: int, data: bytes, method: int = 0, attributes: int = 0) -> bytes:
    """A zip of one member whose headers say what they are told to."""
    encoded = name.encode()
    local = struct.pack("<4s5H3L2H", b"PK\3\4", 20, 0, method, 0, 0x21, 0, len(data), size, len(encoded), 0) + encoded
    central = struct.pack(
        "<4s6H3L5H2L", b"PK\1\2", 3 << 8, 20, 0, method, 0, 0x21, 0, len(data), size, len(encoded), 0, 0, 0, 0,
        attributes, 0,
    )  # fmt: skip
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1, 1, len(central) + len(encoded), len(local) + len(data), 0)
    return local + data + central + encoded + end


@pytest.mark.parametrize(
    "data",
    [
        hostile_zip(bundle.MANIFEST, 0xFFFFFFFF, b"x"),
        hostile_zip(bundle.MANIFEST, 0x7FFFFFFF, b"x" * 100),
        hostile_zip(bundle.MANIFEST, bundle.MAX_MANIFEST_BYTES + 1, b"x" * 100),
        hostile_zip(bundle.MANIFEST, 1 << 30, b"\x78\x9c" + b"\0" * 1000, method=8),
        hostile_zip(bundle.MANIFEST, 4, b"/etc", attributes=0o120777 << 16),
        hostile_zip(bundle.MANIFEST, 200_000, b"[" * 200_000),
        hostile_zip(bundle.MANIFEST, 2, b"{}"),
        hostile_zip("else", 2, b"{}"),
        hostile_zip("\N{SNOWMAN}" * 30, 2, b"{}"),
    ],
    ids="4GiB 2GiB 16MiB deflated symlink deep empty other unicode".split(),
)
def test_a_hostile_archive_is_an_error_in_words(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "b.zip"
    path.write_bytes(data)
    code, answer, _ = run("audit", "verify", "--bundle", path)
    assert code == ExitCode.VERIFICATION_FAILED
    assert answer["data"]["first_failure"]["expected"]
    assert [one["status"] for one in answer["data"]["checks"]][1:] == ["skipped"] * len(BUNDLE_CHECKS)


def test_a_deep_manifest_is_refused(tmp_path: Path) -> None:
    path = packed({bundle.MANIFEST: b'{"schema":' + b"[" * 100_000 + b"\n", bundle.SIGNATURE: b"{}\n"}, tmp_path / "b")
    report = checked(path)
    assert "deeper" in str(report.first_failure)


def test_a_sparse_file_larger_than_any_bundle_is_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "b.zip"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    assert "size" in str(checked(path).first_failure)


@slow
@pytest.mark.parametrize(
    "line",
    [
        b"[" * 100_000 + b"\n",
        b"{" * 1000 + b"\n",
        b'{"receipts":[[]]}\n',
        b"not json\n",
        b"{}\n",
        b"\n",
        b'{"no":"end"}',
        b"\xff\xfe\n",
        b'{"key":"' + b"ab" * 32 + b'","kind":0,"member":0,"round":"' + b"ab" * 32 + b'","more":0}\n',
        b'{"key":"ab","kind":0,"member":0,"round":"' + b"ab" * 32 + b'"}\n',
        b'{"key":"' + b"ab" * 32 + b'","kind":99999999999999999999,"member":0,"round":"' + b"ab" * 32 + b'"}\n',
    ],
)
@pytest.mark.parametrize("name", [bundle.KEYS, bundle.BLOCKS, bundle.NOTICES])
def test_a_line_that_is_none_is_named(whole: Path, tmp_path: Path, name: str, line: bytes) -> None:
    members = parts(whole)
    number = len(members[name].splitlines()) + 1
    members[name] += line
    report = checked(forged(members, tmp_path / "b.zip", signature=UNSIGNED))
    assert report.first_failure is not None
    assert report.first_failure.where == f"{name}, line {number}"


@slow
def test_a_bundle_has_the_hash_of_every_transaction_and_none_twice(whole: Path, tmp_path: Path) -> None:
    members = parts(whole)
    blocks = [json.loads(line) for line in members[bundle.BLOCKS].splitlines()]
    assert all(len(one["transactions"]) == len(one["receipts"]) for one in blocks)
    hashes = [each for one in blocks for each in one["transactions"]]
    assert len(set(hashes)) == len(hashes) > 0
    last = next(at for at in reversed(range(len(blocks))) if blocks[at]["transactions"])
    own = blocks[last]["transactions"]
    for at, wrong in enumerate(([], own * 2, [*own, "ab" * 32], [hashes[0]], ["ab" * 31], [7], "ab" * 32, None)):
        lines = [{**one, "transactions": wrong} if number == last else one for number, one in enumerate(blocks)]
        members[bundle.BLOCKS] = b"".join(rfc8785.dumps(one) + b"\n" for one in lines)
        report = checked(forged(members, tmp_path / f"{at}.zip", signature=UNSIGNED))
        assert not report.ok, wrong
        assert "chain" in report.checks[1].name
        assert report.first_failure is not None
        named = f"block {blocks[last]['number']}" if at < 4 else f"line {last + 1}"
        assert named in report.first_failure.where, (wrong, report.first_failure)


@slow
def test_a_header_nested_deeper_than_any_is_a_failed_check(whole: Path, tmp_path: Path) -> None:
    members = parts(whole)
    lines = members[bundle.BLOCKS].splitlines(keepends=True)
    nested = b"\xc0"
    for _ in range(3000):
        length = len(nested).to_bytes(2, "big")
        nested = (bytes([0xC0 + len(nested)]) if len(nested) < 56 else b"\xf9" + length) + nested
    lines[0] = rfc8785.dumps({**json.loads(lines[0]), "header": nested.hex()}) + b"\n"
    members[bundle.BLOCKS] = b"".join(lines)
    assert statuses(checked(forged(members, tmp_path / "b.zip", signature=UNSIGNED)))["chain"] == "failed"


@slow
@pytest.mark.parametrize("name", [bundle.KEYS, bundle.BLOCKS, bundle.NOTICES])
def test_a_line_said_twice_is_refused(whole: Path, tmp_path: Path, name: str) -> None:
    members = parts(whole)
    members[name] += members[name].splitlines(keepends=True)[0]
    assert not checked(forged(members, tmp_path / "b.zip", signature=UNSIGNED)).ok


@slow
@pytest.mark.parametrize("name", [bundle.NETWORK, "contents/spec/"])
@pytest.mark.parametrize(
    "data", [b"", b"[" * 50_000, b"[]", b"{}", b"\xff", b'{"schema":"koinon.network/1","chain":[]}']
)
def test_another_network_or_specification_is_a_failed_check(
    whole: Path, tmp_path: Path, name: str, data: bytes
) -> None:
    members = parts(whole)
    members[next(one for one in members if one.startswith(name))] = data
    report = checked(forged(members, tmp_path / "b.zip", signature=UNSIGNED))
    assert not report.ok
    assert report.first_failure is not None


@slow
def test_one_flipped_byte_in_a_content_under_a_manifest_that_fits_is_found(whole: Path, tmp_path: Path) -> None:
    for kind in ("cipher", "model", "spec"):
        members = parts(whole)
        name = next(one for one in members if one.startswith(f"contents/{kind}/"))
        members[name] = members[name][:-1] + bytes([members[name][-1] ^ 1])
        report = checked(forged(members, tmp_path / "b.zip", signature=UNSIGNED))
        assert statuses(report)["contents"] == "failed"
        assert report.first_failure is not None
        assert name in str([one.failure for one in report.checks])


@slow
def test_a_wrong_content_key_is_found(whole: Path, tmp_path: Path) -> None:
    members = parts(whole)
    lines = [json.loads(line) for line in members[bundle.KEYS].splitlines()]
    lines[0]["key"] = "00" * 32
    members[bundle.KEYS] = b"".join(rfc8785.dumps(line) + b"\n" for line in lines)
    assert statuses(checked(forged(members, tmp_path / "b.zip", signature=UNSIGNED)))["validity"] == "failed"


# --------------------------------------------------------------------------------------------------------------------
# The page


class Loads(HTMLParser):
    """Tags and attributes by which a browser would run or load anything."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("script", "link", "img", "iframe", "object", "embed", "form", "base", "svg", "a", "audio", "video"):
            self.found.append(tag)
        self.found += [name for name, _ in attrs if name.startswith("on") or name in ("src", "href", "style", "action")]

    def handle_data(self, data: str) -> None:
        self.text += data


def shown(path: Path) -> str:
    parser = Loads()
    parser.feed(parts(path)[bundle.PAGE].decode())
    assert parser.found == []
    return parser.text


@slow
def test_the_page_tells_a_person_and_loads_nothing(purged: Path, tmp_path: Path) -> None:
    made(purged, "auditor", tmp_path / "b.zip")
    text = shown(tmp_path / "b.zip")
    source = parts(tmp_path / "b.zip")[bundle.PAGE].decode()
    assert source.index("CONFIDENTIAL") < source.index("<h2>")
    assert not re.search(r"https?:|url\(|@import|javascript:", source)
    history = history_of(purged / "auditor")
    for one in history.rounds.values():
        assert one.final is not None
        assert one.final.result.model_root.hex() in text
    assert "other members repeated the addition and got the same bits" in text
    assert "Anything beyond the hospital's signature." in text
    assert text.count("(updates purged by an erasure)") == ROUNDS
    assert NOTICE in text
    for consent in history.withdrawals:
        assert consent.hex() not in source
    for consent in history.grants:
        assert consent.hex() not in source
    assert "MRN" not in source
    assert "NRES, no restriction (DUO:0000004)" in text, "what a form allows is in words, not a mask"


@slow
def test_a_consent_is_shown_only_when_it_is_named(purged: Path, tmp_path: Path) -> None:
    withdrawn = next(iter(history_of(purged / "auditor").withdrawals))
    code, _, _ = run("audit", "export", "--home", purged, "--out", tmp_path / "b.zip", "--consent", withdrawn.hex())
    assert code == 0
    assert withdrawn.hex() in shown(tmp_path / "b.zip")
    assert checked(tmp_path / "b.zip", purged).ok


@slow
def test_every_value_on_the_page_is_escaped(original: Path, whole: Path) -> None:
    _, about = verify_bundle(whole, None)
    assert about is not None
    history = history_of(original / "auditor")
    evil = "<script>alert(1)</script>\"'&\N{RIGHT-TO-LEFT OVERRIDE}"
    for index, member in list(history.registry.members.items()):
        object.__setattr__(member, "name", evil)
        assert history.registry.members[index].name == evil
    made_page = page(about, read_network(original / "network.json"), history, {}, 0).decode()
    assert "<script" not in made_page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;&quot;&#x27;&amp;" in made_page
    assert "\N{RIGHT-TO-LEFT OVERRIDE}" not in made_page


def test_the_promises_on_the_page_are_those_of_the_threat_model() -> None:
    text = (ROOT / "node" / "THREATS.md").read_text()
    rows = [line for line in text.splitlines() if re.match(r"\| P\d \|", line)]
    said = [tuple(cell.strip().replace("*", "").replace("`", "") for cell in row.strip("|").split("|")) for row in rows]
    assert list(PROMISES) == said


# --------------------------------------------------------------------------------------------------------------------
# The command line


@slow
def test_the_command_line_exports_and_verifies(original: Path, tmp_path: Path) -> None:
    path = tmp_path / "b.zip"
    code, answer, _ = run("audit", "export", "--home", original, "--out", path)
    assert code == 0
    assert answer["data"]["signed"] is True
    assert answer["data"]["bytes"] == path.stat().st_size
    code, answer, _ = run("audit", "verify", "--bundle", path, "--network", original / "network.json")
    assert code == 0
    found = answer["data"]
    assert list(found) == [
        "ok", "complete", "checks", "rounds_verified", "rounds_purged", "first_failure", "bundle",
    ]  # fmt: skip
    assert (found["ok"], found["complete"], found["rounds_verified"]) == (True, True, ROUNDS)
    assert found["bundle"]["network"] == "checked"
    code, answer, _ = run("audit", "verify", "--bundle", path)
    assert code == 0
    assert answer["data"]["bundle"]["network"] == "unchecked"
    assert answer["data"]["bundle"]["fingerprint"] == read_network(original / "network.json").fingerprint


@slow
def test_a_bundle_of_another_network_ends_with_three(original: Path, whole: Path, tmp_path: Path) -> None:
    path = tmp_path / "network.json"

    def verified(change: Callable[[dict[str, Any]], object]) -> tuple[int, dict[str, Any]]:
        raw = json.loads((original / "network.json").read_text())
        change(raw)
        path.write_text(json.dumps(raw))
        code, answer, _ = run("audit", "verify", "--bundle", whole, "--network", path)
        return code, answer["data"]

    for change in (
        lambda raw: raw["founders"].reverse(),
        lambda raw: raw["chain"].update(genesis_hash="ab" * 32),
        lambda raw: raw.update(name="another"),
        lambda raw: raw.update(synthetic=not raw["synthetic"]),
        lambda raw: raw["auditors"][0].update(sealing_key="ab" * 32),
    ):
        code, data = verified(change)
        assert code == ExitCode.VERIFICATION_FAILED
        assert data["first_failure"]["what"] == "network"
    # where a chain and a peer are reached is no part of what a network is
    assert verified(lambda raw: raw["chain"].update(url="http://elsewhere"))[0] == 0
    assert verified(lambda raw: raw["auditors"][0].update(address="/ip4/10.0.0.1/tcp/1"))[0] == 0


def test_usage_faults_end_with_two(tmp_path: Path) -> None:
    assert run("audit", "verify")[0] == ExitCode.BAD_INPUT
    assert run("audit", "verify", "--bundle", tmp_path / "nothing.zip")[0] == ExitCode.BAD_INPUT
    assert run("audit", "verify", "--home", tmp_path, "--network", tmp_path / "n.json")[0] == ExitCode.BAD_INPUT
    both = ("--without-sets", "--headers-only")
    assert run("audit", "export", "--home", tmp_path, "--out", tmp_path / "b", *both)[0] == ExitCode.BAD_INPUT


@slow
def test_one_study_is_exported_alone(original: Path, tmp_path: Path) -> None:
    study = next(iter(history_of(original / "auditor").studies))
    made(original, "auditor", tmp_path / "b.zip", choose=lambda history: study)
    report, about = verify_bundle(tmp_path / "b.zip", None)
    assert about is not None
    assert about.study == study
    assert report.ok
    assert report.complete  # there is no other study
    assert run("audit", "export", "--home", original, "--out", tmp_path / "c.zip", "--study", "ffff")[0] == 4


# --------------------------------------------------------------------------------------------------------------------
# The container


def archived(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    writer = Writer(file)
    for name, data in members.items():
        size, crc, _ = crc_and_digest(iter((data,)))
        writer.add(name, size, crc, iter((data,)))
    writer.close()
    return file.getvalue()


def read_back(data: bytes, names: Iterator[str]) -> dict[str, bytes]:
    reader, found = Reader(io.BytesIO(data), "b"), {}
    for name in names:
        content = bytearray()
        reader.member(name, 1 << 20, sink=content.extend)
        found[name] = bytes(content)
    reader.close()
    return found


MEMBERS_IN_IT = {"a": b"", "b": b"hello", "c/d": bytes(range(256)) * 20}


def test_an_archive_comes_back_and_is_a_zip() -> None:
    data = archived(MEMBERS_IN_IT)
    assert read_back(data, iter(MEMBERS_IN_IT)) == MEMBERS_IN_IT
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert {name: archive.read(name) for name in archive.namelist()} == MEMBERS_IN_IT


def test_every_bit_of_an_archive_matters() -> None:
    """All of them, without a manifest: names, sizes, dates, checksums, contents, directory and end."""
    data = bytearray(archived(MEMBERS_IN_IT))
    for place in range(8 * len(data)):
        data[place >> 3] ^= 1 << (place & 7)
        with pytest.raises(Fault):
            read_back(bytes(data), iter(MEMBERS_IN_IT))
        data[place >> 3] ^= 1 << (place & 7)


def test_a_content_that_changed_between_two_readings_is_refused() -> None:
    with pytest.raises(ValueError, match="changed"):
        Writer(io.BytesIO()).add("a", 5, 0, iter((b"hello",)))


@slow
def test_a_bundle_is_read_in_a_bounded_space(whole: Path, tmp_path: Path) -> None:
    """No content stays in memory: the private database holds rows, and contents are read in place."""
    import tracemalloc

    from node.audit.packed import BundleReader

    members = parts(whole)
    big = bytes(96 << 20)
    members["contents/cipher/" + "ab" * 32] = big
    path = forged(members, tmp_path / "b.zip", signature=UNSIGNED)
    del big, members
    tracemalloc.start()
    BundleReader(path).close()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 24 << 20
