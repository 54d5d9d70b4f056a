"""What a JSON Schema can't say about a valid request, for schemathesis (see tests/e2e/api.rs)."""

import base64
import hashlib
import itertools
import uuid

import schemathesis
from hypothesis import strategies as st

# Addresses in lower case prove nothing and are taken; mixed case has to be that of EIP-55.
CHECKSUMMED = ["0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed", "0xfB6916095ca1df60bB79Ce92cE3Ea74c37c5d359"]
LOWER = st.text("0123456789abcdef", min_size=40, max_size=40).filter(lambda digits: set(digits) != {"0"})
ADDRESS = st.one_of(st.sampled_from(CHECKSUMMED), LOWER.map("0x".__add__))
schemathesis.openapi.format("eip55", ADDRESS)

schemathesis.openapi.format("language-tag", st.sampled_from(["de", "pt-BR", "zh-Hant", "ger"]))
schemathesis.openapi.format("web-address", st.sampled_from(["https://example.org/a?b#c", "http://example.org"]))

# Names, each once, with base64 behind them.
NAME = st.text("abcdefghijklmnopqrstuvwxyz_-", min_size=1, max_size=8)
MINT_TX = st.binary(min_size=32, max_size=32).map(lambda digest: f"0x{digest.hex()}".encode())
PAIRS = st.tuples(st.dictionaries(NAME, st.binary(max_size=24), max_size=4), st.none() | MINT_TX).map(
    lambda parts: parts[0] | ({"mint_tx": parts[1]} if parts[1] else {})
)
METADATA = PAIRS.map(lambda pairs: ",".join(f"{name} {base64.b64encode(value).decode()}" for name, value in pairs.items()))
schemathesis.openapi.format("tus-metadata", METADATA)

MESSAGE = (
    "localhost wants you to sign in with your Ethereum account:\n{}\n\n\n"
    "URI: http://localhost/\nVersion: 1\nChain ID: 1\nNonce: {}\nIssued At: 2025-11-23T12:26:54Z"
)
NONCE = st.text("0123456789abcdefghijklmnopqrstuv", min_size=26, max_size=26)
schemathesis.openapi.format("erc4361", st.tuples(ADDRESS, NONCE).map(lambda parts: MESSAGE.format(*parts)))

# Longest upload that the server of the test takes, in bytes.
LENGTH_MAX = 16 * 1024 * 1024
KEYS = map(f"{uuid.uuid4()}-{{}}".format, itertools.count())
DIGESTS = {"Content-Digest": "sha-256=:{}:", "Repr-Digest": "sha-256=:{}:", "Upload-Checksum": "sha256 {}"}


@schemathesis.hook
def before_load_schema(context, raw_schema):
    """Stories go on with an upload that was opened. A link of OpenAPI can't take the id out of an address, so none is published."""
    created = raw_schema["paths"]["/v1/uploads"]["post"]["responses"]["201"]
    upload_id = {"upload_id": "$response.header.Location#regex:/v1/uploads/(.+)$"}
    goes_on = ["append_to_upload", "read_upload_offset", "override_upload_method", "read_upload_status"]
    created["links"] = {name: {"operationId": name, "parameters": upload_id} for name in goes_on}


@schemathesis.hook
def before_call(context, case, kwargs):
    if case.query and case.query.get("follow") in (True, "true"):
        # A replay that follows ends after an hour.
        case.query["follow"] = "false"
    if case.operation.label == "GET /v1/monitor/logs" and len((case.query or {}).get("monitor") or "") == 16:
        # One that nobody is, is waited for; only a page names a monitor.
        case.query.pop("monitor")
    if case.headers and case.headers.get("X-HTTP-Method-Override") == "HEAD":
        # Its answer has the fields of one with a body, and none, which no description of POST can say.
        case.headers["X-HTTP-Method-Override"] = "DELETE"
    if case.meta is None or not case.meta.generation.mode.is_positive:
        return
    if case.query:
        # Only a list makes a cursor.
        case.query.pop("cursor", None)
        if case.operation.label == "GET /v1/audit" and "filter" in case.query:
            # Which types of records there are is in no pattern.
            case.query["filter"] = "media.*"
    if isinstance(case.body, dict) and isinstance(case.body.get("attributes"), dict):
        # How many levels and bytes they may have is in no schema.
        case.body = case.body | {"attributes": {"count": len(case.body["attributes"])}}
    headers, body = case.headers, bytes_of(case.body)
    if "Idempotency-Key" in headers:
        # One key names one request.
        headers["Idempotency-Key"] = f'"{next(KEYS)}"'
    if case.operation.path.startswith("/v1/uploads"):
        speak_one_protocol(case.operation.method.upper(), headers)
    if case.operation.label == "POST /v1/uploads":
        # Exactly one of the two, and no less than what is sent at once.
        headers.pop("Upload-Defer-Length", None)
        headers["Upload-Length"] = str(max(int(headers.get("Upload-Length", 0)) % LENGTH_MAX, len(body)))
        if "Upload-Concat" in headers:
            # Which parts are there is in no schema.
            headers["Upload-Concat"] = "partial"
    else:
        # The length of an upload is said once.
        headers.pop("Upload-Length", None)
    if headers.get("X-HTTP-Method-Override") == "PATCH":
        # What PATCH needs.
        headers.setdefault("Upload-Offset", "0")
        if not body:
            headers["X-HTTP-Method-Override"] = "DELETE"
    # A digest is that of the bytes.
    digest = base64.b64encode(hashlib.sha256(body).digest()).decode()
    for name, value in DIGESTS.items():
        if name in headers:
            headers[name] = value.format(digest)
    if isinstance(case.body, (dict, list)):
        case.body = whole(case.body)


def speak_one_protocol(method, headers):
    """A request is one of tus or one of Resumable Uploads for HTTP: which fields go together is in no schema."""
    # The library below takes an interim response for the answer.
    headers.pop("Upload-Draft-Interop-Version", None)
    if method == "GET":
        return
    is_resumable = method in ("POST", "PATCH") and headers.get("Upload-Complete") in ("?0", "?1")
    if is_resumable and headers.get("Tus-Resumable", "1.0.0") == "1.0.0" and "X-HTTP-Method-Override" not in headers:
        for name in ("Tus-Resumable", "Upload-Concat", "Upload-Checksum"):
            headers.pop(name, None)
        # What was said of the length has to be what comes.
        headers["Upload-Complete"] = "?0"
    else:
        headers.pop("Upload-Complete", None)
        headers.setdefault("Tus-Resumable", "1.0.0")


def bytes_of(body):
    """The bytes of a body that is no JSON; schemathesis carries them in a wrapper."""
    return body if isinstance(body, bytes) else getattr(body, "data", b"")


def whole(value):
    """JSON Schema counts 8.0 among the integers; a client that writes integers writes 8."""
    if isinstance(value, dict):
        return {name: whole(member) for name, member in value.items()}
    if isinstance(value, list):
        return [whole(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


# Bytes go as they are.
schemathesis.serializer.alias("application/offset+octet-stream", "application/octet-stream")
