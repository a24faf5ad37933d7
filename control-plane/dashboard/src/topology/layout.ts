// Where the nodes of a graph stand: callers before the called. Pure, and the same for the same graph, so that a picture stays.
import * as dagre from "@dagrejs/dagre";

export interface Question {
  /** Key of the graph, sent back with the answer. */
  key: string;
  nodes: string[];
  edges: [string, string][];
  /** Size of a node, in pixels. */
  width: number;
  height: number;
  /** Callers at the left, or above. */
  across: boolean;
}

export interface Answer {
  key: string;
  /** Centres. */
  nodes: Map<string, [number, number]>;
  /** Points of edges, from border to border, in the order of the question; null: straight from node to node. */
  edges: ([number, number][] | null)[];
  width: number;
  height: number;
}

/** Beyond this, edges are not led around nodes: the picture would become too large to read. */
const LED = { nodes: 80, edges: 240 };

export function layout(question: Question): Answer {
  const isSmall = question.nodes.length <= LED.nodes && question.edges.length <= LED.edges;
  return isSmall ? led(question) : ranked(question);
}

function led({ key, nodes, edges, width, height, across }: Question): Answer {
  const graph = new dagre.graphlib.Graph({ multigraph: true });
  graph.setGraph({ rankdir: across ? "LR" : "TB", nodesep: across ? 34 : 22, ranksep: across ? 130 : 74, edgesep: 22, marginx: 24, marginy: 24 });
  graph.setDefaultEdgeLabel(() => ({}));
  for (const node of nodes) graph.setNode(node, { width, height });
  edges.forEach(([from, to], index) => graph.setEdge(from, to, {}, index.toString()));
  dagre.layout(graph);
  const size = graph.graph() as { width?: number; height?: number };
  return {
    key,
    nodes: new Map(nodes.map((node) => {
      const { x, y } = graph.node(node) as { x: number; y: number };
      return [node, [x, y]];
    })),
    edges: edges.map(([from, to], index) => {
      const { points } = graph.edge(from, to, index.toString()) as { points?: { x: number; y: number }[] };
      return points ? points.map(({ x, y }) => [x, y]) : null;
    }),
    width: size.width ?? 0,
    height: size.height ?? 0,
  };
}

/** Ranks by longest path with cycles cut, each rank ordered by the mean of its neighbours (Sugiyama's method without the dummies). */
function ranked({ key, nodes, edges, width, height, across }: Question): Answer {
  const down = new Map<string, string[]>(nodes.map((node) => [node, []]));
  const up = new Map<string, string[]>(nodes.map((node) => [node, []]));
  for (const [from, to] of edges) {
    if (from === to) continue;
    down.get(from)?.push(to);
    up.get(to)?.push(from);
  }
  const rank = ranksOf(nodes, down, up);
  const columns: string[][] = [];
  for (const node of nodes) (columns[rank.get(node) ?? 0] ??= []).push(node);
  const place = new Map<string, number>();
  const settle = (column: string[]) => column.forEach((node, index) => place.set(node, (index + 0.5) / column.length));
  columns.forEach(settle);
  for (let sweep = 0; sweep < 8; sweep++) {
    const beside = sweep % 2 === 0 ? up : down;
    for (const column of sweep % 2 === 0 ? columns : [...columns].reverse()) {
      const mean = new Map(column.map((node) => {
        const near = beside.get(node) ?? [];
        return [node, near.length > 0 ? near.reduce((sum, other) => sum + (place.get(other) ?? 0), 0) / near.length : (place.get(node) ?? 0)];
      }));
      column.sort((a, b) => (mean.get(a) ?? 0) - (mean.get(b) ?? 0) || (a < b ? -1 : 1));
      settle(column);
    }
  }
  // Columns that are too long go on in a second beside them.
  const most = Math.max(10, Math.ceil(Math.sqrt(nodes.length) * 1.2));
  const lines = columns.flatMap((column) => {
    const parts = Math.ceil(column.length / most);
    return Array.from({ length: parts }, (_, part) => column.filter((_, index) => index % parts === part));
  });
  const [along, beside] = across ? [width + 90, height + 16] : [height + 70, width + 16];
  const longest = Math.max(1, ...lines.map((line) => line.length));
  const found = new Map<string, [number, number]>();
  lines.forEach((line, at) => line.forEach((node, index) => {
    const [a, b] = [24 + (at + 0.5) * along, 24 + (index + 0.5 + (longest - line.length) / 2) * beside];
    found.set(node, across ? [a, b] : [b, a]);
  }));
  const [length, breadth] = [48 + lines.length * along, 48 + longest * beside];
  return { key, nodes: found, edges: edges.map(() => null), width: across ? length : breadth, height: across ? breadth : length };
}

function ranksOf(nodes: string[], down: Map<string, string[]>, up: Map<string, string[]>): Map<string, number> {
  // Depth first, from those that nobody calls: an edge back to a node that is being visited is cut.
  const state = new Map<string, 1 | 2>();
  const order: string[] = [];
  const kept = new Map<string, string[]>();
  const starts = [...nodes].sort((a, b) => (up.get(a)?.length ?? 0) - (up.get(b)?.length ?? 0) || (a < b ? -1 : 1));
  for (const start of starts) {
    if (state.has(start)) continue;
    const stack: [string, number][] = [[start, 0]];
    state.set(start, 1);
    for (let top = stack.at(-1); top; top = stack.at(-1)) {
      const [node, index] = top;
      const next = down.get(node)?.[index];
      if (next === undefined) {
        state.set(node, 2);
        order.push(node);
        stack.pop();
        continue;
      }
      top[1] += 1;
      if (state.get(next) === 1) continue;
      kept.set(node, [...(kept.get(node) ?? []), next]);
      if (!state.has(next)) {
        state.set(next, 1);
        stack.push([next, 0]);
      }
    }
  }
  const rank = new Map<string, number>(nodes.map((node) => [node, 0]));
  for (const node of order.reverse()) {
    for (const next of kept.get(node) ?? []) rank.set(next, Math.max(rank.get(next) ?? 0, (rank.get(node) ?? 0) + 1));
  }
  return rank;
}
