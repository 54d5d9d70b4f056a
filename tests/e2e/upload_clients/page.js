// Uploads the site's own film with Uppy, as another site does.
//
// ?url=...&key=...&options={...}

const query = new URLSearchParams(location.search);

async function upload() {
  const { Tus, Uppy } = await import("/upload_clients/node_modules/uppy/dist/uppy.min.mjs");
  const film = await (await fetch("/film.mp4")).blob();
  const uppy = new Uppy().use(Tus, {
    endpoint: query.get("url"),
    headers: { Authorization: `Bearer ${query.get("key")}` },
    ...JSON.parse(query.get("options")),
  });
  uppy.addFile({ name: "clip.mp4", type: "video/mp4", data: film });
  const { successful, failed } = await uppy.upload();
  return {
    urls: successful.map((file) => file.uploadURL),
    failed: failed.map((file) => String(file.error)),
  };
}

window.seen = await upload().catch((error) => ({ urls: [], failed: [String(error)] }));
