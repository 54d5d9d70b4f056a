// Small pictures of the film under the player: each one goes to its time.
// Limits: 30 pictures, of longer films every so many-th.

const scenesMax = 30;

/** The tiles of a storyboard (WebVTT with media fragments): {startS, url, x, y, width, height}. */
async function tilesOf(url) {
  const response = await fetch(url, { signal: AbortSignal.timeout(15_000) });
  if (!response.ok) return [];
  const blocks = (await response.text()).split("\n\n").slice(1);
  return blocks.flatMap((block) => {
    const [, hours, minutes, seconds, file, ...place] =
      /^(\d+):(\d\d):(\d\d\.\d+) --> .*\n([a-z0-9/]+\.jpg)#xywh=(\d+),(\d+),(\d+),(\d+)/.exec(block) ?? [];
    if (!file) return [];
    const [x, y, width, height] = place.map(Number);
    const startS = Number(hours) * 3600 + Number(minutes) * 60 + Number(seconds);
    return [{ startS, url: new URL(file, new URL(url, location.href)).href, x, y, width, height }];
  });
}

function buttonOf(tile, label, seek) {
  const button = document.createElement("button");
  button.type = "button";
  button.setAttribute("aria-label", `Play from ${label}`);
  Object.assign(button.style, {
    width: `${tile.width}px`,
    height: `${tile.height}px`,
    backgroundImage: `url("${tile.url}")`,
    backgroundPosition: `-${tile.x}px -${tile.y}px`,
  });
  const time = document.createElement("span");
  time.textContent = label;
  button.append(time);
  button.addEventListener("click", () => seek(tile.startS));
  return button;
}

/** Fills `list` with the scenes of a storyboard; leaves it hidden where there are none. `clock` names a time, `seek` goes there. */
export async function showScenes(list, url, clock, seek) {
  const tiles = url ? await tilesOf(url).catch(() => []) : [];
  const step = Math.ceil(tiles.length / scenesMax) || 1;
  const shown = tiles.filter((_, place) => place % step === 0);
  list.replaceChildren(...shown.map((tile) => {
    const item = document.createElement("li");
    item.append(buttonOf(tile, clock(tile.startS), seek));
    return item;
  }));
  list.hidden = shown.length < 2;
}
