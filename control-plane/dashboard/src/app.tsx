// The frame around every page: bar, navigation, keys, and the way in.
import { h } from "preact";
import { useEffect, useState } from "preact/hooks";
import { refused, signOut, token } from "./api/client";
import { connection, pause, problems, seen, start, trouble, type Connection } from "./api/live";
import { user } from "./api/rights";
import { NamespacePicker } from "./ui/namespace";
import { PAGES, pageOf } from "./pages";
import { go, path, to } from "./router";
import { scheme, toggle } from "./scheme";
import { SignIn } from "./sign-in";
import { Finder, Keys } from "./ui/finder";
import { Icon, Mark } from "./ui/icons";
import { Empty, Notice } from "./ui/parts";

const STATE: Record<Connection, string> = {
  connecting: "Connecting", live: "Live", polling: "Live", reconnecting: "Reconnecting", paused: "Paused", denied: "No access", ended: "Ended",
};

function Live() {
  const state = connection.value;
  const paused = state === "paused";
  const since = seen.value ? `last heard at ${new Date(seen.value).toLocaleTimeString("en-GB")}` : "nothing heard yet";
  return (
    <button type="button" class="live" data-state={state} title={trouble.value || since} aria-label={`Updates: ${STATE[state]}. ${paused ? "Go on" : "Pause"}`} onClick={() => (paused ? start() : pause())}>
      <span class="dot" aria-hidden="true" />
      {STATE[state]}
      <Icon name={paused ? "play" : "pause"} />
    </button>
  );
}

function Side({ open, close }: { open: boolean; close: () => void }) {
  const current = pageOf(path.value);
  const amount = problems.value?.length ?? 0;
  const worst = problems.value?.some((problem) => problem.severity === "error") ? "bad" : "warn";
  return (
    <nav class={`side${open ? " open" : ""}`} aria-label="Pages" id="pages" onClick={close}>
      {PAGES.map((page) => (
        <a key={page.path} href={to(page.path)} aria-current={current === page ? "page" : undefined}>
          <Icon name={page.icon} />
          {page.name}
          {page.path === "/" && amount > 0 ? <span class="pill" data-health={worst} aria-label={`${amount} problems`}>{amount}</span> : null}
        </a>
      ))}
      {user.value ? (
        <div class="user">
          Signed in as<br /><b>{user.value}</b>
          {token.value ? <><br /><button type="button" class="button plain" onClick={signOut}>Sign out</button></> : null}
        </div>
      ) : null}
    </nav>
  );
}

/** Whether typing goes into a text. */
function isTyping(target: EventTarget | null): boolean {
  return target instanceof HTMLElement && (target.isContentEditable || /^(INPUT|SELECT|TEXTAREA)$/.test(target.tagName) || target.shadowRoot !== null);
}

export function App() {
  const [opened, open] = useState<"" | "menu" | "find" | "keys">("");
  const current = pageOf(path.value);
  useEffect(() => {
    let led = 0;
    const press = (event: KeyboardEvent) => {
      if (event.key === "Escape") open((now) => (now === "menu" ? "" : now));
      if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || isTyping(event.target) || document.querySelector("dialog[open]")) return;
      const after = Date.now() - led < 1200;
      led = 0;
      const page = after ? PAGES.find((page) => page.key === event.key) : undefined;
      if (page) go(to(page.path));
      else if (event.key === "g") led = Date.now();
      else if (event.key === "/") open("find");
      else if (event.key === "?") open("keys");
      else if (event.key === "d") toggle();
      else if (event.key === " " && event.target === document.body) (connection.peek() === "paused" ? start : pause)();
      else return;
      event.preventDefault();
    };
    document.addEventListener("keydown", press);
    return () => document.removeEventListener("keydown", press);
  }, []);
  useEffect(() => {
    document.title = `${current?.name ?? "Not found"} · Weft`;
  }, [current]);
  if (refused.value !== null) return <SignIn />;
  return (
    <>
      <a class="skip" href="#main">Skip to the page</a>
      <header class="topbar">
        <button type="button" class="button plain square menu-button" aria-label="Pages" aria-expanded={opened === "menu"} aria-controls="pages" onClick={() => open(opened === "menu" ? "" : "menu")}><Icon name="menu" /></button>
        <a class="brand" href={to("/")} aria-label="Weft, overview"><Mark /><span>Weft</span></a>
        <button type="button" class="button search" onClick={() => open("find")} aria-label="Search"><Icon name="search" /><span>Search services and pages</span><kbd aria-hidden="true">/</kbd></button>
        <NamespacePicker />
        <Live />
        <button type="button" class="button plain square" aria-label={scheme.value === "dark" ? "Light colours" : "Dark colours"} onClick={toggle}><Icon name={scheme.value === "dark" ? "sun" : "moon"} /></button>
      </header>
      <div class="frame">
        <Side open={opened === "menu"} close={() => open("")} />
        <main id="main" class={current?.wide ? "wide" : ""} tabIndex={-1}>
          {connection.value === "denied" ? <Notice health="warn" role="alert">The API refuses live figures: {trouble.value}. Choose a namespace that you may see.</Notice> : null}
          {connection.value === "reconnecting" && trouble.value ? <Notice health="warn" role="status">What is shown may be old: {trouble.value}. Trying again.</Notice> : null}
          {current ? h(current.view, {}) : <Empty icon="info" title="There is no such page"><a href={to("/")}>Go to the overview</a></Empty>}
        </main>
      </div>
      {opened === "find" ? <Finder onClose={() => open("")} /> : null}
      {opened === "keys" ? <Keys onClose={() => open("")} /> : null}
    </>
  );
}
