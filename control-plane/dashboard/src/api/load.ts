// Documents that are asked for again and again while a page shows them.
import { useEffect, useState } from "preact/hooks";
import { ApiError, get, said, token } from "./client";
import { connection } from "./live";

export interface Loaded<T> {
  data: T | null;
  error: string | null;
  /** HTTP status of the error; 0: nothing answered. */
  status: number | null;
  reload: () => void;
}

/** The document at `path`, asked for every `every` milliseconds unless updates are paused; nothing where the path is null. */
export function useLoad<T>(path: string | null, every = 0): Loaded<T> {
  const [state, set] = useState<{ path: string | null; data: T | null; error: string | null; status: number | null }>({ path, data: null, error: null, status: null });
  const [turn, again] = useState(0);
  const user = token.value;
  useEffect(() => {
    if (path === null) return;
    const ended = new AbortController();
    let timer: ReturnType<typeof setTimeout> | undefined;
    const ask = async (first: boolean): Promise<void> => {
      if (first || connection.peek() !== "paused") {
        try {
          const data = await get<T>(path, ended.signal);
          set({ path, data, error: null, status: null });
        } catch (error) {
          if (ended.signal.aborted) return;
          const status = error instanceof ApiError ? error.status : 0;
          set((before) => ({ path, data: before.path === path ? before.data : null, error: said(error), status }));
          // What may not be seen, or is not there, will not be soon.
          if (status === 403 || status === 404) return;
        }
      }
      if (every > 0 && !ended.signal.aborted) timer = setTimeout(() => void ask(false), every);
    };
    void ask(true);
    return () => {
      ended.abort();
      clearTimeout(timer);
    };
  }, [path, every, turn, user]);
  const current = state.path === path;
  return { data: current ? state.data : null, error: current ? state.error : null, status: current ? state.status : null, reload: () => again((n) => n + 1) };
}
