// All jobs, newest first, filtered by what the address bar says, changing as they change.
import { useSignal } from "@preact/signals";
import { get, STATUSES, type Job } from "../api";
import { useEvents, usePoll } from "../live";
import { Badge, Progress } from "../parts/status";
import { now_ms } from "../parts/tick";
import { filter, place } from "../router";
import { ago, duration } from "../words";

const FILTERS = ["status", "type", "user", "project", "queue", "q"] as const;
const PAGE = 50;

interface Answer { jobs: Job[]; cursor?: string | null }

function question(): string {
  const asked = new URLSearchParams({ limit: String(PAGE) });
  for (const name of FILTERS) {
    const value = place.value.query.get(name);
    if (value) asked.set(name, value);
  }
  return asked.toString();
}

/** Whether a job that has just changed belongs on the page. */
function fits(job: Job): boolean {
  const query = place.value.query;
  const is = (name: string, value: string | undefined) => !query.get(name) || query.get(name) === value;
  const q = query.get("q");
  return is("status", job.status) && is("type", job.spec.type) && is("user", job.spec.user_id) && is("project", job.spec.project_id)
    && is("queue", job.queue) && (!q || job.id.includes(q) || (job.error?.message ?? "").includes(q));
}

export function Jobs() {
  const jobs = useSignal<Job[] | null>(null);
  const cursor = useSignal<string | null>(null);
  const answered = useSignal("");
  const problem = useSignal<string | null>(null);
  const asked = question();
  const load = async (stop?: AbortSignal) => {
    const said = await get<Answer>(`/v1/jobs?${asked}`, stop);
    if (question() !== asked) return; // the filters have moved on meanwhile
    jobs.value = said.jobs;
    cursor.value = said.cursor ?? null;
    answered.value = asked;
  };
  usePoll(asked, 30_000, load, problem);
  useEvents("/v1/jobs/events", {
    job: (data) => {
      const changed = JSON.parse(data) as Job;
      const others = (jobs.value ?? []).filter((job) => job.id !== changed.id);
      const listed = fits(changed) ? [...others, changed] : others;
      jobs.value = listed.sort((a, b) => b.created_at.localeCompare(a.created_at) || b.id.localeCompare(a.id)).slice(0, Math.max(PAGE, others.length));
    },
    lagged: () => void load().catch(() => undefined),
  });
  const more = async () => {
    const said = await get<Answer>(`/v1/jobs?${asked}&cursor=${encodeURIComponent(cursor.value ?? "")}`);
    if (question() !== asked) return;
    jobs.value = [...(jobs.value ?? []), ...said.jobs];
    cursor.value = said.cursor ?? null;
  };
  // Until the answer to new filters is here, the old rows are sieved: never a row under a filter that it does not pass.
  const waits = answered.value !== asked;
  const listed = waits ? jobs.value?.filter(fits) : jobs.value;
  const value = (name: string) => place.value.query.get(name) ?? "";
  const change = (event: Event) => {
    const field = event.currentTarget as HTMLInputElement | HTMLSelectElement;
    filter({ [field.name]: field.value.trim() });
  };
  return (
    <main>
      <h1>Jobs</h1>
      <form class="filters" role="search" onSubmit={(event) => event.preventDefault()}>
        <label>Status
          <select name="status" value={value("status")} onChange={change}>
            <option value="">any</option>
            {STATUSES.map((status) => <option value={status} key={status}>{status}</option>)}
          </select>
        </label>
        <label>Type <input name="type" value={value("type")} onChange={change} placeholder="image.upscale" /></label>
        <label>Project <input name="project" value={value("project")} onChange={change} /></label>
        <label>User <input name="user" value={value("user")} onChange={change} /></label>
        <label>Id or error <input name="q" type="search" value={value("q")} onChange={change} /></label>
      </form>
      {problem.value && <p class="problem" role="alert">{problem.value}</p>}
      {!waits && listed?.length === 0 && <p class="empty">No job fits. Submit one: <code>backlot job submit --type image.upscale --input frame.png --param scale=2</code></p>}
      {!!listed?.length && (
        <div class="scroll" aria-busy={waits}>
          <table>
            <thead><tr><th>Job</th><th>Type</th><th>Status</th><th>Progress</th><th>Attempts</th><th>Took</th><th>Created</th><th>Error</th></tr></thead>
            <tbody>
              {listed.map((job) => (
                <tr key={job.id}>
                  <td><a href={`/jobs/${encodeURIComponent(job.id)}`}><code>{job.id.slice(0, 13)}</code></a></td>
                  <td>{job.spec.type}</td>
                  <td><Badge status={job.status} /></td>
                  <td><Progress job={job} /></td>
                  <td class="number">{job.attempts.length}</td>
                  <td class="number">{job.started_at ? duration((job.ended_at ? Date.parse(job.ended_at) : now_ms.value) - Date.parse(job.started_at)) : ""}</td>
                  <td title={job.created_at}>{ago(job.created_at, now_ms.value)}</td>
                  <td class="clip" title={job.error?.message}>{job.error?.message}</td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
      {!waits && cursor.value && <button type="button" class="quiet" onClick={more}>Show more</button>}
    </main>
  );
}
