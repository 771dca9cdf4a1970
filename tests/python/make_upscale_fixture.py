"""Makes agent/tests/data/upscale_ncnn.safetensors: what ncnn itself makes of a small pattern with each model.

Run by hand, not by the tests:  pip install ncnn numpy;  python make_upscale_fixture.py MODELS_DIR OUT
The pattern is ours and is stored with the results. ncnn runs in f32 on the CPU.
"""

import json
import struct
import sys

import ncnn
import numpy as np

HEIGHT, WIDTH = 18, 20
MODELS = [
    "realesr-animevideov3-x2",
    "realesr-animevideov3-x3",
    "realesr-animevideov3-x4",
    "realesrgan-x4plus-anime",
    "realesrgan-x4plus",
]


def pattern():
    """A soft gradient, a hard edge, a checkerboard and a disc, in whole 255ths."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    red = x / (WIDTH - 1)
    green = np.where(x + 2 * y > 30, 0.9, 0.15) + 0.05 * ((x + y) % 2)
    blue = np.where((x - 7) ** 2 + (y - 9) ** 2 < 25, 0.8, 0.3 * y / (HEIGHT - 1))
    return (np.round(np.stack([red, green, blue], axis=-1) * 255) / 255).astype(np.float32)


def upscale(folder, model, picture):
    net = ncnn.Net()
    net.opt.use_vulkan_compute = False
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    net.opt.use_bf16_storage = False
    net.opt.use_winograd_convolution = False
    net.opt.use_sgemm_convolution = False
    assert net.load_param(f"{folder}/{model}.param") == 0 and net.load_model(f"{folder}/{model}.bin") == 0
    extractor = net.create_extractor()
    planes = np.ascontiguousarray(picture.transpose(2, 0, 1))  # ncnn does not copy it: it has to live
    extractor.input("data", ncnn.Mat(planes))
    status, output = extractor.extract("output")
    made = np.ascontiguousarray(np.array(output).transpose(1, 2, 0))
    assert status == 0 and -1 < made.min() and made.max() < 2
    return made


def main(folder, out):
    picture = pattern()
    tensors = {"input": picture} | {model: upscale(folder, model, picture) for model in MODELS}
    header, data = {}, b""
    for name, tensor in tensors.items():
        raw = tensor.astype("<f4").tobytes()
        header[name] = {"dtype": "F32", "shape": [1, *tensor.shape], "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(out, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + data)


main(*sys.argv[1:])
