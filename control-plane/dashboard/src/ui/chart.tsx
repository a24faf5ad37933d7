// Lines over time, with their figures where the pointer is.
import { useEffect, useRef, useState } from "preact/hooks";
import uPlot from "uplot";
import { colour, scheme } from "../scheme";
import { NONE } from "../format";

export interface Line {
  name: string;
  values: (number | null)[];
  /** One of the page's colours. */
  tone: string;
  fill?: boolean;
}

interface Given {
  label: string;
  times: number[];
  lines: Line[];
  format: (value: number | null | undefined) => string;
  /** The axis begins and ends here, if the values do not go beyond. */
  from?: number;
  to?: number;
}

const HEIGHT = 170;

export function Chart({ label, times, lines, format, from = 0, to }: Given) {
  const place = useRef<HTMLDivElement>(null);
  const chart = useRef<uPlot | null>(null);
  const [at, point] = useState<number | null>(null);
  const colours = scheme.value;
  const isEmpty = lines.every(({ values }) => values.every((value) => value === null));
  const data: uPlot.AlignedData = [times, ...lines.map(({ values }) => values)];
  const shape = lines.map(({ name, tone }) => `${name} ${tone}`).join();
  useEffect(() => {
    const element = place.current;
    if (!element || isEmpty) return;
    const axis: uPlot.Axis = { stroke: colour("ink-3"), grid: { stroke: colour("line"), width: 1 }, ticks: { show: false }, font: `11px ${colour("sans")}` };
    const made = new uPlot({
      width: element.clientWidth, height: HEIGHT, padding: [8, 8, 0, 0],
      legend: { show: false },
      cursor: { y: false, drag: { x: false, y: false }, points: { size: 7 } },
      scales: { x: { time: true }, y: { range: (_, low: number | null, high: number | null) => [Math.min(from, low ?? from), to ?? Math.max(high ?? 0, from + 1) * 1.08] } },
      axes: [
        { ...axis, size: 28, grid: { show: false }, values: (_, splits) => splits.map((time) => new Date(time * 1000).toTimeString().slice(0, (splits[1] ?? 0) - (splits[0] ?? 0) < 60 ? 8 : 5)) },
        { ...axis, size: 64, gap: 6, splits: (_, __, low, high) => [0, 1, 2, 3].map((step) => low + ((high - low) * step) / 3), values: (_, splits) => splits.map((value) => format(value)) },
      ],
      series: [{}, ...lines.map((line): uPlot.Series => ({
        stroke: colour(line.tone), width: 1.75, points: { show: false },
        ...(line.fill ? { fill: `color-mix(in srgb, ${colour(line.tone)} 14%, transparent)` } : {}),
      }))],
      hooks: { setCursor: [(self) => point(self.cursor.idx ?? null)] },
    }, data, element);
    chart.current = made;
    const watch = new ResizeObserver(() => made.setSize({ width: element.clientWidth, height: HEIGHT }));
    watch.observe(element);
    return () => {
      watch.disconnect();
      made.destroy();
      chart.current = null;
    };
  }, [shape, isEmpty, colours]);
  useEffect(() => chart.current?.setData(data), [times, lines]);
  const shown = (values: (number | null)[]) => (at === null ? values.findLast((value) => value !== null) : values[at]);
  const summary = lines.map(({ name, values }) => `${name} ${format(shown(values))}`).join(", ");
  return (
    <figure class="chart" aria-label={`${label}: ${isEmpty ? "no data" : summary}`} role="img">
      <ul class="legend" aria-hidden="true">
        {lines.map(({ name, tone, values }) => <li key={name}><i style={{ color: `var(--${tone})` }} />{name} <b>{isEmpty ? NONE : format(shown(values))}</b></li>)}
        {at !== null && times[at] !== undefined ? <li class="dim">{new Date(times[at] * 1000).toTimeString().slice(0, 8)}</li> : null}
      </ul>
      {isEmpty ? <div class="none">No calls in this time</div> : <div ref={place} />}
    </figure>
  );
}
