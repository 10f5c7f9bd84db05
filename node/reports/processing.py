"""The record of processing activities (Art. 30(1) GDPR) as far as a home can know it.

What may live here: what is taken from the chain, the specification, network.json and the node's log, and the list of
what only the controller can say. What this file does not know: files, the clock, patients. Nothing is invented: what
koinon cannot know stands under `to_be_completed`, and a figure about people is rounded (`people`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from html import escape
from typing import Any, Final

from crypto.digest import Digest
from node.duo import CODES, IDS, NAMES
from node.errors import NotFound
from node.history import ErasureHistory, History, StudyHistory
from node.membership import members_of
from node.records import ZERO, FormRegistered
from node.study import BASIS, CUSTODY, ON_WITHDRAWAL, Study

SCHEMA: Final = "koinon.record-of-processing/1"
NOT_STATED: Final = "not stated"
SUPPRESSED_BELOW: Final = 10
EXPORT: Final = "model_export"
"""Kind of the log's entries about models that left the node."""

DUO: Final[dict[int, str]] = {
    CODES[code].bit_length() - 1: f"{code}, {NAMES[code]} ({number})" for number, code in IDS.items()
}
"""Bit of a form's purposes -> term of the GA4GH Data Use Ontology (https://github.com/EBISPOT/DUO). Bits 0 to 7 are
permissions, bits 8 to 31 modifiers; bits are only ever added."""

_CUSTODY: Final = {number: name for name, number in CUSTODY.items()}
_BASIS: Final = {
    BASIS["consent"]: "consent (Art. 6(1)(a), Art. 9(2)(a))",
    BASIS["law"]: "a law (Art. 6(1)(c) or (e), Art. 9(2)(i) or (j)); the controller names it",
    BASIS["opt-out"]: "a law with a right to object; the controller names it",
}
_ON_WITHDRAWAL: Final = {number: name for name, number in ON_WITHDRAWAL.items()}

SECURITY: Final = (
    "Images and labels stay in the hospital: members receive model updates and keyed lists of used consents.",
    "Updates and lists leave a node encrypted (AES-256-GCM) for members and auditors' seats, and signed.",
    "Connections between nodes are encrypted and authenticated; a peer outside the registry is refused.",
    "Patients' identifiers, cards and consents are kept encrypted at rest in separate compartments of the vault.",
    "The chain holds random consent ids, hashes and roots; nothing on it is computed from a patient's identity.",
    "A record whose consent was not active when the round was sealed is in no included set: members check and refuse.",
    "Every agreed model can be recomputed from declared updates by holders of their keys, until an erasure purges it.",
    "An erasure purges the affected models and updates and trains again without the person; other members verify it.",
    "Content keys are deleted when an erasure or the retention requires it, and the deletion is signed.",
)
"""What koinon does in every study. What is not listed here (differential privacy, secure sums) it does not promise."""

TO_BE_COMPLETED: Final = (
    "contacts of controllers, joint controllers, representatives and data protection officers (Art. 30(1)(a))",
    "the special categories of data in the records, and the exact provision of Art. 9(2) relied on",
    "the law relied on where a form's basis is not consent",
    "recipients outside koinon: processors, hosting, who was given exported models (Art. 30(1)(d))",
    "third countries and the safeguards for transfers (Art. 30(1)(e), Chapter V)",
    "retention of the hospital's own records, papers and backups outside koinon (Art. 30(1)(f))",
    "organisational measures of the hospital (Art. 30(1)(g), Art. 32(1))",
    "the data protection impact assessment (Art. 35)",
)


def people(count: int) -> str:
    """A number of people that names nobody: rounded to tens, suppressed below ten; none is said to be none."""
    if count == 0:
        return "none"
    return f"about {(count + 5) // 10 * 10}" if count >= SUPPRESSED_BELOW else f"fewer than {SUPPRESSED_BELOW}"


def purposes_of(mask: int) -> list[str]:
    """A form's purposes in words; a bit without a term is said to be one."""
    return [DUO.get(bit, f"bit {bit}: no known term") for bit in range(32) if mask >> bit & 1]


def record_of_processing(
    history: History,
    specs: Mapping[Digest, Study],
    network: Mapping[str, Any],
    *,
    now: int,
    studies: Iterable[Digest] | None = None,
    log: Iterable[tuple[float, str, Mapping[str, Any]]] = (),
) -> dict[str, Any]:
    """The record as a plain document (`SCHEMA`).

    Args:
        history: the chain.
        specs: the specifications this home holds, by study.
        network: network.json.
        now: unix seconds; what is overdue is judged by it.
        studies: those to report on; None: all.
        log: the node's own log: (unix seconds, kind, body).

    Raises:
        NotFound: a study is not on this ledger.
    """
    chosen = list(history.studies) if studies is None else list(studies)
    for study in chosen:
        if study not in history.studies:
            raise NotFound(f"no study {study.hex()} on this ledger")
    entries = [(time, body) for time, kind, body in log if kind == EXPORT]
    return {
        "schema": SCHEMA,
        "network": str(network.get("name", NOT_STATED)),
        "synthetic": bool(network.get("synthetic", False)),
        "made_at": _time(now),
        "activities": [_activity(history, study, specs.get(study), entries, now) for study in chosen],
        "security_measures": list(SECURITY),
        "to_be_completed": list(TO_BE_COMPLETED),
    }


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _activity(
    history: History, study: Digest, spec: Study | None, exports: list[tuple[float, Mapping[str, Any]]], now: int
) -> dict[str, Any]:
    found = history.studies[study]
    return {
        "study": study.hex(),
        "name": spec.name if spec is not None else "the specification is not in this home",
        "controllers": [_controller(history, found, index) for index in sorted(found.joined | found.left)],
        "purposes": [_form(form) for form in found.forms.values()],
        "data_subjects": {
            "category": "patients of the controllers whose records a registered form covers",
            "by_controller": _subjects(history, study),
            "note": "consents, not persons; anchored consents are counted with their padding, which hides the number",
        },
        "data": _data(spec),
        "recipients": _recipients(history, found, exports),
        "transfers_to_third_countries": {
            "third_countries": NOT_STATED,
            "public_chain": NOT_STATED if spec is None else bool(spec["policy", "public_chain"]),
        },
        "retention": _retention(found, spec),
        "erasures": [
            _erasure(history, batch, one, now) for batch, one in history.erasures.items() if one.opened.study == study
        ],
    }


def _controller(history: History, found: StudyHistory, index: int) -> dict[str, Any]:
    member = history.registry.members[index]
    state = "removed" if member.removed is not None else "left" if index in found.left else "takes part"
    return {"member": index, "name": member.name, "state": state, "contact": NOT_STATED}


def _form(form: FormRegistered) -> dict[str, Any]:
    return {
        "form": form.form_id.hex(),
        "text_sha256": form.text_hash.hex(),
        "purposes": purposes_of(form.purposes),
        "legal_basis": _BASIS.get(form.basis, NOT_STATED),
        "custody": _CUSTODY.get(form.custody, NOT_STATED),
        "valid_to": _time(min(form.valid_to, 2**37)),
        "on_withdrawal": _ON_WITHDRAWAL.get(form.on_withdrawal, NOT_STATED),
    }


def _subjects(history: History, study: Digest) -> list[dict[str, Any]]:
    single: Counter[int] = Counter()
    withdrawn: Counter[int] = Counter()
    anchored: Counter[int] = Counter()
    for consent_id, grant in history.grants.items():
        if grant.study == study:
            single[grant.record.member] += 1
            withdrawn[grant.record.member] += consent_id in history.withdrawals
    for anchor in history.anchors.values():
        if anchor.record.study == study:
            anchored[anchor.record.member] += anchor.record.count
    return [
        {
            "controller": history.registry.members[index].name,
            "granted_singly": people(single[index]),
            "of_these_withdrawn": people(withdrawn[index]),
            "anchored_at_most": anchored[index],
        }
        for index in sorted(set(single) | set(anchored))
    ]


def _data(spec: Study | None) -> dict[str, Any]:
    if spec is None:
        return {"task": NOT_STATED, "categories": NOT_STATED}
    shape = " x ".join(map(str, spec.input_shape))
    return {
        "task": spec["", "task"],
        "categories": [
            f"health data: records of shape {shape} with a label of {spec['data', 'classes']} classes",
            "consent data: form, day of signature, random consent id",
            "model updates, which are personal data between the controllers",
        ],
    }


def _recipients(
    history: History, found: StudyHistory, exports: list[tuple[float, Mapping[str, Any]]]
) -> dict[str, Any]:
    study = found.created.study
    taken = [body for _, body in exports if body.get("study") == study.hex()]
    return {
        "members": [
            history.registry.members[index].name
            for index in members_of(found.created.terms.invited)
            if index in found.joined
        ],
        "auditors": [
            {
                "seat": one.seat,
                "name": one.name,
                "term_end": "no end" if one.term_end == 0 else _time(one.term_end),
                "for": "every study" if one.study == ZERO else "this study",
                "announced_reading": any(access.seat == one.seat for _, access in found.access),
            }
            for one in history.registry.auditors.values()
            if one.study in (ZERO, study)
        ],
        "exports_of_models": [
            {
                "time": _time(time),
                "model_root": str(body.get("model_root", NOT_STATED)),
                "recipient": str(body.get("recipient") or NOT_STATED),
            }
            for time, body in exports
            if body in taken
        ],
        "exports_note": "as this node's own log has them; other members' exports are in theirs",
    }


def _retention(found: StudyHistory, spec: Study | None) -> dict[str, Any]:
    return {
        "sets_of_other_members_days": NOT_STATED if spec is None else spec["policy", "set_retention_days"],
        "erasure_window_s": found.created.terms.erasure_window,
        "models_and_updates": "until an erasure purges them",
        "chain_records": "as long as the chain exists; consent ids on it are random, and after the hospital destroyed "
        "its link they lead to nobody there",
        "archive_after_an_erasure": "the hospital keeps the signed form and the decision; koinon sets no term",
    }


def _erasure(history: History, batch: Digest, one: ErasureHistory, now: int) -> dict[str, Any]:
    refused, closed = one.refused is not None, one.closed is not None
    state = "refused" if refused else "closed" if closed else "open"
    ended = next(
        (one.times[name] for name in ("closed", "closed_with_exceptions", "refused") if name in one.times), now
    )
    return {
        "erasure": batch.hex(),
        "controller": history.registry.members[one.opened.controller].name,
        "opened_at": _time(one.opened.opened_at),
        "due_at": _time(one.due_at),
        "first_due_at": _time(one.opened.due_at),
        "extended": one.extended is not None,
        "state": state,
        "deadline": "overdue" if ended > one.due_at else "met" if state != "open" else "due",
        "exceptions": [
            history.registry.members[index].name
            for index in members_of(one.closed.exceptions if one.closed is not None else 0)
        ],
    }


# --------------------------------------------------------------------------------------------------------------------
# For people


def text(record: Mapping[str, Any]) -> str:
    """The record as indented text; what others registered cannot move the cursor or hide lines."""
    return "\n".join(["Record of processing activities (Art. 30 GDPR)", "", *_lines(record, 0)]) + "\n"


def _lines(value: Any, depth: int) -> list[str]:
    pad, lines = "  " * depth, []
    if isinstance(value, Mapping):
        for key, one in value.items():
            name = _printable(str(key)).replace("_", " ")
            if isinstance(one, Mapping | list) and one:
                lines += [f"{pad}{name}:", *_lines(one, depth + 1)]
            else:
                lines.append(f"{pad}{name}: {_scalar(one)}")
        return lines
    for one in value:
        if isinstance(one, Mapping):
            inner = _lines(one, depth + 1)
            lines += [f"{pad}- {inner[0].lstrip()}", *inner[1:]]
        else:
            lines.append(f"{pad}- {_scalar(one)}")
    return lines


def _scalar(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value in ([], {}, None) else _printable(str(value))


def _printable(given: str) -> str:
    return "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in given)


def html(record: Mapping[str, Any]) -> str:
    """The record as one page without scripts, styles or anything loaded from elsewhere."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        "<title>Record of processing activities</title></head><body>\n"
        f"<h1>Record of processing activities (Art. 30 GDPR)</h1>\n{_markup(record)}\n</body></html>\n"
    )


def _markup(value: Any) -> str:
    if isinstance(value, Mapping) and value:
        rows = (
            f"<dt>{escape(_printable(str(key)).replace('_', ' '))}</dt><dd>{_markup(one)}</dd>"
            for key, one in value.items()
        )
        return f"<dl>{''.join(rows)}</dl>"
    if isinstance(value, list) and value:
        return f"<ul>{''.join(f'<li>{_markup(one)}</li>' for one in value)}</ul>"
    return escape(_scalar(value))
