"""A backend as a new user of the official library writes it: downloads, computes and answers inside /predict."""

from __future__ import annotations

import io
import logging
import sys
import threading

import click
import httpx
import numpy as np
from flask import Flask, request
from PIL import Image
from werkzeug.serving import make_server

from ml_backend.brush import encode
from workers.simulated import SimulatedPredictor


def make_app(label_studio_url: str, key: str, predictor: SimulatedPredictor) -> Flask:
    """Build the application.

    Args:
        label_studio_url: Where images are.
        key: Opens them.
        predictor: What computes.

    Returns:
        Its one route.
    """
    app = Flask("synchronous", static_folder=None)
    client = httpx.Client(base_url=label_studio_url, headers={"Authorization": f"Token {key}"}, trust_env=False)
    alone = threading.Lock()  # One model, one request at a time.

    @app.post("/predict")
    def predict() -> dict[str, object]:
        with alone:
            return {"results": [answer(task["data"]) for task in request.get_json()["tasks"]]}

    def answer(data: dict[str, str]) -> dict[str, object]:
        content = client.get(data["image"]).raise_for_status().content
        image = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
        [segment] = predictor.segment(image, [data["expression"]])
        height, width = segment.mask.shape
        value = {"format": "rle", "rle": encode(segment.mask), "brushlabels": ["target"]}
        region = {"from_name": "tag", "to_name": "image", "type": "brushlabels", "value": value}
        sizes = {"original_width": width, "original_height": height}
        return {"result": [region | sizes], "score": segment.score, "model_version": predictor.version}

    return app


@click.command()
@click.argument("label_studio_url")
@click.argument("key")
@click.argument("seconds_per_image", type=float)
def main(label_studio_url: str, key: str, seconds_per_image: float) -> None:
    """Serve until the input ends; the first line says where."""
    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # It would write a line for each request.
    app = make_app(label_studio_url, key, SimulatedPredictor(seconds_per_image))
    server = make_server("127.0.0.1", 0, app, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    click.echo(f"http://127.0.0.1:{server.server_port}")
    sys.stdin.read()
    server.shutdown()


if __name__ == "__main__":
    main()
