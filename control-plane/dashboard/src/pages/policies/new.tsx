// New objects, from what people write most.
import { useEffect, useRef, useState } from "preact/hooks";
import type { Resource } from "../../api/types";
import { useLoad } from "../../api/load";
import { mesh } from "../../api/live";
import { split } from "../../format";
import { apiPath, kindNamed, type Kind } from "../../objects/kinds";
import { stateOf } from "../../objects/state";
import { TEMPLATES } from "../../objects/templates";
import { namespace, to } from "../../router";
import { Equivalent, Head, Panel } from "../../ui/parts";
import { ObjectState } from "../service-parts";
import { Editing } from "./editing";
import { hrefOf } from "./list";

export function New({ service: asked }: { service: string }) {
  const services = [...(mesh.value?.services.keys() ?? [])].filter((name) => !namespace.value || name.startsWith(`${namespace.value}/`)).sort();
  const [service, choose] = useState(asked);
  const current = service || services[0] || `${namespace.value || "default"}/web`;
  const [room, name] = split(current);
  const [template, pick] = useState(TEMPLATES[1]?.name ?? "");
  const [text, write] = useState("");
  const [applied, finish] = useState<Resource[]>([]);
  const seen = useRef(new Map<string, string>());
  const filled = useRef("");
  // A text that the user has changed stays.
  useEffect(() => {
    const next = TEMPLATES.find((one) => one.name === template)?.yaml(room, name) ?? "";
    if (text === filled.current) write(next);
    filled.current = next;
  }, [template, current]);
  return (
    <>
      <Head title="New policy" crumbs={<><a href={to("/policies")}>Policies</a><span aria-hidden="true">/</span><span>new</span></>} sub="Checked by the server, with a diff and a forecast, before anything is written" />
      <div class="object">
        <Panel title="YAML">
          <div class="body"><Editing text={text} namespace={room} seen={seen.current} onText={write} onApplied={finish} /></div>
        </Panel>
        <div class="stack">
          {applied.length > 0 ? <Panel title="Applied"><ul class="conditions">{applied.map((object) => <Applied key={object.metadata.uid ?? object.metadata.name} object={object} />)}</ul></Panel> : null}
          <Panel title="Begin with">
            <div class="body stack">
              <label class="field"><span>Service</span>
                <select value={current} onChange={(event) => choose(event.currentTarget.value)}>
                  {[...new Set([current, ...services])].map((one) => <option key={one} value={one}>{one}</option>)}
                </select>
              </label>
              <ul class="templates">
                {TEMPLATES.map((one) => (
                  <li key={one.name}><button type="button" class="button" aria-pressed={one.name === template} onClick={() => {
                    filled.current = text;
                    pick(one.name);
                  }}><b>{one.name}</b><span>{one.what}</span></button></li>
                ))}
              </ul>
            </div>
          </Panel>
        </div>
      </div>
      <Equivalent commands={["weft apply --wait -f policy.yaml"]} />
    </>
  );
}

/** An object on its way to the sidecars. */
function Applied({ object }: { object: Resource }) {
  const kind = kindNamed(object.kind ?? "", object.apiVersion ?? "");
  return kind ? <Underway object={object} kind={kind} /> : null;
}

function Underway({ object, kind }: { object: Resource; kind: Kind }) {
  const { data } = useLoad<Resource>(apiPath(kind, object.metadata.namespace ?? "", object.metadata.name), 1000);
  const now = data ?? object;
  return (
    <li><ObjectState found={{ object: now, kind }} /><div><a href={hrefOf({ object: now, kind })}>{kind.kind} {now.metadata.name}</a><p class="small dim">{stateOf(now, kind).message}</p></div></li>
  );
}
