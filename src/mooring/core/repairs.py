"""What the gateway makes good in the answers of services that run elsewhere: each repair's name, and what it is for.

A gateway learns from a service's first answers which it needs; the service shows them.
"""

from __future__ import annotations

BARE_JSON = "bare_json"
FRAMING = "framing"
NO_DONE = "no_done"
ENVELOPE = "envelope"
CHOICES = "choices"
REASONING = "reasoning"
TOOL_CALLS = "tool_calls"
USAGE_PLACE = "usage_place"
USAGE_ABSENT = "usage_absent"
NO_TOKENIZER = "no_tokenizer"
USAGE_REFUSED = "stream_options_refused"
WHOLE_FOR_STREAM = "json_for_stream"
STREAM_FOR_WHOLE = "stream_for_json"
RESPONSES_TRANSLATED = "responses_translated"
MESSAGES_TRANSLATED = "messages_translated"

REPAIRS: dict[str, str] = {
    BARE_JSON: "Its streams are bare JSON lines; they leave as server-sent events.",
    FRAMING: "Its event streams use other line ends, fields or lines than OpenAI's; they leave as OpenAI's.",
    NO_DONE: "Its streams do not end with [DONE]; it is added.",
    ENVELOPE: "Its answers lack id, object, created or model, or have wrong ones; they are filled in.",
    CHOICES: "Its choices lack index, role, delta or finish_reason; they are filled in.",
    REASONING: "It names its reasoning by one of the two names in use; the other is added.",
    TOOL_CALLS: "Its tool calls lack index or type, or hold arguments that are no text; they are corrected.",
    USAGE_PLACE: "It reports usage inside the last chunks; it leaves in a chunk of its own, if asked for.",
    USAGE_ABSENT: "It reports no usage; the tokens are counted by its tokenizer, or estimated and marked so.",
    NO_TOKENIZER: "It has no /tokenize; tokens that it does not report are estimated.",
    USAGE_REFUSED: "It refuses stream_options; streams are asked for without.",
    WHOLE_FOR_STREAM: "It answers with one JSON object where a stream is asked for; it leaves as a stream.",
    STREAM_FOR_WHOLE: "It streams where one JSON object is asked for; it leaves as one.",
    RESPONSES_TRANSLATED: "It has no /v1/responses; such calls are translated to chat completions.",
    MESSAGES_TRANSLATED: "It has no /v1/messages; such calls are translated to chat completions.",
}
