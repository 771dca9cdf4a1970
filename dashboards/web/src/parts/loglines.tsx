// Log lines of a job: the ones that are there, then the live tail, newest at the end.
import type { Signal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import type { LogRecord } from "../api";
import { moment } from "../words";

interface Props { lines: LogRecord[]; dropped: number; chosen: Signal<LogRecord | null> }

export function LogLines({ lines, dropped, chosen }: Props) {
  const box = useRef<HTMLOListElement>(null);
  const follows = useRef(true);
  useEffect(() => {
    if (box.current && follows.current && !chosen.value) box.current.scrollTop = box.current.scrollHeight;
  }, [lines.length]);
  useEffect(() => {
    if (chosen.value) box.current?.querySelector(".chosen")?.scrollIntoView({ block: "nearest" });
  }, [chosen.value]);
  const scrolled = () => {
    if (box.current) follows.current = box.current.scrollTop + box.current.clientHeight > box.current.scrollHeight - 20;
  };
  return (
    <>
      {dropped > 0 && <p class="muted" role="status">{dropped} lines came too fast for the tail; reload to see them</p>}
      {lines.length === 0 ? <p class="empty">No log line carries this job's id yet.</p> : (
        <ol class="lines" ref={box} onScroll={scrolled} tabIndex={0} aria-label="Log lines">
          {lines.map((line) => (
            <li key={line.id} class={`line is-${(line.level ?? "unknown").toLowerCase()}${chosen.value === line ? " chosen" : ""}`}>
              <time dateTime={line.time}>{moment(line.time)}</time>{" "}
              {line.level && <b>{line.level.toLowerCase()}</b>} <span class="muted">{line.service}</span> <span class="body">{line.body}</span>
            </li>
          ))}
        </ol>
      )}
    </>
  );
}
