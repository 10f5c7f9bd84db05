"""`koinon study`: what is trained, by whom, under which rules."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from node.cli import common, spec
from node.cli.common import SECONDS, acting_home, home_option, study_option
from node.cli.output import Noun, answer, json_flag, moment, progress, table
from node.errors import InputError, LocalFault, TimedOut
from node.home import is_network_home, node_homes

if TYPE_CHECKING:
    from crypto.digest import Digest
    from node.history import History, StudyHistory

POLL_S: Final = 0.5
JOINING_S: Final = 10.0  # that members take to join without a word about it
WHY_NOT_JOINED: Final = "`koinon node status` there says what keeps a member out"


@click.group(cls=Noun)
def study() -> None:
    """Create, join and watch studies: one model, trained round by round.

    Example: koinon study create --home NET/member-1 --spec study.toml --wait

    What a study's rules are stands in its specification, whose hash is on the chain; nobody can change it later.
    """


@study.command("create")
@home_option
@spec.spec_options
@click.option("--wait", is_flag=True, help="Return when the study has all its rounds; progress on stderr.")
@click.option("--timeout", type=SECONDS, help="With --wait: give up after so many seconds (exit code 7).")
@json_flag
def create(home: Path, given: spec.Given, wait: bool, timeout: float | None) -> None:
    """Put a study on the chain; every active member is invited.

    \b
    Examples: koinon study create --home NET/member-1 --spec study.toml --wait
              koinon study create --home NET/member-1 --model small-cnn --rounds 4 \\
                  --local-epochs 1 --batch-size 16 --learning-rate 0.05

    With flags, shape and classes come from the home's own data and everything else is the default. The same order
    given twice is the same study. Round 1 opens when all have joined; nodes join by themselves unless told otherwise.
    """
    spec.refuse_both(given)
    if is_network_home(home):
        home = node_homes(home)[0]
    home = acting_home(home)
    text = spec.spec_text(given.spec) if given.spec is not None else _text_of_flags(home, given)
    found = common.order(home, "study.create", {"spec": text})
    lines = [f"study {found['study']}"]
    if wait:
        history = wait_for(home, found["study"], timeout)
        found = {**found, **_roots(home, history, found["study"])}
        lines += [f"round {height}  model {root}" for height, root in found["model_roots"].items()]
        if found["success"] is not None:
            from node.trail import success_line

            lines.append(success_line(found["success"]))
    else:
        lines.append(f"watch it: koinon study show --home {home} --study {found['study'][:12]}")
    answer(found, lines)


def _roots(home: Path, history: History, given: str) -> dict[str, Any]:
    number = common.pick_study(history, given)
    return {
        "finished": history.finished(number),
        "success": common.success_of(home, history, number),
        "model_roots": {str(h): root for h, root in common.model_roots(history, number).items()},
    }


def _text_of_flags(home: Path, given: spec.Given) -> str:
    import tomli_w

    told = common.order(home, "status", {})
    if told.get("data_shape") is None:
        raise InputError(f"{home} has no data, so flags cannot describe them: name a --spec")
    shape = tuple(int(d) for d in told["data_shape"])
    task = told.get("task") or ("table-classification" if len(shape) == 1 else "npz-classification")
    synthetic = common.network_of(home).synthetic
    made = spec.from_flags(given, task=task, shape=shape, classes=int(told["classes"]), synthetic=synthetic)
    return tomli_w.dumps({**made.sections[""], **{k: v for k, v in made.sections.items() if k}, "forms": made.forms})


def wait_for(
    home: Path,
    given: str,
    timeout_s: float | None = None,
    until: Callable[[History, Digest], bool] | None = None,
    *,
    poll_s: float = POLL_S,
    watch: Watch | None = None,
) -> History:
    """Wait until a study has all its rounds (or `until` holds), telling every step on standard error.

    Raises:
        LocalFault: the home's node does not run, so nothing would ever happen.
        TimedOut: not within `timeout_s` seconds.
    """
    watch = watch or Watch(home)
    begun = time.monotonic()
    while True:
        history = watch.refresh()
        found = [one for one in history.studies if one.hex().startswith(given.lower())]
        if found:
            watch.tell(found[0])
            if history.finished(found[0]) if until is None else until(history, found[0]):
                return history
        if not (home / "control.json").exists():
            raise LocalFault(f"the node of {home} does not run: start it, then watch with `koinon study show`")
        if timeout_s is not None and time.monotonic() - begun > timeout_s:
            text = f"the study is not finished after {timeout_s:g} s"
            if found and (away := _awaited(history, found[0])):
                text += f": {_waits_for(away, common.names_of(history))}; {WHY_NOT_JOINED}"
            raise TimedOut(text)
        time.sleep(poll_s)


class Watch:
    """A home's copy of the chain, followed; says every round's opening and end once."""

    def __init__(self, home: Path, say: Callable[[str], None] = progress) -> None:
        self._following = common.Following(home)
        self._print = say
        self._said: set[tuple[bytes, str]] = set()
        self._begun = time.monotonic()

    def refresh(self) -> History:
        """What the home knows now."""
        return self._following.refresh()

    def tell(self, number: Digest) -> None:
        """Say what is new in a study."""
        history = self._following.history
        names = common.names_of(history)
        away = _awaited(history, number)
        if away and time.monotonic() > self._begun + JOINING_S:
            self._say(number, f"awaits {away}", _waits_for(away, names))
        for branch in history.studies[number].branches.values():
            where = f"round {{}} of branch {branch.number}" if branch.number else "round {}"
            for height, round_id in sorted(branch.rounds.items()):
                one = history.rounds[round_id]
                self._say(
                    round_id,
                    "opened",
                    f"{where.format(height)}: open, asked {common.members_text(one.opened.roster, names)}",
                )
                if one.final is not None:
                    result = one.final.result
                    text = f"model {result.model_root.hex()[:12]}" if result.outcome == 1 else "no model"
                    included = common.members_text(result.included, names)
                    self._say(round_id, "final", f"{where.format(height)}: final, included {included}; {text}")
                elif one.failed is not None:
                    self._say(round_id, "failed", f"{where.format(height)}: failed; its height is used up")

    def _say(self, round_id: bytes, what: str, text: str) -> None:
        if (round_id, what) not in self._said:
            self._said.add((round_id, what))
            self._print(text)


@study.command("join")
@home_option
@study_option
@json_flag
def join(home: Path, study: str | None) -> None:
    """Sign our Join; round 1 opens when every invited member has joined or declined.

    Example: koinon study join --home H --study 3f2a

    Grant consents first: the first round takes only those granted before it opened. Nodes with study.auto_join join by
    themselves as soon as their register of signed forms is enrolled.
    """
    found = common.order(acting_home(home), "study.join", {"study": study})
    answer(found, [f"joined study {found['study']}"])


@study.command("leave")
@home_option
@study_option
@click.option("--anyway", is_flag=True, help="Also while erasures of this hospital are open in it.")
@json_flag
def leave(home: Path, study: str | None, anyway: bool) -> None:
    """Sign our Leave; it takes effect when the next round opens, and is for good.

    Example: koinon study leave --home H --study 3f2a

    It deletes nothing and withdraws no consent. While an erasure of this hospital is open in the study it is refused
    (exit code 5) and says what would become of it: the others go on without our vote and without our records.
    """
    found = common.order(acting_home(home), "study.leave", {"study": study, "anyway": anyway})
    answer(found, [f"left study {found['study']}"])


@study.command("list")
@home_option
@json_flag
def list_(home: Path) -> None:
    """List the studies that a home's copy of the chain knows.

    Example: koinon study list --home NET

    Reads the home alone; nothing needs to run, and nothing newer than the home is seen.
    """
    history = common.history_of(home)
    rows = [_summary(history, number, found) for number, found in history.studies.items()]
    header = ("study", "state", "rounds", "joined", "branches", "forms", "created")
    answer(
        rows,
        table(
            header,
            [
                (
                    r["study"][:12],
                    r["state"],
                    f"{r['finals']}/{r['rounds']}",
                    r["joined"],
                    r["branches"],
                    r["forms"],
                    moment(r["created_at_block_time"]) or r["created_in_block"],
                )
                for r in rows
            ],
        ),
    )


def _awaited(history: History, number: Digest) -> int:
    """Members, as a bitmap, that the first round waits for: all who were invited, as far as they are members still."""
    from node.membership import bitmap_of

    found = history.studies[number]
    if any(branch.rounds for branch in found.branches.values()):
        return 0
    return found.created.terms.invited & history.registry.active & ~bitmap_of(found.joined | found.left)


def _waits_for(awaited: int, names: dict[int, str]) -> str:
    return f"the first round waits for {common.members_text(awaited, names)} to join"


def _summary(history: History, number: Digest, found: StudyHistory) -> dict[str, Any]:
    running = history.open_round(number)
    state = "finished" if history.finished(number) else "waiting" if running is None else "training"
    return {
        "study": number.hex(),
        "state": state,
        "rounds": found.created.terms.rounds,
        "finals": found.head.finals,
        "creator": found.created.creator,
        "joined": sorted(found.joined - found.left),
        "left": sorted(found.left),
        "awaited": _indexes(_awaited(history, number)),
        "branches": len(found.branches),
        "active_branch": found.active_branch,
        "serving_branch": found.serving_branch,
        "forms": len(found.forms),
        "running_round": None if running is None else running.opened.height,
        "created_in_block": found.position.block,
        "created_at_block_time": None,
    }


@study.command("show")
@home_option
@study_option
@json_flag
def show(home: Path, study: str | None) -> None:
    """Show a study: terms, forms, who takes part, every round with its model.

    Example: koinon study show --home NET

    Included means that the members' rule let an update in; it does not say that its training was honest.
    """
    from dataclasses import asdict

    from node.errors import NotFound
    from node.home import reading_home
    from node.store import Store
    from node.study import parse_canonical
    from node.trail import success, success_line

    history = common.history_of(home)
    number = common.pick_study(history, study)
    found = history.studies[number]
    terms = asdict(found.created.terms)
    store = Store(reading_home(home), bytes(32))
    try:
        parsed = parse_canonical(store.get(found.created.terms.spec_hash))
        text: dict[str, Any] | None = {**parsed.sections[""], **{k: v for k, v in parsed.sections.items() if k}}
    except NotFound:
        text = None
    finally:
        store.close()
    names = common.names_of(history)
    rounds: list[dict[str, Any]] = [
        {
            "round_id": one.opened.round_id.hex(),
            "branch": one.opened.branch,
            "height": one.opened.height,
            "state": "final" if one.final else "failed" if one.failed else "open",
            "included": _indexes(one.final.result.included) if one.final else [],
            "model_root": one.final.result.model_root.hex() if one.final and one.made_model else None,
        }
        for one in history.path(number, found.active_branch)
    ]
    data = {
        **_summary(history, number, found),
        "name": None if text is None else text["name"],
        "terms": {key: one.hex() if isinstance(one, bytes) else one for key, one in terms.items()},
        "specification": text,
        "forms": [
            {
                "form_id": form_id.hex(),
                "custody": form.custody,
                "basis": form.basis,
                "valid_to": form.valid_to,
                "on_withdrawal": form.on_withdrawal,
            }
            for form_id, form in found.forms.items()
        ],
        "rounds_of_branch": rounds,
        "model_roots": {str(h): root for h, root in common.model_roots(history, number).items()},
        "shards": {} if text is None else _shards(text["training"]["shards"], sorted(found.joined - found.left)),
        "success": None if text is None else success(history, number, text["success"]),
    }
    awaited = _awaited(history, number)
    lines = [
        f"study {number.hex()}",
        f"name {data['name'] or 'not known here'}; {data['state']}; {data['finals']} of {data['rounds']} final rounds",
        f"joined: {', '.join(names.get(i, str(i)) for i in data['joined'])}",
        *([f"{_waits_for(awaited, names)}; {WHY_NOT_JOINED}"] if awaited else []),
        f"branch {found.active_branch} trains, branch {found.serving_branch} serves",
    ]
    for shard, members in data["shards"].items():
        lines.append(f"shard {shard}: {', '.join(names.get(i, str(i)) for i in members)}")
    if data["success"] is not None and history.finished(number):
        lines.append(success_line(data["success"]))
    lines += table(
        ("round", "branch", "state", "included", "model"),
        [
            (
                r["height"],
                r["branch"],
                r["state"],
                " ".join(names.get(i, str(i)) for i in r["included"]) or "-",
                r["model_root"],
            )
            for r in rounds
        ],
    )
    answer(data, lines)


def _shards(count: int, joined: Sequence[int]) -> dict[str, list[int]]:
    """Shard -> who trains it; empty where there is one network."""
    from fl_engine.models.shards import shard_of

    numbers = range(1, count + 1) if count > 1 else ()
    return {str(shard): [index for index in joined if shard_of(index, count) == shard] for shard in numbers}


def _indexes(bitmap: int) -> list[int]:
    from node.membership import members_of

    return list(members_of(bitmap))


@study.command("spec-template")
@click.option("--home", type=common.HOME, help="Fill in shape, classes and task from this home's data.")
@click.option("--form-text", is_flag=True, help="Print the text of the form that comes with koinon instead.")
@json_flag
def spec_template(home: Path | None, form_text: bool) -> None:
    """Print a commented specification to start from.

    Example: koinon study spec-template --home NET/member-1 > study.toml

    It is a start, not advice: windows must contain your training, and the form must be the one your patients signed.
    """
    if form_text:
        text = spec.form_text().decode()
        answer({"text": text}, text.splitlines())
        return
    task, shape, classes, synthetic = "nuclei", (1, 28, 28), 3, True
    if home is not None:
        told = common.order(acting_home(home), "status", {})
        if told.get("data_shape") is None:
            raise InputError(f"{home} has no data to describe")
        shape, classes = tuple(told["data_shape"]), int(told["classes"])
        task = told.get("task") or ("table-classification" if len(shape) == 1 else "npz-classification")
        synthetic = common.network_of(home).synthetic
    model = "mlp" if len(shape) == 1 else "small-cnn"
    text = spec.template(name=task, task=task, shape=shape, classes=classes, model=model, synthetic=synthetic)
    answer({"toml": text}, text.splitlines())
