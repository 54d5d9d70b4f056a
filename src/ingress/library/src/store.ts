// The media of who is signed in, kept as they are now by one stream of events.
//
// Limits: 4 questions about single media at once; events of one medium are looked at together, after 250 ms; a pause of 1 to 15 s
// between two tries to reach a server that is away.

import { follow, Problem, type ServerEvent } from "../../watch/server.js";
import * as api from "./api.js";
import { Limiter } from "./limiter.js";

const settleMs = 250;
const pauseMsMax = 15_000;

/** Where the list stands. */
export type ListState = "loading" | "shown" | "away";

export class MediaStore {
  media: api.Medium[] = [];
  /** Those removed last that can be restored. */
  removed: api.Medium[] = [];
  /** Encoded so far, in percent, by medium. */
  readonly percent = new Map<string, number>();
  /** What to do when somebody changes who may play a medium that is shown. */
  readonly rows = new Map<string, () => void>();
  state: ListState = "loading";
  next = "";
  problem = "";
  private isReading = false;
  private readonly questions = new Limiter(4);
  private readonly settling = new Set<string>();
  private readonly stopping = new AbortController();

  constructor(
    private readonly changed: () => void,
    private readonly announce: (words: string) => void,
    /** The credential opens nothing any more. */
    private readonly refused: (problem: Problem) => void,
  ) {}

  /** Follows what happens and reads the list whenever that begins, until `stop`. */
  async run(): Promise<void> {
    const { signal } = this.stopping;
    while (!signal.aborted) {
      try {
        await follow("", (event) => this.see(event), signal, (isOpen) => this.opened(isOpen));
      } catch (error) {
        if (signal.aborted || this.isFinal(error)) return;
        this.away(api.sentence(error));
        await pause(pauseMsMax);
      }
    }
  }

  stop(): void {
    this.stopping.abort();
  }

  async readMore(): Promise<void> {
    try {
      const { media, next } = await api.list(this.next);
      const known = new Set(this.media.map((medium) => medium.media_id));
      this.media = [...this.media, ...media.filter((medium) => !known.has(medium.media_id))];
      this.next = next;
    } catch (error) {
      if (!this.isFinal(error)) this.announce(api.sentence(error));
    }
    this.changed();
  }

  /** Reads one medium again and shows it where it belongs. */
  async refresh(mediaId: string): Promise<void> {
    try {
      const found = await this.questions.run(() => api.read(mediaId));
      if (this.stopping.signal.aborted) return;
      if (found) this.put(found);
      else this.drop(mediaId);
    } catch (error) {
      // The next event, or the next look at the list, asks again.
      this.isFinal(error);
    }
  }

  /** Asks something about one medium when it is its turn. */
  ask<T>(question: () => Promise<T>): Promise<T> {
    return this.questions.run(question);
  }

  drop(mediaId: string): void {
    this.media = this.media.filter((medium) => medium.media_id !== mediaId);
    this.percent.delete(mediaId);
    this.changed();
  }

  /** Restores a removed medium, and shows it where it belongs. */
  async restore({ media_id, title }: api.Medium): Promise<void> {
    try {
      await api.restore(media_id);
      this.announce(`${title || "The medium"} is there again.`);
    } catch (error) {
      if (!this.isFinal(error)) this.announce(api.sentence(error));
    }
    await Promise.all([this.refresh(media_id), this.readRemoved()]);
  }

  async readRemoved(): Promise<void> {
    try {
      this.removed = await this.questions.run(() => api.listRemoved());
      this.changed();
    } catch (error) {
      this.isFinal(error);
    }
  }

  private opened(isOpen: boolean): void {
    // What changed between two streams may be in no event that this page gets.
    if (isOpen) void this.readAnew();
    else this.away("The server cannot be reached.");
  }

  /** Reads the first page as often as it takes. */
  private async readAnew(): Promise<void> {
    if (this.isReading) return;
    this.isReading = true;
    for (let pauseMs = 1_000; !this.stopping.signal.aborted; pauseMs = Math.min(pauseMs * 2, pauseMsMax)) {
      try {
        await this.readFirstPage();
        void this.readRemoved();
        break;
      } catch (error) {
        if (this.isFinal(error)) break;
        this.away(api.sentence(error));
        await pause(pauseMs);
      }
    }
    this.isReading = false;
  }

  private away(problem: string): void {
    this.state = "away";
    this.problem = problem;
    this.changed();
  }

  private async readFirstPage(): Promise<void> {
    const { media, next } = await api.list("");
    const details = new Map(this.media.map((medium) => [medium.media_id, medium.warnings]));
    this.media = media.map((medium) => ({ ...medium, warnings: details.get(medium.media_id) ?? [] }));
    this.next = next;
    this.state = "shown";
    this.changed();
  }

  private put(found: api.Medium): void {
    const before = this.media.find((medium) => medium.media_id === found.media_id);
    if (before) {
      this.media = this.media.map((medium) => (medium === before ? found : medium));
    } else {
      this.media = [found, ...this.media].sort((one, other) => other.created_at_ms - one.created_at_ms);
    }
    if (found.status !== "stored" && found.status !== "playable") this.percent.delete(found.media_id);
    if (before && before.status !== found.status) this.announceState(found);
    this.changed();
  }

  private announceState({ title, status }: api.Medium): void {
    if (status === "ready") this.announce(`${title || "The file"} is ready.`);
    if (status === "rejected" || status === "failed") this.announce(`${title || "The file"} was refused: see its entry.`);
  }

  private see({ name, data }: ServerEvent): boolean {
    // Events were missed: the list says what became of them.
    if (name === "resync") void this.opened(true);
    const event = parse(data);
    if (!event.media_id) return false;
    if (name === "job.progress" && event.kind && event.kind !== "transcode") {
      // Nothing is encoded.
    } else if (name === "job.progress") {
      this.percent.set(event.media_id, Math.floor(event.percent ?? 0));
      this.changed();
    } else if (name === "gate.changed") {
      this.rows.get(event.media_id)?.();
    } else if (name === "media.removed" || name === "media.purged") {
      this.drop(event.media_id);
      void this.readRemoved();
    } else if (name.startsWith("media.") && !this.settling.has(event.media_id)) {
      this.settling.add(event.media_id);
      setTimeout(() => {
        this.settling.delete(event.media_id);
        void this.refresh(event.media_id);
        if (name === "media.restored") void this.readRemoved();
      }, settleMs);
    }
    return false;
  }

  /** True when there is nothing to wait for: the visitor has to sign in again. */
  private isFinal(error: unknown): boolean {
    if (!(error instanceof Problem) || error.status !== 401) return false;
    if (!this.stopping.signal.aborted) {
      this.stop();
      this.refused(error);
    }
    return true;
  }
}

const pause = (milliseconds: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, milliseconds));

function parse(text: string): { media_id: string; kind?: string; percent?: number } {
  try {
    return (JSON.parse(text) as { media_id: string; kind?: string; percent?: number }) ?? { media_id: "" };
  } catch {
    return { media_id: "" };
  }
}
