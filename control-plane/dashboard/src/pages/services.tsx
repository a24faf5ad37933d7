// All services, and each by itself.
import { useState } from "preact/hooks";
import { connection, mesh } from "../api/live";
import { plural } from "../format";
import { namespace, segments } from "../router";
import { Empty, Equivalent, Head, Waiting } from "../ui/parts";
import { ServicesTable, worstFirst } from "../ui/services-table";
import { Service } from "./service";

export function Services() {
  const [, room, name] = segments.value;
  return room && name ? <Service key={`${room}/${name}`} service={`${room}/${name}`} /> : <List />;
}

function List() {
  const [text, filter] = useState("");
  const now = mesh.value;
  const of = namespace.value;
  const all = now ? worstFirst(now.services.values()) : [];
  const rows = all.filter((row) => row.service.toLowerCase().includes(text.toLowerCase()));
  return (
    <>
      <Head title="Services" sub={now ? `${plural(all.length, "service")}${of ? ` of ${of}` : ""}, worst first` : "Everything that is called"}>
        <input type="search" aria-label="Filter services by name" placeholder="Filter by name" value={text} onInput={(event) => filter(event.currentTarget.value)} />
      </Head>
      {!now && connection.value !== "denied" ? <Waiting what="the services" /> : null}
      {now ? (
        <div class="panel">
          {rows.length > 0 ? <ServicesTable rows={rows} seconds={now.windowSeconds} /> : all.length > 0 ? <Empty icon="search" title="No service is called so" /> : (
            <Empty icon="services" title="No services yet" command="weft run --service web --port 8080:http -- python3 -m http.server 8080">Any program joins the mesh with a sidecar beside it.</Empty>
          )}
        </div>
      ) : null}
      <Equivalent commands={[`weft stat${of ? ` -n ${of}` : ""}`, `weft get services ${of ? `-n ${of}` : "-A"}`]} />
    </>
  );
}
