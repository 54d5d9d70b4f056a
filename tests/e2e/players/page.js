// Plays one address with one player, as another site does, and writes down what is shown and played.
//
// ?player=mp4|hls.js|shaka|dash.js|video.js &url=... [&report=...: where hls.js, shaka and dash.js report how it plays]
//
// The picture is twelve bars, the bits of its frame's number; a tone of 40 ms begins with every second.

const bars = 12;
const query = new URLSearchParams(location.search);
/** CMCD in event mode, as the documents of the players have it. */
const eventTargets = query.has("report") ? [{ url: query.get("report"), events: ["ps", "bc", "e", "t"], interval: 1 }] : [];
const video = document.getElementById("video");
const canvas = new OffscreenCanvas(bars * 8, 8);
const pixels = canvas.getContext("2d", { willReadFrequently: true });

/** frames: [number, presented media time in s]; tones: media time in s at which each is played. */
const seen = { frames: [], tones: [], stalls: [], ended: false, failed: "", duration: 0 };
window.seen = seen;

// A wait before the picture moves is loading: players say "playing" before they have enough.
let hasBegun = false;

function numberOfFrame() {
  pixels.drawImage(video, 0, 0, canvas.width, canvas.height);
  const { data } = pixels.getImageData(0, 4, canvas.width, 1);
  let number = 0;
  for (let bar = 0; bar < bars; bar += 1) {
    if (data[(bar * 8 + 4) * 4] > 127) number += 2 ** bar;
  }
  return number;
}

function watchFrames() {
  video.requestVideoFrameCallback((now, { mediaTime }) => {
    seen.frames.push([numberOfFrame(), mediaTime]);
    watchFrames();
  });
}

/** The audio thread says when a tone begins, by its own clock. */
const listener = `registerProcessor("tones", class extends AudioWorkletProcessor {
  quiet = sampleRate;
  process([[samples]]) {
    samples?.forEach((sample, at) => {
      if (Math.abs(sample) > 0.2) {
        if (this.quiet > sampleRate / 10) this.port.postMessage((currentFrame + at) / sampleRate);
        this.quiet = 0;
      } else this.quiet += 1;
    });
    return true;
  }
});`;

async function watchTones() {
  const audio = new AudioContext({ latencyHint: "interactive" });
  await audio.audioWorklet.addModule(URL.createObjectURL(new Blob([listener], { type: "text/javascript" })));
  const node = new AudioWorkletNode(audio, "tones");
  const begun = [];
  node.port.onmessage = ({ data }) => {
    if (!video.paused && !video.ended) begun.push(data);
  };
  // Each clock is read in steps of up to 40 ms; the middle of many readings is true.
  const offsets = [];
  setInterval(() => {
    if (!hasBegun || video.paused || video.ended) return;
    offsets.push(video.currentTime - audio.currentTime);
    const offset = offsets.toSorted((a, b) => a - b)[Math.floor(offsets.length / 2)];
    seen.tones = begun.map((at) => at + offset);
  }, 10);
  audio.createMediaElementSource(video).connect(node).connect(audio.destination);
  await audio.resume();
}

function load(script) {
  return new Promise((resolve, reject) => {
    const element = document.createElement("script");
    Object.assign(element, { src: script, onload: resolve, onerror: reject });
    document.head.append(element);
  });
}

const players = {
  async mp4(url) {
    video.src = url;
  },
  async "hls.js"(url) {
    const { default: Hls } = await import("/players/hls.min.mjs");
    const cmcd = eventTargets.length ? { version: 2, eventTargets } : undefined;
    const player = new Hls({ enableWorker: false, cmcd });
    player.on(Hls.Events.ERROR, (_, { fatal, type, details }) => fatal && fail(`${type} ${details}`));
    player.loadSource(url);
    player.attachMedia(video);
  },
  async shaka(url) {
    await load("/players/shaka-player.compiled.js");
    // Shaka uses what browsers of this year have and puts it into older ones, such as Firefox 140, when it is asked to.
    globalThis.shaka.polyfill.installAll();
    const player = new globalThis.shaka.Player();
    player.addEventListener("error", ({ detail }) => fail(`${detail.code} ${JSON.stringify(detail.data)}`));
    if (eventTargets.length) player.configure({ cmcd: { enabled: true, version: 2, eventTargets } });
    await player.attach(video);
    await player.load(url);
  },
  async "dash.js"(url) {
    await load("/players/dash.all.min.js");
    const player = globalThis.dashjs.MediaPlayer().create();
    player.on("error", ({ error }) => fail(`${error.code} ${error.message}`));
    const targets = eventTargets.map((target) => ({ ...target, enabledKeys: ["sid", "sta", "br", "msd", "bs", "bsd", "sn", "v"] }));
    if (targets.length) player.updateSettings({ streaming: { cmcd: { enabled: true, version: 2, eventTargets: targets } } });
    player.initialize(video, url, false);
  },
  async "video.js"(url) {
    await load("/players/video.min.js");
    const player = globalThis.videojs(video, { html5: { vhs: { overrideNative: true } } });
    player.on("error", () => fail(JSON.stringify(player.error())));
    player.src({ src: url, type: "application/vnd.apple.mpegurl" });
  },
};

function fail(problem) {
  seen.failed ||= String(problem);
}

video.addEventListener("timeupdate", () => {
  hasBegun ||= video.currentTime > 0.1;
});
video.addEventListener("waiting", () => {
  if (hasBegun && !video.ended) seen.stalls.push(video.currentTime);
});
video.addEventListener("canplay", () => {
  // A player that sets another source breaks it off, and comes here again.
  if (video.paused && !video.ended) video.play().catch((error) => error.name === "AbortError" || fail(error));
});
video.addEventListener("ended", () => {
  // What stays on the screen.
  seen.frames.push([numberOfFrame(), seen.frames.at(-1)?.[1] ?? 0]);
  seen.duration = video.duration;
  seen.ended = true;
});
video.addEventListener("error", () => fail(video.error?.message ?? "the element failed"));

try {
  watchFrames();
  await watchTones();
  await players[query.get("player")](query.get("url"));
  // At once, since some players load nothing of what grows before; a player that sets its source now breaks that off.
  await video.play().catch(() => {});
} catch (error) {
  fail(error);
}
