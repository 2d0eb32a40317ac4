#!/usr/bin/env python3
"""Whether a model that knows where it is in its text speaks each phoneme once and in order; one JSON object, no recogniser.

    tools/check_paths.py prompts/tts_valle_r texts.txt --language en [key=value ...]

Of a pointer the moves that it made are followed, of a model that is told each position's phoneme the durations that it foretold: a phoneme
without a position is skipped. Settings as for `audiotok synthesize`.
"""

import argparse
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig

from audiotok import cli, distributed
from audiotok.data.aligned import Line, boundaries, expand
from audiotok.evaluation.visits import visits, walked
from audiotok.models.text import Text
from audiotok.models.valle_r import ValleR
from audiotok.stages.voices import chosen, load_rule, load_voice
from audiotok.synthesis.drafting import Nobody
from audiotok.synthesis.scripts import Manner, Timed
from audiotok.synthesis.speech import sentences, speak
from audiotok.synthesis.voice import Failed, Request, Voice
from audiotok.synthesis.watching import Watched


def main() -> None:
    options = _options()
    cfg = cli.load(options.recipe, [f"synthesize.language={options.language}", *options.overrides])
    voice = load_voice(cfg)
    requests = _requests(options.texts, voice, cfg)
    if isinstance(voice.model, Timed):
        paths, failed = _told(requests, voice, cfg.synthesize.batch_size)
    elif isinstance(voice.model, ValleR):
        paths, failed = _pointed(requests, voice, cfg)
    else:
        raise SystemExit(f"{type(voice.model).__name__} does not say where in its text it is; give a recipe of ar_tts or valle_r")
    found = {request.id: visits(path_N, phonemes) for request, path_N, phonemes in paths}
    told = {"recipe": cfg.recipe, "sentences": len(requests), "spoken": len(found), "not_spoken": dict(Counter(failed))}
    sums = {part: sum(getattr(one, part) for one in found.values()) for part in ("skipped", "unreached", "returns")}
    phonemes = sum(count for _, _, count in paths)
    longest = max((one.longest for one in found.values()), default=0)
    print(
        json.dumps({**told, "phonemes": phonemes, "whole": sum(one.whole for one in found.values()), **sums, "longest": longest}, indent=2)
    )


Paths = list[tuple[Request, torch.Tensor, int]]  # the path of a request, and how many phonemes it has


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("texts", type=Path, help="a text on each line")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--language", required=True)
    return parser.parse_intermixed_args()


def _requests(path: Path, voice: Voice, cfg: DictConfig) -> list[Request]:
    """Sentence by sentence, with the ids that `synthesize` gives them: the same random numbers."""
    speaker = chosen(cfg.synthesize.speaker, voice.front_end.speakers, "speaker")
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    return [
        Request(f"{i:05d}/{n}", text, speaker, cfg.synthesize.language)
        for i, line in enumerate(lines)
        for n, text in enumerate(sentences(line))
    ]


def _told(requests: Sequence[Request], voice: Voice, batch_size: int) -> tuple[Paths, list[str]]:
    known, failed = _lines(requests, voice)
    paths: Paths = []
    for start in range(0, len(known), batch_size):
        part = known[start : start + batch_size]
        foretold = voice.model.predict_durations(Text.of([line for _, line in part]))  # type: ignore[union-attr]
        for (request, line), durations_P in zip(part, foretold):
            path_N, _, _ = expand(boundaries(durations_P.tolist(), max(1, round(float(durations_P.sum())))))
            paths.append((request, path_N, len(line.phonemes)))
    return paths, failed


def _lines(requests: Sequence[Request], voice: Voice) -> tuple[list[tuple[Request, Line]], list[str]]:
    known, failed = [], []
    for request in requests:
        try:
            known.append((request, voice.line(request)))
        except ValueError as error:
            failed.append(str(error))
    return known, failed


def _pointed(requests: Sequence[Request], voice: Voice, cfg: DictConfig) -> tuple[Paths, list[str]]:
    known, _ = _lines(requests, voice)
    sampler, watched = instantiate(cfg.sampling), Watched(Nobody())
    manner = Manner(
        cfg.synthesize.max_seconds, sampler.temperature, cfg.synthesize.guidance, cfg.synthesize.batch_size, distributed.device(cfg.device)
    )
    said = list(speak(requests, voice, sampler=sampler, seed=cfg.seed, manner=manner, drafting=watched, rule=load_rule(cfg, voice)))
    failed = {one.request.id: one.reason for one in said if isinstance(one, Failed)}
    return list(_walks(known, watched, failed.keys())), list(failed.values())


def _walks(known: Sequence[tuple[Request, Line]], watched: Watched, failed: object) -> Iterator[tuple[Request, torch.Tensor, int]]:
    """Of those that ended: a pointer that never did is counted as not spoken."""
    for place, (request, line) in enumerate(known):
        if request.id not in failed:  # type: ignore[operator]
            yield request, walked(watched.generated[place].codes_KN[-1].cpu(), len(line.phonemes)), len(line.phonemes)


if __name__ == "__main__":
    main()
