// What the library asks of the gateway, with types. Documents are those of `/openapi.json`; only what the page shows is named.

import { apiKey, credential, fileAt, post, Problem, request, requestOpenly, session, versionOf } from "../../watch/server.js";

export type Status = "uploading" | "stored" | "rejected" | "playable" | "ready" | "failed";

/** What the source lost or had changed: a stable code, and words. */
export interface Warning {
  code: string;
  detail: string;
}

/** Who is signed in. */
export interface Who {
  owner: string;
  role: "owner" | "operator" | "admin";
}

/** A medium as a list shows it. */
export interface Medium {
  media_id: string;
  owner: string;
  title: string;
  status: Status;
  /** Milliseconds; 0 where it is not known or has none. */
  duration_ms: number;
  has_poster: boolean;
  code: string | null;
  detail: string | null;
  created_at_ms: number;
  /** Known once its document was read. */
  warnings: Warning[];
}

interface ListItem {
  media_id: string;
  owner: string;
  title: string | null;
  status: Status;
  summary: { duration_ms: number } | null;
  has_poster: boolean;
  code: string | null;
  detail: string | null;
  created_at_ms: number;
}

interface MediumDocument extends Omit<ListItem, "has_poster"> {
  technical: { warnings?: Warning[] } | null;
  encode: { has_poster: boolean; duration_ms: number; warnings?: Warning[] } | null;
}

/** Who may play a medium. */
export type Access = "everybody" | "owner" | "rule";

interface GateDocument {
  access: "rule" | "owner_only";
  rule: { kind: string } | null;
}

const ANY_VERSION = { "if-match": "*" };
const pageSize = 30;

export async function me(): Promise<Who> {
  return (await request("GET", "/v1/auth/me")) as Who;
}

/** Exchanges the code of a sign-in link for a key, and keeps that in this tab. */
export async function openLink(code: string): Promise<void> {
  const { key } = (await post("/v1/auth/links", { code })) as { key: string };
  apiKey.set(key);
}

/** Forgets the key of this device, or ends the session of the wallet. */
export async function signOut(): Promise<void> {
  const isWallet = !apiKey.get() && session.get() !== null;
  apiKey.clear(true);
  if (isWallet && credential()) await request("POST", "/v1/auth/logout", {}).catch(() => null);
  session.clear();
}

export async function list(cursor: string): Promise<{ media: Medium[]; next: string }> {
  const query = cursor ? `&cursor=${encodeURIComponent(cursor)}` : "";
  const page = (await request("GET", `/v1/media?limit=${pageSize}${query}`)) as { items: ListItem[]; next_cursor: string | null };
  return { media: page.items.map(fromItem), next: page.next_cursor ?? "" };
}

/** Media that were removed last and can be restored. */
export async function listRemoved(): Promise<Medium[]> {
  const page = (await request("GET", `/v1/media?removed=true&limit=${pageSize}`)) as { items: ListItem[] };
  return page.items.map(fromItem);
}

export async function restore(mediaId: string): Promise<void> {
  await request("POST", `/v1/media/${mediaId}/restore`);
}

/** The medium as it is now, or null when it is gone. */
export async function read(mediaId: string): Promise<Medium | null> {
  try {
    const found = (await request("GET", `/v1/media/${mediaId}`)) as MediumDocument;
    const { technical, encode } = found;
    const medium = fromItem({ ...found, has_poster: encode?.has_poster ?? false });
    medium.duration_ms ||= encode?.duration_ms ?? 0;
    medium.warnings = [...(technical?.warnings ?? []), ...(encode?.warnings ?? [])];
    return medium;
  } catch (error) {
    // Removed media that can be restored are answered with 410.
    if (error instanceof Problem && (error.status === 404 || error.status === 410)) return null;
    throw error;
  }
}

function fromItem(item: ListItem): Medium {
  const { media_id, owner, title, status, summary, has_poster, code, detail, created_at_ms } = item;
  return {
    media_id, owner, title: title ?? "", status, duration_ms: summary?.duration_ms ?? 0, has_poster, code, detail, created_at_ms, warnings: [],
  };
}

function accessOf({ access, rule }: GateDocument): Access {
  if (access === "owner_only" || !rule) return "owner";
  return rule.kind === "public" ? "everybody" : "rule";
}

export async function accessTo(mediaId: string): Promise<Access> {
  return accessOf((await request("GET", `/v1/media/${mediaId}/gate`)) as GateDocument);
}

/** Opens a medium to everybody, or to its owner alone, unless who may play it is not what was `shown`: then it stays, and that is answered. */
export async function publish(mediaId: string, shown: Access | null, isPublic: boolean): Promise<Access> {
  const path = `/v1/media/${mediaId}/gate`;
  const { document, tag } = await versionOf(path);
  const found = accessOf(document as GateDocument);
  if (found !== shown) return found;
  const unchanged = { "if-match": tag };
  const answer = isPublic
    ? await request("PUT", path, { kind: "public" }, unchanged)
    : await request("DELETE", path, undefined, unchanged);
  return accessOf(answer as GateDocument);
}

export async function remove(mediaId: string): Promise<void> {
  await request("DELETE", `/v1/media/${mediaId}`, undefined, ANY_VERSION);
}

/** An address of the medium's poster for this page alone; who shows it revokes it. */
export async function posterOf(mediaId: string): Promise<string> {
  return URL.createObjectURL(await fileAt(`/v1/media/${mediaId}/poster`));
}

/** A medium that everybody may watch, as visitors see it. */
export interface PublicMedium {
  media_id: string;
  title: string;
  duration_ms: number;
  created_at_ms: number;
  watch_url: string;
  poster_url: string | null;
}

/** What visitors may watch; null where that is not shown to them. */
export async function publicMedia(cursor: string): Promise<{ media: PublicMedium[]; next: string } | null> {
  const query = cursor ? `&cursor=${encodeURIComponent(cursor)}` : "";
  const page = (await requestOpenly("GET", `/v1/library?limit=${pageSize}${query}`)) as { items: PublicMedium[]; next_cursor: string | null } | null;
  return page && { media: page.items, next: page.next_cursor ?? "" };
}

/** A sentence about what went wrong: what the gateway says to people, and its stable code. */
export function sentence(error: unknown): string {
  if (!(error instanceof Problem)) return `The page failed: ${String(error)}`;
  const said = error.detail || error.message;
  return `${said.charAt(0).toUpperCase()}${said.slice(1)}${/[.!?]$/.test(said) ? "" : "."}${error.code ? ` (${error.code})` : ""}`;
}

/** True where the same request may be answered otherwise later. */
export function mayPass(error: unknown): boolean {
  return error instanceof Problem && (error.status === 0 || error.status === 429 || error.status >= 500);
}
