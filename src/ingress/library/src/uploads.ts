// Uploads over tus: a few at once, paused and resumed, gone on with after a reload once the same file is chosen again.
//
// Limits: 2 uploads at once, retries after 1 to 30 s. What is unfinished is remembered in this browser by tus-js-client.

import { defaultOptions, DetailedError, Upload, type PreviousUpload } from "tus-js-client";

import { base, credential, Problem, request, session } from "../../watch/server.js";
import { sentence } from "./api.js";

const atOnceMax = 2;
const retryDelaysMs = [0, 1_000, 3_000, 5_000, 10_000, 30_000];
const endpoint = `${location.origin}${base}/v1/uploads`;

export type UploadState = "waiting" | "sending" | "paused" | "failed" | "done";

/** One file on its way. */
export class UploadTask {
  state: UploadState = "waiting";
  sentBytes = 0;
  /** Bytes that the gateway had when this page began to send. */
  heldBytes = 0;
  problem = "";
  mediaId = "";
  upload: Upload | null = null;
  /** The last quarter that was announced. */
  saidQuarter = 0;

  constructor(
    readonly id: number,
    readonly file: File,
  ) {}

  get percent(): number {
    return this.file.size ? Math.floor((this.sentBytes / this.file.size) * 100) : 100;
  }
}

/** What the gateway says to the question how far an upload is, when it is no offset: tus-js-client would begin anew after any of these, and forget the upload. */
class QuestionRefused extends Error {
  constructor(
    readonly status: number,
    readonly body: string,
  ) {
    super(`The server answered ${status}`);
  }
}

/** An upload of an earlier visit that has bytes left. */
export type Unfinished = PreviousUpload & { name: string };

/** All uploads of the page. `changed` is called after each change, `finished` once the gateway has all bytes of a file. */
export class Uploads {
  tasks: UploadTask[] = [];
  unfinished: Unfinished[] = [];
  private nextId = 1;
  /** Whose uploads these are: those of others are neither shown nor gone on with. */
  private owner = "";
  private isTokenOver = false;

  constructor(
    private readonly changed: () => void,
    private readonly finished: (task: UploadTask) => void,
  ) {}

  /** Somebody has signed in: what another person began here is let go of, and stays with the gateway. */
  enter(owner: string): void {
    if (this.owner !== owner) {
      for (const task of this.tasks) void task.upload?.abort();
      this.tasks = [];
    }
    this.owner = owner;
  }

  add(files: Iterable<File>): void {
    for (const file of files) this.tasks.push(new UploadTask(this.nextId++, file));
    this.startWaiting();
  }

  pause(task: UploadTask): void {
    const { upload } = task;
    task.state = "paused";
    void upload?.abort();
    this.startWaiting();
  }

  /** Goes on where it was paused, or tries again. */
  resume(task: UploadTask): void {
    task.state = "waiting";
    task.problem = "";
    this.startWaiting();
  }

  /** Stops it and has the gateway drop its bytes. */
  async cancel(task: UploadTask): Promise<void> {
    this.tasks = this.tasks.filter((other) => other !== task);
    if (task.state !== "done") await task.upload?.abort(task.upload.url !== null).catch(() => null);
    this.startWaiting();
    await this.readUnfinished();
  }

  /** Shows those that are done no more, where `is` says so. */
  dismissDone(is: (task: UploadTask) => boolean): void {
    this.tasks = this.tasks.filter((task) => task.state !== "done" || !is(task));
  }

  /** Drops what an earlier visit left. */
  async forget(upload: Unfinished): Promise<void> {
    if (upload.uploadUrl) {
      await Upload.terminate(upload.uploadUrl, { onBeforeRequest: (sent) => this.sign(sent) }).catch(() => null);
    }
    await defaultOptions.urlStorage.removeUpload(upload.urlStorageKey);
    await this.readUnfinished();
  }

  async readUnfinished(): Promise<void> {
    const all = await defaultOptions.urlStorage.findAllUploads();
    const running = this.runningUrls();
    this.unfinished = all
      .filter((upload) => upload.urlStorageKey.includes(`::${this.mark}`))
      .filter((upload) => upload.uploadUrl?.startsWith(endpoint) && !running.has(upload.uploadUrl))
      .map((upload) => ({ ...upload, name: upload.metadata["filename"] ?? "A file" }));
    this.changed();
  }

  /** What the names of this person's uploads begin with in the browser's memory. */
  private get mark(): string {
    return `streamgate ${this.owner} `;
  }

  private runningUrls(): Set<string | null | undefined> {
    return new Set(this.tasks.map((task) => task.upload?.url).filter(Boolean));
  }

  private startWaiting(): void {
    let free = atOnceMax - this.tasks.filter((task) => task.state === "sending").length;
    for (const task of this.tasks) {
      if (free <= 0) break;
      if (task.state !== "waiting") continue;
      free -= 1;
      void this.send(task);
    }
    this.changed();
  }

  private async send(task: UploadTask): Promise<void> {
    task.state = "sending";
    if (!task.upload) {
      const upload = this.uploadOf(task);
      task.upload = upload;
      const running = this.runningUrls();
      const previous = (await upload.findPreviousUploads()).find((known) => !running.has(known.uploadUrl));
      if (previous) upload.resumeFromPreviousUpload(previous);
    }
    // It may have been paused or cancelled meanwhile.
    if (task.state === "sending" && this.tasks.includes(task)) task.upload.start();
  }

  private uploadOf(task: UploadTask): Upload {
    const { file } = task;
    const upload: Upload = new Upload(file, {
      endpoint,
      fingerprint: () => Promise.resolve(`${this.mark}${file.name} ${file.type} ${file.size} ${file.lastModified} ${endpoint}`),
      metadata: { filename: file.name, filetype: file.type },
      retryDelays: retryDelaysMs,
      removeFingerprintOnSuccess: true,
      onBeforeRequest: (sent) => this.sign(sent),
      onAfterResponse: (sent, response) => {
        task.mediaId = response.getHeader("streamgate-media-id") ?? task.mediaId;
        if (sent.getMethod() !== "HEAD") return;
        task.heldBytes = Number(response.getHeader("upload-offset") ?? 0);
        const status = response.getStatus();
        const isAnswer = (status >= 200 && status < 300) || status === 404 || status === 410 || status === 423;
        if (!isAnswer) throw new QuestionRefused(status, response.getBody());
      },
      onShouldRetry: (error) => this.mayPass(error),
      onUploadUrlAvailable: () => {
        // The gateway names the address that it is known by, which a page of another name for it may not ask.
        const id = upload.url?.split("/").pop();
        if (id) upload.url = `${endpoint}/${id}`;
        void this.readUnfinished();
      },
      onProgress: (sent) => {
        task.sentBytes = sent;
        this.changed();
      },
      onSuccess: () => {
        task.state = "done";
        task.sentBytes = file.size;
        this.finished(task);
        this.startWaiting();
        void this.readUnfinished();
      },
      onError: (error) => {
        task.state = "failed";
        task.problem = describe(error);
        this.startWaiting();
      },
    });
    return upload;
  }

  /** Shows the credential of this moment: an upload may last longer than an access token. */
  private async sign(sent: { setHeader(name: string, value: string): void }): Promise<void> {
    if (this.isTokenOver) {
      this.isTokenOver = false;
      // Has the session of the wallet renewed.
      await request("GET", "/v1/auth/me");
    }
    sent.setHeader("authorization", `Bearer ${credential()}`);
  }

  private mayPass(error: DetailedError): boolean {
    const { status } = answerIn(error);
    this.isTokenOver = status === 401 && session.get() !== null;
    return this.isTokenOver || status === 0 || status === 409 || status === 423 || status === 429 || (status >= 500 && status !== 507);
  }
}

/** What the gateway answered; the status is 0 where it could not be reached. */
function answerIn(error: DetailedError): { status: number; body: string } {
  if (error.causingError instanceof QuestionRefused) return error.causingError;
  return { status: error.originalResponse?.getStatus() ?? 0, body: error.originalResponse?.getBody() ?? "" };
}

/** What the gateway says, in a sentence. */
function describe(error: Error): string {
  if (!(error instanceof DetailedError)) return sentence(error);
  const { status, body } = answerIn(error);
  if (status === 0) return "The server cannot be reached.";
  try {
    const said = JSON.parse(body) as { title?: string; detail?: string; code?: string };
    return sentence(new Problem(status, said.title ?? "", said.code ?? "", said.detail));
  } catch {
    return `The server answered ${status}.`;
  }
}
