"""The vault: the only place where a person and a consent meet, in five compartments that can be destroyed apart.

    compartment  file            holds                                                       opens with
    LINK         link.db         patient -> pseudonym; consent -> patient, form, docSalt     officer's + node's key
    USE          use.db          what rounds need, by pseudonym: row numbers, consents with  node's key
                                 their openings, cards, proofs; forms sealed for ARCHIVE
    RESEARCH     research.db     the imported copy: one file and one key a patient, under a  node's key
                 data/*.bin      random pseudonym
    ARCHIVE      archive.db      what must be kept after an erasure: decision, days; no      node's key; the person and
                                 consent id                                                  the form: officer's key
    SUPPRESSION  suppression.db  keyed hashes of patients not to be enrolled again           asked with officer's key

The officer is the hospital's data-protection officer (`dpo` in `node/roles.py`). Their key is never stored: it comes
with an order and goes with it (`Vault.unlocked`), for the task that carries the order out and no other. So the node
that runs unattended trains, withdraws, erases and destroys without being able to say whose record is whose.

What may live here: these files, their keys (`keys.json`, sealed under the node's at-rest key), and the acts on them.
What this package does not know: the network, the rules of use (`node/consent.py`), how a grant reaches the chain
(`node/enrolment.py`). Its rooms, each of which knows only rooms that stand before it:

- `compartment`: sealed rows under a key that can be destroyed, the key file, the overwriting of files.
- `link`: LINK behind the officer's key. `copies`: RESEARCH and `data/`. `consents`: what USE says of a consent.
- `vault`: the acts on all of them, in their order of writes; `Vault` is all that others use.

Rules
- Nothing personal is on disk in the clear: every value is sealed (AES-256-GCM), every name is a keyed hash.
- Deleting means: the row leaves its table (secure_delete), the compartment is re-encrypted under a fresh key, the old
  key is overwritten, the write-ahead log is folded in and cut, the file is overwritten before it is unlinked. A copy of
  a database without the key file of its day opens no more; a backup that holds both still does (and is why a restored
  vault must `reapply` the chain before it is used).
- Overwriting reaches what the file system lets it reach: a snapshot or a copy-on-write disk keeps old blocks, those of
  the key file too. Backups and snapshots of `keys.json` need an end date of their own.
- Every act is one transaction a compartment, ordered so that a crash in between is finished or undone by `open`: USE
  says what should be here, LINK, RESEARCH and `data/` follow.
- LINK is opened in one place, `Link.opened`, which tells before it opens (act, consents) and again before it answers.
- A link that is destroyed while the officer's key is away leaves its file at once; the fresh key for what stays follows
  with the next order that brings the officer's key.
- An error names a row or a count, never a patient.

Trusted: whoever has the at-rest key with everything but who is who; whoever has the officer's key too with that. An
attacker with the files alone learns how many patients and consents there are.
"""

from node.vault.consents import Annex, ArchiveRecord, Holding, Minted, PendingAnchor
from node.vault.copies import ImportReport, Records
from node.vault.link import Tell
from node.vault.vault import Vault

__all__ = ["Annex", "ArchiveRecord", "Holding", "ImportReport", "Minted", "PendingAnchor", "Records", "Tell", "Vault"]
