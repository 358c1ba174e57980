"""What it costs to draw a person with different libraries, each picture with a new pose.

One dressed person (29 thousand triangles, textures of 768 px, hair with holes) walks before a panorama that lights her:
128 x 128 pixels, four samples each, one processor.

    embree   `posebook.synthesis.render` as it is: Embree through embreex, shading in numpy, cast shadows, occlusion
    warp     the same, but NVIDIA Warp casts the rays on the CPU
    vtk      VTK through PyVista off screen: physically based shading, lit by the panorama, a dark patch for a shadow

`build` is what a new pose costs before anything is drawn (tree or mesh), `draw` the picture, `rays` the part of it that
casts rays, `parts` a second drawing for what each pixel shows (the first tells it for Embree and Warp). Each way has
processes of its own, in a shuffled order; their pictures should have the same bytes every time.

    pip install embreex warp-lang pyvista; apt-get install libegl1 libgl1-mesa-dri
    OMP_NUM_THREADS=1 LP_NUM_THREADS=1 taskset -c 1 python benchmarks/renderers.py --assets DIR [--write]
"""

import argparse
import hashlib
import re
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from importlib import import_module, metadata
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image

from posebook import results
from posebook.skeleton import H36M17
from posebook.synthesis import body, motion, render, wardrobe
from posebook.synthesis.assets import find_assets
from posebook.synthesis.scene import Camera, read_panorama

SIZE, ROUNDS, PICTURES = 128, 3, 200


def make_scene(folder: str, count: int = 50) -> tuple[render.Stage, np.ndarray, render.Weather]:
    """A person, her vertices (count, V, 3) all along a clip, and the light."""
    assets = find_assets(folder)
    wardrobe.TEXTURE_SIZE = 768
    model, clothes = body.BodyModel(assets.makehuman), wardrobe.Wardrobe(assets.makehuman)
    outfit = next(name for name in clothes.outfits if clothes[name].texture and "casual" in name)
    look = replace(wardrobe.random_look(np.random.default_rng(4), clothes), outfit=outfit, hair="long01", hat=None)
    person = wardrobe.dress(model, clothes, look, H36M17.joints)
    clip = motion.read_bvh(min(path for folder in assets.motion for path in folder.glob("*.bvh")), "walk", "walking")
    frames = np.linspace(0, len(clip) - 1, count).astype(int)
    turns = motion.retarget(clip, model.bones, person.heads, person.tails, frames)
    moves = body.bone_transforms(turns, person.heads, model.parents, np.zeros((count, 3)))
    poses = np.stack([body.skin(person.rest, person.weights, move) for move in moves])
    poses[..., 1] -= poses[..., 1].min(1, keepdims=True)
    weather = render.Weather(read_panorama(assets.environments / "bl_courtyard.jpg"), 0.0, 0.7)
    return render.stage_person(person, poses[0], model.bones), poses, weather


def camera_of(pose: int) -> Camera:
    """Once around the person in 90 pictures, a little above the hips."""
    back = np.array([np.sin(pose * np.pi / 45), 0.12, np.cos(pose * np.pi / 45)]) / np.hypot(1, 0.12)
    right = np.cross((0, 1, 0), back) * np.hypot(1, 0.12)
    focal, middle = 2.1 * SIZE, (SIZE - 1) / 2
    return Camera(np.array([[focal, 0, middle], [0, focal, middle], [0, 0, 1]]),
                  np.stack([right, np.cross(-back, right), -back]), np.array([0, 880, 0]) + 4500 * back)


class Embree:
    """`posebook.synthesis.render`, its rays timed."""

    def __init__(self, first: render.Stage, poses: np.ndarray, weather: render.Weather) -> None:
        self.first, self.poses, self.weather, self.rays = first, poses, weather, 0.0

    def build(self, pose: int) -> None:
        self.pose, self.stage = pose, replace(self.first, vertices=self.poses[pose % len(self.poses)])
        self.cast = self.caster()
        self.cast(np.array([[0.0, 1e4, 0]]), np.array([[0.0, 1, 0]]))       # Embree builds its tree at the first ray
        self.stage.__dict__["surface"] = self                               # where the cached property is looked for

    def caster(self):
        return render.Surface(self.stage.vertices, self.stage.faces).first_hit

    def first_hit(self, *arguments) -> tuple[np.ndarray, ...]:
        began = time.perf_counter()
        hit = self.cast(*arguments)
        self.rays += time.perf_counter() - began
        return hit

    def draw(self) -> np.ndarray:
        light, self.labels = render.render([self.stage], camera_of(self.pose), self.weather, SIZE,
                                           np.random.default_rng(self.pose))
        return (wardrobe.to_srgb(light) * 255 + 0.5).astype(np.uint8)

    def parts(self) -> None:
        """`draw` has made the labels."""


class Warp(Embree):
    def __init__(self, *scene) -> None:
        super().__init__(*scene)
        import warp as wp

        def cast(mesh: wp.uint64, origins: wp.array(dtype=wp.vec3), directions: wp.array(dtype=wp.vec3), reach: float,
                 face: wp.array(dtype=int), found: wp.array(dtype=wp.vec3)):
            i = wp.tid()
            hit = wp.mesh_query_ray(mesh, origins[i], directions[i], reach)
            face[i] = wp.where(hit.result, hit.face, -1)
            found[i] = wp.vec3(hit.t, hit.u, hit.v)
        self.wp, self.kernel = wp, wp.Kernel(cast)

    def caster(self):
        wp, faces = self.wp, self.stage.faces.astype(np.int32).ravel()
        mesh = wp.Mesh(self.vectors(self.stage.vertices), wp.array(faces, dtype=int, device="cpu"))

        def cast(origins: np.ndarray, directions: np.ndarray, reach: float = 1e9) -> tuple[np.ndarray, ...]:
            face = wp.empty(len(origins), dtype=int, device="cpu")
            found = wp.empty(len(origins), dtype=wp.vec3, device="cpu")
            rays = [self.vectors(origins), self.vectors(directions), float(reach)]
            wp.launch(self.kernel, len(origins), [mesh.id, *rays, face, found], device="cpu")
            distance, u, v = found.numpy().astype(np.float64).T
            return face.numpy().astype(int), distance, np.stack([u, v, 1 - u - v], axis=1)
        return cast

    def vectors(self, points: np.ndarray):
        return self.wp.array(np.ascontiguousarray(points, np.float32), dtype=self.wp.vec3, device="cpu")


class Vtk(Embree):
    """One plotter for the picture and one for the parts, all textures in one; a new mesh for each pose."""

    def __init__(self, *scene) -> None:
        super().__init__(*scene)
        import pyvista as pv
        self.pv, first, side, tile = pv, self.first, 3, wardrobe.TEXTURE_SIZE
        atlas = np.zeros((side * tile, side * tile, 4), np.uint8)
        for m, texture in enumerate(first.textures):
            pixels = np.concatenate([wardrobe.to_srgb(texture[..., :3]), texture[..., 3:] >= 0.5], axis=-1) * 255
            atlas[m // side * tile:, m % side * tile:][:tile, :tile] = Image.fromarray(pixels.astype(np.uint8)).resize(
                (tile, tile), Image.Resampling.NEAREST)
        place = np.stack([first.material % side, side - 1 - first.material // side], axis=-1)
        corners = np.c_[first.faces.ravel(), ((first.uv % 1 + place[:, None]) / side).reshape(-1, 2)]
        corners, index = np.unique(corners, axis=0, return_inverse=True)
        self.chosen, self.uv = corners[:, 0].astype(int), corners[:, 1:].astype(np.float32)
        self.cells = np.c_[np.full(len(first.faces), 3), index.reshape(-1, 3)].ravel()
        self.build(0)
        self.plots = [pv.Plotter(off_screen=True, window_size=(2 * SIZE, 2 * SIZE), lighting="none") for _ in range(2)]
        self.actors = [self.plots[0].add_mesh(self.mesh, pbr=True, metallic=0, roughness=0.8, color="white"),
                       self.plots[1].add_mesh(self.mesh, scalars="part", rgb=True, lighting=False)]
        coloured, holes = pv.Texture(atlas), pv.Texture(atlas | np.uint8([255, 255, 255, 0]))
        coloured.SetUseSRGBColorSpace(True)
        self.actors[0].GetProperty().SetBaseColorTexture(coloured)
        self.actors[1].SetTexture(holes)
        self.surround()
        for texture, plot, actor in zip((coloured, holes), self.plots, self.actors, strict=True):
            texture.SetInterpolate(False)
            actor.ForceOpaqueOn()                           # holes are cut out, not blended
            plot.background_color = "black"
            plot.render_window.SetMultiSamples(0)           # the window has four samples a pixel as it is
            plot.show(auto_close=False)

    def surround(self) -> None:
        """The panorama as background and light, and a dark patch on the ground."""
        panorama = np.float32(self.weather.panorama.radiance * self.weather.exposure)
        sky, light = self.pv._vtk.vtkSkybox(), self.pv.Texture(np.roll(panorama, -panorama.shape[1] // 4, axis=1))
        light.SetColorModeToDirectScalars()
        light.SetMipmap(True)
        sky.SetTexture(light)
        sky.SetProjectionToSphere()
        sky.SetGammaCorrect(True)
        self.plots[0].add_actor(sky)
        self.plots[0].renderer.SetUseImageBasedLighting(True)
        self.plots[0].renderer.SetEnvironmentTexture(light, False)
        dark = np.zeros((64, 64, 4), np.uint8)
        dark[..., 3] = 170 * np.exp(-4 * np.add.outer(*[np.linspace(-1, 1, 64) ** 2] * 2))
        self.ground = self.plots[0].add_mesh(self.pv.Plane(direction=(0, 1, 0), i_size=900, j_size=900),
                                             lighting=False, texture=self.pv.Texture(dark))

    def build(self, pose: int) -> None:
        self.pose, stage = pose, replace(self.first, vertices=self.poses[pose % len(self.poses)])
        self.mesh = self.pv.PolyData(stage.vertices[self.chosen].astype(np.float32), self.cells)
        self.mesh.point_data.active_normals = stage.normals[self.chosen].astype(np.float32)
        self.mesh.active_texture_coordinates = self.uv
        self.mesh.cell_data["part"] = np.repeat(stage.part[:, None], 3, axis=1)

    def shot(self, which: int) -> np.ndarray:
        """(SIZE, 2, SIZE, 2, 3) uint8: two by two samples in each pixel."""
        plot, camera = self.plots[which], camera_of(self.pose)
        self.actors[which].GetMapper().SetInputData(self.mesh)
        plot.camera.position, plot.camera.up = camera.centre, -camera.rotation[1]
        plot.camera.focal_point = camera.centre + 1000 * camera.rotation[2]
        plot.camera.view_angle = 2 * np.degrees(np.arctan(SIZE / 2 / camera.intrinsics[1, 1]))
        plot.camera.clipping_range = (100, 20000)
        plot.render()
        return plot.screenshot(None, return_img=True).reshape(SIZE, 2, SIZE, 2, 3)

    def draw(self) -> np.ndarray:
        x, y, z = self.mesh.points.T
        self.ground.SetPosition(x[y < 100].mean(), 1.0, z[y < 100].mean())
        return (self.shot(0).mean((1, 3), dtype=np.float32) + 0.5).astype(np.uint8)

    def parts(self) -> None:
        labels = self.shot(1)[..., 0].transpose(1, 3, 0, 2).reshape(4, -1)
        self.labels = render._most(labels).reshape(SIZE, SIZE)


WAYS = {"embree": (Embree, "embreex.rtcore_scene", ["embreex"]), "warp": (Warp, "warp", ["warp-lang"]),
        "vtk": (Vtk, "pyvista", ["vtk", "pyvista"])}


def peak() -> float:
    """MiB that this process has held at most, or since the last write to clear_refs."""
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024


def work(name: str, assets: str, show: str | None) -> dict:
    """Draw in this process; the first three pictures are not timed."""
    began, before = time.perf_counter(), peak()
    import_module(WAYS[name][1])
    out = {"import_seconds": time.perf_counter() - began, "import_mib": peak() - before, "peak_mib": {}, "ms": []}
    files = [Path(file.locate()) for package in WAYS[name][2] for file in metadata.files(package)]
    out["installed_mib"] = sum(file.stat().st_size for file in files if file.is_file()) / 2 ** 20
    scene, digest = make_scene(assets), hashlib.sha256()
    Path("/proc/self/clear_refs").write_text("5")
    out["peak_mib"]["0"] = peak()
    way = WAYS[name][0](*scene)
    for pose in range(PICTURES + 3):
        clock, way.rays, pictures = [time.perf_counter()], 0.0, []
        for step in (lambda p=pose: way.build(p), lambda p=pictures: p.append(way.draw()), way.parts):
            step()
            clock.append(time.perf_counter())
        out["ms"].append([1e3 * x for x in (clock[3] - clock[0], *np.diff(clock), way.rays)])
        digest.update(pictures[0].tobytes() + way.labels.tobytes())
        if pose in (3, 39, PICTURES - 1):
            out["peak_mib"][str(pose + 1)] = peak()
        if show and pose == 50:
            both = [pictures[0], np.repeat(way.labels[..., None] * np.uint8(17), 3, axis=2)]
            Image.fromarray(np.concatenate(both, axis=1)).save(Path(show) / f"{name}.png")
    return out | {"ms": np.array(out["ms"][3:]), "digest": digest.hexdigest()}


def summary(runs: list[dict]) -> dict:
    quartiles = np.quantile(np.concatenate([run["ms"] for run in runs]), [0.25, 0.5, 0.75], axis=0).T
    ms = {step: dict(zip(("q1", "median", "q3"), row, strict=True))
          for step, row in zip(("total", "build", "draw", "parts", "rays"), quartiles, strict=True)}
    sizes = ("installed_mib", "import_seconds", "import_mib")
    return {"ms": ms, **{key: np.median([run[key] for run in runs]) for key in sizes},
            "peak_mib": {at: np.median([run["peak_mib"][at] for run in runs]) for at in runs[0]["peak_mib"]},
            "same_bytes": len({run["digest"] for run in runs}) == 1}


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare renderers; see the head of this file.")
    parser.add_argument("--assets", required=True, help="folder with the ingredients")
    parser.add_argument("--show", help="folder for a picture of each")
    parser.add_argument("--write", action="store_true", help="store the numbers in benchmarks/renderers.json")
    options = parser.parse_args()
    runs, missing, rng = {}, {}, np.random.default_rng(0)
    for name in [name for _ in range(ROUNDS) for name in rng.permutation(list(WAYS)).tolist()]:
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            try:
                runs.setdefault(name, []).append(pool.submit(work, name, options.assets, options.show).result())
            except (ImportError, RuntimeError) as error:        # a process that died is a RuntimeError
                missing[name] = f"{type(error).__name__}: {error}"
    ways = {name: summary(runs[name]) for name in WAYS if name in runs and name not in missing}
    ratios = {name: ways["embree"]["ms"]["total"]["median"] / way["ms"]["total"]["median"]
              for name, way in ways.items() if "embree" in ways}
    record = {"pictures": PICTURES * ROUNDS, "size": SIZE, "samples": 4, **ways, "speed / embree": ratios}
    rows = [[name, *(row["median"] for row in way["ms"].values())] for name, way in ways.items()]
    print(results.table(["median ms", "total", "build", "draw", "parts", "rays"], rows, 1), record, missing, sep="\n\n")
    if options.write:
        record |= {"missing": missing, "environment": results.environment()}
        results.write_record(Path(__file__).with_suffix(".json"), record)


if __name__ == "__main__":
    main()
