// A small chart of a PromQL query. Its left gutter is as wide as the timeline's, so that both share one time axis.
import { useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import uPlot from "uplot";
import { range, type Series } from "../api";
import { usePoll } from "../live";
import { clock } from "../words";

export const GUTTER_PX = 72;
const COLOURS = ["#f2b84b", "#6fb7ff", "#7ddc9a", "#ff8f7a", "#c9a6ff", "#5fe0d8"];
const POINTS = 240;

interface Props {
  title: string; query: string; unit: string;
  /** The label that tells the series apart. */
  label: string;
  /** The last so many seconds, moving; or a fixed span in milliseconds since 1970. */
  last_s?: number; from_ms?: number; to_ms?: number;
  max?: number;
}

export function Curve({ title, query, unit, label, last_s, from_ms, to_ms, max }: Props) {
  const box = useRef<HTMLDivElement>(null);
  const chart = useRef<uPlot | null>(null);
  const empty = useSignal(true);
  const problem = useSignal<string | null>(null);
  const span = (): [number, number] => {
    const to = to_ms ?? Date.now();
    return [(from_ms ?? to - (last_s ?? 3600) * 1000) / 1000, to / 1000];
  };
  const draw = (series: Series[], [from, to]: [number, number]) => {
    empty.value = series.length === 0;
    chart.current?.destroy();
    chart.current = null;
    if (!box.current || series.length === 0) return;
    const times = [...new Set(series.flatMap((one) => one.values.map(([at]) => at)))].sort((a, b) => a - b);
    const columns = series.map((one) => {
      const at = new Map(one.values);
      return times.map((time) => (at.has(time) ? Number(at.get(time)) : null));
    });
    const axis = { stroke: "#8a8f9c", grid: { stroke: "#262a33", width: 1 }, ticks: { show: false }, font: "11px system-ui" };
    chart.current = new uPlot({
      width: box.current.clientWidth,
      height: 120,
      legend: { show: series.length > 1 },
      cursor: { drag: { x: false, y: false } },
      padding: [8, 0, 0, 0],
      scales: { x: { range: () => [from, to] }, y: { range: (_, low, high) => [Math.min(0, low ?? 0), Math.max(max ?? 0, high ?? 0, 1e-9) * (max ? 1 : 1.1)] } },
      axes: [{ ...axis, size: 24, values: (_, ticks) => ticks.map((tick) => clock(tick * 1000)) }, { ...axis, size: GUTTER_PX, values: (_, ticks) => ticks.map((tick) => `${tick.toLocaleString()} ${unit}`) }],
      series: [{}, ...series.map((one, number) => ({
        label: one.metric[label] ?? "value", stroke: COLOURS[number % COLOURS.length], width: 1.5, spanGaps: true,
        // A line needs two points; a short job may have one.
        points: { show: times.length < 3, size: 6 },
        value: (_: uPlot, value: number | null) => (value === null ? "–" : `${value.toFixed(1)} ${unit}`),
      }))],
    }, [times, ...columns] as uPlot.AlignedData, box.current);
  };
  const key = `${query} ${last_s ?? ""} ${from_ms ?? ""} ${to_ms ?? ""}`;
  // What happened at the end of a fixed span arrives a little after it.
  const settled = to_ms !== undefined && to_ms < Date.now() - 60_000;
  usePoll(key, settled ? 0 : 10_000, async (stop) => {
    const [from, to] = span();
    const step = Math.max(1, Math.ceil((to - from) / POINTS));
    // The last point is the end: what was looked at once, late in a job of a second, is to be seen.
    const first = to - Math.floor((to - from) / step) * step;
    draw(await range(query, first, to, step, stop), [from, to]);
  }, problem);
  useEffect(() => {
    const watch = new ResizeObserver(() => {
      if (box.current && chart.current) chart.current.setSize({ width: box.current.clientWidth, height: 120 });
    });
    if (box.current) watch.observe(box.current);
    return () => { watch.disconnect(); chart.current?.destroy(); };
  }, []);
  return (
    <figure class="curve">
      <figcaption>{title}</figcaption>
      <div ref={box} />
      {problem.value ? <p class="problem">{problem.value}</p> : empty.value && <p class="empty">no samples in this time</p>}
    </figure>
  );
}
