// Writes tokens.json: the bytecode of Tokens.sol. Run in a folder with `npm install solc@0.8.37`:
//   node <checkout>/tests/contracts/compile.mjs
import { readFileSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';

const solc = createRequire(process.cwd() + '/')('solc');
const source = new URL('Tokens.sol', import.meta.url);
const input = {
  language: 'Solidity',
  sources: { 'Tokens.sol': { content: readFileSync(source, 'utf8') } },
  settings: {
    optimizer: { enabled: true, runs: 1 },
    metadata: { appendCBOR: false, bytecodeHash: 'none' },
    outputSelection: { '*': { '*': ['evm.bytecode.object'] } },
  },
};
const output = JSON.parse(solc.compile(JSON.stringify(input)));
for (const { formattedMessage } of output.errors ?? []) console.error(formattedMessage);
const contracts = Object.entries(output.contracts['Tokens.sol']);
const made = Object.fromEntries(contracts.map(([name, { evm }]) => [name, '0x' + evm.bytecode.object]));
writeFileSync(new URL('tokens.json', import.meta.url), JSON.stringify(made, null, 2) + '\n');
