"""How each dialect says no: every refusal has a body, a code and a status in all of them."""

from __future__ import annotations

import json
from itertools import chain

import pytest

from mooring.core import errors
from mooring.core.errors import (
    ContextTooLong,
    EndpointStopped,
    Forbidden,
    InputFiltered,
    Invalid,
    InvalidDocument,
    InvalidJson,
    LimitExceeded,
    MalformedAuthorization,
    MethodNotAllowed,
    Missing,
    ModelNotFound,
    MooringError,
    NameNotAccepted,
    NotFound,
    NotReady,
    OutputFiltered,
    PathNotFound,
    RateLimited,
    RequestTimeout,
    TooLarge,
    Unauthenticated,
    Unavailable,
    UnsupportedMediaType,
    UnsupportedType,
    UpstreamFailed,
    UpstreamTimeout,
)
from mooring.gateway.dialects import ark, cluster, genstudio, modelarts, openai

ALL = (openai, ark, modelarts, genstudio, cluster)
FULL = Unavailable("Many wait.", code="service_overloaded", retry_after_s=5.0)
ODD = Invalid("Short and stout.")
ODD.status = 499

# refusal, Ark: status, code, type; ModelArts: status, code
TABLE = [
    (Invalid("Bad.", param="n"), 400, "InvalidParameter.n", "BadRequest", 400, "ModelArts.81001"),
    (Invalid("Bad."), 400, "InvalidParameter", "BadRequest", 400, "ModelArts.81001"),
    (Missing("Gone.", param="model"), 400, "MissingParameter.model", "BadRequest", 400, "ModelArts.81001"),
    (Missing("Gone."), 400, "MissingParameter", "BadRequest", 400, "ModelArts.81001"),
    (InvalidJson(), 400, "InvalidParameter", "BadRequest", 400, "ModelArts.81001"),
    (UnsupportedType(param="model"), 400, "InvalidParameter.model", "BadRequest", 400, "ModelArts.81001"),
    (ContextTooLong(param="messages"), 400, "OutofContextError", "BadRequest", 400, "ModelArts.81001"),
    (EndpointStopped(), 400, "InvalidEndpoint.ClosedEndpoint", "BadRequest", 400, "ModelArts.81004"),
    (EndpointStopped(code="service_disabled"), 400, "InvalidEndpoint.ClosedEndpoint", "BadRequest", 400,
     "ModelArts.81004"),
    (InputFiltered(), 400, "InputTextSensitiveContentDetected", "BadRequest", 403, "ModelArts.4910"),
    (OutputFiltered(), 400, "OutputTextSensitiveContentDetected", "BadRequest", 403, "ModelArts.4910"),
    (Unauthenticated(), 401, "AuthenticationError", "Unauthorized", 401, "ModelArts.81003"),
    (MalformedAuthorization(), 401, "AuthenticationError", "Unauthorized", 400, "ModelArts.81002"),
    (Forbidden(), 403, "AccessDenied", "Forbidden", 403, "ModelArts.81004"),
    (NotFound(), 404, "InvalidEndpointOrModel.NotFound", "NotFound", 404, "ModelArts.81009"),
    (ModelNotFound(param="model"), 404, "InvalidEndpointOrModel.NotFound", "NotFound", 404, "ModelArts.81009"),
    (NameNotAccepted(), 404, "InvalidEndpointOrModel.ModelIDAccessDisabled", "NotFound", 404, "ModelArts.81009"),
    (PathNotFound(), 404, "NotFound", "NotFound", 404, "APIG.0101"),
    (MethodNotAllowed(param="POST"), 405, "MethodNotAllowed", "MethodNotAllowed", 405, "APIG.0101"),
    (RequestTimeout(), 408, "RequestTimeout", "RequestTimeout", 408, "ModelArts.81001"),
    (TooLarge(), 413, "RequestEntityTooLarge", "RequestEntityTooLarge", 413, "ModelArts.81001"),
    (UnsupportedMediaType(), 415, "UnsupportedMediaType", "UnsupportedMediaType", 415, "ModelArts.81001"),
    (ODD, 499, "InvalidParameter", "BadRequest", 499, "ModelArts.81001"),
    (LimitExceeded("rpm", "endpoint"), 429, "RateLimitExceeded.EndpointRPMExceeded", "TooManyRequests", 429,
     "ModelArts.81101"),
    (LimitExceeded("tpm", "key"), 429, "RateLimitExceeded.EndpointTPMExceeded", "TooManyRequests", 429,
     "ModelArts.81103"),
    (LimitExceeded("concurrency", "project"), 429, "InflightBatchsizeExceeded", "TooManyRequests", 429,
     "ModelArts.81101"),
    (LimitExceeded("quota", "service"), 429, "QuotaExceeded", "TooManyRequests", 429, "ModelArts.81005"),
    (RateLimited(code="upstream_rate_limited"), 429, "ServerOverloaded", "TooManyRequests", 429, "ModelArts.81101"),
    (FULL, 429, "ServerOverloaded", "TooManyRequests", 503, "APIG.0203"),
    (NotReady(), 503, "InternalServiceError", "ServiceUnavailable", 503, "APIG.0203"),
    (UpstreamFailed(), 502, "InternalServiceError", "BadGateway", 502, "APIG.0203"),
    (UpstreamTimeout(), 504, "InternalServiceError", "GatewayTimeout", 504, "APIG.0203"),
    (MooringError(), 500, "InternalServiceError", "InternalServerError", 500, "APIG.0203"),
]  # fmt: skip


def told(dialect, error):
    return json.loads(dialect.error_body(error, "req-7"))


def told_in_a_stream(dialect, error):
    event = dialect.error_event(error, "req-7")
    assert event.startswith(b"data: {") and event.endswith(b"}\n\n") and event.count(b"\n") == 2
    return json.loads(event[6:])


@pytest.mark.parametrize(("error", "status", "code", "kind"), [row[:4] for row in TABLE])
def test_ark_has_its_code_its_reason_and_the_request_id(error, status, code, kind):
    [(name, body)] = told(ark, error).items()
    assert (name, ark.status(error), body["code"], body["type"]) == ("error", status, code, kind)
    assert body["param"] == (error.param or "")
    assert body["message"] == f"{error.message} {error.next_step}".strip() + " Request id: req-7"
    assert told_in_a_stream(ark, error) == {"error": body}


@pytest.mark.parametrize(("error", "status", "code"), [(row[0], *row[4:]) for row in TABLE])
def test_modelarts_has_its_code_and_our_sentence(error, status, code):
    body = told(modelarts, error)
    assert (modelarts.status(error), body.pop("error_code")) == (status, code)
    said = "May contain sensitive information, please try again."
    if code != "ModelArts.4910":
        said = f"{error.message} {error.next_step}".strip()
    assert body == {"error_msg": said}
    event = told_in_a_stream(modelarts, error)
    assert (event["error_code"], event["error"]["message"]) == (code, openai.error_object(error)["error"]["message"])


@pytest.mark.parametrize("error", [row[0] for row in TABLE])
@pytest.mark.parametrize("dialect", [openai, cluster, genstudio])
def test_the_others_speak_as_openai_does(dialect, error):
    assert told(dialect, error) == openai.error_object(error) == told_in_a_stream(dialect, error)
    assert dialect.status(error) == error.status


@pytest.mark.parametrize(("status", "kind"), [(400, Invalid), (404, NotFound), (500, UpstreamFailed)])
def test_modelarts_leaves_an_engines_own_refusal_in_its_shape(status, kind):
    error = kind("The engine says no.", next_step="")
    error.from_engine = True
    assert told(modelarts, error) == openai.error_object(error) == told_in_a_stream(modelarts, error)
    assert modelarts.status(error) == error.status


def every_class(kind: type[MooringError] = MooringError):
    found = [kind, *chain.from_iterable(map(every_class, kind.__subclasses__()))]
    return [one for one in found if one.__module__ == errors.__name__]


NEEDED = {InvalidDocument: ([],), LimitExceeded: ("rpm", "key")}


@pytest.mark.parametrize("dialect", ALL)
@pytest.mark.parametrize("kind", every_class())
def test_no_class_is_without_a_body_a_code_and_a_status(dialect, kind):
    error = kind(*NEEDED.get(kind, ()))
    body = told(dialect, error)
    body = body.get("error", body)
    for name in ("error_code", "error_msg") if dialect is modelarts else ("code", "message"):
        assert body[name]
    assert 400 <= dialect.status(error) < 600


def test_the_table_has_every_status_ark_and_modelarts_may_answer():
    raised = {kind.status for kind in every_class()}
    assert raised - {409, 412, 422, 431} <= {row[0].status for row in TABLE}  # of the management API; of a broken head
