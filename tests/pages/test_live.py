"""The network in the page, in a browser: the same numbers as the package, and what a reader does with it.

The page is a small one of our own with the figure in it, so the book need not be built; the figure's files are.
"""

from __future__ import annotations

import base64
import io
import json
import os
import re
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import build_live
import numpy as np
import pytest
import torch
from PIL import Image

from posebook import export, geometry, networks, training
from posebook.datasets import load
from posebook.datasets.base import ENLARGE, crop_image, read_image
from posebook.interactive import live_network
from posebook.targets import Coordinates

LIMIT = 15e6
"""Bytes that the page may load, both networks included."""
PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>live</title><link rel="icon" href="data:,">
<meta name="viewport" content="width=device-width"><body>{}</body></html>"""


class _Quiet(SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    extensions_map = {**SimpleHTTPRequestHandler.extensions_map, ".mjs": "text/javascript"}

    def log_message(self, *_):
        pass


@pytest.fixture(scope="package")
def site(tmp_path_factory):
    """The address of a server with the pages full.html and small.html, and the figure's files where they look."""
    try:
        build_live.build()
    except OSError as error:
        (pytest.fail if os.environ.get("POSEBOOK_REQUIRE_PAGES") else pytest.skip)(str(error))
    folder = tmp_path_factory.mktemp("site")
    for name in ("book", "_static"):
        (folder / name).mkdir()
    (folder / "_static" / "live").symlink_to(build_live.OUT.parent)
    (folder / "book" / "full.html").write_text(PAGE.format(live_network()), encoding="utf-8")
    (folder / "book" / "small.html").write_text(PAGE.format(live_network(small=True)), encoding="utf-8")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder)))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def figure(page, site):
    """The page with the figure, before anything was asked of it."""
    return opened(page, f"{site}/book/full.html")


def opened(page, address):
    page.set_default_timeout(60_000)                        # a busy machine compiles slowly
    page.goto(address)
    page.wait_for_selector(".posebook-live .examples button[aria-pressed=true]")
    return page


def settled(page):
    """Wait until the last run has been drawn."""
    page.wait_for_function("""() => { const figure = document.querySelector('.posebook-live').posebook;
        return figure.last && !figure.running; }""")
    return page


def state(page):
    """Box, joints in pixels of the picture, and how long the run took, of the page's figure."""
    return settled(page).evaluate("""() => { const {box, last, network, ...rest} =
        document.querySelector('.posebook-live').posebook, figure = document.querySelector('.posebook-live').posebook;
        return {box, network, pose: figure.pose(), milliseconds: last.milliseconds, square: last.square}; }""")


def photo(width=300, height=200, seed=0):
    """(height, width, 3) uint8: smooth colours with some noise, such as cameras make."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
    smooth = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC), int)
    return np.clip(smooth + rng.normal(0, 6, smooth.shape), 0, 255).astype(np.uint8)


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind, **options)
    return buffer.getvalue()


def upload(page, content, name="photo.png", mime="image/png"):
    page.set_input_files(".posebook-live input[type=file]", {"name": name, "mimeType": mime, "buffer": content})


def text64(array):
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()


# --- the same numbers


RUN = """async ([name, text, count, batch]) => {
  const {readList, loadNetwork} = await import('/_static/live/network.js');
  const network = await loadNetwork(await readList(), name);
  const bytes = Uint8Array.from(atob(text), c => c.charCodeAt(0)), size = bytes.length / count * batch, found = {};
  for (let k = 0; k < bytes.length; k += size) {
    const {answers} = await network.run(bytes.slice(k, k + size));
    for (const output in answers) (found[output] ??= []).push(answers[output].data);
  }
  const encode = values => {
    const raw = new Uint8Array(new Float32Array(values.flatMap(part => [...part])).buffer), parts = [];
    for (let k = 0; k < raw.length; k += 8192) parts.push(String.fromCharCode(...raw.subarray(k, k + 8192)));
    return btoa(parts.join(''));
  };
  return Object.fromEntries(Object.entries(found).map(([output, values]) => [output, encode(values)]));
}"""


@pytest.mark.parametrize("name, batch", [("people", 1), ("lspet", 1), ("people", 50)])
def test_the_browser_computes_what_pytorch_does(page, site, name, batch):
    page.set_default_timeout(120_000)
    page.goto(f"{site}/book/full.html")
    crops = load("people", "test", limit=100, size=64).images
    assert crops.shape == (100, 3, 64, 64)
    found = page.evaluate(RUN, [name, text64(crops), len(crops), batch])
    network, origin = networks.load_network(build_live.weights(name))
    wanted = export.outputs(network, origin, torch.from_numpy(crops))
    assert set(found) == set(wanted) and len(wanted) == 12
    for output, values in wanted.items():
        ours = np.frombuffer(base64.b64decode(found[output]), np.float32).reshape(values.shape)
        np.testing.assert_allclose(ours, values.numpy(), atol=1e-4, rtol=0, err_msg=output)


CROP = """async ([text, width, height, boxes, enlarge, size]) => {
  const {cropImage, squareBox} = await import('/_static/live/crop.js');
  const rgb = Uint8Array.from(atob(text), c => c.charCodeAt(0)), data = new Uint8ClampedArray(width * height * 4);
  for (let k = 0; k < width * height; k++) data.set([rgb[3 * k], rgb[3 * k + 1], rgb[3 * k + 2], 255], 4 * k);
  return boxes.map(box => {
    const square = squareBox(box, enlarge);
    return {square, crop: [...cropImage({data, width, height}, square, size)]};
  });
}"""


@pytest.mark.parametrize("width, height", [(128, 128), (97, 240), (640, 61)])
def test_the_crop_has_the_package_s_bytes(page, site, width, height):
    page.goto(f"{site}/book/full.html")
    image, rng = photo(width, height), np.random.default_rng(1)
    corners = rng.uniform(0, [width, height], (12, 2, 2)).astype(np.float32)
    boxes = np.concatenate([corners.min(axis=1), corners.max(axis=1) + 2], axis=1)
    boxes = np.concatenate([boxes, [[0, 0, width, height], [0, 0, 9, 9], [width - 3, height - 8, width, height],
                                    [5, 5, 58.333, 58.333]]]).astype(np.float32)
    for size in (64, 31):
        found = page.evaluate(CROP, [text64(image), width, height, boxes.tolist(), ENLARGE, size])
        for box, ours in zip(boxes, found, strict=True):
            square = geometry.square_box(box, ENLARGE)
            assert ours["square"] == square.tolist()
            theirs = crop_image(image, square, size).transpose(2, 0, 1)
            away = np.abs(np.reshape(ours["crop"], theirs.shape).astype(int) - theirs).max()
            left, top, right, bottom = np.ceil(np.maximum([*-square[:2], *(square[2:] - [width, height])], 0))
            assert away == 0 or (away == 1 and height + top + bottom > width + left + right), box    # see crop.js


READ = """async text => {
  const {fromFile} = await import('/_static/live/picture.js');
  const canvas = await fromFile(new Blob([Uint8Array.from(atob(text), c => c.charCodeAt(0))]));
  const {data, width, height} = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
  const parts = [];
  for (let k = 0; k < data.length; k += 8192) parts.push(String.fromCharCode(...data.subarray(k, k + 8192)));
  return [btoa(parts.join('')), width, height];
}"""


def read_in_browser(page, content):
    text, width, height = page.evaluate(READ, base64.b64encode(content).decode())
    return np.frombuffer(base64.b64decode(text), np.uint8).reshape(height, width, 4)[..., :3]


@pytest.mark.parametrize("kind, options, tolerance", [
    ("PNG", {}, 0), ("JPEG", {"quality": 90}, 2), ("JPEG", {"quality": 90, "orientation": 6}, 2),
    ("JPEG", {"quality": 90, "orientation": 3}, 2)])
def test_files_are_read_as_the_package_reads_them(page, site, tmp_path, kind, options, tolerance):
    page.goto(f"{site}/book/full.html")
    orientation = options.pop("orientation", None)
    if orientation:
        options["exif"] = Image.Exif()
        options["exif"][0x0112] = orientation
    content = encoded(photo(), kind, **options)
    (tmp_path / "a").write_bytes(content)
    ours, theirs = read_in_browser(page, content).astype(int), read_image(tmp_path / "a").astype(int)
    assert ours.shape == theirs.shape == ((300, 200, 3) if orientation == 6 else (200, 300, 3))
    assert np.abs(ours - theirs).max() <= tolerance


def test_a_huge_picture_is_scaled_down_and_its_crop_stays_nearly_the_same(page, site):
    page.goto(f"{site}/book/full.html")
    image = photo(5000, 3125)
    ours = read_in_browser(page, encoded(image, "JPEG", quality=95))
    assert ours.shape == (640, 1024, 3)
    box = np.float32([1000, 500, 3500, 2900])
    crop = crop_image(ours, box * 1024 / 5000, 64).astype(int)
    assert np.abs(crop - crop_image(image, box, 64)).max() <= 4


def test_an_upload_gives_the_joints_of_the_command_predict(figure):
    image = photo(320, 240, seed=3)
    upload(figure, encoded(image))
    settled(figure)
    network, _ = networks.load_network(build_live.weights("lspet"))
    figure.select_option(".source", "regression")
    assert state(figure)["network"] == "lspet", "photographs are for the network that learned from photographs"
    for box in ([0, 0, 320, 240], [40, 10, 200, 230]):
        figure.evaluate("""box => { const figure = document.querySelector('.posebook-live').posebook;
            figure.box = box; figure.moveBox(null, 0, 0); }""", box)
        wanted = training.predict_pose(network, Coordinates(14, 64), image, np.float32(box))
        np.testing.assert_allclose(state(figure)["pose"], wanted, atol=1e-3)
    assert not figure.problems and not figure.strangers


# --- what a reader does


def test_the_page_asks_only_its_own_server_and_loads_less_than_allowed(figure):
    loaded = {}
    figure.on("response", lambda answer: loaded.update({answer.url: int(answer.headers.get("content-length", 0))}))
    figure.evaluate("""() => { const text = document.querySelector('.received'); window.seen = [];
        new MutationObserver(() => seen.push(text.textContent)).observe(text, {childList: true}); }""")
    assert "Start: load the network (8.6 MB)" in figure.inner_text(".start")
    figure.click(".start")
    assert len(state(figure)["pose"]) == 14
    assert not figure.is_visible(".start") and not figure.is_visible("progress")
    assert any(re.fullmatch(r"\d\.\d of 8\.5 MB", text) for text in figure.evaluate("seen")), "no progress was shown"
    figure.check("text=photographs")
    figure.wait_for_function("() => document.querySelector('.posebook-live').posebook.last?.about.dataset === 'lspet'")
    onnx = [address for address in loaded if address.endswith(".onnx")]
    assert len(onnx) == 2
    for part in ("ort-wasm", ".jpg", "live.js", "live.css", "live.json"):
        assert any(part in entry for entry in figure.evaluate("performance.getEntries().map(e => e.name)"))
    total = figure.evaluate("performance.getEntries().reduce((sum, e) => sum + (e.encodedBodySize ?? 0), 0)")
    assert 13e6 < total < LIMIT
    assert not figure.strangers and not figure.problems


def test_pictures_joints_windows_and_maps_answer_to_clicks(figure):
    figure.click(".examples button:nth-child(3)")
    first = state(figure)
    assert figure.get_attribute(".examples button:nth-child(3)", "aria-pressed") == "true"
    assert figure.get_attribute(".examples button:nth-child(1)", "aria-pressed") == "false"
    assert "runs along a shore" in figure.get_attribute("canvas.picture", "aria-label")
    assert re.search(r"network [\d.]+ ms\. Mean error [\d.]+ pixels", figure.inner_text(".timing"))
    figure.click(".examples button:nth-child(8)")
    figure.wait_for_function("x => document.querySelector('.posebook-live').posebook.pose()[0][0] !== x",
                             arg=first["pose"][0][0])                   # the picture is decoded before it is seen
    assert state(figure)["pose"] != first["pose"]
    sides = [figure.locator(f"g.pose line.{side}").count() for side in ("left", "right", "middle")]
    assert sides == [4, 4, 2] and figure.locator("g.pose line.right[stroke-dasharray]").count() == 4

    assert figure.locator("g.true path").count() == 0
    figure.check(".truth")
    assert figure.locator("g.true path").count() == 28

    regression = state(figure)["pose"]
    figure.select_option(".source", "joints_best")
    assert state(figure)["pose"] != regression

    assert figure.locator(".view svg rect").count() == 64 + 2
    before = figure.inner_text(".said-windows")
    figure.select_option(".thing", label="left lower leg")
    assert figure.inner_text(".said-windows") != before
    figure.select_option(".thing", "")
    assert figure.locator(".view svg rect").count() == 0

    pixels = "() => document.querySelector('.map').toDataURL()"
    drawn = {figure.evaluate(pixels)}
    figure.focus(".number")
    for _ in range(4):
        figure.keyboard.press("ArrowRight")
        drawn.add(figure.evaluate(pixels))
    assert len(drawn) > 2 and "4 (of 0 to 31), 24 x 24" in figure.inner_text(".said-map")
    figure.select_option(".layer", "conv3")
    assert "4 (of 0 to 31), 8 x 8" in figure.inner_text(".said-map")
    assert figure.locator("tbody tr").count() == 14
    assert not figure.problems


def test_the_box_answers_to_the_keyboard(figure):
    figure.focus(".start")
    figure.keyboard.press("Enter")
    before = state(figure)
    figure.focus(".handles button >> nth=0")
    figure.keyboard.press("ArrowLeft")
    figure.keyboard.press("Shift+ArrowUp")
    after = state(figure)
    assert np.allclose(np.subtract(before["box"], after["box"]), [1, 8, 0, 0])
    assert before["pose"] != after["pose"]
    figure.keyboard.press("Tab")                                       # to the next corner, and so on to the whole box
    for _ in range(3):
        figure.keyboard.press("Tab")
    assert "whole" in figure.evaluate("document.activeElement.className")
    for _ in range(40):
        figure.keyboard.press("Shift+ArrowRight")
    moved = state(figure)["box"]
    assert moved[2] == 128 and np.isclose(moved[2] - moved[0], after["box"][2] - after["box"][0]), "it stays inside"


def test_the_box_answers_to_the_mouse_and_cannot_collapse(figure):
    figure.click(".start")
    before = state(figure)["box"]
    frame, corner = (figure.locator(name).bounding_box() for name in (".frame", ".handles button >> nth=3"))
    x, y = corner["x"] + corner["width"] / 2, corner["y"] + corner["height"] / 2
    figure.mouse.move(x, y)
    figure.mouse.down()
    figure.mouse.move(x + 20, y + 10, steps=4)
    figure.mouse.up()
    scale, after = 128 / frame["width"], state(figure)["box"]
    assert np.allclose(np.subtract(after, before), [0, 0, 20 * scale, 10 * scale], atol=0.05)
    figure.mouse.move(x + 20, y + 10)
    figure.mouse.down()
    figure.mouse.move(frame["x"], frame["y"])
    figure.mouse.up()
    small = state(figure)["box"]
    assert np.allclose([small[2] - small[0], small[3] - small[1]], 8) and small[:2] == after[:2]
    middle = figure.locator(".frame").bounding_box()
    figure.mouse.move(middle["x"] + 30, middle["y"] + 200)             # on the picture itself: the whole box
    figure.mouse.down()
    figure.mouse.move(middle["x"] + 20, middle["y"] + 200)
    figure.mouse.up()
    assert np.allclose(np.subtract(state(figure)["box"], small), [-10 * scale, 0, -10 * scale, 0], atol=0.05)


@pytest.mark.parametrize("way", ["drop", "paste"])
def test_a_photo_can_be_dropped_and_pasted(figure, way):
    figure.focus(".file")
    figure.evaluate("""([way, text]) => {
        const transfer = new DataTransfer(), bytes = Uint8Array.from(atob(text), c => c.charCodeAt(0));
        transfer.items.add(new File([bytes], 'mine.png', {type: 'image/png'}));
        const target = document.querySelector('.posebook-live .file');
        const options = {dataTransfer: transfer, clipboardData: transfer, bubbles: true, cancelable: true};
        target.dispatchEvent(way === 'drop' ? new DragEvent(way, options) : new ClipboardEvent(way, options));
    }""", [way, base64.b64encode(encoded(photo(200, 300))).decode()])
    figure.wait_for_function("() => document.querySelector('canvas.picture').height === 300")
    found = state(figure)
    assert found["box"] == [0, 0, 200, 300] and found["network"] == "lspet"
    assert figure.is_disabled(".truth") and "Mean error" not in figure.inner_text(".timing")


@pytest.mark.parametrize("content", [b"not a picture at all", b"", encoded(photo())[:50]])
def test_a_file_that_is_no_picture_gives_one_sentence_and_changes_nothing(figure, content):
    figure.click(".start")
    before = state(figure)
    upload(figure, content, "notes.txt", "text/plain")
    figure.wait_for_function("() => document.querySelector('.status').textContent.includes('notes.txt')")
    assert figure.inner_text(".status") == "“notes.txt” cannot be read as a picture here; JPEG, PNG and WebP files can."
    assert state(figure)["pose"] == before["pose"]
    assert figure.evaluate("document.querySelector('canvas.picture').width") == 128


def test_the_camera_s_pictures_run_until_it_is_stopped(page, site):
    page.add_init_script("""navigator.mediaDevices.getUserMedia = async () => {
        const canvas = document.createElement('canvas'); canvas.width = 320; canvas.height = 240;
        const context = canvas.getContext('2d'); let hue = 0;
        setInterval(() => { context.fillStyle = `hsl(${hue += 40} 80% 50%)`; context.fillRect(0, 0, 320, 240); }, 40);
        return window.stream = canvas.captureStream(25); };""")
    figure = opened(page, f"{site}/book/full.html")
    figure.click("text=Camera")
    figure.wait_for_function("() => document.querySelector('canvas.picture').width === 320")
    poses = {str(state(figure)["pose"])}
    for _ in range(20):
        figure.wait_for_timeout(100)
        poses.add(str(state(figure)["pose"]))
    assert len(poses) > 2, "new pictures give new joints"
    figure.click("text=Stop")
    assert figure.evaluate("stream.getTracks()[0].readyState") == "ended"
    figure.wait_for_timeout(300)
    still = state(figure)["pose"]
    figure.wait_for_timeout(400)
    assert state(figure)["pose"] == still and not figure.problems


def test_without_a_camera_there_is_no_button_and_a_refusal_is_said(page, site):
    page.add_init_script("navigator.mediaDevices.getUserMedia = undefined;")
    assert not opened(page, f"{site}/book/full.html").is_visible(".camera")


def test_a_camera_that_is_refused_gives_a_sentence(page, site):
    page.add_init_script("""navigator.mediaDevices.getUserMedia = async () => {
        throw new DOMException('no', 'NotAllowedError'); };""")
    figure = opened(page, f"{site}/book/full.html")
    figure.click("text=Camera")
    figure.wait_for_function("() => document.querySelector('.status').textContent.includes('camera was not allowed')")


def test_a_broken_connection_gives_a_sentence_and_another_try(figure):
    figure.route("**/people.onnx", lambda route: route.abort())
    figure.click(".start")
    figure.wait_for_function("() => document.querySelector('.status').textContent.includes('could not be loaded')")
    assert "the connection was lost; try again" in figure.inner_text(".status")
    figure.unroute("**/people.onnx")
    figure.click(".start")
    assert len(state(figure)["pose"]) == 14


def test_without_its_files_the_figure_says_what_to_do(page, site):
    page.route("**/live.json", lambda route: route.fulfill(status=404))
    page.goto(f"{site}/book/full.html")
    page.wait_for_function("() => document.querySelector('.posebook-live').textContent.includes('make book')")


def test_without_scripts_a_sentence_says_where_the_figure_runs(browser, site):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{site}/book/full.html")
    assert "JupyterLab" in page.inner_text(".posebook-live") and "http.server" in page.inner_text(".posebook-live")
    context.close()


def test_the_small_figure_shows_joints_and_takes_photos(page, site):
    figure = opened(page, f"{site}/book/small.html")
    assert figure.locator(".behind").count() == 0 and figure.locator(".examples button").count() == 5
    figure.click(".examples button:nth-child(2)")
    assert state(figure)["network"] == "people" and figure.locator("g.pose line").count() == 20
    upload(figure, encoded(photo()))
    figure.wait_for_function("() => document.querySelector('canvas.picture').width === 300")
    assert state(figure)["network"] == "lspet"
    assert not figure.problems and not figure.strangers


@pytest.mark.parametrize("name", ["full", "small"])
def test_it_fits_a_phone(page, site, name):
    page.set_viewport_size({"width": 390, "height": 800})
    figure = opened(page, f"{site}/book/{name}.html")
    figure.click(".examples button:nth-child(2)")
    settled(figure)
    assert figure.evaluate("document.documentElement.scrollWidth") <= 390


def test_touch_moves_a_corner(browser, site):
    context = browser.new_context(viewport={"width": 390, "height": 800}, has_touch=True)
    figure = opened(context.new_page(), f"{site}/book/full.html")
    figure.click(".start")
    before = state(figure)["box"]
    corner = figure.locator(".handles button >> nth=0").bounding_box()
    x, y = corner["x"] + 15, corner["y"] + 15
    client = context.new_cdp_session(figure)
    for kind, points in (("touchStart", [(x, y)]), ("touchMove", [(x - 8, y - 6)]), ("touchMove", [(x - 16, y - 12)]),
                         ("touchEnd", [])):
        client.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": a, "y": b} for a, b in points]})
    figure.wait_for_timeout(200)
    after = state(figure)["box"]
    assert after[0] < before[0] and after[1] < before[1] and after[2:] == before[2:]
    context.close()


def test_the_pictures_of_the_page_are_people_of_the_test_split_with_true_joints(site):
    listed = json.loads((build_live.OUT / "live.json").read_text())
    assert len(listed["examples"]) == len(build_live.EXAMPLES) == 8
    for example in listed["examples"]:
        joints = np.array([p for p in example["joints"] if p])
        assert Image.open(build_live.OUT / example["file"]).size == (128, 128)
        assert len(joints) == 14 and (joints > 0).all() and (joints < 128).all()
        np.testing.assert_allclose(example["box"], [*joints.min(axis=0), *joints.max(axis=0) + 1], atol=0.02)
