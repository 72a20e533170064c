"""The one shape of everything that is managed: kind, id, metadata, spec, status. And how a bad one is explained.

Nouns are frozen pydantic models; on the wire their keys are camelCase. `read` turns what a user wrote into a noun
and names every fault; `to_wire` turns a noun into JSON-ready data.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, Generic, TypeVar, cast

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator
from pydantic.alias_generators import to_camel
from pydantic_core import ErrorDetails, PydanticCustomError

from mooring.core import errors, snapshot

NAME_PATTERN = r"^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$"
LABEL_PATTERN = r"^[A-Za-z0-9_-]{1,100}$"
DESCRIPTION_PATTERN = r"^[^\x00-\x1f\x7f]{1,100}$"
REPO_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}$"
REVISION_PATTERN = r"^[A-Za-z0-9]([A-Za-z0-9_+-]|[./][A-Za-z0-9_+-]){0,199}$"
SERVED_NAME_PATTERN = r"^[^\x00-\x20\x7f]([^\x00-\x1f\x7f]{0,498}[^\x00-\x20\x7f])?$"
ADAPTER_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"
MEMORY_PATTERN = r"^[0-9]+(\.[0-9]+)?(Ki|Mi|Gi|Ti|K|M|G|T)?$"
PATTERN_RULES = {
    NAME_PATTERN: "a name is 1 to 63 of a-z 0-9 . - and starts and ends with a letter or digit",
    LABEL_PATTERN: "a key's label is 1 to 100 of A-Z a-z 0-9 _ -",
    REPO_PATTERN: "a model on a hub is named organisation/repository",
    REVISION_PATTERN: "a revision is a branch, a tag or a commit",
    SERVED_NAME_PATTERN: "a served model's name is 1 to 500 characters on one line, without spaces around them",
    ADAPTER_PATTERN: "an adapter's name is 1 to 63 of A-Z a-z 0-9 . _ - and starts with a letter or digit",
    MEMORY_PATTERN: "write it like 512Mi or 8Gi",
    DESCRIPTION_PATTERN: "a key's description is 1 to 100 characters on one line",
}
TAG_RULES = {"source": "must be 'builtin', 'local', 'huggingface' or 'modelscope'"}
DEFAULT_PROJECT = "default"
ANSWERED = ("status", "action")  # what we say about an object; a user may send it back

Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
Text = Annotated[str, StringConstraints(max_length=1000)]
TagKey = Annotated[str, StringConstraints(pattern=r"^[\w./-]{1,63}$")]
TagValue = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f]{0,255}$")]
Tags = Annotated[dict[TagKey, TagValue], Field(max_length=50)]
Rate = Annotated[int, Field(strict=True, ge=0, le=10**12)]


class Noun(BaseModel, frozen=True):
    """Base of every managed thing and of its parts."""

    model_config = ConfigDict(
        extra="forbid",
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        protected_namespaces=(),
    )

    @model_validator(mode="before")
    @classmethod
    def _name_unknown_fields(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        known = [field.alias or name for name, field in cls.model_fields.items()]
        allowed = {*known, *cls.model_fields}
        unknown = [str(key) for key in cast("Mapping[Any, Any]", data) if key not in allowed]
        if not unknown:
            return cast("Any", data)
        raise PydanticCustomError(
            "unknown_field",
            "unknown field '{field}'; the fields here are {known}",
            {"field": "', '".join(unknown), "known": ", ".join(known), "first": unknown[0]},
        )


class Limits(Noun, frozen=True):
    """Rate limits; 0 = unlimited. Per sliding minute: requests and tokens; requests at once."""

    rpm: Rate = 0
    tpm: Rate = 0
    concurrency: Rate = 0

    def entry(self) -> snapshot.Limits:
        """Return the form that travels to the gateways."""
        return snapshot.Limits(self.rpm, self.tpm, self.concurrency)


class Moderation(Noun, frozen=True):
    """Whether content is moderated."""

    enabled: bool = False


class GlobalMetadata(Noun, frozen=True):
    """Of things that stand in no project."""

    name: Name
    tags: Tags = Field(default_factory=dict)
    created_at: datetime | None = None


class Metadata(Noun, frozen=True):
    """Of things that stand in a project."""

    name: Name
    project: Name = DEFAULT_PROJECT
    tags: Tags = Field(default_factory=dict)
    created_at: datetime | None = None


class Status(Noun, frozen=True):
    """What the platform says about an object; never read from a user's document."""

    state: str = ""
    reason: str = ""


MetadataT = TypeVar("MetadataT", bound=Noun, covariant=True)
SpecT = TypeVar("SpecT", bound=Noun, covariant=True)
StatusT = TypeVar("StatusT", bound=Status, covariant=True)


class Resource(Noun, Generic[MetadataT, SpecT, StatusT], frozen=True):
    """Kind, id, metadata, spec and status."""

    kind: str
    id: str = ""
    metadata: MetadataT
    spec: SpecT
    status: StatusT


AnyResource = Resource[Noun, Noun, Status]
NounT = TypeVar("NounT", bound=Noun)


def read(model: type[NounT], data: object) -> NounT:
    """Return `data` (parsed JSON or YAML) as `model`; what only answers hold is left out.

    Raises:
        InvalidDocument: it does not fit; every fault is listed with its field.
    """
    if isinstance(data, Mapping):
        data = {key: value for key, value in cast("Mapping[Any, Any]", data).items() if key not in ANSWERED}
        if data.get("spec") is None:
            data["spec"] = {}
    return validate(model, data)


def validate(model: type[NounT], data: object, *, at: tuple[str, ...] = ()) -> NounT:
    """Return `data` as `model`, camelCase keys only. `at` is where `data` stands in what the user sent.

    Raises:
        InvalidDocument: it does not fit; every fault is listed with its field.
    """
    try:
        return model.model_validate(data, by_alias=True, by_name=False)
    except ValidationError as error:
        problems = [_problem(fault, at, data) for fault in error.errors(include_url=False, include_input=False)]
    except RecursionError:
        problems: list[dict[str, str | int]] = [{"field": ".".join(at), "message": "nested too deeply"}]
    raise errors.InvalidDocument(problems, told_problems(problems), param=str(problems[0]["field"]) or None)


def told_problems(problems: Sequence[Mapping[str, str | int]]) -> str:
    """Return one sentence on the first problem, and where the others are."""
    first = problems[0]
    others = list(dict.fromkeys(str(problem["field"]) for problem in problems[1:]))
    others = [field for field in others if field and field != first["field"]]
    more = f" Also wrong: {', '.join(others[:5])}{' …' if len(others) > 5 else ''}." if others else ""
    return f"{first['field'] or 'The object'}: {str(first['message']).rstrip('.')}.{more}"


def to_wire(noun: Noun, only: Collection[str] | None = None) -> dict[str, Any]:
    """Return JSON-ready data with camelCase keys; what is None is left out. `only` names the fields wanted."""
    wanted = None if only is None else set(only)
    return noun.model_dump(mode="json", by_alias=True, exclude_none=True, include=wanted)


def slug(name: str) -> str:
    """Return the name with dots as dashes: the form that fits into host names."""
    return name.replace(".", "-")


def _problem(fault: ErrorDetails, at: tuple[str, ...], data: object) -> dict[str, str | int]:
    context = fault.get("ctx", {})
    kind, message = fault["type"], fault["msg"]
    place = [*at, *_place(fault["loc"], data, kind)]
    if kind == "unknown_field":
        place.append(str(context["first"]))
    elif kind in ("union_tag_invalid", "union_tag_not_found"):
        place.append(str(context.get("discriminator", "")).strip("'"))
        message = TAG_RULES.get(place[-1], message)
    elif kind == "extra_forbidden":
        message = f"unknown field; keys are camelCase: '{to_camel(place[-1])}'"
    elif kind == "missing":
        message = "this field is required"
    elif kind == "string_pattern_mismatch":
        message = PATTERN_RULES.get(str(context.get("pattern")), message)
    elif kind in ("model_type", "model_attributes_type", "dict_type"):
        message = f"must be an object{_example(str(context.get('class_name', '')))}"
    for wordy, plain in (("Value error, ", ""), ("Input should be ", "must be ")):
        message = plain + message.removeprefix(wordy) if message.startswith(wordy) else message
    return {"field": ".".join(place), "message": message}


def _place(loc: tuple[int | str, ...], data: object, kind: str) -> list[str]:
    """Return where a fault is as its author would say it: pydantic also names which kind of a union it tried."""
    place: list[str] = []
    current: Any = data
    for number, part in enumerate(loc):
        absent = isinstance(current, Mapping) and part not in current
        last = number == len(loc) - 1
        if absent and not (last and kind in ("missing", "extra_forbidden")):
            continue
        place.append(str(part))
        if isinstance(current, Mapping | list):
            try:
                current = cast("Any", current)[part]
            except (LookupError, TypeError):
                current = None
    return place


def _example(class_name: str) -> str:
    found = next((noun for noun in _nouns(Noun) if noun.__name__ == class_name), None)
    if found is None:
        return ""
    names = [field.alias or name for name, field in found.model_fields.items()][:3]
    return " like {" + ", ".join(f"{name}: …" for name in names) + "}"


def _nouns(noun: type[Noun]) -> Iterator[type[Noun]]:
    for child in noun.__subclasses__():
        yield child
        yield from _nouns(child)
