// One log record: a line, and all that is known of it when it is opened.
import { useSignal } from "@preact/signals";
import type { LogRecord } from "../api";
import { moment } from "../words";

const text = (value: unknown) => (typeof value === "string" ? value : JSON.stringify(value));

/** A value as the query language takes it. */
const quoted = (value: string) => `"${value.replace(/[\\"]/g, "\\$&")}"`;

export function Record({ record }: { record: LogRecord }) {
  const open = useSignal(false);
  return (
    <li class={`line is-${record.level ?? "unknown"}`}>
      <button type="button" aria-expanded={open.value} onClick={() => { open.value = !open.value; }}>
        <time dateTime={record.time} title={record.time}>{moment(record.time)}</time>{" "}
        {record.level && <b>{record.level}</b>} <span class="muted">{record.service}</span> <span class="body">{record.body}</span>
      </button>
      {open.value && <Facts record={record} />}
    </li>
  );
}

function Facts({ record }: { record: LogRecord }) {
  const narrow = (query: string) => `/logs?${new URLSearchParams({ query, from: "all" })}`;
  const field = (name: string, value: string | undefined, to?: string) =>
    value && <><dt>{name}</dt><dd><a href={to ?? narrow(`${name}:${quoted(value)}`)}>{value}</a></dd></>;
  const rest = { ...record.resource, ...record.attributes };
  return (
    <dl>
      <dt>time</dt><dd>{record.time}</dd>
      {field("service", record.service)}
      {field("host", record.host)}
      {field("job", record.job, record.job && `/jobs/${encodeURIComponent(record.job)}`)}
      {field("trace", record.trace_id)}
      {field("scope", record.scope)}
      {field("event", record.event)}
      {Object.entries(rest).map(([name, value]) => <><dt key={name}>{name}</dt><dd>{text(value)}</dd></>)}
    </dl>
  );
}
