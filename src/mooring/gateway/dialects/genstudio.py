"""The GenStudio dialect: a model on a chip, named by the path.

    /maas/{model}/{chip}/chat/completions

`model` is the name a service serves its model under, `/` written as %2F or as it is, or what stands after its last
`/`. Services of the same model on the same chip share the calls. The body's `model` is not asked for more than an
adapter's name. Bodies and errors are OpenAI's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mooring.core.snapshot import KeyEntry
from mooring.gateway.dialects import openai
from mooring.gateway.dialects.route import Address, adapter_text, path_text

if TYPE_CHECKING:
    from mooring.gateway.routing import Target
    from mooring.gateway.snapshot import Table

NAME: str = "genstudio"
status = openai.status
error_body = openai.error_body
error_event = openai.error_event

_START = b"/maas/"
_ENDS = ((b"/chat/completions", "chat"), (b"/models", "service_models"))


def parse(path: bytes) -> tuple[str, Address | None] | None:
    """Return the operation at a path and the pair it names; None where there is nothing."""
    for end, operation in _ENDS:
        if path.startswith(_START) and path.endswith(end):
            model, _, chip = path[len(_START) : -len(end)].rpartition(b"/")
            if model and chip:
                return operation, Address(model=path_text(model), chip=path_text(chip))
    return None


def find_target(table: Table, key: KeyEntry, address: Address | None, model: bytes) -> Target:
    """Return the services that the path's pair stands for; see Table.resolve_address."""
    assert address is not None
    return table.resolve_address(key, address, adapter_text(model))
