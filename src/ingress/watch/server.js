// What the page asks of the gateway: a playback address, the document of the media, and the events while it is not ready.
// Limits: a request 15 s, a line of the event stream 64 kB of text, a pause between two tries of it 1 to 15 s.

const requestMs = 15_000;
const lineLengthMax = 65_536;
const storageKey = "streamgate.api-key";

/** A refusal by the gateway: its problem document (RFC 9457), or what can be said without one. */
export class Problem extends Error {
  constructor(status, title, code, detail, reason) {
    super(title);
    this.status = status;
    this.code = code;
    this.detail = detail;
    this.reason = reason;
  }

  /** A sentence for people, the stable code in brackets. */
  get text() {
    const sentence = this.detail && this.detail !== this.message ? `${this.message}: ${this.detail}` : this.message;
    return this.code ? `${sentence} (${this.code})` : sentence;
  }

  static async from(response) {
    let said = {};
    if ((response.headers.get("content-type") ?? "").includes("json")) {
      said = await response.json().catch(() => ({}));
    }
    const word = (value) => (typeof value === "string" ? value.slice(0, 300) : "");
    const title = word(said?.title) || `The server answered ${response.status}`;
    return new Problem(response.status, title, word(said?.code), word(said?.detail), word(said?.reason));
  }
}

/** An API key, or the access token of a wallet's session: both are sent the same way. */
export const apiKey = {
  get: () => sessionStorage.getItem(storageKey) ?? "",
  set: (key) => sessionStorage.setItem(storageKey, key),
  clear: () => sessionStorage.removeItem(storageKey),
};

function headers(extra = {}) {
  const key = apiKey.get();
  return key ? { ...extra, authorization: `Bearer ${key}` } : extra;
}

async function request(method, path, body) {
  let response;
  try {
    response = await fetch(path, {
      method,
      headers: headers({ accept: "application/json", ...(body ? { "content-type": "application/json" } : {}) }),
      body: body && JSON.stringify(body),
      signal: AbortSignal.timeout(requestMs),
    });
  } catch (error) {
    const late = error.name === "TimeoutError";
    throw new Problem(0, late ? "The server does not answer" : "The server cannot be reached", "");
  }
  if (!response.ok) throw await Problem.from(response);
  return response.json();
}

/** Sends a document and reads the answer. */
export const post = (path, body) => request("POST", path, body);

/** The addresses of a playback session, and what plays: {title, hls_url, poster_url, expires_at, ...}. */
export const playback = (mediaId) => request("POST", `/v1/media/${mediaId}/playback`);

/** Why an address does not answer as it should, or null when it does. */
export async function problemOf(url) {
  try {
    const response = await fetch(url, { signal: AbortSignal.timeout(requestMs) });
    return response.ok ? null : await Problem.from(response);
  } catch {
    return new Problem(0, "The server cannot be reached", "");
  }
}

/** Calls `seen({name, data})` for each event of the media until it returns true or `signal` aborts; a broken stream resumes after its last event. */
export async function follow(mediaId, seen, signal) {
  let lastId = "";
  let pauseMs = 1_000;
  while (!signal.aborted) {
    try {
      const extra = { accept: "text/event-stream", ...(lastId ? { "last-event-id": lastId } : {}) };
      const response = await fetch(`/v1/events?media=${mediaId}`, { headers: headers(extra), signal });
      if (!response.ok) throw await Problem.from(response);
      for await (const event of eventsOf(response.body)) {
        pauseMs = 1_000;
        lastId = event.id || lastId;
        if (seen(event)) return;
      }
    } catch (error) {
      if (signal.aborted) return;
      const final = error instanceof Problem && error.status >= 400 && error.status < 500 && error.status !== 429;
      if (final) throw error;
    }
    await new Promise((resolve) => setTimeout(resolve, pauseMs));
    pauseMs = Math.min(pauseMs * 2, 15_000);
  }
}

async function* eventsOf(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let event = { id: "", name: "message", data: "" };
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const lines = (rest + value).split(/\r?\n/);
      rest = lines.pop();
      if (rest.length > lineLengthMax) throw new Error("an event is longer than the page reads");
      for (const line of lines) {
        if (line === "") {
          if (event.data) yield event;
          event = { id: "", name: "message", data: "" };
        } else {
          addField(event, line);
        }
      }
    }
  } finally {
    await reader.cancel().catch(() => {});
  }
}

function addField(event, line) {
  const colon = line.indexOf(":");
  const field = colon < 0 ? line : line.slice(0, colon);
  const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
  if (field === "id") event.id = value;
  if (field === "event") event.name = value;
  if (field === "data") event.data = event.data ? `${event.data}\n${value}` : value;
}
