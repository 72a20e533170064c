"""What every hub tells in the same words: the files of a model, and why they can't be had.

The refusals are functions, so that both hubs say the same thing for the same cause, each with what to do about it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from mooring.core.errors import MooringError
from mooring.core.models import FetchOrder

TITLES = {"huggingface": "Hugging Face", "modelscope": "ModelScope"}
_SHOWN = 30  # file names in one message
_LONGEST_NAME = 300
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}|git-sha1:[0-9a-f]{40}")  # it becomes the name of a file


@dataclass(frozen=True, slots=True)
class HubFile:
    """One file of a model on a hub. `digest` is `sha256:<hex>` or, of small files, `git-sha1:<hex>` (a git blob)."""

    path: str  # within the repository
    size: int  # bytes
    digest: str
    url: str

    @property
    def blob(self) -> str:
        """The name of its content in the cache."""
        return self.digest.replace(":", "-")


@dataclass(frozen=True, slots=True)
class Listing:
    """All files of a model at one commit; `credential` are the headers that only the hub's own host may see."""

    revision: str
    files: tuple[HubFile, ...]
    base_url: str
    credential: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)


class FetchFailed(MooringError):
    """A model can't be fetched. `final`: not before the order, the secret or the machine changes."""

    status = 502
    code = "fetch_failed"
    default_message = "The model could not be fetched."

    def __init__(self, message: str, next_step: str, *, code: str = "", final: bool = True) -> None:
        super().__init__(message, next_step=next_step, code=code)
        self.final = final

    @property
    def reason(self) -> str:
        """What happened and what to do, for people."""
        return f"{self.message} {self.next_step}".strip()


def base_url(order: FetchOrder, default: str) -> str:
    """Return the URL that requests start with, without a slash at its end.

    Raises:
        FetchFailed: the mirror is not an http(s) URL.
    """
    text = (order.mirror or default).rstrip("/")
    try:
        parts = urlsplit(text)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        usable = False
    if not usable or any(character.isspace() for character in text):
        raise bad_mirror(order, "it is not an http(s) URL")
    return text


def bad_mirror(order: FetchOrder, why: str) -> FetchFailed:
    """The URL does not lead to a hub."""
    where = f"The mirror '{order.mirror}'" if order.mirror else f"The answer of {TITLES[order.source]}"
    return FetchFailed(
        f"{where} can't be used: {why}.",
        "Give the base URL of a mirror of this hub, such as https://hf-mirror.com, or leave spec.model.mirror out.",
        code="bad_mirror",
    )


def hub_file(order: FetchOrder, path: object, size: object, digest: str, url: str) -> HubFile:
    """Return a file of a listing, once it can be one.

    Raises:
        FetchFailed: the listing is none that a hub would give.
    """
    if not isinstance(path, str) or not 0 < len(path) <= _LONGEST_NAME:
        raise bad_mirror(order, "it lists a file without a usable name")
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise bad_mirror(order, f"the size that it lists for '{path}' is none")
    if not _DIGEST.fullmatch(digest):
        raise bad_mirror(order, f"the digest that it lists for '{path}' is none")
    return HubFile(path, size, digest, url)


def unusable_token() -> FetchFailed:
    """The token can't be sent, whatever the hub thinks of it. It is not quoted."""
    return FetchFailed(
        "The token of the secret holds a space, a line break or another character that a token can't have.",
        "Put the token alone into the Secret that spec.model.tokenSecret names.",
        code="unusable_token",
    )


def endless_listing(order: FetchOrder) -> FetchFailed:
    """The listing takes too long, or too much memory."""
    return bad_mirror(order, "its list of the model's files does not come to an end")


def gated(order: FetchOrder) -> FetchFailed:
    """The model is there, but not for everybody."""
    return FetchFailed(
        f"The model '{order.name}' is gated: its authors must let you in.",
        f"Accept its licence on its page at {TITLES[order.source]}, then put a token of that account into a Secret"
        " (key 'token') and name it in spec.model.tokenSecret.",
        code="gated_model",
    )


def credential_refused(order: FetchOrder) -> FetchFailed:
    """The token is wrong."""
    return FetchFailed(
        f"{TITLES[order.source]} refused the token of the secret.",
        "Put a token that is valid now, with read access, into the Secret that spec.model.tokenSecret names.",
        code="token_refused",
    )


def no_such_model(order: FetchOrder) -> FetchFailed:
    """There is none, or it is private: hubs do not tell these apart."""
    return FetchFailed(
        f"There is no model '{order.name}' at {order.mirror or TITLES[order.source]}, or it is private.",
        "Check spec.model.name; for a private model name a Secret with a token in spec.model.tokenSecret.",
        code="no_such_model",
    )


def no_such_revision(order: FetchOrder) -> FetchFailed:
    """The model is there, the revision is not."""
    asked = f"no revision '{order.revision}'" if order.revision else "no file"
    return FetchFailed(
        f"The model '{order.name}' has {asked}.",
        "Name a branch, a tag or a commit that exists in spec.model.revision, or leave it out.",
        code="no_such_revision",
    )


def no_such_file(order: FetchOrder, path: str) -> FetchFailed:
    """A listed file is not there."""
    return FetchFailed(
        f"'{path}' of '{order.name}' is listed, but can't be downloaded: the hub says there is no such file.",
        "Try again; if it stays so, name another revision in spec.model.revision or another mirror.",
        code="no_such_file",
    )


def unreachable(order: FetchOrder, why: str) -> FetchFailed:
    """No answer, or none of use; it may come back."""
    return FetchFailed(
        f"{order.mirror or TITLES[order.source]} can't be reached: {why}.",
        "Check the network and the proxy (HTTPS_PROXY) of this machine, or name a reachable mirror in"
        " spec.model.mirror.",
        code="hub_unreachable",
        final=False,
    )


def refused_status(order: FetchOrder, status: int) -> FetchFailed:
    """Any other status: the server's trouble passes, a refusal of the request does not."""
    if status >= 500 or status in (408, 425, 429):
        return unreachable(order, f"it answers with status {status}")
    return FetchFailed(
        f"{order.mirror or TITLES[order.source]} refused the request with status {status}.",
        "Check spec.model.name, spec.model.mirror and what the token of the secret may read.",
        code="hub_refused",
    )


def unverifiable(order: FetchOrder, path: str) -> FetchFailed:
    """The hub tells no digest."""
    return FetchFailed(
        f"{order.mirror or TITLES[order.source]} tells no size or digest of '{path}', so it could not be verified.",
        "Fetch from the hub itself, or from a mirror that passes on the hub's metadata.",
        code="no_digest",
    )


def no_match(order: FetchOrder, why: str, names: list[str]) -> FetchFailed:
    """Nothing, or too much, fits; `names` are the files to choose from."""
    shown = ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
    there = f"There are: {shown}." if names else "The repository has no such files."
    return FetchFailed(
        f"{why} in '{order.name}'. {there}",
        "Name the file in spec.model.file, such as *q4_k_m.gguf, or choose another model.",
        code="no_matching_file",
    )
