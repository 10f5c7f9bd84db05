"""Where a study's models come from, as W3C PROV (https://www.w3.org/TR/prov-dm/), written as PROV-JSON.

What may live here: the mapping from the folded history to PROV, as the table below says it. What this file does not
know: patients and consents (none is named, none is counted), files, the chain.

    entity    model (by root), update of a member (by root), data set of a member (by root)
    activity  round, replay of an erasure, access of an auditor; each with its block times
    agent     member, auditor's seat, contract

    model    wasGeneratedBy round        round   used             parent model, included updates
    model    wasDerivedFrom parent model, included updates       update wasDerivedFrom parent model, data set
    update   wasGeneratedBy round        update, data set wasAttributedTo member
    round    wasAssociatedWith members (trainer, voter) and contract; wasInformedBy its replay
    replay   wasAssociatedWith controller, verifiers and contract; used the model it starts from
    model    wasInvalidatedBy replay     at the block time at which the replayed branch began to serve

A round that fails or has no result makes no model: the one before it stays. A model is invalidated when it lies above
the height at which an erasure's branch left the old one, and its bytes do not also serve on the new line.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

from prov.identifier import Identifier, Namespace, QualifiedName
from prov.model import PROV, PROV_ROLE, PROV_TYPE, ProvDocument

from crypto.digest import Digest
from node import methods
from node.erasure import doomed_rounds, is_replaying
from node.errors import NotFound
from node.history import ErasureHistory, History, RoundHistory
from node.membership import members_of
from node.records import Committed, Contracts

VOCABULARY: Final = Namespace("koinon", "urn:koinon:vocabulary:")
"""Kinds and attributes."""


def provenance(history: History, study: Digest, contracts: Contracts) -> str:
    """A study's lineage as PROV-JSON (UTF-8 text, one JSON object).

    Args:
        history: the chain.
        study: its study.
        contracts: named as agents; rounds are bound to the training contract, replays to the unlearning contract.

    Raises:
        NotFound: no such study.
    """
    if study not in history.studies:
        raise NotFound(f"no study {study.hex()} on this ledger")
    lineage = _Lineage(history, study, contracts)
    lineage.write()
    return str(lineage.document.serialize(format="json", sort_keys=True))


def _time(seconds: int | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


class _Lineage:
    """One document while it is written: every thing and every relation once."""

    def __init__(self, history: History, study: Digest, contracts: Contracts) -> None:
        self.history = history
        self.study = history.studies[study]
        self.document = ProvDocument()
        self.document.add_namespace(VOCABULARY)
        self.names = self.document.add_namespace("study", f"urn:koinon:study:{study.hex()}:")
        self.contracts = contracts
        self._said: set[tuple[Any, ...]] = set()
        self._rounds = [one for one in history.rounds.values() if one.opened.study == study]
        self._erasures = [
            (batch, one)
            for batch, one in history.erasures.items()
            if one.opened.study == study and one.plan is not None and is_replaying(history, one)
        ]

    def write(self) -> None:
        """Everything, in the order of the chain."""
        self._model(self.study.created.terms.initial_model)
        replays = {one.plan.branch: self._replay(batch, one) for batch, one in self._erasures if one.plan is not None}
        for one in self._rounds:
            self._round(one, replays.get(one.opened.branch))
        for number, (logged, access) in enumerate(self.study.access, 1):
            activity = self.names[f"access-{number}"]
            attributes = {"fromHeight": access.from_height, "toHeight": access.to_height}
            self._activity(activity, "AuditAccess", logged.timestamp, logged.timestamp, attributes)
            self._associated(activity, self._auditor(access.seat), "auditor")
        for auditor in self.history.registry.auditors.values():
            if auditor.serves(self.study.created.study, 0):
                self._auditor(auditor.seat)
        for batch, erasure in self._erasures:
            self._invalidations(batch, erasure)

    # --- agents

    def _once(self, *key: Any) -> bool:
        """Whether this is said for the first time."""
        if key in self._said:
            return False
        self._said.add(key)
        return True

    def _member(self, index: int) -> QualifiedName:
        name = self.names[f"member-{index}"]
        if self._once(name):
            label = self.history.registry.members[index].name
            self.document.agent(
                name, {PROV_TYPE: PROV["Organization"], PROV["label"]: label, VOCABULARY["memberIndex"]: index}
            )
        return name

    def _auditor(self, seat: int) -> QualifiedName:
        name = self.names[f"auditor-{seat}"]
        if self._once(name):
            label = self.history.registry.auditors[seat].name
            self.document.agent(name, {PROV_TYPE: VOCABULARY["Auditor"], PROV["label"]: label})
        return name

    def _contract(self, part: str) -> QualifiedName:
        name = self.names[f"contract-{part}"]
        if self._once(name):
            address: bytes = getattr(self.contracts, part)
            self.document.agent(
                name,
                {
                    PROV_TYPE: PROV["SoftwareAgent"],
                    VOCABULARY["address"]: f"0x{address.hex()}",
                    VOCABULARY["chainId"]: self.contracts.chain_id,
                },
            )
        return name

    # --- entities

    def _entity(self, kind: str, root: Digest) -> QualifiedName:
        name = self.names[f"{kind.lower()}-{root.hex()}"]
        if self._once(name):
            self.document.entity(name, {PROV_TYPE: VOCABULARY[kind], VOCABULARY["root"]: root.hex()})
        return name

    def _model(self, root: Digest) -> QualifiedName:
        return self._entity("Model", root)

    # --- activities

    def _activity(
        self, name: QualifiedName, kind: str, start: int | None, end: int | None, attributes: dict[str, Any]
    ) -> None:
        marks: dict[str | Identifier, Any] = {VOCABULARY[key]: value for key, value in attributes.items()}
        self.document.activity(name, _time(start), _time(end), {PROV_TYPE: VOCABULARY[kind], **marks})

    def _associated(self, activity: QualifiedName, agent: QualifiedName, role: str) -> None:
        if self._once("association", activity, agent, role):
            self.document.association(activity, agent, other_attributes={PROV_ROLE: VOCABULARY[role]})

    def _derived(self, made: QualifiedName, source: QualifiedName) -> None:
        if made != source and self._once("derivation", made, source):
            self.document.derivation(made, source)

    def _used(self, activity: QualifiedName, entity: QualifiedName) -> None:
        if self._once("usage", activity, entity):
            self.document.usage(activity, entity)

    def _round(self, one: RoundHistory, replay: QualifiedName | None) -> None:
        opened, final = one.opened, one.final
        activity = self.names[f"round-{opened.round_id.hex()}"]
        state = "final" if final is not None else "failed" if one.failed is not None else "open"
        attributes = {"branch": opened.branch, "height": opened.height, "state": state}
        self._activity(activity, "Round", opened.opened_at, one.ended_at, attributes)
        self._associated(activity, self._contract("training"), "arbiter")
        if replay is not None:
            self.document.communication(activity, replay)
        parent = self._model(opened.parent_model)
        self._used(activity, parent)
        committed_at = {
            logged.record.member: logged.timestamp for logged in one.logged if isinstance(logged.record, Committed)
        }
        updates = {}
        for index, commit in sorted(one.commits.items()):
            member = self._member(index)
            update, data = self._entity("Update", commit.update_root), self._entity("Dataset", commit.dataset_root)
            updates[index] = update
            self._associated(activity, member, "trainer")
            if self._once("generation", update):
                self.document.generation(update, activity, _time(committed_at.get(index)))
            for thing in (update, data):
                if self._once("attribution", thing, member):
                    self.document.attribution(thing, member)
            self._derived(update, parent)
            self._derived(update, data)
        if final is None:
            return
        for index in members_of(final.signers):
            self._associated(activity, self._member(index), "voter")
        if final.result.outcome != 1:
            return
        model = self._model(final.result.model_root)
        if model != parent and self._once("generation", model):
            self.document.generation(model, activity, _time(one.ended_at))
        self._derived(model, parent)
        for index in members_of(final.result.included):
            self._used(activity, updates[index])
            self._derived(model, updates[index])

    def _replay(self, batch: Digest, one: ErasureHistory) -> QualifiedName:
        assert one.plan is not None
        activity = self.names[f"replay-{batch.hex()}"]
        attributes = {
            "branch": one.plan.branch,
            "baseHeight": one.plan.base_height,
            "targetHeight": one.plan.target_height,
            "method": methods.name_of(one.plan.method),
            "exact": methods.is_exact(one.plan.method),
        }
        self._activity(activity, "ErasureReplay", one.times.get("replaying"), one.times.get("head_moved"), attributes)
        self._associated(activity, self._contract("unlearning"), "arbiter")
        self._associated(activity, self._member(one.opened.controller), "controller")
        for index, verdict in sorted(one.verdicts.items()):
            if verdict.confirmed:
                self._associated(activity, self._member(index), "verifier")
        self._used(activity, self._model(one.plan.base_model))
        return activity

    def _invalidations(self, batch: Digest, one: ErasureHistory) -> None:
        plan, moved = one.plan, one.times.get("head_moved")
        if plan is None or moved is None:
            return
        stays = set(self.study.branches[plan.branch].models.values())
        for replaced in doomed_rounds(self.history, plan):
            final = replaced.final
            if final is None or not replaced.made_model:
                continue
            model = self._model(final.result.model_root)
            if final.result.model_root not in stays and self._once("invalidation", model):
                self.document.invalidation(model, self.names[f"replay-{batch.hex()}"], _time(moved))
