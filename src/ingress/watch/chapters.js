// Chapters under the player: a list of buttons, each goes to where its chapter begins; the one that plays is marked.

/** The cues of a file of chapters (WebVTT): {startS, title}. */
async function chaptersOf(url) {
  const response = await fetch(url, { signal: AbortSignal.timeout(15_000) });
  if (!response.ok) return [];
  const blocks = (await response.text()).split("\n\n").slice(1);
  return blocks.flatMap((block) => {
    const [, hours, minutes, seconds, title] = /^(\d+):(\d\d):(\d\d\.\d+) --> .*\n(.+)/.exec(block) ?? [];
    if (!title) return [];
    const text = title.replaceAll("&lt;", "<").replaceAll("&gt;", ">").replaceAll("&amp;", "&");
    return [{ startS: Number(hours) * 3600 + Number(minutes) * 60 + Number(seconds), title: text }];
  });
}

function buttonOf(chapter, label, seek) {
  const button = document.createElement("button");
  button.type = "button";
  const time = document.createElement("span");
  time.textContent = label;
  button.append(time, ` ${chapter.title}`);
  button.addEventListener("click", () => seek(chapter.startS));
  return button;
}

/** Fills `list` with the chapters at `url`; leaves it hidden where there are none. `clock` names a time, `seek` goes there. */
export async function showChapters(list, video, url, clock, seek) {
  const chapters = url ? await chaptersOf(url).catch(() => []) : [];
  const items = chapters.map((chapter) => {
    const item = document.createElement("li");
    item.append(buttonOf(chapter, clock(chapter.startS), seek));
    return item;
  });
  list.replaceChildren(...items);
  list.hidden = items.length === 0;
  // One listener, of the last list that was shown.
  video.ontimeupdate = items.length === 0 ? null : () => {
    const current = chapters.findLastIndex(({ startS }) => startS <= video.currentTime);
    items.forEach((item, place) => {
      const button = item.firstElementChild;
      if (place === current) button.setAttribute("aria-current", "true");
      else button.removeAttribute("aria-current");
    });
  };
}
