"""How long old updates were: all that a replay by an approximate method needs of them once they are purged.

A method that gives new updates the lengths of those they stand for (`Retraining.length_of`) asks each member for one
number a round. A member keeps it before it deletes the updates, and forgets it when the erasure is over. Nobody else
learns it but by the update that it shapes.

What may live here: which lengths a member keeps, and their place. What this file does not know: how an update is opened
(`node/erasing/sets.py`), what is trained (`node/participant.py`).
"""

from __future__ import annotations

import json
from collections.abc import Callable

from crypto.digest import Digest
from fl_engine.models.shards import Shards
from fl_engine.params import Ints
from fl_engine.unlearning.integers import squared_norm
from fl_engine.unlearning.unlearner import length_for
from node import methods
from node.erasure import place_of, replaced_by, replaced_rounds
from node.history import ErasureHistory, History, RoundHistory
from node.membership import members_of
from node.records import ErasurePlanned
from node.store import Store

Values = Callable[[RoundHistory, int], Ints | None]
"""Round, member -> the integers of its included update, None where they cannot be read here any more."""


def wanted(erasure: ErasureHistory) -> int:
    """How many rounds of the planned replay take old lengths."""
    plan = erasure.plan
    return 0 if plan is None or _source(plan, 0) is None else plan.rounds


def keep(
    store: Store, history: History, erasure: ErasureHistory, number: int, me: int, shards: Shards, values: Values
) -> None:
    """Keep the length for our update of replayed round `number`, unless it is: what is purged cannot tell it again.

    Of a study in `shards` it is made of our own shard's updates: no other's records may show in it.
    """
    batch = erasure.opened.batch
    old, lengths = None if erasure.plan is None else _stands_for(history, erasure.plan, number), _read(store, batch)
    if old is None or old.opened.round_id.hex() in lengths:
        return
    lengths[old.opened.round_id.hex()] = _length(old, erasure.opened.controller, me, shards, values)
    store.set_meta(_name(batch), json.dumps(lengths))


def kept(store: Store, history: History, one: RoundHistory) -> int:
    """The squared length (grid units) for our update of a round; 0: as it is trained, also where none was kept."""
    branch = history.studies[one.opened.study].branches[one.opened.branch]
    if branch.parent is None:
        return 0
    plan = history.erasures[branch.batch].plan
    place = place_of(history, one)
    old = None if plan is None or place >= plan.rounds else _stands_for(history, plan, place)
    return 0 if old is None else _read(store, branch.batch).get(old.opened.round_id.hex(), 0)


def forget(store: Store, batch: Digest) -> None:
    """The erasure is over: none of its lengths is needed."""
    if store.meta(_name(batch)):
        store.set_meta(_name(batch), "")


def _length(one: RoundHistory, controller: int, me: int, shards: Shards, values: Values) -> int:
    assert one.final is not None
    ours = [member for member in members_of(one.final.result.included) if shards.of(member) == shards.of(me)]
    untouched = [member for member in ours if member != controller]
    found = {}
    for member in (me,) if me in untouched else untouched:
        sent = values(one, member)
        if sent is not None:
            found[member] = squared_norm(sent)
    return length_for(me, found)


def _stands_for(history: History, plan: ErasurePlanned, number: int) -> RoundHistory | None:
    """The old round whose lengths round `number` of a replay takes; None: its method takes none.

    A line that a method of fewer rounds made before has fewer models than it counts for: they are spread over them.
    """
    place = _source(plan, number)
    if place is None:
        return None
    old = replaced_rounds(history, plan)
    return old[place * len(old) // replaced_by(history, plan)] if old else None


def _source(plan: ErasurePlanned, number: int) -> int | None:
    """Which of the rounds that count as replaced gives the lengths for round `number`; None: the method takes none."""
    method = methods.numbered(plan.method)
    if method is None or method.retraining is None or method.retraining.length_of is None:
        return None
    return method.retraining.length_of(number, method.defaults)


def _read(store: Store, batch: Digest) -> dict[str, int]:
    text = store.meta(_name(batch))
    return json.loads(text) if text else {}


def _name(batch: Digest) -> str:
    return f"lengths {batch.hex()}"
