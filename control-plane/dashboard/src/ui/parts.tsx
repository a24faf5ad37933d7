// Small parts that every page uses.
import type { ComponentChildren } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import type { Health } from "../health";
import { WORD } from "../health";
import { toService } from "../router";
import { Icon, type IconName } from "./icons";

/** A title with what may be done here. It gets the focus when the page is gone to. */
export function Head({ title, sub, crumbs, children }: { title: ComponentChildren; sub?: ComponentChildren; crumbs?: ComponentChildren; children?: ComponentChildren }) {
  return (
    <div class="head">
      <div class="title">
        {crumbs ? <nav class="crumbs" aria-label="Where this is">{crumbs}</nav> : null}
        <h1 tabIndex={-1}>{title}</h1>
        {sub ? <p>{sub}</p> : null}
      </div>
      {children ? <div class="actions">{children}</div> : null}
    </div>
  );
}

export function Panel({ title, aside, children, id }: { title: string; aside?: ComponentChildren; children: ComponentChildren; id?: string }) {
  const label = `panel-${(id ?? title).toLowerCase().replaceAll(/[^a-z0-9]+/g, "-")}`;
  return (
    <section class="panel" aria-labelledby={label}>
      <header>
        <h2 id={label}>{title}</h2>
        {aside}
      </header>
      {children}
    </section>
  );
}

/** Copies a text and says so. */
export function Copy({ text, label = "Copy" }: { text: string; label?: string }) {
  const [done, set] = useState<"" | "copied" | "failed">("");
  const copy = async (): Promise<void> => {
    try {
      await navigator.clipboard.writeText(text);
      set("copied");
    } catch {
      set("failed");
    }
    setTimeout(() => set(""), 1500);
  };
  return (
    <button type="button" class="button plain" onClick={() => void copy()} aria-label={`${label}: ${text}`}>
      <Icon name={done === "copied" ? "check" : "copy"} />
      <span aria-live="polite">{done === "copied" ? "Copied" : done === "failed" ? "Not allowed" : "Copy"}</span>
    </button>
  );
}

/** A command to run. */
export function Command({ text }: { text: string }) {
  return (
    <div class="command">
      <code tabIndex={0}>{text}</code>
      <Copy text={text} label="Copy the command" />
    </div>
  );
}

/** The commands that print what a page shows. */
export function Equivalent({ commands }: { commands: string[] }) {
  return (
    <div class="equivalent">
      <span>The same on the command line</span>
      <ul>{commands.map((text) => <li key={text}><Command text={text} /></li>)}</ul>
    </div>
  );
}

const HEALTH_ICON: Record<Health, IconName> = { ok: "ok", warn: "warn", bad: "bad", idle: "idle" };

/** A state in colour, icon and word. */
export function Badge({ health, children, icon }: { health: Health; children?: ComponentChildren; icon?: IconName }) {
  return (
    <span class="badge" data-health={health}>
      <Icon name={icon ?? HEALTH_ICON[health]} />
      {children ?? WORD[health]}
    </span>
  );
}

export function HealthIcon({ health, label }: { health: Health; label?: string }) {
  return <Icon name={HEALTH_ICON[health]} tone={health} label={label ?? WORD[health]} />;
}

export function Empty({ icon, title, children, command }: { icon: IconName; title: string; children?: ComponentChildren; command?: string | undefined }) {
  return (
    <div class="empty">
      <Icon name={icon} />
      <strong>{title}</strong>
      {children ? <p>{children}</p> : null}
      {command ? <Command text={command} /> : null}
    </div>
  );
}

export function Notice({ health = "idle", children, role }: { health?: Health; children: ComponentChildren; role?: "alert" | "status" }) {
  return (
    <div class="notice" data-health={health} role={role}>
      <Icon name={health === "idle" ? "info" : HEALTH_ICON[health]} />
      <div class="grow">{children}</div>
    </div>
  );
}

/** What is shown where a document could not be had. */
export function Failed({ error, status, what }: { error: string; status: number | null; what: string }) {
  if (status === 403) return <Notice>You may not see {what}: {error}</Notice>;
  if (status === 404) return <Notice>This control plane does not answer for {what}.</Notice>;
  return <Notice health="bad" role="alert">Cannot read {what}: {error}</Notice>;
}

export function Waiting({ what }: { what: string }) {
  return <p class="empty" role="status">Reading {what} …</p>;
}

/** A link to a service's page. */
export function ServiceLink({ name, short = false }: { name: string; short?: boolean }) {
  return <a href={toService(name)} class="name" title={name}>{short ? name.slice(name.indexOf("/") + 1) : name}</a>;
}

/** A share as a bar and in words. */
export function Meter({ share, text, health = "ok" }: { share: number; text: string; health?: Health }) {
  return (
    <span class="meter" data-health={health}>
      <span aria-hidden="true"><span style={{ width: `${Math.max(0, Math.min(1, share)) * 100}%` }} /></span>
      <span>{text}</span>
    </span>
  );
}

/** One of a few values. */
export function Segmented<T extends string>({ label, value, options, onPick }: { label: string; value: T; options: readonly (readonly [T, ComponentChildren])[]; onPick: (value: T) => void }) {
  return (
    <div class="segmented" role="group" aria-label={label}>
      {options.map(([option, text]) => (
        <button type="button" key={option} aria-pressed={option === value} onClick={() => onPick(option)}>{text}</button>
      ))}
    </div>
  );
}

/** A modal window; the browser keeps the focus in it and closes it on Escape. */
export function Dialog({ title, onClose, children, kind = "" }: { title: string; onClose: () => void; children: ComponentChildren; kind?: string }) {
  const dialog = useRef<HTMLDialogElement>(null);
  useEffect(() => {
    const element = dialog.current;
    const before = document.activeElement;
    element?.showModal();
    return () => {
      element?.close();
      if (before instanceof HTMLElement) before.focus();
    };
  }, []);
  return (
    <dialog ref={dialog} class={kind} aria-label={title} onClose={onClose} onClick={(event) => event.target === dialog.current && onClose()}>
      {kind === "finder" ? null : (
        <header>
          <h2>{title}</h2>
          <button type="button" class="button plain square" aria-label="Close" onClick={onClose}><Icon name="close" /></button>
        </header>
      )}
      {children}
    </dialog>
  );
}

/** The course of a number, small. */
export function Spark({ values, health = "ok", floor }: { values: (number | null)[]; health?: Health; floor?: number }) {
  const known = values.filter((value) => value !== null);
  if (known.length < 2) return <svg class="spark" aria-hidden="true" />;
  const low = Math.min(floor ?? Infinity, ...known);
  const high = Math.max(...known, low + 1e-9);
  const points = values.flatMap((value, index) => (value === null ? [] : [`${((index / (values.length - 1)) * 72).toFixed(1)},${(21 - ((value - low) / (high - low)) * 20).toFixed(1)}`]));
  return <svg class="spark" data-health={health} viewBox="0 0 72 22" preserveAspectRatio="none" aria-hidden="true"><polyline points={points.join(" ")} /></svg>;
}
