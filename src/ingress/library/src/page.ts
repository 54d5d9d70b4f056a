// The library: who is signed in, their uploads and their media.

import { html, nothing, type TemplateResult } from "lit";
import { repeat } from "lit/directives/repeat.js";

import { apiKey, base, credential, Problem } from "../../watch/server.js";
import * as api from "./api.js";
import { PageElement } from "./element.js";
import "./medium-row.js";
import "./public-list.js";
import "./sign-in.js";
import { MediaStore } from "./store.js";
import "./upload-panel.js";
import { Uploads } from "./uploads.js";

type View = "starting" | "away" | "sign-in" | "library";

const pauseMs = 3_000;
/** Between two words on how far uploads are. */
const progressPauseMs = 15_000;
/** What is said aloud stands this long. */
const wordsMs = 8_000;

export class LibraryPage extends PageElement {
  static override properties = {
    view: { state: true },
    version: { state: true },
    problem: { state: true },
    words: { state: true },
    asked: { state: true },
    isPublicShown: { state: true },
  };
  declare view: View;
  declare version: number;
  declare problem: string;
  declare words: string;
  /** The medium whose deletion is to be confirmed. */
  declare asked: api.Medium | null;
  /** Visitors see a list above the form that signs in. */
  declare isPublicShown: boolean;
  private who: api.Who | null = null;
  private store: MediaStore | null = null;
  private readonly uploads = new Uploads(
    () => this.sent(),
    (task) => this.say(`${task.file.name} is uploaded.`),
  );
  private wordsTimer = 0;
  private saidAt = performance.now();

  constructor() {
    super();
    this.view = "starting";
    this.version = 0;
    this.problem = "";
    this.words = "";
    this.asked = null;
    this.isPublicShown = false;
  }

  override connectedCallback(): void {
    super.connectedCallback();
    addEventListener("hashchange", () => void this.start());
    addEventListener("beforeunload", (event) => {
      if (this.uploads.tasks.some((task) => task.state === "sending")) event.preventDefault();
    });
    void this.start();
  }

  /** Opens the link of the address, if there is one, and finds out who is signed in. */
  private async start(): Promise<void> {
    const code = takeCode();
    try {
      if (code) await api.openLink(code);
    } catch (error) {
      // Who is signed in already needs no link.
      if (!credential()) return this.askSignIn(api.sentence(error));
    }
    await this.enter();
  }

  private async enter(): Promise<void> {
    if (!credential()) return this.askSignIn("");
    for (;;) {
      try {
        this.who = await api.me();
        break;
      } catch (error) {
        if (!api.mayPass(error)) {
          if (error instanceof Problem && error.status === 401) apiKey.clear(true);
          return this.askSignIn(api.sentence(error));
        }
        this.view = "away";
        this.problem = api.sentence(error);
        await new Promise((resolve) => setTimeout(resolve, pauseMs));
      }
    }
    this.uploads.enter(this.who.owner);
    this.store?.stop();
    this.store = new MediaStore(
      () => this.listed(),
      (words) => this.say(words),
      (problem) => this.refused(problem),
    );
    this.problem = "";
    this.view = "library";
    void this.store.run();
    void this.uploads.readUnfinished();
  }

  private refused(problem: Problem): void {
    apiKey.clear(true);
    // They go on once the same person has signed in again.
    for (const task of this.uploads.tasks) if (task.state !== "done") this.uploads.pause(task);
    this.askSignIn(api.sentence(problem));
  }

  private askSignIn(problem: string): void {
    this.store?.stop();
    this.store = null;
    this.who = null;
    this.problem = problem;
    this.view = "sign-in";
  }

  /** Who has nothing else to do here is where the key goes. */
  private visited(isPublicShown: boolean): void {
    this.isPublicShown = isPublicShown;
    if (!isPublicShown || this.problem) this.querySelector<HTMLElement>("#key")?.focus();
  }

  private async signOut(): Promise<void> {
    for (const task of this.uploads.tasks) this.uploads.pause(task);
    this.uploads.tasks = [];
    await api.signOut();
    this.askSignIn("");
  }

  private changed(): void {
    this.version += 1;
  }

  private say(words: string): void {
    this.words = words;
    clearTimeout(this.wordsTimer);
    this.wordsTimer = setTimeout(() => (this.words = ""), wordsMs);
  }

  /** Says how far uploads are, once in a while. */
  private sent(): void {
    const now = performance.now();
    for (const task of this.uploads.tasks) {
      const quarter = Math.floor(task.percent / 25);
      const isNews = task.state === "sending" && quarter > task.saidQuarter && quarter < 4;
      if (!isNews || now - this.saidAt < progressPauseMs) continue;
      task.saidQuarter = quarter;
      this.saidAt = now;
      this.say(`${quarter * 25} % of ${task.file.name} is uploaded.`);
    }
    this.changed();
  }

  /** From when a medium has an entry, that says how it goes on, and its upload is not shown any more. */
  private listed(): void {
    const media = new Set(this.store?.media.map((medium) => medium.media_id));
    this.uploads.dismissDone((task) => media.has(task.mediaId));
    this.changed();
  }

  override render(): TemplateResult {
    return html`
      <header>
        <a class="brand" href="./"><img src="library/assets/icon.svg" alt="" width="24" height="24"> StreamGate</a>
        ${this.view === "library"
          ? html`<span class="who help" title=${this.who?.owner ?? ""}>${this.who?.owner}</span><button id="sign-out" type="button" @click=${this.signOut}>Sign out</button>`
          : nothing}
        ${this.view === "sign-in" && this.isPublicShown
          ? html`<button id="to-sign-in" type="button" @click=${() => this.querySelector<HTMLElement>("#key")?.focus()}>Sign in</button>`
          : nothing}
      </header>
      <main id="page" data-view=${this.view} data-list=${this.store?.state ?? ""} @announce=${(event: CustomEvent<string>) => this.say(event.detail)}
        @remove-asked=${this.askRemoval}>${this.content()}</main>
      <p id="status" role="status" class=${this.words ? "toast" : ""}>${this.words}</p>
      ${this.confirmation()}`;
  }

  private content(): TemplateResult {
    if (this.view === "sign-in") {
      return html`<library-public @shown=${(event: CustomEvent<boolean>) => this.visited(event.detail)}></library-public>
        <library-sign-in .problem=${this.problem} .isBelow=${this.isPublicShown} @signed-in=${this.enter}></library-sign-in>`;
    }
    if (this.view === "away") return html`<h1>Your library</h1><p class="card" role="status">${this.problem} The page tries again by itself.</p>`;
    if (this.view === "starting" || !this.store) return html`<h1>Your library</h1><p role="status">Loading</p>`;
    return html`
      <h1>Your library</h1>
      ${this.who?.role === "operator" ? nothing : html`<library-uploads .uploads=${this.uploads} .version=${this.version}></library-uploads>`}
      ${this.media(this.store)}`;
  }

  private media(store: MediaStore): TemplateResult {
    const { media, next, percent, problem, state } = store;
    return html`<section aria-labelledby="media-title">
      <h2 id="media-title" tabindex="-1">Media</h2>
      ${state === "away" ? html`<p class="card problem" role="status">${problem} The page tries again by itself.</p>` : nothing}
      ${state === "loading" ? html`<p role="status">Loading your media</p>` : nothing}
      ${state === "shown" && !media.length ? html`<p class="card empty">Nothing here yet. Choose a file above, and it will play in a browser soon after.</p>` : nothing}
      ${media.length
        ? html`<ul class="media" aria-label="Media">${repeat(
            media,
            (medium) => medium.media_id,
            (medium) => html`<li><library-medium .medium=${medium} .percent=${percent.get(medium.media_id)} .store=${store}
              .isOwn=${medium.owner === this.who?.owner}></library-medium></li>`,
          )}</ul>`
        : nothing}
      ${next ? html`<button id="more" type="button" @click=${() => store.readMore()}>Show more</button>` : nothing}
      ${this.removed(store)}
    </section>`;
  }

  /** What can be restored, those deleted last first. */
  private removed(store: MediaStore): TemplateResult | typeof nothing {
    if (!store.removed.length) return nothing;
    return html`<details id="removed">
      <summary>Recently deleted (${store.removed.length})</summary>
      <ul aria-label="Recently deleted">${store.removed.map((medium) => {
        const name = medium.title || "Untitled";
        return html`<li class="row"><span class="name grow">${name}</span>
          <button type="button" aria-label="Restore ${name}" @click=${() => this.restore(store, medium)}>Restore</button></li>`;
      })}</ul>
    </details>`;
  }

  private async restore(store: MediaStore, medium: api.Medium): Promise<void> {
    await store.restore(medium);
    await this.updateComplete;
    // The button is gone, and the focus with it.
    if (document.activeElement === document.body) this.querySelector<HTMLElement>("#media-title")?.focus();
  }

  private confirmation(): TemplateResult {
    const name = this.asked?.title || "this medium";
    return html`<dialog id="confirm" aria-labelledby="confirm-title" @close=${this.answered}>
      <form method="dialog">
        <h2 id="confirm-title">Delete ${name}?</h2>
        <p>Its link plays nothing any more. Under “Recently deleted” it can be restored for a time; then its file and all that was made
          of it go for good.</p>
        <div class="actions">
          <button value="keep" autofocus>Keep it</button>
          <button value="delete" class="danger">Delete</button>
        </div>
      </form>
    </dialog>`;
  }

  private async askRemoval(event: CustomEvent<api.Medium>): Promise<void> {
    this.asked = event.detail;
    await this.updateComplete;
    const dialog = this.querySelector<HTMLDialogElement>("#confirm");
    if (dialog) dialog.returnValue = "";
    dialog?.showModal();
  }

  private async answered(event: Event): Promise<void> {
    const { asked, store } = this;
    this.asked = null;
    // The browser itself gives the focus back to the button that asked.
    if (!asked || !store || (event.target as HTMLDialogElement).returnValue !== "delete") return;
    const place = store.media.findIndex((medium) => medium.media_id === asked.media_id);
    try {
      await api.remove(asked.media_id);
    } catch (error) {
      this.say(api.sentence(error));
      return;
    }
    store.drop(asked.media_id);
    void store.readRemoved();
    this.say(`${asked.title || "The medium"} is deleted.`);
    await this.updateComplete;
    const rows = this.querySelectorAll<HTMLElement>("library-medium");
    const next = rows[Math.min(place, rows.length - 1)]?.querySelector<HTMLElement>("h3 > *");
    (next ?? this.querySelector<HTMLElement>("#media-title"))?.focus();
  }
}

/** The code of a sign-in link, which is out of the address bar and the history at once. */
function takeCode(): string {
  const code = new URLSearchParams(location.hash.slice(1)).get("sign-in") ?? "";
  if (location.hash) history.replaceState(null, "", `${base}/${location.search}`);
  return code;
}

customElements.define("library-page", LibraryPage);
