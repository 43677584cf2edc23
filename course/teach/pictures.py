"""The README's pictures: three widgets as they look after a real run.

    python -m course.teach.pictures           writes them beside this file, in pictures/

The sampling laboratory and the BPE movie show the shipped checkpoint `draft`. The scrubber shows a run of 800 steps of
the same size, which is trained here and takes a few minutes.
"""

from pathlib import Path

from llmkit import checkpoint, device
from llmkit.config import preset
from llmkit.data import PackedBatches, encode_documents
from llmkit.model import Transformer
from llmkit.optim import muon
from llmkit.train import fit
from llmkit.widgets.bpe import bpe_movie
from llmkit.widgets.frame import Frame
from llmkit.widgets.sampling import sampling_lab
from llmkit.widgets.svg import to_png
from llmkit.widgets.training import Scribe, training_scrubber
from llmkit.world import World

FOLDER = Path(__file__).parent / "pictures"
STEPS, EVERY, SHOWN, N_DOCUMENTS = 800, 100, 600, 40_000
STORY = "One quiet day, Ida was eating a sandwich. She had a"


def save(name: str, frame: Frame) -> None:
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / f"{name}.png").write_bytes(to_png(frame.svg))
    print(f"{name}: {frame.said}")


def run(tokenizer, world) -> Frame:
    """Train `tiny` for a while and look at it every EVERY steps."""
    documents = world.documents(200, seed=2)
    floor = sum(d.nats for d in documents) / sum(len(tokenizer.encode(d.text)) + 1 for d in documents)
    device.seed_everything(0)
    model, scribe = Transformer(preset("tiny")), Scribe(tokenizer, world)
    stream = encode_documents((d.text for d in world.documents(N_DOCUMENTS, seed=1)), tokenizer)
    batches = PackedBatches(stream, 8, 256, 0)
    records = fit(model, batches, STEPS, optimizer=muon(model, 5e-3), eval_fn=scribe, eval_every=EVERY)
    frame = training_scrubber(records, scribe.snapshots, floor)
    frame.controls["step"].value = SHOWN
    return frame


def main() -> None:
    world = World(0)
    model, tokenizer = checkpoint.load("draft")
    save("sampling_laboratory", sampling_lab(model, tokenizer, STORY, world, temperature=0.8, top_k=10, top_p=0.9))
    movie = bpe_movie(tokenizer, "Mira's neighbour naïvely gave the café's robot a red kite 😀")
    movie.controls["merge"].value = movie.controls["merge"].max * 3 // 5
    save("bpe_movie", movie)
    save("training_scrubber", run(tokenizer, world))


if __name__ == "__main__":
    main()
