"""The page in a real Chromium, before the server with the tiny model: what a person does, step by step.

pytest -m browser; needs the extra `browser` and a Chromium (Debian: apt-get install chromium).
"""

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request

import pytest
from PIL import Image

from llada_v.answering import DEMO_IMAGE
from llada_v.shipped import ROOT

pytestmark = pytest.mark.browser
ARGUMENTS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--use-fake-device-for-media-stream"),
    "--use-fake-ui-for-media-stream",
)
SIZES = {"phone": (320, 640), "tablet": (820, 1100), "desk": (1440, 900)}
COUNTED = "How many squares and circles are there together? /think"
DONE = "body:not(.busy) .turn:last-child .foot b"


@pytest.fixture(scope="session")
def server():
    """The address of a server."""
    words = [sys.executable, "-m", "llada_v", "serve", "--port", "0"]
    process = subprocess.Popen(words, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    url = None
    for line in process.stderr:
        if found := re.search(r"on (http://127\.0\.0\.1:\d+)", line):
            url = found[1]
            break
    assert url, "the server did not start"
    yield url
    process.send_signal(signal.SIGINT)
    process.wait(60)


@pytest.fixture(scope="session")
def chromium():
    from playwright.sync_api import sync_playwright

    path = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    assert path, "there is no chromium; install one, or name it in CHROMIUM"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, headless=True, args=list(ARGUMENTS))
        yield browser
        browser.close()


@pytest.fixture
def open_page(server, chromium):
    """Opens the page at a size; at the end nothing may have been complained about in its console."""
    complaints, contexts = [], []

    def open_page(size="desk", **options):
        width, height = SIZES[size]
        context = chromium.new_context(viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda told: complaints.append(told.text) if told.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda sent: complaints.append(sent.url) if is_elsewhere(sent.url, server) else None)
        page.goto(server)
        page.wait_for_selector("#setting-rule", state="attached")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not [told for told in complaints if "status of 400" not in told]  # a request that is to be refused


def is_elsewhere(url, server):
    return not url.startswith((server, "data:", "blob:"))


def until(page, expression, seconds=30):
    """Wait until it is true; the page's policy forbids Playwright's own way, which evaluates text in the page."""
    end = time.monotonic() + seconds
    while not page.evaluate(expression):
        assert time.monotonic() < end, expression
        time.sleep(0.02)


def ask(page, question, picture=None):
    if picture is not None:
        page.set_input_files("#files", picture)
        page.wait_for_selector("#pending img")
    page.fill("#question", question)
    page.keyboard.press("Enter")


def of_api(server, question, **more):
    url = page_url(DEMO_IMAGE)
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": question}]
    body = json.dumps({"messages": [{"role": "user", "content": content}]} | more).encode()
    request = urllib.request.Request(f"{server}/v1/chat/completions", body, {"Content-Type": "application/json"})
    return json.load(urllib.request.urlopen(request))["choices"][0]["message"]["content"]


def page_url(file):
    import base64

    return "data:image/png;base64," + base64.b64encode(file.read_bytes()).decode()


def running(server):
    """How many requests the engine has."""
    text = urllib.request.urlopen(f"{server}/metrics").read().decode()
    return sum(float(line.split()[-1]) for line in text.splitlines() if re.match(r"llada_v_(running|queued)\b", line))


def settings(page, **values):
    page.click("#open-settings")
    page.eval_on_selector("details", "details => details.open = true")
    for name, value in values.items():
        field = page.locator(f"#setting-{name}")
        if field.evaluate("field => field.tagName") == "SELECT":
            field.select_option(value)
        else:
            field.fill(str(value))
            field.dispatch_event("change")
    page.click("#settings .main")


@pytest.mark.parametrize("size", SIZES)
def test_masks_fall_until_the_text_is_the_apis(open_page, server, size):
    page = open_page(size)
    settings(page, preset="exact")
    page.evaluate(
        """() => {
          window.seen = [];
          new MutationObserver(() => seen.push(document.querySelectorAll('.turn .mask').length))
            .observe(document.querySelector('#chat'), {subtree: true, childList: true, attributes: true});
        }"""
    )
    ask(page, COUNTED, str(DEMO_IMAGE))
    page.wait_for_selector(DONE)
    seen = page.evaluate("seen")
    assert seen[0] > 20 and seen[-1] == 0 and len(set(seen)) > 10
    said = page.locator(".answer").inner_text()
    assert said == of_api(server, COUNTED, diffusion={"preset": "exact"}) == "square 1, circle 1. 1 + 1. Answer: 2"
    assert page.locator("#spoken").inner_text() == f"Answer: {said}"
    assert page.evaluate("document.documentElement.scrollWidth") == SIZES[size][0]


def test_stop_frees_the_engine_within_a_second(open_page, server):
    page = open_page()
    settings(page, preset="exact", gen_length=512, rule="top_k", cache="none")
    ask(page, "What is in the picture?", str(DEMO_IMAGE))
    until(page, "document.querySelectorAll('.turn .tok:not(.mask)').length > 0")
    assert running(server) == 1
    page.click("#send")
    start = time.monotonic()
    while running(server):
        assert time.monotonic() < start + 1
        time.sleep(0.02)
    assert page.locator(".wrong").inner_text() == "Stopped."
    ask(page, "How many objects are there?")
    page.wait_for_selector(DONE)


def test_steps_can_be_gone_back_to_and_played_again(open_page):
    page = open_page()
    settings(page, preset="exact")
    ask(page, COUNTED, str(DEMO_IMAGE))
    page.wait_for_selector(DONE)
    slider, answer = page.locator(".scrub input"), page.locator(".answer")
    whole, most = answer.inner_text(), int(slider.get_attribute("max"))
    counts = []
    for step in (most, most // 2, 1, 0):
        slider.fill(str(step))
        assert page.locator(".scrub output").inner_text() == f"step {step} of {most}"
        counts.append(page.locator(".answer .tok:not(.mask)").count())
    assert counts == sorted(counts, reverse=True) and counts[-1] == 0 and counts[0] > counts[1] > counts[2]
    page.click(".scrub button")
    until(page, "document.querySelectorAll('.answer .mask').length === 0")
    assert answer.inner_text() == whole


def test_a_token_tells_its_probability_its_runners_up_its_step_and_where_it_looked(open_page):
    page = open_page()
    ask(page, COUNTED, str(DEMO_IMAGE))
    page.wait_for_selector(DONE)
    page.keyboard.press("Shift+Tab")  # the keyboard alone is enough
    page.locator(".answer [tabindex='0']").focus()
    page.keyboard.press("End")
    page.keyboard.press("Enter")
    page.wait_for_selector("#inspector canvas")
    assert page.locator(".word").inner_text() == "2"
    assert re.fullmatch(r"token \d+, revealed in step \d+ of \d+", page.locator(".when").inner_text())
    shares = [float(text.split("\n")[-1].split()[0]) for text in page.locator(".bars li").all_inner_texts()]
    assert len(shares) >= 5 and shares == sorted(shares, reverse=True)
    assert "Attention: pictures" in page.locator("#inspector .note").inner_text()
    assert page.eval_on_selector("#inspector canvas", "canvas => canvas.width * canvas.height") > 30
    page.keyboard.press("ArrowLeft")
    until(page, "document.querySelector('.word').textContent !== '2'")
    page.keyboard.press("Escape")
    assert page.locator("#inspector").is_hidden()


def test_plain_and_fast_stand_side_by_side_with_what_they_took(open_page):
    page = open_page()
    page.check("#compare", force=True)
    ask(page, COUNTED, str(DEMO_IMAGE))
    page.wait_for_selector(".won")
    plain, fast = page.locator(".run").all()
    forwards = [int(re.search(r"(\d+)\s*forwards?", card.inner_text())[1]) for card in (plain, fast)]
    assert forwards[0] > 2 * forwards[1]
    assert all(re.search(r"\d\.\d+ s", card.inner_text()) for card in (plain, fast))
    assert abs(plain.bounding_box()["y"] - fast.bounding_box()["y"]) < 2
    assert "times as fast" in fast.inner_text()


def test_turns_are_remembered_and_a_new_chat_forgets_them(open_page):
    page = open_page()
    sent = []
    page.on("request", lambda request: sent.append(request.post_data_json) if request.post_data else None)
    ask(page, "How many objects are there?", str(DEMO_IMAGE))
    page.wait_for_selector(DONE)
    ask(page, "What colour is the circle?")
    until(page, "document.querySelectorAll('.foot b').length > 5")
    roles = [message["role"] for message in sent[-1]["messages"]]
    assert roles == ["user", "assistant", "user"] and sent[-1]["messages"][1]["content"] == "3"
    page.click("#fresh")
    assert page.locator("#start").is_visible() and not page.locator(".turn").count()


def test_pictures_come_by_paste_drop_and_camera(open_page):
    page = open_page(permissions=["camera"])
    page.evaluate(
        """url => {
          const bytes = Uint8Array.from(atob(url.split(',')[1]), letter => letter.charCodeAt(0));
          const held = new DataTransfer();
          held.items.add(new File([bytes], 'a.png', {type: 'image/png'}));
          document.dispatchEvent(new ClipboardEvent('paste', {clipboardData: held, cancelable: true, bubbles: true}));
          document.dispatchEvent(new DragEvent('drop', {dataTransfer: held, cancelable: true, bubbles: true}));
        }""",
        page_url(DEMO_IMAGE),
    )
    until(page, "document.querySelectorAll('#pending img').length === 2")
    page.click("#photograph")
    until(page, "document.querySelector('#viewfinder').videoWidth > 0")
    page.click("#shot")
    until(page, "document.querySelectorAll('#pending img').length === 3")
    page.click("#pending button >> nth=0")
    assert page.locator("#pending img").count() == 2
    page.fill("#question", "What differs?")
    page.click("#send")
    page.wait_for_selector(DONE)


def test_a_photograph_is_sent_upright(open_page):
    page = open_page()
    exif = Image.Exif()
    exif[0x0112] = 6  # turn right by 90 degrees
    held = io.BytesIO()
    Image.new("RGB", (60, 20), "red").save(held, "JPEG", exif=exif)
    page.set_input_files("#files", {"name": "a.jpg", "mimeType": "image/jpeg", "buffer": held.getvalue()})
    page.wait_for_selector("#pending img")
    url = page.get_attribute("#pending img", "src")
    upright = Image.open(urllib.request.urlopen(url))
    assert upright.size == (20, 60) and upright.getexif().get(0x0112) in (None, 1)


def test_an_answer_is_shared_as_a_gif(open_page, tmp_path):
    page = open_page()
    ask(page, COUNTED, str(DEMO_IMAGE))
    page.wait_for_selector(DONE)
    steps = int(page.locator(".scrub input").get_attribute("max"))
    with page.expect_download() as download:
        page.click("text=GIF")
    file = tmp_path / "answer.gif"
    download.value.save_as(file)
    with Image.open(file) as gif:
        assert gif.n_frames == steps + 1 and gif.width > 400
        first = gif.convert("RGB")
        gif.seek(steps)
        last = gif.convert("RGB")
    shown = first.getpixel((24 + 30, 28 + 20)), last.getpixel((24 + 30, 28 + 20))
    assert all(min(pixel) > 180 for pixel in shown)  # the demo's light ground, in both
    assert first.tobytes() != last.tobytes()


def test_what_the_server_refuses_is_told(open_page):
    page = open_page()
    settings(page, preset="exact", steps=5, gen_length=32, block_length=7)
    page.on("response", lambda response: None)
    ask(page, "How many objects are there?", str(DEMO_IMAGE))
    page.wait_for_selector(".wrong")
    assert "not a multiple of block_length 7" in page.locator(".wrong").inner_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", ["phone", "desk"])
def test_axe_finds_nothing_serious(open_page, size, scheme):
    from axe_playwright_python.sync_playwright import Axe

    page = open_page(size, color_scheme=scheme, reduced_motion="reduce")
    found = faults(Axe().run(page))
    page.check("#compare", force=True)
    ask(page, COUNTED, str(DEMO_IMAGE))
    page.wait_for_selector(".won")
    found += faults(Axe().run(page))
    page.locator(".answer .tok").first.click()
    page.wait_for_selector("#inspector canvas")
    found += faults(Axe().run(page))
    page.click("#close-inspector")
    page.click("#open-settings")
    found += faults(Axe().run(page))
    assert not found


def faults(results):
    return [
        (fault["id"], node["html"][:150], node["failureSummary"][:300])
        for fault in results.response["violations"]
        if fault["impact"] in ("serious", "critical")
        for node in fault["nodes"]
    ]


def test_the_theme_is_the_systems_until_it_is_chosen(open_page):
    page = open_page(color_scheme="dark")
    paper = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(paper)
    page.click("#theme")
    light = page.evaluate(paper)
    assert dark != light
    page.reload()
    assert page.evaluate(paper) == light
