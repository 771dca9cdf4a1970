// The dashboard: one page whose address says what it shows.
import "uplot/dist/uPlot.min.css";
import "./style.css";
import { render } from "preact";
import { useEffect } from "preact/hooks";
import { call, get, who } from "./api";
import { live } from "./live";
import { place } from "./router";
import { JobPage } from "./pages/job";
import { Jobs } from "./pages/jobs";
import { Logs } from "./pages/logs";
import { Overview } from "./pages/overview";
import { SignIn } from "./pages/signin";

function Page() {
  const path = place.value.path;
  const job = /^\/jobs\/([^/]+)$/.exec(path);
  if (job?.[1]) return <JobPage key={job[1]} id={decodeURIComponent(job[1])} />;
  if (path === "/jobs") return <Jobs />;
  if (path === "/logs") return <Logs />;
  if (path === "/") return <Overview />;
  return <main><h1>Nothing is here</h1><p>Try the <a href="/">overview</a>.</p></main>;
}

function Header() {
  const path = place.value.path;
  const link = (to: string, name: string, on: boolean) => <a href={to} aria-current={on ? "page" : undefined}>{name}</a>;
  const signOut = async () => {
    await call("DELETE", "/v1/session").catch(() => undefined);
    who.value = null;
  };
  return (
    <header>
      <a class="brand" href="/"><img src="/icon.svg" alt="" width="20" height="20" /> Backlot</a>
      <nav aria-label="Main">
        {link("/", "Overview", path === "/")}
        {link("/jobs", "Jobs", path.startsWith("/jobs"))}
        {link("/logs", "Logs", path === "/logs")}
      </nav>
      <span class="grow" />
      {!live.value && <span class="offline" role="status">connection lost, trying again</span>}
      <span class="muted">{who.value?.key_id} · {who.value?.role}</span>
      <button type="button" class="quiet" onClick={signOut}>Sign out</button>
    </header>
  );
}

function App() {
  useEffect(() => {
    get<{ key_id: string; role: string } | null>("/v1/session").then((me) => { who.value = me; }, () => { who.value = null; });
  }, []);
  if (who.value === undefined) return null;
  if (who.value === null) return <SignIn />;
  return <><Header /><Page /></>;
}

const root = document.getElementById("app");
if (root) render(<App />, root);
