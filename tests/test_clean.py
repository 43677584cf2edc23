"""course.clean: the committed form is reached, is stable, and refuses what only an author can mend."""
import base64
import io

import nbformat
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image

from course import clean


def png(pixels, **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.asarray(pixels, dtype=np.uint8)).save(file, "PNG", **options)
    return file.getvalue()


def noise(size, channels=3):
    return np.random.default_rng(0).integers(0, 256, (size, size, channels))


def picture(data: bytes, **extra):
    return new_output("display_data", data={"image/png": base64.b64encode(data).decode(), **extra})


def outputs_of(*outputs):
    """The cleaned outputs of one cell with these outputs."""
    return clean.clean(new_notebook(cells=[new_code_cell("x", outputs=list(outputs))])).cells[0].outputs


def test_widget_plotly_and_html_views_are_dropped_for_the_picture_and_its_text():
    bundle = {"application/vnd.jupyter.widget-view+json": {"model_id": "1"}, "application/vnd.plotly.v1+json": {},
              "text/html": "<b>rich</b>", "text/plain": "bars: 0.2, 0.8"}
    [output] = outputs_of(picture(png(noise(8)), **bundle))
    assert set(output.data) == {"image/png", "text/plain"}
    assert output.data["text/plain"] == "bars: 0.2, 0.8"


def test_an_output_with_nothing_to_show_on_a_page_is_dropped():
    assert outputs_of(new_output("display_data", data={"application/vnd.jupyter.widget-view+json": {}})) == []


def test_a_table_that_is_only_html_becomes_lines_of_text():
    table = "<style>td {color: red}</style><table><tr><th>kind</th><th>loss</th></tr><tr><td>sums</td><td>0.9</td></tr>"
    [output] = outputs_of(new_output("display_data", data={
        "text/html": table, "text/plain": "<IPython.core.display.HTML object>"}))
    assert output.data == {"text/plain": "kind  loss\nsums  0.9"}


def test_metadata_counts_and_state_go_and_tags_stay():
    cell = new_code_cell("1 + 1", execution_count=7, metadata={"tags": ["nbval-check-output"], "collapsed": False},
                         outputs=[new_output("execute_result", data={"text/plain": "2"}, execution_count=7)])
    cleaned = clean.clean(new_notebook(cells=[cell], metadata={"widgets": {"state": {}}, "vscode": {}}))
    assert cleaned.cells[0].execution_count is None and cleaned.cells[0].outputs[0].execution_count is None
    assert cleaned.cells[0].metadata == {"tags": ["nbval-check-output"]}
    assert cleaned.metadata == clean.NOTEBOOK_METADATA


def test_cell_ids_follow_from_the_source_alone_and_are_unique():
    first, second = (clean.clean(new_notebook(cells=[new_code_cell("a"), new_markdown_cell("a"), new_code_cell("a")]))
                     for _ in range(2))
    assert [cell.id for cell in first.cells] == [cell.id for cell in second.cells]
    assert len({cell.id for cell in first.cells}) == 3


def test_streams_are_joined_and_read_like_a_terminal():
    [output] = outputs_of(new_output("stream", name="stdout", text="step 1\rst"),
                          new_output("stream", name="stdout", text="ep 2\n\x1b[31mred\x1b[0m\r\n"))
    assert output.text == "step 2\nred\n"


def test_addresses_and_paths_below_the_repository_do_not_depend_on_the_machine():
    warning = f"{clean.ROOT}/lessons/a.py:1 /x/ipykernel_12/345.py:2 /v/lib/site-packages/torch/nn.py:3 <f at 0x7f1>"
    [output] = outputs_of(new_output("stream", name="stderr", text=warning))
    assert output.text == "lessons/a.py:1 cell:2 torch/nn.py:3 <f at 0x…>"


@pytest.mark.parametrize("text", ["saved to /home/ann/run", "'/tmp/x.json'", r"C:\Users\ann\x", "open('/Users/ann/x')"])
def test_a_path_of_one_machine_is_an_error_that_names_the_cell(text):
    with pytest.raises(ValueError, match="cell 0: a path"):
        outputs_of(new_output("stream", name="stdout", text=text))


@pytest.mark.parametrize("text", ["https://example.org/home/page", "and/or", "runs/tmp/x", "1/2", "~/home/x"])
def test_other_slashes_are_not_paths_of_a_machine(text):
    assert clean.machine_path(text) is None


def test_a_stored_exception_is_an_error():
    with pytest.raises(ValueError, match="stored exception, KeyError"):
        outputs_of(new_output("error", ename="KeyError", evalue="'x'", traceback=[]))


def test_a_figure_keeps_its_colours_in_a_palette_on_white():
    pixels = np.full((64, 64, 4), (255, 255, 255, 0))
    pixels[:8] = (0, 114, 178, 255)
    with Image.open(io.BytesIO(clean.clean_png(png(pixels)))) as image:
        assert image.mode == "P"
        assert sorted(image.convert("RGB").getcolors()) == [(8 * 64, (0, 114, 178)), (56 * 64, (255, 255, 255))]


def test_a_large_picture_is_reduced_below_the_limit_where_colours_can_do_it():
    shade = np.add.outer(np.arange(512), np.arange(512)) // 5
    pixels = np.stack([shade, shade // 2, 255 - shade], axis=2) + noise(512) // 64  # grain: costs much, says little
    before = png(pixels)
    after = clean.clean_png(before)
    assert len(before) > clean.MAX_PNG_BYTES >= len(after)


@pytest.mark.parametrize("limit", [clean.MAX_PNG_BYTES, 100])  # 100: what no palette can reach
def test_cleaning_a_picture_twice_is_cleaning_it_once(limit, monkeypatch):
    monkeypatch.setattr(clean, "MAX_PNG_BYTES", limit)
    once = clean.clean_png(png(noise(40)))
    assert clean.clean_png(once) == once


texts = st.text(st.sampled_from("ab \n\r\x1b[31m0x/<>"), max_size=30)
stream_outputs = st.builds(lambda name, text: new_output("stream", name=name, text=text),
                           st.sampled_from(["stdout", "stderr"]), texts)
data_outputs = st.builds(lambda data: new_output("display_data", data=data), st.dictionaries(
    st.sampled_from(["text/plain", "text/html", "text/markdown", "application/json"]), texts))


@given(st.lists(st.one_of(stream_outputs, data_outputs), max_size=5), st.lists(texts, max_size=3))
def test_cleaning_twice_is_cleaning_once(outputs, sources):
    cells = [new_code_cell("x", outputs=outputs), *map(new_markdown_cell, sources), *map(new_code_cell, sources)]
    once = clean.dumps(clean.clean(new_notebook(cells=cells)))
    assert clean.dumps(clean.clean(nbformat.reads(once, as_version=4))) == once


def test_execute_stores_outputs_and_no_widget_state(tmp_path):
    path = tmp_path / "lesson.ipynb"
    nbformat.write(new_notebook(cells=[new_code_cell("import ipywidgets\nipywidgets.IntSlider()"),
                                       new_code_cell("6 * 7")]), path)
    assert clean.main(["--execute", str(path)]) == 0
    notebook = nbformat.read(path, as_version=4)
    assert notebook.cells[1].outputs[0].data["text/plain"] == "42"
    assert "widgets" not in notebook.metadata


def test_a_notebook_that_fails_is_left_as_it_was(tmp_path, capsys):
    path = tmp_path / "lesson.ipynb"
    nbformat.write(new_notebook(cells=[new_code_cell("1 / 0")]), path)
    before = path.read_bytes()
    assert clean.main(["--execute", str(path)]) == 1
    assert path.read_bytes() == before
    assert "ZeroDivisionError" in capsys.readouterr().err
