// The attempts of a job as bars of phases on one time axis, with a mark for each log line.
import type { Attempt, LogRecord } from "../api";
import { clock, duration } from "../words";
import { GUTTER_PX } from "./curve";

interface Props { attempts: Attempt[]; from_ms: number; to_ms: number; now_ms: number; lines: LogRecord[]; onLine: (line: LogRecord) => void }

export function Timeline({ attempts, from_ms, to_ms, now_ms, lines, onLine }: Props) {
  const width = Math.max(1, to_ms - from_ms);
  const percent = (at_ms: number) => `${(100 * Math.min(Math.max(at_ms - from_ms, 0), width)) / width}%`;
  const ticks = [0, 0.25, 0.5, 0.75, 1].map((share) => from_ms + share * width);
  return (
    <div class="timeline" role="group" aria-label="Phases of each attempt over time">
      {attempts.map((attempt) => (
        <div class="lane" key={attempt.id}>
          <span class="lane-name" style={{ width: `${GUTTER_PX}px` }}>attempt {attempt.number}</span>
          <div class="lane-bar">
            {attempt.phases.map((phase, number) => {
              const start = Date.parse(phase.started_at);
              const end = phase.ended_at ? Date.parse(phase.ended_at) : attempt.ended_at ? Date.parse(attempt.ended_at) : now_ms;
              const share = (100 * (Math.min(end, to_ms) - Math.max(start, from_ms))) / width;
              return (
                <span
                  key={number}
                  class={`phase is-${phase.name}`}
                  title={`${phase.name}: ${duration(end - start)} (${clock(start)} to ${clock(end)})`}
                  style={{ left: percent(start), width: `max(2px, ${Math.max(0, share)}%)` }}
                >
                  {share > 7 ? phase.name : ""}
                </span>
              );
            })}
          </div>
        </div>
      ))}
      <div class="lane">
        <span class="lane-name" style={{ width: `${GUTTER_PX}px` }}>log</span>
        <div class="lane-bar marks">
          {lines.map((line, number) => (
            <button
              type="button" key={number} class={`mark is-${(line.level ?? "info").toLowerCase()}`} tabIndex={-1}
              title={`${clock(line.time)} ${line.body.slice(0, 120)}`} style={{ left: percent(Date.parse(line.time)) }} onClick={() => onLine(line)}
            />
          ))}
        </div>
      </div>
      <div class="lane axis">
        <span class="lane-name" style={{ width: `${GUTTER_PX}px` }} />
        <div class="lane-bar">{ticks.map((at, number) => <span key={number} class="tick" style={{ left: percent(at) }}>{clock(at)}</span>)}</div>
      </div>
    </div>
  );
}

/** What each phase took, summed over the attempts, longest first. */
export function phaseTotals(attempts: Attempt[], now_ms: number): [string, number][] {
  const totals = new Map<string, number>();
  for (const attempt of attempts) {
    for (const phase of attempt.phases) {
      const end = phase.ended_at ? Date.parse(phase.ended_at) : attempt.ended_at ? Date.parse(attempt.ended_at) : now_ms;
      totals.set(phase.name, (totals.get(phase.name) ?? 0) + Math.max(0, end - Date.parse(phase.started_at)));
    }
  }
  return [...totals].sort((a, b) => b[1] - a[1]);
}
