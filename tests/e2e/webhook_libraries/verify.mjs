// Verifies webhooks by the library of Standard Webhooks: reads lines of JSON with `secret`, `headers` and `body`; ends with 1 at the first
// that it refuses.
import { createInterface } from "node:readline";
import { createRequire } from "node:module";

const { Webhook } = createRequire(`${process.cwd()}/`)("standardwebhooks");
for await (const line of createInterface({ input: process.stdin })) {
  const { secret, headers, body } = JSON.parse(line);
  const event = new Webhook(secret).verify(body, headers);
  console.log(event.type);
}
