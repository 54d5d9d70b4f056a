// Writes vectors.json: messages, typed data and signatures made by viem, which shares no code with the server.
// The keys are made of the words below and own nothing. Run: npm ci && node vectors.mjs
import { writeFileSync } from "node:fs";
import { hashMessage, hashTypedData, keccak256, parseSignature, serializeCompactSignature, signatureToCompactSignature, toBytes } from "viem";
import { privateKeyToAccount } from "viem/accounts";
import { createSiweMessage } from "viem/siwe";

const accounts = ["one", "two", "three"].map((word) => privateKeyToAccount(keccak256(toBytes(`streamgate test key ${word}`))));
const issuedAt = new Date("2026-01-02T03:04:05.678Z");
const base = { domain: "media.example.org", uri: "https://media.example.org/login", version: "1", chainId: 1, nonce: "0123456789abcdefghijklmnop", issuedAt };
const fields = [
  {},
  { statement: "Sign in to StreamGate." },
  { scheme: "https", statement: "I accept the terms: https://media.example.org/tos" },
  { expirationTime: new Date("2026-01-02T03:09:05Z"), notBefore: new Date("2026-01-02T03:04:00Z") },
  { requestId: "some_id", resources: ["ipfs://bafybeiemxf5abjwjbikoz4mc3a3dla6ual3jsgpdr4cjr3oz3evfyavhwq", "https://example.com/claim.json"] },
  { domain: "127.0.0.1:8080", uri: "http://127.0.0.1:8080", scheme: "http", chainId: 31337 },
];

const compact = (signature) => serializeCompactSignature(signatureToCompactSignature(parseSignature(signature)));
const personal = [];
for (const account of accounts) {
  for (const extra of fields) {
    const message = createSiweMessage({ ...base, ...extra, address: account.address });
    const signature = await account.signMessage({ message });
    personal.push({ address: account.address, message, digest: hashMessage(message), signature, compact: compact(signature) });
  }
}

const types = {
  SignIn: [
    { name: "domain", type: "string" },
    { name: "account", type: "address" },
    { name: "statement", type: "string" },
    { name: "uri", type: "string" },
    { name: "nonce", type: "string" },
    { name: "issuedAt", type: "uint256" },
    { name: "expirationTime", type: "uint256" },
  ],
};
const typed = [];
for (const [index, account] of accounts.entries()) {
  const chainId = [1, 137, 31337][index];
  const seconds = 1767323045;
  const message = {
    domain: "media.example.org",
    account: account.address,
    statement: ["", "Sign in to StreamGate.", "ünïcode \"quoted\"\n"][index],
    uri: "https://media.example.org/login",
    nonce: base.nonce,
    issuedAt: BigInt(seconds),
    expirationTime: BigInt(seconds + 300),
  };
  const data = { domain: { name: "StreamGate", version: "1", chainId }, types, primaryType: "SignIn", message };
  const signature = await account.signTypedData(data);
  const { issuedAt, expirationTime, ...values } = message;
  typed.push({
    address: account.address,
    values: { ...values, chain_id: chainId, issued_at_s: seconds, expires_at_s: seconds + 300 },
    digest: hashTypedData(data),
    signature,
    compact: compact(signature),
  });
}

const texts = [];
for (const message of ["", "hello", "\n", "ünïcode", "x".repeat(1000)]) {
  const signature = await accounts[0].signMessage({ message });
  texts.push({ address: accounts[0].address, message, digest: hashMessage(message), signature, compact: compact(signature) });
}

writeFileSync(new URL("vectors.json", import.meta.url), JSON.stringify({ personal, typed, texts }, null, 1) + "\n");
