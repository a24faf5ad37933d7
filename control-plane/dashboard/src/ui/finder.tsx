// Search over services and pages, and the list of keys.
import { useMemo, useState } from "preact/hooks";
import { mesh } from "../api/live";
import { PAGES } from "../pages";
import { go, to, toService } from "../router";
import { Icon, type IconName } from "./icons";
import { Dialog } from "./parts";

interface Hit {
  name: string;
  kind: string;
  href: string;
  icon: IconName;
}

/** All words of `text` occur; what begins with it is first. */
function rank(name: string, text: string): number {
  const lower = name.toLowerCase();
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  if (!words.every((word) => lower.includes(word))) return -1;
  const own = lower.slice(lower.indexOf("/") + 1);
  return words[0] && own.startsWith(words[0]) ? 2 : 1;
}

export function Finder({ onClose }: { onClose: () => void }) {
  const [text, set] = useState("");
  const [at, move] = useState(0);
  const all = useMemo<Hit[]>(() => [
    ...PAGES.map((page): Hit => ({ name: page.name, kind: "page", href: to(page.path), icon: page.icon })),
    { name: "Explain a call", kind: "page", href: to("/policies/explain"), icon: "info" },
    { name: "New policy", kind: "page", href: to("/policies/new"), icon: "plus" },
    ...[...(mesh.peek()?.services.keys() ?? [])].sort().map((name): Hit => ({ name, kind: "service", href: toService(name), icon: "services" })),
  ], []);
  const hits = all.map((hit) => ({ hit, rank: rank(hit.name, text) })).filter(({ rank }) => rank >= 0).sort((a, b) => b.rank - a.rank).slice(0, 30).map(({ hit }) => hit);
  const open = (hit: Hit | undefined) => {
    if (!hit) return;
    onClose();
    go(hit.href);
  };
  const press = (event: KeyboardEvent) => {
    const step = event.key === "ArrowDown" ? 1 : event.key === "ArrowUp" ? -1 : 0;
    if (step !== 0) {
      move((now) => Math.max(0, Math.min(hits.length - 1, now + step)));
      event.preventDefault();
    } else if (event.key === "Enter") {
      open(hits[at]);
      event.preventDefault();
    }
  };
  return (
    <Dialog title="Search" kind="finder" onClose={onClose}>
      <input
        type="text" role="combobox" aria-expanded="true" aria-controls="hits" aria-activedescendant={hits[at] ? `hit-${at}` : undefined} aria-label="Search services and pages"
        placeholder="Search services and pages" autocomplete="off" spellcheck={false} value={text} onKeyDown={press}
        onInput={(event) => {
          set(event.currentTarget.value);
          move(0);
        }}
      />
      <ul id="hits" role="listbox" aria-label="Found">
        {hits.map((hit, index) => (
          <li key={hit.href} role="presentation">
            <a id={`hit-${index}`} role="option" tabIndex={-1} aria-selected={index === at} href={hit.href} onClick={onClose}><Icon name={hit.icon} />{hit.name}<small>{hit.kind}</small></a>
          </li>
        ))}
      </ul>
      {hits.length === 0 ? <p class="empty">Nothing is called so.</p> : null}
    </Dialog>
  );
}

export function Keys({ onClose }: { onClose: () => void }) {
  return (
    <Dialog title="Keys" onClose={onClose}>
      <dl class="body keys">
        <dt><kbd>/</kbd></dt><dd>Search services and pages</dd>
        {PAGES.map((page) => [<dt key={`${page.key}-key`}><kbd>g</kbd> <kbd>{page.key}</kbd></dt>, <dd key={page.key}>{page.name}</dd>])}
        <dt><kbd>Space</kbd></dt><dd>Pause updates, and go on</dd>
        <dt><kbd>d</kbd></dt><dd>Light or dark</dd>
        <dt><kbd>?</kbd></dt><dd>These keys</dd>
        <dt><kbd>Esc</kbd></dt><dd>Close what is open</dd>
      </dl>
    </Dialog>
  );
}
