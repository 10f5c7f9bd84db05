"""What an erasure is for: nothing that a member still holds remembers the person, and the erasure itself tells nobody.

Real nodes in memory, real training. One network carries most rules: member 1's patient ZZCANARY-4711 has records of a
kind that no other patient has, under the wrong label, so that the model of before is seen to remember them. A second
network is attacked from its homes with a pair of models.

Chance is told from success by ranks among 200 controls drawn like the erased records. For a record that left no trace
the rank is uniform, whatever the model; the mean of n of them is outside the bounds used here in about one run of
100000 (Irwin-Hall), while the attack that works has means near 0.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import trio
from numpy.typing import NDArray

from crypto.digest import Digest
from fl_engine.data.dataset import Dataset
from fl_engine.params import decode_model
from node import document, keystore, proof
from node.consent import Leaf
from node.erasure import state_of
from node.errors import NotFound, Refused
from node.history import History, RoundHistory
from node.records import ErasurePlanned
from node.simulate import Replay, roots, simulation
from node.study import Study, parse_sections
from node.vault import Vault
from tests.fakes.attacks import (
    CARELESS,
    Attacker,
    CarelessTrainer,
    Floats,
    Loot,
    View,
    back_up,
    global_view,
    hospital_view,
)
from tests.fakes.network import QUARTER_END, Net, WatchedNode, network, receipt

pytestmark = pytest.mark.slow  # whole networks in memory

CANARY = "ZZCANARY-4711"
HOSPITAL = 1
ODD, COPIES = 6, 4  # pictures of the canary, and how often each: known by heart whatever the order of the batches
SIDE = 14
CONTROLS = 200


def study_spec(name: str, *, rounds: int, epochs: int, batch: int, rate: float, erasure_window: int = 0) -> Study:
    """A study of small pictures with short windows."""
    return parse_sections(
        {
            "schema": "koinon.study/1",
            "name": name,
            "task": "npz-classification",
            "rounds": rounds,
            "data": {"input_shape": [1, SIDE, SIDE], "classes": 2},
            "model": {"name": "mlp"},
            "training": {"local_epochs": epochs, "batch_size": batch, "learning_rate": rate},
            "aggregation": {},
            "windows": {"scribe_s": 60, "grace_s": 10, "reveal_s": 60, "have_s": 60, "vote_s": 60, "purge_s": 60},
            "policy": {"min_consents": 2, "erasure_window_s": erasure_window},
            "forms": [{"name": "f", "text_sha256": "ab" * 32, "custody": "synthetic", "valid_to": QUARTER_END}],
        }
    )


def pictures(generator: np.random.Generator, labels: NDArray[np.int64]) -> NDArray[np.float32]:
    """Pictures float32 [n, 1, SIDE, SIDE] in -1..1: four soft spots, those of class 1 in the lower half."""
    down, right = np.mgrid[0:SIDE, 0:SIDE]
    found = np.zeros((len(labels), 1, SIDE, SIDE))
    for i, label in enumerate(labels):
        for _ in range(4):
            row, column, width = generator.uniform(0, 8) + 6 * label, generator.uniform(0, 14), generator.uniform(1, 2)
            found[i, 0] += np.exp(-((down - row) ** 2 + (right - column) ** 2) / (2 * width * width))
    noisy = found + generator.normal(0, 0.05, found.shape)
    return (2 * np.clip(noisy, 0, 1) - 1).astype(np.float32)


def outliers(generator: np.random.Generator, count: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Pictures of class 0 under a mark of their own, labelled 1."""
    x = pictures(generator, np.zeros(count, np.int64))
    marks = generator.choice([-0.6, 0.6], x.shape)
    return np.clip(x + marks, -1, 1).astype(np.float32), np.ones(count, np.int64)


def as_dataset(x: NDArray[np.float32], y: NDArray[np.int64], patients: Sequence[str]) -> Dataset:
    """All records for training."""
    return Dataset(x, y, tuple(patients), np.zeros(len(y), np.uint8), 2, "pictures")


# --------------------------------------------------------------------------------------------------------------------
# One erasure, looked at from all sides


@dataclass(slots=True)
class Erased:
    """What the module's erasure left behind, and what was written down before it."""

    folder: Path
    keys: list[bytes]
    spec: Study
    datasets: list[Dataset]
    study: Digest
    history: History
    plan: ErasurePlanned
    old_roots: dict[int, str]
    new_roots: dict[int, str]
    old_model: bytes
    new_model: bytes
    consent: Digest
    others: list[bytes]
    secrets: dict[str, bytes]
    vault_keys: list[bytes]
    seen_before: set[str]
    seen_during: set[str]
    seen_after: set[str]
    documents: dict[str, tuple[Digest, bytes]]
    granting_again: str


def spellings(value: bytes) -> list[bytes]:
    """A value raw, in hex and in base64, wherever in a longer base64 text it may start."""
    found = [value, value.hex().encode(), value.hex().upper().encode()]
    for lead in range(3):
        inside = base64.b64encode(bytes(lead) + value)[4 * (lead > 0) : len(value) // 3 * 4]
        found += [inside, inside.translate(bytes.maketrans(b"+/", b"-_"))]
    return found


def found_in(folder: Path, secrets: dict[str, bytes]) -> set[str]:
    """Names of those secrets that are in a file under `folder` (its write-ahead logs too) or in a file's name."""
    bodies = [path.read_bytes() + str(path).encode() for path in folder.rglob("*") if path.is_file()]
    return {
        name
        for name, value in secrets.items()
        if any(spelling in body for spelling in spellings(value) for body in bodies)
    }


def secrets_of(vault: Vault, patient: str) -> dict[str, bytes]:
    """Everything secret that the vault holds about a patient, read past its doors."""
    found = vault.find(patient)[0].consent_id
    consent = vault._use.get("consent", found)
    assert consent is not None
    link = vault._linked_consent("test", found)
    copy = vault._copies._research.get("patient", consent["pseudonym"].encode())
    assert copy is not None
    hashed = ("leaf_secret", "value_salt", "request_salt", "leaf_key", "request_erasure")
    return {
        "patient": patient.encode(),
        "hash of the patient": hashlib.sha256(patient.encode()).digest(),
        "pseudonym": consent["pseudonym"].encode(),
        "doc_salt": bytes.fromhex(link["doc_salt"]),
        "data key": bytes.fromhex(copy["dek"]),
        **{name: bytes.fromhex(consent[name]) for name in hashed},
    }


def vault_of(node: WatchedNode) -> Vault:
    vault = node.participant.vault
    assert vault is not None
    return vault


def opening_of(leaf: Leaf) -> proof.Opening:
    return proof.Opening(leaf.consent_id, leaf.holder, leaf.holder_salt, leaf.doc_commit, leaf.leaf_key)


def prove(net: Net, study: Digest, consent: Digest) -> bytes:
    """The hospital's proof about a consent over the study's present line."""
    node = net.nodes[HOSPITAL]
    leaf = next(one for one in vault_of(node).leaves(study) if one.consent_id == consent)
    rounds = proof.agreed_rounds(node.history, study, 0)
    return document.write(
        proof.make(
            net.network,
            node.history,
            node.participant,
            study=study,
            hospital=HOSPITAL,
            opening=opening_of(leaf),
            rounds=rounds,
        )
    )


def canary_data() -> list[Dataset]:
    generator = np.random.default_rng(4711)
    found = []
    for member in range(3):
        y = generator.integers(0, 2, 24)
        x, names = pictures(generator, y), [f"patient-{member}-{i // 2}" for i in range(24)]
        if member == HOSPITAL:
            odd_x, odd_y = (np.repeat(one, COPIES, axis=0) for one in outliers(generator, ODD))
            x, y = np.concatenate([x[:10], odd_x, x[10:]]), np.concatenate([y[:10], odd_y, y[10:]])
            names[10:10] = [CANARY] * ODD * COPIES
        found.append(as_dataset(x, y, names))
    return found


async def until_ready(net: Net, at: int, batch: Digest) -> None:
    await net.until(lambda: net.certified(batch, at), 240)


async def erase_the_canary(folder: Path) -> Erased:
    trainer, data = CarelessTrainer(), canary_data()
    spec = study_spec("forgetting", rounds=2, epochs=36, batch=8, rate=0.05)
    try:
        async with network(folder, trainer, 3, data=data) as net:
            study = await net.play(spec)
            node = net.nodes[HOSPITAL]
            vault, store = vault_of(node), node.participant.store
            old_roots, old_model = roots(node, study), store.get(node.history.studies[study].head.models[2])
            holdings = {i: vault_of(net.nodes[i]).holdings(study) for i in range(3)}
            consent = vault.find(CANARY)[0].consent_id
            neighbour = vault.find("patient-1-3")[0].consent_id
            everybody = [one.consent_id for found in holdings.values() for one in found]
            secrets = secrets_of(vault, CANARY)
            vault_keys = [key for name in ("link", "use", "research") for key in vault._link._keys.keys[name].values()]
            documents = {"proof of use": (consent, prove(net, study, consent))}
            seen_before = found_in(folder, secrets)

            asked = await node.erasing.request(node, patient=CANARY)
            batch = Digest.from_hex(asked["erasure"])
            await net.until(lambda: batch in node.history.erasures and bool(node.history.erasures[batch].plan), 240)
            seen_during = found_in(folder, secrets)
            await until_ready(net, HOSPITAL, batch)
            documents["proof of non-use"] = (consent, prove(net, study, consent))
            documents["neighbour's proof"] = (neighbour, prove(net, study, neighbour))
            paper = await receipt(node, consent)
            documents["certificate"] = (consent, document.write(paper))
            await net.until(lambda: state_of(node.history.erasures[batch], node.history).value == "closed")
            bare = await receipt(node, batch)
            documents["certificate without annex"] = (consent, document.write(bare))
            await net.until(
                lambda: not any(one.participant.store.notices_of_kind("OpeningNotice") for one in net.nodes.values())
            )
            for one in net.nodes.values():
                await one.core(int)  # a turn after the one that forgot them, which also empties the write-ahead log
            net.hold = True
            seen_after = found_in(folder, secrets)
            plan = node.history.erasures[batch].plan
            assert plan is not None
            register = f"patient_id,form,signed_on,signer,verified_by\n{CANARY},f,2027-01-15,patient,dr\n"
            with pytest.raises(Refused) as refused:
                await node.desk.grant(node, study, register.encode(), False)
            return Erased(
                folder=folder,
                keys=[keystore.at_rest_key(seating.ring) for seating in net.seatings],
                spec=spec,
                datasets=data,
                study=study,
                history=node.history,
                plan=plan,
                old_roots=old_roots,
                new_roots=roots(node, study),
                old_model=old_model,
                new_model=store.get(node.history.studies[study].head.models[2]),
                consent=consent,
                others=[one for one in everybody if one != consent],
                secrets=secrets,
                vault_keys=vault_keys,
                seen_before=seen_before,
                seen_during=seen_during,
                seen_after=seen_after,
                documents=documents,
                granting_again=str(refused.value),
            )
    finally:
        trainer.end()


@pytest.fixture(scope="module")
def erased(tmp_path_factory: pytest.TempPathFactory) -> Erased:
    return trio.run(erase_the_canary, tmp_path_factory.mktemp("forgetting"))


async def test_the_replay_is_the_study_that_never_had_the_record(erased: Erased, tmp_path: Path) -> None:
    plan = erased.plan
    assert (plan.base_height, plan.target_height) == (0, 2)
    async with simulation(
        tmp_path,
        erased.datasets,
        without=frozenset({CANARY}),
        replay=Replay(plan.base_height + 1, plan.branch_seed),
    ) as sim:
        study = await sim.study(erased.spec)
        assert [roots(node, study) for node in sim.nodes] == [erased.new_roots] * 3
    assert set(erased.new_roots) == {1, 2}
    assert not set(erased.new_roots.values()) & set(erased.old_roots.values())


def as_floats(model: bytes, spec: Study) -> Floats:
    ints = decode_model(model)[1]
    return np.asarray(ints * 2.0 ** -spec["aggregation", "fraction_bits"], dtype=np.float64)


def test_an_outlier_that_the_old_model_remembers_is_a_stranger_to_the_new_one(erased: Erased) -> None:
    mine = [i for i, name in enumerate(erased.datasets[HOSPITAL].patients) if name == CANARY][::COPIES]
    x, y = erased.datasets[HOSPITAL].x[mine], erased.datasets[HOSPITAL].y[mine]
    never_x, never_y = outliers(np.random.default_rng(1), CONTROLS)
    attacker = Attacker(erased.spec)
    old, new = as_floats(erased.old_model, erased.spec), as_floats(erased.new_model, erased.spec)

    # before: the wrong labels are known by heart, and only those
    assert (attacker.logits(old, x).argmax(axis=1) == y).all()
    remembered = attacker.losses(old, x, y).mean()
    assert remembered < 0.3
    strangers = attacker.losses(old, never_x, never_y)
    assert remembered < strangers.mean() - 3 * strangers.std() / np.sqrt(len(y))
    # after: as surprising as records of this kind that nobody ever trained on
    surprise, strangers = attacker.losses(new, x, y).mean(), attacker.losses(new, never_x, never_y)
    assert surprise > 3 * remembered
    assert abs(surprise - strangers.mean()) < 4.5 * strangers.std() / np.sqrt(len(y))


def test_the_secrets_of_the_erased_are_in_no_file_of_any_home(erased: Erased) -> None:
    assert erased.seen_before == {"pseudonym"}, "only the random name of a sealed file"
    assert {"leaf_key", "request_salt"} <= erased.seen_during, "the search finds what members tell each other"
    assert not erased.seen_after
    assert not found_in(erased.folder, erased.secrets)


def test_the_keys_that_sealed_the_erased_are_gone_from_the_vault(erased: Erased) -> None:
    vault = Vault.open(erased.folder / f"member-{HOSPITAL + 1}" / "vault", erased.keys[HOSPITAL])
    try:
        present = {key for keys in vault._link._keys.keys.values() for key in keys.values()}
        assert not present & set(erased.vault_keys)
        assert CANARY not in vault.patient_ids()
        with pytest.raises(NotFound):
            vault.find(CANARY)
        with pytest.raises(NotFound):
            vault.find(erased.consent)
        kept = vault.archived(CANARY)
        assert len(kept) == 1, "the law's archive has the decision"
        assert erased.consent.hex() not in repr(kept)
    finally:
        vault.close()


def test_the_erased_cannot_be_enrolled_again_from_the_same_register_or_the_same_file(erased: Erased) -> None:
    assert "may not be enrolled again" in erased.granting_again
    assert CANARY not in erased.granting_again
    vault = Vault.open(erased.folder / f"member-{HOSPITAL + 1}" / "vault", erased.keys[HOSPITAL])
    try:
        before = vault.row_numbers(1)
        again = vault.import_dataset(erased.datasets[HOSPITAL])
        assert (again.patients, again.records, again.suppressed, again.known) == (0, 0, 1, 12)
        assert vault.row_numbers(1) == before
        assert CANARY not in vault.patient_ids()
    finally:
        vault.close()


def test_no_proof_and_no_certificate_names_another_consent(erased: Erased) -> None:
    assert len(erased.documents) == 5
    for name, (subject, body) in erased.documents.items():
        annexed = name != "certificate without annex"
        assert (subject.hex().encode() in body) is annexed, name
        for other in {bytes(erased.consent), *erased.others} - {bytes(subject)}:
            assert not any(spelling in body for spelling in spellings(other)), name
        json.loads(body)


# --------------------------------------------------------------------------------------------------------------------
# The pair attack

CAREFUL = ("careful a", "careful b", "careful c", "careful d")
BAD = (f"{CARELESS} a", f"{CARELESS} b")
PATIENTS = 18
ERASED = tuple(range(3))
"""Hospitals that erase one patient in every study each; the two others attack, each from its own home."""


def pair_data() -> list[Dataset]:
    """For every hospital `PATIENTS` patients a study with one record each; nobody takes part in two studies."""
    found = []
    for hospital in range(3):
        generator = np.random.default_rng(1000 + hospital)
        names = [f"patient-{hospital}-{study}-{i}" for study in (*CAREFUL, *BAD) for i in range(PATIENTS)]
        y = generator.integers(0, 2, len(names))
        found.append(as_dataset(pictures(generator, y), y, names))
    return found


def record_of(data: Dataset, patient: str) -> Dataset:
    at = [data.patients.index(patient)]
    return as_dataset(data.x[at], data.y[at], [patient])


def has_forms(node: WatchedNode, study: Digest) -> bool:
    return study in node.participant.studies and bool(node.history.studies[study].forms)


def is_anchored(node: WatchedNode, study: Digest) -> bool:
    return not vault_of(node).pending_anchors(study)


def holds_head(node: WatchedNode, study: Digest) -> bool:
    return all(node.participant.store.has(root) for root in node.history.studies[study].head.models.values())


async def enrol(net: Net, study: Digest, name: str) -> None:
    """Every hospital grants its patients of this study, from a register, and joins."""
    for hospital, node in net.nodes.items():
        await net.until(partial(has_forms, node, study))
        lines = [f"patient-{hospital}-{name}-{i},f,2027-01-15,patient,dr" for i in range(PATIENTS)]
        register = "\n".join(["patient_id,form,signed_on,signer,verified_by", *lines])
        await node.desk.grant(node, study, register.encode(), False)
    for node in net.nodes.values():
        await net.until(partial(is_anchored, node, study))
        await node.desk.join(node, study)


@dataclass(slots=True)
class Attacked:
    """By (kind of study, view, score): the rank of every erased record among its controls."""

    ranks: dict[tuple[str, str, str], list[float]]
    pairs: set[tuple[str, bool]]

    def mean(self, kinds: Sequence[str], view: str, score: str) -> tuple[float, int]:
        found = [rank for kind in kinds for rank in self.ranks[kind, view, score]]
        return float(np.mean(found)), len(found)


def looted_from(homes: Sequence[tuple[Path, bytes]], spec: Study, rounds: Sequence[RoundHistory]) -> Loot:
    loot = Loot()
    for home, key in homes:
        loot.add(home, key, spec, rounds)
    return loot


def best(looks: Iterable[Callable[[], View]]) -> View:
    """The other hospitals' best view: a member that was late in a round holds its model and not every update."""
    views = []
    for look in looks:
        with suppress(KeyError):
            views.append(look())
    return next((view for view in views if view.is_pair), views[0])


def attack(
    homes: Sequence[Sequence[tuple[Path, bytes]]],
    history: History,
    studies: dict[str, Digest],
    specs: dict[str, Study],
    data: Sequence[Dataset],
) -> Attacked:
    """What the erased records' ranks are for members who have these folders: `homes[i]` are those of member i."""
    done = Attacked({}, set())
    for number, (name, study) in enumerate(studies.items()):
        rounds = [one for one in history.rounds.values() if one.opened.study == study]
        attacker, kind = Attacker(specs[name]), name.split()[0]
        for hospital in ERASED:
            looted = [looted_from(homes[(hospital + step) % 3], specs[name], rounds) for step in (1, 2)]
            generator = np.random.default_rng([number, hospital])
            labels = generator.integers(0, 2, CONTROLS)
            controls = as_dataset(pictures(generator, labels), labels, ["control"] * CONTROLS)
            record = record_of(data[hospital], f"patient-{hospital}-{name}-0")
            views = {
                "models": best(partial(global_view, loot, history, study, len(ERASED)) for loot in looted),
                "updates": best(partial(hospital_view, loot, history, study, hospital, 1) for loot in looted),
            }
            for label, view in views.items():
                done.pairs.add((label, view.is_pair))
                for score, rank in attacker.ranks(view, record, controls).items():
                    done.ranks.setdefault((kind, label, score), []).append(rank)
    return done


async def test_the_pair_attack_finds_nobody_in_what_members_still_hold(tmp_path: Path) -> None:
    data, trainer = pair_data(), CarelessTrainer()
    # Every withdrawal is on the chain before the first plan: in a replay it would hold its hospital's update back.
    settings = {"rounds": 1, "epochs": 1, "batch": 6, "rate": 0.05, "erasure_window": 120}
    specs = {name: study_spec(name, **settings) for name in (*CAREFUL, *BAD)}
    studies: dict[str, Digest] = {}
    try:
        async with network(tmp_path / "net", trainer, 3, data=data, auto_join=False) as net:
            for name, spec in specs.items():
                net.hold = True  # everybody's patients are in the first round
                studies[name] = await net.create(spec)
                await enrol(net, studies[name], name)
                net.hold = False
            for study in studies.values():
                await net.finish(study)
                for node in net.nodes.values():
                    await net.until(partial(holds_head, node, study))
            keys = [keystore.at_rest_key(seating.ring) for seating in net.seatings]
            homes = [seating.home for seating in net.seatings]
            for i, home in enumerate(homes):
                back_up(home, tmp_path / f"kept-{i}")
            batches = []
            for hospital in ERASED:
                node = net.nodes[hospital]
                for name in studies:
                    asked = await node.erasing.request(node, patient=f"patient-{hospital}-{name}-0")
                    batches.append((hospital, Digest.from_hex(asked["erasure"])))
            for hospital, batch in batches:
                await until_ready(net, hospital, batch)
                await receipt(net.nodes[hospital], batch)
            history = net.nodes[0].history
            await net.until(
                lambda: all(state_of(history.erasures[batch], history).value == "closed" for _, batch in batches), 240
            )
    finally:
        trainer.end()

    left = [[(home, key)] for home, key in zip(homes, keys, strict=True)]
    kept = [[(tmp_path / f"kept-{i}", keys[i]), *left[i]] for i in range(3)]
    honest = attack(left, history, studies, specs, data)
    cheat = attack(kept, history, studies, specs, data)
    assert honest.pairs == {("models", False), ("updates", False)}, "a member still holds a pair"
    assert cheat.pairs == {("models", True), ("updates", True)}
    for view in ("models", "updates"):
        for score in ("cosine", "loss"):
            mean, count = honest.mean(["careful"], view, score)
            assert count == len(CAREFUL) * len(ERASED) == 12
            assert 0.15 < mean < 0.85, (view, score)
            mean, count = honest.mean(["careful", CARELESS], view, score)
            assert count == 18
            assert 0.2 < mean < 0.8, (view, score)
    # The attack works for who kept the pair, where steps went over all records at once. An update pair differs by one
    # record, a pair of agreed models by one of each hospital.
    assert cheat.ranks[CARELESS, "updates", "cosine"] == [0.0] * 6
    assert np.median(cheat.ranks[CARELESS, "models", "cosine"]) < 0.02
    assert cheat.mean([CARELESS], "updates", "loss")[0] < 0.15
