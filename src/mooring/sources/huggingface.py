"""Hugging Face: what a model's repository holds, asked through its own library. Mirrors speak the same protocol."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mooring.core.models import FetchOrder
from mooring.sources import hub
from mooring.sources.hub import FetchFailed, HubFile, Listing

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.hf_api import ModelInfo, RepoSibling

BASE_URL = "https://huggingface.co"
_TIMEOUT_S = 30.0


def list_files(order: FetchOrder, token: str) -> Listing:
    """Return the files of a model at the commit that the order's revision means now. `token` may be "".

    Raises:
        FetchFailed: there is no such model or revision, the token does not suffice, or no hub answers.
    """
    import httpx2
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    base = hub.base_url(order, BASE_URL)
    api = HfApi(endpoint=base, token=token or False)
    try:
        info = api.model_info(order.name, revision=order.revision or None, timeout=_TIMEOUT_S, files_metadata=True)
    except HfHubHTTPError as error:
        raise _refusal(order, error, token) from error
    except (httpx2.TransportError, OfflineModeIsEnabled) as error:
        raise hub.unreachable(order, str(error) or type(error).__name__) from error
    except HFValidationError as error:
        raise hub.no_such_model(order) from error
    except (
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        RecursionError,
    ) as error:  # its library could not read the answer
        raise hub.bad_mirror(order, "it does not answer like Hugging Face") from error
    return _listing(order, base, info, token)


def _listing(order: FetchOrder, base: str, info: ModelInfo, token: str) -> Listing:
    if not info.sha or info.siblings is None:
        raise hub.bad_mirror(order, "it does not answer like Hugging Face")
    files = tuple(_file(order, base, info.sha, sibling) for sibling in info.siblings)
    return Listing(info.sha, files, base, {"Authorization": f"Bearer {token}"} if token else {})


def _file(order: FetchOrder, base: str, commit: str, sibling: RepoSibling) -> HubFile:
    from huggingface_hub import hf_hub_url

    digest = f"git-sha1:{sibling.blob_id}" if sibling.blob_id else ""
    if sibling.lfs is not None:
        digest = f"sha256:{sibling.lfs.sha256}"
    if not digest or sibling.size is None:
        raise hub.unverifiable(order, sibling.rfilename)
    url = hf_hub_url(order.name, sibling.rfilename, revision=commit, endpoint=base)
    return hub.hub_file(order, sibling.rfilename, sibling.size, digest, url)


def _refusal(order: FetchOrder, error: HfHubHTTPError, token: str) -> FetchFailed:
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    status = error.response.status_code
    if isinstance(error, GatedRepoError):
        return hub.gated(order)
    if isinstance(error, RevisionNotFoundError):
        return hub.no_such_revision(order)
    if status == 401 and token and error.response.headers.get("X-Error-Code") != "RepoNotFound":
        return hub.credential_refused(order)
    if isinstance(error, RepositoryNotFoundError):
        return hub.no_such_model(order)
    return hub.refused_status(order, status)
