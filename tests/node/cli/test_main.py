"""The command line's surface: every command explains itself, and every fault ends in words and the right exit code."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import structlog

from fl_engine.unlearning import UNLEARNERS
from node import config
from node.cli.main import koinon
from node.cli.output import answer, as_node_error, configure_logging, csv_flag, fail, json_flag
from node.home import create_home
from tests.node.cli.cli_kit import koinon_says

SURFACE = {
    "demo": None,
    "network": "init up status down plan-successor found-successor",
    "node": "init run status doctor pending approve rotate",
    "member": "apply approve remove list rotate revoke recover seat-auditor end-auditor succeed move",
    "study": "create join leave list show spec-template",
    "consent": "grant withdraw withdraw-left show import export list supersede correct forms",
    "erase": "request plan status receipt audit replay-local attest record verify refuse extend",
    "audit": "verify trail open round member consent erasure disclosures participation prove check export provenance "
    "record-of-processing events",
    "model": "show evaluate export lineage status note",
    "simulate": None,
    "chain": "serve status deploy fund",
}


def commands(group: click.Group, names: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, (*names, name))
        else:
            yield (*names, name)


ALL = list(commands(koinon))


def test_the_surface_is_the_agreed_one() -> None:
    expected = [
        (noun, verb) if verb else (noun,) for noun, verbs in SURFACE.items() for verb in (verbs or "").split() or [""]
    ]
    assert sorted(ALL) == sorted(expected)


@pytest.mark.parametrize("command", ALL, ids=" ".join)
def test_every_command_teaches_a_sentence_an_example_and_a_limit(command: tuple[str, ...]) -> None:
    code, out, err = koinon_says(*command, "--help")
    assert code == 0
    assert err == ""
    assert "Usage: " in out
    assert "Example" in out
    assert " ".join(("koinon", *command)) in " ".join(out.split())
    assert "--json" in out


@pytest.mark.parametrize("noun", [noun for noun, verbs in SURFACE.items() if verbs])
def test_a_noun_alone_shows_its_verbs_and_is_a_usage_error(noun: str) -> None:
    code, out, err = koinon_says(noun)
    assert code == 2
    assert out == ""
    assert all(verb in err for verb in (SURFACE[noun] or "").split())


def test_an_unknown_command_is_a_usage_error_in_words_and_in_json() -> None:
    code, out, err = koinon_says("studies")
    assert (code, out) == (2, "")
    assert "studies" in err
    code, out, err = koinon_says("study", "shew", "--json")
    assert code == 2
    error = json.loads(out)
    assert error["schema"] == "koinon.error/1"
    assert error["error"]["exit_code"] == 2
    assert error["error"]["kind"] == "UsageError"
    assert "shew" in error["error"]["message"]


def test_a_home_that_is_not_there_is_exit_code_4(tmp_path: Path) -> None:
    for command in (
        ("network", "status"),
        ("node", "status"),
        ("node", "run"),
        ("study", "list"),
        ("audit", "participation"),
        ("consent", "list"),
        ("chain", "status"),
    ):
        code, out, err = koinon_says(*command, "--home", tmp_path / "nowhere", "--json")
        assert code == 4, (command, err)
        assert json.loads(out)["error"]["kind"] == "NotFound"
        assert "nowhere" in err


def test_a_home_of_another_version_is_exit_code_8(tmp_path: Path) -> None:
    (tmp_path / "home.json").write_text('{"format": 99, "role": "member", "index": 0}')
    code, _, err = koinon_says("node", "status", "--home", tmp_path)
    assert code == 8
    assert "format 99" in err


@pytest.mark.parametrize("text", ["", "not toml =", 'schema = "koinon.study/2"\nname = "x"'])
def test_a_bad_specification_is_exit_code_2(tmp_path: Path, text: str) -> None:
    path = tmp_path / "study.toml"
    path.write_text(text)
    code, out, err = koinon_says("simulate", "--spec", path, "--task", "mri-quality", "--members", 2)
    assert (code, out) == (2, "")
    assert "study spec" in err


def test_a_specification_and_flags_are_never_mixed(tmp_path: Path) -> None:
    code, _, err = koinon_says("simulate", "--spec", tmp_path / "s.toml", "--rounds", 3, "--task", "nuclei")
    assert code == 2
    assert "--rounds" in err


def test_missing_flags_of_a_study_are_named() -> None:
    code, _, err = koinon_says("simulate", "--task", "mri-quality", "--members", 2, "--model", "mlp")
    assert code == 2
    assert "--learning-rate" in err
    assert "--rounds" in err


def test_task_and_data_exclude_each_other_and_one_is_needed(tmp_path: Path) -> None:
    for extra in ((), ("--task", "nuclei", "--data", "a.npz")):
        code, _, err = koinon_says("network", "init", "--home", tmp_path / "n", *extra)
        assert code == 2
        assert "--task or --data" in err
    assert not (tmp_path / "n").exists()


def test_a_file_that_is_not_there_is_exit_code_2(tmp_path: Path) -> None:
    code, _, err = koinon_says(
        "network", "init", "--home", tmp_path / "n", "--data", "a.npz", "--data", tmp_path / "b.npz"
    )
    assert code == 2
    assert "a.npz" in err


def test_an_unknown_task_is_exit_code_2_and_lists_the_known_ones(tmp_path: Path) -> None:
    code, _, err = koinon_says("network", "init", "--home", tmp_path / "n", "--task", "moon")
    assert code == 2
    assert "nuclei" in err


def test_who_is_meant_is_named_exactly_once(tmp_path: Path) -> None:
    for extra in ((), ("--consent", "a" * 64, "--patient", "x")):
        code, _, err = koinon_says("consent", "withdraw", "--home", tmp_path, *extra)
        assert code == 2
        assert "exactly one" in err


def test_a_patient_id_is_never_shown_again(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "home.json").write_text('{"format": 1, "role": "member", "index": 0}')
    for arguments, stdin in ((("--patient", "MRN-4711"), None), (("--patient", "-"), "MRN-4711\n")):
        code, out, err = koinon_says("consent", "withdraw", "--home", home, *arguments, "--json", stdin=stdin)
        assert code != 0
        assert "4711" not in out + err


def test_an_empty_standard_input_names_no_patient(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "home.json").write_text('{"format": 1, "role": "member", "index": 0}')
    code, _, err = koinon_says("erase", "request", "--home", home, "--patient", "-", stdin="\n")
    assert code == 2
    assert "standard input" in err


def test_a_method_is_known_and_one_that_members_carry_out(tmp_path: Path) -> None:
    ask = ("erase", "request", "--home", tmp_path, "--consent", "ab" * 32, "--method")
    code, _, err = koinon_says(*ask, "rapidly")
    assert code == 2
    assert all(name in err for name in UNLEARNERS), "the known ones are listed"
    code, _, err = koinon_says(*ask, "mode")
    assert code == 5
    assert "begins at the model that is to go" in err


@pytest.mark.parametrize(
    "arguments",
    [
        ("audit", "check", "missing.json"),
        ("erase", "verify", "missing.json"),
        ("audit", "prove", "--home", ".", "--out", "x"),
        ("audit", "prove", "--home", ".", "--out", "x", "--round", "1", "--from", "2"),
        ("consent", "grant", "--home", "."),
        ("simulate", "--task", "nuclei", "--branch-seed", "ab"),
        ("simulate", "--task", "nuclei", "--unlearning", "rapid", "--to-round", "4"),
        ("erase", "request", "--home", ".", "--consent", "ab" * 32, "--method", "rapidly"),
        ("chain", "fund", "--home", ".", "--address", "0x12"),
        ("demo", "--rounds", "1"),
        ("demo", "--task", "moon"),
        ("model", "evaluate", "--home", ".", "--data", "missing.npz"),
    ],
    ids=lambda one: " ".join(one[:3]),
)
def test_bad_usage_and_bad_files_are_exit_code_2(
    arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = koinon_says(*arguments)
    assert code == 2, err
    assert out == ""
    assert "Traceback" not in err


def writers() -> list[tuple[str, str, str]]:
    """(noun, verb, option) of every command that writes a file which its caller names."""
    found = []
    for noun, group in koinon.commands.items():
        for verb, command in getattr(group, "commands", {}).items():
            flags = {flag for one in command.params for flag in one.opts}
            found += [(noun, verb, flag) for flag in ("--out", "--fhir") if flag in flags and verb != "import"]
    return found


@pytest.mark.parametrize("noun, verb, flag", writers())
def test_a_file_that_exists_is_not_written_over_and_nothing_is_done_before(
    noun: str, verb: str, flag: str, tmp_path: Path
) -> None:
    path = tmp_path / "mine"
    path.write_text("of before")
    code, out, _ = koinon_says(noun, verb, flag, path, "--json")
    assert (code, path.read_text()) == (2, "of before")
    assert f"mine exists: name another file with {flag}, or" in json.loads(out)["error"]["message"]
    for given in ((path, "--replace"), (os.devnull,)):
        code, out, _ = koinon_says(noun, verb, flag, *given, "--json")
        assert "Missing " in json.loads(out)["error"]["message"], "neither it nor a device is an obstacle"


def test_a_file_that_is_no_proof_or_certificate_is_refused_with_its_fault(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    for text in ("{}", "[]", '{"schema":"koinon.proof/9"}', "x" * 100):
        path.write_text(text)
        for command in (("audit", "check"), ("erase", "verify")):
            code, out, _ = koinon_says(*command, path, "--json")
            assert code in (2, 3, 8), (command, text)
            assert json.loads(out)["error"]["exit_code"] == code


def test_a_template_is_a_specification_that_is_taken_as_it_is() -> None:
    from node.study import parse_toml

    code, out, _ = koinon_says("study", "spec-template")
    assert code == 0
    study = parse_toml(out.encode())
    assert study["windows", "have_s"] >= 2 * study["windows", "grace_s"]
    code, out, _ = koinon_says("study", "spec-template", "--json")
    assert json.loads(out)["schema"] == "koinon.study-spec-template/1"
    assert parse_toml(json.loads(out)["data"]["toml"].encode()) == study


def test_a_younger_key_leaves_the_hash_of_older_specifications_alone_and_l3_needs_its_sets_ahead() -> None:
    from node.errors import InputError
    from node.study import parse_canonical, parse_toml

    code, out, _ = koinon_says("study", "spec-template")
    assert code == 0
    study = parse_toml(out.encode())
    older = "\n".join(line for line in out.splitlines() if not line.startswith(("sets_ahead", "evidence", "members")))
    assert parse_toml(older.encode()).spec_hash == study.spec_hash
    assert b"sets_ahead" not in study.canonical
    asking = out.replace('evidence = ["L2"]', 'evidence = ["L3", "L2"]')
    with pytest.raises(InputError, match=r"asks for L3, which needs policy\.sets_ahead"):
        parse_toml(asking.encode())
    ahead = parse_toml(asking.replace("sets_ahead = false", "sets_ahead = true").encode())
    assert ahead["policy", "evidence"] == ["L2", "L3"]
    assert parse_canonical(ahead.canonical) == ahead
    with pytest.raises(InputError, match=r"policy\.evidence has 'L9'"):
        parse_toml(out.replace('["L2"]', '["L9"]').encode())


def test_an_unforeseen_fault_is_one_line_that_names_the_place_and_no_value() -> None:
    @koinon.command("break")
    @json_flag
    def _break() -> None:
        raise KeyError("MRN-4711")

    try:
        code, out, err = koinon_says("break", "--json")
    finally:
        koinon.commands.pop("break")
    assert code == 1
    assert "4711" not in out + err
    assert "KeyError at test_main.py" in err
    assert err.count("\n") == 1
    assert json.loads(out)["error"]["kind"] == "Unexpected"


class _Full:
    """A file on a disk without room."""

    def write(self, text: str) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def flush(self) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_log_that_cannot_be_written_loses_lines_and_ends_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    configure_logging("warning")
    monkeypatch.setattr(sys, "stderr", _Full())
    structlog.get_logger("test").warning("lost")
    with pytest.raises(SystemExit) as ended:
        fail("LocalFault", "no room", 8, as_json=False)
    assert ended.value.code == 8


def test_a_home_that_never_followed_the_chain_says_that_it_speaks_as_of_no_block(tmp_path: Path) -> None:
    home = create_home(tmp_path / "made", "auditor", 0)
    assert "as of no block" in koinon_says("audit", "verify", "--home", home.path)[2]
    assert "as of" not in koinon_says("audit", "verify", "--home", tmp_path / "nowhere")[2]


def test_an_answer_without_rows_has_its_header_as_csv() -> None:
    @koinon.command("list-nothing")
    @json_flag
    @csv_flag
    def _nothing() -> None:
        answer([], ["nothing"], [], ("time", "who"))

    try:
        assert koinon_says("list-nothing", "--csv")[:2] == (0, "time,who\n")
    finally:
        koinon.commands.pop("list-nothing")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
@pytest.mark.parametrize("flag", ["--json", "--csv", ""])
def test_a_terminal_without_the_letters_of_a_name_is_no_fault(flag: str, encoding: str) -> None:
    code = f"""
import sys
from node.cli.main import koinon, main
from node.cli.output import answer, csv_flag, json_flag

@koinon.command("name")
@json_flag
@csv_flag
def name():
    answer({{"name": "\\u03b1"}}, ["\\u03b1"], [{{"name": "\\u03b1"}}], ("name",))

sys.argv = ["koinon", "name", *{flag!r}.split()]
main()
"""
    narrow = os.environ | {"PYTHONIOENCODING": encoding}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=narrow, check=False)
    assert done.returncode == 0, done.stderr
    if flag == "--json":
        assert json.loads(done.stdout)["data"] == {"name": "\u03b1"}
    elif flag == "--csv" or encoding == "latin-1":
        assert b"\\u03b1" in done.stdout
    else:
        assert "\u03b1".encode() in done.stdout, "click takes ASCII for a mistake and writes UTF-8"


def test_faults_of_other_rooms_get_their_exit_codes() -> None:
    from crypto.errors import EncodingError, SignatureMismatch, WrongPassword
    from fl_engine.errors import DataError, PackageUnavailable, PolicyError

    faults = (
        (EncodingError("field", "problem"), 2),
        (DataError("a.npz", 3, "NaN"), 2),
        (PolicyError("too few batches"), 5),
        (PackageUnavailable("offline"), 8),
        (PermissionError(13, "Permission denied", "/x"), 8),
    )
    for fault, code in faults:
        known = as_node_error(fault)
        assert known is not None
        assert int(known.exit_code) == code
    assert issubclass(SignatureMismatch, Exception)
    assert issubclass(WrongPassword, Exception)
    assert as_node_error(ZeroDivisionError()) is None


def test_starting_the_command_line_loads_none_of_the_heavy_libraries() -> None:
    heavy = "torch web3 libp2p eth numpy"
    code = f"import sys, node.cli.main; print([n for n in {heavy.split()!r} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() in ("[]", "['numpy']")


@pytest.mark.parametrize("name", ["St. \n Elsewhere", "\x1b[31mred"])
def test_a_name_that_members_could_not_seat_is_refused_at_once_and_shown_escaped(tmp_path: Path, name: str) -> None:
    network = tmp_path / "network.json"
    network.write_text("{}")
    making = ("node", "init", "--home", tmp_path / "new", "--network", network, "--auditor", "--name", name)
    home = create_home(tmp_path / "made", "auditor", 0)
    config.write(home.config_path, node__name=name)
    for command in (making, ("member", "apply", "--home", home.path, "--out", tmp_path / "application.json")):
        code, _, err = koinon_says(*command)
        assert code == 2
        assert f"control characters in {name!r}" in err
        assert name not in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made", "network.json"]


@pytest.mark.parametrize(
    "text, fault",
    [
        ("patient,form\nP1,general\n", "unknown column 'patient'"),
        ("patient_id,form,signed_on,signer,verified_by\n", "holds no signed form"),
        ("", "column 'patient_id' is missing"),
    ],
)
def test_a_register_of_other_columns_is_refused_before_anything_is_made(tmp_path: Path, text: str, fault: str) -> None:
    register = tmp_path / "forms.csv"
    register.write_text(text)
    arguments = ("network", "init", "--home", tmp_path / "net", "--task", "nuclei", "--members", "2")
    code, _, err = koinon_says(*arguments, "--register", register)
    assert code == 2
    assert fault in err
    assert not (tmp_path / "net").exists()


def test_what_a_second_person_approves_names_study_and_recipient() -> None:
    from node.runner import _summary

    told = _summary("model.export", {"study": "78fd", "round": 3, "recipient": "Institute\nX"})
    assert told == "the model of round 3 of study 78fd, for InstituteX"
    assert _summary("model.export", {}) == "the newest model of the only study, for nobody named"
