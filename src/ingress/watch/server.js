// What the pages ask of the gateway, and the credentials that they show.
// A wallet's session is shared by all tabs of the browser and goes on over reloads: its access token is renewed when it is over.
// Limits: a request 15 s, a line of the event stream 64 kB of text, a pause between two tries of it 1 to 15 s.

/** What stands in front of our addresses: empty, or the path that a proxy gave the gateway. The library page is at its root. */
export const base = location.pathname.replace(/\/((watch|embed)\/[^/]*)?$/, "");

const requestMs = 15_000;
const lineLengthMax = 65_536;
const storageKey = "streamgate.api-key";
const sessionKey = "streamgate.session";

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

/** An API key, kept in this tab, or on this device where its owner wants that. What is shown is that of the tab, and so is what is cleared; `clear(true)` forgets the other one, too. */
export const apiKey = {
  get: () => sessionStorage.getItem(storageKey) ?? localStorage.getItem(storageKey) ?? "",
  set(key, isKept = false) {
    apiKey.clear(isKept);
    (isKept ? localStorage : sessionStorage).setItem(storageKey, key);
  },
  clear(isKept = false) {
    sessionStorage.removeItem(storageKey);
    if (isKept) localStorage.removeItem(storageKey);
  },
};

/** The session of a wallet, kept in this browser: {access_token, refresh_token}, or null. */
export const session = {
  get() {
    try {
      return JSON.parse(localStorage.getItem(sessionKey));
    } catch {
      return null;
    }
  },
  set: ({ access_token, refresh_token }) => localStorage.setItem(sessionKey, JSON.stringify({ access_token, refresh_token })),
  clear: () => localStorage.removeItem(sessionKey),
};

/** What is sent: the key of this tab, else the access token of the wallet's session; both go the same way. */
export const credential = () => apiKey.get() || (session.get()?.access_token ?? "");

function headers(extra = {}, shown = credential()) {
  return shown ? { ...extra, authorization: `Bearer ${shown}` } : extra;
}

async function send(method, path, body, shown, extra = {}) {
  try {
    return await fetch(base + path, {
      method,
      headers: headers({ accept: "application/json", ...(body ? { "content-type": "application/json" } : {}), ...extra }, shown),
      body: body && JSON.stringify(body),
      signal: AbortSignal.timeout(requestMs),
    });
  } catch (error) {
    const late = error.name === "TimeoutError";
    throw new Problem(0, late ? "The server does not answer" : "The server cannot be reached", "");
  }
}

/** Asks with the credential that there is; answers the document, or null where there is none. */
export async function request(method, path, body, extra = {}) {
  return documentIn(await responseTo((shown) => send(method, path, body, shown, extra)));
}

/** Asks as everybody: no credential is sent or looked for, which browsers may keep from a frame of another site. */
export async function requestOpenly(method, path) {
  const response = await send(method, path, undefined, "");
  if (!response.ok) throw await Problem.from(response);
  return documentIn(response);
}

/** Asks for a file with the credential that there is; answers its bytes. */
export async function fileAt(path) {
  const response = await responseTo((shown) => fetch(base + path, { headers: headers({}, shown), signal: AbortSignal.timeout(requestMs) }));
  return response.blob();
}

/** Asks for a document and the version that it has: {document, tag}. */
export async function versionOf(path) {
  const response = await responseTo((shown) => send("GET", path, undefined, shown));
  return { document: await documentIn(response), tag: response.headers.get("etag") ?? "" };
}

/** The answer to a question that is asked with the credential that there is, and again where that is an access token that is over. */
async function responseTo(ask) {
  const shown = credential();
  let response = await ask(shown);
  if (response.ok) return response;
  const problem = await Problem.from(response);
  if (problem.code !== "unauthorized" || apiKey.get()) throw problem;
  const next = await renewed(shown);
  if (!next) throw problem;
  response = await ask(next);
  if (!response.ok) throw await Problem.from(response);
  return response;
}

const documentIn = (response) => (response.status === 204 ? null : response.json());

/** The access token after `shown`, which is over; empty when the session is over, too. One tab asks, the others take what it got. */
async function renewed(shown) {
  return exclusively(async () => {
    const known = session.get();
    if (!known) return "";
    if (known.access_token !== shown) return known.access_token;
    const response = await send("POST", "/v1/auth/refresh", { refresh_token: known.refresh_token }, "");
    if (response.ok) {
      const tokens = await response.json();
      session.set(tokens);
      return tokens.access_token;
    }
    // Over for good; whatever else it is may pass, and the session is kept.
    if (response.status !== 401) throw await Problem.from(response);
    if (session.get()?.refresh_token === known.refresh_token) session.clear();
    return "";
  });
}

/** Where the browser has no locks, the gateway gives both tabs the same answer. */
const exclusively = (work) => (navigator.locks ? navigator.locks.request(sessionKey, work) : work());

/** Sends a document and reads the answer. */
export const post = (path, body) => request("POST", path, body);

/** The addresses of a playback session, and what plays: {title, hls_url, poster_url, expires_at, ...}. */
export const playback = (mediaId) => request("POST", `/v1/media/${mediaId}/playback`);

/** The same with no credential at all. */
export const openPlayback = (mediaId) => requestOpenly("POST", `/v1/media/${mediaId}/playback`);

/** The document of a medium; null where it can't be read. */
export const documentOf = (mediaId) => request("GET", `/v1/media/${mediaId}`).catch(() => null);

/** Why an address does not answer as it should, or null when it does. */
export async function problemOf(url) {
  try {
    const response = await fetch(url, { signal: AbortSignal.timeout(requestMs) });
    return response.ok ? null : await Problem.from(response);
  } catch {
    return new Problem(0, "The server cannot be reached", "");
  }
}

/** Calls `seen({name, data})` for each event of the media from its first on, or of all from now on where the id is empty, until it returns true or `signal` aborts; a broken stream resumes after its last event. `opened` is called with true whenever it begins, with false when it can't. */
export async function follow(mediaId, seen, signal, opened = () => {}) {
  let lastId = "";
  let pauseMs = 1_000;
  while (!signal.aborted) {
    try {
      const extra = { accept: "text/event-stream", ...(lastId ? { "last-event-id": lastId } : {}) };
      const path = `${base}/v1/events${mediaId && `?media=${mediaId}&since=0-0`}`;
      const response = await responseTo((shown) => fetch(path, { headers: headers(extra, shown), signal }));
      opened(true);
      for await (const event of eventsOf(response.body)) {
        pauseMs = 1_000;
        lastId = event.id || lastId;
        if (seen(event)) return;
      }
    } catch (error) {
      if (signal.aborted) return;
      const final = error instanceof Problem && error.status >= 400 && error.status < 500 && error.status !== 429;
      if (final) throw error;
      opened(false);
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
