// Numbers and states in words.

import type { Medium, Status } from "./api.js";

export function clock(milliseconds: number): string {
  const whole = Math.round(milliseconds / 1000);
  const two = (number: number): string => String(number).padStart(2, "0");
  const [hours, minutes, seconds] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  return hours ? `${hours}:${two(minutes)}:${two(seconds)}` : `${minutes}:${two(seconds)}`;
}

export function size(bytes: number): string {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let value = bytes;
  let unit = 0;
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return `${value >= 100 || unit === 0 ? Math.round(value) : value.toFixed(1)} ${units[unit]}`;
}

export function day(milliseconds: number): string {
  return new Date(milliseconds).toLocaleDateString(undefined, { dateStyle: "medium" });
}

export const STATES: Record<Status, string> = {
  uploading: "Being checked",
  stored: "Waiting to be encoded",
  playable: "Plays, still encoding",
  ready: "Ready",
  rejected: "Rejected",
  failed: "Failed",
};

/** What a rejected or failed medium is told: what was found, then the code. */
export function reason({ code, detail, status }: Medium): string {
  const words = detail || (code ?? "").replaceAll("_", " ") || "no reason was given";
  const what = status === "rejected" ? "The file was not taken" : "The encode failed";
  return `${what}: ${words}${code ? ` (${code})` : ""}`;
}
