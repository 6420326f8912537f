"""Painting a landscape with its mask, a function of (seed, index).

A scene is painted from far to near: sky, sun and clouds, mountain ranges behind haze, then water,
grass, sand or snow up to the viewer, with trees and rocks. Whatever is painted last owns the pixel,
in the picture as in the mask.
"""

import math

import numpy as np
from PIL import Image

CLASSES = ("sky", "tree", "sand", "grass", "water", "rock", "mountain", "sun", "cloud", "snow")
SKY, TREE, SAND, GRASS, WATER, ROCK, MOUNTAIN, SUN, CLOUD, SNOW = range(10)
SCENES = ("lake", "sea", "meadow", "forest", "desert", "winter")

# Light: sky at the zenith, sky at the horizon, tint of what it falls on.
LIGHTS = {
    "noon": ((70, 125, 200), (185, 215, 235), (1.0, 1.0, 1.0)),
    "morning": ((110, 150, 205), (245, 215, 190), (1.0, 0.95, 0.88)),
    "dusk": ((70, 70, 130), (245, 155, 100), (0.95, 0.78, 0.70)),
    "grey": ((140, 150, 160), (200, 205, 208), (0.82, 0.85, 0.88)),
}
GROUND = {
    "lake": "grass",
    "sea": "sand",
    "meadow": "grass",
    "forest": "grass",
    "desert": "sand",
    "winter": "snow",
}


def draw(seed: int, index: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray, int, str]:
    """Picture uint8 (H, W, 3), mask uint8 (H, W), scene, caption."""
    return Scene(seed, index, height, width).paint()


def draw_distance(seed: int, index: int, height: int, width: int) -> np.ndarray:
    """Of the same scene, float (H, W): how far what is seen at each pixel is, 0 near to 1, the
    sky.
    """
    scene = Scene(seed, index, height, width)
    scene.paint()
    return scene.distance


class Scene:
    """One canvas. Lengths are in units of the height, so that a scene looks alike at every size; x
    runs from 0 to W / H.
    """

    def __init__(self, seed: int, index: int, height: int, width: int):
        self.key, self.fields = (seed, index), 0
        self.random = np.random.default_rng([seed, index])
        self.height, self.width = height, width
        self.y = (np.arange(height) + 0.5)[:, None] / height
        self.x = (np.arange(width) + 0.5)[None] / height
        self.span = width / height
        self.canvas = np.zeros((height, width, 3))
        self.mask = np.zeros((height, width), np.uint8)
        self.distance = np.ones((height, width))  # 0 where one stands, 1 in the sky

    def paint(self) -> tuple[np.ndarray, np.ndarray, int, str]:
        r = self.random
        scene = int(r.integers(len(SCENES)))
        kind = SCENES[scene]
        light = list(LIGHTS)[r.choice(4, p=(0.45, 0.25, 0.2, 0.1))]
        self.zenith, self.low, self.tint = (np.array(c, float) for c in LIGHTS[light])
        self.horizon = r.uniform(0.42, 0.6)
        self.sun = (
            r.uniform(0.1, 0.9) * self.span,
            r.uniform(0.10, 0.30) if light != "dusk" else self.horizon - r.uniform(0.08, 0.14),
        )
        cloudy = self.paint_sky(light)
        ranges = self.paint_mountains(kind)
        water = self.paint_ground(kind)
        trees = self.paint_trees(kind)
        rocks = kind in ("sea", "lake", "desert") and r.random() < 0.5
        if rocks:
            self.paint_rocks()
        grain = r.normal(0, 2.0, self.canvas.shape)
        picture = (self.canvas + grain).clip(0, 255).round().astype(np.uint8)
        return picture, self.mask, scene, _caption(kind, light, cloudy, ranges, water, trees)

    # Layers, far to near

    def paint_sky(self, light: str) -> bool:
        r = self.random
        down = (self.y / self.horizon).clip(0, 1)[..., None] ** 0.8
        self.canvas[:] = self.zenith * (1 - down) + self.low * down
        distance = np.hypot(self.x - self.sun[0], self.y - self.sun[1])
        if light != "grey":
            self.canvas += (
                np.exp(-distance / 0.16)[..., None]
                * (np.array([255, 235, 190]) - self.canvas)
                * 0.6
            )
            radius = r.uniform(0.035, 0.06)
            self.put(distance < radius, np.array([255, 248, 220.0]), SUN)
        cover = r.uniform(-0.25, 0.35) if light != "grey" else 0.45
        billows = self.noise(3, stretch=2.6) + 0.25 * (self.y - 0.2)
        density = ((billows - 0.55 + 0.6 * cover) / 0.28).clip(0, 1) * (self.y < self.horizon)
        shade = 0.82 + 0.18 * (self.noise(5, stretch=2.0) + 0.5 - 0.5 * density)
        white = (0.75 * np.array([255, 255, 255]) + 0.25 * self.low) * self.tint
        self.canvas += density[..., None] * (white * shade[..., None] - self.canvas)
        self.mask[density > 0.5] = CLOUD
        return bool((density > 0.5).mean() > 0.06)

    def paint_mountains(self, kind: str) -> int:
        # 1. how many ranges, of which rock, with how much snow
        r = self.random
        count = {
            "sea": r.integers(0, 2),
            "desert": r.integers(1, 3),
            "meadow": r.integers(1, 4),
            "forest": r.integers(1, 3),
        }.get(kind, r.integers(2, 4))
        base = (
            np.array([(96, 92, 98), (110, 96, 84), (88, 98, 92)][r.integers(3)], float)
            if kind != "desert"
            else np.array([168, 112, 78.0])
        )
        snowline = r.uniform(0.16, 0.3) if kind in ("winter", "lake") or r.random() < 0.3 else -1.0
        if kind == "winter":
            snowline = r.uniform(0.34, 0.5)
        tall = r.uniform(0.16, 0.36)
        # 2. range after range, from far to near
        for i in range(count):
            near = (i + 1) / count
            ridge = (
                self.horizon
                + 0.02
                - tall * (1.15 - 0.55 * near) * (0.25 + 0.95 * self.line(2.2 + i, rough=0.52))
            )
            where = (self.y > ridge[None]) & (self.y < self.horizon + 0.03)
            relief = self.noise(6 + 2 * i, ridged=True)
            lit = self.relief(relief, 0.9) + 0.25 * (self.y - ridge[None])
            colour = base * (0.45 + 0.85 * lit[..., None]) * self.tint
            haze = 0.72 * (1 - near) + 0.12
            self.put(where, self.hazed(colour, haze), MOUNTAIN, 0.95 - 0.2 * near)
            if snowline > 0:
                white = where & (self.y < snowline + 0.16 * (relief - 0.5) + 0.05 * i)
                self.put(
                    white,
                    self.hazed(
                        (205 + 50 * lit[..., None]) * np.array([0.93, 0.97, 1.03]) * self.tint,
                        0.6 * haze,
                    ),
                    SNOW,
                )
        return int(count)

    def paint_ground(self, kind: str) -> bool:
        r = self.random
        depth = ((self.y - self.horizon) / (1 - self.horizon)).clip(0, 1)
        below = self.y >= self.horizon
        paint = {
            "grass": (self.grass, GRASS),
            "sand": (self.sand, SAND),
            "snow": (self.snowfield, SNOW),
        }[GROUND[kind]]
        above = self.canvas.copy()
        colour = self.hazed(paint[0](depth), 0.5 * (1 - depth[..., None]) ** 2)
        self.put(below, colour, paint[1], self.on_ground(self.y))
        water = kind in ("lake", "sea") or (kind in ("winter", "meadow") and r.random() < 0.3)
        if water:
            shore = self.horizon + (1 - self.horizon) * (
                r.uniform(0.45, 0.85) + 0.35 * (self.line(1.5) - 0.5)
            )
            start = self.horizon + (0 if kind in ("lake", "sea") else r.uniform(0.05, 0.12))
            self.put(
                below & (self.y < shore[None]) & (self.y >= start),
                self.water(above, depth, start),
                WATER,
            )
        return water

    def paint_trees(self, kind: str) -> bool:
        # 1. how many rows of trees
        r = self.random
        rows = {
            "forest": 3,
            "lake": r.integers(0, 3),
            "meadow": r.integers(0, 3),
            "winter": r.integers(0, 3),
            "sea": 0,
            "desert": 0,
        }[kind]
        for i in range(rows):
            # 2. where a row stands, and its crowns as one outline
            foot = self.horizon + (0.02 + 0.20 * i) * (1 - self.horizon) * r.uniform(0.8, 1.3)
            size = (0.05 + 0.085 * i) * r.uniform(0.7, 1.3) * (1.5 if kind == "forest" else 1.0)
            full = kind == "forest"
            count = int(self.span / size * (3.0 if full else r.uniform(0.5, 2.0))) + 1
            centres = r.uniform(-0.1, self.span + 0.1, count)
            heights = size * r.uniform(0.7, 1.5, count)
            slender = r.uniform(0.22, 0.4)
            outline = heights * (1 - np.abs(self.x.T - centres) / (slender * heights))
            profile = outline.max(axis=1).clip(0)
            jagged = profile * (1 + 0.5 * (self.line(30) - 0.5))
            ground = foot + 0.03 * (self.line(3) - 0.5) + 0.25 * size * (jagged > 0)
            where = (
                (self.y > (ground - jagged)[None]) & (self.y < ground[None]) & (jagged > 0)[None]
            )
            # 3. light, snow and haze on it
            dark = np.array([34, 58, 34.0]) if kind != "winter" else np.array([48, 62, 56.0])
            lit = self.noise(26, stretch=0.6)
            colour = dark * (0.35 + 1.5 * lit[..., None]) * self.tint
            if kind == "winter":
                colour = colour + (lit > 0.62)[..., None] * 110
            self.put(where, self.hazed(colour, 0.42 - 0.2 * i), TREE, self.on_ground(foot))
        return bool((self.mask == TREE).mean() > 0.03)

    def paint_rocks(self) -> None:
        r = self.random
        relief = self.relief(self.noise(9, ridged=True), 1.2)
        for _ in range(int(r.integers(1, 5))):
            size = r.uniform(0.03, 0.11)
            x, y = r.uniform(0, self.span), r.uniform(self.horizon + 0.25 * (1 - self.horizon), 1.0)
            edge = 1 + 0.7 * (self.noise(7) - 0.5)
            where = ((self.x - x) / (1.5 * size * edge)) ** 2 + (
                (self.y - y) / (size * edge)
            ) ** 2 < 1
            top = ((y - self.y) / size * 0.25 + 0.5).clip(0, 1)
            self.put(
                where,
                np.array([112, 102, 96.0])
                * (0.35 + 0.6 * relief + 0.5 * top)[..., None]
                * self.tint,
                ROCK,
                self.on_ground(y),
            )

    # Surfaces

    def grass(self, depth: np.ndarray) -> np.ndarray:
        fields = self.noise(3, stretch=4.0) * 0.6 + 0.4 * self.noise(22, stretch=0.7)
        green, straw = np.array([78, 118, 48.0]), np.array([168, 160, 86.0])
        mix = (self.random.uniform(-0.2, 0.4) + 0.9 * (fields - 0.35)).clip(0, 1)[..., None]
        return (
            (green * (1 - mix) + straw * mix)
            * (1.12 - 0.32 * depth + 0.5 * (fields - 0.5))[..., None]
            * self.tint
        )

    def sand(self, depth: np.ndarray) -> np.ndarray:
        dunes = self.noise(4, stretch=3.5)
        lit = self.relief(dunes, 1.2) + 0.12 * (self.noise(40) - 0.5)
        return (
            np.array([218, 188, 140.0])
            * (0.55 + 0.6 * lit + 0.06 * (1 - depth))[..., None]
            * self.tint
        )

    def snowfield(self, depth: np.ndarray) -> np.ndarray:
        lit = self.relief(self.noise(4, stretch=3.5), 0.8)
        return np.array([222, 232, 246.0]) * (0.74 + 0.34 * lit)[..., None] * self.tint

    def water(self, above: np.ndarray, depth: np.ndarray, start: float) -> np.ndarray:
        """What is above the shore, mirrored and rippled, over the water's own colour; brighter
        towards the sun.
        """
        ripple = self.noise(18, stretch=6.0) - 0.5
        rows = (
            ((2 * start - self.y + 0.05 * depth * ripple) * self.height)
            .clip(0, start * self.height - 1)
            .astype(int)
        )
        columns = (
            ((self.x + 0.05 * depth * ripple) * self.height).clip(0, self.width - 1).astype(int)
        )
        mirrored = above[rows, columns]
        deep = np.array([34, 78, 108.0]) * self.tint * (1 + 0.5 * ripple[..., None])
        clear = (0.72 - 0.42 * depth)[..., None]
        glitter = np.exp(-np.abs(self.x - self.sun[0]) / 0.09) * (ripple > 0.12) * 55
        return mirrored * clear + deep * (1 - clear) + glitter[..., None] * self.tint

    # Tools

    def put(
        self,
        where: np.ndarray,
        colour: np.ndarray,
        label: int,
        distance: np.ndarray | float | None = None,
    ) -> None:
        """Paints a place; without a distance it stays as far as what was there."""
        where = np.broadcast_to(where, self.mask.shape)
        if distance is not None:
            self.distance[where] = np.broadcast_to(distance, self.mask.shape)[where]
        self.canvas[where] = np.broadcast_to(colour, self.canvas.shape)[where]
        self.mask[where] = label

    def on_ground(self, y):
        """How far the ground is that is seen at height y: 0.7 at the horizon, near 0 below."""
        below = np.clip((y - self.horizon) / (1 - self.horizon), 0, 1)
        return 0.7 * 0.15 / (below + 0.15) - 0.7 * 0.15 / 1.15 * below

    def hazed(self, colour: np.ndarray, amount) -> np.ndarray:
        return colour + (self.low - colour) * amount

    def relief(self, surface: np.ndarray, strength: float) -> np.ndarray:
        """Light from the sun's side on a height field, about 0.5 on the level; 0 to 1."""
        side = 1.0 if self.sun[0] < self.span / 2 else -1.0
        slope = (
            np.gradient(surface, axis=1) * self.height * side
            + 0.5 * np.gradient(surface, axis=0) * self.height
        )
        return (0.5 + strength * 0.12 * slope).clip(0, 1)

    def noise(self, cells: float, stretch: float = 1.0, ridged: bool = False) -> np.ndarray:
        """Fractal value noise (H, W) about 0.5, mostly in 0 to 1: octaves of smoothly enlarged
        random grids, `cells` to the height in the first.
        """
        self.fields += 1
        total, weight, norm = np.zeros((self.height, self.width)), 1.0, 0.0
        for octave in range(5):
            across = cells * 2**octave
            if octave and across > self.height / 2:
                break
            rows = max(2, math.ceil(across)) + 3
            columns = max(2, math.ceil(across * self.span / stretch)) + 3
            grid = np.random.default_rng([*self.key, self.fields, octave]).random(
                (rows, columns), dtype=np.float32
            )
            layer = np.asarray(
                Image.fromarray(grid).resize(
                    (self.width, self.height),
                    Image.Resampling.BICUBIC,
                    box=(1, 1, columns - 2, rows - 2),
                )
            )
            total += weight * (1 - np.abs(2 * layer - 1) if ridged else layer)
            norm += weight
            weight *= 0.52
        return 0.5 + (total / norm - 0.5) * 1.5

    def line(self, cells: float, rough: float = 0.5) -> np.ndarray:
        """Fractal noise along x, (W,), about 0.5: a ridge, a shore."""
        self.fields += 1
        total, weight, norm = np.zeros(self.width), 1.0, 0.0
        for octave in range(7):
            points = max(2, math.ceil(cells * 2**octave * self.span)) + 1
            if octave and points > self.width:
                break
            heights = np.random.default_rng([*self.key, self.fields, octave]).random(points)
            total += weight * np.interp(
                self.x[0] / self.span * (points - 1), np.arange(points), heights
            )
            norm += weight
            weight *= rough
        return 0.5 + (total / norm - 0.5) * 1.4


def _caption(kind: str, light: str, cloudy: bool, ranges: int, water: bool, trees: bool) -> str:
    place = {
        "lake": "a lake",
        "sea": "the sea and a sandy shore",
        "meadow": "a meadow",
        "forest": "a conifer forest",
        "desert": "a desert",
        "winter": "a snowfield",
    }[kind]
    behind = " below mountains" if ranges else ""
    extras = []
    if trees and kind != "forest":
        extras.append("with trees")
    if water and kind not in ("lake", "sea"):
        extras.append("beside water")
    sky = (
        "under clouds" if cloudy else "under a clear sky" if light != "grey" else "under a grey sky"
    )
    when = {
        "noon": "at noon",
        "morning": "in the morning",
        "dusk": "at dusk",
        "grey": "on a grey day",
    }[light]
    return " ".join([place + behind, *extras, sky, when])
