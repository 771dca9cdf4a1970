// What the http door says: the shapes of its JSON, and how to ask for them with the session's cookie.
import { signal } from "@preact/signals";

export type Status = "scheduled" | "waiting" | "queued" | "running" | "succeeded" | "failed" | "cancelled";
export const STATUSES: Status[] = ["scheduled", "waiting", "queued", "running", "succeeded", "failed", "cancelled"];

export interface Phase { name: string; started_at: string; ended_at?: string }
export interface Output { uri: string; content_type?: string; bytes?: number; width?: number; height?: number }
export interface Attempt {
  id: string; number: number; agent?: string; started_at: string; ended_at?: string; outcome?: string; reason?: string;
  phases: Phase[]; percent?: number; preview?: string; gpu_s?: number; cost_usd?: number; superseded_outputs?: Output[];
}
export interface Job {
  id: string; queue: string; status: Status; created_at: string; updated_at: string; started_at?: string; ended_at?: string;
  percent?: number; failures: number; cancel_requested: boolean; attempts: Attempt[]; outputs: Output[];
  error?: { message: string; permanent: boolean }; trace_id?: string;
  spec: {
    type: string; user_id?: string; project_id?: string; labels?: Record<string, string>; parameters?: Record<string, unknown>;
    inputs?: { uri: string }[]; priority: number; retry: { failures: number; backoff_s: number };
  };
}
export interface PhaseBeside {
  phase: string; seconds: number; running?: boolean; median_s?: number; p90_s?: number; of: number; ratio?: number;
}
export interface Phases { job_id: string; type: string; attempt: number; compared: number; whole: PhaseBeside; phases: PhaseBeside[] }
export interface Queue {
  name: string; ready: number; in_flight: number; delayed: number; oldest_age_s: number; is_job_queue: boolean; dlq?: string; is_dlq: boolean;
}
export interface Agent {
  name: string; version: string; host: string; types: string[]; gpus: { name: string; executor: string }[]; draining: boolean; stopped?: boolean;
  attempts: string[]; last_seen_at: string;
}
export interface LogRecord {
  id: string; time: string; level?: string; service?: string; host?: string; job?: string; trace_id?: string; body: string; attempt?: string;
  scope?: string; event?: string; attributes?: Record<string, unknown>; resource?: Record<string, unknown>;
}
export interface Series { metric: Record<string, string>; values: [number, string][] }

/** An error in the appliance's words. */
export class Refused extends Error {
  constructor(readonly status: number, readonly code: string, message: string, readonly hint?: string) {
    super(message);
  }
}

/** Who is signed in; null: nobody; undefined: not asked yet. */
export const who = signal<{ key_id: string; role: string } | null | undefined>(undefined);

export async function call<T>(method: string, path: string, body?: unknown, stop?: AbortSignal): Promise<T> {
  const response = await fetch(path, {
    method,
    headers: body === undefined ? {} : { "content-type": "application/json" },
    body: body === undefined ? undefined : JSON.stringify(body),
    credentials: "same-origin",
    signal: stop,
  });
  if (response.status === 204) return undefined as T;
  const text = await response.text();
  if (response.ok) return JSON.parse(text) as T;
  if (response.status === 401 && path !== "/v1/session") who.value = null;
  throw refusal(response.status, text);
}

function refusal(status: number, text: string): Refused {
  try {
    const said = JSON.parse(text);
    if (typeof said.error === "string") return new Refused(status, said.errorType ?? "error", said.error);
    return new Refused(status, said.error.code, said.error.message, said.error.hint ?? undefined);
  } catch {
    return new Refused(status, String(status), `the appliance answered ${status}`);
  }
}

export const get = <T,>(path: string, stop?: AbortSignal) => call<T>("GET", path, undefined, stop);

/** A PromQL range query. Times in seconds since 1970. */
export async function range(query: string, from_s: number, to_s: number, step_s: number, stop?: AbortSignal): Promise<Series[]> {
  const asked = new URLSearchParams({ query, start: String(from_s), end: String(to_s), step: String(step_s) });
  const said = await get<{ data: { result: Series[] } }>(`/api/v1/query_range?${asked}`, stop);
  return said.data.result;
}

/** Address of an artifact on the http door, from its s3:// URI. */
export const artifact = (uri: string) => "/v1/artifacts/" + path(uri);

/** Address of a small picture of it. */
export const preview = (uri: string, side: number) => `/v1/previews/${path(uri)}?side=${side}`;

const path = (uri: string) => uri.replace(/^s3:\/\//, "").split("/").map(encodeURIComponent).join("/");
