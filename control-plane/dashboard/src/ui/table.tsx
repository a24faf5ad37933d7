// Tables whose columns sort: by a click or the keyboard, and said to screen readers.
import type { ComponentChildren } from "preact";
import { useState } from "preact/hooks";

export interface Column<T> {
  name: string;
  /** The cell. */
  cell: (row: T) => ComponentChildren;
  /** What to sort by; a column without does not sort. No data is last. */
  by?: (row: T) => number | string | null | undefined;
  number?: boolean;
  wrap?: boolean;
  /** Largest first when it is first sorted by. */
  descending?: boolean;
  /** The cell that names the row. */
  head?: boolean;
}

function compare(a: number | string | null | undefined, b: number | string | null | undefined): number {
  if (a == null || b == null) return (a == null ? 1 : 0) - (b == null ? 1 : 0);
  if (typeof a === "string" || typeof b === "string") return String(a).localeCompare(String(b), "en", { numeric: true });
  return a - b;
}

export function Table<T>({ label, columns, rows, keyOf, most = 200 }: { label: string; columns: Column<T>[]; rows: T[]; keyOf: (row: T) => string; most?: number }) {
  const [sort, setSort] = useState<{ name: string; down: boolean } | null>(null);
  const [all, showAll] = useState(false);
  const by = sort && columns.find((column) => column.name === sort.name)?.by;
  const sorted = by
    ? [...rows].sort((a, b) => {
        const [left, right] = [by(a), by(b)];
        const order = compare(left, right);
        return sort.down && left != null && right != null ? -order : order;
      })
    : rows;
  const shown = all ? sorted : sorted.slice(0, most);
  return (
    <>
      <div class="scroll" tabIndex={0} role="region" aria-label={label}>
        <table>
          <thead>
            <tr>
              {columns.map((column) => {
                const active = sort?.name === column.name;
                return (
                  <th key={column.name} scope="col" class={column.number ? "number" : ""} {...(column.by ? { "aria-sort": active ? (sort.down ? "descending" : "ascending") : "none" } as const : {})}>
                    {column.by ? (
                      <button type="button" onClick={() => setSort({ name: column.name, down: active ? !sort.down : (column.descending ?? false) })}>
                        {column.name}{active ? (sort.down ? " ↓" : " ↑") : ""}
                      </button>
                    ) : column.name}
                  </th>
                );
              })}
            </tr>
          </thead>
          <tbody>
            {shown.map((row) => (
              <tr key={keyOf(row)}>
                {columns.map((column) => {
                  const kind = `${column.number ? "number" : ""}${column.wrap ? " wrap" : ""}`;
                  return column.head ? <th key={column.name} scope="row">{column.cell(row)}</th> : <td key={column.name} class={kind}>{column.cell(row)}</td>;
                })}
              </tr>
            ))}
          </tbody>
        </table>
      </div>
      {shown.length < sorted.length ? (
        <div class="body row"><span class="dim">{shown.length} of {sorted.length}</span><button type="button" class="button" onClick={() => showAll(true)}>Show all</button></div>
      ) : null}
    </>
  );
}
