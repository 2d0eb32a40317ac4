#!/usr/bin/env python3
"""How many tokens a second a code language model says: ours in each of its ways against transformers' `generate`; one JSON object.

    tools/bench_engine.py --tokens 500 --rounds 5 --batch 1 8
    tools/bench_engine.py --device cuda --compile > gpu.json && tools/engine_table.py gpu.json

One model of random weights, in our `Transformer` and as transformers' Llama. Every way says the same number of tokens greedily after the
same prompt; ways take turns, and each figure is the median of the rounds. In float32 all must say the same tokens, or there are no figures.
The floor is the time in which the weights can be read: their bytes over what a large matrix-vector product reads in the same rounds (on a
GPU, what a large copy moves, if that is more); with the cache, that of keys and values too, up to each row's end.

On a GPU ours is launched, recorded (`_graphs`), and compiled and recorded (`_compiled`); each way is held against transformers' best in its
own type. There a row may differ where two tokens are equally probable but for rounding. `left_out` tells what cannot be measured, and why.
Ctrl-C leaves out the batch sizes that are not measured yet.
"""

import argparse
import copy
import json
import os
import statistics
import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from functools import partial
from time import perf_counter
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import CompileConfig, LlamaConfig, LlamaForCausalLM

from audiotok.data.costs import machine
from audiotok.nn import fused, graphs, matrix
from audiotok.nn.inference import for_inference
from audiotok.nn.matrix import Matrix, Weights
from audiotok.nn.transformer import ROTARY_BASE, Transformer

PROMPT = 4  # tokens
SPREAD = 0.06  # of the weights: with the usual 0.02 attention hardly matters, and the model soon says the same few tokens for ever
PROBE = {"cpu": (16384, 4096), "cuda": (65536, 4096)}  # of the matrix that measures the bandwidth; a GPU's caches hold much of 256 MiB
AT_ONCE = {"cpu": 1, "cuda": 20}  # products between two looks at the clock: one is over too soon on a GPU
WARM_UP = {"cpu": 1, "cuda": 2}  # the second has the caches where the later ones have them
BATCH = {"cpu": [1, 8], "cuda": [1, 4, 16, 64, 256]}
BYTES = {"fp32": 4, "bf16": 2, "int8": 1}
TIE = 1e-3  # of the logits' standard deviation

KINDS: tuple[Weights, ...] = ("fp32", "bf16", "int8")

Way = Callable[[Tensor], Tensor]  # prompt_BN -> tokens_BN, those said after it


@dataclass(frozen=True)
class CodeLM:
    """Embedding, transformer, head: nothing else, as all else costs the same in every way."""

    embedding_VD: Tensor
    transformer: Any  # ours, or as it speaks
    head: Callable[[Tensor], Tensor]

    @torch.inference_mode()
    def say(self, prompt_BN: Tensor, *, tokens: int) -> Tensor:
        cache, given_BN, said = self.transformer.cache(len(prompt_BN), positions=prompt_BN.shape[1] + tokens), prompt_BN, []
        for _ in range(tokens):
            hidden_BND = self.transformer(F.embedding(given_BN, self.embedding_VD), cache=cache)
            given_BN = self.head(hidden_BND[:, -1:]).argmax(-1)
            said.append(given_BN)
        return torch.cat(said, 1)

    @torch.inference_mode()
    def logits(self, tokens_BN: Tensor) -> Tensor:
        """logits_BNV after each of the tokens, heard at once."""
        return self.head(self.transformer(F.embedding(tokens_BN, self.embedding_VD)))


@dataclass
class Measured:
    """Of each way at one batch size: what it said, its seconds a round, on a GPU the bytes it took at most; and why some are left out."""

    said: dict[str, Tensor] = field(default_factory=dict)
    seconds: dict[str, list[float]] = field(default_factory=dict)
    peaks: dict[str, int] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    ties: dict[str, int] = field(default_factory=dict)
    bandwidths: list[float] = field(default_factory=list)


def main() -> None:
    options = _options()
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    llama = _llama(options).to(options.device)
    ways = (_ways if options.device.type == "cpu" else _gpu_ways)(llama, options)
    ways = {name: way for name, way in ways.items() if options.ways is None or name in options.ways}
    found: dict[str, Any] = {}
    try:
        for rows in options.batch:
            found[f"batch_{rows}"] = _told(_measure(ways, llama, rows, options), llama, rows=rows, tokens=options.tokens)
    except KeyboardInterrupt:
        if not found:
            raise
        print(f"stopped: of {len(options.batch)} batch sizes {len(found)} were measured", file=sys.stderr)
    told = {name: getattr(options, name) for name in ("layers", "width", "heads", "feed_forward", "vocabulary", "tokens", "rounds", "seed")}
    machine_told = machine(options.device) | {"threads": torch.get_num_threads(), "load": os.getloadavg()[0]}
    print(json.dumps({**told, "weights": _weights(llama), "machine": machine_told, **found}, indent=2))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sizes = {"tokens": 500, "rounds": 5, "layers": 12, "width": 768, "heads": 12, "feed-forward": 2048, "vocabulary": 1024, "seed": 0}
    for name, default in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"), help="cpu (where not given), cuda, cuda:1 ...")
    parser.add_argument("--batch", type=int, nargs="+", help=f"where not given {BATCH}")
    parser.add_argument("--threads", type=int, help="PyTorch's own choice where not given")
    parser.add_argument("--ways", nargs="+", help="some of the ways only; all where not given")
    what = "time what torch.compile makes too, of transformers' static cache and on a GPU of ours: minutes more"
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=False, help=what)
    options = parser.parse_args()
    if options.device.type == "cuda" and not torch.cuda.is_available():
        raise SystemExit(f"--device {options.device}: PyTorch sees no CUDA GPU here; without --device the CPU is measured")
    options.batch = options.batch or BATCH[options.device.type]
    return options


def _llama(options: argparse.Namespace) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=options.vocabulary,
        hidden_size=options.width,
        intermediate_size=options.feed_forward,
        num_hidden_layers=options.layers,
        num_attention_heads=options.heads,
        num_key_value_heads=options.heads,
        max_position_embeddings=PROMPT + options.tokens,
        rope_parameters={"rope_type": "default", "rope_theta": ROTARY_BASE},
        rms_norm_eps=torch.finfo(torch.float32).eps,  # nn.RMSNorm's own
        initializer_range=SPREAD,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    return LlamaForCausalLM(config).eval()


def _ours(llama: LlamaForCausalLM) -> Transformer:
    """A Transformer of the same weights; both turn component i with component i + D/2."""
    config = llama.config
    ours = Transformer(
        config.hidden_size,
        layers=config.num_hidden_layers,
        heads=config.num_attention_heads,
        feed_forward=config.intermediate_size,
        dropout=0.0,
    )
    state = {"norm.weight": llama.model.norm.weight}
    for index, layer in enumerate(llama.model.layers):
        attention, feed_forward, block = layer.self_attn, layer.mlp, f"blocks.{index}"
        state[f"{block}.attention_norm.weight"] = layer.input_layernorm.weight
        state[f"{block}.attention.input.weight"] = torch.cat([attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight])
        state[f"{block}.attention.output.weight"] = attention.o_proj.weight
        state[f"{block}.feed_forward_norm.weight"] = layer.post_attention_layernorm.weight
        state[f"{block}.feed_forward.input.weight"] = torch.cat([feed_forward.gate_proj.weight, feed_forward.up_proj.weight])
        state[f"{block}.feed_forward.down.weight"] = feed_forward.down_proj.weight
    ours.load_state_dict(state)
    return ours.to(llama.device).eval()


def _module(llama: LlamaForCausalLM) -> CodeLM:
    head = llama.lm_head.weight.detach()
    return CodeLM(llama.model.embed_tokens.weight.detach(), _ours(llama), lambda hidden_BND: F.linear(hidden_BND, head))


def _ways(llama: LlamaForCausalLM, options: argparse.Namespace) -> dict[str, Way]:
    module, head = _module(llama), llama.lm_head.weight.detach()
    ways = {"ours_module": _saying(module, options.tokens)}
    for kind in KINDS:
        fast = for_inference(module.transformer, weights=kind)
        ways[f"ours_{kind}"] = _saying(CodeLM(module.embedding_VD, fast, Matrix(head, kind)), options.tokens)
    return ways | _theirs(llama, options)


def _gpu_ways(llama: LlamaForCausalLM, options: argparse.Namespace, *, quick: Any = for_inference) -> dict[str, Way]:
    """`quick` makes a transformer that records its steps, as `for_inference` does on a GPU."""
    module, head = _module(llama), llama.lm_head.weight.detach()
    ways = {"ours_module": _saying(module, options.tokens)}
    for kind in KINDS[:2]:
        model = CodeLM(module.embedding_VD, quick(module.transformer, weights=kind, compiled=False), Matrix(head, kind))
        ways[f"ours_{kind}"] = _saying(_launched(model), options.tokens)
        ways[f"ours_{kind}_graphs"] = _recorded(model, options.tokens, by=graphs.plain)
    for kind in KINDS if options.compile else ():
        fast = quick(module.transformer, weights=kind, compiled=True)
        ways[f"ours_{kind}_compiled"] = _recorded(
            CodeLM(module.embedding_VD, fast, matrix.head(head, fast.weights)), options.tokens, by=fused.step
        )
    low = _theirs(copy.deepcopy(llama).bfloat16(), options)
    return ways | _theirs(llama, options) | {f"{name}_bf16": way for name, way in low.items()}


def _saying(model: CodeLM, tokens: int) -> Way:
    return lambda prompt_BN: model.say(prompt_BN, tokens=tokens)


def _launched(model: CodeLM) -> CodeLM:
    """The same weights, with nothing recorded."""
    fast = copy.copy(model.transformer)
    fast.graphs = None
    return replace(model, transformer=fast)


def _recorded(model: CodeLM, tokens: int, *, by: graphs.Way) -> Way:
    """A way that fails where its steps are not recorded as they should be: its name would be a lie."""

    def way(prompt_BN: Tensor) -> Tensor:
        said_BN, made = model.say(prompt_BN, tokens=tokens), model.transformer.graphs
        if not made or made.ways[0] is not by:
            raise RuntimeError("no step was recorded so; a warning above says why")
        return said_BN

    return way


def _theirs(llama: LlamaForCausalLM, options: argparse.Namespace) -> dict[str, Way]:
    ways = {f"transformers_{cache}": _generate(llama, options.tokens, cache_implementation=cache) for cache in ("dynamic", "static")}
    if options.compile:
        # On a GPU its own choice, recorded steps; on a CPU it compiles by itself for accelerators alone.
        on_gpu = llama.device.type == "cuda"
        compiled = CompileConfig() if on_gpu else CompileConfig(mode="default", fullgraph=False)
        compiled._compile_all_devices = not on_gpu  # type: ignore[assignment]
        ways["transformers_static_compiled"] = _generate(llama, options.tokens, cache_implementation="static", compile_config=compiled)
    return ways


def _generate(llama: LlamaForCausalLM, tokens: int, **how: Any) -> Way:
    # `generate` compiles a static cache's step by itself where it can; without that said, the two would be mixed up.
    how = {"disable_compile": "compile_config" not in how} | how

    def way(prompt_BN: Tensor) -> Tensor:
        whole_BN = llama.generate(
            prompt_BN,
            attention_mask=torch.ones_like(prompt_BN),
            do_sample=False,
            min_new_tokens=tokens,
            max_new_tokens=tokens,
            **how,
        )
        return whole_BN[:, prompt_BN.shape[1] :]

    return way


def _measure(ways: dict[str, Way], llama: LlamaForCausalLM, rows: int, options: argparse.Namespace) -> Measured:
    found, device = Measured(), options.device
    prompt_BN = torch.randint(options.vocabulary, (rows, PROMPT), generator=torch.Generator().manual_seed(options.seed)).to(device)
    for name, way in ways.items():
        _warm_up(found, name, partial(way, prompt_BN), device)
    found.ties = _ties(found.said, _module(llama), prompt_BN) if device.type == "cuda" else {}
    _check(found.said, excused=found.ties)
    for index in range(options.rounds):
        found.bandwidths.append(_bandwidth(device))
        for name in found.said:
            found.seconds.setdefault(name, []).append(_seconds(partial(ways[name], prompt_BN), device))
            print(f"batch {rows}, round {index + 1}, {name}: {options.tokens / found.seconds[name][-1]:.1f} steps/s", file=sys.stderr)
    return found


def _warm_up(found: Measured, name: str, work: Callable[[], Tensor], device: torch.device) -> None:
    """What is made at first use is made here. Memory that runs out, or a recording or compiler that fails, leaves a way out."""
    before = _memory(device)
    try:
        for _ in range(WARM_UP[device.type]):
            found.said[name] = work()
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and not any(part in name for part in ("graphs", "compiled")):
            raise
        found.said.pop(name, None)
        found.left_out[name] = str(error).strip().splitlines()[0][:200]
        print(f"{name} is left out: {found.left_out[name]}", file=sys.stderr)
    if device.type == "cuda" and name in found.said:
        found.peaks[name] = torch.cuda.max_memory_allocated(device) - before


def _memory(device: torch.device) -> int:
    """Bytes that are in use on a GPU, from which on the most are counted anew."""
    if device.type != "cuda":
        return 0
    torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.memory_allocated(device)


def _check(said: dict[str, Tensor], *, excused: Collection[str] = ()) -> None:
    exact = _exact(said)
    places = {name: _differs(next(iter(exact.values())), tokens_BN) for name, tokens_BN in exact.items() if name not in excused}
    differing = {name: place for name, place in places.items() if place is not None}
    if differing:
        raise SystemExit(f"in float32 all must say the same tokens; from {next(iter(exact))} differ, first at token: {differing}")


def _exact(said: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tokens_BN for name, tokens_BN in said.items() if _kind(name) == "fp32"}


def _kind(name: str) -> str:
    """The type of a way's weights, float32 where its name tells none."""
    return next((kind for kind in ("bf16", "int8") if kind in name), "fp32")


def _ties(said: dict[str, Tensor], module: CodeLM, prompt_BN: Tensor) -> dict[str, int]:
    """How many rows of each way in float32 differ from the first way's, where all of them do so by a tie."""
    exact = _exact(said)
    first_BN = next(iter(exact.values()), prompt_BN)
    rows = {name: int((first_BN != tokens_BN).any(1).sum()) for name, tokens_BN in exact.items()}
    return {name: count for name, count in rows.items() if count and _tied(module, prompt_BN, first_BN, exact[name])}


def _tied(module: CodeLM, prompt_BN: Tensor, first_BN: Tensor, other_BN: Tensor) -> bool:
    """Whether in each row that differs the model finds the first tokens that do as probable as each other, but for rounding."""
    differs_BN = first_BN != other_BN
    rows_R = differs_BN.any(1).nonzero().flatten()
    place_R1 = differs_BN[rows_R].int().argmax(1, keepdim=True)
    logits_RNV = module.logits(torch.cat([prompt_BN, first_BN], 1)[rows_R])[:, prompt_BN.shape[1] - 1 :]
    logits_RV = logits_RNV[torch.arange(len(rows_R), device=rows_R.device), place_R1[:, 0]]
    one_R, other_R = (logits_RV.gather(1, tokens_BN[rows_R].gather(1, place_R1))[:, 0] for tokens_BN in (first_BN, other_BN))
    return bool(((one_R - other_R).abs() <= TIE * logits_RV.std(1)).all())


def _differs(first_BN: Tensor, second_BN: Tensor) -> int | None:
    """The first place at which any row differs."""
    places = (first_BN != second_BN).any(0).nonzero()
    return int(places[0]) if len(places) else None


def _bandwidth(device: torch.device) -> float:
    """Bytes a second that a matrix-vector product reads, of the quickest of five; on a GPU that a copy reads and writes, if more."""
    matrix_ND = torch.ones(PROBE[device.type], device=device)
    vector_D, copied_ND = matrix_ND[0].clone(), torch.empty_like(matrix_ND) if device.type == "cuda" else None
    rates = [matrix_ND.nbytes / _quickest(lambda: torch.mv(matrix_ND, vector_D), device)]
    if copied_ND is not None:
        rates.append(2 * matrix_ND.nbytes / _quickest(lambda: copied_ND.copy_(matrix_ND), device))
    return max(rates)


def _quickest(work: Callable[[], Any], device: torch.device) -> float:
    times = AT_ONCE[device.type]
    return min(_seconds(lambda: [work() for _ in range(times)], device) for _ in range(5)) / times


def _seconds(work: Callable[[], Any], device: torch.device) -> float:
    """From a device that has nothing left to do to one that has done it all."""
    _wait(device)
    start = perf_counter()
    work()
    _wait(device)
    return perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _weights(llama: LlamaForCausalLM) -> int:
    """How many weights a step reads: all but the embedding, of which it reads a row."""
    return sum(parameter.numel() for name, parameter in llama.named_parameters() if "embed_tokens" not in name)


def _cached(llama: LlamaForCausalLM, tokens: int) -> float:
    """How many numbers of the cache a step reads for a row, on average."""
    config = llama.config
    return 2 * config.num_hidden_layers * config.hidden_size * (PROMPT + (tokens - 1) / 2)


def _told(found: Measured, llama: LlamaForCausalLM, *, rows: int, tokens: int) -> dict[str, Any]:
    speed = {name: rows * tokens / statistics.median(spent) for name, spent in found.seconds.items()}
    bandwidth = statistics.median(found.bandwidths)
    floors = {kind: rows * bandwidth / (_weights(llama) * size) for kind, size in BYTES.items()}
    read = {kind: _weights(llama) * size + rows * _cached(llama, tokens) * max(2, size) for kind, size in BYTES.items()}
    exact = next(iter(_exact(found.said).values()), None)
    lower = [name for name in found.said if _kind(name) != "fp32"]
    told = {
        "tokens_per_second": {name: round(value, 1) for name, value in speed.items()},
        "range": {name: [round(rows * tokens / edge, 1) for edge in (max(spent), min(spent))] for name, spent in found.seconds.items()},
        "times_the_better_of_transformers": _times(speed),
        "bandwidth_gb_per_second": round(bandwidth / 1e9, 1),
        "floor_tokens_per_second": {kind: round(floor, 1) for kind, floor in floors.items()},
        "share_of_floor": {kind: round(speed[f"ours_{kind}"] / floor, 3) for kind, floor in floors.items() if f"ours_{kind}" in speed},
        "share_of_floor_with_cache": {name: round(value * read[_kind(name)] / (rows * bandwidth), 3) for name, value in speed.items()},
        "same_tokens_in_float32": not found.ties,
        "distinct_tokens": None if exact is None else len(exact.unique()),
        "first_token_that_differs": {name: _differs(exact, found.said[name]) for name in lower if exact is not None},
    }
    peaks = {name: round(peak / 2**20, 1) for name, peak in found.peaks.items()}
    extra = {"rows_that_differ_by_a_tie": found.ties, "peak_memory_mb_beside_the_weights": peaks, "left_out": found.left_out}
    return told | {name: value for name, value in extra.items() if value}


def _times(speed: dict[str, float]) -> dict[str, float]:
    """How often each way's speed is that of the best of transformers, in its own type if that was measured, in bf16 for int8."""
    theirs = sorted((value, _kind(name)) for name, value in speed.items() if name.startswith("transformers"))
    best = {kind: value for value, kind in theirs}
    other = {kind: next((best[known] for known in (kind, "bf16", "fp32") if known in best), None) for kind in BYTES}
    return {name: round(value / than, 2) for name, value in speed.items() if (than := other[_kind(name)]) is not None}


if __name__ == "__main__":
    main()
