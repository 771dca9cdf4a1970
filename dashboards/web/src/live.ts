// What changes by itself: server-sent events, and things asked for again and again.
import { signal, type Signal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { get, who } from "./api";

/** Whether the live connection stands; shown in the header. */
export const live = signal(true);

/** Listens to a stream of events for as long as the component is shown. The browser connects again by itself. */
export function useEvents(url: string | null, handlers: Record<string, (data: string) => void>) {
  const latest = useRef(handlers);
  latest.current = handlers;
  useEffect(() => {
    if (!url) return;
    const source = new EventSource(url);
    source.onopen = () => { live.value = true; };
    source.onerror = () => {
      live.value = false;
      // A refused stream is not tried again by the browser: the session may have ended.
      if (source.readyState === EventSource.CLOSED) get<typeof who.value>("/v1/session").then((me) => { who.value = me; }, () => undefined);
    };
    for (const name of Object.keys(latest.current)) {
      source.addEventListener(name, (event) => latest.current[name]?.((event as MessageEvent<string>).data));
    }
    return () => source.close();
  }, [url]);
}

/** Asks at once, then every `every_ms`, and again whenever `key` changes; an answer that comes too late is dropped. */
export function usePoll(key: string, every_ms: number, ask: (stop: AbortSignal) => Promise<void>, failed?: Signal<string | null>) {
  const latest = useRef(ask);
  latest.current = ask;
  useEffect(() => {
    const stop = new AbortController();
    let timer = 0;
    const round = async () => {
      try {
        if (!document.hidden) await latest.current(stop.signal);
        if (failed) failed.value = null;
      } catch (error) {
        if (stop.signal.aborted) return;
        if (failed) failed.value = error instanceof Error ? error.message : String(error);
      }
      if (!stop.signal.aborted && every_ms > 0) timer = window.setTimeout(round, every_ms);
    };
    void round();
    return () => { stop.abort(); clearTimeout(timer); };
  }, [key]);
}
