"""Writes tests/vectors/crypto: run it from the repository root after a format has changed, and read the diff.

One fault a file; the file's name is the fault; `layer` names which check must refuse it (test_vectors.py has the
list), so that a deep error cannot hide behind a shallow one. Hash inputs are fixed; the two formats that draw
randomness (wraps and keystores) are made once and then kept, their faults derived from the kept bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from crypto import blobs, commitments, keys, merkle, sealing, statements
from crypto.digest import CHUNK_BYTES, ZERO, ContentMap, Digest, content_root, hash_words, sha256, tag

ROOT = Path(__file__).parent / "crypto"
Vectors = dict[str, dict[str, Any]]

TAGS = (
    "consent bind doc leaf value map-leaf map-node map anchor-leaf anchor-node key blob update round result trust "
    "study batch request branch lineage link cipher plain model spec"
).split()
CONTRACT = bytes.fromhex("c0ffee00c0ffee00c0ffee00c0ffee00c0ffee00")
CHAIN_ID = 20_260_731
ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141


def fixed(name: str) -> Digest:
    """A 32-byte value that anyone can recompute: sha256 of the name."""
    return sha256(name.encode())


def pattern(length: int) -> bytes:
    """Long plaintexts are not written out: byte i is 7 i mod 251."""
    period = bytes(7 * i % 251 for i in range(251))
    return (period * (length // 251 + 1))[:length]


def hexed(value: Any) -> Any:
    """JSON form: bytes as 0x hex, containers inside out."""
    if isinstance(value, (bytes, bytearray)):
        return "0x" + bytes(value).hex()
    if isinstance(value, dict):
        return {k: hexed(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [hexed(v) for v in value]
    return value


# --- digest -----------------------------------------------------------------------------------------------------------


def digest_vectors() -> Vectors:
    length = CHUNK_BYTES + 5
    data = pattern(length)
    content = ContentMap.of(data)
    base = {"kind": "model", "length": length, "digests": content.digests, "root": content.root("model")}
    flipped = bytearray(data[CHUNK_BYTES:])
    flipped[2] ^= 1
    last = data[CHUNK_BYTES:]
    return {
        "digest/tags": {"desc": "keccak256(utf8('koinon/' + name + '/1'))", "tags": {name: tag(name) for name in TAGS}},
        "digest/words": {
            "desc": "hash_words: a tag, an integer, an address, a word",
            "name": "doc",
            "integer": 258,
            "address": CONTRACT,
            "word": fixed("word"),
            "hash": hash_words("doc", 258, CONTRACT, fixed("word")),
        },
        "digest/valid-empty": {"desc": "no chunk at all", "kind": "spec", "length": 0, "digests": [],
                               "root": content_root("spec", b"")},
        "digest/valid-two-chunks": {"desc": "byte i is 7 i mod 251", **base, "index": 1, "chunk": last},
        "digest/flipped-chunk": {"desc": "one bit of the last chunk", "layer": "root", **base, "index": 1,
                                 "chunk": bytes(flipped)},
        "digest/short-chunk": {"desc": "the last chunk without its last byte", "layer": "encoding", **base, "index": 1,
                               "chunk": last[:-1]},
        "digest/no-such-chunk": {"desc": "index 2 of 2", "layer": "encoding", **base, "index": 2, "chunk": last},
        "digest/missing-digest": {"desc": "one digest for two chunks", "layer": "encoding", **base,
                                  "digests": content.digests[:1], "index": 0, "chunk": last},
        "digest/length-changed": {"desc": "the same digests, one byte shorter", "layer": "root", **base,
                                  "length": length - 1, "index": 1, "chunk": last[:-1]},
        "digest/other-kind": {"desc": "a model's root is no spec's root", "layer": "root", **base, "kind": "spec",
                              "index": 1, "chunk": last},
    }  # fmt: skip


# --- statements -------------------------------------------------------------------------------------------------------


def example_value(statement: str, name: str, solidity: str) -> Any:
    if solidity == "bytes32":
        return fixed(f"{statement}.{name}")
    if solidity == "bytes32[]":
        return tuple(fixed(f"{statement}.{name}.{i}") for i in range(3))
    if solidity == "address":
        return fixed(f"{statement}.{name}")[:20]
    if solidity == "bytes":
        return keys.PeerKey(fixed("peer")).peer_id
    if solidity == "string":
        return "member" if name == "role" else "Ospedale Città · 1"
    if solidity == "bool":
        return True
    return int.from_bytes(fixed(f"{statement}.{name}"), "big") % (1 << int(solidity[4:]))


def example_statement(name: str) -> statements.Statement:
    kind = statements.STATEMENTS[name]
    return kind(**{field: example_value(name, field, solidity) for field, solidity in kind.layout()})


def statement_case(name: str, desc: str, **changes: Any) -> dict[str, Any]:
    statement, key = example_statement(name), keys.LedgerKey(fixed("ledger key"))
    domain = statements.Domain(CHAIN_ID, CONTRACT)
    signature = statements.sign(statement, domain, key)
    r, vs = statements.to_compact(signature)
    case = {
        "desc": desc,
        "statement": name,
        "type": statement.type_string(),
        "chainId": CHAIN_ID,
        "contract": CONTRACT,
        "fields": {field: getattr(statement, field) for field, _ in statement.layout()},
        "domainSeparator": domain.separator,
        "structHash": statements.struct_hash(statement),
        "digest": statements.digest(statement, domain),
        "signer": key.address,
        "signature": signature,
        "r": r,
        "vs": vs,
    }
    return {**case, **changes}


def statement_vectors() -> Vectors:
    vote = statement_case("Vote", "")
    signature = vote["signature"]
    s = int.from_bytes(signature[32:64], "big")
    high = signature[:32] + (ORDER - s).to_bytes(32, "big") + bytes([27 + 28 - signature[64]])
    other = keys.LedgerKey(fixed("another ledger key")).address
    # r = 5 is the x-coordinate of no point of secp256k1: nothing can be recovered
    no_point = (5).to_bytes(32, "big") + signature[32:]
    faults = {
        "wrong-chain": ("signature", {"chainId": CHAIN_ID + 1}),
        "wrong-contract": ("signature", {"contract": CONTRACT[:-1] + b"\x01"}),
        "wrong-round": ("signature", {"fields": {**vote["fields"], "round_id": fixed("another round")}}),
        "wrong-attempt": ("signature", {"fields": {**vote["fields"], "attempt": vote["fields"]["attempt"] ^ 1}}),
        "wrong-signer": ("signature", {"signer": other}),
        "flipped-v": ("signature", {"signature": signature[:64] + bytes([55 - signature[64]])}),
        "r-no-point": ("signature", {"signature": no_point}),
        "high-s": ("encoding", {"signature": high}),
        "truncated-signature": ("encoding", {"signature": signature[:64]}),
        "trailing-signature": ("encoding", {"signature": signature + b"\0"}),
        "bad-v": ("encoding", {"signature": signature[:64] + bytes([signature[64] - 27])}),
        "zero-r": ("encoding", {"signature": bytes(32) + signature[32:]}),
        "zero-s": ("encoding", {"signature": signature[:32] + bytes(32) + signature[64:]}),
        "r-above-order": ("encoding", {"signature": ORDER.to_bytes(32, "big") + signature[32:]}),
        "field-too-wide": ("encoding", {"fields": {**vote["fields"], "attempt": 256}}),
        "field-too-short": ("encoding", {"fields": {**vote["fields"], "result_hash": bytes(31)}}),
        "field-negative": ("encoding", {"fields": {**vote["fields"], "set": -1}}),
    }
    vectors: Vectors = {
        f"statements/{fault}": {**statement_case("Vote", fault.replace("-", " ")), "layer": layer, **changes}
        for fault, (layer, changes) in faults.items()
    }
    vectors["statements/valid"] = {
        "desc": "every statement of the table, by one key in one domain",
        "privateKey": fixed("ledger key"),
        "vectors": [statement_case(name, name) for name in statements.STATEMENTS],
    }
    return vectors


# --- commitments ------------------------------------------------------------------------------------------------------


def example_opening(i: int = 0) -> commitments.ConsentOpening:
    return commitments.ConsentOpening(
        holder=keys.LedgerKey(fixed(f"holder {i}")).address,
        holder_salt=fixed(f"holder salt {i}"),
        doc_salt=fixed(f"doc salt {i}"),
        doc_hash=fixed(f"document {i}"),
        leaf_secret=fixed(f"leaf secret {i}"),
    )


def opening_case(desc: str, **changes: Any) -> dict[str, Any]:
    opening = example_opening()
    case = {
        "desc": desc,
        "holder": opening.holder,
        "holderSalt": opening.holder_salt,
        "docSalt": opening.doc_salt,
        "docHash": opening.doc_hash,
        "leafSecret": opening.leaf_secret,
        "docCommit": opening.doc_commit,
        "leafKey": opening.leaf_key,
        "binding": opening.binding,
        "consentId": opening.consent_id,
    }
    return {**case, **changes}


def round_id_fields() -> dict[str, Any]:
    return {
        "chain_id": CHAIN_ID, "contract": CONTRACT, "study": fixed("study"), "branch": 0, "height": 3,
        "parent_result": fixed("parent result"), "parent_model": fixed("parent model"), "epoch": 1, "roster": 0b1111,
        "suspended": 0b0100, "consent_accumulator": fixed("consent acc"),
        "membership_accumulator": fixed("membership acc"), "previous_block": fixed("previous block"),
    }  # fmt: skip


def result_fields() -> dict[str, Any]:
    return {
        "outcome": 1, "included": 0b1001, "codes": 7 << 4, "model_root": fixed("model root"),
        "trust_hash": fixed("trust"), "commit_root": fixed("commit root"), "consent_accumulator": fixed("consent acc"),
    }  # fmt: skip


def commitment_vectors() -> Vectors:
    opening = example_opening()
    return {
        "commitments/valid": opening_case("one consent, opened"),
        "commitments/valid-others": {
            "desc": "the remaining commitments and ids",
            "valueHash": {"valueSalt": fixed("value salt"), "role": 1, "records": 7,
                          "hash": commitments.value_hash(fixed("value salt"), 1, 7)},
            "keyCommit": {"key": fixed("key"), "roundId": fixed("round"), "member": 3, "kind": 1,
                          "hash": commitments.key_commit(fixed("key"), fixed("round"), 3, 1)},
            "updateRoot": {"roundId": fixed("round"), "member": 3, "update": fixed("u"), "set": fixed("s"),
                           "hash": commitments.update_root(fixed("round"), 3, fixed("u"), fixed("s"))},
            "requestId": {"requestSalt": fixed("request salt"), "consentId": opening.consent_id,
                          "hash": commitments.request_id(fixed("request salt"), opening.consent_id)},
            "studyId": {"structHash": fixed("create"), "hash": commitments.study_id(fixed("create"))},
            "batchId": {"structHash": fixed("open"), "hash": commitments.batch_id(fixed("open"))},
            "roundId": {**round_id_fields(), "hash": commitments.round_id(**round_id_fields())},
            "resultHash": {**result_fields(), "hash": commitments.result_hash(**result_fields())},
        },
        "commitments/doc-salt-equals-holder-salt": opening_case(
            "the salt shown at a withdrawal would open the document", layer="encoding", docSalt=opening.holder_salt),
        "commitments/leaf-secret-equals-doc-salt": opening_case(
            "two secrets are one", layer="encoding", leafSecret=opening.doc_salt),
        "commitments/leaf-secret-equals-holder-salt": opening_case(
            "a withdrawal would show the leaf", layer="encoding", leafSecret=opening.holder_salt),
        "commitments/zero-leaf-secret": opening_case("zero is no secret", layer="encoding", leafSecret=ZERO),
        "commitments/zero-holder-salt": opening_case("zero is no secret", layer="encoding", holderSalt=ZERO),
        "commitments/short-doc-salt": opening_case("31 bytes", layer="encoding", docSalt=opening.doc_salt[:31]),
        "commitments/long-holder": opening_case("21 bytes", layer="encoding", holder=opening.holder + b"\0"),
        "commitments/other-leaf-key": opening_case(
            "the consent binds another leaf", layer="root", leafSecret=fixed("leaf secret 1")),
        "commitments/other-holder": opening_case("another key", layer="root", holder=example_opening(1).holder),
    }  # fmt: skip


# --- merkle -----------------------------------------------------------------------------------------------------------


def example_map(count: int) -> tuple[list[tuple[Digest, Digest]], merkle.MerkleMap]:
    items = sorted((fixed(f"key {i}"), fixed(f"value {i}")) for i in range(count))
    return items, merkle.MerkleMap(items)


def map_case(count: int) -> dict[str, Any]:
    items, tree = example_map(count)
    absent = [bytes(32), b"\xff" * 32, *(fixed(f"absent {i}") for i in range(4))]
    proofs = [tree.prove_absent(key) for key in absent]
    return {
        "desc": f"a map of {count} leaves: paths[i] proves keys[i] at index i; an absent key lies between two indexes"
        " (-1: none)",
        "count": count,
        "root": tree.root,
        "keys": [key for key, _ in items],
        "valueHashes": [value for _, value in items],
        "paths": [tree.prove(key).path for key, _ in items],
        "absentKeys": absent,
        "absentLeft": [proof.left.index if proof.left else -1 for proof in proofs],
        "absentRight": [proof.right.index if proof.right else -1 for proof in proofs],
    }


def neighbour(items: list[tuple[Digest, Digest]], tree: merkle.MerkleMap, i: int) -> dict[str, Any]:
    key, value = items[i]
    return {"key": key, "valueHash": value, "index": i, "path": tree.prove(key).path}


def between(low: bytes, high: bytes) -> bytes:
    return ((int.from_bytes(low, "big") + int.from_bytes(high, "big")) // 2).to_bytes(32, "big")


def merkle_vectors() -> Vectors:
    items, tree = example_map(7)
    (_, _), smaller = example_map(6), example_map(6)[1]
    at = 4
    key, value = items[at]
    path = tree.prove(key).path

    def inclusion(desc: str, layer: str, **changes: Any) -> dict[str, Any]:
        base = {"desc": desc, "layer": layer, "proof": "inclusion", "root": tree.root, "count": 7, "key": key,
                "valueHash": value, "index": at, "path": path}  # fmt: skip
        return {**base, **changes}

    gap = between(items[2][0], items[3][0])

    def absence(desc: str, layer: str, **changes: Any) -> dict[str, Any]:
        base = {"desc": desc, "layer": layer, "proof": "absence", "root": tree.root, "count": 7, "key": gap,
                "left": neighbour(items, tree, 2), "right": neighbour(items, tree, 3)}  # fmt: skip
        return {**base, **changes}

    def listing(desc: str, order: list[int]) -> dict[str, Any]:
        return {"desc": desc, "layer": "order", "proof": "map", "keys": [items[i][0] for i in order],
                "valueHashes": [items[i][1] for i in order]}  # fmt: skip

    flipped = bytes([path[0][0] ^ 1]) + path[0][1:]
    left = neighbour(items, tree, 2)
    vectors = {f"merkle/valid-{count}": map_case(count) for count in (0, 1, 2, 3, 5, 7, 8, 13, 33)}
    return vectors | {
        "merkle/wrong-leaf": inclusion("another leaf's key", "root", key=items[5][0]),
        "merkle/wrong-value": inclusion("another leaf's value", "root", valueHash=items[5][1]),
        "merkle/wrong-root": inclusion("the root of other leaves", "root", root=smaller.root),
        "merkle/wrong-index": inclusion("the sibling's index", "root", index=at ^ 1),
        "merkle/index-beyond-count": inclusion("leaf 7 of 7", "encoding", index=7),
        "merkle/count-changed": inclusion("the same path in a map said to have 8 leaves", "root", count=8),
        "merkle/count-too-large": inclusion("more leaves than a map may have", "encoding", count=(1 << 20) + 1),
        "merkle/trailing-path": inclusion("one hash too many", "proof", path=[*path, fixed("extra")]),
        "merkle/short-path": inclusion("one hash missing at the top", "proof", path=path[:-1]),
        "merkle/empty-path": inclusion("no hash", "proof", path=[]),
        "merkle/flipped-path": inclusion("one bit of the first hash", "root", path=[flipped, *path[1:]]),
        "merkle/swapped-path": inclusion("two hashes in the other order", "root", path=[path[1], path[0], *path[2:]]),
        "merkle/node-as-leaf": inclusion(
            "an inner node offered as a leaf, its children as key and value", "root", count=4,
            key=tree.prove(items[0][0]).path[0], valueHash=path[0], index=2, path=path[1:]),
        "merkle/top-as-root": inclusion(
            "the top of the tree instead of the root, which binds the count", "root", root=tree._levels[-1][0]),
        "merkle/non-adjacent-neighbours": absence("a leaf lies between the neighbours", "proof",
                                                  right=neighbour(items, tree, 4)),
        "merkle/swapped-neighbours": absence("right before left", "proof", left=neighbour(items, tree, 3), right=left),
        "merkle/absent-key-present": absence("the key is the left neighbour's", "proof", key=items[2][0]),
        "merkle/absent-key-outside": absence("the key lies after the right neighbour", "proof",
                                             key=between(items[3][0], items[4][0])),
        "merkle/lone-left-not-last": absence("only a left neighbour that is not the last leaf", "proof", right=None),
        "merkle/lone-right-not-first": absence("only a right neighbour that is not the first leaf", "proof", left=None),
        "merkle/no-neighbour": absence("nothing shown in a map that has leaves", "proof", left=None, right=None),
        "merkle/absence-count-changed": absence("the same neighbours in a map said to have 8 leaves", "root", count=8),
        "merkle/absence-count-zero": absence("neighbours shown in an empty map", "proof", count=0),
        "merkle/absence-empty-claimed": absence(
            "a map with leaves called empty", "root", count=0, left=None, right=None),
        "merkle/neighbour-forged": absence("the left neighbour's key made up", "root",
                                           left={**left, "key": between(items[1][0], items[2][0])}),
        "merkle/neighbour-index-forged": absence("indexes made adjacent by a lie", "root",
                                                 left={**neighbour(items, tree, 1), "index": 2}),
        "merkle/duplicate-key": listing("one key twice", [0, 1, 1, 2]),
        "merkle/unsorted-keys": listing("two keys in the other order", [0, 2, 1, 3]),
    }  # fmt: skip


def anchor_vectors() -> Vectors:
    consents = [fixed(f"consent {i}") for i in range(64)]
    tree, at = merkle.AnchorTree(consents), 37

    def case(desc: str, layer: str | None = None, **changes: Any) -> dict[str, Any]:
        base = {"desc": desc, "root": tree.root, "count": 64, "consentId": consents[at], "index": at,
                "path": tree.prove(at)} | ({"layer": layer} if layer else {})  # fmt: skip
        return {**base, **changes}

    path = tree.prove(at)
    return {
        "anchor/valid": case("leaf 37 of 64"),
        "anchor/valid-32": {"desc": "the smallest anchor", "root": merkle.AnchorTree(consents[:32]).root, "count": 32,
                            "consentId": consents[0], "index": 0, "path": merkle.AnchorTree(consents[:32]).prove(0)},
        "anchor/wrong-consent": case("another consent", "root", consentId=consents[0]),
        "anchor/wrong-index": case("the sibling's index", "root", index=at ^ 1),
        "anchor/index-beyond-count": case("leaf 64 of 64", "proof", index=64),
        "anchor/trailing-path": case("one hash too many", "proof", path=[*path, fixed("extra")]),
        "anchor/short-path": case("one hash missing", "proof", path=path[:-1]),
        "anchor/count-halved": case("the count of another anchor", "proof", count=32),
        "anchor/count-too-small": case("16 leaves hide too little", "encoding", count=16, path=path[:4], index=5),
        "anchor/count-no-power-of-two": case("63 leaves", "encoding", count=63),
        "anchor/node-as-leaf": case("an inner node offered as a consent", "root", consentId=path[0], count=32,
                                    index=at >> 1, path=path[1:]),
    }  # fmt: skip


# --- sealing ----------------------------------------------------------------------------------------------------------

ROUND, MEMBER, KIND = fixed("round"), 3, sealing.BlobKind.SET


def salamander(key_one: bytes, key_two: bytes, round_id: bytes, member: int, kind: int) -> bytes:
    """A one-chunk body that AES-GCM opens under both keys: the last block is solved for, in GF(2^128)."""
    nonce = bytes(11) + b"\x01"
    aad = round_id + member.to_bytes(2, "big") + bytes([kind])

    def block(key: bytes, text: bytes) -> int:
        return int.from_bytes(Cipher(algorithms.AES(key), modes.ECB()).encryptor().update(text), "big")

    def multiply(x: int, y: int) -> int:
        product = 0
        for bit in range(127, -1, -1):
            if y >> bit & 1:
                product ^= x
            x = x >> 1 ^ (0xE1 << 120 if x & 1 else 0)
        return product

    def inverse(x: int) -> int:
        power, result = x, 1 << 127
        for bit in range(128):
            if (2**128 - 2) >> bit & 1:
                result = multiply(result, power)
            power = multiply(power, power)
        return result

    def ghash(key: int, words: list[int]) -> int:
        total = 0
        for word in words:
            total = multiply(total ^ word, key)
        return total

    chosen = fixed("salamander") + fixed("salamander")[:16]
    padded = aad + bytes(-len(aad) % 16)
    words = [int.from_bytes(text[i : i + 16], "big") for text in (padded, chosen) for i in range(0, len(text), 16)]
    lengths = (8 * len(aad)) << 64 | 8 * (len(chosen) + 16)
    hash_keys = [block(key, bytes(16)) for key in (key_one, key_two)]
    masks = [block(key, nonce + b"\0\0\0\1") for key in (key_one, key_two)]
    rests = [ghash(h, [*words, 0, lengths]) ^ mask for h, mask in zip(hash_keys, masks, strict=True)]
    squares = [multiply(h, h) for h in hash_keys]
    last = multiply(rests[0] ^ rests[1], inverse(squares[0] ^ squares[1]))
    gcm_tag = ghash(hash_keys[0], [*words, last, lengths]) ^ masks[0]
    return chosen + last.to_bytes(16, "big") + gcm_tag.to_bytes(16, "big")


def blob_case(sealed: sealing.Sealed, desc: str, layer: str | None = None, **changes: Any) -> dict[str, Any]:
    commit = sealed.commit
    base = {
        "desc": desc,
        "roundId": ROUND,
        "member": MEMBER,
        "kind": int(KIND),
        "key": sealed.key,
        "ciphertext": sealed.ciphertext,
        "cipherRoot": commit.cipher_root,
        "plainHash": commit.plain_hash,
        "keyCommit": commit.key_commit,
        "length": commit.length,
        "blobCommit": commit.hash,
    } | ({"layer": layer} if layer else {})
    return {**base, **changes}


def authored(sealed: sealing.Sealed, ciphertext: bytes, **changes: Any) -> dict[str, Any]:
    """What an author that cheats would commit to: other bytes, with the right root of those bytes."""
    return {"ciphertext": ciphertext, "length": len(ciphertext), "cipherRoot": content_root("cipher", ciphertext),
            **changes}  # fmt: skip


def sealing_vectors() -> Vectors:
    key, other_key = fixed("content key"), fixed("another content key")
    plaintext = b"what a member seals in a round"
    sealed = sealing.seal_under(key, plaintext, ROUND, MEMBER, KIND)
    flipped = bytearray(sealed.ciphertext)
    flipped[3] ^= 1
    elsewhere = sealing.seal_under(key, plaintext, ROUND, MEMBER + 1, KIND)
    double = salamander(key, other_key, ROUND, MEMBER, KIND)
    under = sealing.Sealed(double, key, sealed.commit)
    nonce, aad = bytes(11) + b"\x01", ROUND + MEMBER.to_bytes(2, "big") + bytes([KIND])
    texts = [AESGCM(opener).decrypt(nonce, double, aad) for opener in (key, other_key)]
    assert texts[0] != texts[1]
    double_commit = authored(
        under, double, plainHash=content_root("plain", texts[0]), plaintext=texts[0], blobCommit=None
    )
    # two chunks: the body is not written out, `pattern` names the plaintext and `edit` what was done to the ciphertext
    long = pattern(2 * CHUNK_BYTES)
    body = sealing.seal_under(key, long, ROUND, MEMBER, KIND)
    step = CHUNK_BYTES + sealing.TAG_BYTES
    cut, empty = body.ciphertext[:step], empty_last_chunk(key, long, aad)
    swapped = body.ciphertext[step:] + body.ciphertext[:step]

    def long_case(desc: str, layer: str | None, edit: str, ciphertext: bytes) -> dict[str, Any]:
        changes = authored(body, ciphertext)
        changes["ciphertext"] = None
        return blob_case(body, desc, layer, **changes, patternLength=len(long), edit=edit)

    return {
        "sealing/valid": blob_case(sealed, "a short blob", plaintext=plaintext),
        "sealing/valid-empty": blob_case(
            sealing.seal_under(key, b"", ROUND, MEMBER, KIND), "nothing but a tag", plaintext=b""),
        "sealing/valid-two-chunks": long_case("two full chunks", None, "none", body.ciphertext),
        "sealing/flipped-byte-on-the-way": blob_case(sealed, "the server's fault", "root", ciphertext=bytes(flipped)),
        "sealing/flipped-byte-by-the-author": blob_case(
            sealed, "committed to as flipped", "seal", **authored(sealed, bytes(flipped))),
        "sealing/truncated-on-the-way": blob_case(
            sealed, "the last byte is missing", "root", ciphertext=sealed.ciphertext[:-1]),
        "sealing/truncated-at-chunk-edge": long_case("the last chunk left away", "seal", "cut", cut),
        "sealing/empty-last-chunk": long_case("every tag is good, the last chunk empty", "seal", "empty", empty),
        "sealing/swapped-chunks": long_case("the second chunk first", "seal", "swap", swapped),
        "sealing/wrong-key": blob_case(sealed, "another content key", "key-commitment", key=other_key),
        "sealing/short-key": blob_case(sealed, "31 bytes", "encoding", key=key[:31]),
        "sealing/wrong-member": blob_case(sealed, "opened as another member's", "key-commitment", member=MEMBER + 1),
        "sealing/wrong-round": blob_case(sealed, "opened in another round", "key-commitment", roundId=fixed("round 2")),
        "sealing/wrong-kind": blob_case(sealed, "a set opened as an update", "key-commitment", kind=0),
        "sealing/sealed-as-another-member": blob_case(
            elsewhere, "the key is committed for member 3, the body sealed as member 4's", "seal",
            keyCommit=sealed.commit.key_commit, blobCommit=None),
        "sealing/other-plaintext": blob_case(
            sealed, "committed to another plaintext", "seal", plainHash=content_root("plain", b"something else"),
            blobCommit=None),
        "sealing/valid-salamander": blob_case(
            under, "two keys open this body; the committed one leads to the committed plaintext", **double_commit),
        "sealing/salamander": blob_case(
            under, "the same body and commitment with the other key that opens it", "key-commitment",
            **{**double_commit, "key": other_key}),
    }  # fmt: skip


def kept(name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """A vector that draws randomness: read if it exists, made otherwise."""
    path = ROOT / f"{name}.json"
    if path.exists():
        return dict(json.loads(path.read_text()))
    return dict(hexed(make()))


def empty_last_chunk(key: bytes, plaintext: bytes, aad: bytes) -> bytes:
    """A second body of a plaintext of whole chunks: all tags are good, the last chunk is empty."""
    pieces = [plaintext[i : i + CHUNK_BYTES] for i in range(0, len(plaintext), CHUNK_BYTES)]
    body = b"".join(AESGCM(key).encrypt(i.to_bytes(11, "big") + b"\0", piece, aad) for i, piece in enumerate(pieces))
    return body + AESGCM(key).encrypt(len(pieces).to_bytes(11, "big") + b"\1", b"", aad)


def wrap_vectors() -> Vectors:
    key, reader, other = (
        fixed("content key"),
        keys.SealingKey(fixed("reader")),
        keys.SealingKey(fixed("another reader")),
    )
    committed = commitments.key_commit(key, ROUND, MEMBER, KIND)

    def make() -> dict[str, Any]:
        return {
            "desc": "a content key for one reader", "roundId": ROUND, "member": MEMBER, "kind": int(KIND),
            "reader": reader.to_bytes(), "recipient": reader.public, "key": key, "keyCommit": committed,
            "wrap": sealing.wrap(key, reader.public, ROUND, MEMBER, KIND),
            "wrapOfAnotherKey": sealing.wrap(fixed("another content key"), reader.public, ROUND, MEMBER, KIND),
        }  # fmt: skip

    valid = kept("wrap/valid", make)
    wrapped = bytes.fromhex(valid["wrap"][2:])

    def case(desc: str, layer: str, **changes: Any) -> dict[str, Any]:
        return {**valid, "desc": desc, "layer": layer, **changes}

    return {
        "wrap/valid": valid,
        "wrap/other-key-inside": case("opens, but holds another key", "key-commitment", wrap=valid["wrapOfAnotherKey"]),
        "wrap/wrong-reader": case("another reader's sealing key", "wrap", reader=other.to_bytes()),
        "wrap/wrong-round": case("wrapped for another round", "wrap", roundId=fixed("round 2")),
        "wrap/wrong-member": case("wrapped as another author's", "wrap", member=MEMBER + 1),
        "wrap/wrong-kind": case("wrapped for the other blob", "wrap", kind=0),
        "wrap/flipped-byte": case("one bit of the sealed key", "wrap", wrap=wrapped[:40] + bytes([wrapped[40] ^ 1])
                                  + wrapped[41:]),
        "wrap/low-order-point": case("an encapsulated key of low order", "wrap", wrap=bytes(32) + wrapped[32:]),
        "wrap/truncated": case("79 bytes", "encoding", wrap=wrapped[:-1]),
    }  # fmt: skip


# --- blobs ------------------------------------------------------------------------------------------------------------


def example_entries() -> tuple[blobs.SetEntry, ...]:
    openings = [example_opening(i) for i in range(3)]
    tree = merkle.AnchorTree([o.consent_id for o in openings] + [fixed(f"dummy {i}") for i in range(29)])
    entries = [
        blobs.SetEntry(
            leaf_key=opening.leaf_key, value_salt=fixed(f"value salt {i}"), role=1 + i, records=10 + i,
            consent_id=opening.consent_id, holder=opening.holder, holder_salt=opening.holder_salt,
            doc_commit=opening.doc_commit, form_id=fixed("form"),
            anchor=None if i == 0 else blobs.AnchorProof(tree.root, i, tree.prove(i)),
        )
        for i, opening in enumerate(openings)
    ]  # fmt: skip
    return tuple(sorted(entries, key=lambda entry: entry.leaf_key))


def _int32(values: Iterable[int]) -> bytes:
    return b"".join(v.to_bytes(4, "little", signed=True) for v in values)


def example_update() -> blobs.UpdatePlain:
    values = _int32((0, 1, -1, 1 << 24, -(1 << 31)))
    return blobs.UpdatePlain(ROUND, MEMBER, 33, fixed("profile"), fixed("update salt"), b'{"loss":0.25}', values)


def example_set() -> blobs.SetPlain:
    return blobs.SetPlain(ROUND, MEMBER, fixed("set salt"), example_entries())


def blob_vectors() -> Vectors:
    update, plain = example_update(), example_set()
    good, good_set = blobs.encode_update(update), blobs.encode_set(plain)
    metrics_at, p_at = 16 + 32 + 2 + 8 + 32 + 32, 16 + 32 + 2 + 8 + 32 + 32 + 4 + len(update.metrics)
    head, count_at = good_set[:86], 16 + 32 + 2 + 32
    chunks = [blobs.encode_set(blobs.SetPlain(ROUND, MEMBER, fixed("set salt"), (e,)))[86:] for e in plain.entries]
    anchored = next(i for i, e in enumerate(plain.entries) if e.anchor is not None)
    granted = next(i for i, e in enumerate(plain.entries) if e.anchor is None)
    one = good_set[:count_at] + (1).to_bytes(4, "big")
    role_at, records_at, kind_at = 64, 65, 64 + 5 + 32 + 20 + 96

    def put(data: bytes, at: int, new: bytes) -> bytes:
        return data[:at] + new + data[at + len(new) :]

    def case(kind: str, desc: str, data: bytes, field: str, layer: str = "encoding") -> dict[str, Any]:
        return {"desc": desc, "layer": layer, "format": kind, "bytes": data, "field": field}

    def entry_case(desc: str, at: int, new: bytes, field: str, which: int = granted) -> dict[str, Any]:
        return case("set", desc, one + put(chunks[which], at, new), field)

    wide = blobs.MAX_METRICS_BYTES + 1
    two = put(good[: p_at + 8], p_at, (2).to_bytes(8, "big"))
    packed = [-129, *[7] * 255, *[0] * 256, *[-128, 127] * 128, 1 << 15, -(1 << 23)]
    return {
        "blobs/valid-update": {
            "desc": "five integers", "format": "update", "bytes": good, "roundId": ROUND, "member": MEMBER,
            "records": 33, "profileHash": update.profile_hash, "salt": update.salt, "metrics": update.metrics,
            "values": [0, 1, -1, 1 << 24, -(1 << 31)],
        },
        "blobs/valid-update-packed": {
            "desc": "blocks of widths 2, 0, 1 and a short one of width 3", "format": "update",
            "bytes": blobs.encode_update(blobs.UpdatePlain(ROUND, 0, 1, ZERO, ZERO, b"", _int32(packed))),
            "values": packed,
        },
        "blobs/valid-update-empty": {
            "desc": "no integer, no metrics", "format": "update",
            "bytes": blobs.encode_update(blobs.UpdatePlain(ROUND, 0, 0, ZERO, ZERO, b"", b"")),
        },
        "blobs/valid-set": {
            "desc": "a stored grant and two anchored consents", "format": "set", "bytes": good_set, "roundId": ROUND,
            "member": MEMBER, "salt": plain.salt, "datasetRoot": blobs.dataset_root(plain.entries),
            "leafKeys": [e.leaf_key for e in plain.entries], "valueHashes": [e.value_hash for e in plain.entries],
        },
        "blobs/valid-set-empty": {
            "desc": "no entry", "format": "set", "bytes": blobs.encode_set(blobs.SetPlain(ROUND, 0, ZERO, ())),
            "datasetRoot": blobs.dataset_root(()),
        },
        "blobs/update-trailing-garbage": case("update", "one byte after the last integer", good + b"\0", "values"),
        "blobs/update-truncated": case("update", "the last byte is missing", good[:-1], "values"),
        "blobs/update-cut-in-header": case("update", "ends inside the salt", good[:100], "salt"),
        "blobs/update-empty-file": case("update", "no byte", b"", "magic"),
        "blobs/update-unknown-version": case("update", "version 1", b"koinon.update/1\n" + good[16:], "magic"),
        "blobs/update-is-a-set": case("update", "the other format", good_set, "magic"),
        "blobs/update-count-lie": case("update", "P is one more than the integers",
                                       put(good, p_at, (6).to_bytes(8, "big")), "values"),
        "blobs/update-count-too-small": case("update", "P is one less than the integers",
                                             put(good, p_at, (4).to_bytes(8, "big")), "values"),
        "blobs/update-width-unknown": case("update", "integers of five bytes", put(good, p_at + 8, b"\5"), "widths"),
        "blobs/update-width-lie": case("update", "integers of three bytes, sent as four",
                                       put(good, p_at + 8, b"\3"), "values"),
        "blobs/update-width-needless": case("update", "two bytes for each integer of a block that needs one",
                                            two + b"\2\1\0\2\0", "widths"),
        "blobs/update-zeros-sent": case("update", "one byte for each integer of a block of zeros",
                                        two + b"\1\0\0", "widths"),
        "blobs/update-widths-missing": case("update", "a second block announced, and no width for it",
                                            put(good[: p_at + 8], p_at, (257).to_bytes(8, "big")) + b"\0", "widths"),
        "blobs/update-count-oversize": case("update", "P beyond the bound", put(good, p_at, b"\xff" * 8), "P"),
        "blobs/update-metrics-oversize": case(
            "update", "65537 bytes of metrics",
            good[:metrics_at] + wide.to_bytes(4, "big") + b" " * wide + good[p_at:], "metricsLen"),
        "blobs/update-metrics-lie": case("update", "metrics said to reach beyond the end",
                                         put(good, metrics_at, (60_000).to_bytes(4, "big")), "metrics"),
        "blobs/set-trailing-garbage": case("set", "one byte after the last entry", good_set + b"\0", "end"),
        "blobs/set-truncated": case("set", "the last hash is short", good_set[:-1], "path" if chunks[-1][kind_at]
                                    else "proofKind"),
        "blobs/set-count-lie": case("set", "one entry more than there is",
                                    put(good_set, count_at, (4).to_bytes(4, "big")), "leafKey"),
        "blobs/set-count-too-small": case("set", "one entry less than there is",
                                          put(good_set, count_at, (2).to_bytes(4, "big")), "end"),
        "blobs/set-count-oversize": case("set", "more entries than a set may have",
                                         put(good_set, count_at, b"\xff" * 4), "count"),
        "blobs/set-unknown-version": case("set", "version 2", b"koinon.set/2\n\0\0\0" + good_set[16:], "magic"),
        "blobs/set-unsorted-entries": case("set", "two entries in the other order",
                                           head + chunks[1] + chunks[0] + chunks[2], "entries", "order"),
        "blobs/set-duplicate-entry": case("set", "one entry twice", head + chunks[0] + chunks[1] + chunks[1], "entries",
                                          "order"),
        "blobs/set-role-zero": entry_case("no such role", role_at, b"\x00", "role"),
        "blobs/set-role-four": entry_case("no such role", role_at, b"\x04", "role"),
        "blobs/set-no-records": entry_case("an entry without a record", records_at, bytes(4), "records"),
        "blobs/set-unknown-proof": entry_case("proof kind 2", kind_at, b"\x02", "proofKind"),
        "blobs/set-depth-too-small": entry_case("an anchor of 16 leaves", kind_at + 37, b"\x04", "depth", anchored),
        "blobs/set-depth-too-large": entry_case("an anchor of 2^21 leaves", kind_at + 37, b"\x15", "depth", anchored),
        "blobs/set-index-beyond-anchor": entry_case("leaf 32 of 32", kind_at + 33, (32).to_bytes(4, "big"), "index",
                                                    anchored),
    }  # fmt: skip


# --- keys -------------------------------------------------------------------------------------------------------------


def key_vectors() -> Vectors:
    ring = keys.KeyRing(keys.LedgerKey(fixed("ledger")), keys.SealingKey(fixed("sealing")), keys.PeerKey(fixed("peer")))

    def make() -> dict[str, Any]:
        return {
            "desc": "three keys under a password, at a low cost", "password": "correct horse",
            "ledger": ring.ledger.to_bytes(), "sealing": ring.sealing.to_bytes(), "peer": ring.peer.to_bytes(),
            "keystore": keys.seal_keystore(ring, "correct horse", log_n=10).decode(),
        }  # fmt: skip

    valid = kept("keystore/valid", make)
    document = json.loads(valid["keystore"])

    def resealed(**changes: Any) -> str:
        """With the unkeyed digest recomputed: what someone who changes the file on purpose would do."""
        body = {k: v for k, v in (document | changes).items() if k != "sha256"}
        plain = json.dumps(body, indent=1, sort_keys=True).encode() + b"\n"
        return json.dumps(body | {"sha256": hashlib.sha256(plain).hexdigest()}, indent=1, sort_keys=True) + "\n"

    def flip(text: str) -> str:
        return ("0" if text[0] != "0" else "1") + text[1:]

    def case(desc: str, layer: str, keystore: str | None = None, **changes: Any) -> dict[str, Any]:
        return {**valid, "desc": desc, "layer": layer, **({"keystore": keystore} if keystore else {}), **changes}

    return {
        "keys/valid": {
            "desc": "what is public of a key",
            "ledger": fixed("ledger"), "address": ring.ledger.address,
            "addressText": keys.address_text(ring.ledger.address),
            "sealing": fixed("sealing"), "sealingPublic": ring.sealing.public,
            "peer": fixed("peer"), "peerId": ring.peer.peer_id, "peerIdText": keys.peer_id_text(ring.peer.peer_id),
        },
        "keystore/valid": valid,
        "keystore/wrong-password": case("another password", "password", password="correct horse "),
        "keystore/cut-off": case("the second half is missing", "keystore", valid["keystore"][:300]),
        "keystore/flipped-ciphertext": case("one digit, as a bad disk would", "keystore", valid["keystore"].replace(
            document["ciphertext"], flip(document["ciphertext"]))),
        "keystore/flipped-salt": case("one digit, as a bad disk would", "keystore", valid["keystore"].replace(
            document["salt"], flip(document["salt"]))),
        "keystore/ciphertext-replaced": case("on purpose, digest recomputed", "keystore",
                                             resealed(ciphertext=flip(document["ciphertext"]))),
        "keystore/address-replaced": case(
            "on purpose, digest recomputed", "keystore",
            resealed(public=document["public"] | {"ledger": "0x" + "11" * 20})),
        "keystore/cost-too-high": case("asks for 2^30 blocks of memory", "keystore", resealed(log_n=30)),
        "keystore/extra-field": case("a field nobody knows", "keystore", resealed(comment="hello")),
        "keystore/unknown-version": case("version 2", "encoding", resealed(schema="koinon.keystore/2")),
        "keystore/other-spelling": case("one more newline at the end", "keystore", valid["keystore"] + "\n"),
        "keystore/not-json": case("a binary file", "keystore", "\u0000\u0001"),
    }  # fmt: skip


# --- the worked example of FORMATS.md ---------------------------------------------------------------------------------


def example_vectors() -> Vectors:
    opening, update, plain = example_opening(), example_update(), example_set()
    dataset = blobs.dataset_root(plain.entries)
    sealed_update = sealing.seal_under(
        fixed("update key"), blobs.encode_update(update), ROUND, MEMBER, sealing.BlobKind.UPDATE
    )
    sealed_set = sealing.seal_under(fixed("set key"), blobs.encode_set(plain), ROUND, MEMBER, sealing.BlobKind.SET)
    root = commitments.update_root(ROUND, MEMBER, sealed_update.commit.hash, sealed_set.commit.hash)
    statement = statements.Commit(ROUND, MEMBER, root, dataset, ZERO)
    domain, key = statements.Domain(CHAIN_ID, CONTRACT), keys.LedgerKey(fixed("ledger key"))
    signature = statements.sign(statement, domain, key)
    r, vs = statements.to_compact(signature)
    return {
        "example": {
            "desc": "the worked example of crypto/FORMATS.md, in its order",
            "holder": opening.holder,
            "holderSalt": opening.holder_salt,
            "docSalt": opening.doc_salt,
            "docHash": opening.doc_hash,
            "leafSecret": opening.leaf_secret,
            "docCommit": opening.doc_commit,
            "leafKey": opening.leaf_key,
            "binding": opening.binding,
            "consentId": opening.consent_id,
            "valueSalt": fixed("value salt 0"),
            "valueHash": commitments.value_hash(fixed("value salt 0"), 1, 10),
            "datasetRoot": dataset,
            "roundId": ROUND,
            "update": blobs.encode_update(update),
            "updateKey": sealed_update.key,
            "updateCiphertext": sealed_update.ciphertext,
            "updateKeyCommit": sealed_update.commit.key_commit,
            "updateCipherRoot": sealed_update.commit.cipher_root,
            "updatePlainHash": sealed_update.commit.plain_hash,
            "updateBlobCommit": sealed_update.commit.hash,
            "setBlobCommit": sealed_set.commit.hash,
            "updateRoot": root,
            "chainId": CHAIN_ID,
            "contract": CONTRACT,
            "domainSeparator": domain.separator,
            "structHash": statements.struct_hash(statement),
            "digest": statements.digest(statement, domain),
            "signer": key.address,
            "signature": signature,
            "r": r,
            "vs": vs,
        }
    }


def build() -> dict[str, str]:
    """File name below tests/vectors/crypto, without `.json` -> contents."""
    vectors: Vectors = {}
    for part in (
        digest_vectors, statement_vectors, commitment_vectors, merkle_vectors, anchor_vectors, sealing_vectors,
        wrap_vectors, blob_vectors, key_vectors, example_vectors,
    ):  # fmt: skip
        vectors |= part()
    return {name: json.dumps(hexed(case), indent=1, ensure_ascii=False) + "\n" for name, case in vectors.items()}


if __name__ == "__main__":
    for name, text in build().items():
        target = ROOT / f"{name}.json"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
