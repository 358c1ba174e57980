"""The figures that a reader can touch, by mouse, finger and keyboard; their arithmetic against `posebook.metrics`."""

from __future__ import annotations

import math

import numpy as np
import pytest
from samples import pose

from posebook import geometry, metrics
from posebook.interactive import film, measures, pairs, structure, window_grid
from posebook.pictorial import learn_springs
from posebook.skeleton import ABSENT, H36M17, LSP14, VISIBLE, Limb, Skeleton
from posebook.targets import PartWindows, paper_a_grid

FIGURE = "document.querySelector('.posebook-figure').posebook"
STATE = np.full(17, VISIBLE)
SOLID = np.concatenate([pose(H36M17, (0, 0), 800), np.linspace(-90, 90, 17)[:, None]], axis=1) + (0, 0, 4000)


def show(page, *figures: str) -> None:
    page.set_content("<!doctype html><html lang='en'><title>Figures</title><body style='margin: 16px'><main>"
                     f"{''.join(figures)}</main></body></html>")


def one_person(**changes) -> str:
    parts = {"image": np.full((3, 100, 100), 90, np.uint8), "joints": pose(H36M17, (50, 50), 40), "state": STATE,
             "joints3d": SOLID, "skeleton": H36M17, "chosen": "left_wrist", **changes}
    return measures(**parts)


def two_takes(frames: int = 41) -> str:
    truth = np.stack([pose(LSP14, (32, 34), 20 + n) for n in range(8)])
    takes = {name: {"images": [1600 * k for k in range(frames)], "loss": np.linspace(0.05, last, frames),
                    "pck": np.linspace(0, 0.3, frames), "spread": np.linspace(1.2, 0.5, frames),
                    "poses": np.stack([truth + shift * (frames - 1 - k) for k in range(frames)])}
             for name, last, shift in (("one", 0.012, 4.0), ("other", 0.017, -2.0))}
    return film(np.full((8, 3, 64, 64), 120, np.uint8), truth, np.full((8, 14), VISIBLE), takes,
                {"loss": 0.017, "pck": 0.13}, LSP14)


def numbers(page) -> dict[str, str]:
    """What the table of measures says."""
    return dict(page.evaluate("[...document.querySelectorAll('.numbers tbody tr')].map(row => "
                              "[row.cells[0].textContent, row.cells[1].textContent])"))


def poses(page) -> dict:
    return page.evaluate(f"{FIGURE}.poses()")


def on_screen(page, view: str, x: float, y: float) -> tuple[float, float]:
    """Where a point of an SVG lies in the window."""
    return tuple(page.evaluate("""([view, x, y]) => {
      const svg = document.querySelector(view);
      svg.scrollIntoView({block: "center"});
      const at = new DOMPoint(x, y).matrixTransform(svg.getScreenCTM());
      return [at.x, at.y];
    }""", [view, x, y]))


def test_the_measures_of_the_page_are_those_of_the_package(page):
    rng = np.random.default_rng(0)
    compared = 0
    for skeleton in (H36M17, LSP14):
        for trial in range(6):
            count = len(skeleton)
            true, true3 = rng.uniform(10, 90, (count, 2)).round(2), rng.normal(0, 300, (count, 3)).round(1)
            state = np.where(rng.random(count) < 0.2 * (trial > 1), ABSENT, VISIBLE)
            show(page, one_person(joints=true, joints3d=true3, state=state, skeleton=skeleton))
            size = np.exp(rng.uniform(-3, 4, (30, 1, 1)))
            guess = true + size * rng.normal(size=(30, count, 2))
            guess3 = true3 + size * rng.normal(0, 9, (30, count, 3))
            guess3[::5] = guess3[::5] * (-1, 1, 1)              # the best orthogonal fit is a reflection
            guess[0], guess3[0] = true, true3
            threshold = float(rng.uniform(0.05, 0.9))
            found = page.evaluate(f"([a, b, t]) => a.map((p, k) => {FIGURE}.measure(p, b[k], t))",
                                  [guess.tolist(), guess3.tolist(), threshold])
            box = metrics.box_size(geometry.joints_box(true, state)[None])
            torso, head = (ruler(true[None], state[None], skeleton)
                           for ruler in (metrics.torso_diameter, metrics.head_length))
            for p, p3, here in zip(guess, guess3, found, strict=True):
                flat, solid = (p[None], true[None], state[None]), (p3[None], true3[None], state[None])
                wanted = {f"{name} {at}": metrics.pck(*flat, ruler, a).mean
                          for name, ruler, usual in (("PCK, box", box, 0.2), ("PDJ (PCK, torso)", torso, 0.2),
                                                     ("PCKh, head", head, 0.5))
                          for at, a in (("usual", usual), ("here", threshold))}
                wanted |= {f"PCP, {name} {at}": metrics.pcp(*flat, skeleton, a, strict=name == "strict").mean
                           for name in ("strict", "loose") for at, a in (("usual", 0.5), ("here", threshold))}
                wanted |= {"MPJPE": metrics.mpjpe(*solid, skeleton.root).mean,
                           "PA-MPJPE": metrics.pa_mpjpe(*solid).mean, "pixels": metrics.mpjpe(*flat, None).mean}
                plain = {k if at is None else f"{k} {at}": v for k, value in here.items()
                         for at, v in (value.items() if isinstance(value, dict) else [(None, value)])}
                assert plain.keys() == wanted.keys()
                for name, value in wanted.items():
                    assert plain[name] == pytest.approx(value, rel=1e-6, abs=1e-6, nan_ok=True), name
                    compared += not math.isnan(value)
    assert compared > 4000 and page.problems == []


def test_a_joint_follows_the_mouse_and_its_measures_follow_the_joint(page):
    show(page, one_person())
    page.get_by_role("button", name="right again").click()
    assert numbers(page)["PDJ (PCK, torso)"] == "@0.2: 1.00" and numbers(page)["MPJPE"] == "0.0 mm"
    ankle = H36M17.index("right_ankle")
    x, y = poses(page)["pose"][ankle]
    start = on_screen(page, ".front", x + 1, y + 1)                      # beside the middle: it must not jump
    page.mouse.move(*start)
    page.mouse.down()
    page.mouse.move(*on_screen(page, ".front", x + 10, y - 20))
    page.mouse.move(*on_screen(page, ".front", x + 31, y - 29))
    page.mouse.up()
    after = poses(page)
    assert after["chosen"] == ankle and after["pose"][ankle] == pytest.approx([x + 30, y - 30], abs=0.02)
    assert after["pose"][:ankle] == page.evaluate(f"{FIGURE}.data.truth").copy()[:ankle]
    assert numbers(page)["PDJ (PCK, torso)"] == "@0.2: 0.94" and numbers(page)["PCP, strict"] == "@0.5: 0.90"
    millimetres = float(numbers(page)["MPJPE"].split()[0])
    assert millimetres == pytest.approx(20 * 30 * math.sqrt(2) / 17, abs=0.1)         # 20 mm a pixel
    assert page.locator("select").input_value() == str(ankle) and "right ankle" in page.locator(".says").text_content()
    page.mouse.move(*start)
    assert poses(page) == after                                          # let go
    assert page.locator(".buttons [aria-pressed=true]").count() == 0 and page.problems == []


def test_depth_is_changed_from_the_side_and_moves_nothing_in_the_picture(page):
    show(page, one_person())
    page.get_by_role("button", name="right again").click()
    wrist, middle = H36M17.index("left_wrist"), SOLID[0]
    x, y, z = SOLID[wrist]
    page.mouse.move(*on_screen(page, ".side", z - middle[2], y - middle[1]))
    page.mouse.down()
    page.mouse.move(*on_screen(page, ".side", z - middle[2] + 170, y - middle[1]))
    page.mouse.up()
    after = poses(page)
    assert after["chosen"] == wrist and after["pose3"][wrist] == pytest.approx([x, y, z + 170], abs=2)
    assert after["pose"][wrist] == pytest.approx(page.evaluate(f"{FIGURE}.data.truth")[wrist], abs=0.1)
    assert numbers(page)["MPJPE"] == "10.0 mm" and numbers(page)["PCKh, head"] == "@0.5: 1.00"


def test_the_measures_answer_to_the_keyboard_alone(page):
    show(page, one_person())
    page.get_by_role("button", name="right again").focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")                                           # the picture
    before = poses(page)
    for key in ("ArrowRight", "ArrowRight", "Shift+ArrowUp"):
        page.keyboard.press(key)
    j = before["chosen"]
    assert np.subtract(poses(page)["pose"][j], before["pose"][j]) == pytest.approx([2, -5])
    page.keyboard.press("Tab")                                           # which joint
    page.keyboard.press("ArrowDown")
    assert poses(page)["chosen"] == j + 1
    page.keyboard.press("Tab")                                           # the threshold
    for _ in range(30):
        page.keyboard.press("ArrowRight")
    assert page.locator(".numbers thead th").last.text_content() == "at 0.50"
    assert page.locator("input[type=range]").get_attribute("aria-valuetext") == "0.50"
    page.keyboard.press("Tab")                                           # the view from the side
    page.keyboard.press("ArrowRight")
    assert np.subtract(poses(page)["pose3"][j + 1], before["pose3"][j + 1]) == pytest.approx([0, 0, 20])
    page.wait_for_function("['.spoken', '.says'].map(name => document.querySelector(name).textContent)"
                           ".every((text, k, both) => text === both[0])")


def test_buttons_bring_the_mistakes_that_the_chapter_is_about(page):
    show(page, one_person(aside=12))
    said = {}
    for button in page.locator(".presets button").all():
        button.click()
        assert button.get_attribute("aria-pressed") == "true"
        said[button.text_content()] = numbers(page)
    assert said["all 12 px aside"]["MPJPE"] == said["all 12 px aside"]["PA-MPJPE"] == "0.0 mm"
    assert said["all 12 px aside"]["PDJ (PCK, torso)"] == "@0.2: 0.00"
    assert said["one joint far off"]["PDJ (PCK, torso)"] == "@0.2: 0.94"
    assert float(said["left and right exchanged"]["PA-MPJPE"].split()[0]) > 10
    assert said["right again"]["PCP, strict"] == "@0.5: 1.00" and page.problems == []


def test_a_finger_moves_a_joint(browser):
    context = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    page = context.new_page()
    show(page, one_person())
    page.get_by_role("button", name="right again").tap()
    touch = context.new_cdp_session(page)
    x, y = poses(page)["pose"][0]
    points = [on_screen(page, ".front", x + step, y) for step in (0, 6, 12)]
    for kind, at in zip(("touchStart", "touchMove", "touchMove", "touchEnd"), (*points, None), strict=True):
        touch.send("Input.dispatchTouchEvent", {
            "type": kind, "touchPoints": [] if at is None else [{"x": at[0], "y": at[1]}]})
    assert poses(page)["pose"][0] == pytest.approx([x + 12, y], abs=0.3)
    assert page.evaluate("getComputedStyle(document.querySelector('.hit')).touchAction") == "none"
    assert page.evaluate("getComputedStyle(document.querySelector('.front')).touchAction") == "pan-y"
    assert page.evaluate("document.querySelector('.hit').getBoundingClientRect().width") >= 24
    context.close()


def test_the_film_is_scrubbed_played_and_changed(page):
    show(page, two_takes())
    state = f"{FIGURE}.state()"
    line = "document.querySelectorAll('.people svg')[2].lastElementChild.lastElementChild.getAttribute('x2')"
    begin = float(page.evaluate(line))
    slider = page.get_by_role("slider")
    slider.focus()
    page.keyboard.press("ArrowRight")
    assert page.evaluate(state) == {"name": "one", "frame": 1, "playing": False}
    assert float(page.evaluate(line)) == pytest.approx(begin - 4, abs=0.01)
    assert slider.get_attribute("aria-valuetext") == "1,600 pictures seen"
    said = page.locator(".says").text_content()
    assert "after 1,600 of 64,000 pictures" in said and "squared error 0.0491" in said and "PCK@0.2 0.007" in said
    page.keyboard.press("End")
    page.keyboard.press("ArrowLeft")
    page.get_by_role("button", name="play").click()
    page.wait_for_function(f"{state}.frame === 40 && !{state}.playing")   # it stops at the end
    page.get_by_role("button", name="play").click()                       # and begins again from the start
    page.wait_for_function(f"{state}.frame > 0 && {state}.frame < 40")
    page.get_by_role("button", name="pause").click()
    stopped = page.evaluate(state)
    page.wait_for_timeout(300)
    assert page.evaluate(state) == stopped and not stopped["playing"]
    page.get_by_role("button", name="other", exact=True).click()
    assert page.evaluate(state) == {**stopped, "name": "other"}
    truths = "getComputedStyle(document.querySelector('.people g')).visibility"
    assert page.evaluate(truths) == "hidden"
    page.get_by_role("checkbox").check()
    assert page.evaluate(truths) == "visible" and page.problems == []


def test_jupyterlab_leaves_the_keys_to_the_figures(page):
    show(page, one_person(), two_takes())
    assert page.locator("[data-lm-suppress-shortcuts=true] input[type=range]").count() == 2


@pytest.mark.parametrize("figure", [one_person, two_takes])
def test_figures_fit_a_phone_and_a_finger(page, figure):
    page.set_viewport_size({"width": 390, "height": 844})
    show(page, figure())
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    small = page.evaluate("""[...document.querySelectorAll("button, select, input, label.truth")]
      .filter(node => node.getBoundingClientRect().width)
      .map(node => [node.className || node.type, node.getBoundingClientRect()])
      .filter(([, box]) => Math.min(box.width, box.height) < 20 || box.right > 390).map(([name]) => name)""")
    assert small == []


ARM = Skeleton("arm", ("wrist", "elbow", "shoulder"), {"elbow": "shoulder", "wrist": "elbow"},
               (Limb("upper_arm", ("shoulder",), ("elbow",)),))


def test_limbs_and_peaks_can_be_dragged_and_pushed(page):
    joints = np.random.default_rng(0).normal(0, 2, (50, 3, 2)) + np.array([[2, 14], [1, 8], [0, 0]])
    springs = learn_springs(joints, np.full((50, 3), 2), ARM)
    show(page, window_grid(pose(LSP14, (32, 34), 26), LSP14, PartWindows(LSP14, paper_a_grid()), "left_lower_arm"),
         structure(springs, [("wrist", 10, 12, 1.0), ("shoulder", 3, 4, 0.5)]))
    end, peak = page.locator(".posebook-windows .end").first, page.locator(".posebook-structure .peak").first
    where = {end: lambda: [float(end.get_attribute(name)) for name in ("cx", "cy")],
             peak: lambda: [float(peak.get_attribute(name)) + 1.1 for name in ("x", "y")]}
    views = {end: ".posebook-windows svg", peak: ".posebook-structure svg"}
    for handle, place in where.items():
        x, y = place()
        handle.focus()
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowDown")
        assert place() == pytest.approx([x + 1, y + 1], abs=1e-6)
        page.mouse.move(*on_screen(page, views[handle], x + 1, y + 1))
        page.mouse.down()
        page.mouse.move(*on_screen(page, views[handle], x + 5, y - 2))
        page.mouse.up()
        assert place() == pytest.approx([x + 5, y - 2], abs=0.6)
        page.mouse.move(*on_screen(page, views[handle], x, y))
        assert place() == pytest.approx([x + 5, y - 2], abs=0.6)
    assert page.problems == []


def test_arrow_keys_go_from_cell_to_cell_of_a_matrix(page):
    matrix = np.random.default_rng(0).uniform(-1, 1, (17, 17))
    show(page, pairs({"weights": {"x": matrix}}, pose(H36M17, (0, 0), 1), H36M17, ("pelvis", "neck")))
    page.locator(".posebook-pairs .matrix").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    assert page.locator(".posebook-pairs .says").text_content() == f"right hip and nose, x: weights {matrix[1, 9]:.2f}."
    assert page.problems == []
