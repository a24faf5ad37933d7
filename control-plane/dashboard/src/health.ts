// How well a service or an edge fares, in one word that is the same on every page.
import type { Row } from "./api/types";
import { NONE, percent } from "./format";

export type Health = "ok" | "warn" | "bad" | "idle";

export const WORD: Record<Health, string> = { ok: "healthy", warn: "degraded", bad: "failing", idle: "no calls" };

/** Of a share of calls that succeed: below 95 % is failing, below 99 % degraded. */
export function health(success: number | null | undefined, openBreakers = 0): Health {
  if (success === null || success === undefined) return openBreakers > 0 ? "warn" : "idle";
  if (success < 0.95) return "bad";
  return success < 0.99 || openBreakers > 0 ? "warn" : "ok";
}

export const healthOf = (row: Row | undefined): Health => (row ? health(row.calls > 0 ? row.success : null, row.openBreakers) : "idle");

/** In words, for labels. */
export function spoken(row: Row | undefined): string {
  if (!row || row.calls === 0) return "no calls";
  const success = percent(row.success);
  return `${WORD[healthOf(row)]}, ${success === NONE ? "no answers yet" : `${success} success`}`;
}
