// Each phase of a job's newest attempt beside the median of other jobs of its type.
import { useSignal } from "@preact/signals";
import { get, type Phases } from "../api";
import { usePoll } from "../live";
import { duration } from "../words";

/** A phase that took so many medians is worth a look. */
const SLOW_RATIO = 2;

export function PhaseTable({ id, running }: { id: string; running: boolean }) {
  const told = useSignal<Phases | null>(null);
  usePoll(`phases ${id} ${running}`, running ? 10_000 : 60_000, async (stop) => {
    told.value = await get<Phases>(`/v1/jobs/${encodeURIComponent(id)}/phases`, stop);
  });
  const shown = told.value;
  if (!shown || shown.compared === 0) return null; // there is nothing to stand beside
  const seconds = (s?: number) => (s === undefined ? "" : duration(s * 1000));
  return (
    <table class="phases">
      <caption>Attempt {shown.attempt} beside {shown.compared} other {shown.compared === 1 ? "job" : "jobs"} of type {shown.type}</caption>
      <thead><tr><th scope="col">Phase</th><th scope="col">Took</th><th scope="col">Median</th><th scope="col">90th percentile</th><th scope="col">Times the median</th></tr></thead>
      <tbody>
        {[...shown.phases, shown.whole].map((phase) => (
          <tr key={phase.phase} class={phase.ratio !== undefined && phase.ratio >= SLOW_RATIO ? "is-slow" : undefined}>
            <th scope="row">{phase.phase}</th>
            <td>{seconds(phase.seconds)}{phase.running ? " so far" : ""}</td>
            <td>{seconds(phase.median_s)}</td>
            <td>{seconds(phase.p90_s)}</td>
            <td>{phase.ratio === undefined ? "" : `${phase.ratio.toFixed(1)}×`}</td>
          </tr>
        ))}
      </tbody>
    </table>
  );
}
