// The picture: nodes as buttons over a canvas of edges, moved by pointer, wheel, pinch and keys.
import { Component } from "preact";
import { useEffect, useLayoutEffect, useMemo, useRef, useState } from "preact/hooks";
import { ms, percent, rate } from "../format";
import { WORD } from "../health";
import { scheme } from "../scheme";
import { Icon, type IconName } from "../ui/icons";
import { draw, edgeAt, NODE, ways, type Camera, type Point, type Way } from "./draw";
import type { Graph, Node } from "./graph";
import type { Answer, Question } from "./layout";
import LayoutWorker from "./layout.worker?worker";

interface NodeProps {
  node: Node;
  x: number;
  y: number;
  picked: boolean;
  faded: boolean;
  onPick: (id: string) => void;
}

const MARK: Record<string, IconName> = { cause: "bad", suffers: "warn" };

/** Drawn again only where something of it changed. */
class NodeView extends Component<NodeProps> {
  override shouldComponentUpdate(next: NodeProps): boolean {
    const { node, x, y, picked, faded } = this.props;
    const now = next.node;
    return x !== next.x || y !== next.y || picked !== next.picked || faded !== next.faded || node.rps !== now.rps || node.success !== now.success ||
      node.p99 !== now.p99 || node.mark !== now.mark || node.health !== now.health || node.openBreakers !== now.openBreakers || node.members.length !== now.members.length;
  }

  override render({ node, x, y, picked, faded, onPick }: NodeProps) {
    const called = node.success !== null;
    const figures = called ? `${rate(node.rps)} · ${percent(node.success)}` : node.kind === "caller" ? "calls only" : "no calls";
    const mark = node.mark === "cause" ? ", errors begin here" : node.mark === "suffers" ? ", suffers" : "";
    const label = `${node.kind === "group" ? `group ${node.name}, ${node.members.length} services` : node.id}: ${called ? `${WORD[node.health]}, ${figures}, p99 ${ms(node.p99)}` : figures}${mark}`;
    return (
      <button
        type="button" class={`node${faded ? " faded" : ""}`} data-health={node.health} data-kind={node.kind} data-id={node.id} aria-pressed={picked} aria-label={label}
        style={{ transform: `translate(${x - NODE.width / 2}px, ${y - NODE.height / 2}px)` }} onClick={() => onPick(node.id)}
      >
        <Icon name={node.kind === "group" ? "group" : node.mark ? (MARK[node.mark] ?? "idle") : node.health === "ok" || node.health === "idle" ? (node.kind === "caller" ? "right" : node.health) : node.health} />
        <span><b>{node.name}</b><small>{node.kind === "group" ? `${node.members.length} services · ${rate(node.rps)}` : figures}</small></span>
        {node.mark ? <em>{node.mark === "cause" ? "cause" : "suffers"}</em> : node.openBreakers > 0 ? <em>breaker open</em> : null}
      </button>
    );
  }
}

/** The layout of a graph, which stays while nothing is added; null until there is one. */
function useLayout(graph: Graph, across: boolean): { answer: Answer; order: string[] } | null {
  const [found, set] = useState<{ answer: Answer; order: string[] } | null>(null);
  const worker = useRef<Worker | null>(null);
  const orders = useRef(new Map<string, string[]>());
  const key = useMemo(() => JSON.stringify([across, graph.nodes.map((node) => node.id), graph.edges.map((edge) => edge.id)]), [graph, across]);
  useEffect(() => {
    const own = new LayoutWorker();
    own.onmessage = (event: MessageEvent<Answer>) => {
      const order = orders.current.get(event.data.key);
      if (order) set({ answer: event.data, order });
      orders.current.delete(event.data.key);
    };
    worker.current = own;
    return () => own.terminate();
  }, []);
  useEffect(() => {
    if (graph.nodes.length === 0) return;
    orders.current.set(key, graph.edges.map((edge) => edge.id));
    const question: Question = { key, nodes: graph.nodes.map((node) => node.id), edges: graph.edges.map(({ from, to }) => [from, to]), width: NODE.width, height: NODE.height, across };
    worker.current?.postMessage(question);
  }, [key]);
  return found;
}

const SCALES: [number, number] = [0.08, 2.5];

export function Stage({ graph, picked, onPick }: { graph: Graph; picked: string; onPick: (id: string) => void }) {
  const stage = useRef<HTMLDivElement>(null);
  const canvas = useRef<HTMLCanvasElement>(null);
  const [size, resize] = useState<Point>([0, 0]);
  const across = size[0] === 0 || size[0] > 620;
  const laid = useLayout(graph, across);
  const [camera, look] = useState<Camera>({ x: 0, y: 0, scale: 1 });
  const [hovered, hover] = useState("");
  const moved = useRef(false);

  useLayoutEffect(() => {
    const element = stage.current;
    if (!element) return;
    const watch = new ResizeObserver(() => resize([element.clientWidth, element.clientHeight]));
    watch.observe(element);
    return () => watch.disconnect();
  }, []);

  const fit = () => {
    if (!laid || size[0] === 0) return;
    moved.current = false;
    const { width, height } = laid.answer;
    const scale = Math.max(SCALES[0], Math.min(1.15, size[0] / width, size[1] / height));
    look({ scale, x: (size[0] - width * scale) / 2, y: (size[1] - height * scale) / 2 });
  };
  // As long as nobody has moved it, all of it is seen.
  useLayoutEffect(() => {
    if (!moved.current) fit();
  }, [laid, size[0], size[1]]);

  const all = useMemo<Way[]>(() => (laid ? ways(graph, laid.answer, laid.order, across) : []), [graph, laid, across]);
  const colours = scheme.value;
  useLayoutEffect(() => {
    if (!canvas.current) return;
    const frame = requestAnimationFrame(() => canvas.current && draw(canvas.current, { camera, ways: all, picked, hovered }));
    return () => cancelAnimationFrame(frame);
  }, [camera, all, picked, hovered, size, colours]);

  const zoom = (by: number, at: Point = [size[0] / 2, size[1] / 2]) => {
    moved.current = true;
    look((now) => {
      const scale = Math.max(SCALES[0], Math.min(SCALES[1], now.scale * by));
      return { scale, x: at[0] - ((at[0] - now.x) * scale) / now.scale, y: at[1] - ((at[1] - now.y) * scale) / now.scale };
    });
  };
  const pan = (dx: number, dy: number) => {
    moved.current = true;
    look((now) => ({ ...now, x: now.x + dx, y: now.y + dy }));
  };

  const pointers = useRef(new Map<number, Point>());
  const dragged = useRef(0);
  const inStage = (event: PointerEvent | WheelEvent): Point => {
    const box = stage.current?.getBoundingClientRect();
    return [event.clientX - (box?.left ?? 0), event.clientY - (box?.top ?? 0)];
  };
  const inPlane = ([x, y]: Point): Point => [(x - camera.x) / camera.scale, (y - camera.y) / camera.scale];
  const onDown = (event: PointerEvent) => {
    if ((event.target as Element).closest("button")) return;
    stage.current?.setPointerCapture(event.pointerId);
    pointers.current.set(event.pointerId, inStage(event));
    dragged.current = 0;
  };
  const onMove = (event: PointerEvent) => {
    const now = inStage(event);
    const before = pointers.current.get(event.pointerId);
    if (!before) {
      if (event.pointerType === "mouse") hover(edgeAt(all, inPlane(now), 7 / camera.scale));
      return;
    }
    const others = [...pointers.current].filter(([id]) => id !== event.pointerId);
    const other = others[0]?.[1];
    if (other) {
      const [wide, was] = [Math.hypot(now[0] - other[0], now[1] - other[1]), Math.hypot(before[0] - other[0], before[1] - other[1])];
      if (was > 0) zoom(wide / was, [(now[0] + other[0]) / 2, (now[1] + other[1]) / 2]);
    } else {
      pan(now[0] - before[0], now[1] - before[1]);
    }
    dragged.current += Math.hypot(now[0] - before[0], now[1] - before[1]);
    pointers.current.set(event.pointerId, now);
  };
  const onUp = (event: PointerEvent) => {
    if (!pointers.current.delete(event.pointerId) || dragged.current > 5) return;
    onPick(edgeAt(all, inPlane(inStage(event)), 9 / camera.scale));
  };
  useEffect(() => {
    const element = stage.current;
    const wheel = (event: WheelEvent) => {
      event.preventDefault();
      zoom(Math.exp(-event.deltaY * (event.deltaMode === 1 ? 0.05 : 0.0016)), inStage(event));
    };
    element?.addEventListener("wheel", wheel, { passive: false });
    return () => element?.removeEventListener("wheel", wheel);
  }, [size]);
  const onKey = (event: KeyboardEvent) => {
    const steps: Record<string, () => void> = {
      ArrowLeft: () => pan(60, 0), ArrowRight: () => pan(-60, 0), ArrowUp: () => pan(0, 60), ArrowDown: () => pan(0, -60),
      "+": () => zoom(1.25), "=": () => zoom(1.25), "-": () => zoom(0.8), "0": fit, Escape: () => onPick(""),
    };
    const step = steps[event.key];
    if (!step || event.ctrlKey || event.metaKey) return;
    step();
    event.preventDefault();
  };

  const near = useMemo(() => new Set(graph.edges.flatMap(({ id, from, to }) => (id === picked || from === picked || to === picked ? [from, to] : []))), [graph, picked]);
  return (
    <div
      ref={stage} class={`stage${hovered ? " over-edge" : ""}${camera.scale < 0.5 ? " far" : ""}`} role="group" aria-label="Graph of services. Tab goes from service to service; arrow keys move, plus and minus zoom, 0 shows everything." tabIndex={0}
      onPointerDown={onDown} onPointerMove={onMove} onPointerUp={onUp} onPointerCancel={(event) => pointers.current.delete(event.pointerId)} onPointerLeave={() => hover("")} onKeyDown={onKey}
    >
      <canvas ref={canvas} aria-hidden="true" />
      <div class="plane" style={{ transform: `translate(${camera.x}px, ${camera.y}px) scale(${camera.scale})` }}>
        {laid ? graph.nodes.map((node) => {
          const at = laid.answer.nodes.get(node.id);
          return at ? <NodeView key={node.id} node={node} x={at[0]} y={at[1]} picked={picked === node.id} faded={picked !== "" && picked !== node.id && !near.has(node.id)} onPick={onPick} /> : null;
        }) : null}
      </div>
      <div class="zoom">
        <button type="button" class="button square" aria-label="Zoom in" onClick={() => zoom(1.25)}><Icon name="plus" /></button>
        <button type="button" class="button square" aria-label="Zoom out" onClick={() => zoom(0.8)}><Icon name="minus" /></button>
        <button type="button" class="button square" aria-label="Show everything" onClick={fit}><Icon name="fit" /></button>
      </div>
      {laid ? null : <p class="waiting" role="status">Laying out …</p>}
    </div>
  );
}
