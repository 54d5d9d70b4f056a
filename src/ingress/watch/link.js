// A link that carries the right to play: {page}#token={token}; &storyboard and &chapters where there are some, &still for a picture.

import { base } from "./server.js";

/** The path token of this page's address; empty where there is none. */
export function tokenOfFragment() {
  const token = new URLSearchParams(location.hash.slice(1)).get("token") ?? "";
  return /^[A-Za-z0-9._~-]{1,2000}$/.test(token) ? token : "";
}

/** The session of a link: what it plays, and what there is beside it. */
export function sessionOfLink(mediaId, token) {
  const link = new URLSearchParams(location.hash.slice(1));
  const at = (name) => `${base}/play/${token}/${mediaId}/${name}`;
  if (link.has("still")) return { poster_url: at("poster.jpg") };
  return {
    hls_url: at("master.m3u8"),
    storyboard_url: link.has("storyboard") ? at("storyboard.vtt") : null,
    chapters_url: link.has("chapters") ? at("chapters.vtt") : null,
  };
}
