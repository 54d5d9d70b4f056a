// Choosing files, and what becomes of each.

import { html, nothing, type TemplateResult } from "lit";
import { repeat } from "lit/directives/repeat.js";

import { PageElement } from "./element.js";
import type { Unfinished, Uploads, UploadTask } from "./uploads.js";
import { size } from "./words.js";

export class UploadPanel extends PageElement {
  static override properties = { uploads: { attribute: false }, version: {}, isOver: { state: true } };
  declare uploads: Uploads;
  /** Grows with each change of the uploads. */
  declare version: number;
  declare isOver: boolean;

  constructor() {
    super();
    this.isOver = false;
  }

  override connectedCallback(): void {
    super.connectedCallback();
    for (const kind of ["dragover", "dragleave", "drop"]) addEventListener(kind, this.dragged);
  }

  override disconnectedCallback(): void {
    for (const kind of ["dragover", "dragleave", "drop"]) removeEventListener(kind, this.dragged);
    super.disconnectedCallback();
  }

  override render(): TemplateResult {
    const { tasks, unfinished } = this.uploads;
    return html`
      <section aria-labelledby="upload-title">
        <h2 id="upload-title" class="hidden-text">Upload</h2>
        <div class="drop ${this.isOver ? "over" : ""}">
          <svg aria-hidden="true" viewBox="0 0 24 24" width="28" height="28"><path d="M12 16V5m0 0L7 10m5-5 5 5M4 19h16" /></svg>
          <input id="files" type="file" multiple accept="video/*,audio/*,image/*,.mkv" @change=${this.chosen}>
          <label for="files"><span class="button primary">Choose files</span> <span class="drag">or drop them anywhere here</span></label>
        </div>
        ${unfinished.length
          ? html`<div class="card unfinished">
              <h3>Unfinished</h3>
              <p>Choose the same file again, and its upload goes on where it stopped.</p>
              <ul>${repeat(unfinished, (one) => one.urlStorageKey, (one) => this.left(one))}</ul>
            </div>`
          : nothing}
        ${tasks.length ? html`<ul class="uploads" aria-label="Uploads">${repeat(tasks, (one) => one.id, (one) => this.task(one))}</ul>` : nothing}
      </section>`;
  }

  private left(one: Unfinished): TemplateResult {
    return html`<li>
      <span class="grow name">${one.name}${one.size === null ? "" : `, ${size(one.size)}`}</span>
      <button type="button" aria-label="Forget ${one.name}" @click=${() => this.uploads.forget(one)}>Forget</button>
    </li>`;
  }

  private task(task: UploadTask): TemplateResult {
    const { file, percent, state } = task;
    const id = `upload-${task.id}`;
    return html`<li class="card upload" data-state=${state} data-held=${task.heldBytes}>
      <div class="line">
        <label class="grow name" for=${id}>${file.name}</label>
        <div class="actions">${this.buttons(task)}</div>
      </div>
      <progress id=${id} max="100" value=${percent}></progress>
      <p class="help">${this.progress(task)}</p>
      ${task.problem ? html`<p class="problem">${task.problem}</p>` : nothing}
    </li>`;
  }

  private progress({ file, percent, sentBytes, state }: UploadTask): string {
    if (state === "done") return `Uploaded, and being checked: ${size(file.size)}`;
    const words = { waiting: "Waiting", sending: "Uploading", paused: "Paused", failed: "Stopped" }[state];
    return `${words}: ${size(sentBytes)} of ${size(file.size)}, ${percent} %`;
  }

  private buttons(task: UploadTask): TemplateResult {
    const { name } = task.file;
    const button = (word: string, act: () => unknown): TemplateResult =>
      html`<button type="button" aria-label="${word} ${name}" data-act=${word.toLowerCase()} @click=${act}>${word}</button>`;
    const isDone = task.state === "done";
    const isMoving = task.state === "sending" || task.state === "waiting";
    const word = isMoving ? "Pause" : task.state === "paused" ? "Resume" : "Retry";
    const turn = (): void => (isMoving ? this.uploads.pause(task) : this.uploads.resume(task));
    // One template for every state: the button that has the focus stays the same one.
    return html`${isDone ? nothing : button(word, turn)}${button(isDone ? "Dismiss" : "Cancel", () => this.cancel(task))}`;
  }

  private async cancel(task: UploadTask): Promise<void> {
    await this.uploads.cancel(task);
    // Its buttons are gone, and the focus must not be lost with them.
    this.querySelector<HTMLInputElement>("#files")?.focus();
  }

  private chosen(event: Event): void {
    const field = event.target as HTMLInputElement;
    this.uploads.add(field.files ?? []);
    // The same file can be chosen again.
    field.value = "";
  }

  private readonly dragged = (event: Event): void => {
    const { dataTransfer } = event as DragEvent;
    if (!dataTransfer?.types.includes("Files")) return;
    event.preventDefault();
    this.isOver = event.type === "dragover";
    if (event.type === "drop") this.uploads.add(dataTransfer.files);
  };
}

customElements.define("library-uploads", UploadPanel);
