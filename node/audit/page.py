"""The page of an audit bundle: what happened, for a person with a browser or a printer and nothing else.

What may live here: `index.html`, as a function of what a bundle says of itself, its network and its chain, and of
nothing else: whoever checks a bundle makes the page again and compares. What this file does not know: files, keys,
whether anything holds (`koinon audit verify` says that). No script, no address that a browser would load, every value
escaped. No consent id, unless the exporter named it.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from crypto.digest import Digest
from crypto.keys import address_text, peer_id_text
from node.audit.bundle import CONFIDENTIAL, About
from node.audit.rounds import covered_by_purge
from node.erasure import GROUNDS, claims, is_overdue, state_of
from node.history import ErasureHistory, History, RoundHistory, StudyHistory, in_words
from node.home import Network
from node.membership import members_of
from node.records import transaction_text
from node.reports.processing import purposes_of
from node.study import Study
from node.trail import FAILED_FOR, moment, participation

NOTICE: Final = (
    "Nobody can prove that a model has forgotten a person. koinon shows which steps were carried out and who checked "
    "them."
)

_PROMISES: Final = """
P1 | Every agreed model is, bit for bit, the declared aggregation of the declared updates of the included members.
Rounds purged by an erasure are covered by their votes and tombstones instead | holders of content keys: koinon audit
verify | that a member trained honestly

P2 | A round names who was asked, who committed, who was included and who was left out, with the first failing rule or
the plain fact (no_commit, abstained, unavailable). A silent subset cannot be called a success | anyone | why a
hospital was silent

P3 | A record whose consent was not active when the round was sealed is in no included set: members see the sets and
refuse them | members; the patient by proof | that a patient signed, where the form says "hospital-attested"; that a
member trained only on its declared set

P4 | From the first round opened after a withdrawal was mined, this consent is in no included set of this study;
rounds in flight at that time are named | anyone shown the proof, offline | anything about another consent of the same
person, or another hospital

P5 | The model after an erasure was recomputed from a checkpoint older than this consent's first declared use, and at
least n-1-f members other than the erasing hospital recomputed the aggregation to the same hash | anyone with a copy of
the chain; a certificate alone shows it of the members that it names | honesty of local training; private copies; of a
file alone, that its erasure is on the chain and that nobody else was in the study

P6 | No update leaves a node unsigned or readable by an outsider; nobody outside the registry connects | tests | that
members cannot infer patients from updates; a former member keeps what it had

P7 | Up to f faulty members, in any mix and role, delay a round by at most the sum of its published windows and never
change a final round (live chain, stated network bound) | fault tests | more than f faulty; below four members f = 0:
crash tolerance only

P8 | Nothing on chain derives from a patient's identity. Destroying the vault's LINK removes the hospital's way from
chain to person | inspection | copies of sets in members' sealed blobs until their retention ends, the patient's own
papers, backups until the stated date, coincidences in time
"""

# number | promise | who can check it | what it does not say. The sentences of node/THREATS.md.
PROMISES: Final = tuple(tuple(" ".join(cell.split()) for cell in row.split(" | ")) for row in _PROMISES.split("\n\n"))

_CUSTODY: Final = {1: "hospital-attested", 2: "patient-signed", 3: "synthetic"}
_BASIS: Final = {1: "consent", 2: "law", 3: "opt-out"}
_ON_WITHDRAWAL: Final = {1: "stop", 2: "stop and delete", 3: "stop, delete and unlearn"}
_STYLE: Final = """
body { font: 15px/1.45 system-ui, sans-serif; color: #1a1a1a; background: #fff; margin: 2em auto; max-width: 68em;
  padding: 0 1em; }
h1 { font-size: 1.6em; } h2 { font-size: 1.25em; border-bottom: 1px solid #999; margin-top: 2em; }
h3 { font-size: 1.05em; }
table { border-collapse: collapse; width: 100%; margin: .6em 0 1.2em; font-size: .9em; }
th, td { border: 1px solid #bbb; padding: .3em .5em; text-align: left; vertical-align: top; overflow-wrap: anywhere; }
th { background: #eee; } caption { text-align: left; color: #444; padding: .2em 0; }
code { font: .92em ui-monospace, monospace; overflow-wrap: anywhere; }
.banner { border: 3px solid #a00; padding: .6em 1em; font-weight: 600; } .notice { font-style: italic; }
@media print { body { margin: 0; max-width: none; font-size: 10pt; } h2 { break-after: avoid; }
  tr { break-inside: avoid; } thead { display: table-header-group; } }
"""


# --------------------------------------------------------------------------------------------------------------------
# Small parts


def _text(value: object) -> str:
    """A value, escaped; what does not print (or turns the writing direction) is shown as a replacement character."""
    shown = "-" if value is None else "yes" if value is True else "no" if value is False else str(value)
    return html.escape("".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in shown))


def _code(value: bytes | str) -> str:
    return f"<code>{_text(value.hex() if isinstance(value, bytes) else value)}</code>"


def _paragraph(*parts: str, kind: str = "") -> str:
    mark = f' class="{kind}"' if kind else ""
    return f"<p{mark}>{' '.join(parts)}</p>"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]], caption: str = "") -> str:
    """A table; header and caption are plain text, cells are already escaped."""
    head = "".join(f"<th scope='col'>{_text(name)}</th>" for name in header)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>\n" for row in rows)
    title = f"<caption>{_text(caption)}</caption>" if caption else ""
    if not body:
        body = f"<tr><td colspan='{len(header)}'>none</td></tr>\n"
    return f"<table>{title}<thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table>"


def _facts(*rows: tuple[str, str]) -> str:
    return "<table>" + "".join(f"<tr><th scope='row'>{_text(k)}</th><td>{v}</td></tr>\n" for k, v in rows) + "</table>"


class _Names:
    def __init__(self, history: History) -> None:
        self._members = history.registry.members

    def member(self, index: int) -> str:
        found = self._members.get(index)
        return _text(f"member {index}" if found is None else found.name)

    def members(self, bitmap: int) -> str:
        return ", ".join(self.member(index) for index in members_of(bitmap)) or "nobody"


# --------------------------------------------------------------------------------------------------------------------
# Sections


def _head(about: About, network: Network, certificates: int) -> list[str]:
    number, block_hash, timestamp = about.head
    contracts = network.contracts
    places = (contracts.membership, contracts.consent, contracts.training, contracts.unlearning)
    study = "all studies of the network" if about.study is None else f"only study {about.study.hex()}"
    return [
        "<h1>koinon audit bundle</h1>",
        _paragraph(_text(CONFIDENTIAL[about.holds]), kind="banner"),
        _paragraph(_text(NOTICE), kind="notice"),
        _paragraph(
            "This file is one home's record of a network in which hospitals train a model together: the evidence of "
            "the chain, the signed statements, and as far as it goes along what the models were computed from. This "
            "page tells what the evidence says. The page itself proves nothing: whoever doubts it checks the bundle, "
            "with nothing running and no network, by",
            "<code>koinon audit verify --bundle FILE.zip --network network.json</code>,",
            "where network.json comes from somebody other than whoever handed over the bundle. That check also makes "
            "this page again and compares it.",
        ),
        _facts(
            ("exported", f"{moment(about.exported_at)}, by the exporter's clock"),
            ("exported by", f"{_text(about.name)} ({about.role} {about.index})"),
            ("is about", _text(study)),
            ("holds", _text(about.holds.replace("-", " "))),
            ("certificates of erasures in it", str(certificates)),
            ("network", _text(network.name)),
            ("fingerprint of the network", _code(network.fingerprint)),
            ("invented patients only", _text(network.synthetic)),
            ("chain", f"id {contracts.chain_id}, genesis block {_code(network.genesis_hash)}"),
            ("contracts", " ".join(_code(address_text(one)) for one in places)),
            ("last block in it", f"{number}, {moment(timestamp)}, {_code(block_hash)}"),
            ("made by", f"koinon {_text(about.koinon)}"),
        ),
        _paragraph("Nothing that happened after the last block is in it. Times below are block times."),
    ]


def _seats(history: History) -> list[str]:
    rows = [
        (
            str(one.index),
            _text(one.name),
            _code(address_text(one.ledger)),
            _peer(one.peer_id),
            f"epoch {one.admitted}",
            "-" if one.removed is None else f"epoch {one.removed}",
        )
        for one in history.registry.members.values()
    ]
    seats = [
        (
            str(one.seat),
            _text(one.name),
            _code(address_text(one.ledger)),
            _peer(one.peer_id),
            "all" if not any(one.study) else _code(one.study),
            moment(one.term_end) if one.term_end else "no end",
        )
        for one in history.registry.auditors.values()
    ]
    return [
        "<h2>Members and auditors</h2>",
        _table(("member", "name", "ledger address", "peer id", "from", "removed"), rows, "Hospitals by registry index"),
        _table(("seat", "name", "ledger address", "peer id", "study", "until"), seats, "Auditors: they read, no vote"),
    ]


def _peer(peer_id: bytes) -> str:
    try:
        return _code(peer_id_text(peer_id))
    except ValueError:
        return _code(peer_id)


def _study(history: History, study: StudyHistory, spec: Study | None, names: _Names) -> list[str]:
    number, terms = study.created.study, study.created.terms
    forms = [
        (
            _code(one.form_id),
            _CUSTODY.get(one.custody, str(one.custody)),
            _BASIS.get(one.basis, str(one.basis)),
            _text("; ".join(purposes_of(one.purposes))),
            moment(one.valid_to),
            _ON_WITHDRAWAL.get(one.on_withdrawal, str(one.on_withdrawal)),
            _code(one.text_hash),
        )
        for one in study.forms.values()
    ]
    access = [
        (
            _text(seat.name if (seat := history.registry.auditors.get(record.seat)) else f"auditor {record.seat}"),
            f"{record.from_height} to {'the last' if record.to_height == 2**32 - 1 else record.to_height}",
            moment(logged.timestamp),
        )
        for logged, record in study.access
    ]
    joined = sorted(study.joined - study.left)
    title = "Study" if spec is None else f"Study {spec.name}"
    return [
        f"<h2>{_text(title)}</h2>",
        _facts(
            ("id", _code(number)),
            ("created by", names.member(study.created.creator)),
            ("members in it", ", ".join(names.member(index) for index in joined) or "nobody"),
            ("rounds wanted", str(terms.rounds)),
            ("faulty members it stands", f"{terms.f} (fewer where the roster is small)"),
            ("specification", _code(terms.spec_hash) + ("" if spec is not None else " (not in this bundle)")),
            ("model", "-" if spec is None else _text(spec["model", "name"])),
            ("initial model", _code(terms.initial_model)),
        ),
        _table(
            ("form", "custody", "basis", "purposes (DUO)", "valid to", "on withdrawal", "sha256 of its text"),
            forms,
            "Consent forms. Where custody is hospital-attested, a hospital says that a patient signed; the chain "
            "cannot know",
        ),
        _table(("auditor", "rounds", "announced"), access, "Whose reading was announced"),
        *_rounds(history, number, names),
    ]


def _rounds(history: History, study: Digest, names: _Names) -> list[str]:
    rows, purged = [], covered_by_purge(history)
    for row in participation(history, study)["rounds"]:
        one = history.rounds[Digest.from_hex(row["round_id"])]
        parts = row["members"]
        rows.append(
            (
                f"{row['height']}" + (f" of branch {row['branch']}" if row["branch"] else ""),
                moment(one.opened.opened_at),
                _named(parts, "asked"),
                _named(parts, "committed"),
                _named(parts, "included"),
                _left_out(parts),
                _outcome(one) + (" (updates purged by an erasure)" if one.opened.round_id in purged else ""),
                "-"
                if one.final is None
                else f"{one.final.signers.bit_count()} votes, {one.opened.quorum} needed: "
                f"{names.members(one.final.signers)}",
                "-" if one.ended is None else _code(transaction_text(history.transactions[one.ended])),
            )
        )
    header = ("round", "opened", "asked", "committed", "included", "left out, and why", "model", "votes", "transaction")
    caption = (
        "Every round. no commit, abstained, unavailable and suspended are facts, not guilt; names in capitals are "
        "the first rule that a contribution broke. Votes beyond the posted quorum are not on the chain. The "
        "transaction is the one that ended the round"
    )
    return [_table(header, rows, caption)]


def _named(parts: Sequence[Mapping[str, Any]], what: str) -> str:
    return ", ".join(_text(part["name"]) for part in parts if part[what]) or "nobody"


def _left_out(parts: Sequence[Mapping[str, Any]]) -> str:
    found = []
    for part in parts:
        why = [name.replace("_", " ") for name in ("suspended", "abstained", "no_commit", "unavailable") if part[name]]
        if part["invalid"] is not None:
            why.append(part["invalid"])
        if why:
            found.append(f"{_text(part['name'])}: {_text(', '.join(why))}")
    return "; ".join(found) or "nobody"


def _outcome(one: RoundHistory) -> str:
    if one.final is not None:
        made = "" if one.final.result.outcome == 1 else "no result, the model stays: "
        return made + _code(one.final.result.model_root)
    if one.failed is not None:
        return _text(f"failed: {FAILED_FOR.get(one.failed.reason, one.failed.reason)}")
    return "open at the last block"


def _withdrawals(about: About, history: History) -> list[str]:
    rows = []
    for consent, (record, position) in history.withdrawals.items():
        grant = history.grants.get(consent)
        if grant is not None and not about.covers(grant.study):
            continue
        rows.append(
            (
                str(position.block),
                _code(transaction_text(history.transactions[position])),
                moment(record.at),
                "a consent given in an anchor" if grant is None else _code(grant.study.hex()[:12]),
                *((_code(consent) if consent in about.consents else "not shown",) if about.consents else ()),
            )
        )
    found = [
        "<h2>Withdrawals</h2>",
        _paragraph(
            f"Consents withdrawn: {len(rows)}. A withdrawal is one consent, at one hospital, for one study; how "
            "many persons that is cannot be read from the chain."
        ),
        _table(("block", "transaction", "time", "study", *(("consent",) if about.consents else ())), rows),
    ]
    if about.consents:
        named = []
        for consent in about.consents:
            grant, withdrawn = history.grants.get(consent), history.withdrawals.get(consent)
            named.append(
                (
                    _code(consent),
                    "not granted singly" if grant is None else f"granted in block {grant.position.block}",
                    "no" if withdrawn is None else moment(withdrawn[0].at),
                )
            )
        found.append(_table(("consent", "grant", "withdrawn"), named, "Consents that the exporter named"))
    return found


def _erasures(about: About, history: History, specs: Mapping[Digest, Study], names: _Names) -> list[str]:
    found = ["<h2>Erasures</h2>"]
    batches = [one for one in history.erasures.values() if about.covers(one.opened.study)]
    if not batches:
        found.append(_paragraph("None was asked for."))
    for one in batches:
        found += _erasure(about, history, one, specs.get(one.opened.study), names)
    return found


def _erasure(about: About, history: History, one: ErasureHistory, spec: Study | None, names: _Names) -> list[str]:
    opened = one.opened
    now = about.head[2]
    late = " (overdue at the last block)" if is_overdue(one, now) else ""
    silent = "nobody" if one.closed is None else names.members(one.closed.exceptions)
    rows = [
        (in_words(state), moment(at), _code(transaction_text(one.marks[state].transaction)))
        for state, at in sorted(one.times.items(), key=lambda p: p[1])
    ]
    study_name = opened.study.hex()[:12] if spec is None else spec.name
    earned = claims(
        one,
        history,
        hospital=_registered(history, opened.controller),
        study_name=study_name,
        first_height=None,
    )
    sentences = [(one.level, _text(one.sentence), _text(one.does_not_show)) for one in earned]
    return [
        f"<h3>Erasure {_code(opened.batch)}</h3>",
        _facts(
            ("hospital that must answer", names.member(opened.controller)),
            ("study", _text(study_name)),
            ("opened", moment(opened.opened_at)),
            ("due", moment(one.due_at) + late),
            ("extended from", "-" if one.extended is None else moment(opened.due_at)),
            ("state", _text(in_words(state_of(one, history).value))),
            ("refused on", "-" if one.refused is None else _text(GROUNDS.get(one.refused.ground, one.refused.ground))),
            ("members without a final attestation of their purge", silent if one.closed else "not closed yet"),
        ),
        _table(("state", "since", "transaction"), rows, "Its clock, and the transaction that first reached a state"),
        _table(
            ("level", "what may be said of it by the chain", "does not show"),
            sentences,
            "Independent claims: a certificate, checked with `koinon erase verify`, says them in these words",
        ),
    ]


def _registered(history: History, member: int) -> str:
    found = history.registry.members.get(member)
    return f"member {member}" if found is None else found.name


def _promises() -> list[str]:
    rows = [tuple(_text(cell) for cell in row) for row in PROMISES]
    return [
        "<h2>What is proven, and what is not</h2>",
        _paragraph(_text(NOTICE), kind="notice"),
        _table(("", "promise", "who can check it", "what it does not say"), rows),
        _paragraph(
            "A bundle is what one home has and may give. What it leaves out is reported as not checked, never as "
            "passed. A chain that ends early is consistent too: compare the last block above with another member's."
        ),
    ]


def page(about: About, network: Network, history: History, specs: Mapping[Digest, Study], certificates: int) -> bytes:
    """The page.

    Args:
        about: what the bundle says of itself.
        network: its network.json.
        history: its chain.
        specs: the specifications in it, by study.
        certificates: how many certificates are in it.
    """
    names = _Names(history)
    parts = [
        *_head(about, network, certificates),
        *_seats(history),
        *(
            part
            for number, study in history.studies.items()
            if about.covers(number)
            for part in _study(history, study, specs.get(number), names)
        ),
        *_withdrawals(about, history),
        *_erasures(about, history, specs, names),
        *_promises(),
    ]
    body = "\n".join(parts)
    text = (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        '<meta name="viewport" content="width=device-width">\n<meta name="referrer" content="no-referrer">\n'
        f"<title>koinon audit bundle</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )
    return text.encode("utf-8")


__all__ = ["NOTICE", "PROMISES", "page"]
