// The watch page: gets a playback address, plays it, says what is going on.
//
// /watch/{media_id}                    asks for an API key when the gateway wants one
// /watch/{media_id}#token={token}      plays with the path token that is given; &storyboard and &chapters where there are some, &still for a picture
// ?player=native | ?player=hls.js      instead of what suits the browser
//
// For tests and for styles, #page carries data-state (starting, waiting, sign-in, ready, playing, failed), data-player and data-level.

import { sessionOfLink, tokenOfFragment } from "./link.js";
import { showChapters } from "./chapters.js";
import { play } from "./player.js";
import { showScenes } from "./scenes.js";
import { Problem, apiKey, credential, documentOf, follow, playback, session } from "./server.js";
import * as wallet from "./wallet.js";

const page = document.getElementById("page");
const video = document.getElementById("video");
const title = document.getElementById("title");
const facts = document.getElementById("facts");
const description = document.getElementById("description");
const status = document.getElementById("status");
const quality = document.getElementById("quality");
const qualityField = document.getElementById("quality-field");
const signIn = document.getElementById("sign-in");
const keyField = document.getElementById("key");
const walletButton = document.getElementById("wallet");
const again = document.getElementById("again");
const unmute = document.getElementById("unmute");
const picture = document.getElementById("picture");
const chapters = document.getElementById("chapters");
const scenes = document.getElementById("scenes");
const warnings = document.getElementById("warnings");
const warningCount = document.getElementById("warning-count");
const warningList = document.getElementById("warning-list");

const mediaId = location.pathname.split("/").pop();
const asked = new URLSearchParams(location.search).get("player");
const renewalPauseMs = 30_000;
const waitPauseMs = 5_000;
const documentPauseMs = 10_000;

let player = null;
let following = null;
let renewedAt = -Infinity;

function show(state, text = "") {
  page.dataset.state = state;
  status.textContent = text;
  signIn.hidden = state !== "sign-in";
  walletButton.hidden = !wallet.isThere();
  again.hidden = state !== "failed";
}

async function start(startS = 0) {
  following?.abort();
  player?.stop();
  player = null;
  // They are of the session before, and of who had it.
  for (const part of [chapters, scenes, warnings, picture, description]) part.hidden = true;
  video.hidden = false;
  show("starting", "Loading");
  const token = tokenOfFragment();
  try {
    if (token) await begin(sessionOfLink(mediaId, token), startS);
    else await begin(await playback(mediaId), startS);
  } catch (problem) {
    refused(problem, startS);
  }
}

async function begin(session, startS) {
  if (session.title) name(session.title);
  description.textContent = session.description ?? "";
  description.hidden = !session.description;
  if (session.poster_url) video.poster = session.poster_url;
  show("ready");
  if (!session.hls_url) {
    showPicture(session);
    return;
  }
  const { signal } = (following = new AbortController());
  showBeside(session, signal);
  player = await play(video, session.hls_url, asked, startS, {
    player: showPlayer,
    levels: showLevels,
    level: showLevel,
    failed: playerFailed,
  });
  // Refused where the browser lets nothing start by itself: the play button is there.
  video.play().catch(() => {});
}

/** A still picture is its poster. */
function showPicture(session) {
  picture.src = session.poster_url;
  picture.alt = session.title ?? "Picture";
  picture.hidden = false;
  video.hidden = true;
  if (session.media_url) documentOf(mediaId).then((medium) => showWarnings(medium));
}

/** Scenes, and for those who may read the document of the medium its warnings; once both are final. */
async function showBeside(session, signal) {
  showChapters(chapters, video, session.chapters_url, clock, goTo);
  showScenes(scenes, session.storyboard_url, clock, goTo);
  if (!session.media_url) return;
  let medium = await documentOf(mediaId);
  while (medium?.status === "playable" && !signal.aborted) {
    showWarnings(medium);
    await new Promise((resolve) => setTimeout(resolve, documentPauseMs));
    medium = await documentOf(mediaId);
  }
  if (signal.aborted) return;
  showWarnings(medium);
  if (!session.storyboard_url && medium?.encode?.has_storyboard && medium.encryption === "none") {
    showScenes(scenes, session.hls_url.replace(/master\.m3u8$/, "storyboard.vtt"), clock, goTo);
  }
}

function goTo(atS) {
  video.currentTime = atS;
  video.play().catch(() => {});
}

/** What of the source is left out or changed. */
function showWarnings(medium) {
  const all = [...(medium?.technical?.warnings ?? []), ...(medium?.encode?.warnings ?? [])];
  warningList.replaceChildren(...all.map(({ code, detail }) => {
    const item = document.createElement("li");
    const label = document.createElement("code");
    label.textContent = code;
    item.append(label, ` ${detail}`);
    return item;
  }));
  warningCount.textContent = `Left out of the source, or changed: ${all.length}`;
  warnings.hidden = all.length === 0;
}

/** A playback session that came to its end is asked for anew once in a while; everything else is told. */
function playerFailed(problem) {
  const refused = problem.status === 401 || problem.status === 403;
  // One that was displaced is not: two pages would take the place from each other and both play on.
  const ended = refused && ["expired", "session_unknown"].includes(problem.reason);
  if (ended && !tokenOfFragment() && performance.now() - renewedAt > renewalPauseMs) {
    renewedAt = performance.now();
    start(video.currentTime);
  } else if (problem.reason === "displaced") {
    show("failed", "Playback went on elsewhere: a newer session took the place of this one");
  } else if (refused && tokenOfFragment()) {
    show("failed", `${problem.text}. The link may have expired: ask for a new one`);
  } else {
    show("failed", problem.text);
  }
}

function refused(error, startS) {
  const problem = error instanceof Problem ? error : new Problem(0, "The page failed", "", String(error));
  // Who is refused may come as somebody else; what is merely not confirmed yet is asked again as the same.
  if (problem.status === 401 || (problem.status === 403 && problem.reason !== "not_confirmed")) {
    // A wallet's session stays: another medium may be open to it, and other tabs use it.
    const known = credential();
    // A key that is kept for the library opens that all the same; one that is not known any more opens nothing.
    apiKey.clear(problem.status === 401);
    show("sign-in", whatIsNeeded(problem, known));
    keyField.focus();
  } else if (problem.code === "not_playable" || problem.status === 425) {
    waitForMedia(problem, startS);
  } else {
    show("failed", problem.text);
  }
}

function whatIsNeeded(problem, known) {
  if (problem.code === "wallet_needed" && !wallet.isThere()) return `${problem.text}. This browser has no wallet`;
  if (known || problem.status === 403 || problem.code === "wallet_needed") return problem.text;
  return wallet.isThere() ? "This video needs a wallet or a key" : "This video needs a key";
}

/** The media is not playable yet: asks again until it is, and shows meanwhile what its events tell, which are its owner's. */
async function waitForMedia(problem, startS) {
  show("waiting", `Not ready yet: ${problem.message}`);
  following = new AbortController();
  const { signal } = following;
  askAgain(startS, signal);
  if (credential()) await follow(mediaId, (event) => mediaChanged(event, startS), signal).catch(() => {});
}

async function askAgain(startS, signal) {
  for (;;) {
    await new Promise((resolve) => setTimeout(resolve, waitPauseMs));
    if (signal.aborted) return;
    try {
      const session = await playback(mediaId);
      if (signal.aborted) return;
      following.abort();
      await begin(session, startS);
      return;
    } catch (problem) {
      if (signal.aborted) return;
      if (mayPass(problem)) continue;
      following.abort();
      refused(problem, startS);
      return;
    }
  }
}

/** True while the same question may be answered otherwise later. */
function mayPass(problem) {
  return problem.code === "not_playable" || [0, 425, 429].includes(problem.status) || problem.status >= 500;
}

function mediaChanged(event, startS) {
  // What the stream says of itself is no news of the media.
  if (["snapshot", "resync", "lagged"].includes(event.name)) return false;
  const verb = event.name.split(".").slice(-2).join(".");
  if (/(^|\.)(playable|ready)$/.test(event.name)) {
    start(startS);
    return true;
  }
  if (/(^|\.)(rejected|failed|dead|removed)$/.test(event.name)) {
    const said = parse(event.data);
    following.abort();
    show("failed", `The video cannot be prepared${said.code ? ` (${said.code})` : `: ${verb}`}`);
    return true;
  }
  const { percent } = parse(event.data);
  show("waiting", typeof percent === "number" ? `Encoding: ${Math.floor(percent)} %` : `Being prepared: ${verb}`);
  return false;
}

function parse(text) {
  try {
    return JSON.parse(text) ?? {};
  } catch {
    return {};
  }
}

function name(words) {
  title.textContent = words;
  document.title = `${words} · StreamGate`;
}

function showPlayer(kind) {
  page.dataset.player = kind;
  // A choice that does nothing is not offered.
  qualityField.hidden = true;
}

function showLevels(levels) {
  const best = [...levels].sort((one, other) => other.lines - one.lines || other.bitrate - one.bitrate);
  quality.replaceChildren(new Option("Automatic", "-1", true, true), ...best.map((level) => {
    const option = new Option(level.label, String(level.index));
    option.dataset.height = String(level.height);
    return option;
  }));
  qualityField.hidden = false;
}

function showLevel(index) {
  page.dataset.level = String(index);
  const playing = quality.querySelector(`option[value="${index}"]`);
  const automatic = quality.querySelector('option[value="-1"]');
  automatic.textContent = quality.value === "-1" && playing ? `Automatic (${playing.textContent.split(" ")[0]})` : "Automatic";
}

function showFacts() {
  const words = [];
  if (Number.isFinite(video.duration) && video.duration > 0) words.push(clock(video.duration));
  if (video.videoWidth) words.push(`${video.videoWidth} × ${video.videoHeight}`);
  facts.textContent = words.join(" · ");
}

function clock(seconds) {
  const whole = Math.floor(seconds);
  const [hours, minutes, rest] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  const two = (number) => String(number).padStart(2, "0");
  return hours ? `${hours}:${two(minutes)}:${two(rest)}` : `${minutes}:${two(rest)}`;
}

for (const name of ["loadedmetadata", "durationchange", "resize"]) video.addEventListener(name, showFacts);
video.addEventListener("playing", () => {
  show("playing");
  unmute.hidden = !video.muted;
});
video.addEventListener("volumechange", () => {
  if (!video.muted) unmute.hidden = true;
});
unmute.addEventListener("click", () => {
  video.muted = false;
});
quality.addEventListener("change", () => player?.setLevel(Number(quality.value)));
again.addEventListener("click", () => start(video.currentTime));
addEventListener("hashchange", () => start());
signIn.addEventListener("submit", (event) => {
  event.preventDefault();
  apiKey.set(keyField.value.trim());
  keyField.value = "";
  start();
});

walletButton.addEventListener("click", async () => {
  walletButton.disabled = true;
  show("sign-in", "Waiting for your wallet");
  try {
    session.set(await wallet.signIn());
    apiKey.clear();
    start();
  } catch (error) {
    show("sign-in", error instanceof Problem ? error.text : String(error));
  } finally {
    walletButton.disabled = false;
  }
});

start();
