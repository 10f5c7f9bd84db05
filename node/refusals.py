"""Why a contract refused, as one sentence for who reads it: a row for each custom error of the four contracts.

A row is a text with the error's operands in braces, named as in Solidity. What they mean is in the contracts'
interfaces; how they are shown follows from their names here: sets of members as their indexes, phases and states by
name, bytes as hexadecimal digits. The sentence ends with the error's own name, by which the manual has it.
"""

from __future__ import annotations

from typing import Final

from node.errors import CallReverted
from node.membership import members_of

SENTENCES: Final[dict[str, str]] = {
    # Raised by the language
    "Error": "the contract says: {reason}",
    "Panic": "the contract broke a rule of its own language, code {code}",
    # Signatures
    "BadSignature": "the signature given for member {member} is by {recovered} over this statement, not by {expected}",
    "SignaturesLength": "the packed signatures have {length} bytes, their signers need {expected}",
    "NotOnRoster": "members {strangers} sign, but have no vote here",
    "QuorumNotReached": "there are {votes} equal votes, {needed} decide",
    "SeatNotSigned": "the seat of {ledger} is signed by {recovered}, not by its own key",
    # Membership
    "TooFewFounders": "a network is founded by at least two members, {members} are given",
    "NetworkFull": "a network has room for 32 member indexes, {given} are given",
    "PeerIdLength": "a peer id has 1 to 64 bytes, this one has {length}",
    "NameLength": "a name has 1 to 64 bytes, this one has {length}",
    "NoSealingKey": "the seat of {ledger} has no sealing key",
    "LedgerTaken": "the ledger address {ledger} has a seat already",
    "PeerTaken": "the peer id {peerId} has a seat already",
    "LastMembers": "member {index} is one of the last two, and a network keeps two",
    "TermOver": "the term ends at {termEnd}, and it is {timestamp}",
    "RosterNotStored": "the members' addresses could not be stored",
    "NotActive": "member {index} is not an active member, or not one of this round",
    "MisplacedContract": "the network expects this contract at {expected}, it lies at {got}",
    "KeysNotSigned": "the keys of member {index} want a signature by {expected}, this one is by {recovered}",
    "RotatedLately": "member {index} changed its keys lately; it may again at {next}",
    "AnnouncementNotNewer": "member {member} has announced address number {announced}, number {number} is not newer",
    "AddressLength": "the address has {length} bytes, at most 256 are allowed",
    "LogNotLonger": "the log of member {member} is anchored up to line {anchored}, line {entries} is not beyond",
    "NoAuditor": "no auditor has seat {seat}",
    "SeatedForAnother": "auditor's seat {seat} is for study {seated}, not for {study}",
    "AuditOpenedBefore": "member {member} opened study {study} to auditor's seat {seat} before",
    "VotesOrder": "votes come one a member in ascending order; the one of member {member} does not",
    "NetworkMoved": "the members of this network go on with the deployment at {successor}: decide there",
    "NotSuccessor": "the network named {named} as its successor",
    "SeatsWanted": "the network before gave {wanted} indexes or seats, the founding names {got}",
    "SeatChanged": "index or seat {index} is {expected}'s at the network before, the founding names {got}",
    "InvalidShortString": "a stored text is not in its short form",
    "StringTooLong": "the text {str} is too long to be stored",
    # ConsentRegistry
    "FormKnown": "form {formId} is registered already",
    "FormWithoutPermission": "the form's purposes {purposes} hold no permission: such a form allows nothing",
    "FormUnknownPurposes": "the bits {bits} of the form's purposes stand for no code of the Data Use Ontology",
    "FormField": "the form's {field} cannot be {got}",
    "AlreadyWithdrawn": "consent {consentId} is withdrawn already",
    "OnlyMembership": "only Membership may say whose key changed, not {caller}",
    "NotGrantedBy": "consent {consentId} was not granted by member {member}",
    "StillMember": "member {index} is still a member and withdraws its consents itself",
    # TrainingLedger: studies
    "BadTerms": "the study's {field} cannot be {got}",
    "StudyKnown": "study {study} exists already",
    "StudyUnknown": "there is no study {study}",
    "StudyNotAtRest": "study {study} has round {openRound} open, or a fork that {forkState}: it moves when both ended",
    "NotInvited": "member {index} is not invited to study {study}",
    "AlreadyJoined": "member {index} has joined study {study} already",
    "AlreadyLeft": "member {index} has left study {study} for good",
    "NothingToOpen": "no round of study {study} can open now",
    # TrainingLedger: rounds
    "RoundNotOpen": "round {roundId} is not the open round of study {study}, which is {open}",
    "WrongPhase": "round {roundId} is in {phase} of attempt {attempt}, when this is not accepted",
    "WrongSet": "the result decides over members {got}, the round's set is {expected}",
    "IncludedAndInvalid": "members {members} are both included and invalid",
    "BadCode": "member {index} has code {code}, codes end at 8",
    "WrongOutcome": "outcome {outcome} does not go with {included} included members of at least {least}",
    "ModelChanged": "a round without a result keeps model {expected}, the result names {got}",
    "NoModel": "the model root is zero",
    "WrongCommitRoot": "the commitments of the round have root {expected}, the result names {got}",
    # TrainingLedger: evidence and audits
    "BadKind": "there is no kind {kind} of contradiction",
    "BadEvidence": "statement {which} has {length} bytes, statements of this kind have {expected}",
    "OffSubject": "statement {which} does not name this round, member or attempt",
    "NoContradiction": "both statements say the same",
    "AlreadyKnown": "this was reported or announced already, as {id}",
    "NoSuchSeat": "seat {seat} may not audit this study now",
    "BadRange": "heights {from} to {to} are no range",
    # TrainingLedger: branches
    "OnlyUnlearning": "only the UnlearningRegistry may say this, not {sender}",
    "ForkActive": "a plan of study {study} is not confirmed yet",
    "ForkState": "the fork of study {study} is in state {state}, when this is not accepted",
    "NotOnAncestry": "height {height} of branch {branch} is not on the way to the branch that trains",
    "WrongCheckpoint": "the proof of the checkpoint leads to {got}, the study has {expected}",
    "TooManyRounds": "a branch would make {rounds} models in place of {finals}",
    "BadTarget": "height {target} cannot be replayed up to, only {first} to {last}",
    # UnlearningRegistry
    "BatchKnown": "erasure {batch} is open already",
    "BatchUnknown": "there is no erasure {batch}",
    "Missing": "the statement's {field} is missing",
    "NotController": "member {got} is not the controller, member {expected} is",
    "WrongState": "erasure {batch} is in state {state}, when this is not accepted",
    "WrongStep": "step {got} of the erasure comes where step {expected} is due",
    "TooEarly": "this is accepted after {until}, and it is {timestamp}",
    "RoundInFlight": "the round opened at {openedAt} may still use what was excluded at {excludedAt}",
    "NotCaughtUp": "branch {branch} has not caught up with the models it replays",
    "InventoriesLength": "there are {length} inventories for {expected} members",
    "DueTooLate": "an erasure cannot be due at {dueAt}, a month ends at {last}",
    "AlreadyExtended": "the due date of erasure {batch} was extended before, to {dueAt}",
    "ExtensionTooLate": "the due date {dueAt} has passed, and it is {timestamp}",
    "ExtensionOutOfBounds": "an extension leads to a date from {first} to {last}, not to {dueAt}",
    "WrongLevel": "no auditor attests evidence of level {level} about this erasure",
    "AttestedBefore": "auditor's seat {seat} attested evidence of level {level} about erasure {batch} before",
}
"""Custom error -> its sentence."""

PHASES: Final = ("no phase", "training", "reveal", "have", "vote", "failed")
STATES: Final = (
    "none requested authorised excluded copy_deleted planned confirmed certificate_delivered link_destroyed "
    "closed closed_with_exceptions refused"
).split()
FORKS: Final = ("none", "waits for the open round", "replaying", "waits for the verdicts")

SETS: Final = {
    "NotOnRoster": ("strangers",),
    "WrongSet": ("expected", "got"),
    "IncludedAndInvalid": ("members",),
}
"""Error -> operands that are bitmaps of members."""

NAMED: Final = {
    ("WrongPhase", "phase"): PHASES,
    ("WrongState", "state"): STATES,
    ("ForkState", "state"): FORKS,
    ("StudyNotAtRest", "forkState"): FORKS,
}
"""(error, operand) -> the names of its values."""


def refusal(error: str, operands: dict[str, object]) -> CallReverted:
    """The error of a call that a contract refused."""
    sentence = SENTENCES.get(error)
    if sentence is None:  # of another version of the contracts
        return CallReverted.of(error, operands)
    shown = {name: _shown(error, name, value) for name, value in operands.items()}
    return CallReverted(f"the contract refused the call: {sentence.format_map(shown)} ({error})", error, operands)


def _shown(error: str, name: str, value: object) -> str:
    if isinstance(value, bytes):
        return "0x" + value.hex()
    if isinstance(value, int) and name in SETS.get(error, ()):
        return ", ".join(map(str, members_of(value))) or "none"
    names = NAMED.get((error, name))
    if names is not None and isinstance(value, int) and value < len(names):
        return names[value]
    return str(value)
