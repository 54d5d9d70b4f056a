// What Redocly's recommended rules say of a description: node lint.mjs FILE; fails when they say anything.

import { createRequire } from "node:module";
import { join } from "node:path";

const require = createRequire(join(process.cwd(), "package.json"));
const { createConfig, lint } = require("@redocly/openapi-core");

const config = await createConfig({ extends: ["recommended"] });
const problems = await lint({ ref: process.argv[2], config });
for (const { severity, ruleId, message, location } of problems) {
  console.log(severity, ruleId, message, location.map(({ pointer }) => pointer).join(" "));
}
process.exitCode = problems.length > 0 ? 1 : 0;
