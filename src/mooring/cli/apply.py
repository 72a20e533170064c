"""`mooring apply`: make what the documents say true, all of it or nothing."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from mooring.cli.problems import CommandError
from mooring.cli.session import Format, Session, connected
from mooring.cli.terms import AgreeTerms, agree


@connected
def apply(
    session: Session,
    file: Annotated[
        list[str],
        typer.Option("--file", "-f", help="YAML or JSON file, folder, or - for stdin. May be repeated."),
    ],
    wait: Annotated[bool, typer.Option("--wait", help="Wait until the services are healthy.")] = False,
    timeout: Annotated[
        float, typer.Option("--timeout", min=1, help="Seconds to wait; a download that moves on does not count.")
    ] = 600.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would happen; change nothing.")] = False,
    agree_terms: AgreeTerms = False,
) -> None:
    """Create or update what the documents describe, in one transaction. The result is printed before the waiting.

    Example: [bold]mooring apply -f examples/ --wait[/bold]
    """
    from mooring.cli import kinds, output, waiting
    from mooring.cli.documents import name_places, read_placed

    placed = read_placed(file)
    if agree_terms:
        agree(session.client)
    try:
        items = kinds.apply_documents(session.client, [each.document for each in placed], dry_run=dry_run)
    except CommandError as error:
        raise name_places(error, placed) from None
    # Before the waiting: a key is shown only once, and whoever waits may lose patience or the connection.
    if session.output is Format.table:
        print_actions(items, dry_run=dry_run)
    else:
        output.print_data({"items": items}, session.output)
    sys.stdout.flush()
    if wait and not dry_run:
        waiting.wait_for_services(session.client, items, timeout)


def print_actions(items: list[dict], *, dry_run: bool = False) -> None:
    """Print what became of each document, and the keys that were made."""
    for item in items:
        would = "would be " if dry_run and item["action"] != "unchanged" else ""
        name = f"{item['kind']} {item['metadata']['name']}"
        known_as = "" if dry_run and item["action"] == "created" else item.get("id", "")
        print(f"{name} {would}{item['action']}  {known_as}".rstrip())
        if key := item.get("status", {}).get("key"):
            print(f"  key: {key}\n  access key: {item['status'].get('accessKey', '')}")
            print("  This is the only time they are shown.")
