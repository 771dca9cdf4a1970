// A second hand for what is under way.
import { signal } from "@preact/signals";

export const now_ms = signal(Date.now());
setInterval(() => { if (!document.hidden) now_ms.value = Date.now(); }, 1000);
