// Plays an HLS address in a video element: by the browser itself where it can, else by hls.js.
// Limits: two repairs of a decoding error within 30 s; network tries are those of hls.js.

import { Problem, problemOf } from "./server.js";

const repairsMax = 2;
const repairWindowMs = 30_000;

/** "native" or "hls.js"; `asked` (from ?player=) wins over what the browser says. */
export function choose(video, asked) {
  if (asked === "native" || asked === "hls.js") return asked;
  return video.canPlayType("application/vnd.apple.mpegurl") ? "native" : "hls.js";
}

/**
 * Starts `url` at `startS` seconds. Calls `on.levels(levels)` and `on.level(index)` where the quality can be chosen,
 * `on.failed(problem)` once when it cannot go on. Returns {setLevel, stop}.
 */
export async function play(video, url, kind, startS, on) {
  return kind === "native" ? playNative(video, url, startS, on) : playHls(video, url, startS, on);
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
  });
  const repairs = [];
  hls.on(Hls.Events.MANIFEST_PARSED, () => on.levels(hls.levels.map(describe)));
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
