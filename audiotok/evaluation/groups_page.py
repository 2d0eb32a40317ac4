"""Groups of codes that sound alike as a page: how large they are, how that hangs on the threshold, and how members sound."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import matplotlib
import torch
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from torch import Tensor

from audiotok import files
from audiotok.decoding.kernels import Groups, Hard
from audiotok.evaluation.figures import data_uri, sound
from audiotok.evaluation.metric import Utterance
from audiotok.store import TokenStore
from audiotok.tokenizers.base import Decoder

THRESHOLDS = tuple(round(0.1 * step, 1) for step in range(1, 10))
MOST_CODES = 4096  # of a codebook, beyond which the thresholds are tried on some of its codes
EXAMPLES, MEMBERS = 4, 5  # groups of a codebook to listen to, and members of each
HELD_SECONDS = 0.3


@dataclass(frozen=True)
class Example:
    """A group of a codebook: its own code and some members, each as one frame of speech sounds that is held with that code in it."""

    codebook: int
    code: int
    size: int
    sounds: dict[int, str]  # data: URIs


def about(kernel: Groups, vectors_VD: Tensor) -> dict[str, Any]:
    """What the groups of a codebook are like: mean and largest size, coverage, all sizes, and mean size and coverage over thresholds."""
    sizes_V = kernel.group_starts_V.diff()
    some_VD = vectors_VD[torch.linspace(0, len(vectors_VD) - 1, min(MOST_CODES, len(vectors_VD))).long()]
    tried = [Hard(threshold).kernels([some_VD])[0].describe() for threshold in THRESHOLDS]
    return kernel.describe() | {
        "codes": kernel.size,
        "sizes": {int(size): int(count) for size, count in zip(*sizes_V.unique(return_counts=True))},
        "thresholds": list(THRESHOLDS),
        "mean_sizes": [one["mean_size"] * len(vectors_VD) / len(some_VD) for one in tried],
        "coverages": [one["coverage"] for one in tried],
    }


def can_be_heard(tokenizer: Any, num_codebooks: int) -> bool:
    """Whether the groups' codebooks are the tokenizer's own, and it has a way back to sound."""
    return isinstance(tokenizer, Decoder) and tokenizer.spec.num_codebooks == num_codebooks


def listen(kernels: Sequence[Groups], decoder: Decoder, store: TokenStore, *, seed: int) -> list[Example]:
    """Some groups of each codebook with more than one member, from small to large, in frames of the store's first utterances."""
    generator = torch.Generator().manual_seed(seed)
    frames_NK = torch.cat([store[id].codes_KN.T.long() for id in store.ids[:20]])
    examples = []
    for k, kernel in enumerate(kernels):
        sizes_V = kernel.group_starts_V.diff()
        present_V = torch.zeros(kernel.size, dtype=torch.bool)
        present_V[frames_NK[:, k][frames_NK[:, k] < kernel.size]] = True
        heard = ((sizes_V > 1) & present_V).nonzero().flatten()
        chosen = heard[sizes_V[heard].argsort(stable=True)][torch.linspace(0, len(heard) - 1, EXAMPLES).long()] if len(heard) else heard
        examples += [_example(k, code, kernel, decoder, frames_NK, generator) for code in dict.fromkeys(chosen.tolist())]
    return examples


def _example(k: int, code: int, kernel: Groups, decoder: Decoder, frames_NK: Tensor, generator: torch.Generator) -> Example:
    first, end = kernel.group_starts_V[code : code + 2].tolist()
    members = [int(member) for member in kernel.members_E[first:end] if member != code and member < decoder.spec.codebook_sizes[k]]
    some = [members[place] for place in torch.randperm(len(members), generator=generator)[:MEMBERS].tolist()]
    frame_K = frames_NK[(frames_NK[:, k] == code).nonzero()[0, 0]]
    return Example(k, code, end - first, {one: _held(frame_K, k, one, decoder) for one in (code, *some)})


def _held(frame_K: Tensor, k: int, code: int, decoder: Decoder) -> str:
    count = max(1, round(HELD_SECONDS * float(decoder.spec.frame_rate)))
    codes_KN = frame_K[:, None].repeat(1, count)
    codes_KN[k] = code
    with torch.inference_mode():
        wav_BT, lengths_B = decoder.decode(codes_KN[None], torch.tensor([count]))
    return sound(Utterance("held", wav_BT[0, : lengths_B[0]].float().cpu(), decoder.spec.sample_rate, None, None, None))


def write(path: Path, codebooks: Sequence[Mapping[str, Any]], sounds: Sequence[Example], *, title: str) -> None:
    """The page, self-contained."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("audiotok.evaluation"), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    page = environment.get_template("groups.html.j2").render(
        title=title, codebooks=codebooks, sounds=sounds, figure=data_uri(_figure(codebooks).encode(), "image/svg+xml")
    )
    with files.whole_file(path) as partial:
        partial.write_text(page, encoding="utf-8")


def _figure(codebooks: Sequence[Mapping[str, Any]]) -> str:
    """SVG: how many groups have each size, and mean size and coverage over thresholds; a line for each codebook."""
    figure = Figure(figsize=(12, 3.4), layout="constrained")
    counts, sizes, coverage = (figure.add_subplot(1, 3, place) for place in (1, 2, 3))
    for k, one in enumerate(codebooks):
        counts.plot(list(one["sizes"]), list(one["sizes"].values()), ".", label=f"codebook {k}")
        sizes.plot(one["thresholds"], one["mean_sizes"])
        coverage.plot(one["thresholds"], one["coverages"])
    for axes, x, y in (
        (counts, "members", "groups"),
        (sizes, "threshold (cosine)", "mean size"),
        (coverage, "threshold (cosine)", "coverage"),
    ):
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        axes.grid(visible=True, color="#e3e1dc", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    counts.set_xscale("log")
    counts.set_yscale("log")
    sizes.set_yscale("log")
    figure.legend(loc="outside right upper", frameon=False)
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "audiotok"}):
        FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None})
    return buffer.getvalue()
