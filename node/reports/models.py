"""One model: where it stands on the ledger, whether it was built on records that were erased since, who was given it.

A model is tainted once a plan is on the chain that condemns the round that made it: it, or a model that it came from,
was made with an update of records that are being erased. It stays so, wherever a copy is; what ends is that there is
nothing better: when the replay is confirmed and serves, the taint names the model that replaces it.

The ledger knows only agreed models. Copies that left a home, and models that somebody made from an agreed one
(fine-tunes), are known as far as the home's own log says: `model_export` with its recipient, `model_noted` with its
parent. They are tainted with their model, and replaced when whoever holds them was given, or made theirs anew from, a
model of the same study that is not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from crypto.digest import Digest
from node.erasure import OVER, doomed_models, included_rounds, influenced_from, is_overdue, replays, state_of
from node.errors import InputError, NotFound
from node.history import ErasureHistory, History
from node.reports.processing import EXPORT

NOTED: Final = "model_noted"
"""Kind of the log's entries about models that were made from another one outside of the network's rounds."""
STANDINGS: Final = ("not serving yet", "superseded", "current")
"""Of a model without a taint, the one that counts first where it was made from several."""
LEAST_DIGITS: Final = 4


@dataclass(frozen=True, slots=True)
class Copy:
    """What the log says of a model outside: an export (`parent` is the model itself), or one made from `parent`."""

    time: float
    kind: str
    root: Digest
    parent: Digest
    holder: str


def copies_of(log: Iterable[tuple[float, str, Mapping[str, Any]]]) -> list[Copy]:
    """The copies and fine-tunes that a home's log tells of, oldest first."""
    found = []
    for time, kind, body in log:
        if kind == EXPORT:
            root = Digest.from_hex(str(body["model_root"]))
            found.append(Copy(time, kind, root, root, str(body.get("recipient") or "")))
        elif kind == NOTED:
            root, parent = (Digest.from_hex(str(body[name])) for name in ("model_root", "parent"))
            found.append(Copy(time, kind, root, parent, str(body["by"])))
    return found


@dataclass(frozen=True, slots=True)
class Place:
    """Where the ledger has a model: after this height of this branch; height 0 of branch 0 is a study's first model."""

    study: Digest
    branch: int
    height: int


def places(history: History) -> Iterator[tuple[Digest, Place]]:
    """Every agreed model with its place; bytes that were agreed twice have two."""
    for number, study in history.studies.items():
        yield study.created.terms.initial_model, Place(number, 0, 0)
        for branch in study.branches.values():
            for height, round_id in sorted(branch.rounds.items()):
                final = history.rounds[round_id].final
                if final is not None and final.result.outcome == 1:
                    yield final.result.model_root, Place(number, branch.number, height)


class Models:
    """The models that a ledger and a home's log know, and what became of them."""

    def __init__(self, history: History, copies: Iterable[Copy] = ()) -> None:
        """Look through the ledger once."""
        self._history = history
        self._copies = list(copies)
        self._places: dict[Digest, list[Place]] = {}
        for root, place in places(history):
            self._places.setdefault(root, []).append(place)
        self._parents: dict[Digest, list[Digest]] = {}
        for one in self._copies:
            if one.kind == NOTED:
                self._parents.setdefault(one.root, []).append(one.parent)
        self._doomed = [
            (batch, one, doomed_models(history, one.plan))
            for batch, one in history.erasures.items()
            if one.plan is not None and replays(one.plan)
        ]

    def find(self, start: str) -> Digest:
        """A model by its root or the beginning of it.

        Raises:
            InputError: too little of it, or several begin so.
            NotFound: neither the ledger nor the log has it.
        """
        text = start.lower().removeprefix("0x")
        if not LEAST_DIGITS <= len(text) <= 64 or not set(text) <= set("0123456789abcdef"):
            raise InputError(f"{start[:80]!r} is no file, and no root of a model: {LEAST_DIGITS} to 64 hex digits")
        fits = [root for root in dict.fromkeys([*self._places, *self._parents]) if root.hex().startswith(text)]
        if len(fits) > 1:
            raise InputError(f"{len(fits)} models begin with {text}; name one of {', '.join(r.hex() for r in fits)}")
        if not fits:
            raise NotFound(f"no model {text} is on this ledger or in this home's log")
        return fits[0]

    def is_agreed(self, root: Digest) -> bool:
        """Whether it is a model of the ledger."""
        return root in self._places

    def origins(self, root: Digest) -> list[Digest]:
        """The agreed models that a model was made from, through others where it must; itself if it is one.

        Raises:
            NotFound: the root is unknown.
        """
        found = [one for one in self._above(root) if one in self._places]
        if not found:
            raise NotFound(f"no model {root.hex()} is on this ledger or in this home's log")
        return found

    def descends(self, root: Digest, ancestor: Digest) -> bool:
        """Whether a model is this one, or was made from it, through others where it must."""
        return ancestor in self._above(root)

    def _above(self, root: Digest) -> list[Digest]:
        """A model and all that it was made from by the log."""
        found = [root]
        for one in found:
            found += [parent for parent in dict.fromkeys(self._parents.get(one, ())) if parent not in found]
        return found

    def is_tainted(self, root: Digest) -> bool:
        """Whether a model, or one that it was made from, was built on records that a plan erases."""
        return bool(self._taints(self.origins(root)))

    def report(self, root: Digest, now: int) -> dict[str, Any]:
        """All that is known of a model at `now` (unix seconds).

        Returns:
            {model_root, made_from, state, tainted, places, erasures, replaced_by, undecided, copies}. `made_from` are
            the agreed models behind one of the log, none for an agreed one. `state` is one of `current`, `superseded`,
            `not serving yet`, `tainted` (no model replaces it yet), `replaced`.

        Raises:
            NotFound: the root is unknown.
        """
        origins = self.origins(root)
        taints = self._taints(origins)
        by = self._replacement(taints)
        if taints:
            state = "tainted" if by is None else "replaced"
        else:
            state = min((self._standing(one) for one in origins), key=STANDINGS.index)
        return {
            "model_root": root.hex(),
            "made_from": [one.hex() for one in origins if one != root],
            "state": state,
            "tainted": bool(taints),
            "places": [
                {
                    "study": one.study.hex(),
                    "branch": one.branch,
                    "round": one.height,
                    "serves": self._serves(origin, one),
                }
                for origin in origins
                for one in self._places[origin]
            ],
            "erasures": [self._taint(batch, one, now) for batch, one in taints],
            "replaced_by": None if by is None else by.hex(),
            "undecided": [batch.hex() for batch in self._undecided(origins)],
            "copies": [self._copy(one) for one in self._copies if self.descends(one.parent, root)],
        }

    def _serves(self, root: Digest, place: Place) -> bool:
        """Whether the model of this place is the newest of the branch that serves."""
        study = self._history.studies[place.study]
        branch = study.branches[study.serving_branch]
        return root == branch.models[max(branch.models)]

    def _standing(self, root: Digest) -> str:
        found = self._places[root]
        if any(self._serves(root, one) for one in found):
            return "current"
        waiting = [
            one
            for one in found
            if one.branch > (study := self._history.studies[one.study]).serving_branch
            and one.branch == study.active_branch
        ]
        return "not serving yet" if waiting else "superseded"

    def _taints(self, roots: Iterable[Digest]) -> list[tuple[Digest, ErasureHistory]]:
        known = set(roots)
        return [(batch, one) for batch, one, doomed in self._doomed if doomed & known]

    def _replacement(self, taints: list[tuple[Digest, ErasureHistory]]) -> Digest | None:
        """The confirmed model of the newest of these erasures whose branch serves; what replaced that, if it was."""
        for _, one in reversed(taints):
            if one.moved and one.confirmed is not None:
                head = one.confirmed.head_model
                later = self._taints([head])
                return self._replacement(later) if later else head
        return None

    def _taint(self, batch: Digest, one: ErasureHistory, now: int) -> dict[str, Any]:
        return {
            "erasure": batch.hex(),
            "hospital": self._history.registry.members[one.opened.controller].name,
            "state": state_of(one, self._history).value,
            "due_at": one.due_at,
            "overdue": is_overdue(one, now),
            "replaced_by": one.confirmed.head_model.hex() if one.moved and one.confirmed is not None else None,
        }

    def _undecided(self, origins: list[Digest]) -> list[Digest]:
        """Erasures without a plan that may come to condemn it: an update of their hospital is in its line."""
        return [
            batch
            for batch, one in self._history.erasures.items()
            if one.plan is None
            and state_of(one, self._history) not in OVER
            and any(
                included_rounds(self._history, at.study, at.branch, at.height, one.opened.controller)
                or influenced_from(self._history, at.study, at.branch, at.height, one.opened.controller) is not None
                for origin in origins
                for at in self._places[origin]
                if at.study == one.opened.study
            )
        ]

    def _copy(self, one: Copy) -> dict[str, Any]:
        tainted = self.is_tainted(one.root)
        better = self._better(one) if tainted else None
        return {
            "kind": "export" if one.kind == EXPORT else "made from it",
            "model_root": one.root.hex(),
            "holder": one.holder,
            "time": int(one.time),
            "tainted": tainted and better is None,
            "replaced_by": None if better is None else better.root.hex(),
        }

    def _better(self, one: Copy) -> Copy | None:
        """What the same holder has had since of the same kind and study that is not tainted; nobody is nobody's."""
        studies = self._studies(one.root)
        for other in self._copies:
            if other.time < one.time or not one.holder or (other.kind, other.holder) != (one.kind, one.holder):
                continue
            if not self.is_tainted(other.root) and studies & self._studies(other.root):
                return other
        return None

    def _studies(self, root: Digest) -> set[Digest]:
        return {place.study for origin in self.origins(root) for place in self._places[origin]}
