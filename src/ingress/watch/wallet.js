// Signs in with the wallet of the browser (EIP-1193): a challenge, a signature over its message (ERC-4361), a session.
// Limits: whatever the wallet asks its owner takes as long as the owner does; each request to the gateway 15 s.

import { Problem, post } from "./server.js";

/** True when the browser has a wallet. */
export const isThere = () => typeof window.ethereum?.request === "function";

/** A new session: {access_token, refresh_token, ...}. */
export async function signIn() {
  const [address] = await ask("eth_requestAccounts");
  if (!address) throw new Problem(0, "The wallet shows no account", "");
  const challenge = await post("/v1/auth/challenge", { domain: location.host, address, chain_id: await chain() });
  const signature = await ask("personal_sign", [hex(challenge.message), address]);
  return post("/v1/auth/login", { message: challenge.message, signature });
}

async function chain() {
  const id = Number.parseInt(await ask("eth_chainId"), 16);
  return Number.isSafeInteger(id) ? id : undefined;
}

async function ask(method, params = []) {
  try {
    return await window.ethereum.request({ method, params });
  } catch (error) {
    // 4001: the owner said no (EIP-1193).
    throw new Problem(0, error?.code === 4001 ? "You refused in your wallet" : "The wallet does not answer", "", String(error?.message ?? ""));
  }
}

function hex(text) {
  return `0x${[...new TextEncoder().encode(text)].map((byte) => byte.toString(16).padStart(2, "0")).join("")}`;
}
