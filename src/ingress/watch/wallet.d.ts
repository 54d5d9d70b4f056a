// Types of wallet.js, for the library page.

import type { Tokens } from "./server.js";

export function isThere(): boolean;
export function signIn(): Promise<Tokens>;
