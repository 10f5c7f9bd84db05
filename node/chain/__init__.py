"""The embedded chain: Ethereum's Prague rules behind JSON-RPC, one process, durable by a journal.

Nothing else in the house knows this room: the node reaches it as it would reach any Ethereum client, by URL. The
files, from the ground up: `errors`, `files`, `genesis` and `journal` (what is on the disk), `clock`,
`evm` (the only door to py-evm), `pool` (what waits to be mined), `index` (logs and receipts by every key they are
asked by), `engine` (all of these as one chain), `codec` and `rpc` (JSON-RPC), `endpoint` and `server` (the process),
`fund` (coin for a newcomer).

The chain has one producer and therefore no forks: what it has answered stays answered, because a block is in the
journal, and the journal on the disk, before anyone is told of it.
"""
