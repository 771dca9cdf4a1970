// Where a job stands, as a word with a colour; never as a colour alone.
import type { Job, Status } from "../api";

export const Badge = ({ status }: { status: Status | string }) => <span class={`badge is-${status}`}>{status}</span>;

export function Progress({ job }: { job: Job }) {
  if (job.status !== "running" || job.percent === undefined) return null;
  return <progress max={100} value={job.percent} aria-label={`${Math.round(job.percent)} percent`}>{job.percent} %</progress>;
}

export const isFinal = (status: Status) => status === "succeeded" || status === "failed" || status === "cancelled";
