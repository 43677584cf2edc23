"""JupyterLab in headless Chromium, started as the launcher does it: a lesson runs, shows a picture, and stays offline.

The page's requests to other hosts are aborted and listed; those of the server and the kernel are refused by the network
block, which each notebook proves by ending with the canary's cells.
"""
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from course import lab
from course.env import Environment
from course.testing import NETBLOCK, ROOT, offline_environment

playwright = pytest.importorskip("playwright.sync_api")

LESSONS = ["00_start.ipynb"]
FAILURES = ROOT / "work" / "browser"  # ignored by git
HERE = re.compile(r"(https?|wss?)://(127\.0\.0\.1|localhost)[:/]|data:|blob:")
WAIT_S = 180
CHROMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
OUTPUT = ".jp-CodeCell .jp-OutputArea-output"
STDERR = f"{OUTPUT}[data-mime-type='application/vnd.jupyter.stderr']"  # JupyterLab shows exceptions as such, too
EXCEPTION = re.compile(r"Traceback \(most recent call last\)|^\w+(Error|Exception)\b", re.MULTILINE)


@dataclass
class Server:
    url: str
    token: str
    folder: Path  # where notebooks are put, and where kernels start
    log: Path

    def kernel_is_ready(self) -> bool:
        """Whether a kernel is idle with a page connected: before that, Run All opens a dialog."""
        request = urllib.request.Request(f"{self.url}/api/sessions", headers={"Authorization": f"token {self.token}"})
        with urllib.request.urlopen(request, timeout=10) as reply:
            kernels = [session["kernel"] for session in json.load(reply)]
        return any(kernel["execution_state"] == "idle" and kernel["connections"] for kernel in kernels)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    repo, state = tmp_path_factory.mktemp("repo"), tmp_path_factory.mktemp("state")
    folder = repo / "work" / "lessons"
    folder.mkdir(parents=True)
    tracker = state / "settings/@jupyterlab/notebook-extension/tracker.jupyterlab-settings"
    tracker.parent.mkdir(parents=True)
    tracker.write_text('{"windowingMode": "none"}')  # cells out of sight stay on the page
    lab.write_settings(Path(sys.prefix))
    port, token = lab.free_port(), secrets.token_hex()
    extra = ["--no-browser", f"--IdentityProvider.token={token}", "--ServerApp.port_retries=0"]
    is_root = hasattr(os, "geteuid") and os.geteuid() == 0
    command = [sys.executable, *lab.command(Environment(repo), port, is_root, extra)[1:]]
    own_state = {"JUPYTER_CONFIG_DIR": "config", "JUPYTER_DATA_DIR": "data", "JUPYTER_RUNTIME_DIR": "runtime",
                 "IPYTHONDIR": "ipython", "JUPYTERLAB_SETTINGS_DIR": "settings", "JUPYTERLAB_WORKSPACES_DIR": "spaces",
                 "COURSE_PROGRESS": "progress.json"}
    environment = offline_environment() | {name: str(state / value) for name, value in own_state.items()}
    log = state / "server.log"
    with log.open("w") as stream:
        process = subprocess.Popen(command, cwd=repo, env=environment | {"JUPYTER_PREFER_ENV_PATH": "1"},
                                   stdout=stream, stderr=subprocess.STDOUT)
    try:
        wait_for_answer(f"http://localhost:{port}/api", process, log)
        yield Server(f"http://localhost:{port}", token, folder, log)
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()


def wait_for_answer(url, process, log):
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        try:
            return urllib.request.urlopen(url, timeout=5).close()
        except OSError:
            time.sleep(0.2)
    pytest.fail(f"JupyterLab did not come up:\n{log.read_text()[-3000:]}")


@pytest.fixture(scope="module")
def browser():
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, CHROMES)), None)
    if not found:
        pytest.skip("no Chromium on this machine: install one, or name it in the environment variable CHROMIUM")
    with playwright.sync_playwright() as api:
        options = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        yield api.chromium.launch(executable_path=found, args=options)


@dataclass
class Seen:
    errors: list[str]  # exceptions shown below cells
    pictures: int  # images in outputs that the browser could draw
    left: list[str]  # addresses of requests that would have left the machine


@contextmanager
def opened(browser, server, name, notebook):
    """A page on which all cells of a notebook have run in JupyterLab, and the addresses that it called outside."""
    nbformat.write(notebook, server.folder / name)
    context = browser.new_context(viewport={"width": 1200, "height": 1500}, service_workers="block")
    page, left = context.new_page(), []

    def guard(route):
        if HERE.match(route.request.url):
            return route.continue_()
        left.append(route.request.url)
        route.abort()

    context.route("**/*", guard)
    page.on("websocket", lambda socket: HERE.match(socket.url) or left.append(socket.url))
    try:
        page.goto(f"{server.url}/lab/tree/work/lessons/{name}?reset&token={server.token}")
        page.locator(".jp-Notebook .jp-CodeCell").first.wait_for(timeout=WAIT_S * 1000)
        wait_until(page, server.kernel_is_ready, "an idle kernel")
        page.locator(".jp-Notebook-ExecutionIndicator[data-status=idle]").first.wait_for(timeout=WAIT_S * 1000)
        page.locator("li.lm-MenuBar-item", has_text="Run").first.click()
        page.get_by_text("Run All Cells", exact=True).click()
        wait_until(page, lambda: has_run(page, notebook), "end of the last cell")
        page.wait_for_load_state("networkidle")
        yield page, left
    except Exception:
        FAILURES.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=FAILURES / f"{Path(name).stem}.png")
        raise
    finally:
        context.close()


def run_all(browser, server, name, notebook) -> Seen:
    """Open a notebook in JupyterLab, run all its cells, and say what the page showed."""
    with opened(browser, server, name, notebook) as (page, left):
        pictures = page.locator(f"{OUTPUT} img").evaluate_all("all => all.filter(one => one.naturalWidth > 0).length")
        return Seen(exceptions(page), pictures, left)


def exceptions(page) -> list[str]:
    return [text for text in page.locator(STDERR).all_inner_texts() if EXCEPTION.search(text)]


def has_run(page, notebook) -> bool:
    """Whether every code cell that is not empty has its number, or one has failed, which stops the others."""
    prompts = page.locator(".jp-Notebook .jp-CodeCell .jp-InputPrompt").all_inner_texts()
    cells = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
    return bool(exceptions(page)) or sum(bool(re.search(r"\d", prompt)) for prompt in prompts) == len(cells)


def wait_until(page, condition, what):
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, f"no {what} within {WAIT_S} s"
        page.wait_for_timeout(200)  # not time.sleep, which would hold up the page's requests


def with_canary(notebook):
    """The notebook without its stored outputs, ended by the canary's cells."""
    canary = nbformat.read(NETBLOCK / "canary.ipynb", as_version=4)
    cells = [*notebook.cells, *canary.cells]
    for cell in cells:
        if cell.cell_type == "code":
            cell.outputs = []
    return new_notebook(cells=cells, metadata=canary.metadata)


@pytest.mark.parametrize("name", LESSONS)
def test_a_lesson_runs_shows_a_picture_and_stays_offline(browser, server, name):
    seen = run_all(browser, server, name, with_canary(nbformat.read(ROOT / "lessons" / name, as_version=4)))
    assert seen.errors == [] and seen.left == [] and seen.pictures > 0
    assert "network block" not in server.log.read_text()  # what the server itself tried


def test_this_check_sees_an_exception_and_a_page_that_calls_out(browser, server):
    outside = "http://192.0.2.1/tracker.png"
    seen = run_all(browser, server, "bad.ipynb", with_canary(new_notebook(cells=[
        new_code_cell(f"from IPython.display import HTML\nHTML('<img src=\"{outside}\">')"),
        new_markdown_cell("not a cell that runs"), new_code_cell("1 / 0")])))
    assert [error for error in seen.errors if "ZeroDivisionError" in error] and set(seen.left) == {outside}
    assert seen.pictures == 0


MOVIE = """
from llmkit.tokenizer import Tokenizer
from llmkit.widgets.bpe import bpe_movie

bpe_movie(Tokenizer.train(["the other mother bothers the father"], 269), "the brother")
"""
CELL = """
import torch
from llmkit.widgets.attention import Cell, attention_cell

q, k, v = torch.randn(3, 6, 8, generator=torch.Generator().manual_seed(0))
attention_cell(Cell(list("abcdef"), q, k, v, loss=lambda mask, scaling, softmax: 2.0 if mask else 0.5, floor=1.0))
"""
CLINIC = """
from course.records import broken
from llmkit.widgets.clinic import run_clinic

record = broken.load()
run_clinic(*broken.cases(record), record["floor"])
"""
DESK = """
from llmkit.scaling import Law
from llmkit.widgets.scaling import Run, scaling_desk

law = Law(E=0.5, A=150, B=6000, alpha=0.45, beta=0.62)
scaling_desk({"law": [law, law]}, [Run(1e5, d, law.loss(1e5, d)) for d in (1e5, 1e6)], [], floor=0.5)
"""
BOARD = """
import torch
from llmkit.config import MoEConfig, preset
from llmkit.model import Transformer
from llmkit.tokenizer import Tokenizer
from llmkit.widgets.router import router_board

torch.manual_seed(0)
tokenizer = Tokenizer.train(["the kite and the key"], 269)
moe = MoEConfig(n_expert=4, n_active=1, d_expert=8)
router_board(Transformer(preset("nano", vocab_size=tokenizer.vocab_size, n_layer=1, moe=moe)), tokenizer, "the key")
"""


SURFACE = """
from llmkit.plots.surface import loss_surface
from llmkit.scaling import Law

law = Law(E=0.5, A=150, B=6000, alpha=0.45, beta=0.62)
loss_surface(law, [(n, d, law.loss(n, d)) for n in (1e5, 4e5) for d in (1e5, 1e6)])
"""


def test_a_widget_is_used_by_keyboard(browser, server):
    notebook = with_canary(new_notebook(cells=[new_code_cell(MOVIE), new_code_cell(CELL)]))
    with opened(browser, server, "widget.ipynb", notebook) as (page, left):
        frame = page.locator(".llmkit-frame").first
        said, drawing = frame.locator(".llmkit-said"), frame.locator("svg[role=img]")
        slider = frame.locator("[role=slider]").first
        for key, last in (("Home", 0), ("ArrowRight", 1), ("ArrowRight", 2), ("ArrowLeft", 1)):
            before = drawing.inner_html()
            slider.focus()
            page.keyboard.press(key)
            wait_until(page, lambda last=last: f"→ {last}." in said.inner_text(), f"answer to {key}")
            assert drawing.inner_html() != before
        frame.locator("input[type=text]").fill("<b>bb</b>")
        page.keyboard.press("Tab")
        wait_until(page, lambda: "<b>bb</b>" in said.inner_text(), "answer to the text")
        n_cells = page.locator(".jp-Notebook .jp-Cell").count()
        slider.focus()
        page.keyboard.press("b")  # a shortcut of the notebook: it would add a cell below
        page.keyboard.press("End")
        wait_until(page, lambda: said.get_attribute("role") == "status", "live region")
        attention_by_keyboard(page, page.locator(".llmkit-frame").nth(1))
        assert page.locator(".jp-Notebook .jp-Cell").count() == n_cells
        assert exceptions(page) == [] and left == []


def attention_by_keyboard(page, frame):
    """The attention cell: a query and a key by arrows, a switch by the space bar; its maps are pictures that load."""
    said, (query, key) = frame.locator(".llmkit-said"), frame.locator("[role=slider]").all()
    for slider, press, answer in ((query, "Home", "query: 5 → 0."), (query, "ArrowRight", "query: 0 → 1."),
                                  (key, "End", "key: 0 → 5."), (key, "ArrowLeft", "key: 5 → 4.")):
        slider.focus()
        page.keyboard.press(press)
        wait_until(page, lambda answer=answer: answer in said.inner_text(), answer)
    assert "hidden by the mask" in said.inner_text()
    mask = frame.get_by_label("mask", exact=True)
    mask.focus()
    page.keyboard.press("b")  # a letter on a focused control stays there
    page.keyboard.press("Space")
    wait_until(page, lambda: "the future leaks" in said.inner_text(), "answer to the switch")
    loads = "all => Promise.all(all.map(one => { const i = new Image(); i.src = one.href.baseVal; return i.decode() }))"
    assert len(frame.locator("svg image").evaluate_all(loads)) == 5  # rejects if one is damaged


def test_clinic_desk_and_board_are_used_by_keyboard(browser, server):
    notebook = with_canary(new_notebook(cells=[new_code_cell(source) for source in (CLINIC, DESK, BOARD)]))
    with opened(browser, server, "desks.ipynb", notebook) as (page, left):
        assert exceptions(page) == []
        n_cells = page.locator(".jp-Notebook .jp-Cell").count()
        clinic, desk, board = page.locator(".llmkit-frame").all()
        for frame, slider, key, answer in ((clinic, 0, "Home", "step: 200 → 40. Run A, step 40: first loss"),
                                           (desk, 0, "Home", "→ 1e+08. 1.0e+08 FLOPs: best N"),
                                           (board, 2, "ArrowRight", "k: 1 → 2. Layer 0: expert")):
            said, drawing = frame.locator(".llmkit-said"), frame.locator("svg[role=img]")
            before = drawing.inner_html()
            frame.locator("[role=slider]").nth(slider).focus()
            page.keyboard.press(key)
            wait_until(page, lambda said=said, answer=answer: answer in said.inner_text(), answer)
            assert drawing.inner_html() != before
        clinic.locator("select").nth(1).focus()
        page.keyboard.press("b")  # no guess begins with it; the notebook would add a cell
        page.keyboard.press("ArrowDown")
        wait_until(page, lambda: "→ “embedding frozen”. Run A, step 40: no." in clinic.inner_text(), "answer")
        assert page.locator(".jp-Notebook .jp-Cell").count() == n_cells
        assert exceptions(page) == [] and left == []


def test_plotly_draws_the_surface_offline(browser, server):
    notebook = with_canary(new_notebook(cells=[new_code_cell(SURFACE)]))
    with opened(browser, server, "surface.ipynb", notebook) as (page, left):
        page.locator(".js-plotly-plot .svg-container").wait_for(timeout=60_000)  # 3-D itself needs WebGL
        assert page.locator(f"{OUTPUT}[data-mime-type='image/png'] img").count() == 1  # the map above it
        assert exceptions(page) == [] and left == []


def test_a_quiz_is_answered_by_its_letters(browser, server):
    notebook = with_canary(new_notebook(cells=[new_code_cell("from course.quiz import quiz\nquiz('start')")]))
    with opened(browser, server, "quiz.ipynb", notebook) as (page, left):
        cells, rows = page.locator(".jp-Notebook .jp-Cell"), page.locator(".widget-toggle-buttons")
        form, kinds = page.locator(".llmkit-frame"), "all => all.map(one => one.className.match(/jp-\\w+Cell/)[0])"
        before = cells.evaluate_all(kinds)
        rows.nth(1).locator("button").last.focus()
        for key in ("b", "a"):  # options of the quiz, shortcuts of the notebook: each would add a cell
            page.keyboard.press(key)
            answer = re.compile(f"[✓✗] {key}\\)")
            wait_until(page, lambda answer=answer: answer.search(form.inner_text()), f"answer to {key}")
            assert rows.nth(1).locator("button.mod-active").inner_text() == key
        for key in ("d", "d", "x", "Control+b", "m"):  # more shortcuts: these would delete, cut, or change the cell
            page.keyboard.press(key)
        page.wait_for_timeout(500)
        assert cells.evaluate_all(kinds) == before
        assert rows.first.locator("button.mod-active").count() == 0  # the other questions are left alone
        assert exceptions(page) == [] and left == []
