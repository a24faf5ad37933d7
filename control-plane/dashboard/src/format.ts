// Numbers as people read them: with units, never rounded up to what they are not; a dash where there is no data.

/** What stands where there is no data. */
export const NONE = "–";

type Maybe = number | null | undefined;

const absent = (value: Maybe): value is null | undefined => value === null || value === undefined || !Number.isFinite(value);

/** `105/s`, `9.4/s`, `1.25k/s`: calls a second. */
export function rate(value: Maybe): string {
  return absent(value) ? NONE : `${count(value)}/s`;
}

/** `8`, `9.4`, `105`, `1.25k`, `3.1M`. */
export function count(value: Maybe): string {
  if (absent(value)) return NONE;
  const size = Math.abs(value);
  if (size >= 1e6) return `${digits(value / 1e6)}M`;
  if (size >= 1e4) return `${digits(value / 1e3)}k`;
  if (size >= 100 || Number.isInteger(value)) return Math.round(value).toString();
  return value.toFixed(size >= 10 ? 0 : size >= 0.095 ? 1 : 2);
}

const digits = (value: number) => (Math.abs(value) >= 100 ? value.toFixed(0) : value.toFixed(1));

/** `100 %`, `99.95 %`: a share of 0 to 1, rounded down, so that 100 % is all of them. */
export function percent(share: Maybe): string {
  if (absent(share)) return NONE;
  const hundredths = Math.floor(share * 10_000 + 1e-6);
  if (hundredths >= 10_000) return "100 %";
  if (hundredths === 0) return share > 0 ? "< 0.01 %" : "0 %";
  return `${(hundredths / 100).toFixed(hundredths % 100 === 0 ? 0 : hundredths < 1000 || hundredths > 9900 ? 2 : 1)} %`;
}

/** `0.8 ms`, `12 ms`, `1.20 s`. */
export function ms(value: Maybe): string {
  if (absent(value)) return NONE;
  if (value < 10) return `${value.toFixed(1)} ms`;
  if (value < 1000) return `${value.toFixed(0)} ms`;
  return `${(value / 1000).toFixed(value < 10_000 ? 2 : 1)} s`;
}

/** `512 B`, `1.5 KiB`, `54 MiB`. */
export function bytes(value: Maybe): string {
  if (absent(value)) return NONE;
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let scaled = value;
  let unit = 0;
  while (scaled >= 1024 && unit < units.length - 1) {
    scaled /= 1024;
    unit += 1;
  }
  return `${unit === 0 || scaled >= 100 ? scaled.toFixed(0) : scaled.toFixed(1)} ${units[unit] ?? ""}`;
}

/** `42 s`, `17 min`, `5 h`, `12 d`, `9.9 y`: a length of time in seconds. */
export function span(seconds: Maybe): string {
  if (absent(seconds)) return NONE;
  const size = Math.abs(seconds);
  if (size < 90) return `${Math.round(seconds)} s`;
  if (size < 90 * 60) return `${Math.round(seconds / 60)} min`;
  if (size < 36 * 3600) return `${Math.round(seconds / 3600)} h`;
  if (size < 365 * 86_400) return `${Math.round(seconds / 86_400)} d`;
  return `${(seconds / (365.25 * 86_400)).toFixed(1)} y`;
}

/** Seconds since 1970 of an RFC 3339 time or of a number of seconds. */
export function unix(time: string | number | null | undefined): number | null {
  if (time === null || time === undefined) return null;
  if (typeof time === "number") return time;
  const parsed = Date.parse(time);
  return Number.isNaN(parsed) ? null : parsed / 1000;
}

/** `17 min ago`, `in 23 h`, of seconds since 1970. */
export function relative(time: number | null, now = Date.now() / 1000): string {
  if (time === null) return NONE;
  const away = time - now;
  if (Math.abs(away) < 2) return "now";
  return away > 0 ? `in ${span(away)}` : `${span(-away)} ago`;
}

/** `14:03:27.512` in local time. */
export function clock(time: string | number | null | undefined, fraction = false): string {
  const seconds = unix(time);
  if (seconds === null) return NONE;
  const date = new Date(seconds * 1000);
  const pad = (value: number, length = 2) => value.toString().padStart(length, "0");
  const text = `${pad(date.getHours())}:${pad(date.getMinutes())}:${pad(date.getSeconds())}`;
  return fraction ? `${text}.${pad(date.getMilliseconds(), 3)}` : text;
}

/** `2026-11-22 14:03` in local time. */
export function moment(time: string | number | null | undefined): string {
  const seconds = unix(time);
  if (seconds === null) return NONE;
  const date = new Date(seconds * 1000);
  const pad = (value: number) => value.toString().padStart(2, "0");
  return `${date.getFullYear()}-${pad(date.getMonth() + 1)}-${pad(date.getDate())} ${pad(date.getHours())}:${pad(date.getMinutes())}`;
}

/** `1 call`, `3 calls`. */
export function plural(amount: number, one: string, many = `${one}s`): string {
  return `${count(amount)} ${amount === 1 ? one : many}`;
}

/** Namespace and own name of `namespace/name`. */
export function split(name: string): [string, string] {
  const at = name.indexOf("/");
  return at < 0 ? ["", name] : [name.slice(0, at), name.slice(at + 1)];
}

/** A word for the shell, quoted where it must be. */
export function shell(word: string): string {
  return /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`;
}
