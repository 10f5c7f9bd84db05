"""The doors in memory: a ledger with the contracts' rules and a transport without sockets.

What may live here: production fakes, used by `node/simulate.py` and by tests. Each implements the same protocol as its
real counterpart (`node/ledger.py`, `node/transport.py`), takes no shortcut that one does not take, and passes the same
tests. The files of the ledger read like the contracts: `membership`, `consent`, `training` (with `study`, `rounds`) and
`unlearning` on the `machine` that undoes what a refused call did.
"""
