"""Make tests/vectors/certificate: the certificate, its annex and the network of one erasure, from a real run.

    .venv/bin/python tests/vectors/make_certificate_vectors.py

Keys, salts and blinds are drawn anew, so every run gives other bytes; what the stored ones say never changes.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import rfc8785
import trio

ROOT = Path(__file__).resolve().parents[2]
VECTORS = ROOT / "tests" / "vectors" / "certificate"


async def run() -> dict[str, bytes]:
    """File name -> contents."""
    from crypto.digest import Digest
    from node import document, proof
    from tests.fakes.network import SharedTrainer, attested, network, receipt, spec

    trainer = SharedTrainer()
    try:
        async with network(Path(tempfile.mkdtemp()), trainer, 4, auditor=True) as net:
            study = await net.play(spec("vectors", rounds=1, sets_ahead=True))
            node = net.nodes[1]
            vault = node.participant.vault
            assert vault is not None
            one = vault.annex(vault.find("patient-1-0")[0].consent_id)
            opening = proof.Opening(one.consent_id, one.holder, one.holder_salt, one.doc_commit, one.leaf_key)
            asked = await node.erasing.request(node, patient="patient-1-0")
            batch = Digest.from_hex(asked["erasure"])
            await net.until(lambda: net.certified(batch, 1) and node.history.finished(study))
            made = proof.make(
                net.network,
                node.history,
                node.participant,
                study=study,
                hospital=1,
                opening=opening,
                rounds=proof.agreed_rounds(node.history, study, 1),
            )
            await node.erasing.attested(node, attested(net, batch, 1))
            await net.until(lambda: bool(node.history.erasures[batch].attested))
            paper = await receipt(node, one.consent_id)
            if len(paper["head"]["votes"]) < 4:
                raise SystemExit("a member's vote came too late; the tests need all four: run this again")
            bare = {key: value for key, value in paper.items() if key != "annex"}
            return {
                "certificate.json": document.write(paper),
                "without-annex.json": document.write(bare),
                "proof.json": document.write(made),
                "network.json": rfc8785.dumps(net.network.raw) + b"\n",
            }
    finally:
        trainer.end()


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    VECTORS.mkdir(parents=True, exist_ok=True)
    for name, data in trio.run(run).items():
        (VECTORS / name).write_bytes(data)
