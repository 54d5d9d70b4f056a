// Types of server.js, for the library page.

export const base: string;

export class Problem extends Error {
  constructor(status: number, title: string, code: string, detail?: string, reason?: string);
  status: number;
  code: string;
  detail: string | undefined;
  reason: string | undefined;
  get text(): string;
  static from(response: Response): Promise<Problem>;
}

export const apiKey: { get(): string; set(key: string, isKept?: boolean): void; clear(isKept?: boolean): void };

export interface Tokens {
  access_token: string;
  refresh_token: string;
}

export const session: { get(): Tokens | null; set(tokens: Tokens): void; clear(): void };

export function credential(): string;

export function request(method: string, path: string, body?: unknown, extra?: Record<string, string>): Promise<unknown>;

export function requestOpenly(method: string, path: string): Promise<unknown>;

export function fileAt(path: string): Promise<Blob>;

export function versionOf(path: string): Promise<{ document: unknown; tag: string }>;

export function post(path: string, body: unknown): Promise<unknown>;

export interface ServerEvent {
  id: string;
  name: string;
  data: string;
}

export function follow(mediaId: string, seen: (event: ServerEvent) => boolean, signal: AbortSignal, opened?: (isOpen: boolean) => void): Promise<void>;
