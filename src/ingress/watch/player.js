// Plays an HLS address in a video element: by hls.js where the browser has Media Source Extensions, else by the browser itself;
// by the other one when the first cannot go on.
// Limits: two repairs of a decoding error within 30 s, one change of the player; network tries are those of hls.js.

import { Problem, problemOf } from "./server.js";

// How often a view that goes on is reported, in seconds.
const reportPauseS = 10;
const repairsMax = 2;
const repairWindowMs = 30_000;

/** The players that can play here, the better one first; `asked` (from ?player=) alone when it is one. */
function players(video, asked) {
  if (asked === "native" || asked === "hls.js") return [asked];
  const native = video.canPlayType("application/vnd.apple.mpegurl") ? ["native"] : [];
  // Safari, whose own player came first and is right. Chromium says "maybe", too: its player stays on the lowest rung, and fails on
  // encrypted segments and on titles that still grow.
  if ("ManagedMediaSource" in globalThis && native.length) return ["native", "hls.js"];
  return "MediaSource" in globalThis || !native.length ? ["hls.js", ...native] : native;
}

/**
 * Starts `url` at `startS` seconds. Calls `on.player(kind)` with "native" or "hls.js" when one begins, `on.levels(levels)` and
 * `on.level(index)` where the quality can be chosen, `on.failed(problem)` once when none can go on. Returns {setLevel, stop}.
 */
export async function play(video, url, asked, startS, on) {
  const [first, second] = players(video, asked);
  let current = { setLevel() {}, stop() {} };
  let stopped = false;
  let changed = false;
  const begin = async (kind, atS, failed) => {
    on.player(kind);
    const start = kind === "native" ? playNative : playHls;
    const started = await start(video, url, atS, { ...on, failed });
    // It took a while: the page went on, or the other player took over.
    if (stopped || (changed && kind === first)) started.stop();
    else current = started;
  };
  const changePlayer = async (problem) => {
    // What the server refuses, it refuses either.
    if (stopped || changed || !second || problem.status) return on.failed(problem);
    changed = true;
    const { paused, currentTime } = video;
    // Before it has begun it counts as paused, too.
    const isPaused = paused && currentTime > 0;
    current.stop();
    await begin(second, currentTime || startS, on.failed);
    if (!isPaused) video.play().catch(() => {});
  };
  try {
    await begin(first, startS, changePlayer);
  } catch (error) {
    await changePlayer(new Problem(0, "The player could not be loaded", "", String(error)));
  }
  return {
    setLevel: (index) => current.setLevel(index),
    stop() {
      stopped = true;
      current.stop();
    },
  };
}

function playNative(video, url, startS, on) {
  const stopped = new AbortController();
  const options = { signal: stopped.signal };
  video.addEventListener("error", async () => {
    stopped.abort();
    on.failed((await problemOf(url)) ?? new Problem(0, "This browser cannot play the video", "", video.error?.message));
  }, options);
  video.addEventListener("loadedmetadata", () => {
    // Without an end yet, the browser takes it for live and would start at the newest segment.
    if (startS > 0 || !Number.isFinite(video.duration)) video.currentTime = startS;
  }, { ...options, once: true });
  video.src = url;
  return {
    setLevel() {},
    stop() {
      stopped.abort();
      video.removeAttribute("src");
      video.load();
    },
  };
}

async function playHls(video, url, startS, on) {
  const { default: Hls } = await import("./hls.min.mjs");
  if (!Hls.isSupported()) {
    on.failed(new Problem(0, "This browser has no Media Source Extensions, which adaptive playback needs", ""));
    return { setLevel() {}, stop() {} };
  }
  const hls = new Hls({
    workerPath: new URL("./hls.worker.js", import.meta.url).href,
    // While the encode goes on the playlist looks live; a film starts at its beginning all the same.
    startPosition: startS,
    capLevelToPlayerSize: false,
    backBufferLength: 60,
    cmcd: reporting(url),
  });
  const repairs = [];
  hls.on(Hls.Events.MANIFEST_PARSED, () => {
    // The bandwidth is not known yet: it begins with what fills the element, and adapts from there.
    const filling = hls.levels.findIndex((level) => level.height >= video.clientHeight);
    hls.startLevel = filling < 0 ? hls.levels.length - 1 : filling;
    on.levels(hls.levels.map(describe));
  });
  hls.on(Hls.Events.LEVEL_SWITCHED, (_, { level }) => on.level(level));
  hls.on(Hls.Events.ERROR, (_, error) => {
    if (!error.fatal) return;
    const now = performance.now();
    while (repairs.length && now - repairs[0] > repairWindowMs) repairs.shift();
    if (error.type === Hls.ErrorTypes.MEDIA_ERROR && repairs.length < repairsMax) {
      repairs.push(now);
      hls.recoverMediaError();
      return;
    }
    hls.destroy();
    explain(error, url).then(on.failed);
  });
  hls.loadSource(url);
  hls.attachMedia(video);
  return {
    // A choice shows at once: what is buffered in the old quality is dropped. Back to automatic, it may play out.
    setLevel(index) {
      if (index < 0) hls.nextLevel = -1;
      else hls.currentLevel = index;
    },
    stop: () => hls.destroy(),
  };
}

/** How hls.js reports the view (CMCD in event mode): what follows from it is shown to the owner, without who watched. */
function reporting(url) {
  const target = {
    url: new URL(url.replace(/master\.m3u8$/, "cmcd"), location.href).href,
    // States, bitrates, errors, and that it goes on.
    events: ["ps", "bc", "e", "t"],
    interval: reportPauseS,
    includeKeys: ["sid", "sta", "br", "msd", "sn"],
  };
  // A report may be on its way when the page is closed. Requests of media carry none.
  const loader = ({ url: address, ...request }) => fetch(address, { ...request, keepalive: true, credentials: "omit" });
  return { version: 2, includeKeys: [], eventTargets: [target], loader };
}

async function explain(error, url) {
  const problem = await problemOf(error.response?.url || error.frag?.url || url);
  if (problem) return problem;
  return new Problem(error.response?.code ?? 0, "The video cannot be played", error.details, error.reason);
}

function describe(level, index) {
  const lines = Math.min(level.width || level.height, level.height) || 0;
  const rate = level.bitrate >= 1e6 ? `${(level.bitrate / 1e6).toFixed(1)} Mb/s` : `${Math.round(level.bitrate / 1e3)} kb/s`;
  return { index, lines, height: level.height, bitrate: level.bitrate, label: lines ? `${lines}p · ${rate}` : rate };
}
