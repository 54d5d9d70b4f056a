// Uploads a file, waits for it, lists it and opens its playback, by the types that openapi-typescript makes of the description.
//
// node client.js URL KEY FILE; prints the address of the playlist.

import { readFile } from "node:fs/promises";
import createClient from "openapi-fetch";
import type { components, paths } from "./api.js";

type Problem = components["schemas"]["Problem"];

const pauseMs = 200;
const waitMs = 120_000;
const [url, key, path] = process.argv.slice(2) as [string, string, string];

function connect(token: string) {
  return createClient<paths>({ baseUrl: url, headers: { authorization: `Bearer ${token}` } });
}

function expect<T>(answer: { data?: T; error?: Problem }): T {
  if (answer.data === undefined) throw new Error(JSON.stringify(answer.error));
  return answer.data;
}

function check(holds: boolean, about: unknown) {
  if (!holds) throw new Error(JSON.stringify(about));
}

const bytes = await readFile(path);

async function upload(token: string) {
  return await connect(token).POST("/v1/media", {
    headers: { "content-type": "application/octet-stream" },
    params: { header: { "Upload-Metadata": "title R2VuZXJhdGVk" } },
    // The description calls bytes a binary string.
    body: bytes as unknown as string,
    bodySerializer: (body) => body,
  });
}

const refused = await upload("sg_wrong");
check(refused.error?.code === "unauthorized", refused.error);

const client = connect(key);
const { media_id } = expect(await upload(key));
const params = { path: { media_id } };
const deadline = Date.now() + waitMs;
let medium = expect(await client.GET("/v1/media/{media_id}", { params }));
while (medium.status !== "ready") {
  check(["uploading", "stored", "playable"].includes(medium.status) && Date.now() < deadline, medium);
  await new Promise((done) => setTimeout(done, pauseMs));
  medium = expect(await client.GET("/v1/media/{media_id}", { params }));
}
check(medium.title === "Generated" && medium.source?.size_bytes === bytes.length, medium);

const page = expect(await client.GET("/v1/media", { params: { query: { status: "ready" } } }));
check(page.items.some((item) => item.media_id === media_id), page);
const gate = { params: { ...params, header: { "If-Match": "*" } }, body: { kind: "public" } as const };
expect(await client.PUT("/v1/media/{media_id}/gate", gate));
const playback = expect(await client.POST("/v1/media/{media_id}/playback", { params }));
console.log(playback.hls_url);
