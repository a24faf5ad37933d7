// Icons, drawn here: strokes in the colour of the text beside them.

const PATHS = {
  overview: "M2.500 9.500h4v4h-4zM9.500 2.500h4v4h-4zM2.500 2.500h4v4h-4zM9.500 9.500h4v4h-4z",
  topology: "M5.500 3.500a2 2 0 1 1-4 0 2 2 0 0 1 4 0M14.500 8a2 2 0 1 1-4 0 2 2 0 0 1 4 0M5.500 12.500a2 2 0 1 1-4 0 2 2 0 0 1 4 0M5.300 4.400l5.400 2.700M5.300 11.600l5.400-2.700",
  services: "M2 3h12v4H2zM2 9h12v4H2zM4.500 5h.01M4.500 11h.01",
  traffic: "M1.500 8H4l2-5 3.500 10 2-5h3",
  policies: "M4 1.500h5.500L13 5v9.500H4zM9.500 1.500V5H13M6.500 8.500h4M6.500 11.500h4",
  identity: "M8 1.500l5.500 2v4.200c0 3.300-2.300 5.700-5.500 6.800-3.200-1.100-5.500-3.500-5.500-6.800V3.500zM5.500 8l2 2 3-3.500",
  control: "M8 5.500a2.500 2.500 0 1 0 0 5 2.500 2.500 0 0 0 0-5M8 1.500v2M8 12.500v2M1.500 8h2M12.500 8h2M3.400 3.400l1.400 1.400M11.200 11.200l1.400 1.400M3.400 12.600l1.400-1.400M11.200 4.800l1.400-1.400",
  search: "M11.500 7a4.500 4.500 0 1 1-9 0 4.500 4.500 0 0 1 9 0M10.300 10.300l3.700 3.700",
  menu: "M2 4h12M2 8h12M2 12h12",
  sun: "M8 5a3 3 0 1 0 0 6 3 3 0 0 0 0-6M8 1v1.500M8 13.500V15M1 8h1.500M13.500 8H15M3 3l1 1M12 12l1 1M3 13l1-1M12 4l1-1",
  moon: "M13.500 9.500A6 6 0 1 1 6.500 2.500a5 5 0 0 0 7 7z",
  copy: "M5.500 5.500v-3h8v8h-3M2.500 5.500h8v8h-8z",
  check: "M2.500 8.500l3.500 3.500 7.500-8",
  ok: "M14.500 8a6.500 6.500 0 1 1-13 0 6.500 6.500 0 0 1 13 0M5 8.200l2.200 2.200L11 6",
  warn: "M8 2l6.500 11.500h-13zM8 6.500v3.200M8 11.700v.1",
  bad: "M5.300 1.500h5.400l3.800 3.800v5.400l-3.800 3.800H5.300l-3.800-3.800V5.300zM8 4.700v4M8 11v.1",
  idle: "M14.500 8a6.500 6.500 0 1 1-13 0 6.500 6.500 0 0 1 13 0M5 8h6",
  info: "M14.500 8a6.500 6.500 0 1 1-13 0 6.500 6.500 0 0 1 13 0M8 7.500v4M8 4.700v.1",
  lock: "M3 7h10v7H3zM5 7V4.800a3 3 0 0 1 6 0V7",
  unlock: "M3 7h10v7H3zM5 7V4.800a3 3 0 0 1 5.800-1",
  breaker: "M1.500 8h4M10.500 8h4M5.500 8l4.200-3.800",
  close: "M3 3l10 10M13 3L3 13",
  play: "M4.500 2.500l8 5.500-8 5.500z",
  pause: "M5 3v10M11 3v10",
  plus: "M8 2.500v11M2.500 8h11",
  minus: "M2.500 8h11",
  fit: "M2 6V2h4M10 2h4v4M14 10v4h-4M6 14H2v-4",
  right: "M6 3l5 5-5 5",
  down: "M3 6l5 5 5-5",
  edit: "M2.500 13.500l.7-3 7.800-7.800 2.300 2.300-7.800 7.800zM9.500 4.200l2.300 2.300",
  trash: "M2.500 4h11M6 4V2h4v2M4 4l.7 10h6.600L12 4M6.700 7v4M9.300 7v4",
  group: "M2 5.500l6-3 6 3-6 3zM2 8.500l6 3 6-3M2 11l6 3 6-3",
  table: "M2 3h12v10H2zM2 6.500h12M6 6.500V13",
} as const;

export type IconName = keyof typeof PATHS;

/** Decoration, unless it is labelled. */
export function Icon({ name, label, tone }: { name: IconName; label?: string; tone?: string }) {
  const named = label ? { role: "img" as const, "aria-label": label } : { "aria-hidden": true as const };
  return (
    <svg class={`icon${tone ? ` tone-${tone}` : ""}`} viewBox="0 0 16 16" {...named}>
      <path d={PATHS[name]} />
    </svg>
  );
}

/** The product's mark: threads over and under. */
export function Mark() {
  return (
    <svg class="mark" viewBox="0 0 32 32" aria-hidden="true">
      <rect width="32" height="32" rx="7" />
      <path d="M6 11h6M20 11h6M6 21h14M11 6v14M11 25.500v.5M21 6v.5M21 12v14" fill="none" stroke="#fff" stroke-width="3" stroke-linecap="round" />
    </svg>
  );
}
