// Compiles Accounts.sol into contracts.json: the creation code of each contract. Run: npm ci && node contracts.mjs
import { readFileSync, writeFileSync } from "node:fs";
import solc from "solc";

const source = readFileSync(new URL("Accounts.sol", import.meta.url), "utf8");
const input = {
  language: "Solidity",
  sources: { "Accounts.sol": { content: source } },
  settings: { optimizer: { enabled: true, runs: 200 }, metadata: { bytecodeHash: "none" }, outputSelection: { "*": { "*": ["evm.bytecode.object"] } } },
};
const output = JSON.parse(solc.compile(JSON.stringify(input)));
for (const error of output.errors ?? []) console.error(error.formattedMessage);
const codes = Object.entries(output.contracts["Accounts.sol"]).map(([name, contract]) => [name, `0x${contract.evm.bytecode.object}`]);
writeFileSync(new URL("contracts.json", import.meta.url), JSON.stringify(Object.fromEntries(codes), null, 1) + "\n");
