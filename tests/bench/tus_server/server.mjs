// A plain @tus/server over its file store, as its README starts one: `node --input-type=module --eval "$(cat server.mjs)" PORT FOLDER`.
import { FileStore } from '@tus/file-store';
import { Server } from '@tus/server';

const [port, directory] = process.argv.slice(1);
new Server({ path: '/v1/uploads', datastore: new FileStore({ directory }) }).listen({ host: '127.0.0.1', port: Number(port) });
