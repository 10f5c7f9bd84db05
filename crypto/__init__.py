"""Bytes: hashing, keys, signed statements, sealing and Merkle proofs."""
