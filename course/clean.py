"""The one notebook cleaner: the committed form of a lesson is a function of what it says and shows.

    python -m course.clean lessons/*.ipynb              rewrite in the committed form
    python -m course.clean --execute lessons/06_*.ipynb run from a fresh kernel first

Committed form: outputs are text and palette PNGs only, execution counts are null, cell ids derive from the source, and
nothing names the machine it ran on. Cleaning twice is cleaning once. What only an author can mend is a ValueError.
"""
import argparse
import base64
import hashlib
import io
import re
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import nbformat
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK_METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
CELL_METADATA = {"jupyter", "nbgrader", "slideshow", "tags"}  # kept; everything else belongs to some editor
MAX_PNG_BYTES = 150_000
FEWEST_COLOURS = 64  # below this, gradients show bands; a picture that is still too large stays so

ANSI = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b")
ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
KERNEL_FILE = re.compile(r"\S*[/\\]ipykernel_\d+[/\\]\d+\.py")
PACKAGES = re.compile(r"[^\s\"']*[/\\]site-packages[/\\]")
MACHINE_PATH = re.compile(
    r"(?<![\w.:/~-])/(?:home|Users|root|tmp|private|var|opt|srv|mnt|workspaces?)/[\w.-]+"
    r"|\b[A-Za-z]:\\+\w[^\s'\"]*")


# ---- text ----

class _Text(HTMLParser):
    """The text of an HTML fragment: table rows as lines, cells apart by two spaces, no scripts or styles."""

    def __init__(self, html):
        super().__init__()
        self.parts, self.hidden = [], 0
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.hidden += tag in ("script", "style")
        self.parts.append({"br": "\n", "td": "  ", "th": "  "}.get(tag, ""))

    def handle_endtag(self, tag):
        self.hidden -= tag in ("script", "style")
        self.parts.append("\n" if tag in ("tr", "p", "div", "li", "h1", "h2", "h3", "h4") else "")

    def handle_data(self, data):
        self.parts.append("" if self.hidden else re.sub(r"\s+", " ", data))


def html_to_text(html):
    lines = (line.strip() for line in "".join(_Text(html).parts).splitlines())
    return "\n".join(line for line in lines if line)


def clean_text(text):
    """Text as a terminal without colours would show it, without memory addresses and without this machine's paths."""
    text = ANSI.sub("", text).replace("\r\n", "\n")
    text = re.sub(r"[^\n]*\r(?=[^\n])", "", text).replace("\r", "")  # a progress bar's last state
    text = PACKAGES.sub("", KERNEL_FILE.sub("cell", text))
    text = text.replace(f"{ROOT}/", "").replace(f"{ROOT}\\", "")
    return ADDRESS.sub(" at 0x…", text)


def machine_path(text):
    """The first path in `text` that exists on its author's machine only, or None."""
    found = MACHINE_PATH.search(text)
    return found and found.group()


# ---- pictures ----

def clean_png(data: bytes) -> bytes:
    """A palette PNG on white, in as many colours (128 … 64) as fit MAX_PNG_BYTES."""
    with Image.open(io.BytesIO(data)) as image:
        done = image.format == "PNG" and image.mode == "P" and not image.info
        if done and (len(data) <= MAX_PNG_BYTES or len(image.getpalette()) <= 3 * FEWEST_COLOURS):
            return data
        image = image.convert("RGBA")
    picture = Image.new("RGB", image.size, "white")  # a dark page would show dark text on a transparent ground
    picture.paste(image, mask=image.getchannel("A"))
    colours = 128
    while True:
        file = io.BytesIO()
        reduced = picture.quantize(colours, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
        reduced.save(file, "PNG", optimize=True)
        if file.tell() <= MAX_PNG_BYTES or colours == FEWEST_COLOURS:
            return file.getvalue()
        colours //= 2


# ---- outputs ----

def clean_data(data):
    """Of a MIME bundle keep the PNG and the plain text; richer text without a plain form becomes plain text."""
    kept = {}
    if "image/png" in data:
        kept["image/png"] = base64.b64encode(clean_png(base64.b64decode(data["image/png"]))).decode()
    plain = clean_text(data.get("text/plain", ""))
    if not plain or re.fullmatch(r"<IPython\.core\.display\.\w+ object>", plain):
        html = html_to_text(data.get("text/html", ""))
        plain = clean_text(data.get("text/markdown") or data.get("text/latex") or html) or plain
    if plain:
        kept["text/plain"] = plain
    return kept


def clean_outputs(outputs):
    """Streams joined by name, bundles reduced, the empty dropped; an exception is the author's to mend."""
    kept = []
    for output in outputs:
        if output.output_type == "error":
            raise ValueError(f"a stored exception, {output.ename}: {output.evalue}")
        if output.output_type == "stream":
            if kept and kept[-1].get("name") == output.name:
                kept[-1].text += output.text
            elif clean_text(output.text):
                kept.append(nbformat.v4.new_output("stream", name=output.name, text=output.text))
        elif data := clean_data(output.data):
            size = {k: v for k, v in output.metadata.get("image/png", {}).items() if k in ("width", "height")}
            metadata = {"image/png": size} if size and "image/png" in data else {}
            kept.append(nbformat.v4.new_output(output.output_type, data=data, metadata=metadata))
    for output in kept:
        if output.output_type == "stream":
            output.text = clean_text(output.text)
    return kept


# ---- notebooks ----

def clean_cell(cell):
    if cell.get("attachments"):
        raise ValueError("a pasted picture, which no tool can review; draw it in a cell")
    metadata = {key: cell.metadata[key] for key in sorted(CELL_METADATA & set(cell.metadata)) if cell.metadata[key]}
    cleaned = nbformat.NotebookNode(cell_type=cell.cell_type, metadata=metadata, source=cell.source)
    if cell.cell_type == "code":
        cleaned.update(execution_count=None, outputs=clean_outputs(cell.outputs))
    return cleaned


def cell_texts(cell):
    """Everything in a cell that a reader can see as text."""
    yield cell.source
    for output in cell.get("outputs", []):
        yield output.get("text", "") or output.get("data", {}).get("text/plain", "")


def clean(notebook):
    """A new notebook (nbformat 4.5) in the committed form.

    Errors: ValueError naming the cell for a stored exception or a path of one machine."""
    cells, seen = [], Counter()
    for number, cell in enumerate(notebook.cells):
        try:
            cell = clean_cell(cell)
            if path := next(filter(None, map(machine_path, cell_texts(cell))), None):
                raise ValueError(f"a path that exists on one machine only: {path}")
        except ValueError as error:
            raise ValueError(f"cell {number}: {error}\n  {cell.source[:200]}") from error
        digest = hashlib.sha256(f"{cell.cell_type}\n{cell.source}".encode()).hexdigest()[:8]
        seen[digest] += 1
        cell["id"] = digest if seen[digest] == 1 else f"{digest}-{seen[digest]}"
        cells.append(cell)
    cleaned = nbformat.v4.new_notebook(cells=cells, metadata=NOTEBOOK_METADATA)
    cleaned.nbformat_minor = 5
    nbformat.validate(cleaned)
    return cleaned


def dumps(notebook) -> str:
    return nbformat.writes(notebook).rstrip("\n") + "\n"


def execute(notebook, folder, timeout_s=600):
    """Run all cells in a fresh kernel that starts in `folder`; outputs are stored in place, widget state is not.

    Errors: nbclient.exceptions.CellExecutionError when a cell raises."""
    from nbclient import NotebookClient
    NotebookClient(notebook, timeout=timeout_s, kernel_name="python3", store_widget_state=False,
                   resources={"metadata": {"path": str(folder)}}).execute()


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(prog="python -m course.clean", description=__doc__.split("\n")[0])
    parser.add_argument("notebooks", nargs="+", type=Path)
    parser.add_argument("--execute", action="store_true", help="run each notebook in a fresh kernel first")
    args = parser.parse_args(argv)
    for path in args.notebooks:
        before = path.read_text(encoding="utf-8")
        notebook = nbformat.reads(before, as_version=4)
        try:
            if args.execute:
                execute(notebook, path.resolve().parent)
            after = dumps(clean(notebook))
        except Exception as error:  # the file stays as it was, whatever went wrong
            print(f"{path}: not written: {clean_text(str(error))}", file=sys.stderr)
            return 1
        path.write_text(after, encoding="utf-8", newline="\n")
        print(f"{path}: {'unchanged' if after == before else 'rewritten'}, {len(after.encode()) / 1000:.0f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
