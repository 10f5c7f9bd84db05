"""`koinon NOUN VERB`: the command line. One file a noun; this one gathers them, each loaded when it is asked for."""

from __future__ import annotations

from typing import Final

import click

from node.cli import audit, chain, consent, demo, erase, member, model, network, node, simulate, study
from node.cli.output import Root, configure_logging, escape_what_does_not_fit
from node.home import VERSION

HELP: Final = """Hospitals train one medical-imaging model together, without a server.

\b
Try it:        koinon demo
A network:     koinon network init --home NET --members 4 --task nuclei
               koinon network up --home NET --detach
               koinon study create --home NET/member-1 --model small-cnn --rounds 4 \\
                   --local-epochs 1 --batch-size 16 --learning-rate 0.05 --wait
What happened: koinon audit verify --home NET

Every command takes --help, and --json for an answer that programs read. Exit codes: 0 ok, 1 unexpected, 2 usage or a
bad input file, 3 a verification failed, 4 not found, 5 refused by consent or policy, 6 chain unreachable, 7 timed out,
8 a fault of this machine (password, port, disk, home in use or of another version).

koinon is research software. It is no medical device, and its models are not for diagnosis.
"""


@click.group(cls=Root, help=HELP, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(VERSION, prog_name="koinon")
def koinon() -> None:
    """See HELP."""
    configure_logging("warning")


for command in (
    demo.demo,
    network.network,
    node.node,
    member.member,
    study.study,
    consent.consent,
    erase.erase,
    audit.audit,
    model.model,
    simulate.simulate,
    chain.chain,
):
    koinon.add_command(command)


def main() -> None:
    """The console script."""
    escape_what_does_not_fit()
    koinon(prog_name="koinon")


if __name__ == "__main__":
    main()
