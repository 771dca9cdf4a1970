// What a job made: pictures shown, clips played with seeking, the rest as links.
import { artifact, type Output } from "../api";
import { bytes } from "../words";

function kind(output: Output): "image" | "video" | "audio" | "file" {
  const type = output.content_type ?? "";
  const name = output.uri.toLowerCase();
  if (type.startsWith("image/") || /\.(png|jpe?g|webp)$/.test(name)) return "image";
  if (type.startsWith("video/") || /\.(mp4|webm|mov)$/.test(name)) return "video";
  if (type.startsWith("audio/") || /\.(wav|mp3|flac|ogg)$/.test(name)) return "audio";
  return "file";
}

export function Outputs({ outputs }: { outputs: Output[] }) {
  return (
    <div class="outputs">
      {outputs.map((output) => {
        const url = artifact(output.uri);
        const name = output.uri.split("/").pop() ?? output.uri;
        return (
          <figure key={output.uri}>
            {kind(output) === "image" && <a href={url} target="_blank" rel="noreferrer"><img src={url} alt={`Output ${name}`} loading="lazy" /></a>}
            {kind(output) === "video" && <video src={url} controls preload="metadata" aria-label={`Output ${name}`} />}
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
