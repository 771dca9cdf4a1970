"""A pipeline of diffusers as a worker: previews and checkpoints on the way, and an interrupted job goes on where it was.

Without torch and diffusers on the host a stand-in with the same call paints stripes. Nothing but the protocol may be printed
on standard output; the libraries' own words go to standard error, and become log records of the job.
"""
import json
import os
import pathlib
import struct
import sys
import time
import zlib


def say(**message):
    print(json.dumps(message), flush=True, file=words)


class StandIn:
    """Called as a pipeline of diffusers is. Its latents are how far it has come."""

    def __call__(self, prompt, steps, begin, latents, each):
        latents = latents or [len(prompt) % 200, 0]
        for step in range(begin, steps):
            time.sleep(float(os.environ.get("STEP_S", "0")))
            latents = [(latents[0] * 31 + step) % 251, latents[1] + 1]
            each(step + 1, latents)
        return latents

    def keep(self, step, latents, path):
        path.write_text(json.dumps([step, latents]))

    def kept(self, path):
        return json.loads(path.read_text())

    def save(self, latents, path):
        rows = b"".join(b"\0" + bytes((latents[0] + y * 3 + x) % 256 for x in range(64)) for y in range(64))

        def chunk(name, data):
            return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

        header = chunk(b"IHDR", struct.pack(">IIBBBBB", 64, 64, 8, 0, 0, 0, 0))
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


class Diffusers:
    """A real pipeline; `CUDA_VISIBLE_DEVICES` shows it this worker's GPU alone."""

    def __init__(self):
        import torch
        from diffusers import DDIMScheduler, DiffusionPipeline
        kind, self.device = (torch.float16, "cuda") if torch.cuda.is_available() else (torch.float32, "cpu")
        self.torch = torch
        self.pipe = DiffusionPipeline.from_pretrained(os.environ["MODEL"], torch_dtype=kind).to(self.device)
        self.pipe.scheduler = DDIMScheduler.from_config(self.pipe.scheduler.config)  # it needs no memory of earlier steps

    def __call__(self, prompt, steps, begin, latents, each):
        def at_end(pipe, step, moment, values):
            each(begin + step + 1, values["latents"].cpu())
            return values
        self.pipe.scheduler.set_timesteps(steps)
        options = {"timesteps": self.pipe.scheduler.timesteps[begin:].tolist()} if begin else {"num_inference_steps": steps}
        if latents is not None:
            options["latents"] = latents.to(self.device)
        return self.pipe(prompt, callback_on_step_end=at_end, output_type="latent", **options).images

    def keep(self, step, latents, path):
        self.torch.save([step, latents], path)

    def kept(self, path):
        return self.torch.load(path, weights_only=True)  # what comes out of a bucket is never run

    def save(self, latents, path):
        with self.torch.no_grad():
            scaled = latents.to(self.device, self.pipe.vae.dtype) / self.pipe.vae.config.scaling_factor
            image = self.pipe.vae.decode(scaled).sample
        self.pipe.image_processor.postprocess(image)[0].save(path)


def work(job):
    wanted, folder = job["parameters"], pathlib.Path(job["output_dir"])
    steps, begin, latents = int(wanted.get("steps", 20)), 0, None
    kept = folder / "checkpoint"
    if kept.is_file():  # an earlier attempt of this job, on this host or another, has left it
        begin, latents = pipeline.kept(kept)
        print(f"INFO: going on after step {begin}", file=sys.stderr, flush=True)
    say(phase="infer")

    def each(step, latents):
        say(percent=100 * step / steps)
        if step % 5 == 0 and step < steps:
            pipeline.keep(step, latents, kept.with_suffix(".new"))
            kept.with_suffix(".new").rename(kept)  # whole or not at all
            say(checkpoint="checkpoint")
            pipeline.save(latents, folder / "preview.png")
            say(preview="preview.png")

    pipeline.save(pipeline(wanted["prompt"], steps, begin, latents, each), folder / "image.png")
    say(output="image.png", content_type="image/png", steps=steps, began_at=begin)


words, sys.stdout = sys.stdout, sys.stderr
try:
    pipeline = Diffusers()
except ImportError as missing:
    print(f"WARNING: {missing}: a stand-in paints", file=sys.stderr, flush=True)
    pipeline = StandIn()
for line in sys.stdin:
    if job := json.loads(line).get("job"):
        try:
            work(job)
            say(done=True)
        except KeyError as problem:  # the same job would fail again
            say(error=f"the parameter {problem} is missing", permanent=True)
        except Exception as problem:  # out of memory is known by its words
            say(error=f"{type(problem).__name__}: {problem}")
