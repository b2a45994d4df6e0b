"""Serve an exported guard over HTTP without torch: `GUARD=guard.onnx uvicorn examples.serve_onnx:app`, then
`curl -F images=@a.png http://127.0.0.1:8000/score`; it needs fastapi, python-multipart, uvicorn, pillow and onnxruntime."""

import io
import json
import os

import numpy as np
import onnxruntime
from fastapi import FastAPI, HTTPException, UploadFile
from PIL import Image, ImageOps

options = onnxruntime.SessionOptions()
options.log_severity_level = 3  # without a warning that `false_positive_rate` may be left out
session = onnxruntime.InferenceSession(os.environ["GUARD"], options)
about = session.get_modelmeta().custom_metadata_map
app, classes, (channels, height, width) = FastAPI(), json.loads(about["classes"]), json.loads(about["image_shape"])


def pixels(file: io.IOBase) -> np.ndarray:
    """Resize an image as torchvision's Resize([height, width]) does; about["transform"] names the guard's own transform."""
    picture = (
        ImageOps.exif_transpose(Image.open(file)).convert(about["picture"]).resize((width, height), Image.BILINEAR)
    )
    values = np.asarray(picture).reshape(height, width, channels).transpose(2, 0, 1)
    return values if about["pixels"].startswith("uint8") else values.astype(np.float32) / 255


@app.post("/score")
def score(images: list[UploadFile]) -> list[dict[str, object]]:
    """Score the images of a multipart request, in their order."""
    try:
        batch = np.stack([pixels(one.file) for one in images])
    except (OSError, Image.DecompressionBombError) as error:
        raise HTTPException(400, f"An image cannot be read: {error}") from error
    names, columns = [one.name for one in session.get_outputs()], session.run(None, {"images": batch})
    rows = [dict(zip(names, row, strict=True)) for row in zip(*(one.tolist() for one in columns), strict=True)]
    return [row | {"prediction": classes[row["prediction"]] if classes else row["prediction"]} for row in rows]
