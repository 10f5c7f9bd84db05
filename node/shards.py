"""Where the networks of other shards stood: what a replay in shards needs of the line it replaces.

A study in shards trains several networks apart (`fl_engine/models/shards.py`), and an erasure touches that of its
hospital alone. Members of the other shards keep their own network out of the last model before it is deleted, bring
their shard there in the replay's first round, and forget it when the erasure is over. Nothing of the erased records is
in it. Where a member has not kept it, it trains its shard again as the touched one is trained.

What may live here: whether a member keeps its network, and its place. What this file does not know: how an update is
made of it (`node/training.py`), what is trained (`node/participant.py`), when models go (`node/erasing.py`).
"""

from __future__ import annotations

from crypto.digest import Digest
from fl_engine.unlearning import Need
from node import methods
from node.erasure import method_of, replaced_rounds
from node.history import ErasureHistory, History, RoundHistory
from node.store import Store
from node.training import Arithmetic


def keep(store: Store, history: History, erasure: ErasureHistory, arithmetic: Arithmetic, me: int) -> None:
    """Keep our shard's network of the last model that is replaced, where the replay does not train it.

    It is a content of a kind of its own: byte for byte it may be a model of another study, which stays when it goes.
    What was kept for another erasure of the study goes: one is replayed at a time, and this one may delete it.
    """
    plan, opened = erasure.plan, erasure.opened
    for batch, other in history.erasures.items():
        if other.opened.study == opened.study and batch != opened.batch:
            forget(store, batch)
    method = None if plan is None else methods.numbered(plan.method)
    if plan is None or method is None or Need.SHARDS not in method.needs or store.meta(_name(opened.batch)):
        return
    of, replaced = arithmetic.shards.of, replaced_rounds(history, plan)
    if of(me) == of(opened.controller) or not replaced:
        return
    final = replaced[-1].final
    assert final is not None
    if store.has(final.result.model_root):
        root = store.put("shard", arithmetic.network_of(store.get(final.result.model_root), me))
        store.set_meta(_name(opened.batch), root.hex())


def kept(store: Store, history: History, one: RoundHistory) -> bytes | None:
    """The network that our shard is brought to in a round; None: it is trained, also where none was kept."""
    method = method_of(history, one)
    if method is None or Need.SHARDS not in method.needs:
        return None
    name = _name(history.studies[one.opened.study].branches[one.opened.branch].batch)
    root = store.meta(name)
    return store.get(Digest.from_hex(root)) if root and store.has(Digest.from_hex(root)) else None


def forget(store: Store, batch: Digest) -> None:
    """The erasure is over: its network is not needed."""
    root = store.meta(_name(batch))
    if root:
        store.remove(Digest.from_hex(root))
        store.set_meta(_name(batch), "")


def _name(batch: Digest) -> str:
    return f"shard {batch.hex()}"
