#!/usr/bin/env python3
"""Uploads a file in one request, waits until it is ready and prints the URL of its HLS playlist.

    export STREAMGATE_API_KEY=sg_...         # or --api-key
    python3 tests/clients/client.py film.mp4 --url http://127.0.0.1:8080

Needs Python 3.9 and nothing else. The URL is the only line on stdout; progress and errors go to stderr.
"""
import argparse, base64, http.client, json, mimetypes, os, sys, time
from urllib import error, parse, request

FAILED = {"media.rejected", "media.removed", "job.failed", "job.cancelled"}


class Refused(Exception):
    """The server refused a request, or the file could not be prepared."""


def send(args, method, path, headers={}, body=None):
    headers = {"Authorization": f"Bearer {args.api_key}", **headers}
    try:
        return request.urlopen(request.Request(args.url + path, body, headers, method=method), timeout=60)
    except error.HTTPError as answer:
        try:  # Errors are problem documents (RFC 9457).
            problem = json.load(answer)
        except ValueError:
            problem = {"title": f"{answer.code} {answer.reason}"}
        raise Refused(": ".join(problem[name] for name in ("title", "detail", "code") if problem.get(name)))


def upload(args):
    name = base64.b64encode(os.path.basename(args.file).encode()).decode()
    kind = mimetypes.guess_type(args.file)[0] or "application/octet-stream"
    headers = {"Content-Type": kind, "Content-Length": os.path.getsize(args.file), "Upload-Metadata": f"filename {name}"}
    with open(args.file, "rb") as file, send(args, "POST", "/v1/media", headers, file) as answer:
        return json.load(answer)["media_id"]


def events(stream):
    """Server-sent events as dictionaries of their fields; an empty line ends each."""
    fields = {}
    for line in stream:
        name, _, value = line.decode().rstrip("\n").partition(": ")
        if "data" in fields and not name:
            yield fields
        fields = {**fields, name: value} if name else {}


def wait(args, media_id):
    resume = {}
    while True:
        # It begins with the medium's first event, or behind the one that `resume` names.
        stream = send(args, "GET", f"/v1/events?media={media_id}&since=0-0", resume)
        try:
            for event in events(stream):
                kind, data = event["event"], json.loads(event["data"])
                resume = {"Last-Event-ID": event["id"]} if "id" in event else resume
                print(kind, f"{data['percent']} %" if "percent" in data else "", file=sys.stderr)
                if kind == "media.ready":
                    return
                if kind in FAILED:
                    raise Refused(f"{kind}: {data['data'].get('code')}: {data['data'].get('detail')}")
        except (OSError, http.client.HTTPException):
            time.sleep(1)  # The connection broke. The server itself ends a stream after an hour.


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("file")
    parser.add_argument("--url", default=os.environ.get("STREAMGATE_URL", "http://127.0.0.1:8080"))
    parser.add_argument("--api-key", default=os.environ.get("STREAMGATE_API_KEY", ""))
    args = parser.parse_args()
    try:
        media_id = upload(args)
        wait(args, media_id)
        with send(args, "POST", f"/v1/media/{media_id}/playback") as answer:
            playback = json.load(answer)
        print(parse.urljoin(args.url, playback["hls_url"] or playback["poster_url"]))  # A still picture is its poster.
    except (Refused, OSError, http.client.HTTPException) as problem:
        sys.exit(f"client.py: {problem}")
