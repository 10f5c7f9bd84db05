"""Every file of tests/vectors/crypto is judged as its name says, by the layer it names."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest

from crypto import blobs, commitments, digest, errors, keys, merkle, sealing, statements

VECTORS = Path(__file__).parent.parent / "vectors"
FORMATS = Path(blobs.__file__).parent / "FORMATS.md"

LAYERS = {
    "encoding": errors.EncodingError,
    "order": errors.UnsortedKeys,
    "signature": errors.SignatureMismatch,
    "root": errors.RootMismatch,
    "proof": errors.ProofMismatch,
    "key-commitment": errors.KeyMismatch,
    "seal": errors.BadSeal,
    "wrap": errors.BadWrap,
    "password": errors.WrongPassword,
    "keystore": errors.KeystoreCorrupted,
}


def read(value: Any) -> Any:
    """0x hex becomes bytes, inside out."""
    if isinstance(value, str) and re.fullmatch(r"0x([0-9a-f]{2})*", value):
        return bytes.fromhex(value[2:])
    if isinstance(value, dict):
        return {k: read(v) for k, v in value.items()}
    if isinstance(value, list):
        return [read(v) for v in value]
    return value


def vectors(folder: str, *, valid: bool) -> list[Any]:
    paths = sorted((VECTORS / "crypto" / folder).glob("*.json"))
    chosen = [path for path in paths if path.stem.startswith("valid") == valid and path.stem not in ("tags", "words")]
    assert chosen, folder
    return [pytest.param(path, id=path.stem) for path in chosen]


def load(path: Path) -> dict[str, Any]:
    return dict(read(json.loads(path.read_text())))


def refused(case: dict[str, Any], judge: Any) -> errors.CryptoError:
    """The error that `judge` raises, of exactly the class the vector's layer stands for."""
    with pytest.raises(errors.CryptoError) as caught:
        judge(case)
    assert type(caught.value) is LAYERS[case["layer"]], repr(caught.value)
    return caught.value


def maker() -> Any:
    spec = importlib.util.spec_from_file_location("make_crypto_vectors", VECTORS / "make_crypto_vectors.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_files_are_what_the_code_writes_today() -> None:
    """A change of any format shows up here; no file is left over."""
    built = maker().build()
    stored = {
        p.relative_to(VECTORS / "crypto").with_suffix("").as_posix() for p in (VECTORS / "crypto").rglob("*.json")
    }
    assert stored == set(built)
    for name, text in built.items():
        assert (VECTORS / "crypto" / f"{name}.json").read_text() == text, name


def test_the_example_in_formats_is_the_vector() -> None:
    example = json.loads((VECTORS / "crypto" / "example.json").read_text())
    block = FORMATS.read_text().split("```text\n", 1)[1].split("```", 1)[0]
    shown = {}
    for line in re.sub(r"\n {2,}", "", block).splitlines():
        if " = " in line and not line.startswith("#"):
            name, value = line.split(" = ", 1)
            shown[name.strip()] = value.split("  #")[0].strip()
    assert shown == {
        name: value if isinstance(value, str) else str(value) for name, value in example.items() if name != "desc"
    }


def test_every_tag_of_the_code_is_in_the_vectors_and_in_formats() -> None:
    stored = load(VECTORS / "crypto" / "digest" / "tags.json")["tags"]
    assert {name: digest.tag(name) for name in stored} == stored
    used: set[str] = set()
    for source in Path(blobs.__file__).parent.glob("*.py"):
        used |= set(re.findall(r'(?:hash_words|content_root)\(\s*"([a-z-]+)"', source.read_text()))
    assert used <= set(stored)
    text = FORMATS.read_text()
    assert [name for name in stored if f"`{name}`" not in text] == []


def test_words_are_abi_encoded() -> None:
    case = load(VECTORS / "crypto" / "digest" / "words.json")
    assert digest.hash_words(case["name"], case["integer"], case["address"], case["word"]) == case["hash"]


# --- one judge a format: does what a reader of that format does -------------------------------------------------------


def judge_content(case: dict[str, Any]) -> None:
    content = digest.ContentMap(case["length"], tuple(case["digests"]))
    content.check_root(case["kind"], case["root"])
    if "chunk" in case:
        content.verify_chunk(case["index"], case["chunk"])


def statement_of(case: dict[str, Any]) -> statements.Statement:
    fields = {name: tuple(value) if isinstance(value, list) else value for name, value in case["fields"].items()}
    return statements.STATEMENTS[case["statement"]](**fields)


def judge_statement(case: dict[str, Any]) -> None:
    statement = statement_of(case)
    domain = statements.Domain(case["chainId"], case["contract"])
    statements.verify(statement, domain, case["signature"], case["signer"])


def judge_opening(case: dict[str, Any]) -> None:
    opening = commitments.ConsentOpening(
        case["holder"], case["holderSalt"], case["docSalt"], case["docHash"], case["leafSecret"]
    )
    commitments.check_consent_id(
        case["consentId"], opening.holder, opening.holder_salt, opening.doc_commit, opening.leaf_key
    )


def neighbour(case: dict[str, Any] | None) -> merkle.Neighbour | None:
    return case and merkle.Neighbour(case["key"], case["valueHash"], case["index"], tuple(case["path"]))


def judge_map(case: dict[str, Any]) -> None:
    if case["proof"] == "map":
        merkle.MerkleMap(zip(case["keys"], case["valueHashes"], strict=True))
    elif case["proof"] == "inclusion":
        proof = merkle.Inclusion(case["index"], case["count"], tuple(case["path"]))
        merkle.verify_member(case["root"], case["key"], case["valueHash"], proof)
    else:
        absence = merkle.Absence(case["count"], neighbour(case["left"]), neighbour(case["right"]))
        merkle.verify_absent(case["root"], case["key"], absence)


def judge_anchor(case: dict[str, Any]) -> None:
    merkle.verify_anchored(case["root"], case["count"], case["consentId"], case["index"], case["path"])


def judge_blob(case: dict[str, Any]) -> bytes:
    ciphertext = case["ciphertext"]
    if ciphertext is None:
        length, step = case["patternLength"], digest.CHUNK_BYTES + sealing.TAG_BYTES
        plaintext = bytes(7 * i % 251 for i in range(251)) * (length // 251 + 1)
        whole = sealing.seal_under(
            case["key"], plaintext[:length], case["roundId"], case["member"], sealing.BlobKind(case["kind"])
        ).ciphertext
        aad = case["roundId"] + case["member"].to_bytes(2, "big") + bytes([case["kind"]])
        ciphertext = {
            "none": whole,
            "cut": whole[:step],
            "empty": maker().empty_last_chunk(case["key"], plaintext[:length], aad),
            "swap": whole[step:] + whole[:step],
        }[case["edit"]]
    commit = sealing.BlobCommit(case["cipherRoot"], case["plainHash"], case["keyCommit"], case["length"])
    kind = sealing.BlobKind(case["kind"])
    return sealing.open_blob(ciphertext, case["key"], commit, case["roundId"], case["member"], kind)


def judge_wrap(case: dict[str, Any]) -> bytes:
    reader, kind = keys.SealingKey(case["reader"]), sealing.BlobKind(case["kind"])
    return sealing.unwrap(case["wrap"], reader, case["keyCommit"], case["roundId"], case["member"], kind)


def judge_plaintext(case: dict[str, Any]) -> blobs.UpdatePlain | blobs.SetPlain:
    return blobs.decode_update(case["bytes"], None) if case["format"] == "update" else blobs.decode_set(case["bytes"])


def judge_keystore(case: dict[str, Any]) -> keys.KeyRing:
    return keys.open_keystore(case["keystore"].encode(), case["password"])


@pytest.mark.parametrize("path", vectors("digest", valid=False))
def test_content_fault(path: Path) -> None:
    refused(load(path), judge_content)


@pytest.mark.parametrize("path", vectors("statements", valid=False))
def test_statement_fault(path: Path) -> None:
    refused(load(path), judge_statement)


@pytest.mark.parametrize("path", vectors("commitments", valid=False))
def test_commitment_fault(path: Path) -> None:
    refused(load(path), judge_opening)


@pytest.mark.parametrize("path", vectors("merkle", valid=False))
def test_map_fault(path: Path) -> None:
    refused(load(path), judge_map)


@pytest.mark.parametrize("path", vectors("anchor", valid=False))
def test_anchor_fault(path: Path) -> None:
    refused(load(path), judge_anchor)


@pytest.mark.parametrize("path", vectors("sealing", valid=False))
def test_sealing_fault(path: Path) -> None:
    refused(load(path), judge_blob)


@pytest.mark.parametrize("path", vectors("wrap", valid=False))
def test_wrap_fault(path: Path) -> None:
    refused(load(path), judge_wrap)


@pytest.mark.parametrize("path", vectors("blobs", valid=False))
def test_plaintext_fault_names_the_field(path: Path) -> None:
    case = load(path)
    fault = refused(case, judge_plaintext)
    assert isinstance(fault, errors.EncodingError)
    assert fault.field == case["field"]


@pytest.mark.parametrize("path", vectors("keystore", valid=False))
def test_keystore_fault(path: Path) -> None:
    refused(load(path), judge_keystore)


# --- valid ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", vectors("digest", valid=True))
def test_valid_content(path: Path) -> None:
    judge_content(load(path))


def test_valid_statements() -> None:
    cases = load(VECTORS / "crypto" / "statements" / "valid.json")["vectors"]
    assert [case["statement"] for case in cases] == list(statements.STATEMENTS)
    for case in cases:
        judge_statement(case)
        statement = statement_of(case)
        assert statements.struct_hash(statement) == case["structHash"]
        assert statements.from_compact(case["r"], case["vs"]) == case["signature"]


def test_valid_opening() -> None:
    judge_opening(load(VECTORS / "crypto" / "commitments" / "valid.json"))


@pytest.mark.parametrize("path", vectors("merkle", valid=True))
def test_valid_map(path: Path) -> None:
    """Read from the file alone, as the contracts' tests do."""
    case = load(path)
    for i, (key, value, steps) in enumerate(zip(case["keys"], case["valueHashes"], case["paths"], strict=True)):
        merkle.verify_member(case["root"], key, value, merkle.Inclusion(i, case["count"], tuple(steps)))

    def at(i: int) -> merkle.Neighbour | None:
        return None if i < 0 else merkle.Neighbour(case["keys"][i], case["valueHashes"][i], i, tuple(case["paths"][i]))

    for key, left, right in zip(case["absentKeys"], case["absentLeft"], case["absentRight"], strict=True):
        merkle.verify_absent(case["root"], key, merkle.Absence(case["count"], at(left), at(right)))


@pytest.mark.parametrize("path", vectors("anchor", valid=True))
def test_valid_anchor(path: Path) -> None:
    judge_anchor(load(path))


@pytest.mark.parametrize("path", vectors("sealing", valid=True))
def test_valid_blob(path: Path) -> None:
    case = load(path)
    plaintext = judge_blob(case)
    if "plaintext" in case:
        assert plaintext == case["plaintext"]


def test_valid_wrap() -> None:
    case = load(VECTORS / "crypto" / "wrap" / "valid.json")
    assert judge_wrap(case) == case["key"]


@pytest.mark.parametrize("path", vectors("blobs", valid=True))
def test_valid_plaintext_encodes_to_the_same_bytes(path: Path) -> None:
    case = load(path)
    plain = judge_plaintext(case)
    if isinstance(plain, blobs.UpdatePlain):
        assert blobs.encode_update(plain) == case["bytes"]
        if "values" in case:
            assert list(memoryview(plain.values).cast("i")) == case["values"]
    else:
        assert blobs.encode_set(plain) == case["bytes"]
        assert blobs.dataset_root(plain.entries) == case["datasetRoot"]


def test_valid_keystore() -> None:
    case = load(VECTORS / "crypto" / "keystore" / "valid.json")
    ring = judge_keystore(case)
    assert ring.ledger.to_bytes() == case["ledger"]
    assert ring.sealing.to_bytes() == case["sealing"]
    assert ring.peer.to_bytes() == case["peer"]


def test_valid_keys() -> None:
    case = json.loads((VECTORS / "crypto" / "keys" / "valid.json").read_text())
    assert keys.parse_address(case["addressText"]) == read(case["address"])
    assert keys.parse_peer_id(case["peerIdText"]) == read(case["peerId"])
