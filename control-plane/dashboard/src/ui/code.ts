// The YAML editor. In a shadow root, where its styles are adopted sheets: the page's policy admits no inline ones.
import { defaultKeymap, history, historyKeymap } from "@codemirror/commands";
import { yaml } from "@codemirror/lang-yaml";
import { bracketMatching, HighlightStyle, indentOnInput, syntaxHighlighting } from "@codemirror/language";
import { setDiagnostics } from "@codemirror/lint";
import { Compartment, EditorState } from "@codemirror/state";
import { drawSelection, EditorView, highlightActiveLine, keymap, lineNumbers } from "@codemirror/view";
import { tags } from "@lezer/highlight";
import type { Mark } from "../objects/documents";

const theme = EditorView.theme({
  "&": { color: "var(--ink)", backgroundColor: "var(--panel)", fontSize: "13px", height: "100%" },
  "&.cm-focused": { outline: "2px solid var(--accent)", outlineOffset: "-2px" },
  ".cm-scroller": { fontFamily: "var(--mono)", lineHeight: "20px", overflow: "auto" },
  ".cm-content": { caretColor: "var(--ink)", padding: "10px 0" },
  ".cm-cursor": { borderLeftColor: "var(--ink)" },
  ".cm-gutters": { color: "var(--ink-3)", backgroundColor: "var(--panel)", borderRight: "1px solid var(--line)" },
  ".cm-activeLine": { backgroundColor: "color-mix(in srgb, var(--sunk) 60%, transparent)" },
  "&.cm-focused > .cm-scroller > .cm-selectionLayer .cm-selectionBackground, .cm-selectionBackground": { background: "color-mix(in srgb, var(--accent) 26%, transparent)" },
  ".cm-tooltip": { color: "var(--ink)", backgroundColor: "var(--panel)", border: "1px solid var(--line-strong)", borderRadius: "6px" },
  // The library's own mark is an image in the style, which the page's policy does not admit.
  ".cm-lintRange-error": { backgroundImage: "none", textDecoration: "underline wavy var(--bad)", textUnderlineOffset: "3px" },
  ".cm-diagnostic": { padding: "6px 10px", fontFamily: "var(--sans)" },
  ".cm-diagnostic-error": { borderLeft: "4px solid var(--bad)" },
});

const colours = HighlightStyle.define([
  { tag: [tags.propertyName, tags.definition(tags.propertyName)], color: "var(--accent)" },
  { tag: [tags.string, tags.content], color: "var(--ink)" },
  { tag: [tags.number, tags.bool, tags.null, tags.atom, tags.keyword], color: "var(--series-3)" },
  { tag: [tags.comment, tags.lineComment], color: "var(--ink-3)", fontStyle: "italic" },
  { tag: [tags.punctuation, tags.separator, tags.meta], color: "var(--ink-3)" },
]);

export interface Editor {
  /** Replaces the text. */
  set: (text: string) => void;
  /** Shows what is wrong, and where. */
  mark: (marks: Mark[]) => void;
  fix: (readOnly: boolean) => void;
  end: () => void;
}

export function mount(place: HTMLElement, { text, label, readOnly, onChange }: { text: string; label: string; readOnly: boolean; onChange: (text: string) => void }): Editor {
  const root = place.shadowRoot ?? place.attachShadow({ mode: "open", delegatesFocus: true });
  const fixed = new Compartment();
  const fixedBy = (on: boolean) => [EditorState.readOnly.of(on), EditorView.contentAttributes.of({ "aria-label": label, tabindex: "0", ...(on ? { "aria-readonly": "true" } : {}) })];
  const view = new EditorView({
    root,
    parent: root,
    state: EditorState.create({
      doc: text,
      extensions: [
        lineNumbers(), history(), drawSelection(), indentOnInput(), bracketMatching(), highlightActiveLine(), yaml(), syntaxHighlighting(colours), theme,
        // Tab goes on to what follows, as everywhere on the page.
        keymap.of([...defaultKeymap, ...historyKeymap]), EditorState.tabSize.of(2), fixed.of(fixedBy(readOnly)),
        EditorView.updateListener.of((update) => update.docChanged && onChange(update.state.doc.toString())),
      ],
    }),
  });
  return {
    set: (now) => {
      if (now !== view.state.doc.toString()) view.dispatch({ changes: { from: 0, to: view.state.doc.length, insert: now } });
    },
    mark: (marks) => {
      const end = view.state.doc.length;
      view.dispatch(setDiagnostics(view.state, marks.map(({ from, to, message }) => ({ from: Math.min(from, end), to: Math.min(Math.max(to, from), end), severity: "error", message }))));
    },
    fix: (on) => view.dispatch({ effects: fixed.reconfigure(fixedBy(on)) }),
    end: () => {
      view.destroy();
      root.replaceChildren();
    },
  };
}
