"""The certificate: what it says, that nobody can change a byte of it, and whom it names.

The stored files are of a real erasure (tests/vectors/make_certificate_vectors.py). Whole erasures, with their
certificates, are in test_erasing.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import rfc8785

from crypto.digest import Digest, sha256
from crypto.keys import LedgerKey, address_text
from crypto.statements import Attest, Certificate, sign
from node import certificate, proof
from node.errors import VerificationFailed
from node.home import Network, parse_network

VECTORS = Path(__file__).parents[1] / "vectors" / "certificate"
DATA = (VECTORS / "certificate.json").read_bytes()
BARE = (VECTORS / "without-annex.json").read_bytes()
PROOF = (VECTORS / "proof.json").read_bytes()
RAW = json.loads((VECTORS / "network.json").read_bytes())
NETWORK: Network = parse_network(RAW)


def test_it_says_what_was_done_who_checked_it_and_what_it_does_not_show() -> None:
    found = certificate.check(DATA, NETWORK)
    assert found["notice"].startswith("Nobody can prove that a model has forgotten a person;")
    assert found["issuers"] == "checked"
    assert found["hospital"] == {"index": 1, "name": "member-2"}
    assert [one["level"] for one in found["claims"]] == ["L0", "L1", "L2", "L3", "P"]
    for one in found["claims"]:
        assert set(one) == {"level", "sentence", "evidence", "does_not_show"}
        assert one["evidence"]
        assert one["does_not_show"]
    assert "They could not see whether local training was honest." in found["claims"][2]["sentence"]
    assert found["confirmed_by"] == [0, 2, 3]
    assert found["exceptions"]["members"] == []
    assert any("Source files" in one for one in found["exceptions"]["remains"])
    assert {one["state"] for one in found["blocks"]} >= {"requested", "planned", "confirmed"}
    assert found["models"]["before"] != found["models"]["after"]
    assert (found["method"], found["exact"]) == ("rollback", True)
    assert "by the exact unlearning method rollback" in found["claims"][2]["sentence"]
    assert found["claims"][3]["sentence"].startswith(
        "By the signed word of 1 auditor (auditor, seat 0): In every round"
    )
    assert [(one["level"], one["seat"], one["seat_is"]) for one in found["auditors"]] == [(3, 0, "checked")]
    unchecked = certificate.check(DATA, None)
    assert [one["seat_is"] for one in unchecked["auditors"]] == ["unchecked"], "it is in no fingerprint"


def test_one_of_the_version_before_is_still_read_and_not_taken_for_another() -> None:
    data = (VECTORS / "earlier" / "certificate.json").read_bytes()
    network = parse_network(json.loads((VECTORS / "earlier" / "network.json").read_bytes()))
    found = certificate.check(data, network)
    assert "From round 1 of study vectors, member-2" in found["claims"][1]["sentence"]
    assert "on the line of study vectors that serves now" in certificate.check(DATA, NETWORK)["claims"][1]["sentence"]
    assert len(found["exceptions"]["remains"]) == 3
    for one, known, changes in ((data, network, (b"/3", b"/4")), (DATA, NETWORK, (b"/4", b"/3"))):
        names = (b"koinon.certificate" + end for end in changes)
        with pytest.raises(VerificationFailed):
            certificate.check(one.replace(*names), known)


def test_the_annex_opens_the_consent_its_request_its_first_use_and_its_absence_since() -> None:
    annex = certificate.check(DATA, NETWORK)["annex"]
    assert len(annex["consent_id"]) == 64
    assert [one["finding"] for one in annex["first_use"]] == ["present"]
    assert [(one["finding"], one["branch"], one["height"]) for one in annex["since"]] == [("absent", 1, 1)]


def test_without_the_annex_it_holds_too_and_leads_to_no_consent() -> None:
    found = certificate.check(BARE, NETWORK)
    assert found["annex"] is None
    opening = json.loads(DATA)["annex"]["opening"]
    for secret in (opening["consent_id"], opening["leaf_secret"], opening["holder_salt"]):
        assert secret.encode() not in BARE
    for word in (b"patient-1-0", b"doc_salt", b"reason"):
        assert word not in DATA


def test_the_proof_beside_it_says_that_the_new_line_never_used_the_consent() -> None:
    found = proof.check(PROOF, NETWORK)
    assert found["used"] is False
    assert [one["finding"] for one in found["rounds"]] == ["absent"]


def test_without_a_network_file_the_issuers_are_unchecked_and_the_fingerprint_is_shown() -> None:
    found = certificate.check(DATA, None)
    assert found["issuers"] == "unchecked"
    assert found["fingerprint"] == NETWORK.fingerprint


def test_a_file_of_another_network_is_refused() -> None:
    other = json.loads(json.dumps(RAW))
    other["chain"]["chain_id"] += 1
    with pytest.raises(VerificationFailed, match="made on network"):
        certificate.check(DATA, parse_network(other))


def refused(check: Callable[[bytes, Network | None], Any], data: bytes, network: Network | None, place: int) -> bool:
    damaged = bytearray(data)
    damaged[place] ^= 1 << place % 8
    try:
        check(bytes(damaged), network)
    except VerificationFailed:
        return True
    return False


@pytest.mark.parametrize(
    "network, step",
    [
        pytest.param(NETWORK, 23, id="network"),
        pytest.param(None, 23, id="unchecked"),
        pytest.param(NETWORK, 3, id="network, every third byte", marks=pytest.mark.slow),
        pytest.param(None, 11, id="unchecked, every eleventh byte", marks=pytest.mark.slow),
    ],
)
def test_no_byte_of_a_certificate_can_change(network: Network | None, step: int) -> None:
    """Without a network file too: the hospital's own signature covers the network it was made on."""
    assert [at for at in range(0, len(BARE), step) if not refused(certificate.check, BARE, network, at)] == []


@pytest.mark.parametrize("step", [23, pytest.param(3, marks=pytest.mark.slow)])
def test_no_byte_of_an_annex_can_change(step: int) -> None:
    places = range(DATA.index(b'"annex":{'), DATA.index(b'"annex_sha256"'), step)
    assert [at for at in places if not refused(certificate.check, DATA, NETWORK, at)] == []


@pytest.mark.parametrize("step", [11, pytest.param(2, marks=pytest.mark.slow)])
def test_no_byte_of_a_proof_can_change(step: int) -> None:
    assert [at for at in range(0, len(PROOF), step) if not refused(proof.check, PROOF, NETWORK, at)] == []


@pytest.mark.parametrize("cut", [0, 1, 100, len(DATA) // 2, len(DATA) - 2])
def test_a_file_that_was_cut_off_is_refused(cut: int) -> None:
    with pytest.raises(VerificationFailed):
        certificate.check(DATA[:cut], NETWORK)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[" * 200_000,
        DATA + b"\n",
        DATA.rstrip() + b" ",
        DATA.replace(b'{"', b'{ "', 1),
        DATA.replace(b"koinon.certificate/4", b"koinon.certificate/2"),
        json.dumps(json.loads(DATA), indent=1).encode(),
    ],
)
def test_only_the_one_encoding_is_read(data: bytes) -> None:
    with pytest.raises(VerificationFailed):
        certificate.check(data, NETWORK)


# --------------------------------------------------------------------------------------------------------------------
# A hospital that signs a certificate which claims more than others' signatures carry

KEY = LedgerKey.generate()


def forged(change: Callable[[dict[str, Any]], None]) -> bytes:
    """The certificate as a lying hospital would sign it: its own key is put in the place of the founder's."""
    tree = json.loads(BARE)
    own = tree["issuers"]["network"]["founders"][1]
    own["ledger"] = address_text(KEY.address)
    _attest_again(tree)
    change(tree)
    del tree["signature"]
    digest = sha256(rfc8785.dumps(tree))
    statement = Certificate(1, digest)
    tree["signature"] = sign(statement, NETWORK.contracts.domains.of(statement), KEY).hex()
    return rfc8785.dumps(tree)


def _attest_again(tree: dict[str, Any]) -> None:
    """The report is of the forged network then, and an auditor whom no network file names has signed for it."""
    one, given = tree["attestations"][0], tree["issuers"]["network"]
    forged_network = parse_network({**NETWORK.raw, **given, "chain": {**NETWORK.raw["chain"], **given["chain"]}})
    before = one["evidence"]
    one["report"] = one["report"].replace(NETWORK.fingerprint, forged_network.fingerprint)
    one["evidence"] = sha256(one["report"].encode()).hex()
    one["ledger"] = address_text(KEY.address)
    batch = Digest.from_hex(tree["erasure"]["batch"])
    statement = Attest(batch, one["level"], one["seat"], Digest.from_hex(one["evidence"]))
    one["signature"] = sign(statement, NETWORK.contracts.domains.of(statement), KEY).hex()
    tree["claims"] = json.loads(json.dumps(tree["claims"]).replace(before, one["evidence"]))


def without_own_signatures(tree: dict[str, Any]) -> None:
    """The new key signed nothing else: leave out what the real one signed."""
    tree["plan"]["votes"] = [one for one in tree["plan"]["votes"] if one["member"] != 1]
    tree["purges"] = [one for one in tree["purges"] if one["member"] != 1]
    tree["head"]["votes"] = [one for one in tree["head"]["votes"] if one["member"] != 1]
    tree["head"]["closes"] = [one for one in tree["head"]["closes"] if one["member"] != 1]
    tree["exceptions"]["members"] = [{"index": 1, "name": "member-2"}]
    claim = tree["claims"][4]
    claim["sentence"] = claim["sentence"].replace("4 of 4", "3 of 4")
    del claim["evidence"]["inventory of member 1"]


def test_the_forgery_of_these_tests_is_sound_but_for_its_founder() -> None:
    data = forged(without_own_signatures)
    assert certificate.check(data, None)["issuers"] == "unchecked"
    with pytest.raises(VerificationFailed, match="made on network"):
        certificate.check(data, NETWORK)


def _fewer_verdicts(tree: dict[str, Any]) -> None:
    tree["verdicts"] = tree["verdicts"][:1]


def _invented_verdict(tree: dict[str, Any]) -> None:
    tree["verdicts"][0]["member"] = 3 - tree["verdicts"][0]["member"]


def _denied_verdict(tree: dict[str, Any]) -> None:
    tree["verdicts"][0]["confirmed"] = False


def _fewer_votes(tree: dict[str, Any]) -> None:
    tree["plan"]["votes"] = tree["plan"]["votes"][:2]


def _silent_member(tree: dict[str, Any]) -> None:
    tree["purges"] = [one for one in tree["purges"] if one["member"] != 2]


def _more_claimed(tree: dict[str, Any]) -> None:
    tree["claims"][2]["sentence"] = "The model has forgotten you."


def _claim_added(tree: dict[str, Any]) -> None:
    tree["claims"].append({"level": "L4", "sentence": "x", "evidence": {}, "does_not_show": ""})


def _unsigned_level(tree: dict[str, Any]) -> None:
    tree["attestations"] = []


def _other_level(tree: dict[str, Any]) -> None:
    tree["attestations"][0]["level"], tree["attestations"][0]["report"] = 4, None


def _other_report(tree: dict[str, Any]) -> None:
    tree["attestations"][0]["report"] += " "


def _no_report(tree: dict[str, Any]) -> None:
    tree["attestations"][0]["report"] = None


def _renamed_auditor(tree: dict[str, Any]) -> None:
    tree["attestations"][0]["name"] = "the supervisory authority"


def _other_base(tree: dict[str, Any]) -> None:
    tree["models"]["base"] = tree["models"]["after"]


def _other_head(tree: dict[str, Any]) -> None:
    tree["head"]["result"]["model_root"] = tree["models"]["base"]


def _no_head(tree: dict[str, Any]) -> None:
    tree["head"] = None


def _later_due(tree: dict[str, Any]) -> None:
    tree["erasure"]["due_at"] += 86_400


def _softer_notice(tree: dict[str, Any]) -> None:
    tree["notice"] = "Verified unlearning."


def _less_remains(tree: dict[str, Any]) -> None:
    tree["exceptions"]["remains"] = []


def _no_day(tree: dict[str, Any]) -> None:
    tree["dates"]["requested"] = "yesterday"


def _other_method(tree: dict[str, Any]) -> None:
    tree["erasure"]["method"] = "rapid"


def _other_method_planned(tree: dict[str, Any]) -> None:
    tree["erasure"]["method"], tree["plan"]["method"] = "rapid", 3


def _approximate(tree: dict[str, Any]) -> None:
    tree["erasure"]["exact"] = False


def _nobodys_method(tree: dict[str, Any]) -> None:
    tree["erasure"]["method"], tree["erasure"]["exact"], tree["plan"]["method"] = "ascent", False, 7


FORGERIES = {
    "not of the exact method 'rapid'": _other_method,
    "vote for the plan": _other_method_planned,
    "not of the approximate method 'rollback'": _approximate,
    "carry out no erasure by ascent": _nobodys_method,
    "other members confirmed, 2 needed": _fewer_verdicts,
    "verdict, member": _invented_verdict,
    "expected a signature by .*found": _denied_verdict,
    "are no quorum": _fewer_votes,
    "did not attest and are not named": _silent_member,
    "claims are not those": _more_claimed,
    "not those that its evidence supports": _claim_added,
    "that its evidence supports": _unsigned_level,
    "attestation of level 4, auditor's seat 0: expected a signature": _other_level,
    "report is not the one that was signed for": _other_report,
    "report is not the one": _no_report,
    "claims are not those that": _renamed_auditor,
    "not the base model": _other_base,
    "head: votes": _other_head,
    "round that made the model": _no_head,
    "not the hash of its terms": _later_due,
    "notice or scope": _softer_notice,
    "remains is not": _less_remains,
    "no[t]? .*written YYYY-MM-DD": _no_day,
}


@pytest.mark.parametrize("message", FORGERIES)
def test_a_hospital_cannot_claim_more_than_others_signed(message: str) -> None:
    def change(tree: dict[str, Any]) -> None:
        without_own_signatures(tree)
        FORGERIES[message](tree)

    with pytest.raises(VerificationFailed, match=message):
        certificate.check(forged(change), None)
