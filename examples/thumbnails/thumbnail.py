"""A job: draws the picture that the payload names, and makes a thumbnail of it."""

import json
import os

from PIL import Image

with open(os.environ["PAYLOAD_FILE"], encoding="utf-8") as file:
    number = int(json.load(file)["picture"])

# Another part of the Mandelbrot set for each number.
left, top = -1.5 + number % 20 * 0.1, -1.0 + number // 20 % 20 * 0.1
picture = Image.effect_mandelbrot((800, 600), (left, top, left + 0.4, top + 0.3), 100)
picture.thumbnail((160, 120))
path = f"/tmp/thumbnail-{number}.png"
picture.save(path)
print(f"picture {number}: {picture.width} x {picture.height}, {os.path.getsize(path)} bytes")
