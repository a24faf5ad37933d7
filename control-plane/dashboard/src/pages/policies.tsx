// Everything that says how calls are carried: the list, one object with its YAML, a new one, and what would become of a call.
import { kindOf } from "../objects/kinds";
import { parameter, segments, to } from "../router";
import { Empty } from "../ui/parts";
import { Explain } from "./policies/explain";
import { List } from "./policies/list";
import { New } from "./policies/new";
import { Object } from "./policies/object";
import "../styles/policies.css";

export function Policies() {
  const [, first, second, third] = segments.value;
  if (!first) return <List />;
  if (first === "explain" && !second) return <Explain />;
  if (first === "new" && !second) return <New service={parameter("service")} />;
  const kind = kindOf(first);
  const [namespace, name] = kind?.namespaced ? [second, third] : ["", second];
  if (!kind || !name || namespace === undefined) return <Empty icon="info" title="There is no such kind of object"><a href={to("/policies")}>All policies</a></Empty>;
  return <Object key={`${kind.plural} ${namespace}/${name}`} kind={kind} namespace={namespace} name={name} />;
}
