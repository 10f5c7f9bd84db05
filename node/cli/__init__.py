"""The command line `koinon`: a noun a file, thin. Commands ask a node or read a home; the rules are elsewhere."""
