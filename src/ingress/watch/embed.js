// The player for frames of other sites. It uses no credential: what is framed can't be told from what is not.
//
// /embed/{media_id}                 plays what is public, once somebody asks it to
// /embed/{media_id}#token={token}   plays with the path token that is given, as the watch page does
// ?autoplay=1                       begins by itself, without sound; ?start={seconds} begins there
//
// For tests and for styles, #page carries data-state (starting, offered, waiting, playing, closed, failed).

import { sessionOfLink, tokenOfFragment } from "./link.js";
import { play } from "./player.js";
import { Problem, base, openPlayback } from "./server.js";

const page = document.getElementById("page");
const video = document.getElementById("video");
const picture = document.getElementById("picture");
const button = document.getElementById("play");
const status = document.getElementById("status");
const link = document.getElementById("page-link");

const mediaId = location.pathname.split("/").pop();
const query = new URLSearchParams(location.search);
const startS = Math.max(0, Number(query.get("start")) || 0);
const waitPauseMs = 5_000;

let player = null;

function show(state, text = "") {
  page.dataset.state = state;
  status.textContent = text;
  button.hidden = state !== "offered";
  link.hidden = state !== "closed" && state !== "failed";
  video.hidden = state !== "playing";
}

/** Shows the poster, and waits to be asked: a page with many players loads none of them. */
function offer(startAtS = startS) {
  player?.stop();
  player = null;
  picture.src = posterOf();
  picture.hidden = false;
  button.onclick = () => begin(startAtS);
  show("offered");
}

function posterOf() {
  const token = tokenOfFragment();
  return token ? `${base}/play/${token}/${mediaId}/poster.jpg` : `${base}/v1/media/${mediaId}/poster`;
}

async function begin(startAtS, isMuted = false) {
  const hadFocus = document.activeElement === button;
  show("starting", "Loading");
  // The button is gone; what is said now is what follows it.
  if (hadFocus) status.focus();
  const token = tokenOfFragment();
  try {
    const session = token ? sessionOfLink(mediaId, token) : await openPlayback(mediaId);
    if (!session.hls_url) return showStill(session);
    if (session.title) document.title = session.title;
    video.muted = isMuted;
    // It has its size before the first picture, and the controls are there to be focused.
    show("playing");
    picture.hidden = true;
    if (session.poster_url) video.poster = session.poster_url;
    const ignored = () => {};
    player = await play(video, session.hls_url, "", startAtS, { player: ignored, levels: ignored, level: ignored, failed: refused });
    // Only where somebody has asked it to play: the page around has the keyboard else.
    if (!isMuted) video.focus();
    // Refused where the browser lets nothing start by itself: the controls are there.
    video.play().catch(() => {});
  } catch (error) {
    refused(error, isMuted);
  }
}

/** A still picture is its poster. */
function showStill(session) {
  picture.src = session.poster_url;
  picture.alt = session.title ?? "Picture";
  show("still");
}

async function refused(error, isMuted = false) {
  const hadFocus = document.activeElement !== document.body;
  const problem = error instanceof Problem ? error : new Problem(0, "The player failed", "", String(error));
  if (problem.reason === "expired" || problem.reason === "session_unknown") {
    // The session is over, as after a night: who goes on gets another.
    if (!tokenOfFragment()) return offer(video.currentTime);
  }
  player?.stop();
  player = null;
  const end = (state, words) => {
    show(state, words);
    if (hadFocus) link.focus();
  };
  if (problem.status === 401 || problem.status === 403) return end("closed", "This video is not open to everybody here.");
  if (problem.status === 404) return end("closed", "This video is not there any more.");
  if (problem.code === "not_playable") {
    show("waiting", "This video is being prepared.");
    await new Promise((resolve) => setTimeout(resolve, waitPauseMs));
    return begin(startS, isMuted);
  }
  end("failed", problem.message);
}

// Without a poster there is nothing to see behind the button.
picture.addEventListener("error", () => (picture.hidden = true));
link.href = `${base}/watch/${mediaId}${location.hash}`;
if (query.get("autoplay") === "1") begin(startS, true);
else offer();
