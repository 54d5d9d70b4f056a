// The form that a visitor signs in with: a wallet, or a key.

import { html, nothing, type TemplateResult } from "lit";

import { apiKey, session } from "../../watch/server.js";
import * as wallet from "../../watch/wallet.js";
import { sentence } from "./api.js";
import { PageElement } from "./element.js";

/** Sends `signed-in` once there is a credential to try. */
export class SignIn extends PageElement {
  static override properties = { problem: {}, isBelow: { attribute: false }, isWaiting: { state: true } };
  declare problem: string;
  /** Something stands above it that the page is named by. */
  declare isBelow: boolean;
  declare isWaiting: boolean;

  constructor() {
    super();
    this.problem = "";
    this.isBelow = false;
    this.isWaiting = false;
  }

  override render(): TemplateResult {
    const title = "Sign in to your library";
    return html`
      <section class="card sign-in" aria-labelledby="sign-in-title">
        ${this.isBelow ? html`<h2 id="sign-in-title">${title}</h2>` : html`<h1 id="sign-in-title">${title}</h1>`}
        <p>Upload video, sound and pictures, and choose who plays them.</p>
        ${this.problem ? html`<p class="problem" role="alert">${this.problem}</p>` : nothing}
        ${wallet.isThere()
          ? html`<button id="wallet" class="primary wide" type="button" ?disabled=${this.isWaiting} @click=${this.askWallet}>
                ${this.isWaiting ? "Waiting for your wallet" : "Sign in with a wallet"}
              </button>
              <p class="or">or with a key</p>`
          : nothing}
        <form id="key-form" @submit=${this.takeKey}>
          <label for="key">API key</label>
          <div class="row">
            <input id="key" type="password" autocomplete="off" autocapitalize="off" spellcheck="false" maxlength="200" required
              aria-describedby="key-help">
            <button class="primary" type="submit">Sign in</button>
          </div>
          <label class="check"><input id="stay" type="checkbox"> Stay signed in on this device</label>
          <p id="key-help" class="help">
            <code>streamgate up</code> prints a link that signs you in, each time it starts, and at the first start a key. Unless you
            stay signed in, the key is kept until this tab is closed.
          </p>
        </form>
      </section>`;
  }

  private takeKey(event: SubmitEvent): void {
    event.preventDefault();
    const field = this.querySelector<HTMLInputElement>("#key");
    const stay = this.querySelector<HTMLInputElement>("#stay");
    if (!field?.value.trim()) return;
    apiKey.set(field.value.trim(), stay?.checked);
    field.value = "";
    this.dispatchEvent(new Event("signed-in"));
  }

  private async askWallet(): Promise<void> {
    this.isWaiting = true;
    this.problem = "";
    try {
      session.set(await wallet.signIn());
      apiKey.clear();
      this.dispatchEvent(new Event("signed-in"));
    } catch (error) {
      this.problem = sentence(error);
    } finally {
      this.isWaiting = false;
    }
  }
}

customElements.define("library-sign-in", SignIn);
