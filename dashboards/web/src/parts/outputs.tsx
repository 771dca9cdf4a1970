// What a job made: pictures shown, clips played with seeking, the rest as links.
import { artifact, preview, type Output } from "../api";
import { bytes } from "../words";

function kind(output: Output): "image" | "video" | "audio" | "file" {
  const type = output.content_type ?? "";
  const name = output.uri.toLowerCase();
  if (type.startsWith("image/") || /\.(png|jpe?g|webp)$/.test(name)) return "image";
  if (type.startsWith("video/") || /\.(mp4|webm|mov)$/.test(name)) return "video";
  if (type.startsWith("audio/") || /\.(wav|mp3|flac|ogg)$/.test(name)) return "audio";
  return "file";
}

/** What cannot be made small is shown as it is. */
function whole(event: Event) {
  const image = event.currentTarget as HTMLImageElement;
  const link = image.closest("a");
  if (link && image.src !== link.href) image.src = link.href;
}

export function Outputs({ outputs }: { outputs: Output[] }) {
  return (
    <div class="outputs">
      {outputs.map((output) => {
        const url = artifact(output.uri);
        const name = output.uri.split("/").pop() ?? output.uri;
        return (
          <figure key={output.uri}>
            {kind(output) === "image" && <a href={url} target="_blank" rel="noreferrer"><img src={preview(output.uri, 640)} alt={`Output ${name}`} loading="lazy" onError={whole} /></a>}
            {kind(output) === "video" && <video src={url} poster={preview(output.uri, 640)} controls preload="metadata" aria-label={`Output ${name}`} />}
            {kind(output) === "audio" && <audio src={url} controls preload="metadata" aria-label={`Output ${name}`} />}
            <figcaption>
              <a href={url} download={name}>{name}</a> <span class="muted">{output.width ? `${output.width} × ${output.height}, ` : ""}{bytes(output.bytes)}</span>
              <br /><code class="uri">{output.uri}</code>
            </figcaption>
          </figure>
        );
      })}
    </div>
  );
}
