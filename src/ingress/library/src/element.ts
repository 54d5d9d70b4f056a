import { LitElement } from "lit";

/** An element in the page itself, not in a shadow tree: labels, styles and focus are those of one document. */
export class PageElement extends LitElement {
  protected override createRenderRoot(): HTMLElement {
    return this;
  }
}
