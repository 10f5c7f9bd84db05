"""What a node does about erasures: requests in, duties out, and the certificate at the end.

What may live here: the duties behind the acts of `node/erasure.py` (exclude, delete, open, vote, purge, attest,
confirm, deliver, destroy), and the looking up of what that machine decides on. Every rule is there; here it is carried
out, in the order *persist, then speak, then do*. What this package does not know: rounds, sockets, who typed the order.

The rooms, in the order in which an erasure passes through them:

- `requests`: a patient's request, until a batch with it is on the chain; `relays`: one that comes by another hospital.
- `decisions`: what the patient's hospital decides: to refuse, to extend, to authorise and exclude.
- `sets`: what the hospital's sets say of the use of a consent.
- `plans`: which plan follows, and the votes for it.
- `purge`: what must go, that it goes, and the word that it is gone.
- `verdict`: whether the replay made what it had to.
- `handover`: certificate and annex, the end of the link to the person, the closing.
- `archive`: what the law makes the hospital keep. `standing`: where an erasure stands, for whoever asks.

Under them are `books`, where every room looks things up, over them `shell`, which looks what is due and starts it. A
room knows only rooms that stand before it in `shell`.

Everything is looked up anew before every step, from the chain and the node's own store, and every duty may be done
again: a crash between two lines costs a repetition. Duties that wait for peers or for the chain run in tasks of their
own, so that a dead peer never delays a look at the chain.
"""

from node.erasing.archive import SETS_LOST
from node.erasing.books import Surroundings
from node.erasing.shell import Erasing

__all__ = ["SETS_LOST", "Erasing", "Surroundings"]
