"""Pictures by diffusers on PyTorch, in half precision: the same folder of weights, size, steps and guidance as ours.

Called by `cargo xtask gpu-bench` with a model's folder, a side, steps and `eager` or `compiled`; or with `upscale`, a height, a
width and `eager` or `compiled` for a network of Real-ESRGAN x4plus' form with random weights. Writes one JSON object:
milliseconds until the first picture from the script's start, and of each later one from prompt to picture.
"""

import json
import sys
import time

STARTED = time.perf_counter()
RUNS = 5

import torch  # noqa: E402  (the time that it takes is part of the first picture's)


def timed(run):
    torch.cuda.synchronize()
    began = time.perf_counter()
    run()
    torch.cuda.synchronize()
    return (time.perf_counter() - began) * 1e3


def told(run):
    timed(run)
    first_ms = (time.perf_counter() - STARTED) * 1e3
    timed(run)
    return {"first_ms": first_ms, "all_ms": [timed(run) for _ in range(RUNS)], "torch": torch.__version__}


def pictures(folder, side, steps, way):
    import diffusers

    pipe = diffusers.DiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float16)
    pipe = pipe.to("cuda")
    pipe.scheduler = diffusers.EulerDiscreteScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    if way == "compiled":
        pipe.unet = pipe.unet.to(memory_format=torch.channels_last)
        pipe.unet = torch.compile(pipe.unet, mode="max-autotune", fullgraph=True)

    def run():
        pipe("a lighthouse in the fog", width=side, height=side, num_inference_steps=steps, guidance_scale=7.5)

    return told(run) | {"diffusers": diffusers.__version__}


class Dense(torch.nn.Module):
    """Five convolutions, each of which sees what all before it have made, three times over, and the sum."""

    def __init__(self):
        super().__init__()
        block = lambda: torch.nn.ModuleList(
            torch.nn.Conv2d(64 + 32 * i, 32 if i < 4 else 64, 3, padding=1) for i in range(5)
        )
        self.blocks = torch.nn.ModuleList(block() for _ in range(3))

    def forward(self, x):
        whole = x
        for block in self.blocks:
            seen = [x]
            for i, layer in enumerate(block):
                made = layer(torch.cat(seen, 1))
                seen.append(torch.nn.functional.leaky_relu(made, 0.2) if i < 4 else made)
            x = x + seen[-1] * 0.2
        return whole + x * 0.2


class Upscaler(torch.nn.Module):
    def __init__(self):
        super().__init__()
        conv = lambda inputs, outputs: torch.nn.Conv2d(inputs, outputs, 3, padding=1)
        self.first, self.body = conv(3, 64), torch.nn.Sequential(*(Dense() for _ in range(23)), conv(64, 64))
        self.ups = torch.nn.ModuleList((conv(64, 64), conv(64, 64)))
        self.end = torch.nn.Sequential(conv(64, 64), torch.nn.LeakyReLU(0.2), conv(64, 3))

    def forward(self, x):
        x = self.first(x)
        x = x + self.body(x)
        for up in self.ups:
            x = torch.nn.functional.leaky_relu(up(torch.nn.functional.interpolate(x, scale_factor=2)), 0.2)
        return self.end(x)


def upscale(height, width, way):
    net = Upscaler().half().cuda().eval().to(memory_format=torch.channels_last)
    if way == "compiled":
        net = torch.compile(net)
    picture = torch.randint(0, 256, (height, width, 3), dtype=torch.uint8)

    def run():
        given = (picture.cuda().permute(2, 0, 1)[None].half() / 255).contiguous(memory_format=torch.channels_last)
        (net(given).clamp(0, 1) * 255 + 0.5).to(torch.uint8).cpu()

    return told(run)


@torch.inference_mode()
def main(what, a, b, way):
    made = upscale(int(a), int(b), way) if what == "upscale" else pictures(what, int(a), int(b), way)
    print(json.dumps(made | {"gpu": torch.cuda.get_device_name()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
