// Signing in with an access key: the same one that boto3 and the agents use.
import { useSignal } from "@preact/signals";
import { call, who } from "../api";

export function SignIn() {
  const problem = useSignal<string | null>(null);
  const submit = async (event: SubmitEvent) => {
    event.preventDefault();
    const form = new FormData(event.currentTarget as HTMLFormElement);
    try {
      who.value = await call("POST", "/v1/session", { key_id: form.get("key_id"), secret: form.get("secret") });
    } catch (error) {
      problem.value = error instanceof Error ? error.message : String(error);
    }
  };
  return (
    <main class="signin">
      <form onSubmit={submit}>
        <h1><img src="/icon.svg" alt="" width="28" height="28" /> Backlot</h1>
        <label>Access key id <input name="key_id" autocomplete="username" required autofocus /></label>
        <label>Secret <input name="secret" type="password" autocomplete="current-password" required /></label>
        <button type="submit">Sign in</button>
        {problem.value && <p class="problem" role="alert">{problem.value}</p>}
        <p class="muted">The first key is in <code>admin.key</code> in the data folder; with <code>--dev</code> it is <code>test</code> / <code>test</code>.</p>
      </form>
    </main>
  );
}
