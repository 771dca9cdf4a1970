// How numbers and times are written.

export function duration(ms: number): string {
  if (!Number.isFinite(ms) || ms < 0) return "–";
  if (ms < 1000) return `${Math.round(ms)} ms`;
  const s = ms / 1000;
  if (s < 60) return `${s < 10 ? s.toFixed(1) : Math.round(s)} s`;
  const minutes = Math.floor(s / 60);
  if (minutes < 60) return `${minutes} min ${Math.round(s % 60)} s`;
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

export function ago(at: string, now_ms = Date.now()): string {
  const ms = now_ms - Date.parse(at);
  return ms < 2000 ? "now" : `${duration(ms).replace(/(\.\d| \d+ s$)/, "")} ago`;
}

export function bytes(n: number | undefined): string {
  if (n === undefined) return "";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let power = 0;
  while (n >= 1024 && power < units.length - 1) { n /= 1024; power += 1; }
  return `${n < 10 && power > 0 ? n.toFixed(1) : Math.round(n)} ${units[power]}`;
}

export const clock = (at: string | number) => new Date(at).toLocaleTimeString(undefined, { hour12: false });
/** The time of day, behind its date unless that is today's. */
export const moment = (at: string | number) =>
  new Date(at).toDateString() === new Date().toDateString() ? clock(at) : new Date(at).toLocaleString(undefined, { hour12: false });
export const date = (at: string) => new Date(at).toLocaleString(undefined, { hour12: false });
