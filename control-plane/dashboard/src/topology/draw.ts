// Edges on a canvas beneath the nodes: rate as width, errors as colour and words, a lock for mTLS, a gap for an open breaker.
import { percent, rate } from "../format";
import { colour } from "../scheme";
import type { Answer } from "./layout";
import type { Edge, Graph } from "./graph";

export type Point = [number, number];

/** What is seen of the plane. */
export interface Camera {
  x: number;
  y: number;
  scale: number;
}

/** An edge with its way. */
export interface Way {
  edge: Edge;
  points: Point[];
}

export const NODE = { width: 172, height: 54 };

/** Ways of all edges, in the plane. */
export function ways(graph: Graph, answer: Answer, order: string[], across: boolean): Way[] {
  const index = new Map(order.map((id, at) => [id, at]));
  return graph.edges.flatMap((edge) => {
    const [from, to] = [answer.nodes.get(edge.from), answer.nodes.get(edge.to)];
    const at = index.get(edge.id);
    if (!from || !to) return [];
    const inner = (at === undefined ? null : answer.edges[at])?.slice(1, -1) ?? [];
    const [start, lead, trail, end] = direct(from, to, across);
    // An edge over several ranks is led around the nodes between.
    return [{ edge, points: inner.length > 1 && from !== to ? [start, lead, ...inner.slice(1, -1), trail, end] : [start, lead, trail, end] }];
  });
}

/** From the border behind to the border ahead, bent. */
function direct(from: Point, to: Point, across: boolean): [Point, Point, Point, Point] {
  const half = across ? NODE.width / 2 : NODE.height / 2;
  const distance = across ? to[0] - from[0] : to[1] - from[1];
  const ahead = distance >= 0;
  const side = ahead ? half : -half;
  const start: Point = across ? [from[0] + side, from[1]] : [from[0], from[1] + side];
  const end: Point = across ? [to[0] - side, to[1]] : [to[0], to[1] - side];
  const bend = Math.min(90, Math.abs(distance - 2 * side) / 2 + 10) * (ahead ? 1 : -1);
  const lead = (point: Point, by: number): Point => (across ? [point[0] + by, point[1]] : [point[0], point[1] + by]);
  return [start, lead(start, bend), lead(end, -bend), end];
}

function trace(context: CanvasRenderingContext2D, points: Point[]): void {
  const [first, ...rest] = points;
  const last = rest.at(-1);
  if (!first || !last) return;
  context.beginPath();
  context.moveTo(...first);
  if (points.length === 4) {
    const [, a, b] = points as [Point, Point, Point, Point];
    context.bezierCurveTo(...a, ...b, ...last);
    return;
  }
  for (let at = 0; at < rest.length - 1; at++) {
    const [here, next] = [rest[at], rest[at + 1]] as [Point, Point];
    const end: Point = at === rest.length - 2 ? next : [(here[0] + next[0]) / 2, (here[1] + next[1]) / 2];
    context.quadraticCurveTo(...here, ...end);
  }
  if (rest.length === 1) context.lineTo(...last);
}

/** The middle of a way. */
export function middle(points: Point[]): Point {
  if (points.length === 4) {
    const [a, b, c, d] = points as [Point, Point, Point, Point];
    return [(a[0] + 3 * b[0] + 3 * c[0] + d[0]) / 8, (a[1] + 3 * b[1] + 3 * c[1] + d[1]) / 8];
  }
  const half = (points.length - 1) / 2;
  const [a, b] = [points[Math.floor(half)], points[Math.ceil(half)]];
  return a && b ? [(a[0] + b[0]) / 2, (a[1] + b[1]) / 2] : [0, 0];
}

const width = (rps: number) => 1.2 + Math.min(7, Math.log2(1 + rps) * 0.6);

export interface Shown {
  camera: Camera;
  ways: Way[];
  /** Node or edge that is picked. */
  picked: string;
  /** Edge under the pointer. */
  hovered: string;
}

/** Draws everything anew, in one go: some milliseconds for 1,500 edges. */
export function draw(canvas: HTMLCanvasElement, { camera, ways, picked, hovered }: Shown): void {
  const context = canvas.getContext("2d");
  if (!context) return;
  const ratio = devicePixelRatio || 1;
  const [wide, high] = [canvas.clientWidth, canvas.clientHeight];
  if (canvas.width !== Math.round(wide * ratio) || canvas.height !== Math.round(high * ratio)) {
    canvas.width = Math.round(wide * ratio);
    canvas.height = Math.round(high * ratio);
  }
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, wide, high);
  context.translate(camera.x, camera.y);
  context.scale(camera.scale, camera.scale);
  const colours = { ok: colour("edge"), warn: colour("warn"), bad: colour("bad"), idle: colour("edge"), accent: colour("accent"), panel: colour("panel"), ink: colour("ink-2") };
  const many = ways.length > 150;
  const touches = (edge: Edge) => edge.id === picked || edge.from === picked || edge.to === picked;
  // The worst on top, then what is picked.
  const weight = ({ edge }: Way) => ({ idle: 0, ok: 1, warn: 2, bad: 3 })[edge.health] + (touches(edge) || edge.id === hovered ? 10 : 0);
  const order = [...ways].sort((a, b) => weight(a) - weight(b));
  for (const { edge, points } of order) {
    const isPicked = touches(edge) || edge.id === hovered;
    context.globalAlpha = picked && !isPicked ? 0.18 : edge.health === "idle" ? 0.45 : many && edge.health === "ok" && !isPicked ? 0.4 : 0.85;
    context.strokeStyle = context.fillStyle = isPicked && edge.health === "ok" ? colours.accent : colours[edge.health];
    context.lineWidth = width(edge.rps);
    context.setLineDash(edge.health === "idle" ? [2, 6] : edge.health === "bad" ? [10, 4] : []);
    trace(context, points);
    context.stroke();
    context.setLineDash([]);
    arrow(context, points, width(edge.rps));
  }
  context.globalAlpha = 1;
  const isNear = camera.scale > 0.55;
  for (const { edge, points } of order) {
    const isPicked = touches(edge) || edge.id === hovered;
    if (picked && !isPicked) continue;
    if (isPicked ? camera.scale > 0.3 : isNear && !(many && edge.health === "ok")) label(context, edge, middle(points), colours);
  }
}

function arrow(context: CanvasRenderingContext2D, points: Point[], thick: number): void {
  const [before, end] = [points.at(-2), points.at(-1)];
  if (!before || !end) return;
  const angle = Math.atan2(end[1] - before[1], end[0] - before[0]);
  const size = 6 + thick;
  context.beginPath();
  context.moveTo(...end);
  for (const turn of [-0.42, 0.42]) context.lineTo(end[0] - size * Math.cos(angle + turn), end[1] - size * Math.sin(angle + turn));
  context.fill();
}

function label(context: CanvasRenderingContext2D, edge: Edge, [x, y]: Point, colours: Record<string, string>): void {
  if (edge.calls === 0) return;
  const failing = edge.health !== "ok" && edge.success !== null && edge.success < 0.99;
  const text = `${rate(edge.rps)}${failing ? ` · ${percent(edge.success)}` : ""}${edge.openBreakers > 0 ? " · open" : ""}`;
  context.font = `600 11px ${colour("sans")}`;
  const size = context.measureText(text).width + 30;
  const tone = colours[edge.health] ?? "";
  context.fillStyle = colours["panel"] ?? "";
  context.strokeStyle = edge.health === "ok" ? colour("line") : tone;
  context.lineWidth = 1;
  context.beginPath();
  context.roundRect(x - size / 2, y - 10, size, 20, 10);
  context.fill();
  context.stroke();
  context.fillStyle = context.strokeStyle = edge.health === "ok" ? (colours["ink"] ?? "") : tone;
  context.textBaseline = "middle";
  context.fillText(text, x - size / 2 + 21, y + 0.5);
  // Of calls that were sent to nobody there is nothing to say.
  if (edge.mtls !== null) lock(context, x - size / 2 + 9, y, edge.mtls >= 1);
}

/** A lock, closed where every call is mutually authenticated. */
function lock(context: CanvasRenderingContext2D, x: number, y: number, closed: boolean): void {
  context.lineWidth = 1.4;
  context.beginPath();
  context.arc(x + 3.5, y - 1.5, 2.4, Math.PI, closed ? 0 : -0.9);
  context.stroke();
  context.fillRect(x, y - 1, 7, 5.5);
}

/** The edge at a point of the plane, within `near` pixels of it. */
export function edgeAt(all: Way[], [x, y]: Point, near: number): string {
  let [found, best] = ["", near];
  for (const { edge, points } of all) {
    const line = points.length === 4 ? flat(points as [Point, Point, Point, Point]) : points;
    for (let at = 0; at + 1 < line.length; at++) {
      const [a, b] = [line[at], line[at + 1]] as [Point, Point];
      const [dx, dy] = [b[0] - a[0], b[1] - a[1]];
      const along = Math.max(0, Math.min(1, ((x - a[0]) * dx + (y - a[1]) * dy) / (dx * dx + dy * dy || 1)));
      const away = Math.hypot(x - a[0] - along * dx, y - a[1] - along * dy);
      if (away < best) [found, best] = [edge.id, away];
    }
  }
  return found;
}

/** A bent way as straight pieces. */
function flat([a, b, c, d]: [Point, Point, Point, Point]): Point[] {
  return Array.from({ length: 13 }, (_, step) => {
    const t = step / 12;
    const [p, q, r, s] = [(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t * t * (1 - t), t ** 3];
    return [p * a[0] + q * b[0] + r * c[0] + s * d[0], p * a[1] + q * b[1] + r * c[1] + s * d[1]];
  });
}
