"""An auditor's attestation: who may make one, who may record it, and what it changes in claims and certificate."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from crypto.digest import Digest
from crypto.keys import KeyRing
from crypto.statements import Certificate, sign
from node import attestation, certificate, document
from node.attestation import Attestation
from node.errors import InputError, NotFound, Refused, VerificationFailed
from node.home import Home
from tests.fakes.network import Net, SharedTrainer, attested, network, receipt, spec

pytestmark = pytest.mark.slow  # whole networks in memory


def badge_of(model: Digest, **changed: Any) -> bytes:
    found = {"level": "L4", "says": "could not tell", "findings": [{"attack": "loss"}], "model": model.hex()}
    return json.dumps(found | changed).encode()


def levels(found: dict[str, Any]) -> list[str]:
    return [one["level"] for one in found["claims"]]


def resigned(net: Net, one: Attestation, key: KeyRing | None = None, **changes: Any) -> bytes:
    """An attestation with fields changed and signed again by the auditor, or by another key."""
    changed = replace(one, **changes)
    ring = net.seatings[-1].ring if key is None else key
    domain = net.network.contracts.domains.of(changed.statement)
    return attestation.write(replace(changed, signature=sign(changed.statement, domain, ring.ledger)))


def agreed(net: Net, paper: bytes, one: Attestation) -> bytes:
    """A certificate with another word of its auditor in it, signed again by the hospital."""
    tree = json.loads(paper)
    place = next(i for i, each in enumerate(tree["attestations"]) if each["level"] == one.level)
    told = {"evidence": one.evidence.hex(), "report": one.report.decode(), "signature": one.signature.hex()}
    tree["attestations"][place] |= told
    statement = Certificate(1, certificate.digest_of(tree))
    domain = net.network.contracts.domains.of(statement)
    tree["signature"] = sign(statement, domain, net.seatings[1].ring.ledger).hex()
    return document.write(tree)


def test_an_auditors_word_becomes_a_claim_and_nobody_elses_does(tmp_path: Path, trainer: SharedTrainer) -> None:
    async def play() -> None:
        async with network(tmp_path, trainer, 4, auditor=True) as net:
            await net.play(spec(rounds=1, sets_ahead=True, evidence=["L2", "L3", "L4"]))
            node, other = net.nodes[1], net.nodes[2]
            erasing = node.erasing
            asked = await erasing.request(node, patient="patient-1-0")
            batch = Digest.from_hex(asked["erasure"])
            auditor = Home(net.seatings[-1].home, "auditor", 0)
            ledger = net.seatings[-1].ring.ledger

            def attest(home: Home, level: str, report: bytes) -> bytes:
                found = node.history.erasures[batch]
                return attestation.attest(home, net.network, node.history, found, level, report, ledger, node.now)

            await net.until(lambda: batch in node.history.erasures)
            with pytest.raises(Refused, match="not confirmed"):
                attest(auditor, "L4", badge_of(Digest(bytes(32))))
            await net.until(lambda: net.certified(batch, 1))
            data = attested(net, batch, 1)
            one = attestation.read(data)
            assert attestation.write(one) == data
            assert levels(erasing.status(batch, node.now)) == ["L0", "L1", "L2", "P"]
            assert erasing.status(batch, node.now)["evidence_missing"] == ["L3", "L4"], "and nothing waits for it"

            # whom nobody believes
            with pytest.raises(Refused, match="only an auditor attests"):
                attest(Home(net.seatings[1].home, "member", 1), "L3", one.report)
            with pytest.raises(Refused, match="hand it in there"):
                await other.erasing.attested(other, data)
            other_integers = one.report.replace(b'"differing":0', b'"differing":1')
            for forged, message in (
                (resigned(net, one, net.seatings[1].ring), "expected a signature by"),
                (resigned(net, one, network="00" * 32), "is of network 000000"),
                (resigned(net, one, report=other_integers), "1 of 1 repeated rounds gave other integers"),
                (resigned(net, one, report=b"{}"), "schema"),
                (attestation.write(replace(one, level=4)), "expected a signature by"),
                (data.replace(b'"seat":0', b'"seat":"0"'), "must be int"),
                (data.replace(b'"L3"', b'"L9"'), "none of L3, L4"),
                (b"[]", "schema"),
            ):
                with pytest.raises(VerificationFailed, match=message):
                    await erasing.attested(node, forged)
            with pytest.raises(NotFound, match="no auditor in seat 7"):
                await erasing.attested(node, resigned(net, one, seat=7))
            with pytest.raises(NotFound, match="no erasure"):
                await erasing.attested(node, resigned(net, one, batch=Digest(bytes(32))))
            with pytest.raises(InputError, match="not JSON"):
                await erasing.attested(node, resigned(net, one, level=4, report=b"{"))
            with pytest.raises(VerificationFailed, match="no attack audit"):
                await erasing.attested(node, resigned(net, one, level=4, report=b"{}"))
            confirmed = node.history.erasures[batch].confirmed
            assert confirmed is not None
            made = confirmed.head_model
            for report, message in (
                (badge_of(made, findings=[]), "of no attack"),
                (badge_of(Digest(b"x" * 32)), "attack on model 787878787878, the erasure made"),
                (b'{"level": "L4", "findings": [1]}', "attack on model None"),
            ):
                with pytest.raises(VerificationFailed, match=message):
                    await erasing.attested(node, resigned(net, one, level=4, report=report))
            assert not node.history.erasures[batch].attested

            # the auditor, twice
            await erasing.attested(node, data)
            await net.until(lambda: all(net.nodes[at].history.erasures[batch].attested for at in range(4)))
            await erasing.attested(node, data)
            assert other.history.erasures[batch].attested == {(3, 0): one.evidence}
            assert levels(other.erasing.status(batch, node.now)) == ["L0", "L1", "L2", "L3", "P"]
            assert other.erasing.status(batch, node.now)["evidence_missing"] == ["L4"]
            with pytest.raises(Refused, match="another report of this level"):
                await erasing.attested(node, resigned(net, one, report=one.report + b"\n"))

            # an attack, whose report stays with whoever made it
            badge = attest(auditor, "L4", badge_of(made))
            await erasing.attested(node, badge)
            await net.until(lambda: len(node.history.erasures[batch].attested) == 2)
            consent = next(iter(node.history.withdrawals))
            paper = document.write(await receipt(node, consent))
            assert b"could not tell" not in paper
            found = certificate.check(paper, net.network)
            assert levels(found) == ["L0", "L1", "L2", "L3", "L4", "P"]
            assert [(one["level"], one["seat_is"]) for one in found["auditors"]] == [(3, "checked"), (4, "checked")]
            assert one.report.decode() in [each["report"] for each in json.loads(paper)["attestations"]]

            # offline, an auditor and a hospital that agree on a report that does not earn its level
            for changed, message in (
                (other_integers, "1 of 1 repeated rounds gave other integers"),
                (one.report.replace(batch.hex().encode(), bytes(32).hex().encode()), "field erasure = '0000"),
            ):
                with pytest.raises(VerificationFailed, match=message):
                    certificate.check(
                        agreed(net, paper, attestation.read(resigned(net, one, report=changed))), net.network
                    )

    trio.run(play)
