// What visitors may watch without signing in, where the gateway shows that.

import { html, nothing, type TemplateResult } from "lit";
import { repeat } from "lit/directives/repeat.js";

import * as api from "./api.js";
import { PageElement } from "./element.js";
import { clock, day } from "./words.js";

/** Sends `shown` once it knows whether there is a list. */
export class PublicList extends PageElement {
  static override properties = { media: { state: true }, next: { state: true }, problem: { state: true } };
  /** Null where nothing is shown to visitors. */
  declare media: api.PublicMedium[] | null;
  declare next: string;
  declare problem: string;
  private isSaid = false;

  constructor() {
    super();
    this.media = null;
    this.next = "";
    this.problem = "";
  }

  override connectedCallback(): void {
    super.connectedCallback();
    void this.read("");
  }

  private async read(cursor: string): Promise<void> {
    this.problem = "";
    try {
      const page = await api.publicMedia(cursor);
      this.media = page && (cursor ? [...(this.media ?? []), ...page.media] : page.media);
      this.next = page?.next ?? "";
    } catch (error) {
      this.problem = api.sentence(error);
    }
    if (cursor || this.isSaid) return;
    this.isSaid = true;
    await this.updateComplete;
    this.dispatchEvent(new CustomEvent("shown", { detail: this.media !== null || this.problem !== "" }));
  }

  override render(): TemplateResult | typeof nothing {
    const { media, problem } = this;
    if (!media && !problem) return nothing;
    return html`<section aria-labelledby="public-title">
      <h1 id="public-title">Library</h1>
      ${problem
        ? html`<p class="card problem" role="alert">${problem}</p><button type="button" @click=${() => this.read(this.next)}>Try again</button>`
        : nothing}
      ${media && !media.length ? html`<p class="card empty">Nothing is public here yet.</p>` : nothing}
      ${media?.length ? html`<ul class="public" aria-label="Public media">${repeat(media, (medium) => medium.media_id, entry)}</ul>` : nothing}
      ${this.next && !problem ? html`<button id="more-public" type="button" @click=${() => this.read(this.next)}>Show more</button>` : nothing}
    </section>`;
  }
}

function entry({ media_id, title, duration_ms, created_at_ms, poster_url }: api.PublicMedium): TemplateResult {
  return html`<li><a class="card public-medium" href="watch/${media_id}" data-media-id=${media_id}>
    <span class="poster">
      ${poster_url
        ? html`<img src="v1/media/${media_id}/poster" alt="" loading="lazy">`
        : html`<svg aria-hidden="true" viewBox="0 0 24 24" width="32" height="32"><path d="M8 5v14l11-7z" /></svg>`}
      ${duration_ms ? html`<span class="duration"><span class="hidden-text">Duration </span>${clock(duration_ms)}</span>` : nothing}
    </span>
    <span class="name">${title || "Untitled"}</span>
    <span class="help">${day(created_at_ms)}</span>
  </a></li>`;
}

customElements.define("library-public", PublicList);
