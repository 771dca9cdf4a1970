// What goes on right now: work, queues, agents, alerts.
import { useSignal } from "@preact/signals";
import { get, type Agent, type Job, type Queue, type Status } from "../api";
import { useEvents, usePoll } from "../live";
import { Curve } from "../parts/curve";
import { Badge, Progress } from "../parts/status";
import { now_ms } from "../parts/tick";
import { ago, duration } from "../words";

interface Alert { labels: Record<string, string>; annotations: Record<string, string>; state: string; active_at?: string }

export function Overview() {
  const queues = useSignal<Queue[]>([]);
  const agents = useSignal<Agent[]>([]);
  const alerts = useSignal<Alert[]>([]);
  const recent = useSignal<Job[]>([]);
  const counts = useSignal<Partial<Record<Status, number>> | null>(null);
  const problem = useSignal<string | null>(null);
  usePoll("overview", 5000, async (stop) => {
    const [q, a, l, j, c] = await Promise.all([
      get<{ queues: Queue[] }>("/v1/queues", stop),
      get<{ agents: Agent[] }>("/v1/agents", stop),
      get<{ alerts: Alert[] }>("/v1/alerts", stop),
      get<{ jobs: Job[] }>("/v1/jobs?limit=20", stop),
      get<{ status: Partial<Record<Status, number>> }>("/v1/jobs/counts", stop),
    ]);
    queues.value = q.queues;
    agents.value = a.agents;
    alerts.value = l.alerts.filter((alert) => alert.state === "firing" || alert.state === "pending");
    recent.value = j.jobs;
    counts.value = c.status;
  }, problem);
  useEvents("/v1/jobs/events", {
    job: (data) => {
      const changed = JSON.parse(data) as Job;
      recent.value = [...recent.value.filter((job) => job.id !== changed.id), changed]
        .sort((a, b) => b.created_at.localeCompare(a.created_at)).slice(0, 20);
    },
  });
  return (
    <main>
      <h1>Overview</h1>
      {problem.value && <p class="problem" role="alert">{problem.value}</p>}
      {alerts.value.length > 0 && (
        <section class="alerts" aria-label="Alerts">
          {alerts.value.map((alert) => (
            <p class={`alert is-${alert.state}`} key={JSON.stringify(alert.labels)}>
              <Badge status={alert.state} /> <strong>{alert.labels.alertname}</strong> {alert.annotations.summary ?? alert.annotations.description}
              {alert.active_at && <span class="muted"> since {ago(alert.active_at, now_ms.value)}</span>}
            </p>
          ))}
        </section>
      )}
      <section class="cards" aria-label="Jobs by status">
        {(["queued", "running", "succeeded", "failed"] as Status[]).map((status) => (
          <a class="card" href={`/jobs?status=${status}`} key={status}><b>{counts.value ? (counts.value[status] ?? 0).toLocaleString() : "–"}</b> {status}</a>
        ))}
      </section>
      <div class="columns">
        <section>
          <h2>Queues</h2>
          <div class="scroll">
            <table>
              <thead><tr><th>Queue</th><th>Ready</th><th>In flight</th><th>Delayed</th><th>Oldest</th></tr></thead>
              <tbody>
                {queues.value.map((queue) => (
                  <tr key={queue.name}>
                    <td>{queue.name}{queue.is_dlq && <small class="tag">dead letters</small>}</td>
                    <td class="number">{queue.ready}</td><td class="number">{queue.in_flight}</td><td class="number">{queue.delayed}</td>
                    <td class="number">{queue.ready > 0 ? duration(queue.oldest_age_s * 1000) : ""}</td>
                  </tr>
                ))}
              </tbody>
            </table>
          </div>
          <Curve title="Messages ready" unit="" query={'sum by (queue) (backlot_queue_messages{state="ready"})'} label="queue" last_s={1800} />
        </section>
        <section>
          <h2>Agents</h2>
          {agents.value.length === 0 && <p class="empty">No agent has registered. Start one: <code>backlot-agent run</code></p>}
          {agents.value.map((agent) => (
            <p class="agent" key={agent.name}>
              <strong>{agent.name}</strong> <span class="muted">{agent.gpus.map((gpu) => `${gpu.name} (${gpu.executor})`).join(", ")}</span>
              <br />
              <span class={!agent.stopped && Date.parse(agent.last_seen_at) < now_ms.value - 60_000 ? "problem" : "muted"}>
                heard {ago(agent.last_seen_at, now_ms.value)}, {agent.attempts.length} under way{agent.stopped ? ", stopped" : agent.draining && ", draining"}
              </span>
            </p>
          ))}
          <Curve title="CPU of the agents" unit="%" query="100 * backlot_agent_cpu_utilisation_ratio" label="agent" last_s={1800} max={100} />
        </section>
      </div>
      <h2>Latest jobs</h2>
      <ul class="latest">
        {recent.value.slice(0, 8).map((job) => (
          <li key={job.id}>
            <a href={`/jobs/${encodeURIComponent(job.id)}`}><code>{job.id.slice(0, 13)}</code></a> {job.spec.type} <Badge status={job.status} /> <Progress job={job} />
            <span class="muted"> {ago(job.created_at, now_ms.value)}</span>
          </li>
        ))}
      </ul>
    </main>
  );
}
