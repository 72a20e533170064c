"""Every refusal and failure of the platform, one tree, mapped to the wire at two doors only.

The gateway maps them through the caller's dialect, the management API as RFC 9457 problem details.

MooringError                     500 internal_error
├── Invalid                      400 invalid_request
│   ├── InvalidJson              400 invalid_json
│   ├── Missing                  400 missing_parameter
│   ├── AmbiguousModel           400 ambiguous_model
│   ├── UnsupportedType          400 unsupported_type
│   ├── ContextTooLong           400 context_length_exceeded
│   ├── EndpointStopped          400 endpoint_stopped
│   ├── InputFiltered            400 content_filter
│   └── OutputFiltered           400 output_content_filter
├── Unauthenticated              401 invalid_api_key
│   └── MalformedAuthorization   401 malformed_authorization
├── Forbidden                    403 permission_denied
│   └── TermsNotAccepted         403 terms_not_accepted
├── NotFound                     404 not_found
│   ├── PathNotFound             404 path_not_found
│   └── ModelNotFound            404 model_not_found
│       └── NameNotAccepted      404 endpoint_id_required
├── MethodNotAllowed             405 method_not_allowed
├── RequestTimeout               408 request_timeout
├── Conflict                     409 conflict
│   └── PreconditionFailed       412 precondition_failed
├── TooLarge                     413 request_too_large
├── UnsupportedMediaType         415 unsupported_media_type
├── Unprocessable                422 unprocessable
│   └── InvalidDocument          422 invalid_document
├── RateLimited                  429 rate_limit_exceeded            (retryable)
│   └── LimitExceeded            429 limit_exceeded                 (retryable)
├── HeadTooLarge                 431 headers_too_large
├── UpstreamFailed               502 upstream_failed                (retryable)
├── Unavailable                  503 unavailable                    (retryable)
│   ├── NotReady                 503 service_not_ready              (retryable)
│   └── StorageFull              503 storage_full                   (retryable)
└── UpstreamTimeout              504 upstream_timeout               (retryable)
"""

from __future__ import annotations

from typing import Literal


class MooringError(Exception):
    """Base of the tree.

    Attributes:
        status: the HTTP status.
        code: stable, machine-readable name of the refusal.
        message: what happened, one sentence.
        next_step: what the caller should do now, one sentence; may be empty.
        param: the field or header the refusal is about, if one is.
        retry_after_s: seconds after which a repetition makes sense, or None.
        from_engine: the message is an engine's own, an answer of its to this request.
    """

    status = 500
    code = "internal_error"
    default_message = "The server failed to handle this request."
    default_next_step = "Repeat the request; if it fails again, give the administrator the request id."
    retryable = False
    from_engine = False

    def __init__(
        self,
        message: str = "",
        *,
        next_step: str | None = None,
        param: str | None = None,
        code: str = "",
        retry_after_s: float | None = None,
    ) -> None:
        self.message = message or self.default_message
        self.next_step = self.default_next_step if next_step is None else next_step
        self.param = param
        self.retry_after_s = retry_after_s
        if code:
            self.code = code
        super().__init__(self.message)


class Invalid(MooringError):
    status = 400
    code = "invalid_request"
    default_message = "The request is not valid."
    default_next_step = "Correct the request and send it again."


class InvalidJson(Invalid):
    code = "invalid_json"
    default_message = "The body is not valid JSON."


class Missing(Invalid):
    """A member of the body that must be there is not; `param` names it."""

    code = "missing_parameter"
    default_message = "A member of the body is missing."


class AmbiguousModel(Invalid):
    code = "ambiguous_model"
    default_message = "Several services match this model name."
    default_next_step = "Use an endpoint id."


class UnsupportedType(Invalid):
    code = "unsupported_type"
    default_message = "This service does not offer this kind of call."


class ContextTooLong(Invalid):
    code = "context_length_exceeded"
    default_message = "The prompt is longer than the model's context."
    default_next_step = "Shorten the prompt or choose a model with a longer context."


class EndpointStopped(Invalid):
    code = "endpoint_stopped"
    default_message = "This endpoint is stopped."
    default_next_step = "Enable the endpoint or use another one."


class InputFiltered(Invalid):
    code = "content_filter"
    default_message = "The request holds content that is not let through."
    default_next_step = "Say it otherwise and send it again."


class OutputFiltered(Invalid):
    code = "output_content_filter"
    default_message = "The answer holds content that is not let through."
    default_next_step = "Ask otherwise and send it again."


class Unauthenticated(MooringError):
    status = 401
    code = "invalid_api_key"
    default_message = "The API key is missing or not valid."
    default_next_step = "Send a valid key as 'Authorization: Bearer <key>'."


class MalformedAuthorization(Unauthenticated):
    code = "malformed_authorization"
    default_message = "The Authorization header does not hold a bearer key."


class Forbidden(MooringError):
    status = 403
    code = "permission_denied"
    default_message = "You may not do this."
    default_next_step = "Ask an administrator for the permission."


class TermsNotAccepted(Forbidden):
    code = "terms_not_accepted"
    default_message = "Whoever makes a service or an endpoint must agree to the terms of use."
    default_next_step = "Read GET /manage/v1/terms and send its version in the header Mooring-Agree-Terms."


class NotFound(MooringError):
    status = 404
    code = "not_found"
    default_message = "There is no such thing."
    default_next_step = "Check the name or id; the list call shows what exists."


class PathNotFound(NotFound):
    code = "path_not_found"
    default_message = "There is no such path."
    default_next_step = "GET /openapi.json lists the paths offered here."


class ModelNotFound(NotFound):
    code = "model_not_found"
    default_message = "There is no such model or endpoint, or this key may not use it."
    default_next_step = "GET /v1/models lists what this key may call."


class NameNotAccepted(ModelNotFound):
    """A model's name where only endpoint ids are taken; the caller may use the model."""

    code = "endpoint_id_required"
    default_message = "Models are called by an endpoint's id here, not by their name."
    default_next_step = "Put an endpoint's id into 'model'."


class MethodNotAllowed(MooringError):
    status = 405
    code = "method_not_allowed"
    default_message = "This path does not take this method."
    default_next_step = "Use a method named in the Allow header."


class RequestTimeout(MooringError):
    status = 408
    code = "request_timeout"
    default_message = "The request did not arrive in time."
    default_next_step = "Send the whole request without pauses."


class Conflict(MooringError):
    status = 409
    code = "conflict"
    default_message = "This conflicts with what exists."
    default_next_step = "Read the current state and try again."


class PreconditionFailed(Conflict):
    status = 412
    code = "precondition_failed"
    default_message = "The object changed since you read it."


class TooLarge(MooringError):
    status = 413
    code = "request_too_large"
    default_message = "The body is too large."
    default_next_step = "Send a smaller body."


class UnsupportedMediaType(MooringError):
    status = 415
    code = "unsupported_media_type"
    default_message = "The body must be JSON."
    default_next_step = "Send 'Content-Type: application/json'."


class Unprocessable(MooringError):
    status = 422
    code = "unprocessable"
    default_message = "The request is well formed but can't be carried out."
    default_next_step = "Read the message, correct the fields and send it again."


class InvalidDocument(Unprocessable):
    """One or several objects can't be read.

    Attributes:
        problems: one `{"field", "message"}` per fault, with `"index"` when several documents were sent.
    """

    code = "invalid_document"
    default_message = "The object is not valid."
    default_next_step = "Correct what the message names and send it again."

    def __init__(self, problems: list[dict[str, str | int]], message: str = "", *, param: str | None = None) -> None:
        super().__init__(message, param=param)
        self.problems = problems


class RateLimited(MooringError):
    status = 429
    code = "rate_limit_exceeded"
    default_message = "A rate limit is reached."
    default_next_step = "Wait as long as Retry-After says, then repeat."
    retryable = True


class LimitExceeded(RateLimited):
    """One limit of ours is reached.

    Attributes:
        limit: which one. Its code is `<limit>_limit_exceeded`.
        scope: whose it is.
        retryable: whether waiting helps; not where a quota is used up.
    """

    code = "limit_exceeded"
    default_message = "A limit is reached."

    def __init__(
        self,
        limit: Literal["rpm", "tpm", "concurrency", "quota"],
        scope: Literal["endpoint", "key", "project", "service"],
        message: str = "",
        *,
        next_step: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message, next_step=next_step, code=f"{limit}_limit_exceeded", retry_after_s=retry_after_s)
        self.limit = limit
        self.scope = scope
        self.retryable = limit != "quota"


class HeadTooLarge(MooringError):
    status = 431
    code = "headers_too_large"
    default_message = "The request head is too large."
    default_next_step = "Send fewer or shorter headers."


class UpstreamFailed(MooringError):
    status = 502
    code = "upstream_failed"
    default_message = "The model service broke off or could not be reached."
    default_next_step = "Repeat the request; if it fails again, look at the service's state."
    retryable = True


class Unavailable(MooringError):
    status = 503
    code = "unavailable"
    default_message = "The platform can't take this request now."
    default_next_step = "Repeat the request after the time Retry-After names."
    retryable = True


class NotReady(Unavailable):
    code = "service_not_ready"
    default_message = "The model service has no ready replica."


class StorageFull(Unavailable):
    code = "storage_full"
    default_message = "The usage journal has no room left on its disk."
    default_next_step = "Ask the administrator to free disk space; then repeat the request."


class UpstreamTimeout(MooringError):
    status = 504
    code = "upstream_timeout"
    default_message = "The model service did not answer in time."
    default_next_step = "Repeat the request, or ask for fewer tokens."
    retryable = True
