// Lists of objects of several kinds, kept fresh while they are shown.
import { useEffect, useState } from "preact/hooks";
import { ApiError, get, said, token } from "../api/client";
import { connection } from "../api/live";
import type { Resource, ResourceList } from "../api/types";
import { apiPath, type Kind } from "./kinds";

export interface Found {
  object: Resource;
  kind: Kind;
}

export interface Objects {
  found: Found[] | null;
  /** Kinds that may not be listed, or could not be. */
  refused: { kind: Kind; error: string; status: number }[];
  reload: () => void;
}

const EVERY = 5000;
/** Objects of one kind that are read: more would not be looked through by hand. */
const MOST = 1000;

export function useObjects(kinds: Kind[], namespace: string): Objects {
  const [state, set] = useState<Omit<Objects, "reload">>({ found: null, refused: [] });
  const [turn, again] = useState(0);
  const key = kinds.map(({ plural }) => plural).join();
  const user = token.value;
  useEffect(() => {
    const ended = new AbortController();
    let timer: ReturnType<typeof setTimeout> | undefined;
    set((before) => (turn === 0 ? { found: null, refused: [] } : before));
    const ask = async (first: boolean): Promise<void> => {
      if (first || connection.peek() !== "paused") {
        const refused: Objects["refused"] = [];
        const lists = await Promise.all(kinds.map(async (kind) => {
          try {
            const { items } = await get<ResourceList>(apiPath(kind, namespace, "", { limit: MOST.toString() }), ended.signal);
            return items.map((object): Found => ({ object, kind }));
          } catch (error) {
            refused.push({ kind, error: said(error), status: error instanceof ApiError ? error.status : 0 });
            return [];
          }
        }));
        if (ended.signal.aborted) return;
        set({ found: lists.flat(), refused });
      }
      timer = setTimeout(() => void ask(false), EVERY);
    };
    void ask(true);
    return () => {
      ended.abort();
      clearTimeout(timer);
    };
  }, [key, namespace, turn, user]);
  return { ...state, reload: () => again((n) => n + 1) };
}
