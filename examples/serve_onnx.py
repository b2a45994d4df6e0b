"""Serve an exported guard over HTTP without torch: `GUARD=guard.onnx uvicorn examples.serve_onnx:app`, then
`curl -F images=@a.png http://127.0.0.1:8000/score`; needs fastapi, python-multipart, uvicorn, pillow, onnxruntime."""

import json
import os

import numpy as np
import onnxruntime
from fastapi import FastAPI, HTTPException, UploadFile
from PIL import Image, ImageOps

onnxruntime.set_default_logger_severity(3)  # without a warning that `false_positive_rate` may be left out
session, app = onnxruntime.InferenceSession(os.environ["GUARD"]), FastAPI()
about, names = session.get_modelmeta().custom_metadata_map, [one.name for one in session.get_outputs()]
classes, (_, height, width) = json.loads(about["classes"]), json.loads(about["image_shape"])


@app.post("/score")
def score(images: list[UploadFile]) -> list[dict[str, object]]:
    """Score the images of a multipart request, resized as torchvision's Resize([height, width]) does."""
    try:
        opened = [ImageOps.exif_transpose(Image.open(one.file)).convert(about["picture"]) for one in images]
    except (OSError, Image.DecompressionBombError) as error:
        raise HTTPException(400, f"An image cannot be read: {error}") from error
    pixels = np.stack([np.atleast_3d(one.resize((width, height), Image.BILINEAR)) for one in opened])
    pixels = pixels if about["pixels"].startswith("uint8") else pixels.astype(np.float32) / 255
    found = [one.tolist() for one in session.run(None, {"images": pixels.transpose(0, 3, 1, 2)})]
    rows = [dict(zip(names, row, strict=True)) for row in zip(*found, strict=True)]
    return [row | {"prediction": classes[row["prediction"]] if classes else row["prediction"]} for row in rows]
