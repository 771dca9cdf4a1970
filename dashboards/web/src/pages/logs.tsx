// Log search: what the address asks for, how many there are over time, the records; or the same question followed live.
import { useSignal } from "@preact/signals";
import { useEffect, useLayoutEffect, useRef } from "preact/hooks";
import { get, Refused, type LogRecord } from "../api";
import { useEvents, usePoll } from "../live";
import { Histogram, type Counts } from "../parts/histogram";
import { Record } from "../parts/record";
import { filter, place } from "../router";

const SPANS = [["15m", "15 minutes"], ["1h", "1 hour"], ["6h", "6 hours"], ["24h", "24 hours"], ["7d", "7 days"], ["", "everything"]] as const;
const PAGE = 100;
/** Most lines of the live tail on the page, and how often it is drawn. */
const TAIL_MAX = 500;
const TAIL_EVERY_MS = 200;

interface Answer { records: LogRecord[]; next_cursor: string | null; set_aside?: string[] }

function asked(extra: { [name: string]: string } = {}): string {
  const query = place.value.query;
  const asks = new URLSearchParams(extra);
  asks.set("query", query.get("query") ?? "");
  const from = query.get("from") ?? "1h";
  if (from !== "all") asks.set("from", from);
  const to = query.get("to");
  if (to) asks.set("to", to);
  return asks.toString();
}

export function Logs() {
  const follows = place.value.query.get("live") === "1";
  const text = place.value.query.get("query") ?? "";
  const from = place.value.query.get("from") ?? "1h";
  const to = place.value.query.get("to");
  const ask = (event: Event) => {
    event.preventDefault();
    const field = new FormData(event.currentTarget as HTMLFormElement).get("query");
    filter({ query: String(field ?? "").trim() });
  };
  const span = (event: Event) => filter({ from: (event.currentTarget as HTMLSelectElement).value || "all", to: "" });
  const custom = !!to || !["all", ...SPANS.map(([value]) => value as string)].includes(from);
  return (
    <main>
      <h1>Logs</h1>
      <form class="filters" role="search" onSubmit={ask}>
        <label class="wide">Query <input name="query" type="search" key={text} defaultValue={text} placeholder='level:error "out of memory" job:01J…' spellcheck={false} /></label>
        {!follows && (
          <label>Time
            <select value={custom ? "custom" : from === "all" ? "" : from} onChange={span}>
              {custom && <option value="custom">{`${from}${to ? ` to ${to}` : ""}`}</option>}
              {SPANS.map(([value, name]) => <option value={value} key={name}>{value ? `last ${name}` : name}</option>)}
            </select>
          </label>
        )}
        <div class="actions">
          <button type="submit">Search</button>
          <button type="button" class="quiet" aria-pressed={follows} onClick={() => filter({ live: follows ? "" : "1" })}>
            {follows ? "Stop following" : "Follow live"}
          </button>
        </div>
      </form>
      {follows ? <Tail query={text} key={text} /> : <Found key={asked()} />}
    </main>
  );
}

/** What was refused, with the mark under the character where the query is wrong. */
function Problem({ error }: { error: unknown }) {
  if (!error) return null;
  return (
    <div class="problem" role="alert">
      {error instanceof Error ? error.message : String(error)}
      {error instanceof Refused && error.hint && <pre>{error.hint}</pre>}
    </div>
  );
}

function Found() {
  const records = useSignal<LogRecord[] | null>(null);
  const cursor = useSignal<string | null>(null);
  const counts = useSignal<Counts | null>(null);
  const problem = useSignal<unknown>(null);
  const load = async (stop: AbortSignal) => {
    try {
      const [page, told] = await Promise.all([
        get<Answer>(`/v1/logs?${asked({ limit: String(PAGE) })}`, stop),
        get<Counts>(`/v1/logs/histogram?${asked({ by: "level" })}`, stop),
      ]);
      [records.value, cursor.value, counts.value, problem.value] = [page.records, page.next_cursor, told, null];
    } catch (error) {
      if (!stop.aborted) problem.value = error;
    }
  };
  usePoll(asked(), 0, load);
  const more = async () => {
    try {
      const page = await get<Answer>(`/v1/logs?${asked({ limit: String(PAGE), cursor: cursor.value ?? "" })}`);
      records.value = [...(records.value ?? []), ...page.records];
      cursor.value = page.next_cursor;
    } catch (error) {
      problem.value = error;
    }
  };
  const aside = counts.value?.set_aside ?? [];
  return (
    <>
      <Problem error={problem.value} />
      {aside.length > 0 && <p class="problem" role="status">{`${aside.length} windows do not read and may hold more: ${aside.join(", ")}`}</p>}
      {counts.value && (
        <section aria-label="Over time">
          <h2>{`${counts.value.matched.toLocaleString()} ${counts.value.matched === 1 ? "record" : "records"}`}</h2>
          <Histogram counts={counts.value} chosen={(from, to) => filter({ from, to })} />
        </section>
      )}
      {records.value?.length === 0 && <p class="empty">Nothing answers to this. Words, <code>field:value</code>, <code>"phrases"</code>, <code>/regular expressions/</code>; a longer time?</p>}
      {!!records.value?.length && (
        <ol class="lines tall" aria-label="Records, newest first">
          {records.value.map((record) => <Record record={record} key={record.id} />)}
        </ol>
      )}
      {cursor.value && <button type="button" class="quiet" onClick={more}>Show older</button>}
    </>
  );
}

function Tail({ query }: { query: string }) {
  const lines = useSignal<LogRecord[]>([]);
  const dropped = useSignal(0);
  const rate = useSignal(0);
  const box = useRef<HTMLOListElement>(null);
  const waiting = useRef<string[]>([]);
  const sticks = useRef(true);
  const seen = useRef(0);
  useEvents(`/v1/logs/tail?query=${encodeURIComponent(query)}`, {
    record: (data) => {
      seen.current += 1;
      waiting.current.push(data);
      // More than fits on the page between two drawings is counted and never read.
      if (waiting.current.length > TAIL_MAX) dropped.value += waiting.current.splice(0, TAIL_MAX / 2).length;
    },
    dropped: (data) => { dropped.value += (JSON.parse(data) as { count: number }).count; },
  });
  useEffect(() => {
    let since = performance.now();
    const timer = setInterval(() => {
      const now = performance.now();
      if (now - since >= 1000) {
        rate.value = Math.round(seen.current * 1000 / (now - since));
        [seen.current, since] = [0, now];
      }
      if (waiting.current.length === 0 || !sticks.current) return;
      const arrived = waiting.current.map((data) => JSON.parse(data) as LogRecord);
      waiting.current = [];
      lines.value = [...lines.value, ...arrived].slice(-TAIL_MAX);
    }, TAIL_EVERY_MS);
    return () => clearInterval(timer);
  }, []);
  // Before anything is drawn: a scroll event that came in between would take the new lines for lines that the reader has left.
  useLayoutEffect(() => {
    if (box.current && sticks.current) box.current.scrollTop = box.current.scrollHeight;
  }, [lines.value]);
  const scrolled = () => {
    if (box.current) sticks.current = box.current.scrollTop + box.current.clientHeight > box.current.scrollHeight - 40;
  };
  return (
    <>
      <p class="muted" role="status">
        {`Following, ${rate.value} a second, the newest ${TAIL_MAX} are shown. Scroll up to hold still.`}
        {dropped.value > 0 && <b class="problem">{` ${dropped.value.toLocaleString()} came too fast to be shown; search finds them.`}</b>}
      </p>
      {lines.value.length === 0 && <p class="empty">Waiting for a record that answers.</p>}
      <ol class="lines tall tail" ref={box} onScroll={scrolled} tabIndex={0} aria-label="Records as they arrive">
        {lines.value.map((record) => <Record record={record} key={record.id} />)}
      </ol>
    </>
  );
}
