"""The offline audit: re-executes everything a home holds, with nothing running and no network.

`verify` is the list of checks and their order; `home` reads a home that may be damaged; `records` re-checks the
contracts' rules record by record; `checks`, `rounds` and `erasures` hold the checks themselves. Nothing here raises on
what it reads: damage is a finding, with where it is and both values.
"""
