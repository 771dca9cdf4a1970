"""Upscales a picture with ncnn on the CPU: the same files, the same size, as many threads.

Called by the benchmark with model, width, height and threads; writes one JSON object: for each way that ncnn can keep its
numbers the wall and CPU milliseconds of one run after a first. From the picture's bytes to the result's bytes.
"""

import importlib.metadata
import json
import os
import sys
import time

import ncnn
import numpy as np

WAYS = {
    "as it comes": {},
    "f32": {"use_fp16_packed": False, "use_fp16_storage": False, "use_fp16_arithmetic": False},
    "bf16": {"use_fp16_packed": False, "use_fp16_storage": False, "use_fp16_arithmetic": False, "use_bf16_storage": True},
}


def folder():
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.environ["HOME"], ".cache")
    return os.environ.get("BACKLOT_MODELS") or os.path.join(cache, "backlot/models")


def net_of(model, threads, options):
    net = ncnn.Net()
    net.opt.num_threads = threads
    for name, value in options.items():
        setattr(net.opt, name, value)
    for ending, load in (("param", net.load_param), ("bin", net.load_model)):
        if load(os.path.join(folder(), f"{model}.{ending}")) != 0:
            raise RuntimeError(f"ncnn does not load {model}.{ending}")
    return net


def run(net, picture):
    height, width, _ = picture.shape
    wall, cpu = time.perf_counter(), time.process_time()
    given = ncnn.Mat.from_pixels(picture, ncnn.Mat.PixelType.PIXEL_RGB, width, height)
    given.substract_mean_normalize([], [1 / 255.0] * 3)
    extractor = net.create_extractor()
    extractor.input("data", given)
    code, made = extractor.extract("output")
    bytes_of = (np.clip(np.array(made), 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8)
    if code != 0 or bytes_of.shape[0] != 3:
        raise RuntimeError(f"ncnn ends with {code}")
    return (time.perf_counter() - wall) * 1e3, (time.process_time() - cpu) * 1e3


def main(model, width, height, threads):
    picture = np.random.default_rng(1).integers(0, 256, (int(height), int(width), 3), dtype=np.uint8)
    made = {}
    for name, options in WAYS.items():
        net = net_of(model, int(threads), options)
        run(net, picture)
        wall_ms, cpu_ms = run(net, picture)
        made[name] = {"wall_ms": wall_ms, "cpu_ms": cpu_ms}
    print(json.dumps({"version": importlib.metadata.version("ncnn"), "ways": made}))


if __name__ == "__main__":
    main(*sys.argv[1:])
