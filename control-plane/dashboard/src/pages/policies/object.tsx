// One object: whether and where it is in force, its YAML to change, and the way to delete it.
import { useEffect, useRef, useState } from "preact/hooks";
import { ApiError, get, said, send } from "../../api/client";
import { may } from "../../api/rights";
import type { Resource } from "../../api/types";
import { relative, unix } from "../../format";
import { written } from "../../objects/documents";
import { apiPath, type Kind } from "../../objects/kinds";
import { conditionsOf, targetsOf } from "../../objects/state";
import { go, to } from "../../router";
import { Icon } from "../../ui/icons";
import { Badge, Dialog, Empty, Equivalent, Failed, Head, Notice, Panel, Waiting } from "../../ui/parts";
import { ObjectState } from "../service-parts";
import { Editing } from "./editing";

interface Place {
  kind: Kind;
  namespace: string;
  name: string;
}

export function Object({ kind, namespace, name }: Place) {
  const path = apiPath(kind, namespace, name);
  const [object, set] = useState<Resource | null>(null);
  const [failed, fail] = useState<{ error: string; status: number } | null>(null);
  const [text, write] = useState("");
  const [changed, notice] = useState(false);
  const seen = useRef(new Map<string, string>());
  const loaded = useRef("");
  const id = `${kind.plural} ${namespace}/${name}`;

  const take = (now: Resource) => {
    const fresh = written({ apiVersion: kind.group ? `${kind.group}/${kind.version}` : kind.version, kind: kind.kind, ...now });
    loaded.current = fresh;
    write(fresh);
    notice(false);
    if (now.metadata.resourceVersion) seen.current.set(id, now.metadata.resourceVersion);
  };
  useEffect(() => {
    const ended = new AbortController();
    let timer: ReturnType<typeof setTimeout> | undefined;
    const ask = async (first: boolean): Promise<void> => {
      try {
        const now = await get<Resource>(path, ended.signal);
        set(now);
        fail(null);
        const fresh = written({ apiVersion: kind.group ? `${kind.group}/${kind.version}` : kind.version, kind: kind.kind, ...now });
        // Status moves the version on; only another spec is another object to who edits.
        if (first) take(now);
        else if (fresh === loaded.current) {
          if (now.metadata.resourceVersion) seen.current.set(id, now.metadata.resourceVersion);
        } else notice(true);
      } catch (error) {
        if (ended.signal.aborted) return;
        fail({ error: said(error), status: error instanceof ApiError ? error.status : 0 });
      }
      if (!ended.signal.aborted) timer = setTimeout(() => void ask(false), 2000);
    };
    void ask(true);
    return () => {
      ended.abort();
      clearTimeout(timer);
    };
  }, [path]);

  const where = kind.namespaced ? ` -n ${namespace}` : "";
  const [asking, ask] = useState(false);
  const mayDelete = may({ verb: "delete", group: kind.group, resource: kind.plural, namespace, name });
  return (
    <>
      <Head
        title={name} crumbs={<><a href={to("/policies")}>Policies</a><span aria-hidden="true">/</span><a href={to("/policies", { kind: kind.plural })}>{kind.kind}</a>{kind.namespaced ? <><span aria-hidden="true">/</span><span>{namespace}</span></> : null}</>}
        sub={object ? <span class="row"><ObjectState found={{ object, kind }} /><span class="dim">{targetsOf(object, kind).join(", ")}</span></span> : kind.what}
      >
        {object ? <button type="button" class="button danger" disabled={mayDelete !== true} title={mayDelete === false ? "Your role does not let you delete it" : ""} onClick={() => ask(true)}><Icon name="trash" /> Delete</button> : null}
      </Head>
      {failed ? (failed.status === 404 ? <div class="panel"><Empty icon="policies" title="There is no such object (any more)" command={`weft get ${kind.plural}${where}`} /></div> : <Failed {...failed} what="this object" />) : null}
      {!object && !failed ? <Waiting what="the object" /> : null}
      {object && !(failed && failed.status === 404) ? (
        <div class="object">
          <Panel title="YAML" aside={text === loaded.current ? null : <button type="button" class="button plain" onClick={() => take(object)}>Undo changes</button>}>
            <div class="body">
              {changed ? <Notice health="warn" role="status">Somebody changed it meanwhile. <button type="button" class="button" onClick={() => take(object)}>Load it anew</button></Notice> : null}
              <Editing text={text} namespace={namespace} seen={seen.current} onText={write} onApplied={([first]) => {
                if (!first) return;
                set(first);
                take(first);
              }} />
            </div>
          </Panel>
          <div class="stack">
            <Conditions object={object} kind={kind} />
            <Panel title="About it">
              <dl class="body facts">
                <dt>Kind</dt><dd>{kind.kind}, which {kind.what}</dd>
                <dt>Created</dt><dd>{relative(unix(object.metadata.creationTimestamp))}</dd>
                <dt>Generation</dt><dd>{object.metadata.generation ?? "–"}</dd>
                {globalThis.Object.entries(object.metadata.labels ?? {}).length > 0 ? <><dt>Labels</dt><dd class="chips">{globalThis.Object.entries(object.metadata.labels ?? {}).map(([key, value]) => <span key={key} class="chip">{key}={value}</span>)}</dd></> : null}
              </dl>
            </Panel>
          </div>
        </div>
      ) : null}
      {asking ? <Delete place={{ kind, namespace, name }} path={path} onClose={() => ask(false)} /> : null}
      <Equivalent commands={[`weft describe ${kind.kind.toLowerCase()} ${name}${where}`, `weft edit ${kind.kind.toLowerCase()} ${name}${where}`]} />
    </>
  );
}

function Conditions({ object, kind }: { object: Resource; kind: Kind }) {
  const all = conditionsOf(object);
  if (all.length === 0) return kind.about === "route" || kind.about === "policy" ? <Panel title="Conditions"><p class="body dim">The control plane has not looked at it yet.</p></Panel> : null;
  return (
    <Panel title="Conditions">
      <ul class="conditions">
        {all.map(({ about, condition }) => (
          <li key={`${about} ${condition.type}`}>
            <Badge health={condition.status === "True" ? "ok" : condition.type === "Programmed" ? "warn" : "bad"}>{condition.type}: {condition.status}</Badge>
            <div>
              {condition.reason !== condition.type ? <b>{condition.reason} </b> : null}
              {condition.message}
              <p class="small dim">{about ? `for ${about}, ` : ""}{relative(unix(condition.lastTransitionTime))}</p>
            </div>
          </li>
        ))}
      </ul>
    </Panel>
  );
}

function Delete({ place: { kind, namespace, name }, path, onClose }: { place: Place; path: string; onClose: () => void }) {
  const [error, fail] = useState("");
  const [busy, work] = useState(false);
  const run = async (): Promise<void> => {
    work(true);
    try {
      await send(path, { method: "DELETE" });
      go(to("/policies"));
    } catch (reason) {
      fail(said(reason));
      work(false);
    }
  };
  return (
    <Dialog title={`Delete ${kind.kind} ${name}?`} onClose={onClose}>
      <div class="body stack">
        <p>It {kind.what}{namespace ? ` in the namespace ${namespace}` : ""}. Sidecars let go of it within a second or so.</p>
        {error ? <Notice health="bad" role="alert">{error}</Notice> : null}
        <div class="row">
          <button type="button" class="button danger" disabled={busy} onClick={() => void run()}><Icon name="trash" /> Delete</button>
          <button type="button" class="button" onClick={onClose}>Keep it</button>
        </div>
      </div>
    </Dialog>
  );
}
