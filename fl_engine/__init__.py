"""koinon's learning room: integer models, deterministic aggregation, local training, data readers.

The core (`errors`, `params`, `ring`, `rng`, `aggregation`, `evaluate`) needs numpy only; torch is imported inside the
functions that train or predict, so a process that only aggregates or audits never loads it. Nothing here knows of the
network, the ledger or keys; nothing reads a clock or a global random state. Files are opened only by the readers of
`fl_engine.data`, and only the path they are given (plus the package cache of `fl_engine.data.fetch`).

`ALGORITHMS.md` beside this file gives every formula with its source and limits.
"""
