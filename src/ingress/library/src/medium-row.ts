// One medium of the list. What is not in lists is asked for once the row is seen.

import { html, nothing, type TemplateResult } from "lit";

import { base } from "../../watch/server.js";
import * as api from "./api.js";
import { PageElement } from "./element.js";
import { Limiter } from "./limiter.js";
import type { MediaStore } from "./store.js";
import { clock, day, reason, STATES } from "./words.js";

const posters = new Limiter(2);

/** Tells rows that they are about to be seen. */
const seeing = new IntersectionObserver(
  (entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      seeing.unobserve(target);
      (target as MediumRow).seen();
    }
  },
  { rootMargin: "200px" },
);

/** Sends `remove-asked` and `announce`. */
export class MediumRow extends PageElement {
  static override properties = {
    medium: { attribute: false },
    percent: {},
    store: { attribute: false },
    isOwn: { attribute: false },
    access: { state: true },
    poster: { state: true },
    problem: { state: true },
    isBusy: { state: true },
    shownText: { state: true },
  };
  declare medium: api.Medium;
  declare percent: number | undefined;
  declare store: MediaStore;
  declare isOwn: boolean;
  declare access: api.Access | null;
  declare poster: string | null;
  declare problem: string;
  declare isBusy: boolean;
  /** What is to be copied by hand, where the browser lets no page do so. */
  declare shownText: string;
  private isSeen = false;
  private isPosterAsked = false;

  constructor() {
    super();
    this.access = null;
    this.poster = null;
    this.problem = "";
    this.isBusy = false;
    this.shownText = "";
  }

  override connectedCallback(): void {
    super.connectedCallback();
    seeing.observe(this);
    this.store.rows.set(this.medium.media_id, () => this.readAccess());
  }

  override disconnectedCallback(): void {
    seeing.unobserve(this);
    this.store.rows.delete(this.medium.media_id);
    if (this.poster) URL.revokeObjectURL(this.poster);
    this.poster = null;
    this.isPosterAsked = false;
    super.disconnectedCallback();
  }

  seen(): void {
    this.isSeen = true;
    const { media_id } = this.medium;
    void this.store.refresh(media_id);
    this.readAccess();
    this.askPoster();
  }

  private readAccess(): void {
    const { media_id } = this.medium;
    if (this.isSeen) this.store.ask(() => api.accessTo(media_id)).then((access) => (this.access = access), () => null);
  }

  override updated(): void {
    this.askPoster();
  }

  private askPoster(): void {
    const { media_id, status, has_poster } = this.medium;
    if (!this.isConnected || !this.isSeen || this.isPosterAsked || status !== "ready" || !has_poster) return;
    this.isPosterAsked = true;
    posters.run(() => api.posterOf(media_id)).then((url) => this.showPoster(url), () => null);
  }

  private showPoster(url: string): void {
    if (this.isConnected) this.poster = url;
    else URL.revokeObjectURL(url);
  }

  private get name(): string {
    return this.medium.title || "Untitled";
  }

  private get link(): string {
    return `${location.origin}${base}/watch/${this.medium.media_id}`;
  }

  /** What another site puts into a page of its own. */
  private get embedCode(): string {
    const name = this.name.replaceAll("&", "&amp;").replaceAll('"', "&quot;").replaceAll("<", "&lt;");
    return `<iframe src="${location.origin}${base}/embed/${this.medium.media_id}" width="640" height="360" title="${name}" style="border:0" allow="autoplay; fullscreen; picture-in-picture" allowfullscreen></iframe>`;
  }

  private get plays(): boolean {
    return this.medium.status === "ready" || this.medium.status === "playable";
  }

  override render(): TemplateResult {
    const { medium, name } = this;
    return html`
      <article class="card medium" data-status=${medium.status} data-media-id=${medium.media_id} data-access=${this.access ?? ""} aria-label=${name}>
        <div class="poster">
          ${this.poster ? html`<img src=${this.poster} alt="" loading="lazy">` : html`<svg aria-hidden="true" viewBox="0 0 24 24" width="32" height="32"><path d="M8 5v14l11-7z" /></svg>`}
          ${medium.duration_ms ? html`<span class="duration"><span class="hidden-text">Duration </span>${clock(medium.duration_ms)}</span>` : nothing}
        </div>
        <div class="words">
          <h3>${this.plays ? html`<a href="watch/${medium.media_id}">${name}</a>` : html`<span tabindex="-1">${name}</span>`}</h3>
          <p class="help"><span class="state" data-status=${medium.status}>${STATES[medium.status]}</span> · ${day(medium.created_at_ms)}${this.isOwn ? "" : ` · ${medium.owner}`}</p>
          ${this.encoding()} ${this.details()}
        </div>
        <div class="actions">${this.actions()}</div>
        ${this.problem ? html`<p class="problem" role="alert">${this.problem}</p>` : nothing}
        ${this.shownText ? html`<label class="link">To copy<input readonly .value=${this.shownText} @focus=${selectAll}></label>` : nothing}
      </article>`;
  }

  private encoding(): TemplateResult | typeof nothing {
    const { percent, medium } = this;
    if (percent === undefined || (medium.status !== "stored" && medium.status !== "playable")) return nothing;
    return html`<p class="encoding"><progress max="100" value=${percent} aria-label="Encoding of ${this.name}"></progress> ${percent} % encoded</p>`;
  }

  private details(): TemplateResult | typeof nothing {
    const { medium } = this;
    if (medium.status === "rejected" || medium.status === "failed") return html`<p class="problem">${reason(medium)}</p>`;
    if (!medium.warnings.length) return nothing;
    const count = medium.warnings.length;
    return html`<details>
      <summary>${count === 1 ? "1 warning" : `${count} warnings`}</summary>
      <ul>${medium.warnings.map(({ code, detail }) => html`<li>${detail} (${code})</li>`)}</ul>
    </details>`;
  }

  private actions(): TemplateResult {
    const { status } = this.medium;
    const neverPlays = status === "rejected" || status === "failed";
    return html`
      ${neverPlays ? nothing : this.switch()}
      ${this.plays ? html`<button type="button" data-act="copy" aria-label="Copy link to ${this.name}" @click=${this.copyLink}>Copy link</button>` : nothing}
      ${this.plays && this.access === "everybody" ? html`<button type="button" data-act="embed" aria-label="Copy code to embed ${this.name}" @click=${this.copyEmbedCode}>Embed</button>` : nothing}
      <button type="button" class="danger" data-act="delete" aria-label="Delete ${this.name}" @click=${this.askRemoval}>Delete</button>`;
  }

  private switch(): TemplateResult {
    if (this.access === "rule") return html`<span class="help">Opened by a rule</span>`;
    return html`<button type="button" role="switch" class="switch" data-act="publish" aria-checked=${this.access === "everybody"}
      aria-label="Public: ${this.name}" ?disabled=${this.access === null || this.isBusy} @click=${this.publish}>
      <span aria-hidden="true" class="track"></span>Public
    </button>`;
  }

  private async publish(): Promise<void> {
    const isPublic = this.access !== "everybody";
    this.isBusy = true;
    this.problem = "";
    try {
      this.access = await api.publish(this.medium.media_id, this.access, isPublic);
      const isDone = this.access === (isPublic ? "everybody" : "owner");
      if (!isDone) this.problem = "Who may play it was changed elsewhere, and stays as it is.";
      else this.announce(isPublic ? `Everybody who has its link can play ${this.name}.` : `Only you can play ${this.name}.`);
    } catch (error) {
      this.problem = api.sentence(error);
    }
    this.isBusy = false;
    await this.updateComplete;
    // A disabled button loses the focus; who has gone on keeps it.
    if (document.activeElement === document.body) this.querySelector<HTMLElement>('[data-act="publish"]')?.focus();
  }

  private copyLink(): Promise<void> {
    return this.copy(this.link, this.access === "everybody" ? "Link copied." : "Link copied. Only you can play it until it is public.");
  }

  private copyEmbedCode(): Promise<void> {
    return this.copy(this.embedCode, "Code to embed it copied: put it into a page of your site.");
  }

  private async copy(text: string, words: string): Promise<void> {
    try {
      await navigator.clipboard.writeText(text);
      this.announce(words);
    } catch {
      // Browsers let pages write there over TLS and on this machine only.
      this.shownText = text;
      await this.updateComplete;
      this.querySelector<HTMLInputElement>(".link input")?.focus();
    }
  }

  private askRemoval(): void {
    this.dispatchEvent(new CustomEvent("remove-asked", { detail: this.medium, bubbles: true }));
  }

  private announce(words: string): void {
    this.dispatchEvent(new CustomEvent("announce", { detail: words, bubbles: true }));
  }
}

function selectAll(event: Event): void {
  (event.target as HTMLInputElement).select();
}

customElements.define("library-medium", MediumRow);
