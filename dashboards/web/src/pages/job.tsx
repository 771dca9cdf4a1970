// One job: why did it fail, how long did each phase take, what did the machine do meanwhile, what came out?
import { useSignal } from "@preact/signals";
import { call, get, Refused, type Job, type LogRecord } from "../api";
import { useEvents, usePoll } from "../live";
import { Curve } from "../parts/curve";
import { LogLines } from "../parts/loglines";
import { Outputs } from "../parts/outputs";
import { PhaseTable } from "../parts/phases";
import { Badge, isFinal, Progress } from "../parts/status";
import { now_ms } from "../parts/tick";
import { phaseTotals, Timeline } from "../parts/timeline";
import { date, duration } from "../words";

const LINES_MAX = 2000;

export function JobPage({ id }: { id: string }) {
  const job = useSignal<Job | null>(null);
  const lines = useSignal<LogRecord[]>([]);
  const dropped = useSignal(0);
  const chosen = useSignal<LogRecord | null>(null);
  const problem = useSignal<string | null>(null);
  const path = `/v1/jobs/${encodeURIComponent(id)}`;
  const query = encodeURIComponent(`job:"${id}"`);

  usePoll(path, 30_000, async (stop) => { job.value = await get<Job>(path, stop); }, problem);
  useEvents(`${path}/events`, { job: (data) => { job.value = JSON.parse(data) as Job; } });
  // The index is asked again now and then: it also has what was written before the tail began.
  usePoll(`logs ${id}`, 5000, async (stop) => {
    const said = await get<{ records: LogRecord[] }>(`/v1/logs?query=${query}&limit=1000`, stop);
    const known = new Set(said.records.map(identity));
    const fresh = lines.value.filter((line) => !known.has(identity(line)));
    lines.value = [...said.records, ...fresh].sort((a, b) => a.time.localeCompare(b.time)).slice(-LINES_MAX);
  });
  useEvents(`/v1/logs/tail?query=${query}`, {
    record: (data) => {
      const line = JSON.parse(data) as LogRecord;
      if (!lines.value.some((other) => identity(other) === identity(line))) lines.value = [...lines.value, line].slice(-LINES_MAX);
    },
    dropped: (data) => { dropped.value += Number(JSON.parse(data).count ?? 0); },
  });

  const act = async (verb: "cancel" | "retry") => {
    try {
      job.value = await call<Job>("POST", `${path}/${verb}`);
      problem.value = null;
    } catch (error) {
      problem.value = error instanceof Refused ? error.message : String(error);
    }
  };

  const shown = job.value;
  if (!shown) {
    return <main><h1>Job</h1>{problem.value ? <p class="problem" role="alert">{problem.value}</p> : <p class="muted">one moment…</p>}</main>;
  }
  const from_ms = Date.parse(shown.created_at);
  const end_ms = shown.ended_at ? Date.parse(shown.ended_at) : now_ms.value;
  const to_ms = Math.max(end_ms, from_ms + 1000);
  const agent = [...shown.attempts].reverse().find((attempt) => attempt.agent)?.agent;
  const gpu_s = shown.attempts.reduce((sum, attempt) => sum + (attempt.gpu_s ?? 0), 0);
  const cost = shown.attempts.reduce((sum, attempt) => sum + (attempt.cost_usd ?? 0), 0);
  const superseded = shown.attempts.flatMap((attempt) => attempt.superseded_outputs ?? []);
  const only = agent ? `{agent="${agent.replaceAll("\\", "\\\\").replaceAll('"', '\\"')}"}` : "";
  const fixed = isFinal(shown.status) ? to_ms : undefined;
  return (
    <main>
      <p class="crumbs"><a href="/jobs">Jobs</a></p>
      <h1><code>{shown.id}</code> <Badge status={shown.status} /></h1>
      <p class="facts">
        <span>{shown.spec.type}</span>
        <span>priority {shown.spec.priority}</span>
        {shown.spec.user_id && <span>user <a href={`/jobs?user=${encodeURIComponent(shown.spec.user_id)}`}>{shown.spec.user_id}</a></span>}
        {shown.spec.project_id && <span>project <a href={`/jobs?project=${encodeURIComponent(shown.spec.project_id)}`}>{shown.spec.project_id}</a></span>}
        {Object.entries(shown.spec.labels ?? {}).map(([name, value]) => <span key={name}>{name} {value}</span>)}
        <span title={shown.created_at}>created {date(shown.created_at)}</span>
        <span>{duration(end_ms - from_ms)} in all</span>
        {gpu_s > 0 && <span>{gpu_s.toFixed(1)} GPU s</span>}
        {cost > 0 && <span>${cost.toFixed(4)}</span>}
      </p>
      <p class="actions">
        <Progress job={shown} />
        {!isFinal(shown.status) && <button type="button" onClick={() => act("cancel")} disabled={shown.cancel_requested}>{shown.cancel_requested ? "Cancelling…" : "Cancel"}</button>}
        {(shown.status === "failed" || shown.status === "cancelled") && <button type="button" onClick={() => act("retry")}>Retry</button>}
        <a href="#log">Log lines</a> <a href="#output">Output</a>
      </p>
      {problem.value && <p class="problem" role="alert">{problem.value}</p>}
      {shown.error && (
        <section class="failure" aria-label="Error">
          <h2>Why it failed</h2>
          <p>{shown.error.message}</p>
          <p class="muted">{shown.error.permanent ? "Permanent: the same input would fail again." : `Transient: ${shown.failures} of ${shown.spec.retry.failures} failures.`}</p>
        </section>
      )}
      <section>
        <h2>Where the time went</h2>
        <Timeline attempts={shown.attempts} from_ms={from_ms} to_ms={to_ms} now_ms={now_ms.value} lines={lines.value} onLine={(line) => { chosen.value = line; }} />
        <p class="facts">{phaseTotals(shown.attempts, now_ms.value).map(([name, ms]) => <span key={name}><i class={`dot is-${name}`} /> {name} {duration(ms)}</span>)}</p>
        {shown.attempts.length > 0 && <PhaseTable id={shown.id} running={!isFinal(shown.status)} />}
        <Curve title={`CPU of ${agent ?? "the agents"}`} unit="%" query={`100 * backlot_agent_cpu_utilisation_ratio${only}`} label="agent" from_ms={from_ms} to_ms={fixed} max={100} />
        <Curve title="GPU" unit="%" query={`100 * backlot_agent_gpu_utilisation_ratio${only}`} label="gpu" from_ms={from_ms} to_ms={fixed} max={100} />
        {shown.attempts.filter((attempt) => attempt.reason).map((attempt) => (
          <p key={attempt.id}>attempt {attempt.number}: <Badge status={attempt.outcome ?? "running"} /> {attempt.reason}</p>
        ))}
      </section>
      <div class="columns">
        <section id="output">
          <h2>Output</h2>
          {shown.outputs.length === 0 ? <p class="empty">Nothing has come out yet.</p> : <Outputs outputs={shown.outputs} />}
          {superseded.length > 0 && <details><summary>Superseded by a newer attempt ({superseded.length})</summary><Outputs outputs={superseded} /></details>}
        </section>
        <section>
          <h2>Parameters</h2>
          <pre tabIndex={0}>{JSON.stringify({ parameters: shown.spec.parameters ?? {}, inputs: shown.spec.inputs ?? [], labels: shown.spec.labels ?? {}, retry: shown.spec.retry }, null, 2)}</pre>
          {shown.trace_id && <p class="muted">Trace <a href={`/v1/traces/${shown.trace_id}`} target="_blank" rel="noreferrer"><code>{shown.trace_id}</code></a></p>}
        </section>
      </div>
      <section id="log">
        <h2>Log lines</h2>
        <LogLines lines={lines.value} dropped={dropped.value} chosen={chosen} />
      </section>
    </main>
  );
}

const identity = (line: LogRecord) => line.id;
