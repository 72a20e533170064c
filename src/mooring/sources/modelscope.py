"""ModelScope: what a model's repository holds, asked through its own library (modelscope-hub).

Its `HubApi.list_repo_files` leaves out the commits, so this asks the layer below, which returns the entries as the
hub wrote them. An unknown revision is no error there: the list of files is empty.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from mooring.core.models import FetchOrder
from mooring.sources import hub
from mooring.sources.hub import FetchFailed, HubFile, Listing

BASE_URL = "https://modelscope.cn"
DEFAULT_BRANCH = "master"


def list_files(order: FetchOrder, token: str) -> Listing:
    """Return the files of a model at the order's revision. `token` may be "".

    The listing's revision is the newest commit among its files: ModelScope tells the head's only in part.

    Raises:
        FetchFailed: there is no such model or revision, the token does not suffice, or no hub answers.
    """
    from modelscope_hub import HubApi
    from modelscope_hub.config import HubConfig
    from modelscope_hub.errors import APIError, NetworkError

    base = hub.base_url(order, BASE_URL)
    revision = order.revision or DEFAULT_BRANCH
    nowhere = Path(tempfile.gettempdir()) / "mooring-has-no-modelscope-configuration"  # no stored credentials
    api = HubApi(HubConfig(endpoint=base, cache_dir=nowhere, config_dir=nowhere, token=token))
    try:
        entries = api.legacy.list_repo_files(order.name, "model", revision=revision)
    except APIError as error:
        raise _refusal(order, error, token) from error
    except NetworkError as error:
        raise hub.unreachable(order, str(error)) from error
    except (ValueError, TypeError, AttributeError, RecursionError) as error:  # its library could not read the answer
        raise hub.bad_mirror(order, "it does not answer like ModelScope") from error
    blobs = [entry for entry in entries if entry.get("Type") != "tree"]
    if not blobs:
        raise hub.no_such_revision(order)
    files = tuple(
        _file(order, entry, api.legacy.get_download_url(order.name, "model", str(entry["Path"]), revision))
        for entry in blobs
    )
    return Listing(_commit(blobs), files, base, _credential(token))


def _file(order: FetchOrder, entry: dict[str, Any], url: str) -> HubFile:
    sha256, size = entry.get("Sha256"), entry.get("Size")
    if not sha256 or size is None:
        raise hub.unverifiable(order, str(entry["Path"]))
    return hub.hub_file(order, entry["Path"], size, f"sha256:{sha256}", url)


def _commit(blobs: list[dict[str, Any]]) -> str:
    newest = max(blobs, key=lambda entry: int(entry.get("CommittedDate") or 0))
    return str(newest.get("Revision") or "")


def _credential(token: str) -> dict[str, str]:
    """Return both forms that its servers take: older ones know the cookie only."""
    return {"Authorization": f"Bearer {token}", "Cookie": f"m_session_id={token}"} if token else {}


def _refusal(order: FetchOrder, error: Any, token: str) -> FetchFailed:
    status = int(error.status_code or 0)
    if status == 401 or (status == 403 and token):
        return hub.credential_refused(order) if token else hub.gated(order)
    if status == 403:
        return hub.gated(order)
    if status == 404:
        return hub.no_such_model(order)
    return hub.refused_status(order, status)
