"""What the nouns share: the options that several commands take, and the way to a home's node, running or not."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from node.cli.output import moment, progress
from node.errors import InputError, NotFound, Refused, TimedOut
from node.home import (
    Network,
    in_use,
    is_network_home,
    node_homes,
    open_home,
    read_network,
    read_user_file,
    reading_home,
)

if TYPE_CHECKING:
    from crypto.digest import Digest
    from crypto.keys import KeyRing
    from node.history import History
    from node.roles import Signer

MAX_FILE_BYTES: Final = 8 << 20
ACT_TIMEOUT_S: Final = 120.0
LONG_TIMEOUT_S: Final = 3600.0

HOME = click.Path(path_type=Path, file_okay=False)
FILE = click.Path(path_type=Path, dir_okay=False)


class _Seconds(click.FloatRange):
    """A while: above zero, at most ten years, and a number."""

    name = "seconds"

    def __init__(self) -> None:
        super().__init__(min=0, max=10 * 366 * 86_400, min_open=True)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        found = super().convert(value, param, ctx)
        return self.fail(f"{value!r} is no number of seconds", param, ctx) if found != found else found


SECONDS = _Seconds()

ROLES: Final = ("operator", "dpo", "clinician", "researcher", "auditor")  # `node.roles` has the tables; it loads keys
NOUNS: Final[dict[str, tuple[str, ...]]] = {
    "audit": ("auditor", "dpo", "operator", "researcher"),
    "study": ("researcher", "operator", "dpo", "clinician", "auditor"),
    "model": ("clinician", "researcher", "auditor", "dpo"),
}
"""Noun -> roles that may read a home's public part through it (its copy of the chain, reports), in commands that give
no order. It keeps honest people to their part; the files themselves are the operating system's to guard."""
REPLACE: Final = "koinon.replace"
ROLE: Final = "koinon.role"
ROLE_KEYS: Final = "koinon.role-keys"
ROLE_PASSWORD: Final = "koinon.role-password-file"


def home_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--home`, and in which role its node is spoken to: `--role`, `--role-keys`, `--role-password-file`."""

    def remember(name: str) -> Callable[[click.Context, click.Parameter, Any], None]:
        def keep(context: click.Context, _: click.Parameter, given: Any) -> None:
            context.meta[name] = given
            if name == ROLE:
                _check_noun(context, given)

        return keep

    def option(flag: str, name: str, envvar: str, text: str, **more: Any) -> None:
        nonlocal command
        command = click.option(flag, expose_value=False, callback=remember(name), envvar=envvar, help=text, **more)(
            command
        )

    option("--role-password-file", ROLE_PASSWORD, "KOINON_ROLE_PASSWORD_FILE", "Its password, if moved.", type=FILE)
    option("--role-keys", ROLE_KEYS, "KOINON_ROLE_KEYS", "The role's key file, if moved.", type=FILE)
    option("--role", ROLE, "KOINON_ROLE", "In which role (default: what fits).", type=click.Choice(ROLES))
    return click.option(
        "--home", type=HOME, required=True, envvar="KOINON_HOME", help="The home that is meant (or KOINON_HOME)."
    )(command)


def _check_noun(context: click.Context, role: str | None) -> None:
    """Refuse a role that has no business with what a command reads; for commands that give no order."""
    noun = "" if context.parent is None else context.parent.info_name or ""
    if role is not None and noun in NOUNS and role not in NOUNS[noun]:
        raise Refused(f"`koinon {noun}` is not for the {role}: it takes the {' or '.join(NOUNS[noun])}")


study_option = click.option("--study", metavar="ID", help="A study's id or its beginning; not needed if there is one.")


def subject_options(*, erasure: bool = False) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """`--patient`, `--consent`, `--card` (and `--erasure`): of whom a command speaks."""

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        if erasure:
            command = click.option("--erasure", metavar="ID", help="An erasure's id, or its beginning.")(command)
        command = click.option("--card", type=FILE, help="A withdrawal card.")(command)
        command = click.option("--consent", metavar="ID", help="A consent id (64 hex digits).")(command)
        return click.option("--patient", metavar="ID|-", help="A patient; - reads the id from standard input.")(command)

    return add


def out_option(
    text: str, *, flag: str = "--out", required: bool = False
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The file that a command writes, and `--replace`: one that exists is not lost to a name that is given twice.

    It is looked at before anything is done: what an order destroys or tells once is not done for nothing. A device
    (/dev/stdout) holds nothing that could be lost.
    """

    def remember(context: click.Context, _: click.Parameter, given: bool) -> None:
        context.meta[REPLACE] = given

    def check(context: click.Context, _: click.Parameter, given: Path | None) -> Path | None:
        if given is not None and given.is_file() and not context.meta[REPLACE]:
            raise InputError(f"{given} exists: name another file with {flag}, or have this one replaced with --replace")
        return given

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        command = click.option(
            "--replace",
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=remember,
            help=f"Replace the file of {flag} if it exists.",
        )(command)
        return click.option(flag, type=FILE, required=required, callback=check, help=text)(command)

    return add


def read_file(path: Path, what: str, limit: int = MAX_FILE_BYTES) -> bytes:
    """A file that the user named; `InputError` when it cannot be used."""
    return read_user_file(path, limit, what)


def read_text(path: Path, what: str, limit: int = MAX_FILE_BYTES) -> str:
    """A text file that the user named."""
    try:
        return read_file(path, what, limit).decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{what} {path}: not UTF-8 text (byte {error.start})") from error


def patient_id(given: str) -> str:
    """The patient's id of `--patient`; `-` reads the first line of standard input. It is never shown again."""
    found = sys.stdin.readline().strip() if given == "-" else given.strip()
    if not found:
        raise InputError("no patient id on standard input" if given == "-" else "--patient is empty")
    return found


def hex_id(given: str, what: str) -> str:
    """64 hexadecimal digits, lower case, with or without 0x in front."""
    text = given.lower().removeprefix("0x")
    if len(text) != 64 or not set(text) <= set("0123456789abcdef"):
        raise InputError(f"{what} {given[:80]!r} is not 64 hexadecimal digits")
    return text


def subject(
    patient: str | None, consent: str | None, card: Path | None, erasure: str | None = None, *, needed: bool = True
) -> dict[str, str]:
    """The one patient, consent, card or erasure that was named, as an order's body says it."""
    given = [value for value in (patient, consent, card, erasure) if value is not None]
    if len(given) > 1 or (needed and not given):
        names = "--patient, --consent, --card" + (", --erasure" if erasure is not None else "")
        raise click.UsageError(f"name exactly one of {names}")
    if patient is not None:
        return {"patient": patient_id(patient)}
    if consent is not None:
        return {"consent": hex_id(consent, "--consent")}
    if card is not None:
        return {"card": read_text(card, "card", 1 << 16)}
    return {} if erasure is None else {"erasure": erasure.lower().removeprefix("0x")}


def check_name(given: str, what: str) -> None:
    """Refuse at once a name under which the members could seat nobody."""
    from node.wire import name_fault

    fault = name_fault(given)
    if fault is not None:
        raise InputError(f"{what}: {fault}")


def digest(given: str, what: str) -> Digest:
    """`hex_id`, typed."""
    from crypto.digest import Digest

    return Digest.from_hex(hex_id(given, what))


# --------------------------------------------------------------------------------------------------------------------
# The node of a home


def acting_home(home: Path) -> Path:
    """The node home that acts; `InputError` for a network home, which has several."""
    if is_network_home(home):
        raise InputError(f"{home} holds a whole network: name the node that acts, such as {node_homes(home)[0]}")
    open_home(home)
    return home


def signer(home: Path, name: str, body: dict[str, Any], successor: KeyRing | None = None) -> Signer | None:
    """Who gives an order: the role that was named, else the first that may and whose password is in the home."""
    from node import roles

    if name == "status":
        return None
    context = click.get_current_context(silent=True)
    meta = {} if context is None else context.meta
    role = meta.get(ROLE)
    if role is None:
        allowed = roles.roles_for(name, body)
        here = [one for one in allowed if roles.password_path(home, one).exists()]
        role = (here or list(allowed))[0]
    return roles.Signer(
        home, role, roles.load(home, role, keys=meta.get(ROLE_KEYS), password_file=meta.get(ROLE_PASSWORD)), successor
    )


def order(
    home: Path, name: str, body: dict[str, Any], timeout_s: float = ACT_TIMEOUT_S, successor: KeyRing | None = None
) -> dict[str, Any]:
    """Give an order to the node of `home`: to the running one, else to one that runs for this order only.

    Raises:
        NodeError: what the order led to; `Refused` where the role may not give it, `LocalFault` without its keys.
    """
    from node import control

    path = open_home(home).control_path
    giver = signer(home, name, body, successor)
    sign = None if giver is None else lambda door: giver.sign(name, body, door)
    _tell_exemption(home, name, body)
    # A node that was killed leaves its control file, and whose port that is now nobody knows: the home's lock decides.
    running = in_use(home)
    if running and path.exists():
        try:
            return control.ask(path, name, body, timeout_s, sign)
        except NotFound as error:
            if not error.message.startswith(str(path)):
                raise
    from node import runner  # loads everything a node needs: seconds that an order to a running node does not wait

    if name not in runner.READS | runner.LOCAL_FIRST and not running:
        check_chain(home)
    return runner.order(home, name, body, timeout_s, giver)


def _tell_exemption(home: Path, name: str, body: dict[str, Any]) -> None:
    """Say on standard error that an act which takes two persons elsewhere takes one here."""
    from node.roles import TWO_PERSONS

    rule = TWO_PERSONS.get(name)
    if rule is not None and rule.applies(body) and rule.synthetic_exempt and network_of(home).synthetic:
        text = f"`{name}` takes two persons (with the {rule.second}) except here: this network is marked synthetic"
        click.echo(f"koinon: {text}", err=True)


def status_or_none(home: Path, timeout_s: float = 5.0) -> dict[str, Any] | None:
    """What the running node of a home says of itself; None when none runs."""
    from node import control

    path = open_home(home).control_path
    try:
        return control.ask(path, "status", {}, timeout_s) if in_use(home) else None
    except (NotFound, TimedOut):
        return None


def success_of(home: Path, history: History, study: Digest) -> dict[str, Any] | None:
    """Whether a study may be called a success (`node.trail.success`); None while its specification is not here."""
    from node.store import Store
    from node.study import parse_canonical
    from node.trail import success

    store = Store(reading_home(home), bytes(32))
    try:
        spec = parse_canonical(store.get(history.studies[study].created.terms.spec_hash))
    except NotFound:
        return None
    finally:
        store.close()
    return success(history, study, spec.sections["success"])


def history_of(home: Path) -> History:
    """The chain as the home (a network home: its auditor) has kept it; nothing needs to run."""
    from node import runner

    return runner.read_history(reading_home(home))


def tell_as_of(home: Path) -> None:
    """Say on standard error as of which block an answer from the home speaks: the newest of its copy of the chain.

    It is said before the answer is read. A running node may add blocks in between, so no answer is of fewer than these.
    """
    from node.audit.events import newest_block

    found = newest_block(reading_home(home))
    if found is not None:
        progress(f"as of block {found.number}, {moment(found.timestamp)} UTC")
    elif home.is_dir():
        progress("as of no block: this home has none whose evidence holds")


def pick_study(history: History, given: str | None) -> Digest:
    """A study by its id or the beginning of it; the only one when none is named."""
    wanted = None if given is None else given.lower().removeprefix("0x")
    found = [one for one in history.studies if wanted is None or one.hex().startswith(wanted)]
    if len(found) == 1:
        return found[0]
    if not found:
        raise NotFound(f"no study {given} is known here" if given else "no study is known here yet")
    raise InputError(f"{len(found)} studies fit; name one of {', '.join(one.hex()[:12] for one in found)}")


def network_of(home: Path) -> Network:
    """The network description of a home of either kind."""
    if not home.is_dir():
        raise NotFound(f"{home} does not exist")
    return read_network(home / "network.json")


def check_chain(home: Path) -> None:
    """Say at once that no chain answers, or another one, before a node is started for one order.

    Raises:
        ChainUnreachable, LedgerError: what is wrong with the chain.
    """
    from node import config
    from node.ledger import EthereumClient

    opened = open_home(home)
    url = config.load(opened.config_path)["chain", "url"]
    _ = EthereumClient(url, network_of(home).contracts.chain_id, timeout_s=5.0).chain_id


class Following:
    """The chain as a home keeps it while its node runs: folded once, then block by block."""

    def __init__(self, home: Path) -> None:
        self._home = reading_home(home)
        self._network = network_of(self._home)
        self._start()

    def _start(self) -> None:
        from node.history import History

        self.history = History()
        self._done = -1
        self._last: bytes | None = None

    def refresh(self) -> History:
        """Fold what is new; the history, whole."""
        from node.abi import Codec
        from node.evidence import verify_block
        from node.follower import logged_of
        from node.store import Store

        store, codec = Store(self._home, bytes(32)), Codec.load()
        try:
            if self._done >= 0 and store.block_hash(self._done) != self._last:
                self._start()  # the chain was reorganised below us
            for evidence, block_hash in store.blocks(self._done + 1):
                self.history.apply_all(logged_of(verify_block(evidence), codec, self._network.contracts))
                self._done, self._last = evidence.number, block_hash
        finally:
            store.close()
        return self.history


def model_roots(history: History, study: Digest, branch: int | None = None) -> dict[int, str]:
    """Model root after every final round of a study's branch (the one that trains), by height."""
    chosen = history.studies[study].active_branch if branch is None else branch
    return {
        one.opened.height: one.final.result.model_root.hex()
        for one in history.path(study, chosen)
        if one.final is not None and one.made_model
    }


def names_of(history: History) -> dict[int, str]:
    """Members' registered names by index."""
    return {index: member.name for index, member in history.registry.members.items()}


def members_text(bitmap: int, names: dict[int, str]) -> str:
    """The members of a bitmap, by name."""
    from node.membership import members_of

    return ", ".join(names.get(index, f"member {index}") for index in members_of(bitmap)) or "nobody"
