// Uploads with tus-js-client as an application does, with its own defaults.
//
//   node tus.mjs URL KEY FILE OPTIONS [COUNT]
//
// COUNT uploads of the file begin at once. Prints the address of each as a line; ends with 1 when one failed.

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const [url, key, path, options, count = "1"] = process.argv.slice(2);
const tus = createRequire(`${process.cwd()}/.tools/upload_clients/`)("tus-js-client");

function upload() {
  return new Promise((resolve, reject) => {
    const started = new tus.Upload(readFileSync(path), {
      endpoint: url,
      headers: { Authorization: `Bearer ${key}` },
      metadata: { filename: "clip.mp4", filetype: "video/mp4" },
      ...JSON.parse(options),
      onError: reject,
      onSuccess: () => resolve(started.url),
    });
    started.start();
  });
}

const outcomes = await Promise.allSettled(Array.from({ length: Number(count) }, upload));
for (const { value, reason } of outcomes) {
  if (reason) {
    console.error(String(reason));
    process.exitCode = 1;
  } else console.log(value);
}
