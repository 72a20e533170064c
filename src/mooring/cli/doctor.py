"""`mooring doctor`: looks at this machine and the running platform, and says for each fault what to do."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from mooring.cli.session import DataDir, Format, Key, OutputFormat, Url

_STYLE = {"ok": "green", "note": "yellow", "BAD": "red"}


def doctor(
    offline: Annotated[bool, typer.Option("--offline", help="Don't ask whether the model hub can be reached.")] = False,
    hub: Annotated[
        str, typer.Option("--hub", envvar="HF_ENDPOINT", help="Hub or mirror to look for.")
    ] = "https://huggingface.co",
    url: Url = "",
    key: Key = "",
    data_dir: DataDir = None,
    output: OutputFormat = Format.table,
) -> None:
    """Check this machine and the platform; exit status 1 if something is wrong. A note is no fault.

    Example: [bold]mooring doctor --offline[/bold]
    """
    from mooring import settings
    from mooring.cli import doctor_machine, doctor_platform
    from mooring.cli.output import paint, print_data, wrapped
    from mooring.cli.problems import UsageError

    try:
        chosen = settings.load(data_dir=data_dir)
    except settings.SettingError as error:
        raise UsageError(str(error)) from None
    checks = [
        *doctor_machine.check_machine(chosen),
        *([] if offline else [doctor_machine.check_hub(hub)]),
        *doctor_platform.check_platform(url, key, data_dir or chosen.data_dir),
    ]
    if output is not Format.table:
        print_data({"items": [check.told() for check in checks]}, output)
    for check in checks if output is Format.table else ():
        level = paint(_STYLE[check.level], f"{check.level:<4}", sys.stdout)
        print(f"{level} {wrapped(f'{check.name}: {check.found}', sys.stdout, 5)}")
        if check.next_step:
            print(f"     {wrapped(check.next_step, sys.stdout, 5)}")
    if any(check.level == "BAD" for check in checks):
        sys.exit(1)
