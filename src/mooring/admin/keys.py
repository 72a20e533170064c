"""API keys. The answer to the creation is the only one that shows the key."""

from __future__ import annotations

from typing import Any

from mooring.admin.collections import collection
from mooring.core.objects import AnyResource, to_wire


def _created(noun: AnyResource) -> dict[str, Any]:
    content = to_wire(noun)
    status = content["status"]
    return content | {
        "label": content["metadata"]["name"],
        "key": status["key"],
        "accessKey": status["accessKey"],
    }


router = collection("ApiKey", "keys", created=_created)
