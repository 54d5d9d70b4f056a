// What Redocly's recommended rules say of a description: node lint.mjs FILE; fails when they say anything.

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";

const require = createRequire(join(process.cwd(), "package.json"));
const { createConfig, lint } = require("@redocly/openapi-core");

const config = await createConfig({ extends: ["recommended"] });
const paths = JSON.parse(readFileSync(process.argv[2], "utf8")).paths;

// OpenAPI has no WebSockets: what opens one answers with 101 and no other success, and nothing refers to its messages but its description.
const sockets = Object.values(paths).flatMap(Object.values).filter((operation) => operation.responses?.["101"]);
const step = (text) => text.replaceAll("~1", "/").replaceAll("~0", "~");
const isOfSocket = ({ ruleId, location: [{ pointer }] }) => {
  const [, place, name, method] = pointer.split("/").map(step);
  if (ruleId === "operation-2xx-response") return place === "paths" && sockets.includes(paths[name][method]);
  const component = pointer.split("/").at(-1);
  return ruleId === "no-unused-components" && sockets.some(({ description }) => description.includes(`\`${component}\``));
};

// Ids of uploads have 26 characters: `grants` is none of them, and `status` no id of a grant.
const isOfIds = ({ ruleId, message }) =>
  ruleId === "no-ambiguous-paths" && message.includes("`/v1/uploads/grants/{grant_id}` and `/v1/uploads/{upload_id}/status`");

const found = await lint({ ref: process.argv[2], config });
const problems = found.filter((problem) => !isOfSocket(problem) && !isOfIds(problem));
for (const { severity, ruleId, message, location } of problems) {
  console.log(severity, ruleId, message, location.map(({ pointer }) => pointer).join(" "));
}
process.exitCode = problems.length > 0 ? 1 : 0;
