"""Unlearning methods as the network knows them: the number of each in a plan, and which ones its members carry out.

What may live here: numbers, and reasons that hold in every study. What a method does is in `fl_engine/unlearning`; who
chooses one and who votes on it is in `node/erasing/plans.py`.

The members carry out a method whose rounds are the study's own but for what a member computes from its records
(`Unlearner.retraining`): commits, validity, sums and votes are then those of any round, and nothing of the old line is
needed but the checkpoint and, by a method that asks for it, how long updates were (`node/lengths.py`) or where networks
of other shards stood (`node/shards.py`). It runs with the engine's defaults, so that its number says all of it.

A study decides whether an approximate method may be chosen, by the levels of evidence that its specification asks for;
and its way of training decides which methods there are: `ridge` where the model is statistics, those that take steps
where it is found by steps.
"""

from __future__ import annotations

from typing import Final

from fl_engine.errors import UnknownName
from fl_engine.training import get_method
from fl_engine.unlearning import UNLEARNERS, Claim, Need, Unlearner, get_unlearner
from node.errors import InputError, Refused
from node.study import Study

NOTHING: Final = 0
"""The number of a plan that replays nothing."""

NUMBERS: Final[dict[str, int]] = {
    "rollback": 1,
    "sharded": 2,
    "rapid": 3,
    "ridge": 4,
    "federaser": 5,
    "mode": 6,
    "ascent": 7,
    "puf": 8,
    "fcu": 9,
}
"""Method -> `Plan.method`; a number is never given to another method."""

DEFAULT: Final = UNLEARNERS["rollback"]
"""What any study may take, and one without shards where the hospital chose nothing. It can earn every level."""

_OF_THE_ROUNDS: Final = frozenset({Claim.L2.value, Claim.L3.value})
"""Levels that a method's rounds earn or can never earn. L4 is for an audit to give, whatever the method."""

# need -> why no study of a network can meet it; the first that a method has is its reason
_OUT_OF_REACH: Final[tuple[tuple[Need, str], ...]] = (
    (
        Need.FORGOTTEN_RECORDS,
        "needs the records that are to be forgotten, which are deleted before a plan is made",
    ),
    (Need.OLD_MODEL, "begins at the model that is to go, which members delete before a replay shows anything"),
)


def barred(unlearner: Unlearner, study: Study | None = None) -> str | None:
    """Why the members of a network cannot carry a method out, as a clause; None where they can.

    `study`: the one it would be in; None: whether there is any. A method that can never earn what a study asks of an
    erasure's rounds (L2 or L3) is not for that study, nor is one for another way of training.
    """
    if unlearner.retraining is None:
        return next(why for need, why in _OUT_OF_REACH if need in unlearner.needs)
    if study is None:
        return None
    if Need.SHARDS in unlearner.needs and not in_shards(study):
        return "needs a study founded with shards (training.shards), and this one trains all members together"
    by_steps = get_method(study["training", "method"]).by_steps
    if by_steps and Need.STATISTICS in unlearner.needs:
        return 'needs a study whose model is a ridge head (model.name = "ridge"), and this one trains by steps'
    if not by_steps and Need.STEPS in unlearner.needs:
        return "changes how steps are taken, and the model of this study is statistics of records"
    earned = {claim.value for claim in unlearner.claims}
    lacking = [level for level in study["policy", "evidence"] if level in _OF_THE_ROUNDS and level not in earned]
    if not lacking:
        return None
    kind = "exact" if unlearner.exact else "approximate"
    return f"is {kind} and can never show {' and '.join(lacking)}, which this study asks for (policy.evidence)"


def find(name: str, study: Study | None = None) -> Unlearner:
    """A method that an erasure may be asked for by, in a study or (None) in any.

    Raises:
        InputError: there is none of that name; the known ones are listed.
        Refused: it cannot be carried out by a network, or not in this study, with the reason.
    """
    try:
        found = get_unlearner(name)
    except UnknownName as error:
        raise InputError(str(error)) from None
    if (why := barred(found, study)) is not None:
        raise Refused(f"no erasure by {name}: it {why}")
    return found


def in_shards(study: Study) -> bool:
    """Whether its members train several networks apart."""
    return bool(study["training", "shards"] > 1)


def default_of(study: Study) -> Unlearner:
    """What a plan in this study takes where the hospital chose nothing: exact, and no more work than needed."""
    return UNLEARNERS["sharded"] if in_shards(study) else DEFAULT


def takes_over(number: int) -> bool:
    """Whether a plan's rounds take something over from the line they replace: lengths of updates, or networks."""
    found = numbered(number)
    return number != NOTHING and (found is None or not found.exact or Need.SHARDS in found.needs)


def numbered(number: int) -> Unlearner | None:
    """The method of a plan; None for `NOTHING` and for a number that no method has."""
    return next((UNLEARNERS[name] for name, one in NUMBERS.items() if one == number), None)


NO_REPLAY: Final = "no replay: in no model of the line that serves"
"""How `NOTHING` is shown: it was in none ever, or an earlier replay went back to before its first use."""


def name_of(number: int) -> str:
    """How a plan's method is shown; `NOTHING` and unknown numbers too."""
    if number == NOTHING:
        return NO_REPLAY
    found = numbered(number)
    return f"unknown method {number}" if found is None else found.name


def is_exact(number: int) -> bool:
    """Whether a plan's model is one of training without the records, as far as was declared."""
    found = numbered(number)
    return number == NOTHING or (found is not None and found.exact)


def rounds_of(unlearner: Unlearner, replaced: int) -> int:
    """How many models a method makes in place of so many; `Refused` where members cannot carry it out."""
    if unlearner.retraining is None:
        raise Refused(f"no erasure by {unlearner.name}: it {barred(unlearner)}")
    return unlearner.retraining.count(replaced, unlearner.defaults)
