// The editor as a part of a page; its code comes when it is first shown.
import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import { said } from "../api/client";
import type { Mark } from "../objects/documents";
import type { Editor } from "./code";
import { Notice } from "./parts";

export function Yaml({ text, label, readOnly = false, marks, onChange }: { text: string; label: string; readOnly?: boolean; marks: Mark[]; onChange: (text: string) => void }) {
  const place = useRef<HTMLDivElement>(null);
  const editor = useRef<Editor | null>(null);
  const change = useRef(onChange);
  change.current = onChange;
  const [ready, set] = useState(false);
  const [error, fail] = useState("");
  useEffect(() => {
    let ended = false;
    import("./code").then(({ mount }) => {
      if (ended || !place.current) return;
      editor.current = mount(place.current, { text, label, readOnly, onChange: (now) => change.current(now) });
      set(true);
    }, (reason: unknown) => fail(said(reason)));
    return () => {
      ended = true;
      editor.current?.end();
      editor.current = null;
    };
  }, []);
  // With the rendering itself: a later effect would put back what has been typed over since, and the two would take turns for ever.
  useLayoutEffect(() => editor.current?.set(text), [text, ready]);
  useEffect(() => editor.current?.mark(marks), [marks, ready]);
  useEffect(() => editor.current?.fix(readOnly), [readOnly, ready]);
  return (
    <>
      {error ? <Notice health="bad">The editor cannot be loaded: {error}</Notice> : null}
      <div class="editor" ref={place} />
    </>
  );
}
