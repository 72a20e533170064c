"""`python -m mooring.supervise`: what `mooring up` becomes. Settings come from MOORING_*; a refusal is one sentence."""

from __future__ import annotations

import sys

from mooring.settings import SettingError, load
from mooring.supervise.children import Commands
from mooring.supervise.start import StartError
from mooring.supervise.supervisor import Supervisor


def main(commands: Commands | None = None) -> int:
    """Run the platform; return the exit status: 0 after an ordered stop, 1 with one sentence on stderr otherwise."""
    try:
        return Supervisor(load(), commands).run()
    except (StartError, SettingError) as error:
        print(f"mooring: {error}", file=sys.stderr, flush=True)
        return 1


if __name__ == "__main__":
    sys.exit(main())
