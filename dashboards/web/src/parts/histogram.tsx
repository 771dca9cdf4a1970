// How many in each stretch of time, stacked by level. A click narrows the time to one stretch.
import { date, moment } from "../words";

export interface Counts {
  matched: number; begin?: string; step_s: number; counts: number[]; by?: { value: string; counts: number[] }[]; set_aside?: string[];
}

/** From the bottom up: what is worst stands lowest, where it is seen when it is little. */
const LEVELS = ["fatal", "error", "warn", "info", "debug", "trace"];
const HEIGHT = 90;

export function Histogram({ counts, chosen }: { counts: Counts; chosen: (from: string, to: string) => void }) {
  const most = Math.max(1, ...counts.counts);
  const begin_ms = Date.parse(counts.begin ?? "");
  if (counts.counts.length === 0 || Number.isNaN(begin_ms)) return null;
  const series = LEVELS.flatMap((level) => counts.by?.find((one) => one.value === level) ?? []);
  const at = (stretch: number) => new Date(begin_ms + stretch * counts.step_s * 1000);
  const width = 1000 / counts.counts.length;
  const bar = (stretch: number, total: number) => {
    let top = HEIGHT;
    const piece = (count: number, name: string) => {
      const height = count * HEIGHT / most;
      top -= height;
      return count > 0 && <rect key={name} class={`is-${name}`} x={stretch * width} y={top} width={Math.max(width - 1, 0.5)} height={height} />;
    };
    const named = series.map((one) => piece(one.counts[stretch] ?? 0, one.value));
    const rest = total - series.reduce((sum, one) => sum + (one.counts[stretch] ?? 0), 0);
    const pick = () => chosen(at(stretch).toISOString(), new Date(at(stretch + 1).getTime() - 1).toISOString());
    return (
      <g key={stretch}>
        {named}
        {piece(rest, "none")}
        <rect class="reach" x={stretch * width} y={0} width={width} height={HEIGHT} onClick={pick}>
          <title>{`${date(at(stretch).toISOString())}: ${total}${series.map((one) => one.counts[stretch] ? `, ${one.value} ${one.counts[stretch]}` : "").join("")}`}</title>
        </rect>
      </g>
    );
  };
  return (
    <>
      <svg class="histogram" viewBox={`0 0 1000 ${HEIGHT}`} preserveAspectRatio="none" role="img" aria-label={`${counts.matched} records over time, ${most} at most in one stretch`}>
        {counts.counts.map((total, stretch) => bar(stretch, total))}
      </svg>
      <div class="facts"><span>{date(at(0).toISOString())}</span><span class="grow" /><span>{moment(at(counts.counts.length).getTime())}</span></div>
    </>
  );
}
