"""Reports for people outside: the chain, a study's specification and a node's own log in; a document out.

What may live here: pure functions, one file a report. What these files do not know: the chain's client, the network,
files, the clock. What each report contains and what it does not show is said in docs/REPORTS.md.
"""
