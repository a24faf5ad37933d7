// From a text to what is in force: read as it is typed, checked by the server as a dry run with its diff and its forecast, then applied.
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { said } from "../../api/client";
import { may } from "../../api/rights";
import type { Plan, Resource } from "../../api/types";
import { forecast, idOf, write, type Result } from "../../objects/apply";
import { read, written, type Mark } from "../../objects/documents";
import { diff } from "../../objects/diff";
import { Icon } from "../../ui/icons";
import { Badge, Command, Notice } from "../../ui/parts";
import { Yaml } from "../../ui/yaml";
import { Forecast } from "./forecast";

interface Checked {
  text: string;
  results: Result[];
  marks: Mark[];
  plan: Plan | null;
  /** Why there is no forecast. */
  unplanned: string;
}

interface Given {
  text: string;
  namespace: string;
  /** The version that is changed, where it is one that exists. */
  seen: Map<string, string>;
  onText: (text: string) => void;
  onApplied: (objects: Resource[]) => void;
}

export function Editing({ text, namespace, seen, onText, onApplied }: Given) {
  const [checked, set] = useState<Checked | null>(null);
  const [busy, work] = useState<"" | "check" | "apply">("");
  const [error, fail] = useState("");
  const [done, finish] = useState("");
  const results = useRef<HTMLDivElement>(null);
  const { given, marks } = useMemo(() => read(text, namespace), [text, namespace]);
  const isChecked = checked?.text === text;
  const isGood = isChecked && checked.results.length > 0 && checked.results.every(({ change }) => change !== "refused");
  const changes = isGood ? checked.results.filter(({ change }) => change !== "unchanged").length : 0;
  const denied = given.filter(({ kind, namespace, object }) =>
    ["update", "create"].some((verb) => may({ verb, group: kind.group, resource: kind.plural, namespace, ...(verb === "update" ? { name: object.metadata.name } : {}) }) === false));
  useEffect(() => {
    finish("");
    fail("");
  }, [text]);

  const check = async (): Promise<void> => {
    work("check");
    fail("");
    finish("");
    try {
      const [written, planned] = await Promise.all([
        Promise.all(given.map((one) => write(one, true, seen))),
        forecast(text, namespace).then((plan) => ({ plan, unplanned: plan ? "" : "This control plane makes no forecasts." }), (reason: unknown) => ({ plan: null, unplanned: said(reason) })),
      ]);
      set({ text, results: written.map(({ result }) => result), marks: written.flatMap(({ marks }) => marks), ...planned });
      requestAnimationFrame(() => results.current?.scrollIntoView({ block: "nearest" }));
    } catch (reason) {
      fail(said(reason));
    } finally {
      work("");
    }
  };
  const apply = async (): Promise<void> => {
    work("apply");
    fail("");
    try {
      const objects: Resource[] = [];
      for (const one of given) {
        const { result } = await write(one, false, seen);
        if (result.after) {
          objects.push(result.after);
          if (result.after.metadata.resourceVersion) seen.set(idOf(one), result.after.metadata.resourceVersion);
        } else {
          fail(`${one.kind.kind} ${one.object.metadata.name}: ${result.error}`);
          break;
        }
      }
      if (objects.length > 0) {
        finish(`Applied: ${objects.map((object) => `${object.kind ?? ""} ${object.metadata.name}`).join(", ")}.`);
        set(null);
        onApplied(objects);
      }
    } catch (reason) {
      fail(said(reason));
    } finally {
      work("");
    }
  };

  return (
    <div class="editing">
      <Yaml text={text} label="YAML" marks={isChecked ? [...marks, ...checked.marks] : marks} onChange={onText} readOnly={busy === "apply"} />
      {marks.length > 0 ? <Notice health="bad" role="status">{marks[0]?.message}</Notice> : null}
      {denied.length > 0 ? <Notice health="warn">You may look, not change: your role does not let you write {denied.map(({ kind, namespace }) => `${kind.plural}${namespace ? ` in ${namespace}` : ""}`).join(", ")}.</Notice> : null}
      <div class="row steps">
        <button type="button" class={`button${isGood ? "" : " primary"}`} disabled={busy !== "" || marks.length > 0 || given.length === 0 || denied.length > 0} onClick={() => void check()} title={denied.length > 0 ? "Your role does not let you write it, nor try" : ""}>
          <Icon name="check" /> {busy === "check" ? "Checking …" : "Check"}
        </button>
        <button type="button" class={`button${isGood ? " primary" : ""}`} disabled={busy !== "" || !isGood || changes === 0 || denied.length > 0} onClick={() => void apply()} title={denied.length > 0 ? "Your role does not let you write it" : isGood ? "" : "Check first"}>
          {busy === "apply" ? "Applying …" : "Apply"}
        </button>
        <span class="dim small">{isGood ? (changes === 0 ? "Nothing would change." : "The server accepts it; nothing is written yet.") : "Nothing is written by a check."}</span>
      </div>
      {error ? <Notice health="bad" role="alert">{error}</Notice> : null}
      {done ? <Notice health="ok" role="status">{done}</Notice> : null}
      <div ref={results}>{isChecked ? <Outcome checked={checked} /> : null}</div>
    </div>
  );
}

const CHANGE = { created: "ok", changed: "ok", unchanged: "idle", refused: "bad" } as const;

function Outcome({ checked }: { checked: Checked }) {
  return (
    <div class="stack">
      {checked.results.map((result) => (
        <section key={idOf(result.given)} class="outcome" aria-label={`${result.given.kind.kind} ${result.given.object.metadata.name}`}>
          <p class="row"><Badge health={CHANGE[result.change]}>{result.change === "created" ? "would be created" : result.change === "changed" ? "would change" : result.change}</Badge><b>{result.given.kind.kind} {result.given.namespace ? `${result.given.namespace}/` : ""}{result.given.object.metadata.name}</b></p>
          {result.error ? <Notice health="bad" role="alert">{result.error}</Notice> : null}
          {result.after && result.change !== "unchanged" ? <Difference before={result.before ? written(result.before) : ""} after={written(result.after)} /> : null}
        </section>
      ))}
      <section aria-label="Forecast">
        <h3>What it would do to the calls of the last hour</h3>
        {checked.plan ? <Forecast plan={checked.plan} /> : <p class="dim">{checked.unplanned}</p>}
        <Command text="weft plan -f change.yaml" />
      </section>
    </div>
  );
}

const SIGN = { same: " ", gone: "−", new: "+", skip: "⋯" };
const SPOKEN = { same: "", gone: "removed: ", new: "added: ", skip: "" };

export function Difference({ before, after }: { before: string; after: string }) {
  return (
    <div class="diff" role="region" aria-label="What changes" tabIndex={0}>
      {diff(before, after).map((line, index) => (
        <div key={index} data-kind={line.kind}><span aria-hidden="true">{SIGN[line.kind]}</span><span class="visually-hidden">{SPOKEN[line.kind]}</span><code>{line.text}</code></div>
      ))}
    </div>
  );
}
