"""Where the networks of other shards stood: what a replay in shards needs of the line it replaces.

A study in shards trains several networks apart (`fl_engine/models/shards.py`), and an erasure touches that of its
hospital alone. Members of the other shards keep their own network out of the last model before it is deleted, bring
their shard there in the replay's first round (or in their first one after it, where nobody of the shard took part), and
forget it. Nothing of the erased records is in it. Where a member has not kept it, it trains its shard again as the
touched one is trained.

What may live here: whether a member keeps its network, and its place. What this file does not know: how an update is
made of it (`node/training.py`), what is trained (`node/participant.py`), when models go (`node/erasing/purge.py`).
"""

from __future__ import annotations

from crypto.digest import Digest
from fl_engine.unlearning import Need
from node import methods
from node.erasure import checkpoint_of, place_of, replaced_rounds
from node.history import ErasureHistory, History, RoundHistory
from node.membership import members_of
from node.store import Store
from node.training import Arithmetic


def keep(store: Store, history: History, erasure: ErasureHistory, arithmetic: Arithmetic, me: int) -> None:
    """Keep our shard's network of the last model that is replaced, where the replay does not train it.

    An older model has the same one where nobody of our shard was in a round after it: whoever was away has no newer.
    It is a content of a kind of its own: byte for byte it may be a model of another study, which stays when it goes.
    What was kept for an older line goes: no round opens there any more, and this erasure may be of what is in it.
    """
    plan, opened = erasure.plan, erasure.opened
    if plan is None or arithmetic.shards.count == 1:
        return
    for batch, other in history.erasures.items():
        if other.opened.study == opened.study and other.plan is not None and other.plan.branch < plan.branch:
            forget(store, batch)
    method, line = methods.numbered(plan.method), history.studies[plan.study].active_branch
    if method is None or Need.SHARDS not in method.needs or plan.branch != line or store.meta(_name(opened.batch)):
        return
    of = arithmetic.shards.of
    if of(me) == of(opened.controller):
        return
    for one in reversed(replaced_rounds(history, plan)):
        assert one.final is not None
        model = one.final.result.model_root
        if store.has(model):
            root = store.put("shard", arithmetic.network_of(store.get(model), me))
            store.set_meta(_name(opened.batch), root.hex())
            return
        if any(of(member) == of(me) for member in members_of(one.final.result.included)):
            return


def kept(store: Store, history: History, one: RoundHistory, arithmetic: Arithmetic, me: int) -> bytes | None:
    """The network that our shard is brought to in a round; None: it is trained, also where none was kept.

    It is while the replay runs, and after it where nobody of our shard took part: the shard is still at the checkpoint.
    Else it is forgotten here.
    """
    branch = history.studies[one.opened.study].branches[one.opened.branch]
    if branch.parent is None or arithmetic.shards.count == 1:
        return None
    root = store.meta(_name(branch.batch))
    if not root or not store.has(Digest.from_hex(root)):
        return None
    plan = history.erasures[branch.batch].plan
    assert plan is not None
    network = store.get(Digest.from_hex(root))
    running = branch.given_up is None and place_of(history, one) < plan.rounds
    if running or _is_behind(store, plan.base_model, one.opened.parent_model, network, arithmetic, me):
        return network
    forget(store, branch.batch)
    return None


def settle(store: Store, history: History, erasure: ErasureHistory, arithmetic: Arithmetic, me: int) -> None:
    """The replay is over: our network is forgotten, unless its shard is still at the checkpoint and waits for it.

    Whoever comes back and has no model of the replay yet keeps it until it trains, and can tell.
    """
    root, plan = store.meta(_name(erasure.opened.batch)), erasure.plan
    reached = None if plan is None else checkpoint_of(history, plan)
    if root and store.has(Digest.from_hex(root)) and plan is not None and reached is not None:
        network = store.get(Digest.from_hex(root))
        if not store.has(reached.model) or _is_behind(store, plan.base_model, reached.model, network, arithmetic, me):
            return
    forget(store, erasure.opened.batch)


def _is_behind(store: Store, base: Digest, model: Digest, network: bytes, arithmetic: Arithmetic, me: int) -> bool:
    """Whether our shard of a model is where it was at the checkpoint, and the network that we have is not."""
    if not (store.has(base) and store.has(model)):
        return False
    first, now = (arithmetic.network_of(store.get(root), me) for root in (base, model))
    return now == first != network


def forget(store: Store, batch: Digest) -> None:
    """A network is not needed any more."""
    root = store.meta(_name(batch))
    if root:
        store.remove(Digest.from_hex(root))
        store.set_meta(_name(batch), "")


def _name(batch: Digest) -> str:
    return f"shard {batch.hex()}"
